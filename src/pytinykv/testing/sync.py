"""A cluster for tests, from any thread: `with testing.cluster(stores=3) as c: …`."""

from __future__ import annotations

import atexit
import os
import warnings
import weakref
from collections.abc import Callable, Coroutine
from types import TracebackType
from typing import Any, Final, ParamSpec, Self, TypeVar

from pytinykv.client.sync_client import Client, connect
from pytinykv.lifecycle import LoopThread
from pytinykv.testing.answers import Answer, Order
from pytinykv.testing.backend import HAS_ENDED, NOT_STARTED, ClusterConfig, ClusterError, check_numbers, check_ways
from pytinykv.testing.core import ClusterCore, RegionFacts
from pytinykv.testing.kinds import make_backend

T = TypeVar("T")
P = ParamSpec("P")

CALL_S: Final = 60.0
"""How long a call may take at most; those that wait for something have a shorter deadline of their own."""
STOP_S: Final = 25.0


class Store:
    """A store of a cluster. Its data survives all that can be done to it here."""

    def __init__(self, cluster: Cluster, number: int) -> None:
        self._cluster: Final = cluster
        self.number: Final = number
        """From 1 on: what `Cluster.cut` and the others take."""

    @property
    def id(self) -> int:
        """The id by which the scheduler and clients know it."""
        return self._cluster.core.backend.store_id(self.number)

    @property
    def is_running(self) -> bool:
        """Whether it was started and has not ended; a paused one is running."""
        return self._cluster.core.backend.is_running(self.number)

    def kill(self) -> None:
        """End it at once, as SIGKILL or a power cut does: nothing is told to others, what was not synced is lost."""
        self._cluster.do(self._cluster.core.backend.kill_store, self.number)

    def stop(self) -> None:
        """Stop it in good order: it hands over what it leads."""
        self._cluster.do(self._cluster.core.backend.stop_store, self.number)

    def start(self) -> None:
        """Start it again with its data, at its old address. Raises ClusterError."""
        self._cluster.do(self._cluster.core.backend.start_store, self.number)

    def restart(self) -> None:
        """Stop it, if it runs, and start it again."""
        self.stop()
        self.start()

    def pause(self) -> None:
        """Let it do nothing any more, with its connections open, as SIGSTOP does."""
        self._cluster.do(self._cluster.core.backend.pause_store, self.number)

    def resume(self) -> None:
        """Let it go on."""
        self._cluster.do(self._cluster.core.backend.resume_store, self.number)

    def __repr__(self) -> str:
        return f"<Store {self.number} of {self._cluster!r}, {'running' if self.is_running else 'not running'}>"


