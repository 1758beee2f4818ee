"""The asynchronous face of an embedded database: what may block runs in a thread of its scope.

task ──▶ read       in the loop's thread: microseconds, and an engine's read keeps the interpreter's lock anyway
──▶ commit     queued; the thread "disk" leads the groups: tasks that commit at the same time share a sync
──▶ lock       asked for at once; the answer comes from whichever thread frees the lock
"""

from __future__ import annotations

import asyncio
import logging
import os
import threading
import time
import warnings
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Final, Self, TypeVar

from pytinykv.client.arguments import checked_timeout
from pytinykv.client.async_base import AsyncBase
from pytinykv.client.batches import BatchOperation
from pytinykv.client.commands import Command
from pytinykv.client.config import ClientConfig
from pytinykv.client.errors import (
    ClientClosedError,
    DeadlineExceededError,
    LockTimeoutError,
    UndeterminedError,
    WriteConflictError,
)
from pytinykv.client.origin import LoopOrigin
from pytinykv.client.raw import AsyncRawClient
from pytinykv.client.txn.manager import TransactionManager
from pytinykv.client.txn.records import BufferedWrite, Txn
from pytinykv.embedded.backend import BlockingPauses, LocalBackend
from pytinykv.embedded.background import Background
from pytinykv.embedded.database import GRACE_S, LOCKED_PAUSE_S, LOCKED_PAUSE_S_MAX, Database
from pytinykv.embedded.groups import Entry
from pytinykv.embedded.opening import HISTORY_S, Durability, checked_config, open_parts
from pytinykv.embedded.oracle import LocalTxn
from pytinykv.embedded.raw_runner import RawRunner
from pytinykv.embedded.refusals import CLOSED
from pytinykv.lifecycle import STOP_DEADLINE_S, Scope, StopReport, ThreadWorker, result_of

_log = logging.getLogger(__name__)

NOW: Final = 0.0
"""The deadline of what must not wait."""

_T = TypeVar("_T")
_ItemT = TypeVar("_ItemT")


class _Loop:
    """The event loop of a database, and its thread for what blocks."""

    def __init__(self, scope: Scope) -> None:
        self.origin: Final = LoopOrigin(is_of_database=True)
        self.worker: Final = ThreadWorker(scope, "disk")

    def check(self, database: Database) -> None:
        database.check()
        self.origin.check()

    async def blocking(self, work: Callable[[], _T]) -> _T:
        """Run what may block."""
        return await result_of(self.worker, work)

    def resolver(self) -> tuple[asyncio.Future[None], Callable[[], None]]:
        """Return a future, and what resolves it from any thread."""
        loop = self.origin.loop
        future: asyncio.Future[None] = loop.create_future()

        def resolve() -> None:
            if not future.done():
                future.set_result(None)

        def from_any_thread() -> None:
            try:
                loop.call_soon_threadsafe(resolve)
            except RuntimeError:
                _log.debug("an answer came after the loop was closed")

        return future, from_any_thread

    async def durable(self, database: Database, work: Callable[[], _T], deadline: float) -> _T:
        """Run work in a group of commits; as `GroupCommit.run`."""
        future, resolve = self.resolver()
        entry: Entry[_T]
        entry, leads = database.groups.enqueue(work, lambda _: resolve())
        if leads:
            self.worker.submit(database.groups.lead, _led)
        try:
            async with asyncio.timeout(max(0.0, deadline - time.monotonic())):
                await future
        except TimeoutError:
            if database.groups.withdraw(entry):
                raise DeadlineExceededError(
                    "the commit's turn did not come before its deadline; nothing was written"
                ) from None
            if not entry.is_finished:
                raise UndeterminedError(
                    "the disk did not say until the deadline that the commit is durable: its fate is unknown"
                ) from None
        except BaseException:
            database.groups.withdraw(entry)
            raise
        return entry.result()


def _led(outcome: BaseException | None) -> None:
    if outcome is not None:
        _log.error("commits have failed: %r", outcome)


def _abandoned(outcome: BaseException | None) -> None:
    if outcome is not None:
        _log.error("a database that was never closed did not close in order: %r", outcome)


class AsyncPauses:
    """The pauses of one `run`."""

    def __init__(self, config: ClientConfig, deadline: float) -> None:
        self._pauses = BlockingPauses(config, deadline)

    async def pause(self) -> None:
        await asyncio.sleep(self._pauses.next_s())


