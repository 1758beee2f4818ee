"""The asynchronous twin: `async with testing.aio.cluster(stores=3) as c: await c.stores[0].kill()`."""

from __future__ import annotations

from types import TracebackType
from typing import Any, Final, Self

from pytinykv import aio
from pytinykv.client.async_client import AsyncClient
from pytinykv.lifecycle import Scope
from pytinykv.testing.answers import Answer, Order
from pytinykv.testing.backend import HAS_ENDED, NOT_STARTED, ClusterConfig, ClusterError, check_numbers, check_ways
from pytinykv.testing.core import CLOSE_S, ClusterCore, RegionFacts
from pytinykv.testing.kinds import make_backend

__all__ = ["AsyncCluster", "AsyncStore", "cluster"]


def cluster(
    stores: int = 3,
    *,
    processes: bool = False,
    port: int = 0,
    replicas: int = 0,
    settings: dict[str, dict[str, Any]] | None = None,
) -> AsyncCluster:
    """Return a cluster, to be started with `async with`; see `testing.cluster`."""
    config = ClusterConfig(stores=stores, port=port, replicas=replicas, settings=settings or {})
    return AsyncCluster(config, processes=processes)


class AsyncStore:
    """A store of a cluster; see `testing.Store`."""

    def __init__(self, cluster: AsyncCluster, number: int) -> None:
        self._cluster: Final = cluster
        self.number: Final = number

    @property
    def id(self) -> int:
        return self._cluster.core.backend.store_id(self.number)

    @property
    def is_running(self) -> bool:
        return self._cluster.core.backend.is_running(self.number)

    async def kill(self) -> None:
        await self._cluster.running_core.backend.kill_store(self.number)

    async def stop(self) -> None:
        await self._cluster.running_core.backend.stop_store(self.number)

    async def start(self) -> None:
        await self._cluster.running_core.backend.start_store(self.number)

    async def restart(self) -> None:
        await self.stop()
        await self.start()

    async def pause(self) -> None:
        await self._cluster.running_core.backend.pause_store(self.number)

    async def resume(self) -> None:
        await self._cluster.running_core.backend.resume_store(self.number)


class AsyncCluster:
    """A cluster for tests, for one event loop; see `testing.Cluster`. Its servers have loops of their own."""

    def __init__(self, config: ClusterConfig, *, processes: bool) -> None:
        config.validate()
        self._config: Final = config
        self._processes: Final = processes
        self._scope: Final = Scope("tikv-cluster")
        self._clients: Final[list[AsyncClient]] = []
        """Made by `client`; closed with the cluster."""
        self._core: ClusterCore | None = None
        """Made by the start; stays, also when the cluster has ended."""
        self._has_ended = False
        """Set by `close`: nothing can be done to the cluster any more."""
        self.stores: Final = tuple(AsyncStore(self, number) for number in range(1, config.stores + 1))

    @property
    def core(self) -> ClusterCore:
        """What carries it out. Raises ClusterError: it was not started."""
        if self._core is None:
            raise ClusterError(NOT_STARTED)
        return self._core

    @property
    def running_core(self) -> ClusterCore:
        """As `core`. Raises ClusterError also when the cluster has ended."""
        core = self.core
        if self._has_ended:
            raise ClusterError(HAS_ENDED)
        return core

    @property
    def address(self) -> str:
        return self.core.backend.address

    async def client(self, *, timeout: float | None = None) -> AsyncClient:
        """Return a client of the cluster, closed with it at the latest. `timeout` as in `pytinykv.aio.connect`."""
        made = await aio.connect(self.running_core.backend.address, timeout=timeout)
        self._clients.append(made)
        return made

    async def start(self) -> Self:
        """Start it; return when it serves, with all its replicas. Raises ClusterError; then nothing is left."""
        if self._core is not None:
            raise ClusterError("a cluster is started once: make another one")
        try:
            backend = make_backend(self._config, self._scope, processes=self._processes)
            self._core = ClusterCore(self._config, backend, self._scope)
            await self._core.start()
        except BaseException:
            await self.close()
            raise
        return self

    async def close(self) -> None:
        self._has_ended = True
        while self._clients:
            await self._clients.pop().close()
        await self._scope.stop(CLOSE_S)

    async def __aenter__(self) -> Self:
        return await self.start()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    def cut(self, one: int, other: int, *, one_way: bool = False) -> None:
        check_ways(self._config, one, other)
        self.core.backend.cut(one, other)
        if not one_way:
            self.core.backend.cut(other, one)

    def heal(self, *numbers: int) -> None:
        check_numbers(self._config, *numbers)
        self.core.backend.heal(*numbers)

    async def split(self, key: bytes, *, raw: bool = False) -> None:
        await self.running_core.split(key, raw=raw)

    async def transfer_leader(self, region: int, store: int) -> None:
        check_numbers(self._config, store)
        await self.running_core.transfer_leader(region, store)

    async def regions(self) -> list[RegionFacts]:
        return await self.running_core.regions()

    async def wait_replicated(self) -> None:
        await self.running_core.wait_replicated()

    async def clear(self) -> None:
        await self.running_core.clear()

    async def reset(self) -> None:
        while self._clients:
            await self._clients.pop().close()
        await self.running_core.reset()

    def answer(self, kind: str, answer: Answer, *, times: int = 1, store: int | None = None) -> Order:
        check_numbers(self._config, *(() if store is None else (store,)))
        return self.core.backend.orders.add(kind, answer, times, store)

    def clear_answers(self) -> None:
        self.core.backend.orders.clear()

    def log(self) -> str:
        return self.core.backend.log()
