"""The blocking core of an embedded database: operations run in the caller's thread, to their end, without a loop."""

from __future__ import annotations

import atexit
import warnings
import weakref
from collections.abc import Callable, Coroutine
from functools import cached_property
from typing import TYPE_CHECKING, Any, Final, TypeVar

from pytinykv.client.arguments import checked_timeout
from pytinykv.client.batches import BatchOperation
from pytinykv.client.commands import Command, Effect
from pytinykv.client.config import ClientConfig
from pytinykv.client.core import AsyncParts, Work
from pytinykv.client.raw import AsyncRawClient
from pytinykv.client.txn.manager import TransactionManager
from pytinykv.client.txn.snapshot import AsyncSnapshot
from pytinykv.client.txn.transaction import AsyncTransaction
from pytinykv.embedded.backend import LocalBackend, drive
from pytinykv.embedded.background import Background
from pytinykv.embedded.database import Database
from pytinykv.embedded.interrupts import UNINTERRUPTED

if TYPE_CHECKING:
    from pytinykv.embedded.raw_runner import RawRunner

_T = TypeVar("_T")
_ItemT = TypeVar("_ItemT")


class LocalParts:
    """The operations of a database as coroutines that never suspend. `AsyncParts` for `EmbeddedCore`."""

    cluster_id: Final = 0

    def __init__(self, database: Database, config: ClientConfig) -> None:
        self._database = database
        self._config = config
        self._backend = LocalBackend(database, config)
        self.transactions: Final = TransactionManager(self._backend)

    @cached_property
    def runner(self) -> RawRunner:
        """What runs raw commands; made, and loaded, when they are used first."""
        from pytinykv.embedded.raw_runner import RawRunner

        return RawRunner(self._database, self._config)

    @cached_property
    def raw(self) -> AsyncRawClient:
        runner = self.runner

        async def run_batch(batch: BatchOperation[_ItemT, _T], deadline: float) -> list[_T]:
            return [runner.run(batch.make(batch.items), deadline)] if batch.items else []

        return AsyncRawClient(runner, run_batch)

    def transaction(self, *, pessimistic: bool = False, timeout: float | None = None) -> AsyncTransaction:
        return self.transactions.transaction(pessimistic=pessimistic, timeout=timeout)

    def snapshot(self, ts: int | None = None, *, timeout: float | None = None) -> AsyncSnapshot:
        return self.transactions.snapshot(ts, timeout)

    async def timestamp(self, *, timeout: float | None = None) -> int:
        return self._database.timestamp(self._backend.deadline(checked_timeout(timeout)))


class EmbeddedCore:
    """The `Core` of a database, which it closes."""

    def __init__(self, database: Database, background: Background, config: ClientConfig) -> None:
        self.config = config
        self.client: Final = LocalParts(database, config)
        self._database = database
        self._background = background
        _open_cores.add(self)

    def __repr__(self) -> str:
        return f"embedded database {self._database.name}"

    @property
    def database(self) -> Database:
        """What it runs on; for tools and tests."""
        return self._database

    @property
    def background(self) -> Background:
        """What runs beside; for tools and tests."""
        return self._background

    @property
    def closed(self) -> bool:
        return self._database.closed

    def run_command(self, command: Command[_T], timeout_s: float | None) -> _T:
        runner = self.client.runner
        return runner.run(command, runner.deadline(timeout_s))

    def run(self, work: Work[_T], timeout_s: float | None, effect: Effect = Effect.READ) -> _T:
        self._database.check()
        return drive(work(self.client))

    def run_coroutine(
        self, coroutine: Coroutine[Any, Any, _T], timeout_s: float | None, effect: Effect = Effect.READ
    ) -> _T:
        try:
            self._database.check()
        except BaseException:
            coroutine.close()
            raise
        return drive(coroutine)

    def run_plain(self, function: Callable[[AsyncParts], _T]) -> _T:
        self._database.check()
        return function(self.client)

    def close(self) -> None:
        """See `Core`. Raises `ClientError` if what was committed last may not be durable, with relaxed durability."""
        database = self._database
        _open_cores.discard(self)
        with UNINTERRUPTED:  # a second call would not begin again
            if not database.begin_close():
                return
            drive(self.client.transactions.abandon_all(0.0))
            try:
                self._background.stop()
            finally:
                self.client.transactions.warn_left_open()

    def abandon(self) -> None:
        _open_cores.discard(self)
        if self._database.begin_close():
            self._background.request_stop()


_open_cores: weakref.WeakSet[EmbeddedCore] = weakref.WeakSet()


@atexit.register
def _close_all() -> None:
    for core in list(_open_cores):
        if core.database.origin.is_here:
            warnings.warn(f"{core!r} was never closed", ResourceWarning, stacklevel=1)
            core.close()
