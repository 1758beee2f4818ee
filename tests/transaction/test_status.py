"""What became of a transaction, asked at its primary or at its secondaries."""

from __future__ import annotations

import pytest
from tests.transaction.txn_store import TxnStore, locked_put, put, ts

from pytinykv.transaction.changes import TxnChanges
from pytinykv.transaction.commands import TxnHeartBeat
from pytinykv.transaction.errors import PrimaryMismatch, TxnLockNotFound, TxnNotFound, WriteConflict
from pytinykv.transaction.records import rollback_record
from pytinykv.transaction.results import (
    DONE,
    Action,
    Evaluation,
    HeartBeatResult,
    ReleasedLock,
    SecondaryLocks,
    TxnStatus,
)
from pytinykv.transaction.stored_keys import encode_bytes
from pytinykv.wire.timestamp import MAX_TIMESTAMP

K = b"k"
START = ts(1000)
ALIVE, EXPIRED = ts(1100), ts(1101)
"""With a time to live of 100 ms."""


@pytest.mark.tinykv("TestCheckTxnStatusTtlExpired4C")
def test_an_expired_transaction_is_rolled_back(store: TxnStore) -> None:
    store.must(store.prewrite(START, put(K), lock_ttl_ms=100))
    assert store.must(store.check(START, K, current_ts=EXPIRED)) == TxnStatus(Action.TTL_EXPIRE_ROLLBACK)
    assert store.last is not None
    assert store.last.released == [ReleasedLock(K, START)]  # type: ignore[arg-type]
    assert store.kinds(K) == [f"{START} ROLLBACK"]
    assert isinstance(store.fails(store.commit(START, EXPIRED, K)), TxnLockNotFound)


@pytest.mark.tinykv("TestCheckTxnStatusTtlNotExpired4C")
def test_a_living_one_is_left_alone(store: TxnStore) -> None:
    store.must(store.prewrite(START, put(K), lock_ttl_ms=100))
    before = store.dump()
    status = store.must(store.check(START, K, current_ts=ALIVE))
    assert isinstance(status, TxnStatus)
    assert status.lock is not None
    assert (status.action, status.commit_ts, status.lock.lock.ttl_ms) == (Action.NONE, 0, 100)
    assert store.dump() == before


@pytest.mark.tinykv("TestCheckTxnStatusRolledBack4C")
def test_a_rolled_back_one_is_told_so_past_anothers_lock(store: TxnStore) -> None:
    store.must(store.rollback(START, K))
    store.must(store.prewrite(ts(2000), put(K)))
    assert store.must(store.check(START, K, current_ts=EXPIRED)) == TxnStatus()
    assert store.lock(K) is not None


@pytest.mark.tinykv("TestCheckTxnStatusCommitted4C")
def test_a_committed_one_is_told_with_its_commit_ts(store: TxnStore) -> None:
    store.write(10, 20, put(K))
    store.write(30, 40, put(K))
    assert store.must(store.check(10, K, current_ts=EXPIRED)) == TxnStatus(commit_ts=20)  # type: ignore[arg-type]


@pytest.mark.tinykv("TestCheckTxnStatusNoLockNoWrite4C")
def test_an_unknown_one_is_rolled_back_for_good_if_that_is_wanted(store: TxnStore) -> None:
    error = store.fails(store.check(START, K, current_ts=EXPIRED))
    assert isinstance(error, TxnNotFound)
    status = store.must(store.check(START, K, current_ts=EXPIRED, rollback_if_not_exist=True))
    assert status == TxnStatus(Action.LOCK_NOT_EXIST_ROLLBACK)
    ((_, write),) = store.writes(K)
    assert write.is_protected
    assert isinstance(store.fails(store.prewrite(START, put(K))), WriteConflict)


def test_the_callers_timestamp_is_pushed_below_the_commit(store: TxnStore) -> None:
    store.must(store.prewrite(START, put(K), min_commit_ts=START + 1))
    caller = START + 50
    status = store.must(store.check(START, K, caller_start_ts=caller, current_ts=START + 20))
    assert isinstance(status, TxnStatus)
    assert status.action is Action.MIN_COMMIT_TS_PUSHED
    lock = store.lock(K)
    assert lock is not None
    assert lock.min_commit_ts == caller + 1
    assert store.get(K, caller) is None, "its reader passes"
    store.fails(store.commit(START, caller, K))
    store.must(store.commit(START, caller + 1, K))


