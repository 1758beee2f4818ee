"""What users of such systems have reported, each as a story (as far as it shows without a cluster)."""

from __future__ import annotations

import pytest
from tests.transaction.txn_store import TxnStore, delete, locked_put, put, ts

from pytinykv.transaction import Failure, ReadView, TxnErrorRaised
from pytinykv.transaction.commands import PessimisticAction
from pytinykv.transaction.errors import KeyIsLocked, SnapshotTooOld, TxnLockNotFound, WriteConflict
from pytinykv.transaction.pessimistic import after_waiting
from pytinykv.transaction.results import Action, PrewriteResult, TxnStatus


def test_a_pessimistic_lock_lives_its_full_time_from_when_it_is_given(store: TxnStore) -> None:
    start_ts = ts(100_000)
    store.must(store.pessimistic(ts(1), ts(1), b"k"))
    request = store.pessimistic(start_ts, start_ts, b"k", lock_ttl_ms=3000)
    assert isinstance(store.fails(request), KeyIsLocked)
    store.must(store.pessimistic_rollback(ts(1), ts(1), b"k"))
    store.must(after_waiting(request, 10_000))
    lock = store.lock(b"k")
    assert lock is not None
    assert lock.expires_at_ms() == 100_000 + 10_000 + 3000
    asked = store.check(start_ts, b"k", current_ts=ts(112_999))
    status = store.must(asked)
    assert isinstance(status, TxnStatus)
    assert status.lock is not None


def test_a_lock_request_that_fails_in_the_middle_leaves_no_lock_and_no_primary(store: TxnStore) -> None:
    store.write(30, 40, put(b"b"))
    request = store.pessimistic(20, 20, b"a", b"b", b"c", primary=b"a", is_first_lock=True)
    assert isinstance(store.fails(request), WriteConflict)
    assert all(store.lock(key) is None for key in (b"a", b"b", b"c"))
    # The client takes another primary, and nobody finds an older one on `a`.
    store.must(store.pessimistic(20, 50, b"c", primary=b"c"))
    status = store.check(20, b"a", current_ts=20, rollback_if_not_exist=True, resolving_pessimistic_lock=True)
    assert store.must(status) == TxnStatus(Action.LOCK_NOT_EXIST_DO_NOTHING)
    store.must(store.prewrite(20, locked_put(b"c"), for_update_ts=50))


@pytest.mark.parametrize("is_pessimistic", [False, True])
def test_a_transaction_whose_rollback_was_merged_with_anothers_can_t_commit(
    store: TxnStore, is_pessimistic: bool
) -> None:
    """Its lock on the primary got lost, a reader has cleaned up its secondary, the record there is gone in another's."""
    start_ts, for_update_ts = 10, 10 if is_pessimistic else 0
    action = PessimisticAction.CHECK_LOCK if is_pessimistic else PessimisticAction.SKIP_CHECK
    secondary = store.prewrite(start_ts, put(b"s", action=action), primary=b"p", for_update_ts=for_update_ts)
    store.must(secondary)
    checked = store.must(store.check(start_ts, b"p", current_ts=ts(9999), rollback_if_not_exist=True))
    assert checked == TxnStatus(Action.LOCK_NOT_EXIST_ROLLBACK)
    store.must(store.resolve({start_ts: 0}, b"s"))
    # Another transaction is rolled back at both keys, and its records take the place of unprotected ones.
    store.must(store.rollback(20, b"p", b"s"))
    assert store.kinds(b"s") == ["20 ROLLBACK"]
    # Now what was on its way for long arrives.
    late = [
        store.prewrite(start_ts, put(b"p", action=action), primary=b"p", for_update_ts=for_update_ts),
        secondary,
        store.commit(start_ts, 30, b"p"),
        store.commit(start_ts, 30, b"s"),
    ]
    assert [type(store.fails(command)).__name__ for command in late[2:]] == ["TxnLockNotFound"] * 2
    for command in late:
        assert isinstance(store.run(command), Failure)
    assert (store.get(b"p"), store.get(b"s")) == (None, None)


@pytest.mark.parametrize("is_earlier", [True, False], ids=["a commit that is there", "a lock that commits there later"])
@pytest.mark.parametrize("is_pessimistic", [False, True], ids=["optimistic", "pessimistic"])
def test_a_transaction_whose_rollback_was_merged_with_anothers_commit_can_t_commit(
    store: TxnStore, *, is_pessimistic: bool, is_earlier: bool
) -> None:
    """The other one, by async commit, was committed at the very timestamp at which this one began."""
    start_ts, for_update_ts = 10, 10 if is_pessimistic else 0
    action = PessimisticAction.CHECK_LOCK if is_pessimistic else PessimisticAction.SKIP_CHECK
    store.must(store.prewrite(5, put(b"p", b"other"), put(b"s", b"other"), secondaries=(b"s",), primary=b"p"))
    if is_earlier:
        store.must(store.commit(5, start_ts, b"p", b"s"))
    checked = store.must(store.check(start_ts, b"p", current_ts=ts(9999), rollback_if_not_exist=True))
    assert checked == TxnStatus(Action.LOCK_NOT_EXIST_ROLLBACK)
    store.must(store.cleanup(start_ts, b"s"))
    if not is_earlier:
        store.must(store.commit(5, start_ts, b"p", b"s"))
    assert store.kinds(b"p") == store.kinds(b"s") == ["10 PUT"]
    store.must(store.rollback(20, b"p", b"s"))
    late = [
        *(
            store.prewrite(start_ts, put(key, action=action), primary=b"p", for_update_ts=for_update_ts)
            for key in (b"p", b"s")
        ),
        *(store.commit(start_ts, 30, key) for key in (b"p", b"s")),
    ]
    for command in late:
        assert isinstance(store.run(command), Failure)
    assert (store.get(b"p"), store.get(b"s")) == (b"other", b"other")