class Cluster:
    """A cluster for tests; `testing.cluster` makes one. Usable from any thread, in the process that made it."""

    def __init__(self, config: ClusterConfig, *, processes: bool) -> None:
        config.validate()
        self._config: Final = config
        self._processes: Final = processes
        self._thread: Final = LoopThread("tikv-cluster")
        self._pid: Final = os.getpid()
        self._clients: Final[list[Client]] = []
        """Made by `client`; closed with the cluster."""
        self._core: ClusterCore | None = None
        """Made by the start; stays, also when the cluster has ended."""
        self._has_ended = False
        """Set by `close`: nothing can be done to the cluster any more."""
        self.stores: Final = tuple(Store(self, number) for number in range(1, config.stores + 1))
        """Store 1 is `stores[0]`."""

    @property
    def is_here(self) -> bool:
        """Whether this is the process that has made it, and not one that was forked from it."""
        return os.getpid() == self._pid

    @property
    def core(self) -> ClusterCore:
        """What carries it out; its calls belong into the cluster's own loop. Raises ClusterError: it was not started."""
        if self._core is None:
            raise ClusterError(NOT_STARTED)
        return self._core

    @property
    def address(self) -> str:
        """Where clients find the cluster: its scheduler, "host:port"."""
        return self.core.backend.address

    def client(self, *, timeout: float | None = None) -> Client:
        """Return a client of the cluster, closed with it at the latest. `timeout` as in `pytinykv.connect`."""
        self._check()
        made = connect(self.address, timeout=timeout)
        self._clients.append(made)
        return made

    def start(self) -> Self:
        """Start it; return when it serves, with all its replicas. Raises ClusterError; then nothing is left."""
        if self._core is not None or not self.is_here:
            raise ClusterError("a cluster is started once, by the process that has made it: make another one")
        self._thread.start()
        _open_clusters.add(self)
        try:
            self.do(self._start)
        except BaseException:
            self.close()
            raise
        return self

    async def _start(self) -> None:
        scope = self._thread.scope.child("cluster")
        self._core = ClusterCore(self._config, make_backend(self._config, scope, processes=self._processes), scope)
        await self._core.start()

    def close(self) -> None:
        """End everything, paused or not; nothing is left. Idempotent."""
        if not self.is_here:
            return  # forked: servers and clients are the parent's
        _open_clusters.discard(self)
        self._has_ended = True
        self._close_clients()
        self._thread.stop(STOP_S)

    def _close_clients(self) -> None:
        while self._clients:
            self._clients.pop().close()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # --- what is done to it -------------------------------------------------------------------------------------

    def cut(self, one: int, other: int, *, one_way: bool = False) -> None:
        """Lose what two stores say to each other, or what the first says to the second. Neither is told."""
        check_ways(self._config, one, other)
        self.core.backend.cut(one, other)
        if not one_way:
            self.core.backend.cut(other, one)

    def heal(self, *numbers: int) -> None:
        """Let everything through again, or everything between two stores."""
        check_numbers(self._config, *numbers)
        self.core.backend.heal(*numbers)

    def split(self, key: bytes, *, raw: bool = False) -> None:
        """Split the region that has `key`, so that one begins with it. Nothing if one does. Raises ClusterError.

        Regions then begin at keys of transactions. `raw`: at this very key, which clusters without transactions allow.
        """
        self.do(self.core.split, key, raw=raw)

    def transfer_leader(self, region: int, store: int) -> None:
        """Have the store with number `store` lead a region; return when it does. Raises ClusterError."""
        check_numbers(self._config, store)
        self.do(self.core.transfer_leader, region, store)

    def regions(self) -> list[RegionFacts]:
        """Return all regions in the order of their keys."""
        return self.do(self.core.regions)

    def wait_replicated(self) -> None:
        """Wait until every region has all its peers, up to date, and a leader. Raises ClusterError."""
        self.do(self.core.wait_replicated)

    def clear(self) -> None:
        """Delete all data, raw and transactional. Regions stay as they are."""
        self.do(self.core.clear)

    def reset(self) -> None:
        """Undo what was done to it: clients closed, no answers on demand, healed, all stores running, empty. Regions stay.

        Raises ClusterError, ClientError: it can't be brought back; close it.
        """
        self._close_clients()
        self.do(self.core.reset)

    def answer(self, kind: str, answer: Answer, *, times: int = 1, store: int | None = None) -> Order:
        """Have the next `times` commands of a kind (`RawPut`, `KvPrewrite`) get an answer, from any store or from one.

        The order that is returned counts what was given. Raises ValueError for a kind that there is not.
        """
        if store is not None:
            check_numbers(self._config, store)
        return self.core.backend.orders.add(kind, answer, times, store)

    def clear_answers(self) -> None:
        """Take back the answers that were asked for and not given yet."""
        self.core.backend.orders.clear()

    def log(self) -> str:
        """Return what its servers have logged last, as far as the levels of the loggers of `pytinykv` let them."""
        return self.core.backend.log()

    def do(self, coro_fn: Callable[P, Coroutine[Any, Any, T]], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run a coroutine function of the core in the cluster's loop. Raises ClusterError: it has ended."""
        self._check()
        return self._thread.call(coro_fn, CALL_S, *args, **kwargs)

    def _check(self) -> None:
        """Raise ClusterError where the cluster can't be used."""
        if not self.is_here:
            raise ClusterError(
                f"the cluster belongs to process {self._pid}, which has started it: a forked child has to make its own"
            )
        if self._has_ended:
            raise ClusterError(HAS_ENDED)

    def __repr__(self) -> str:
        where = "not started" if self._core is None else f"at {self.address}"
        return f"<Cluster of {self._config.stores} stores, {where}>"


def cluster(
    stores: int = 3,
    *,
    processes: bool = False,
    port: int = 0,
    replicas: int = 0,
    settings: dict[str, dict[str, Any]] | None = None,
) -> Cluster:
    """Return a cluster, to be started with `with`: a scheduler and `stores` stores on loopback ports.

    Args:
        stores: how many, 1 to 9.
        processes: run each server as a process of its own, with its data on disk; otherwise all run in threads of this
            process, with their data in memory.
        port: that of the scheduler; 0: a free one.
        replicas: how many peers each region has; 0: one on each store, at most three.
        settings: of the components, by the names of the configuration file: `{"scheduler": {…}, "raftstore": {…}}`.

    Raises:
        ValueError: what can't be; before anything is started.
    """
    config = ClusterConfig(stores=stores, port=port, replicas=replicas, settings=settings or {})
    return Cluster(config, processes=processes)


_open_clusters: Final[weakref.WeakSet[Cluster]] = weakref.WeakSet()
"""Those that were started and not closed."""


@atexit.register
def _close_all() -> None:
    """End what was never closed: the interpreter must not end under the servers' threads."""
    for left_open in list(_open_clusters):
        if left_open.is_here:
            warnings.warn(f"{left_open!r} was never closed; use `with`", ResourceWarning, stacklevel=1)
            left_open.close()
