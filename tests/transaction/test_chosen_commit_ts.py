"""Async commit and one-phase commit: commit timestamps that a store chooses, and the locks in its memory meanwhile."""

from __future__ import annotations

import pytest
from tests.transaction.txn_store import LONG, TxnStore, check_not_exists, delete, locked_put, put

from pytinykv.transaction import ConcurrencyManager, ReadView, TxnErrorRaised
from pytinykv.transaction.commands import Isolation
from pytinykv.transaction.errors import KeyIsLocked, TimestampFromFuture, WriteConflict
from pytinykv.transaction.results import PrewriteResult, ReleasedLock
from pytinykv.wire.timestamp import MAX_TIMESTAMP, Timestamp

A, B = b"a", b"b"


def test_async_commit_lies_above_everything_that_was_read(store: TxnStore) -> None:
    store.get(A, 80)
    result = store.must(store.prewrite(10, put(A), put(B), secondaries=(B,)))
    assert result == PrewriteResult(min_commit_ts=81)  # type: ignore[arg-type]
    lock_a, lock_b = store.lock(A), store.lock(B)
    assert lock_a is not None
    assert lock_b is not None
    assert (lock_a.use_async_commit, lock_a.secondaries, lock_a.min_commit_ts) == (True, (B,), 81)
    assert (lock_b.use_async_commit, lock_b.secondaries, lock_b.min_commit_ts) == (True, (), 81)


def test_it_lies_above_the_transactions_own_timestamps(store: TxnStore) -> None:
    assert store.must(store.prewrite(10, put(A), secondaries=())) == PrewriteResult(min_commit_ts=11)  # type: ignore[arg-type]
    store.must(store.pessimistic(20, 25, B, min_commit_ts=40))
    command = store.prewrite(20, locked_put(B), for_update_ts=30, secondaries=())
    assert store.must(command) == PrewriteResult(min_commit_ts=40)  # type: ignore[arg-type]


def test_one_phase_commits_at_once(store: TxnStore) -> None:
    store.write(1, 2, put(B))
    store.get(A, 80)
    result = store.must(store.prewrite(10, put(A, LONG), delete(B), try_one_pc=True))
    assert result == PrewriteResult(one_pc_commit_ts=81)  # type: ignore[arg-type]
    assert (store.kinds(A), store.kinds(B)) == (["81 PUT"], ["81 DELETE", "2 PUT"])
    assert (store.lock(A), store.lock(B)) == (None, None)
    assert (store.get(A, 80), store.get(A, 81)) == (None, LONG)


def test_one_phase_releases_pessimistic_locks(store: TxnStore) -> None:
    store.must(store.pessimistic(10, 15, A))
    store.must(store.prewrite(10, locked_put(A), for_update_ts=15, try_one_pc=True))
    assert store.lock(A) is None
    assert store.last is not None
    assert store.last.released == [ReleasedLock(A, 10, 16)]  # type: ignore[arg-type]


@pytest.mark.parametrize("more", [{"try_one_pc": True}, {"secondaries": (B,)}])
def test_repeated_after_the_commit_it_tells_when_that_was(store: TxnStore, more: dict[str, object]) -> None:
    command = store.prewrite(10, put(A), put(B), **more)
    first = store.must(command)
    if "secondaries" in more:
        store.must(store.commit(10, 11, A, B))
    store.get(A, 90)
    before = store.dump()
    assert store.must(command) == first
    assert store.dump() == before


def test_repeated_with_its_locks_there_it_gives_the_same_timestamp(store: TxnStore) -> None:
    command = store.prewrite(10, put(A), put(B), secondaries=(B,))
    first = store.must(command)
    store.get(b"z", 90)
    before = store.dump()
    assert store.must(command) == first
    assert store.dump() == before


@pytest.mark.parametrize("more", [{"try_one_pc": True}, {"secondaries": (B,)}])
def test_above_its_limit_it_falls_back_to_two_phases(store: TxnStore, more: dict[str, object]) -> None:
    store.get(A, 80)
    command = store.prewrite(10, put(A), put(B), max_commit_ts=80, **more)
    assert store.must(command) == PrewriteResult()
    for key in (A, B):
        lock = store.lock(key)
        assert lock is not None
        assert not lock.use_async_commit
        assert lock.secondaries == ()
    assert store.must(command) == PrewriteResult(), "repeated, it stays with that"


