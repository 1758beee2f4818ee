"""One database in this process: an engine, who may write it and when, and what runs beside.

    caller's thread ──▶ reads          an open view, the engine: no lock (in memory: the writer's)
                    ──▶ commit         GroupCommit ─▶ writer's lock: plain, or evaluated; one batch ─▶ sync ─▶ visible
                    ──▶ lock, unlock   writer's lock: Executor; waits for the locks of others outside of it
    background      ──▶ deadlines of lock waits, garbage, expired raw values, syncs of relaxed commits (`Background`)

Invariants
----------
1. The engine is written, and the executor used, under `writer` only.
2. What was acknowledged is durable, unless durability is relaxed: then a power cut may take the last moments, always from the
   end. Whole transactions in both cases; a killed process loses nothing that was acknowledged.
3. After `close` every call raises `ClientClosedError`, in a forked child `ClientForkedError`, and neither touches the engine.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Final, TypeVar

from pytinykv.client.errors import (
    ClientClosedError,
    ClientError,
    DeadlineExceededError,
    LockTimeoutError,
    WriteConflictError,
)
from pytinykv.client.origin import ProcessOrigin
from pytinykv.client.txn.records import CHECK_NOT_EXISTS, DELETE, PUT, BufferedWrite
from pytinykv.embedded import forks
from pytinykv.embedded.groups import Entry, GroupCommit
from pytinykv.embedded.interrupts import UNINTERRUPTED, interruptibly
from pytinykv.embedded.local_port import LocalDeadlocks, LocalPort
from pytinykv.embedded.oracle import LocalTxn, OpenView, Oracle
from pytinykv.embedded.reads import EngineReads, RefusingReads
from pytinykv.embedded.refusals import CLOSED, engine_error, error_of, snapshot_too_old
from pytinykv.storage import ColumnFamily, DataDirectory, Engine, EngineError
from pytinykv.storage.handles import keep_for_ever
from pytinykv.transaction import ConcurrencyManager, Failure, evaluate
from pytinykv.transaction.commands import (
    LockRequest,
    Mutation,
    MutationOp,
    PessimisticAction,
    PessimisticLock,
    PessimisticRollback,
    Prewrite,
    WriteCommand,
)
from pytinykv.transaction.executor import Executor
from pytinykv.transaction.plain import PlainWrite
from pytinykv.transaction.results import PessimisticLockResult, PrewriteResult, Result
from pytinykv.transaction.stored_keys import encode_bytes
from pytinykv.wire.timestamp import MAX_TIMESTAMP, Timestamp

_T = TypeVar("_T")

BOUND_KEY: Final = b"\x01timestamps"
"""In column family `raft`, which is free here: the bound that no timestamp was given above, eight bytes big-endian."""
GRACE_S: Final = 5.0
"""How long a caller waits past its deadline for an answer that is due."""
CLOSE_S: Final = 5.0
LOCKED_PAUSE_S: Final = 0.002
"""First pause of a commit that has met a pessimistic lock, before it looks again. It holds no lock then."""
LOCKED_PAUSE_S_MAX: Final = 0.05
_LOCK_TTL_MS: Final = 1 << 40
"""Locks end with their transaction, not by time."""
_OPS: Final = {op.value: op for op in MutationOp}


class _Answer:
    """What becomes of a command; `done` is held until it is there."""

    __slots__ = ("done", "error", "is_there", "on_done", "result")

    def __init__(self, on_done: Callable[[], None] | None = None) -> None:
        self.error: Exception | None = None
        """Why the command was not executed; set with `is_there`, if at all."""
        self.result: Result | None = None
        """What it came to, refusals of keys included; set with `is_there`, if at all."""
        self.is_there = False
        """Set once: the fields above do not change any more."""
        self.on_done = on_done
        self.done = threading.Lock()
        """Held from the start; released once, when it is there."""
        self.done.acquire()

    def __call__(self, error: Exception | None, result: Result | None) -> None:
        self.error, self.result, self.is_there = error, result, True
        self.done.release()
        if self.on_done is not None:
            self.on_done()

    def get(self) -> Result:
        """Return the result. Raises `ClientError`."""
        if isinstance(self.error, EngineError):
            raise engine_error(self.error, may_have_written=True) from self.error
        if self.error is not None:
            raise ClientClosedError(CLOSED) from self.error
        result = self.result
        assert result is not None
        if isinstance(result, Failure):
            raise error_of(result.errors[0])
        return result


class Database:
    """See the module. Thread-safe."""

    def __init__(
        self,
        engine: Engine,
        directory: DataDirectory | None,
        *,
        name: str,
        is_relaxed: bool,
        monotonic: Callable[[], float] = time.monotonic,
        wall_ms: Callable[[], int] | None = None,
    ) -> None:
        """Take over an engine, and the directory in which it lies. Raises EngineError."""
        self.name: Final = name
        """For messages."""
        self.engine: Final = engine
        self.is_relaxed: Final = is_relaxed
        self.origin: Final = ProcessOrigin(is_of_database=True)
        self._directory = directory
        self._gone: EngineError | None = None
        """Set once, by `check_place`: the directory is not where it was."""
        self._monotonic = monotonic
        self.writer: Final = threading.Lock()
        """Invariant 1."""
        self.reads: EngineReads = EngineReads(engine, self.writer)
        """What reads the engine; in a forked child it refuses."""
        stored = engine.get(ColumnFamily.RAFT, BOUND_KEY)
        bound = 0 if stored is None else int.from_bytes(stored, "big")
        self.oracle: Final = Oracle(bound) if wall_ms is None else Oracle(bound, wall_ms)
        self.port: Final = LocalPort(engine, self.oracle.visible_ts)
        deadlocks = LocalDeadlocks(monotonic)
        self.executor: Final = Executor(concurrency=ConcurrencyManager(), observer=deadlocks, monotonic=monotonic)
        deadlocks.attach(self.executor)
        self.groups: Final = GroupCommit(self.writer, self._write_group, self._make_durable)
        self._written_bound = bound
        """The bound that was written last; durable after the next sync. Moved under the writer's lock."""
        self._synced_writes = 0
        """How many of `port.writes` are durable."""
        self.first_expiry_s: float = 0
        """No raw value that is stored expires before this second of the Unix epoch; 0 while that is unknown. Writers lower
        it, a pass of the garbage collector that begins raises it and lowers it to what it leaves. Under the writer's lock."""
        self.on_waiting: Callable[[], None] = _nothing
        """Called, in any thread, when `executor.next_due` may have become earlier. Set by the background."""
        self.on_abandoned: Callable[[LocalTxn], None] = _ignore
        """Called, in any thread and at any point of it, with a transaction that has locks and was forgotten."""
        self.on_durable: Callable[[], None] = _nothing
        """Called under the writer's lock when all that was written is durable; set by what holds reads back until then."""
        self.closed = False
        """Set once, by `begin_close`."""
        self._is_usable = True
        """Moved once, by `begin_close` or, in a forked child, by `forget`."""
        self._is_released = False
        """Set once, by `release`."""
        self._closing = threading.Lock()
        """Held by the thread that closes; a second one waits for it."""
        self.extend_bound()
        forks.watch(self)

    def will_expire(self, at_s: int) -> None:
        """Take note of a raw value that expires then. Called under the writer's lock, before it is written."""
        self.first_expiry_s = min(self.first_expiry_s, at_s)

    # --- when it may be used ------------------------------------------------------------------------------------

    def check(self) -> None:
        """Raise `ClientForkedError` or `ClientClosedError` where the database can't be used."""
        if not self._is_usable:
            self.origin.check()
            raise ClientClosedError(CLOSED)

    def check_writable(self) -> None:
        """As `check`; and raise `DatabaseError` if the engine takes no writes any more."""
        self.check()
        failure = self.failure
        if failure is not None:
            raise engine_error(failure)

    @property
    def failure(self) -> EngineError | None:
        """Why the engine takes no writes any more; None while it does."""
        failure: EngineError | None = getattr(self.engine, "failure", None)
        return failure or self._gone

    def check_place(self) -> bool:
        """Take no more writes if the directory was deleted or moved; return whether it is still there.

        The engine would not notice: it writes on into files that have no name, and makes new ones where the directory was,
        among those of whatever is there now. Asked for each second and not at each commit, which it would slow down.
        """
        if self._gone is None and self._directory is not None and not self._directory.is_in_place():
            self._gone = EngineError(
                f"{self.name} was deleted, moved or replaced while it was open: what was committed lately may be lost"
            )
        return self._gone is None

    def now(self) -> float:
        """Return the monotonic time, in which deadlines are."""
        return self._monotonic()

    # --- beginnings ---------------------------------------------------------------------------------------------

    def begin(self, deadline: float, *, is_pessimistic: bool) -> LocalTxn:
        """Begin a transaction."""
        view = self._given(self.oracle.begin, deadline)
        return LocalTxn(view, is_pessimistic=is_pessimistic)

    def timestamp(self, deadline: float) -> int:
        """Return a timestamp greater than all before."""
        return self._given(self.oracle.timestamp, deadline)

    def view(self, ts: int | None) -> OpenView | None:
        """Return the view of a snapshot, None for a timestamp that was not given yet. Raises `SnapshotTooOldError`."""
        self.check()
        if ts is None:
            return self.oracle.view_of_now()
        view = self.oracle.view_at(ts)
        # From here on it is open. A safe point above it was chosen before, and shows.
        if view is not None and ts < self.executor.safe_point:
            raise snapshot_too_old(ts, self.executor.safe_point)
        return view

    def _given(self, ask: Callable[[], _T | None], deadline: float) -> _T:
        self.check()
        while (given := ask()) is None:
            left_s = deadline - self._monotonic()
            if left_s <= 0:
                raise DeadlineExceededError("no timestamp in time: the disk does not answer")
            if not self.oracle.wait_published(0.0):
                self.oracle.wait_published(left_s)
                self.check()
                continue
            try:
                self.extend_bound()
            except EngineError as error:
                raise engine_error(error) from error
            if self.oracle.is_withheld:
                self.groups.run(_nothing, deadline)
        return given

    def extend_bound(self) -> None:
        """See to it that timestamps can be given for a while. Blocks for a sync."""
        with UNINTERRUPTED:
            with self.writer:
                bound = self._write_bound()
            if bound:
                self._sync()
                self.oracle.on_bound_durable(bound)

    def _write_bound(self) -> int:
        """Write the next bound, if one is wanted; return what the next sync makes durable, 0 for nothing new."""
        bound = self.oracle.wants_bound()
        if bound <= self._written_bound:
            return self._written_bound if bound else 0
        batch = self.engine.write_batch()
        batch.put(ColumnFamily.RAFT, BOUND_KEY, bound.to_bytes(8, "big"))
        self.engine.write(batch)
        self._written_bound = bound
        return bound

    # --- commit -------------------------------------------------------------------------------------------------

    def commit_work(self, txn: LocalTxn, writes: Sequence[BufferedWrite]) -> Callable[[], int]:
        """Return the work of a commit, for `groups`: it returns the commit timestamp."""
        plain = None if txn.for_update_ts else _plain_writes(writes)
        start_ts = Timestamp(txn.start_ts)

        def work() -> int:
            self.check_writable()
            commit_ts = self.oracle.next_commit()
            try:
                if plain is not None and self.port.commit_plain(plain, start_ts, commit_ts):
                    return commit_ts
            except EngineError as error:
                raise engine_error(error, may_have_written=True) from error
            return self._commit_evaluated(txn, writes, commit_ts)

        return work

    def _write_group(self, group: list[Entry[Any]]) -> None:
        """See `GroupCommit`: write what the commits of a group have left to be written together."""
        try:
            self._flush()
        except EngineError as error:
            self.port.drop_unwritten()
            for entry in group:
                if entry.error is None:
                    entry.error = engine_error(error, may_have_written=True)
        except BaseException:
            self.port.drop_unwritten()
            self.oracle.withhold()
            raise

    def _flush(self) -> None:
        """Write what commits have left, and before that the bound above their timestamps, wherever the clock has leapt."""
        if self.oracle.is_near_bound:
            self._write_bound()
        self.port.flush()

    def _commit_evaluated(self, txn: LocalTxn, writes: Sequence[BufferedWrite], commit_ts: Timestamp) -> int:
        """Commit what may be in conflict with others, or refuse it. Under the writer's lock."""
        try:
            self._flush()  # the engine has to hold what others of the group have committed
        except EngineError as error:
            raise engine_error(error) from error
        mutations = _mutations(txn, writes)
        command = Prewrite(
            mutations=mutations,
            primary=txn.primary or mutations[0].key,
            start_ts=Timestamp(txn.start_ts),
            lock_ttl_ms=_LOCK_TTL_MS,
            for_update_ts=Timestamp(txn.for_update_ts),
            min_commit_ts=commit_ts,
            txn_size=len(mutations),
            try_one_pc=True,
        )
        result = self._run(command).get() if self.port.reader.locks else self._run_alone(command)
        assert isinstance(result, PrewriteResult)
        writes_something = any(write.op != CHECK_NOT_EXISTS for write in writes)
        return result.one_pc_commit_ts if writes_something else txn.start_ts

    def commit(self, txn: LocalTxn, writes: Sequence[BufferedWrite], deadline: float) -> int:
        """See `TransactionBackend.commit`."""
        work = self.commit_work(txn, writes)
        pause_s = LOCKED_PAUSE_S
        try:
            while True:
                try:
                    return self.groups.run(work, deadline)
                except LockTimeoutError:
                    left_s = deadline - self._monotonic()
                    if left_s <= pause_s:
                        raise
                    interruptibly(partial(time.sleep, pause_s))
                    pause_s = min(2 * pause_s, LOCKED_PAUSE_S_MAX)
                self.check()
        finally:
            self.end(txn)

    def end(self, txn: LocalTxn) -> None:
        """Let go of what a transaction holds: its view, and the locks that a commit that failed has left."""
        if txn.locked:
            self.unlock_all(txn)
        txn.view.release()

    def _run(self, command: WriteCommand) -> _Answer:
        """Run a command; its answer may come later. Under the writer's lock."""
        answer = _Answer()
        self.executor.submit(self.port, command, answer)
        return answer

    def _run_alone(self, command: Prewrite) -> Result:
        """As `_run`, while nothing is locked: nothing waits then, and the executor would only be a detour."""
        executor = self.executor
        evaluation = evaluate(self.port.reader, command, executor.concurrency, safe_point=executor.safe_point)
        answer = _Answer()
        try:
            if evaluation.changes:
                self.port.propose(evaluation.changes, lambda error: answer(error, evaluation.result))
            else:
                answer(None, evaluation.result)
        finally:
            executor.concurrency.unlock(evaluation.memory_locks)
        return answer.get()

    def _make_durable(self, group: list[Entry[Any]]) -> None:
        """See `GroupCommit`: sync what a group has written, then show it."""
        written, bound = self.port.writes, self._written_bound
        try:
            if (written != self._synced_writes and not self.is_relaxed) or bound > self.oracle.durable_bound:
                self._sync()
                self._synced_writes = written
        except EngineError as error:
            self.oracle.withhold()
            for entry in group:
                if entry.error is None:
                    entry.error = engine_error(error, may_have_written=True)
            return
        except BaseException:
            self.oracle.withhold()
            raise
        if bound > self.oracle.durable_bound:
            self.oracle.on_bound_durable(bound)
        self.oracle.publish()
        if self.on_durable is not _nothing:
            with self.writer:
                self.on_durable()

    def _sync(self) -> None:
        self.engine.sync()

    def sync_relaxed(self) -> None:
        """Make durable what was committed since the last sync."""
        with self.writer:
            written = self.port.writes
        if written != self._synced_writes:
            self._sync()
            self._synced_writes = written

    # --- pessimistic locks --------------------------------------------------------------------------------------

    def lock(
        self,
        txn: LocalTxn,
        keys: Sequence[bytes],
        deadline: float,
        *,
        at_snapshot: bool,
        must_not_exist: bool,
        read: bool,
    ) -> dict[bytes, bytes | None]:
        """See `TransactionBackend.lock`."""
        while True:
            for_update_ts = txn.start_ts if at_snapshot else self.timestamp(deadline)
            with UNINTERRUPTED:
                answer = self.begin_lock(
                    txn, keys, deadline, for_update_ts=for_update_ts, must_not_exist=must_not_exist, read=read
                )
                try:
                    wait_s = max(0.0, deadline - self._monotonic()) + GRACE_S
                    if not interruptibly(partial(answer.done.acquire, timeout=wait_s)):
                        raise DeadlineExceededError("the keys could not be locked in time")
                    return self.end_lock(txn, keys, for_update_ts, answer)
                except WriteConflictError as error:
                    if at_snapshot:
                        raise
                    conflict = error
                except BaseException:
                    self.give_up_lock(txn, keys, answer)
                    raise
            self.wait_visible(conflict, deadline)

    def begin_lock(
        self,
        txn: LocalTxn,
        keys: Sequence[bytes],
        deadline: float,
        *,
        for_update_ts: int,
        must_not_exist: bool,
        read: bool,
        on_done: Callable[[], None] | None = None,
    ) -> _Answer:
        """Ask for locks; the answer is there at once, or when they are free, or at the deadline."""
        self.check()
        command = PessimisticLock(
            keys=tuple(LockRequest(key, should_not_exist=must_not_exist) for key in keys),
            primary=txn.primary or keys[0],
            start_ts=Timestamp(txn.start_ts),
            for_update_ts=Timestamp(for_update_ts),
            lock_ttl_ms=_LOCK_TTL_MS,
            is_first_lock=not txn.locked and len(keys) == 1,
            wait_timeout_ms=max(1, int((deadline - self._monotonic()) * 1000)),
            return_values=read,
        )
        answer = _Answer(on_done)
        with self.writer:
            self.executor.submit(self.port, command, answer)
        if not answer.is_there:
            self.on_waiting()
            if self.closed:  # since the check: nothing else would end the wait
                with self.writer:
                    self.executor.stop()
        return answer

    def end_lock(
        self, txn: LocalTxn, keys: Sequence[bytes], for_update_ts: int, answer: _Answer
    ) -> dict[bytes, bytes | None]:
        """Take an answer: note the locks and return the values. Raises `ClientError`."""
        result = answer.get()
        assert isinstance(result, PessimisticLockResult)
        if txn.primary is None:
            txn.primary = keys[0]
        txn.add_locks(keys, for_update_ts)
        return {key: locked.value for key, locked in zip(keys, result.keys, strict=True)}

    def give_up_lock(self, txn: LocalTxn, keys: Sequence[bytes], answer: _Answer) -> None:
        """End a lock request whose caller does not wait any longer; what it has got is released."""
        with self.writer:
            self.executor.end_wait(answer)
        if isinstance(answer.result, PessimisticLockResult):
            self._unlock(txn, keys)

    def wait_visible(self, error: WriteConflictError, deadline: float) -> None:
        """Wait until the commit that was newer than a lock request can be seen. Raises `LockTimeoutError` if it is late."""
        left_s = deadline - self._monotonic()
        if left_s <= 0 or not (
            error.conflict_commit_ts <= self.oracle.visible_ts or self.oracle.wait_published(left_s)
        ):
            raise LockTimeoutError(
                f"no lock in time: others were always first: {error}", key=error.key, holder_ts=error.conflict_ts
            )

    def unlock_all(self, txn: LocalTxn) -> None:
        """Release the locks of a transaction that ends. Any number of times."""
        with UNINTERRUPTED:
            keys = list(txn.locked)
            txn.locked.clear()
            self._unlock(txn, keys)

    def _unlock(self, txn: LocalTxn, keys: Sequence[bytes]) -> None:
        if not keys or self.closed or not self.origin.is_here:
            return
        command = PessimisticRollback(keys=tuple(keys), start_ts=Timestamp(txn.start_ts), for_update_ts=MAX_TIMESTAMP)
        with self.writer:
            self._run(command)
        self.on_waiting()

    def abandon(self, txn: LocalTxn) -> None:
        """Release the locks of a transaction that was forgotten, soon. From any thread, at any point of it."""
        if txn.locked and not self.closed:
            self.on_abandoned(txn)

    # --- the end ------------------------------------------------------------------------------------------------

    def begin_close(self) -> bool:
        """Refuse calls from now on; return whether it is the caller that has to close: the first one, in this process."""
        with self._closing:
            was_closed, self.closed, self._is_usable = self.closed, True, False
        return not was_closed and self.origin.is_here

    def forget(self) -> None:
        """Make it unusable in a forked child: its threads and its lock are the parent's."""
        self._is_usable = False
        self.reads = RefusingReads(self.check)
        keep_for_ever(self.engine)
        for view in self.oracle.views():
            keep_for_ever(view.cursors)
        if self._directory is not None:
            self._directory.forget()

    def refuse_all(self) -> bool:
        """End what waits, and wait for commits under way; return whether they have ended. After `begin_close`."""
        is_idle = self.groups.close(_closed, CLOSE_S)
        with self.writer:
            self.executor.stop()
        return is_idle

    def release(self) -> None:
        """Close the engine and let go of the directory; after `refuse_all`. Any number of times. Raises EngineError."""
        if self._is_released:
            return
        self._is_released = True
        try:
            with self.writer:
                if self.failure is None:
                    batch = self.engine.write_batch()
                    batch.put(ColumnFamily.RAFT, BOUND_KEY, self.oracle.bound_at_close.to_bytes(8, "big"))
                    self.engine.write(batch)
                for view in self.oracle.views():
                    view.cursors.clear()
                self.engine.close()
        finally:
            if self._directory is not None:
                self._directory.close()


def _mutations(txn: LocalTxn, writes: Sequence[BufferedWrite]) -> tuple[Mutation, ...]:
    locked = txn.locked
    check, skip = PessimisticAction.CHECK_LOCK, PessimisticAction.SKIP_CHECK
    return tuple(
        Mutation(_OPS[write.op], write.key, write.value, action=check if write.key in locked else skip)
        for write in writes
    )


def _plain_writes(writes: Sequence[BufferedWrite]) -> list[PlainWrite] | None:
    """Return what puts and deletes change; None if there is anything else among them."""
    plain: list[PlainWrite] = []
    for key, op, value in writes:
        if op == PUT:
            plain.append((encode_bytes(key), value))
        elif op == DELETE:
            plain.append((encode_bytes(key), None))
        else:
            return None
    return plain


def _closed() -> ClientError:
    return ClientClosedError(CLOSED)


def _nothing() -> None:
    """Until a background is there."""


def _ignore(_txn: LocalTxn) -> None:
    """As `_nothing`."""
