"""The local engine as the executor of `transaction` knows a region: one that is always led here and covers all keys.

Locks are in memory alone. On a cluster they are data, since a client that meets one must find out what became of its owner;
here the owner lives in this process, and ends with it. So a crash leaves no lock behind, and a commit is one-phase: the locks
that its evaluation works out are never written.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Final

from pytinykv.embedded.recent import RecentCommits
from pytinykv.storage import ColumnFamily, Cursor, Engine
from pytinykv.storage.changes import CF_CODES, DELETE, PUT, Change, add_changes
from pytinykv.transaction.deadlock import DeadlockDetector, Wait
from pytinykv.transaction.executor import Executor, OnSettled
from pytinykv.transaction.lock_waits import Waiter
from pytinykv.transaction.plain import PlainWrite, plain_commit
from pytinykv.transaction.stored_keys import TS_BYTES, timestamp_of
from pytinykv.wire.timestamp import Timestamp

_LOCK: Final = ColumnFamily.LOCK
_LOCK_CODE: Final = CF_CODES[_LOCK]
_WRITE_CODE: Final = CF_CODES[ColumnFamily.WRITE]

BATCH_BYTES: Final = 1 << 20
"""Values that commits leave to be written together; beyond it a batch is written, and the next one begun."""


class WithLocks:
    """A `Reader` of the engine as it is now, with the locks of memory in place of the column family `lock`."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self.locks: dict[bytes, bytes] = {}
        """By encoded key. Written by `LocalPort.propose` only."""

    def get(self, cf: ColumnFamily, key: bytes) -> bytes | None:
        return self.locks.get(key) if cf is _LOCK else self._engine.get(cf, key)

    def cursor(self, cf: ColumnFamily, start: bytes = b"", end: bytes | None = None) -> Cursor:
        assert cf is not _LOCK, "no command that is run here looks for locks"
        return self._engine.cursor(cf, start, end)

    def scan(
        self, cf: ColumnFamily, start: bytes, end: bytes | None, *, reverse: bool = False
    ) -> Iterator[tuple[bytes, bytes]]:
        return self.cursor(cf, start, end).pairs(reverse=reverse)


class LocalPort:
    """A `RegionPort`. Used under the writer's lock."""

    region_id: Final = 0
    may_compute_commit_ts: Final = True

    def __init__(self, engine: Engine, newest_ts: int) -> None:
        """`newest_ts`: no record in the engine is above it."""
        self._engine = engine
        self.reader: Final = WithLocks(engine)
        self.recent: Final = RecentCommits(newest_ts)
        """What transactions that are open may conflict with, in part."""
        self.writes: int = 0
        """Batches that were given to the engine; only grows."""
        self._unwritten: list[Change] = []
        """What commits have left to `flush`, whole and in their order. Empty while the writer's lock is free."""
        self._unwritten_bytes = 0
        """Of the values in it."""

    def refusal(self) -> Exception | None:
        return None

    def is_current(self) -> bool:
        return True

    def wait_until_current(self, on_ready: OnSettled) -> None:
        on_ready(None)

    def confirm(self, on_confirmed: OnSettled) -> None:
        on_confirmed(None)

    def propose(self, changes: list[Change], on_applied: OnSettled) -> None:
        """Write changes; they are visible to evaluations at once. Durable is what the group's sync covers."""
        locks = self.reader.locks
        on_disk = [change for change in changes if change[1] != _LOCK_CODE]
        if on_disk:
            for change in on_disk:
                if change[1] == _WRITE_CODE and change[0] == PUT:
                    self.recent.note(change[2][:-TS_BYTES], timestamp_of(change[2]))
            try:
                self._write(on_disk)
            except Exception as error:  # noqa: BLE001 - the executor tells the caller
                on_applied(error)
                return
        for change in changes:
            if change[1] == _LOCK_CODE:
                if change[0] == DELETE:
                    locks.pop(change[2], None)
                else:
                    locks[change[2]] = change[3]
        on_applied(None)

    def commit_plain(self, writes: Sequence[PlainWrite], start_ts: Timestamp, commit_ts: Timestamp) -> bool:
        """Commit writes if it is certain that nothing stands in the way; return whether that was so.

        They are in the engine after the next `flush`, which has to come before a read there of what may be written here.
        Raises EngineError if it had to flush.
        """
        recent = self.recent
        if self.reader.locks or not recent.has_none_since(writes, start_ts):
            return False
        recent.note_commit(writes, commit_ts)  # at once: for the other commits of the group it is there
        self._unwritten += plain_commit(writes, start_ts, commit_ts)  # in one step: an interrupt leaves no half of it
        for _, value in writes:
            if value is not None:
                self._unwritten_bytes += len(value)
        if self._unwritten_bytes > BATCH_BYTES:
            self.flush()
        return True

    def flush(self) -> None:
        """Write what commits have left, in one batch. Raises EngineError, and does again when it is repeated."""
        if self._unwritten:
            self._write(self._unwritten)
            self.drop_unwritten()

    def drop_unwritten(self) -> None:
        """Forget what was written, or could not be."""
        self._unwritten = []
        self._unwritten_bytes = 0

    def _write(self, changes: list[Change]) -> None:
        batch = self._engine.write_batch()
        add_changes(batch, changes)
        self.writes += 1
        self._engine.write(batch)

    def is_undetermined(self, error: Exception) -> bool:
        return False  # nothing reads a lock in memory after the engine has failed


class LocalDeadlocks:
    """A `WaitObserver`: all waits there can be are those of this process."""

    def __init__(self, monotonic: Callable[[], float]) -> None:
        self._monotonic = monotonic
        self.detector: Final = DeadlockDetector(lifetime_s=float("inf"))
        self._executor: Executor | None = None
        """Hears of deadlocks. None until `attach`, before which nothing can wait."""

    def attach(self, executor: Executor) -> None:
        """Name the executor; called once, before any wait."""
        self._executor = executor

    def begin_wait(self, waiter: Waiter) -> None:
        wait = Wait(waiter.start_ts, waiter.lock_ts, waiter.key)
        cycle = self.detector.detect(wait, self._monotonic())
        if cycle:
            assert self._executor is not None
            self._executor.on_deadlock(waiter, cycle)

    def end_wait(self, waiter: Waiter) -> None:
        self.detector.end_transaction(waiter.start_ts)