class AsyncLocalBackend(LocalBackend):
    """See `TransactionBackend`. Belongs to the loop."""

    def __init__(self, database: Database, config: ClientConfig, loop: _Loop) -> None:
        super().__init__(database, config)
        self._loop = loop

    def check(self) -> None:
        self._loop.check(self.database)

    def pauses(self, deadline: float) -> AsyncPauses:
        return AsyncPauses(self.config, deadline)

    def mutex(self) -> asyncio.Lock:
        return asyncio.Lock()

    async def begin(self, deadline: float, *, is_pessimistic: bool) -> LocalTxn:
        view = self.database.oracle.begin()
        if view is not None:
            return LocalTxn(view, is_pessimistic=is_pessimistic)
        return await self._loop.blocking(lambda: self.database.begin(deadline, is_pessimistic=is_pessimistic))

    async def timestamp(self, deadline: float) -> int:
        ts = self.database.oracle.timestamp()
        return await self._loop.blocking(lambda: self.database.timestamp(deadline)) if ts is None else ts

    async def commit(self, txn: Txn, writes: Sequence[BufferedWrite], deadline: float) -> int:
        assert isinstance(txn, LocalTxn)
        work = self.database.commit_work(txn, writes)
        pause_s = LOCKED_PAUSE_S
        try:
            while True:
                self.database.check()
                try:
                    return await self._loop.durable(self.database, work, deadline)
                except LockTimeoutError:
                    left_s = deadline - time.monotonic()
                    if left_s <= pause_s:
                        raise
                    await asyncio.sleep(pause_s)
                    pause_s = min(2 * pause_s, LOCKED_PAUSE_S_MAX)
        finally:
            self.database.end(txn)

    async def lock(
        self, txn: Txn, keys: Sequence[bytes], deadline: float, *, at_snapshot: bool, must_not_exist: bool, read: bool
    ) -> dict[bytes, bytes | None]:
        assert isinstance(txn, LocalTxn)
        database = self.database
        while True:
            for_update_ts = txn.start_ts if at_snapshot else await self.timestamp(deadline)
            future, resolve = self._loop.resolver()
            answer = database.begin_lock(
                txn,
                keys,
                deadline,
                for_update_ts=for_update_ts,
                must_not_exist=must_not_exist,
                read=read,
                on_done=resolve,
            )
            try:
                async with asyncio.timeout(max(0.0, deadline - time.monotonic()) + GRACE_S):
                    await future
                return database.end_lock(txn, keys, for_update_ts, answer)
            except WriteConflictError as error:
                if at_snapshot:
                    raise
                conflict = error
            except BaseException:
                database.give_up_lock(txn, keys, answer)
                raise
            await self._loop.blocking(partial(database.wait_visible, conflict, deadline))


class AsyncRawRunner(RawRunner):
    """As `RawRunner`; belongs to the loop."""

    def __init__(self, database: Database, config: ClientConfig, loop: _Loop) -> None:
        super().__init__(database, config)
        self._loop = loop

    def check(self) -> None:
        self._loop.check(self.database)

    async def execute(self, command: Command[_T], deadline: float) -> _T:
        write = self.write_of(command)
        if write is not None:
            result: _T = await self._loop.durable(self.database, write, deadline)
            return result
        if not self.pending:
            try:
                return self.read(command, NOW)
            except DeadlineExceededError:
                _log.debug("a write has come in between")
        return await self._loop.blocking(lambda: self.read(command, deadline))


class AsyncDatabase(AsyncBase):
    """An embedded database for one event loop; `pytinykv.aio.open` makes one.

        async with pytinykv.aio.open("data") as db:
            async with db.transaction() as txn:
                await txn.put(b"k", b"v")

    Entering (or awaiting) it opens the database; leaving closes it. It is used like an `AsyncClient`.
    """

    def __init__(
        self,
        path: str | os.PathLike[str] | None,
        *,
        durability: Durability,
        history_s: float,
        config: ClientConfig,
    ) -> None:
        """Make one within a running event loop; nothing is opened yet. Raises `WrongEventLoopError` without one."""
        self._path = path
        self._open_parts = partial(open_parts, path, durability=durability, history_s=history_s)
        self._config = config
        self._scope = Scope("embedded")
        self._origin = LoopOrigin(is_of_database=True)
        self._parts: _Parts | None = None
        """Set once, when it is open."""
        self._opening: _Opening | None = None
        """The latest attempt to open it; None once it is open."""
        self._closed = False
        """Set by `close`; never unset."""

    def __repr__(self) -> str:
        return f"<AsyncDatabase {self._path!r}, {'closed' if self._closed else 'open' if self._parts else 'not open'}>"

    @property
    def raw(self) -> AsyncRawClient:
        return self._opened().raw

    @property
    def transactions(self) -> TransactionManager:
        return self._opened().transactions

    @property
    def cluster_id(self) -> int:
        return 0

    def _opened(self) -> _Parts:
        if self._parts is None:
            raise ClientClosedError("the database is not open: await it, or use it in `async with`")
        return self._parts

    async def timestamp(self, *, timeout: float | None = None) -> int:
        backend = self._opened().backend
        return await backend.timestamp(backend.deadline(checked_timeout(timeout)))

    async def open(self, timeout: float | None = None) -> Self:
        """Open the database, if that was not done before. Raises what `pytinykv.open` does."""
        self._origin.check()
        if self._closed:
            raise ClientClosedError(CLOSED)
        if self._parts is None:
            loop = _Loop(self._scope)
            opening = self._opening = _Opening(self._open_parts, self._config, loop)
            try:
                loop.worker.submit(opening, opening.on_done)
                parts = await opening.outcome
                if self._closed:
                    raise ClientClosedError(CLOSED)
            except BaseException:
                unused = opening.give_up()
                if unused is not None and unused.database.begin_close():
                    await loop.blocking(unused.close)
                raise
            self._parts, self._opening = parts, None
        return self

    async def close(self) -> StopReport:
        """Resolve all pending calls with `ClientClosedError`, and close the database. Any number of times."""
        self._closed = True
        if not self._origin.is_here:  # forked: it is the parent's
            return StopReport(self._scope.name, 0.0, ())
        self._origin.check()
        parts = self._parts
        if parts is None and self._opening is not None:
            parts = self._opening.give_up()
        if parts is not None and parts.database.begin_close():
            await parts.transactions.abandon_all(0.0)
            try:
                await parts.loop.blocking(parts.close)
            finally:
                report = await self._scope.stop(STOP_DEADLINE_S)
                parts.transactions.warn_left_open()
            return report
        return await self._scope.stop(STOP_DEADLINE_S)

    def __del__(self, warn: Any = warnings.warn) -> None:
        super().__del__(warn)
        parts: _Parts | None = getattr(self, "_parts", None)
        if parts is not None:
            parts.abandon()


