"""A cluster in threads of this process: starts in a fraction of a second, keeps all data in memory.

Left out: the servers' status ports and signals; and what a disk does, slowly or wrongly (the simulator has that).
"""

from __future__ import annotations

import itertools
import logging
from collections.abc import Awaitable
from typing import TYPE_CHECKING, Any, Final, TypeVar

import msgspec

from pytinykv.client.errors import ClientError
from pytinykv.lifecycle import LifecycleError
from pytinykv.lifecycle.temporary import TemporaryDirectory
from pytinykv.raftstore import RaftStoreConfig
from pytinykv.scheduler import SchedulerConfig
from pytinykv.testing.answers import Orders
from pytinykv.testing.backend import PREFIX, USUAL_SCHEDULER, ClusterConfig, ClusterError
from pytinykv.testing.network import Cuts
from pytinykv.testing.ports import HOST, free_address
from pytinykv.testing.server_log import ServerLog
from pytinykv.testing.servers import SchedulerThread, StoreThread
from pytinykv.transport.address import AddressError

if TYPE_CHECKING:
    from pytinykv.lifecycle import Scope

T = TypeVar("T")

_log = logging.getLogger(__name__)

_PORT_TRIES: Final = 5
"""How often other ports are tried: another process may take one between the look and the start."""
_SCHEDULER: Final = USUAL_SCHEDULER | {"tick_interval_s": 0.05, "leader_rest_s": 0.0}
_RAFTSTORE: Final = {"tick_s": 0.05}
_numbers: Final = itertools.count(1)
"""Numbers the clusters of this process, for the names of their threads."""


class InProcess:
    """A `Backend` of server threads."""

    def __init__(self, config: ClusterConfig, scope: Scope) -> None:
        self._config = config
        self._scope = scope
        self._name = f"tikv-{next(_numbers)}"
        self.orders = Orders()
        self._cuts = Cuts()
        self._directory: TemporaryDirectory | None = None
        """Where snapshots travel; from the start to the end."""
        self._scheduler: SchedulerThread | None = None
        """Made by the start; stays."""
        self._stores: dict[int, StoreThread] = {}
        """By number. Each is put there by its start."""
        self._log = ServerLog(f"{self._name}/")

    @property
    def address(self) -> str:
        return "" if self._scheduler is None else self._scheduler.address

    async def start(self) -> None:
        try:
            scheduler = _settings(SchedulerConfig, _SCHEDULER, self._config.settings.get("scheduler", {}))
            scheduler = msgspec.structs.replace(scheduler, max_replicas=self._config.peers)
            raftstore = _settings(RaftStoreConfig, _RAFTSTORE, self._config.settings.get("raftstore", {}))
        except (ValueError, TypeError) as error:
            raise ClusterError(f"settings: {error}") from error
        try:
            self._directory = TemporaryDirectory.make(PREFIX)
        except OSError as error:
            raise ClusterError(f"can't make a temporary directory: {error}") from error
        self._log.open()
        try:
            await self._start_scheduler(scheduler)
            numbers = range(1, self._config.stores + 1)
            for task in [self._scope.start(f"start-store-{one}", self._start_new, one, raftstore) for one in numbers]:
                await task.wait()
        except (LifecycleError, ClientError) as error:
            raise ClusterError(f"the cluster could not start: {error}") from error

    async def _start_scheduler(self, config: SchedulerConfig) -> None:
        if self._config.port:
            self._scheduler = SchedulerThread(f"{self._name}/scheduler", f"{HOST}:{self._config.port}", config)
            await self._scheduler.start()
            return
        for tries_left in reversed(range(_PORT_TRIES)):
            self._scheduler = SchedulerThread(f"{self._name}/scheduler", free_address(), config)
            try:
                await self._scheduler.start()
            except AddressError:
                if not tries_left:
                    raise
            else:
                return

    async def _start_new(self, number: int, config: RaftStoreConfig) -> None:
        assert self._directory is not None
        for tries_left in reversed(range(_PORT_TRIES)):
            store = self._stores[number] = StoreThread(
                f"{self._name}/store-{number}",
                number,
                (free_address(), free_address()),
                scheduler=self.address,
                snapshots=self._directory.path / f"store-{number}",
                config=config,
                cuts=self._cuts,
                orders=self.orders,
            )
            try:
                await store.start()
            except AddressError:
                if not tries_left:
                    raise
            else:
                return

    async def close(self) -> None:
        endings = [(store.name, store.begin_kill()) for store in self._stores.values()]
        for name, ending in endings:
            await _end_of(name, ending)
        if self._scheduler is not None:  # behind its clients
            await _end_of(self._scheduler.name, self._scheduler.begin_kill())
        self._log.close()
        if self._directory is not None:
            self._directory.close()

    def store_id(self, number: int) -> int:
        return self._stores[number].store_id

    def store_address(self, number: int) -> str:
        return self._stores[number].address

    def is_running(self, number: int) -> bool:
        return self._stores[number].is_running

    def log(self) -> str:
        return self._log.text()

    async def start_store(self, number: int) -> None:
        try:
            await self._stores[number].start()
        except (LifecycleError, ClientError) as error:
            raise ClusterError(f"store {number} could not start: {error}") from error

    async def stop_store(self, number: int) -> None:
        await self._stores[number].stop()

    async def kill_store(self, number: int) -> None:
        await self._stores[number].kill()

    async def pause_store(self, number: int) -> None:
        await self._stores[number].pause()

    async def resume_store(self, number: int) -> None:
        self._stores[number].resume()

    def cut(self, sender: int, receiver: int) -> None:
        self._cuts.cut(sender, receiver)

    def heal(self, *numbers: int) -> None:
        self._cuts.heal(*numbers)


async def _end_of(name: str, ending: Awaitable[object]) -> None:
    """Wait for the end of a server; one that does not end must not keep the others."""
    try:
        await ending
    except LifecycleError as error:
        _log.error("%s was left behind: %s", name, error)


def _settings(kind: type[T], usual: dict[str, Any], wanted: dict[str, object]) -> T:
    known = getattr(kind, "__struct_fields__", None) or tuple(getattr(kind, "__dataclass_fields__", ()))
    for name in wanted:
        if name not in known:
            raise ValueError(f"there is no setting {name!r}; there are {', '.join(sorted(known))}")
    config = msgspec.convert(usual | wanted, kind)
    config.validate()  # type: ignore[attr-defined]  # both have it
    return config