def test_it_is_pushed_to_the_present_so_that_the_next_reader_need_not(store: TxnStore) -> None:
    store.must(store.prewrite(START, put(K), min_commit_ts=START + 1))
    store.must(store.check(START, K, caller_start_ts=START + 5, current_ts=START + 90))
    lock = store.lock(K)
    assert lock is not None
    assert lock.min_commit_ts == START + 90
    before = store.dump()
    status = store.must(store.check(START, K, caller_start_ts=START + 7, current_ts=START + 99))
    assert isinstance(status, TxnStatus)
    assert status.action is Action.MIN_COMMIT_TS_PUSHED
    assert store.dump() == before


def test_a_lock_without_min_commit_ts_is_not_pushed(store: TxnStore) -> None:
    """Its client does not know of that, and would not try the commit again."""
    store.must(store.prewrite(START, put(K)))
    before = store.dump()
    status = store.must(store.check(START, K, caller_start_ts=START + 50, current_ts=START + 20))
    assert isinstance(status, TxnStatus)
    assert status.action is Action.NONE
    assert store.dump() == before


def test_a_reader_of_the_newest_state_passes_without(store: TxnStore) -> None:
    store.must(store.prewrite(START, put(K), min_commit_ts=START + 1))
    status = store.must(store.check(START, K, caller_start_ts=MAX_TIMESTAMP, current_ts=START + 20))
    assert isinstance(status, TxnStatus)
    assert status.action is Action.MIN_COMMIT_TS_PUSHED
    lock = store.lock(K)
    assert lock is not None
    assert lock.min_commit_ts == START + 1


def test_async_commit_is_decided_by_the_secondaries(store: TxnStore) -> None:
    store.must(store.prewrite(START, put(K), lock_ttl_ms=100, secondaries=(b"s", b"t")))
    status = store.must(store.check(START, K, current_ts=EXPIRED))
    assert isinstance(status, TxnStatus)
    assert status.lock is not None
    assert status.lock.lock.secondaries == (b"s", b"t")
    forced = store.must(store.check(START, K, current_ts=EXPIRED, force_sync_commit=True))
    assert forced == TxnStatus(Action.TTL_EXPIRE_ROLLBACK)


def test_a_key_that_is_not_the_primary_says_which_is(store: TxnStore) -> None:
    store.must(store.prewrite(START, put(K), primary=b"p"))
    error = store.fails(store.check(START, K, current_ts=EXPIRED, verify_is_primary=True))
    assert isinstance(error, PrimaryMismatch)
    assert error.lock.primary == b"p"


def test_what_is_noted_as_read(store: TxnStore) -> None:
    store.run(store.check(10, K, caller_start_ts=70, current_ts=60, rollback_if_not_exist=True))
    assert store.manager.max_ts == 70
    store.run(store.check(10, K, caller_start_ts=MAX_TIMESTAMP, current_ts=MAX_TIMESTAMP))
    assert store.manager.max_ts == 70


# --- a pessimistic primary ----------------------------------------------------------------------------------------


def test_an_expired_pessimistic_primary_is_rolled_back_for_a_prewritten_secondary(store: TxnStore) -> None:
    store.must(store.pessimistic(START, START, K, lock_ttl_ms=100))
    status = store.must(store.check(START, K, current_ts=EXPIRED))
    assert status == TxnStatus(Action.TTL_EXPIRE_ROLLBACK)
    assert [write.is_protected for _, write in store.writes(K)] == [True]


def test_for_a_pessimistic_secondary_it_is_only_taken_away(store: TxnStore) -> None:
    """The transaction may be running, and could not recover from a record."""
    store.must(store.pessimistic(START, START, K, lock_ttl_ms=100))
    status = store.must(store.check(START, K, current_ts=EXPIRED, resolving_pessimistic_lock=True))
    assert status == TxnStatus(Action.TTL_EXPIRE_PESSIMISTIC_ROLLBACK)
    assert (store.kinds(K), store.lock(K)) == ([], None)
    store.must(store.prewrite(START, locked_put(K), for_update_ts=START))


def test_for_a_pessimistic_secondary_a_missing_primary_decides_nothing(store: TxnStore) -> None:
    command = store.check(START, K, rollback_if_not_exist=True, resolving_pessimistic_lock=True)
    assert store.must(command) == TxnStatus(Action.LOCK_NOT_EXIST_DO_NOTHING)
    assert store.dump() == []


