"""The executor over a region of one's own: what it does with latches, answers and waits, whatever the log says."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from pytinykv.storage import EngineClosedError, MemoryEngine
from pytinykv.storage.changes import add_changes
from pytinykv.transaction.commands import (
    Commit,
    LockRequest,
    Mutation,
    MutationOp,
    PessimisticLock,
    PessimisticRollback,
    Prewrite,
    ResolveLock,
)
from pytinykv.transaction.concurrency import ConcurrencyManager
from pytinykv.transaction.executor import Executor
from pytinykv.transaction.lock_waits import Waiter
from pytinykv.transaction.results import DONE, CommitResult, Failure, PrewriteResult
from pytinykv.wire.timestamp import Timestamp

OnSettled = Callable[[Exception | None], None]


class UndeterminedError(Exception):
    """Nobody knows whether it was applied."""


class Region:
    """A `RegionPort` whose log is moved by hand."""

    region_id = 1
    may_compute_commit_ts = True

    def __init__(self) -> None:
        self.reader = MemoryEngine()
        self.log: list[tuple[list[Any], OnSettled]] = []
        self.why_not: Exception | None = None
        self.current = True
        self.waiting: list[OnSettled] = []

    def refusal(self) -> Exception | None:
        return self.why_not

    def is_current(self) -> bool:
        return self.current

    def wait_until_current(self, on_ready: OnSettled) -> None:
        self.waiting.append(on_ready)

    def confirm(self, on_confirmed: OnSettled) -> None:
        on_confirmed(None)

    def propose(self, changes: list[Any], on_applied: OnSettled) -> None:
        self.log.append((changes, on_applied))

    def is_undetermined(self, error: Exception) -> bool:
        return isinstance(error, UndeterminedError)

    def apply(self, error: Exception | None = None) -> None:
        """Apply the first entry of the log, or let it come to nothing."""
        changes, on_applied = self.log.pop(0)
        if error is None:
            batch = self.reader.write_batch()
            add_changes(batch, changes)
            self.reader.write(batch)
        on_applied(error)


class Watch:
    """A `WaitObserver` that counts."""

    def __init__(self) -> None:
        self.waiting: list[Waiter] = []

    def begin_wait(self, waiter: Waiter) -> None:
        self.waiting.append(waiter)

    def end_wait(self, waiter: Waiter) -> None:
        self.waiting.remove(waiter)


class Bench:
    """An executor, a region, and what was answered."""

    def __init__(self) -> None:
        self.region, self.watch, self.now = Region(), Watch(), 0.0
        self.executor = Executor(concurrency=ConcurrencyManager(), observer=self.watch, monotonic=lambda: self.now)

    def submit(self, command: Any) -> list[tuple[Exception | None, Any]]:
        answers: list[tuple[Exception | None, Any]] = []
        self.executor.submit(self.region, command, lambda error, result: answers.append((error, result)))
        return answers


def prewrite(start_ts: int, *keys: bytes, **fields: Any) -> Prewrite:
    return Prewrite(
        mutations=tuple(Mutation(MutationOp.PUT, key, b"v") for key in keys),
        primary=keys[0],
        start_ts=Timestamp(start_ts),
        lock_ttl_ms=3000,
        **fields,
    )


def commit(start_ts: int, commit_ts: int, *keys: bytes) -> Commit:
    return Commit(keys=keys, start_ts=Timestamp(start_ts), commit_ts=Timestamp(commit_ts))


def lock(start_ts: int, key: bytes, wait_timeout_ms: int = 1000) -> PessimisticLock:
    return PessimisticLock(
        keys=(LockRequest(key),),
        primary=key,
        start_ts=Timestamp(start_ts),
        for_update_ts=Timestamp(start_ts),
        lock_ttl_ms=3000,
        wait_timeout_ms=wait_timeout_ms,
    )


def test_a_command_is_answered_once_it_is_applied_and_the_next_sees_it() -> None:
    bench = Bench()
    first, second = bench.submit(prewrite(10, b"a")), bench.submit(prewrite(20, b"a"))
    assert (first, second, len(bench.region.log)) == ([], [], 1)
    bench.region.apply()
    assert first == [(None, PrewriteResult())]
    ((error, result),) = second
    assert error is None
    assert isinstance(result, Failure), "the second met the lock of the first"
    assert len(bench.executor.latches) == 0


def test_commands_of_one_frame_share_a_cursor_that_no_later_one_sees(monkeypatch: pytest.MonkeyPatch) -> None:
    bench = Bench()
    opened: list[Any] = []
    make = bench.region.reader.cursor

    def cursor(*args: Any) -> Any:
        opened.append(make(*args))
        return opened[-1]

    monkeypatch.setattr(bench.region.reader, "cursor", cursor)
    with bench.executor.together():
        answers = [bench.submit(prewrite(10, key)) for key in (b"a", b"b", b"a")]
    assert len(opened) == 1
    with pytest.raises(EngineClosedError):
        opened[0].next()
    for _ in range(2):
        bench.region.apply()
    assert [len(one) for one in answers] == [1, 1, 1]
    bench.submit(commit(10, 20, b"a"))
    bench.region.apply()
    with bench.executor.together():
        ((_, conflict),) = bench.submit(prewrite(15, b"a"))
    assert isinstance(conflict, Failure), "what was committed meanwhile is seen"


def test_what_the_log_refuses_gives_its_latches_back() -> None:
    bench = Bench()
    first, second = bench.submit(prewrite(10, b"a")), bench.submit(prewrite(20, b"a"))
    bench.region.apply(ValueError("not leader"))
    assert isinstance(first[0][0], ValueError)
    bench.region.apply()
    assert second == [(None, PrewriteResult())]


def test_a_region_that_was_lost_answers_without_a_look() -> None:
    bench = Bench()
    bench.region.why_not = ValueError("not leader")
    assert isinstance(bench.submit(prewrite(10, b"a"))[0][0], ValueError)
    assert len(bench.executor.latches) == 0


def test_nothing_is_evaluated_before_the_engine_shows_what_others_have_acknowledged() -> None:
    bench = Bench()
    bench.region.current = False
    answers = bench.submit(prewrite(10, b"a"))
    assert (answers, bench.region.log) == ([], [])
    bench.region.current = True
    bench.region.waiting.pop()(None)
    bench.region.apply()
    assert answers == [(None, PrewriteResult())]


def test_a_lock_in_memory_stays_while_its_fate_is_unknown() -> None:
    bench = Bench()
    bench.submit(prewrite(10, b"a", secondaries=()))
    bench.submit(prewrite(10, b"b", secondaries=()))
    assert len(bench.executor.concurrency) == 2
    bench.region.apply(ValueError("not leader"))
    assert len(bench.executor.concurrency) == 1, "that one was not executed for sure"
    bench.region.apply(UndeterminedError())
    assert len(bench.executor.concurrency) == 1
    bench.executor.on_region_lost(1)
    assert len(bench.executor.concurrency) == 0


def test_the_oldest_waiter_has_the_lock_and_the_others_wait_for_it_then() -> None:
    bench = Bench()
    bench.submit(lock(10, b"a"))
    bench.region.apply()
    later, older = bench.submit(lock(30, b"a")), bench.submit(lock(20, b"a"))
    assert [waiter.lock_ts for waiter in bench.watch.waiting] == [10, 10]
    bench.submit(ResolveLock(statuses={Timestamp(10): Timestamp(0)}))
    bench.region.apply()
    bench.region.apply()
    assert len(older) == 1
    assert later == []
    assert [waiter.lock_ts for waiter in bench.watch.waiting] == [20]


def test_a_resolution_of_a_range_is_answered_at_its_end() -> None:
    bench = Bench()
    bench.submit(prewrite(10, b"a", b"b"))
    bench.region.apply()
    answers = bench.submit(ResolveLock(statuses={Timestamp(10): Timestamp(20)}))
    assert answers == []
    bench.region.apply()
    assert answers == [(None, DONE)]
    assert bench.submit(commit(10, 20, b"a")) == [(None, CommitResult(Timestamp(20)))]


def test_one_that_waited_too_long_looks_once_more_and_is_told_of_the_lock() -> None:
    bench = Bench()
    bench.submit(lock(10, b"a"))
    bench.region.apply()
    answers = bench.submit(lock(20, b"a"))
    bench.now = 1.5
    bench.executor.on_time(bench.now)
    ((error, result),) = answers
    assert error is None
    assert isinstance(result, Failure)
    assert bench.watch.waiting == []
    assert bench.executor.next_due() is None


def test_a_transaction_that_takes_its_lock_requests_back_gets_none_of_them_later() -> None:
    """Its client has given up a wait just before the lock was released: nothing would take the lock away again."""
    bench = Bench()
    bench.submit(lock(10, b"a"))
    bench.region.apply()
    given_up, other = bench.submit(lock(20, b"a")), bench.submit(lock(30, b"a"))

    def take_back(key: bytes, for_update_ts: int) -> PessimisticRollback:
        return PessimisticRollback(keys=(key, key), start_ts=Timestamp(20), for_update_ts=Timestamp(for_update_ts))

    for those_that_leave_it in (take_back(b"b", 20), take_back(b"a", 19)):
        assert bench.submit(those_that_leave_it) == [(None, DONE)]
        assert given_up == []
    assert bench.submit(take_back(b"a", 20)) == [(None, DONE)]
    ((error, _),) = given_up
    assert "taken its lock requests back" in str(error)
    bench.submit(PessimisticRollback(keys=(b"a",), start_ts=Timestamp(10), for_update_ts=Timestamp(10)))
    bench.region.apply()
    bench.region.apply()
    assert [error for error, _ in other] == [None], "the next one has the lock"
    assert bench.watch.waiting == []


def test_a_lock_request_is_taken_back_also_when_it_was_just_woken() -> None:
    """Then it waits for the latch of the key and not for the lock any more, behind the command that takes it back."""
    bench = Bench()
    bench.submit(lock(10, b"a"))
    bench.region.apply()
    given_up, other = bench.submit(lock(20, b"a")), bench.submit(lock(30, b"a"))
    bench.submit(PessimisticRollback(keys=(b"a",), start_ts=Timestamp(10), for_update_ts=Timestamp(10)))
    taken_back = bench.submit(PessimisticRollback(keys=(b"a",), start_ts=Timestamp(20), for_update_ts=Timestamp(20)))
    while bench.region.log:
        bench.region.apply()
    assert taken_back == [(None, DONE)]
    ((error, _),) = given_up
    assert "taken its lock requests back" in str(error)
    bench.now = bench.executor.next_due() or 0.0
    bench.executor.on_time(bench.now)
    bench.region.apply()
    assert [error for error, _ in other] == [None], "the next one has the lock"
    assert bench.watch.waiting == []
    assert len(bench.executor.latches) == 0


def test_a_stop_answers_all_who_wait() -> None:
    bench = Bench()
    bench.submit(lock(10, b"a"))
    bench.region.apply()
    answers = bench.submit(lock(20, b"a"))
    bench.executor.stop()
    assert "stopping" in str(answers[0][0])
    assert len(bench.executor.latches) == 0