class _Parts:
    """What an open database consists of."""

    def __init__(self, database: Database, background: Background, config: ClientConfig, loop: _Loop) -> None:
        self.database: Final = database
        self.loop: Final = loop
        self.backend: Final = AsyncLocalBackend(database, config, loop)
        self.transactions: Final = TransactionManager(self.backend)
        self._background = background
        runner = AsyncRawRunner(database, config, loop)

        async def run_batch(batch: BatchOperation[_ItemT, _T], deadline: float) -> list[_T]:
            return [await runner.execute(batch.make(batch.items), deadline)] if batch.items else []

        self.raw: Final = AsyncRawClient(runner, run_batch)

    def close(self) -> None:
        """End everything. Blocks. Raises `ClientError`."""
        self.database.refuse_all()  # here, where what has queued up is led
        self._background.stop()

    def abandon(self) -> None:
        """Begin to close, without waiting, unless that was done: for finalizers, which may run in any thread."""
        if self.database.begin_close():
            self.loop.worker.submit(self.close, _abandoned)
            self.loop.worker.finish()


class _Opening:
    """An attempt to open a database, in a thread; its caller may give it up at any time.

    Without a reference to the `AsyncDatabase`, which the thread might hold longer than its owner.
    """

    def __init__(
        self, open_parts: Callable[[], tuple[Database, Background]], config: ClientConfig, loop: _Loop
    ) -> None:
        self._open_parts = open_parts
        self._config = config
        self._loop = loop
        self._mutex = threading.Lock()
        """Guards what follows."""
        self._parts: _Parts | None = None
        """What was opened, until its caller has it, or has given it up."""
        self._is_given_up = False
        """Set once: what is opened from then on is closed again by the thread."""
        self.outcome: asyncio.Future[_Parts] = loop.origin.loop.create_future()
        """Resolved when it is open, was given up, or has failed."""

    def __call__(self) -> _Parts:
        """Open it. Blocks. Raises what `pytinykv.open` does, and `ClientClosedError` if it was given up meanwhile."""
        parts = _Parts(*self._open_parts(), self._config, self._loop)
        with self._mutex:
            if not self._is_given_up:
                self._parts = parts
                return parts
        parts.database.begin_close()
        parts.close()
        raise ClientClosedError(CLOSED)

    def on_done(self, result: _Parts | BaseException) -> None:
        """Take what the thread has come to. In the loop."""
        if self.outcome.done():
            return
        if isinstance(result, BaseException):
            self.outcome.set_exception(result)
        else:
            self.outcome.set_result(result)

    def give_up(self) -> _Parts | None:
        """Return what was opened so far, for the caller to close; None, also the second time, if that is not its duty."""
        with self._mutex:
            self._is_given_up = True
            parts, self._parts = self._parts, None
        self.on_done(ClientClosedError(CLOSED))  # the thread may have been stopped before it began
        return parts


def open_async(
    path: str | os.PathLike[str] | None,
    *,
    durability: Durability = "full",
    history_s: float = HISTORY_S,
    timeout: float | None = None,
    config: ClientConfig | None = None,
) -> AsyncDatabase:
    """Return the database in the directory `path`; None keeps everything in memory. Use it in `async with`, or await it.

    See `pytinykv.open` for the arguments and for what opening it raises; here it raises `InvalidArgumentError`, and
    `WrongEventLoopError` without a running event loop.
    """
    config = checked_config(config, timeout)
    return AsyncDatabase(path, durability=durability, history_s=history_s, config=config)
