"""Locks of transactions whose fate is known: committed, rolled back, found."""

from __future__ import annotations

import pytest
from tests.transaction.txn_store import TxnStore, locked_put, put

from pytinykv.transaction.commands import ResolveLock, ScanLock, latch_keys
from pytinykv.transaction.resolve import PORTION_LOOKS_MAX, next_portion, scan_lock
from pytinykv.transaction.results import DONE


def resolve_all(store: TxnStore, statuses: dict[int, int], keys_max: int = 2, **bounds: bytes) -> list[list[bytes]]:
    """Resolve a range in portions, as a server does; return the keys of each."""
    portions: list[list[bytes]] = []
    rest: ResolveLock | None = ResolveLock(statuses=statuses, **bounds)  # type: ignore[arg-type]
    assert rest is not None
    assert latch_keys(rest) == ()
    while rest is not None:
        portion = next_portion(store.engine, rest, keys_max=keys_max)
        assert store.must(portion.command) is DONE
        portions.append(list(latch_keys(portion.command)))
        rest = portion.rest
    return portions


@pytest.mark.tinykv("TestEmptyResolve4C")
def test_nothing_to_resolve(store: TxnStore) -> None:
    assert resolve_all(store, {10: 20}) == [[]]
    assert resolve_all(store, {}) == [[]]
    assert store.dump() == []


@pytest.mark.tinykv("TestResolveCommit4C")
def test_all_locks_of_a_transaction_are_committed(store: TxnStore) -> None:
    store.must(store.prewrite(10, *(put(b"k%d" % n) for n in range(5))))
    store.must(store.prewrite(12, put(b"other"), put(b"k5")))
    assert resolve_all(store, {10: 20}) == [[b"k0", b"k1"], [b"k2", b"k3"], [b"k4"]]
    assert [store.kinds(b"k%d" % n) for n in range(5)] == [["20 PUT"]] * 5
    assert store.lock(b"k5") is not None
    assert store.lock(b"other") is not None


@pytest.mark.tinykv("TestResolveRollback4C")
def test_all_locks_of_a_transaction_are_rolled_back(store: TxnStore) -> None:
    store.must(store.prewrite(10, put(b"a"), put(b"b")))
    store.must(store.pessimistic(10, 15, b"c", primary=b"a"))
    store.must(store.prewrite(12, put(b"d")))
    resolve_all(store, {10: 0})
    assert [store.lock(key) for key in (b"a", b"b", b"c")] == [None] * 3
    assert store.kinds(b"a") == ["10 ROLLBACK"]
    assert store.lock(b"d") is not None


@pytest.mark.tinykv("TestResolveCommitWritten4C", "TestResolveRollbackWritten4C")
@pytest.mark.parametrize("commit_ts", [0, 20])
def test_what_is_decided_already_stays(store: TxnStore, commit_ts: int) -> None:
    store.write(10, 20, put(b"committed"))
    store.must(store.rollback(10, b"rolled back"))
    before = store.dump()
    resolve_all(store, {10: commit_ts})
    assert store.must(store.resolve({10: commit_ts}, b"committed", b"rolled back", b"never")) is DONE
    assert store.dump() == before


def test_several_transactions_at_once_within_bounds(store: TxnStore) -> None:
    store.must(store.prewrite(10, put(b"a"), put(b"m")))
    store.must(store.prewrite(12, put(b"b")))
    store.must(store.prewrite(14, put(b"c")))
    resolve_all(store, {10: 20, 12: 0, 99: 0}, start=b"a", end=b"m")
    assert (store.kinds(b"a"), store.kinds(b"b"), store.kinds(b"c")) == (["20 PUT"], ["12 ROLLBACK"], [])
    assert store.lock(b"m") is not None


def test_a_lock_that_was_left_by_a_pessimistic_statement_goes_with_the_commit(store: TxnStore) -> None:
    store.must(store.pessimistic(10, 15, b"a", b"b"))
    store.must(store.prewrite(10, locked_put(b"a"), for_update_ts=15))
    resolve_all(store, {10: 20})
    assert (store.kinds(b"a"), store.kinds(b"b"), store.lock(b"b")) == (["20 PUT"], [], None)


def test_a_lock_that_came_after_the_portion_was_made_is_left_alone(store: TxnStore) -> None:
    store.must(store.prewrite(10, put(b"a"), put(b"b")))
    portion = next_portion(store.engine, ResolveLock(statuses={10: 0}))  # type: ignore[dict-item]
    store.must(store.commit(10, 20, b"a"))
    store.must(store.prewrite(30, put(b"a"), primary=b"p"))
    store.must(portion.command)
    assert store.lock(b"a") is not None
    assert store.kinds(b"a") == ["20 PUT"]
    assert store.kinds(b"b") == ["10 ROLLBACK"]


def test_a_portion_looks_at_a_bounded_number_of_locks(store: TxnStore) -> None:
    store.must(store.prewrite(10, *(put(b"%05d" % n) for n in range(PORTION_LOOKS_MAX + 1))))
    portion = next_portion(store.engine, ResolveLock(statuses={99: 0}))  # type: ignore[dict-item]
    assert portion.command.keys == ()
    assert portion.rest is not None
    assert portion.rest.start == b"%05d" % PORTION_LOOKS_MAX


def test_scanning_locks(store: TxnStore) -> None:
    store.must(store.prewrite(10, put(b"a"), put(b"c")))
    store.must(store.prewrite(20, put(b"b")))
    store.must(store.pessimistic(5, 5, b"d"))

    def found(**more: object) -> list[bytes]:
        command = ScanLock(**{"max_ts": 15, **more})  # type: ignore[arg-type]
        return [info.key for info in scan_lock(store.engine, command, store.manager).locks]

    assert found() == [b"a", b"c", b"d"]
    assert found(max_ts=20) == [b"a", b"b", b"c", b"d"]
    assert found(limit=2) == [b"a", b"c"]
    assert found(start=b"b", end=b"d") == [b"c"]
    assert store.manager.max_ts == 20


def test_scanning_shows_locks_that_are_only_in_memory(store: TxnStore) -> None:
    store.must(store.prewrite(5, put(b"c")))
    evaluation = store.evaluate(store.prewrite(10, put(b"b"), put(b"d"), secondaries=(b"d",)))
    command = ScanLock(max_ts=15)  # type: ignore[arg-type]
    shown = scan_lock(store.engine, command, store.manager).locks
    assert [info.key for info in shown] == [b"b", b"c", b"d"]
    first = ScanLock(max_ts=15, limit=1)  # type: ignore[arg-type]
    assert [info.key for info in scan_lock(store.engine, first, store.manager).locks] == [b"b"]
    store.apply(evaluation)