def test_a_reader_blocked_by_a_secondary_passes_a_primary_that_is_still_pessimistic(store: TxnStore) -> None:
    store.write(1, 2, put(b"s", b"old"), put(b"p", b"old"))
    store.must(store.pessimistic(10, 15, b"p", b"s", primary=b"p", min_commit_ts=16))
    store.must(store.prewrite(10, locked_put(b"s", b"new"), primary=b"p", for_update_ts=15, min_commit_ts=16))
    with pytest.raises(TxnErrorRaised) as raised:
        store.get(b"s", 50)
    error = raised.value.error
    assert isinstance(error, KeyIsLocked)
    status = store.must(store.check(10, error.lock.primary, caller_start_ts=50, current_ts=52))
    assert isinstance(status, TxnStatus)
    assert status.action is Action.MIN_COMMIT_TS_PUSHED
    assert store.get(b"s", 50, resolved_locks=frozenset({10})) == b"old"
    # The promise holds: prewriting the primary does not forget it.
    store.must(store.prewrite(10, locked_put(b"p", b"new"), for_update_ts=15, min_commit_ts=16))
    store.fails(store.commit(10, 51, b"p"))
    store.must(store.commit(10, 53, b"p", b"s"))
    assert store.get(b"s", 50) == b"old"


def test_commits_of_one_client_are_seen_in_their_order(store: TxnStore) -> None:
    """k1 commits at 100. Then k2 commits by async commit on a store that has seen reads up to 50 only."""
    store.get(b"k1", 50)
    store.write(90, 100, put(b"k1", b"new"))
    # The client takes a timestamp after the first commit, so the second begins above it, however little was read here.
    second = store.prewrite(101, put(b"k2", b"new"), secondaries=())
    result = store.must(second)
    assert isinstance(result, PrewriteResult)
    assert result.min_commit_ts > 100
    store.must(store.commit(101, result.min_commit_ts, b"k2"))
    for version in (80, 99, 100, 101, 102):
        if store.get(b"k2", version) == b"new":
            assert store.get(b"k1", version) == b"new"


def test_the_second_commit_may_have_begun_before_the_first(store: TxnStore) -> None:
    """It began at 40, so only min_commit_ts, which its client takes from the scheduler, keeps the order."""
    store.get(b"k1", 50)
    store.write(90, 100, put(b"k1", b"new"))
    result = store.must(store.prewrite(40, put(b"k2", b"new"), secondaries=(), min_commit_ts=101))
    assert isinstance(result, PrewriteResult)
    assert result.min_commit_ts == 101
    one_phase = store.must(store.prewrite(41, put(b"k3", b"new"), try_one_pc=True, min_commit_ts=102))
    assert isinstance(one_phase, PrewriteResult)
    assert one_phase.one_pc_commit_ts == 102
    assert store.get(b"k3", 80) is None


def test_a_reader_that_garbage_collection_has_passed_is_told_so(store: TxnStore) -> None:
    store.write(5, 10, put(b"k"))
    store.write(15, 20, delete(b"k"))
    store.collect(30)
    for read in (lambda: store.get(b"k", 15), lambda: store.scan(15), lambda: store.scan(15, reverse=True)):
        with pytest.raises(TxnErrorRaised) as raised:
            read()
        assert isinstance(raised.value.error, SnapshotTooOld)
    assert store.get(b"k", 30) is None


def test_after_an_outage_a_commit_is_repeated_or_refused_as_a_whole(store: TxnStore) -> None:
    """The scheduler is away between prewrite and commit; another client has checked the transaction meanwhile."""
    start_ts = ts(1000)
    store.must(store.prewrite(start_ts, put(b"p"), put(b"s"), lock_ttl_ms=100))
    status = store.must(store.check(start_ts, b"p", current_ts=ts(1050)))
    assert isinstance(status, TxnStatus)
    assert status.lock is not None, "alive: nobody rolls it back"
    store.must(store.commit(start_ts, ts(1060), b"p"))
    store.must(store.commit(start_ts, ts(1060), b"p"))
    store.must(store.resolve({start_ts: ts(1060)}, b"s"))
    store.must(store.commit(start_ts, ts(1060), b"s"))
    assert store.get(b"s", ts(1060)) == store.get(b"p", ts(1060)) == b"v"
    # Expired meanwhile: refused on every key, and the error says so.
    late = ts(2000)
    store.must(store.prewrite(late, put(b"p"), put(b"s"), lock_ttl_ms=100))
    store.must(store.check(late, b"p", current_ts=ts(2200)))
    assert isinstance(store.fails(store.commit(late, ts(2300), b"p")), TxnLockNotFound)
    store.must(store.resolve({late: 0}, b"s"))
    assert isinstance(store.fails(store.commit(late, ts(2300), b"s")), TxnLockNotFound)


def test_a_read_noted_after_the_choice_meets_the_lock_in_memory(store: TxnStore) -> None:
    evaluation = store.evaluate(store.prewrite(10, put(b"k"), try_one_pc=True))
    view = ReadView(80)  # type: ignore[arg-type]
    store.manager.note_read(view.version)
    assert store.manager.blocks(b"k", view) is not None
    store.apply(evaluation)
    assert store.get(b"k", 80) == b"v"