def test_a_key_that_was_locked_in_two_phases_takes_all_there(store: TxnStore) -> None:
    store.must(store.prewrite(10, put(B), primary=A))
    command = store.prewrite(10, put(A), put(B), secondaries=(B,))
    assert store.must(command) == PrewriteResult()
    lock = store.lock(A)
    assert lock is not None
    assert not lock.use_async_commit


def test_one_phase_can_t_follow_locks(store: TxnStore) -> None:
    store.must(store.prewrite(10, put(A), put(B), secondaries=(B,)))
    command = store.prewrite(10, put(A), put(B), put(b"c"), try_one_pc=True)
    assert store.must(command) == PrewriteResult()
    assert store.kinds(b"c") == []
    assert store.lock(b"c") is not None


def test_without_knowledge_of_reads_two_phases_are_used(store: TxnStore) -> None:
    command = store.prewrite(10, put(A), secondaries=(), try_one_pc=True)
    assert store.must(command.as_two_phase()) == PrewriteResult()
    plain = store.prewrite(10, put(A))
    assert plain.as_two_phase() is plain


def test_a_check_alone_commits_in_one_phase_and_counts_as_a_read(store: TxnStore) -> None:
    command = store.prewrite(10, check_not_exists(A), try_one_pc=True, min_commit_ts=15)
    assert store.must(command) == PrewriteResult(one_pc_commit_ts=15)  # type: ignore[arg-type]
    assert store.dump() == []
    assert store.manager.max_ts == 10


# --- memory -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("more", [{"try_one_pc": True}, {"secondaries": (B,)}])
def test_until_it_is_applied_readers_meet_the_lock_in_memory(store: TxnStore, more: dict[str, object]) -> None:
    evaluation = store.evaluate(store.prewrite(10, put(A), put(B), **more))
    assert set(evaluation.memory_locks) == {A, B}
    for version in (11, 90, MAX_TIMESTAMP):
        view = ReadView(version)  # type: ignore[arg-type]
        assert isinstance(store.manager.blocks(A, view), KeyIsLocked)
        assert isinstance(store.manager.blocks_range(b"", b"", view), KeyIsLocked)
        error = store.manager.blocks_range(b"aa", b"", view)
        assert error is not None
        assert error.key == B
        assert store.manager.blocks_range(b"c", b"", view) is None
    assert store.manager.blocks(A, ReadView(10)) is None, "it commits above"  # type: ignore[arg-type]
    assert store.manager.blocks(A, ReadView(90, Isolation.RC)) is None  # type: ignore[arg-type]
    known = ReadView(90, committed_locks=frozenset({10}))  # type: ignore[arg-type]
    assert store.manager.blocks(A, known) is not None, "its value is not here to read"
    store.apply(evaluation)
    assert store.manager.blocks(A, ReadView(90)) is None  # type: ignore[arg-type]
    assert store.manager.lock_on(A) is None


def test_two_phases_lock_nothing_in_memory(store: TxnStore) -> None:
    assert store.evaluate(store.prewrite(10, put(A))).memory_locks == ()


@pytest.mark.parametrize("more", [{"try_one_pc": True}, {"secondaries": (B,)}])
def test_a_failure_and_a_fallback_free_the_memory(store: TxnStore, more: dict[str, object]) -> None:
    store.write(20, 30, put(B))
    assert isinstance(store.fails(store.prewrite(15, put(A), put(B), **more)), WriteConflict)
    assert len(store.manager) == 0
    store.must(store.prewrite(40, put(b"c"), primary=b"p"))
    store.must(store.prewrite(40, put(A), put(b"c"), primary=b"p", **more))
    assert len(store.manager) == 0


def test_reads_raise_max_ts_and_nothing_lowers_it() -> None:
    manager = ConcurrencyManager()
    for version in (80, 50, MAX_TIMESTAMP):
        manager.note_read(version)  # type: ignore[arg-type]
    assert manager.max_ts == 80


def test_a_timestamp_from_the_future_is_refused_before_it_does_harm(store: TxnStore) -> None:
    store.manager.limit = lambda: Timestamp(1000)
    with pytest.raises(TxnErrorRaised, match="from the future, above 1000"):
        store.manager.note_read(1001)  # type: ignore[arg-type]
    error = store.fails(store.check(10, A, caller_start_ts=5000, rollback_if_not_exist=True))
    assert isinstance(error, TimestampFromFuture)
    assert store.manager.max_ts == 10