def test_a_primary_that_the_transaction_gave_up_is_taken_away(store: TxnStore) -> None:
    """A prewritten lock names K as the primary; the pessimistic lock on K names another one: it is older."""
    store.must(store.pessimistic(START, START, K, primary=b"other"))
    command = store.check(START, K, current_ts=ALIVE, verify_is_primary=True, rollback_if_not_exist=True)
    assert store.must(command) == TxnStatus(Action.LOCK_NOT_EXIST_ROLLBACK)
    assert store.lock(K) is None
    store.must(store.pessimistic(ts(3000), ts(3000), b"b", primary=b"other"))
    mismatch = store.check(ts(3000), b"b", verify_is_primary=True, resolving_pessimistic_lock=True, current_ts=ts(3000))
    assert isinstance(store.fails(mismatch), PrimaryMismatch)


def test_a_forced_lock_of_a_decided_transaction_is_stale(store: TxnStore) -> None:
    store.write(START + 5, START + 9, put(K))
    store.must(store.pessimistic(START, START, K, allow_lock_with_conflict=True))
    store.apply(rollback_at(store, K, START))
    assert store.must(store.check(START, K, current_ts=ALIVE)) == TxnStatus()
    assert store.lock(K) is None


def rollback_at(store: TxnStore, key: bytes, start_ts: int) -> Evaluation:
    """Return the change that writes a protected rollback where a lock is."""
    changes = TxnChanges(store.manager)
    changes.put_write(encode_bytes(key), start_ts, rollback_record(start_ts, protected=True))  # type: ignore[arg-type]
    return changes.finish(DONE)


# --- heartbeats ---------------------------------------------------------------------------------------------------


def test_a_heartbeat_prolongs_and_never_shortens(store: TxnStore) -> None:
    store.must(store.prewrite(START, put(K), lock_ttl_ms=100))
    beat = TxnHeartBeat(primary=K, start_ts=START, advise_ttl_ms=500)  # type: ignore[arg-type]
    assert store.must(beat) == HeartBeatResult(500)
    beat = TxnHeartBeat(primary=K, start_ts=START, advise_ttl_ms=300)  # type: ignore[arg-type]
    assert store.must(beat) == HeartBeatResult(500)
    status = store.must(store.check(START, K, current_ts=ts(1500)))
    assert isinstance(status, TxnStatus)
    assert status.lock is not None


def test_a_heartbeat_without_a_lock_says_so(store: TxnStore) -> None:
    store.must(store.prewrite(START, put(K)))
    beat = TxnHeartBeat(primary=K, start_ts=START + 1, advise_ttl_ms=500)  # type: ignore[arg-type]
    assert isinstance(store.fails(beat), TxnNotFound)


# --- secondaries --------------------------------------------------------------------------------------------------


def test_all_secondaries_locked(store: TxnStore) -> None:
    store.must(store.prewrite(10, put(b"p"), put(b"s"), put(b"t"), secondaries=(b"s", b"t")))
    result = store.must(store.secondaries(10, b"s", b"t"))
    assert isinstance(result, SecondaryLocks)
    assert [info.key for info in result.locks] == [b"s", b"t"]
    assert all(info.lock.use_async_commit and info.lock.min_commit_ts for info in result.locks)


def test_one_committed_decides(store: TxnStore) -> None:
    store.must(store.prewrite(10, put(b"p"), put(b"s"), put(b"t"), secondaries=(b"s", b"t")))
    store.must(store.commit(10, 20, b"t"))
    assert store.must(store.secondaries(10, b"s", b"t")) == SecondaryLocks(commit_ts=20)  # type: ignore[arg-type]


def test_one_missing_is_rolled_back_for_good(store: TxnStore) -> None:
    store.must(store.prewrite(10, put(b"p"), put(b"s"), secondaries=(b"s", b"t")))
    assert store.must(store.secondaries(10, b"s", b"t")) == SecondaryLocks()
    assert [write.is_protected for _, write in store.writes(b"t")] == [True]
    late = store.prewrite(10, put(b"t"), primary=b"p", secondaries=())
    assert isinstance(store.fails(late), WriteConflict)
    assert store.must(store.secondaries(10, b"t")) == SecondaryLocks()


def test_a_pessimistic_one_counts_as_missing(store: TxnStore) -> None:
    store.must(store.pessimistic(10, 10, b"t", primary=b"p"))
    assert store.must(store.secondaries(10, b"t")) == SecondaryLocks()
    assert store.lock(b"t") is None
    late = store.prewrite(10, locked_put(b"t"), primary=b"p", for_update_ts=10, secondaries=())
    store.fails(late)


def test_past_anothers_lock_the_rollback_is_noted_there(store: TxnStore) -> None:
    store.must(store.prewrite(5, put(b"t"), secondaries=()))
    store.must(store.secondaries(10, b"t"))
    lock = store.lock(b"t")
    assert lock is not None
    assert lock.rollback_ts == (10,)
