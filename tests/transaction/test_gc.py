"""Deleting what nobody can see any more, and nothing else."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.transaction.txn_store import LONG, TxnStore, delete, lock_only, put

from pytinykv.storage.changes import DELETE_RANGE
from pytinykv.transaction.commands import DeleteRange, Gc
from pytinykv.transaction.gc import collect, delete_range
from pytinykv.transaction.results import DONE, Evaluation

K = b"k"


def test_the_newest_put_at_the_safe_point_stays_and_all_above(store: TxnStore) -> None:
    for commit_ts in (10, 20, 30):
        store.write(commit_ts - 1, commit_ts, put(K, b"%d" % commit_ts))
    store.write(39, 40, lock_only(K))
    store.write(49, 50, put(K, b"50"))
    assert store.collect(35) == 2
    assert store.kinds(K) == ["50 PUT", "40 LOCK", "30 PUT"]
    assert store.get(K, 35) == b"30"


def test_a_version_exactly_at_the_safe_point_is_what_its_reader_sees(store: TxnStore) -> None:
    store.write(10, 20, put(K, b"old"))
    store.write(30, 35, put(K, b"new"))
    store.collect(35)
    assert store.kinds(K) == ["35 PUT"]
    assert store.get(K, 35) == b"new"


def test_a_delete_goes_with_all_below_it(store: TxnStore) -> None:
    store.write(10, 20, put(K))
    store.write(25, 30, delete(K))
    store.write(45, 50, put(K))
    assert store.collect(35) == 2
    assert store.kinds(K) == ["50 PUT"]
    assert store.get(K, 40) is None


def test_records_that_change_nothing_go(store: TxnStore) -> None:
    store.write(5, 10, put(K))
    store.write(15, 20, lock_only(K))
    store.must(store.cleanup(25, K))
    store.must(store.rollback(50, K))
    assert store.collect(35) == 2
    assert store.kinds(K) == ["50 ROLLBACK", "10 PUT"]


def test_long_values_go_with_their_records(store: TxnStore) -> None:
    store.write(5, 10, put(K, LONG))
    store.write(15, 20, put(K, LONG + b"new"))
    store.collect(30)
    assert [value for cf, _, value in store.dump() if cf == "default"] == [LONG + b"new"]
    store.write(35, 40, delete(K))
    store.collect(50)
    assert store.dump() == []


def test_locks_are_left_alone(store: TxnStore) -> None:
    store.must(store.prewrite(10, put(K, LONG)))
    assert store.collect(50) == 0
    store.must(store.commit(10, 60, K))
    assert store.get(K) == LONG


def test_other_ranges_are_left_alone(store: TxnStore) -> None:
    for key in (b"a", b"k", b"z"):
        store.write(5, 10, put(key))
        store.write(15, 20, delete(key))
    command = Gc(safe_point=30, start=b"b", end=b"z")  # type: ignore[arg-type]
    for part in collect(store.engine, command):
        store.apply(Evaluation(DONE, part.changes))
    assert [store.kinds(key) for key in (b"a", b"k", b"z")] == [["20 DELETE", "10 PUT"], [], ["20 DELETE", "10 PUT"]]


def test_work_comes_in_slices_also_where_there_is_nothing_to_delete(store: TxnStore) -> None:
    store.must(store.prewrite(5, *(put(b"%04d" % n) for n in range(250))))
    store.must(store.commit(5, 10, *(b"%04d" % n for n in range(250))))
    parts = list(collect(store.engine, Gc(safe_point=50), records_max=100))  # type: ignore[arg-type]
    assert [(part.looked_at, part.deleted, part.changes) for part in parts] == [(100, 0, []), (100, 0, []), (50, 0, [])]


def test_others_write_between_slices(store: TxnStore) -> None:
    for key in (b"a", b"b", b"c"):
        store.write(5, 10, put(key, LONG))
        store.write(15, 20, put(key, b"new"))
    store.safe_point = 30
    for number, part in enumerate(collect(store.engine, Gc(safe_point=30), records_max=1)):  # type: ignore[arg-type]
        store.write(40 + 2 * number, 41 + 2 * number, delete(b"c"), put(b"a", b"%d" % number))
        store.must(store.cleanup(20 + number, b"b"))
        store.apply(Evaluation(DONE, part.changes))
    assert store.get(b"b", 30) == b"new"
    assert store.get(b"a", 30) == b"new"
    assert store.get(b"c") is None


VERSIONS = st.lists(
    st.tuples(
        st.sampled_from([b"a", b"b"]), st.sampled_from(["put", "long", "delete", "lock", "rollback", "protected"])
    ),
    max_size=40,
)


@given(VERSIONS, st.integers(0, 450), st.integers(1, 6), st.data())
@settings(max_examples=200, deadline=None)
def test_no_reader_at_or_above_the_safe_point_sees_a_difference(
    versions: list[tuple[bytes, str]], safe_point: int, records_max: int, data: st.DataObject
) -> None:
    """Invariant: whatever prefix of a pass is applied, and finished by a later pass or not."""
    store = TxnStore()
    for number, (key, kind) in enumerate(versions):
        start_ts = 10 * number + 1
        if kind in ("rollback", "protected"):
            store.must(store.cleanup(start_ts, key) if kind == "protected" else store.rollback(start_ts, key))
        else:
            mutation = {"delete": delete(key), "lock": lock_only(key), "long": put(key, LONG)}.get(
                kind, put(key, b"%d" % number)
            )
            store.write(start_ts, start_ts + 5, mutation)
    store.safe_point = safe_point
    readers = list(range(safe_point, 10 * len(versions) + 10, 3))
    before = [store.scan(ts) for ts in readers]
    changes = [
        change
        for part in collect(store.engine, Gc(safe_point=safe_point), records_max=records_max)  # type: ignore[arg-type]
        for change in part.changes
    ]
    applied = data.draw(st.integers(0, len(changes)))
    store.apply(Evaluation(DONE, changes[:applied]))
    assert [store.scan(ts) for ts in readers] == before
    store.collect(safe_point)
    assert [store.scan(ts) for ts in readers] == before
    assert store.collect(safe_point) == 0, "the second pass finds nothing more"
    store.engine.close()


def test_a_range_is_deleted_from_all_families(store: TxnStore) -> None:
    for key in (b"a", b"b", b"c"):
        store.write(5, 10, put(key, LONG))
        store.must(store.prewrite(20, put(key)))
    changes = delete_range(DeleteRange(b"b", b"c"))
    assert [change[0] for change in changes] == [DELETE_RANGE] * 3
    store.apply(Evaluation(DONE, changes))
    assert [store.lock(key) is None for key in (b"a", b"b", b"c")] == [False, True, False]
    assert (store.kinds(b"a"), store.kinds(b"b")) == (["10 PUT"], [])
    assert len([cf for cf, _, _ in store.dump() if cf == "default"]) == 2


def test_a_range_without_an_end_needs_one_from_its_region() -> None:
    with pytest.raises(AssertionError, match="raftstore.keys"):
        delete_range(DeleteRange(b"b", b""))
