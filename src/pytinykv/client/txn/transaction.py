"""Transactions (asynchronous face): reads of one moment, writes that happen together or not at all.

    ACTIVE ──commit──► COMMITTING ──► COMMITTED        the writes are there, for all clients, at `commit_ts`
       │                    ├───────► FAILED           nothing of it is, nor will be
       │                    └───────► UNDETERMINED     one or the other
       ├──rollback──► ROLLED_BACK
       └──its client closes──► ABANDONED

Writes stay in the client until the commit. An optimistic transaction finds out there whether another one was first; a
pessimistic one locks each key when it writes it, and waits then.

Who may use it when: tasks (or threads, in the synchronous face) may share a transaction, and their reads and writes may be
under way at once. Commit and rollback end it for all of them: `commit` refuses while another call is under way, since it
could not be told whether that still belongs to it; after either, every call raises `TransactionClosedError`.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from contextlib import AbstractAsyncContextManager, nullcontext
from types import TracebackType
from typing import Any, Final, Self

from pytinykv.client.arguments import checked_key, checked_keys, checked_value
from pytinykv.client.errors import ClientError, ConcurrentUseError, TransactionAbortedError, TransactionClosedError
from pytinykv.client.scan_request import ScanRequest
from pytinykv.client.scanning import Pages
from pytinykv.client.txn.backend import TransactionBackend
from pytinykv.client.txn.buffer import WriteBuffer
from pytinykv.client.txn.merging import MergingPages
from pytinykv.client.txn.read_set import ReadSet
from pytinykv.client.txn.reads import AsyncReads
from pytinykv.client.txn.records import LOCK, BufferedWrite, Phase, Progress, SnapshotView, Txn

_ACTIVE: Final = Phase.ACTIVE
_COMMITTING: Final = Phase.COMMITTING
_COMMITTED: Final = Phase.COMMITTED
"""Looked up once: CPython 3.11 takes as long to look a member of an enumeration up as to call a function."""
_NOT_BEGUN: Final = SnapshotView(0)
"""In place of the snapshot of a transaction that has not begun; nothing is read at it."""
_UNUSED_MUTEX: Final[AbstractAsyncContextManager[None]] = nullcontext()
"""An optimistic transaction takes no locks."""
_NOTHING_READ: Final = ReadSet()


class AsyncTransaction(AsyncReads):
    """One transaction. `AsyncClient.transaction` makes one; enter it, or await it, to begin.

        async with db.transaction() as txn:         # commits at the end of the block, rolls back on an exception
            balance = int(await txn.get(b"alice"))
            await txn.put(b"alice", str(balance - 10).encode())

    It reads the data as of the moment it began, with its own writes on top, and promises snapshot isolation: of two
    transactions at the same time that write one key, only one commits, and the other raises `WriteConflictError`. (Two that
    read what the other writes may both commit, "write skew": `lock` what must not change.) `db.run` repeats a function on
    conflicts.

    A pessimistic transaction locks keys as it writes them, and waits for those who hold them: for hot keys. `get_for_update`
    and `lock` see the newest state there, later than the snapshot. What it has read from the snapshot it can only write if
    no other transaction has written it since.

    `timeout` of each call is in seconds, with all its retries; None means that of the transaction, or the client's default.
    Calls raise what `AsyncRawClient`'s raise, and `TransactionError`.
    """

    _noun = "transaction"

    def __init__(self, backend: TransactionBackend, *, pessimistic: bool, timeout: float | None) -> None:
        super().__init__(backend, timeout)
        self._is_pessimistic = pessimistic
        config = backend.config
        self._buffer = WriteBuffer(
            is_pessimistic=pessimistic, keys_max=config.transaction_keys_max, bytes_max=config.transaction_bytes_max
        )
        self._value_bytes_max = config.value_bytes_max
        self._progress = Progress()
        """Its phase moves as the module's text draws it: `commit`, `rollback` and `abandon` move it."""
        self._txn: Txn | None = None
        """Set once, when it has begun."""
        self._view = _NOT_BEGUN
        """The snapshot that it reads."""
        self._commit_ts: int | None = None
        """Set once, when the commit has succeeded with something to write."""
        self._calls = 0
        """Calls under way that belong to it."""
        self._locking = backend.mutex() if pessimistic else _UNUSED_MUTEX
        """One call at a time takes locks: what a failed one releases must not be another's."""
        self._read = ReadSet() if pessimistic else _NOTHING_READ
        """What a pessimistic transaction has read from its snapshot; an optimistic one adds nothing."""

    def __repr__(self) -> str:
        kind = "pessimistic" if self._is_pessimistic else "optimistic"
        begun = f"begun at {self._txn.start_ts}" if self._txn is not None else "not begun"
        return f"<{type(self).__name__}, {kind}, {begun}, {self._progress.phase.value}, {len(self._buffer)} writes>"

    @property
    def start_ts(self) -> int:
        """The timestamp of its snapshot, and its identity in the cluster."""
        return self._begun().start_ts

    @property
    def commit_ts(self) -> int | None:
        """When it was committed; None before that, and if it had nothing to write."""
        return self._commit_ts

    @property
    def phase(self) -> Phase:
        """How far it is."""
        return self._progress.phase

    @property
    def is_active(self) -> bool:
        """Whether it can still be used."""
        return self._progress.phase is _ACTIVE

    @property
    def view(self) -> SnapshotView:
        """What it reads, for faces that read by themselves."""
        return self._begun().view

    @property
    def buffered(self) -> WriteBuffer:
        """What it has written so far; the synchronous face writes there without a detour through the loop."""
        return self._buffer

    # --- reading ------------------------------------------------------------------------------------------------

    async def get(self, key: bytes, *, timeout: float | None = None) -> bytes | None:
        """Return the value of `key`; None if it does not exist."""
        key = checked_key(key)
        with _Call(self):
            is_own, value = self._buffer.find(key)
            if is_own:
                return value
            if self._is_pessimistic:
                self._read.add(key)
            return await self._backend.get(self._view, key, self._deadline(timeout))

    async def get_many(self, keys: Iterable[bytes], *, timeout: float | None = None) -> dict[bytes, bytes]:
        """Return the values of those `keys` that exist, in ascending order of keys."""
        several = checked_keys(keys)
        with _Call(self):
            own = {key: value for key in several for is_own, value in [self._buffer.find(key)] if is_own}
            others = [key for key in several if key not in own]
            found: dict[bytes, bytes] = {}
            if others:
                if self._is_pessimistic:
                    self._read.update(others)
                found = await self._backend.get_many(self._view, others, self._deadline(timeout))
            if own:
                found.update((key, value) for key, value in own.items() if value is not None)
                return dict(sorted(found.items()))
            return found

    def pages(self, scan: ScanRequest) -> Pages:
        self._refuse()
        own = self._buffer.within(scan.range_) if scan.range_ is not None else []
        if self._is_pessimistic and scan.range_ is not None:
            self._read.add_range(scan.range_)
        hidden = sum(value is None for _, value in own)
        limit = None if scan.limit is None else scan.limit + hidden
        pages = self._backend.pages(self._view, scan._replace(limit=limit))
        return MergingPages(pages, own, scan, self._refuse)

    async def get_for_update(self, key: bytes, *, timeout: float | None = None) -> bytes | None:
        """Return the value of `key`, and make sure that no other transaction writes it before this one ends.

        A pessimistic transaction waits for the lock and returns the newest value. An optimistic one returns that of its
        snapshot, and fails to commit if it was written since.
        """
        key = checked_key(key)
        if not self._is_pessimistic:
            value = await self.get(key, timeout=timeout)
            self._buffer.lock(key)
            return value
        with _Call(self):
            is_own, own = self._buffer.find(key)
            values = await self._lock([key], self._deadline(timeout), at_snapshot=False, read=True)
            return own if is_own else values[key]

    # --- writing ------------------------------------------------------------------------------------------------

    async def put(self, key: bytes, value: bytes, *, timeout: float | None = None) -> None:
        """Set `key` to `value`."""
        key, value = checked_key(key), checked_value(value, self._value_bytes_max)
        with _Call(self):
            if self._is_pessimistic:
                await self._lock([key], self._deadline(timeout))
            self._buffer.put(key, value)

    async def insert(self, key: bytes, value: bytes, *, timeout: float | None = None) -> None:
        """Set `key`, which must not exist yet, to `value`.

        Raises `KeyExistsError` if it does: a pessimistic transaction here, an optimistic one when it commits.
        """
        key, value = checked_key(key), checked_value(value, self._value_bytes_max)
        with _Call(self):
            if self._is_pessimistic:
                await self._lock_new(key, self._deadline(timeout))
            self._buffer.insert(key, value)

    async def delete(self, key: bytes, *, timeout: float | None = None) -> None:
        """Remove `key`, whether it exists or not."""
        key = checked_key(key)
        with _Call(self):
            if self._is_pessimistic:
                await self._lock([key], self._deadline(timeout))
            self._buffer.delete(key)

    async def lock(self, *keys: bytes, timeout: float | None = None) -> None:
        """Make sure that no other transaction writes `keys` before this one ends, all of them or none.

        A pessimistic transaction waits for the locks; if it has read one of the keys, it raises `WriteConflictError` when one
        was written since it began. An optimistic one fails to commit then.
        """
        several = checked_keys(keys)
        with _Call(self):
            if self._is_pessimistic:
                if several:
                    # In one call for all of them, or a failure of the second one would leave the locks of the first.
                    locked = self._begun().locked
                    was_read = any(self._read.holds(key) for key in several if key not in locked)
                    await self._lock(several, self._deadline(timeout), at_snapshot=was_read)
                return
            for key in several:
                self._buffer.lock(key)

    async def _lock(
        self, keys: list[bytes], deadline: float, *, at_snapshot: bool | None = None, read: bool = False
    ) -> dict[bytes, bytes | None]:
        """Take pessimistic locks on keys that are not held yet; with `read`, return the newest values of all of them.

        `at_snapshot` None: for those that were read there, so that what is written is based on what was read.
        """
        txn = self._begun()
        values: dict[bytes, bytes | None] = {}
        async with self._locking:
            self._refuse_lost(txn)
            wanted = [key for key in keys if key not in txn.locked]
            strict = [key for key in wanted if (self._read.holds(key) if at_snapshot is None else at_snapshot)]
            for several, is_strict in ((strict, True), ([key for key in wanted if key not in set(strict)], False)):
                if several:
                    values |= await self._take_locks(
                        txn, several, deadline, at_snapshot=is_strict, must_not_exist=False, read=read
                    )
        if read and (held := [key for key in keys if key not in values]):
            newest = SnapshotView(txn.for_update_ts)
            found = await self._backend.get_many(newest, held, deadline)
            values.update((key, found.get(key)) for key in held)
        return values

    async def _take_locks(
        self, txn: Txn, keys: list[bytes], deadline: float, *, at_snapshot: bool, must_not_exist: bool, read: bool
    ) -> dict[bytes, bytes | None]:
        """See `TransactionBackend.lock`. A transaction that was rolled back meanwhile gives the locks back."""
        self._refuse_closed()
        values = await self._backend.lock(
            txn, keys, deadline, at_snapshot=at_snapshot, must_not_exist=must_not_exist, read=read
        )
        if self._progress.phase is not _ACTIVE:
            await self._backend.rollback(txn, deadline)
            raise TransactionClosedError(self._progress.why_closed())
        return values

    async def _lock_new(self, key: bytes, deadline: float) -> None:
        """Take the pessimistic lock of a key that must not exist."""
        txn = self._begun()
        is_own, _ = self._buffer.find(key)
        if is_own:
            return  # the buffer knows
        async with self._locking:
            self._refuse_lost(txn)
            if key not in txn.locked:
                at_snapshot = self._read.holds(key)
                await self._take_locks(txn, [key], deadline, at_snapshot=at_snapshot, must_not_exist=True, read=False)
                return
        if await self._backend.get(SnapshotView(txn.for_update_ts), key, deadline) is not None:
            self._buffer.refuse_existing(key)

    # --- the end ------------------------------------------------------------------------------------------------

    async def commit(self, *, timeout: float | None = None) -> int | None:
        """Make all writes visible at once. Returns the commit timestamp; None if there was nothing to write.

        Raises `WriteConflictError`, `KeyExistsError`, `TransactionAbortedError` and others, after which nothing was
        committed and the transaction is over; `UndeterminedError` if it is not known whether it was committed;
        `ConcurrentUseError` if another call of it is under way, after which it is still open.
        """
        self._refuse()
        deadline = self._deadline(timeout)
        txn, writes = self.start_commit()
        commit_ts = None
        try:
            if writes:
                commit_ts = await self._backend.commit(txn, writes, deadline)
            else:
                await self._backend.rollback(txn, deadline)  # of locks without writes
        except BaseException as error:
            self.fail_commit(error)
            raise
        self.finish_commit(commit_ts)
        return commit_ts

    # The parts of a commit, for faces that run what lies between by themselves.

    def start_commit(self) -> tuple[Txn, list[BufferedWrite]]:
        """Take no more calls; return what the backend has to commit. `fail_commit` or `finish_commit` has to follow.

        Raises as `commit` what leaves it open, or was over before.
        """
        txn, progress = self._txn, self._progress
        if txn is None or progress.phase is not _ACTIVE:
            self._refuse()
            txn = self._begun()
        if self._calls:
            raise ConcurrentUseError(
                f"commit of {self!r} while {self._calls} of its calls are under way: wait for them first. Nothing was "
                "committed, and the transaction is still open"
            )
        progress.phase = _COMMITTING
        writes = self._buffer.freeze(progress.why_closed)
        if writes and txn.locked:
            writes.extend(BufferedWrite(key, LOCK) for key in txn.locked if not self._buffer.has(key))
            writes.sort()
        return txn, writes

    def fail_commit(self, error: BaseException) -> None:
        """Take note of what the backend has raised."""
        is_known = isinstance(error, ClientError) and not error.undetermined
        self._progress.phase = Phase.FAILED if is_known else Phase.UNDETERMINED

    def finish_commit(self, commit_ts: int | None) -> None:
        """Take note that it is committed; None: there was nothing to write."""
        self._commit_ts = commit_ts
        self._progress.phase = _COMMITTED

    async def rollback(self, *, timeout: float | None = None) -> None:
        """Forget all writes and release all locks. Does nothing after a commit that failed, or another rollback.

        Raises `TransactionClosedError` if it was committed. Locks that can't be reached run out by themselves.
        """
        if self._progress.phase in (Phase.ROLLED_BACK, Phase.FAILED, Phase.UNDETERMINED):
            return
        self._refuse()
        deadline = self._deadline(timeout)
        self._progress.phase = Phase.ROLLED_BACK
        self._buffer.freeze(self._progress.why_closed)
        if self._txn is not None:
            await self._backend.rollback(self._txn, deadline)

    async def abandon(self, deadline: float) -> bool:
        """End it because its client closes; return whether it had anything to lose. Locks are released if there is time."""
        if self._progress.phase is not _ACTIVE:
            return False
        self._progress.phase = Phase.ABANDONED
        self._buffer.freeze(self._progress.why_closed)
        held = self._txn is not None and bool(self._txn.locked)
        if held and self._txn is not None:
            await self._backend.rollback(self._txn, deadline)
        return held or len(self._buffer) > 0

    # --- when it may be used ------------------------------------------------------------------------------------

    async def begin(self) -> Self:
        """Take the snapshot, if that was not done before."""
        self._refuse_closed()
        if self._txn is None:
            self.begin_as(await self._backend.begin(self._deadline(None), is_pessimistic=self._is_pessimistic))
        return self

    def begin_as(self, txn: Txn) -> None:
        """Begin as what the backend has begun; once, in place of `begin`."""
        self._txn, self._view, self._progress.start_ts = txn, txn.view, txn.start_ts

    def _refuse(self) -> None:
        self._refuse_closed()
        self._begun()

    def _refuse_closed(self) -> None:
        if self._progress.phase is not _ACTIVE:
            raise TransactionClosedError(self._progress.why_closed())

    def _refuse_lost(self, txn: Txn) -> None:
        if txn.lost is not None:
            raise TransactionAbortedError(
                f"transaction {txn.start_ts} has lost its locks: {txn.lost}. Roll back, and run it again"
            )

    def _begun(self) -> Txn:
        return self._required(self._txn)

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._progress.phase is not _ACTIVE:
            return  # ended within the block
        if kind is not None:
            await self.rollback()
            return
        try:
            await self.commit()
        except ConcurrentUseError:
            await self.rollback()
            raise

    def __del__(self, warn: Any = warnings.warn) -> None:
        progress: Progress | None = getattr(self, "_progress", None)
        if progress is not None and progress.phase is _ACTIVE and self._txn is not None:
            self._backend.abandon(self._txn)
            if len(self._buffer) or self._txn.locked:
                warn(
                    f"{self!r} was never committed nor rolled back; use it in `async with`",
                    ResourceWarning,
                    source=self,
                )


class _Call:
    """Notes that a call of a transaction is under way; `commit` does not overtake it. Raises if none can begin any more."""

    __slots__ = ("_txn",)

    def __init__(self, txn: AsyncTransaction) -> None:
        self._txn = txn

    def __enter__(self) -> None:
        self._txn._refuse()  # noqa: SLF001 - same module
        self._txn._calls += 1  # noqa: SLF001 - same module

    def __exit__(self, *_: object) -> None:
        self._txn._calls -= 1  # noqa: SLF001 - same module
