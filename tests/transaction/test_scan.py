"""Ranges at a timestamp, both ways."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest.mock import MagicMock, patch

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.storage.engines import make_harness
from tests.transaction.txn_store import LONG, TxnStore, delete, lock_only, put

from pytinykv.storage import ColumnFamily, Engine
from pytinykv.transaction import TxnErrorRaised
from pytinykv.transaction.commands import Isolation, ReadView, Scan
from pytinykv.transaction.errors import KeyIsLocked, SnapshotTooOld, WriteConflict
from pytinykv.transaction.results import Pair
from pytinykv.transaction.scan import RECORDS_PER_STEP, ROWS_AHEAD, STEPS_MAX, scan, scan_in_steps
from pytinykv.wire.keys import encode_bytes
from pytinykv.wire.timestamp import Timestamp

scan_module = importlib.import_module("pytinykv.transaction.scan")  # the package has a function of this name
BOTH = pytest.mark.parametrize("reverse", [False, True])


def keys(rows: list[Pair]) -> list[bytes]:
    return [row.key for row in rows]


@pytest.fixture
def filled(store: TxnStore) -> TxnStore:
    for number in range(5):
        store.write(10, 20, put(b"k%d" % number, b"%d" % number))
    return store


@pytest.mark.tinykv("TestScanEmpty4C")
@BOTH
def test_behind_all_data_there_is_nothing(filled: TxnStore, reverse: bool) -> None:
    assert filled.scan(start=b"l", reverse=reverse) == []
    assert filled.scan(end=b"k", reverse=reverse) == []


@pytest.mark.tinykv("TestScanLimitZero4C")
@BOTH
def test_a_limit_of_zero_reads_nothing(filled: TxnStore, reverse: bool) -> None:
    assert filled.scan(limit=0, reverse=reverse) == []


@pytest.mark.tinykv("TestScanAll4C")
def test_all_pairs_at_the_timestamp_in_order(filled: TxnStore) -> None:
    filled.write(30, 40, put(b"k1", b"later"), put(b"k9", b"later"))
    assert [(row.key, row.value) for row in filled.scan(39)] == [(b"k%d" % n, b"%d" % n) for n in range(5)]
    assert [row.value for row in filled.scan(40)] == [b"0", b"later", b"2", b"3", b"4", b"later"]
    assert filled.scan(40, reverse=True) == filled.scan(40)[::-1]


@pytest.mark.tinykv("TestScanLimit4C")
def test_the_limit_counts_rows(filled: TxnStore) -> None:
    assert keys(filled.scan(limit=2)) == [b"k0", b"k1"]
    assert keys(filled.scan(limit=2, reverse=True)) == [b"k4", b"k3"]


@BOTH
def test_bounds_are_the_same_both_ways(filled: TxnStore, reverse: bool) -> None:
    rows = keys(filled.scan(start=b"k1", end=b"k3", reverse=reverse))
    assert sorted(rows) == [b"k1", b"k2"]


@pytest.mark.tinykv("TestScanDeleted4C")
@BOTH
def test_a_deleted_key_is_left_out_until_it_is_written_again(filled: TxnStore, reverse: bool) -> None:
    filled.write(30, 40, delete(b"k2"))
    filled.write(50, 60, put(b"k2", b"again"))
    assert sorted(keys(filled.scan(45, reverse=reverse))) == [b"k0", b"k1", b"k3", b"k4"]
    assert (b"k2", b"again") in [(row.key, row.value) for row in filled.scan(60, reverse=reverse)]


@BOTH
def test_a_locked_key_is_an_error_in_its_place_and_the_scan_goes_on(filled: TxnStore, reverse: bool) -> None:
    filled.must(filled.prewrite(30, put(b"k1"), put(b"k5"), put(b"k11")))
    rows = filled.scan(50, reverse=reverse)
    assert sorted(keys(rows)) == [b"k0", b"k1", b"k11", b"k2", b"k3", b"k4", b"k5"]
    assert keys(rows) == sorted(keys(rows), reverse=reverse)
    assert {row.key for row in rows if isinstance(row.error, KeyIsLocked)} == {b"k1", b"k11", b"k5"}
    assert all(row.error is None for row in filled.scan(29, reverse=reverse))
    assert len(filled.scan(50, limit=3, reverse=reverse)) == 3


@BOTH
def test_isolation_and_known_locks_count_as_in_get(filled: TxnStore, reverse: bool) -> None:
    filled.must(filled.prewrite(30, put(b"k1", b"new"), delete(b"k2"), put(b"k3", LONG), lock_only(b"k4")))

    def values(**view: object) -> dict[bytes, bytes]:
        rows = filled.scan(50, reverse=reverse, view=view)
        assert all(row.error is None for row in rows)
        return {row.key: row.value for row in rows}

    old = {b"k%d" % n: b"%d" % n for n in range(5)}
    assert values(isolation=Isolation.RC) == old
    assert values(resolved_locks=frozenset({30})) == old
    expected = {b"k0": b"0", b"k1": b"new", b"k3": LONG, b"k4": b"4"}
    assert values(committed_locks=frozenset({30})) == expected


@BOTH
def test_newer_versions_are_errors_with_the_check(filled: TxnStore, reverse: bool) -> None:
    filled.write(30, 40, put(b"k1", b"newer"))
    filled.write(50, 51, lock_only(b"k2"))
    rows = filled.scan(35, reverse=reverse, view={"isolation": Isolation.RC_CHECK_TS})
    assert [row.key for row in rows if isinstance(row.error, WriteConflict)] == [b"k1"]
    assert len(rows) == 5


@BOTH
def test_keys_only(filled: TxnStore, reverse: bool) -> None:
    filled.write(30, 40, put(b"k1", LONG))
    rows = filled.scan(reverse=reverse, key_only=True)
    assert len(rows) == 5
    assert {row.value for row in rows} == {b""}


@BOTH
def test_long_values_are_read(filled: TxnStore, reverse: bool) -> None:
    filled.write(30, 40, put(b"k1", LONG))
    assert {row.key: row.value for row in filled.scan(reverse=reverse)}[b"k1"] == LONG


def test_below_the_safe_point_a_scan_is_told_so(filled: TxnStore) -> None:
    filled.safe_point = 30
    with pytest.raises(TxnErrorRaised) as raised:
        filled.scan(29)
    assert isinstance(raised.value.error, SnapshotTooOld)


@BOTH
@pytest.mark.parametrize("what", ["older", "newer", "locks", "rollbacks"])
def test_keys_with_many_records_between_others(store: TxnStore, reverse: bool, what: str) -> None:
    store.write(1, 2, put(b"a", b"a"), put(b"b", b"b"), put(b"c", b"c"))
    for start_ts in range(10, 10 + 3 * STEPS_MAX * 2, 2):
        if what == "rollbacks":
            store.must(store.cleanup(start_ts, b"b"))
        else:
            store.write(start_ts, start_ts + 1, lock_only(b"b") if what == "locks" else put(b"b", b"%d" % start_ts))
    version = {"older": 1000, "newer": 5}.get(what, 1000)
    rows = {row.key: row.value for row in store.scan(version, reverse=reverse)}
    newest = b"%d" % (10 + 3 * STEPS_MAX * 2 - 2) if what == "older" else b"b"
    assert rows == {b"a": b"a", b"b": newest, b"c": b"c"}


@BOTH
@pytest.mark.parametrize("ahead", [1, 2, ROWS_AHEAD])
@pytest.mark.parametrize("engine", ["memory", "rocks"])
def test_a_suspended_scan_shows_the_moment_at_which_it_began(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, engine: str, ahead: int, reverse: bool
) -> None:
    monkeypatch.setattr(scan_module, "ROWS_AHEAD", ahead)
    harness = make_harness(engine, tmp_path)
    store = TxnStore(harness.engine)
    for number in range(4):
        store.write(10, 20, put(b"k%d" % number, b"old" if number % 2 else LONG))
    rows = scan(store.engine, Scan(limit=10, reverse=reverse))
    seen = [next(rows)]
    for number in range(4):
        store.write(30, 40, put(b"k%d" % number, b"new"))
    store.must(store.prewrite(50, put(b"k2"), put(b"k1")))
    store.collect(45)
    seen.extend(rows)
    assert [row.value for row in seen] == ([b"old", LONG] * 2 if reverse else [LONG, b"old"] * 2)
    harness.close()


DELETED = 10 * RECORDS_PER_STEP


@BOTH
@pytest.mark.parametrize("what", ["deleted", "newer", "many versions of one", "locks that do not matter"])
def test_what_makes_no_row_is_stepped_over_a_bit_at_a_time(store: TxnStore, reverse: bool, what: str) -> None:
    """So a scan over any number of deleted keys lets others have their turn."""
    store.write(10, 20, put(b"a", b"first"), put(b"z", b"last"))
    numbers = range(DELETED)
    if what == "many versions of one":
        for number in numbers:
            store.write(30 + 2 * number, 31 + 2 * number, lock_only(b"k"))
    else:
        batch = [b"k%06d" % number for number in numbers]
        if what == "locks that do not matter":
            store.must(store.prewrite(60, *map(put, batch)))
        else:
            store.write(30, 40, *map(delete if what == "deleted" else put, batch))
    version = 25 if what == "newer" else 50
    rows = list(scan_in_steps(store.engine, Scan(limit=10, reverse=reverse, view=ReadView(version=Timestamp(version)))))
    assert keys([row for row in rows if row is not None]) == ([b"z", b"a"] if reverse else [b"a", b"z"])
    if what == "many versions of one":
        return  # a few steps, then a seek
    assert DELETED // RECORDS_PER_STEP - 1 <= rows.count(None) <= 2 * DELETED // RECORDS_PER_STEP + 1
    assert rows[0] is not None, "what was found before the first step does not wait for the last one"


@BOTH
@pytest.mark.parametrize("engine", ["memory", "rocks"])
def test_a_scan_that_is_suspended_at_a_step_shows_the_moment_at_which_it_began(
    tmp_path: Path, engine: str, reverse: bool
) -> None:
    harness = make_harness(engine, tmp_path)
    store = TxnStore(harness.engine)
    store.write(10, 20, put(b"a", b"old"), put(b"z", b"old"))
    store.write(30, 40, *(delete(b"k%06d" % number) for number in range(2 * RECORDS_PER_STEP)))
    rows = scan_in_steps(store.engine, Scan(limit=10, reverse=reverse))
    seen = []
    while (row := next(rows)) is not None:
        seen.append(row)
    store.must(store.prewrite(50, put(b"z"), put(b"a"), put(b"k000300")))
    store.write(60, 70, put(b"b", b"new"), put(b"y", b"new"))
    seen.extend(row for row in rows if row is not None)
    assert sorted((row.key, row.value, row.error) for row in seen) == [(b"a", b"old", None), (b"z", b"old", None)]
    harness.close()


class LockSearches:
    """A reader that remembers where its cursors on locks were moved to."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self.bounds: list[tuple[bytes, bytes | None]] = []

    def get(self, cf: ColumnFamily, key: bytes) -> bytes | None:
        return self._engine.get(cf, key)

    def scan(self, *args: Any, **kwargs: Any) -> Iterator[tuple[bytes, bytes]]:
        return self._engine.scan(*args, **kwargs)

    def cursor(self, cf: ColumnFamily, start: bytes = b"", end: bytes | None = None) -> Any:
        cursor = self._engine.cursor(cf, start, end)
        if cf is not ColumnFamily.LOCK:
            return cursor

        def pairs(**kwargs: Any) -> Iterator[tuple[bytes, bytes]]:
            self.bounds.append((start, end))
            return cursor.pairs(**kwargs)

        found = MagicMock()
        found.__enter__.return_value.pairs = pairs
        found.__exit__.side_effect = lambda *_: cursor.close()
        return found


@BOTH
def test_locks_are_searched_no_further_than_the_rows_asked_for(filled: TxnStore, reverse: bool) -> None:
    """Otherwise every page of a large range steps over all locks that were ever deleted in it."""
    engine = LockSearches(filled.engine)
    rows = list(scan(engine, Scan(start=b"k0", end=b"k9", limit=2, reverse=reverse)))
    assert keys(rows) == ([b"k4", b"k3"] if reverse else [b"k0", b"k1"])
    key = encode_bytes
    assert engine.bounds == [(key(b"k3"), key(b"k9")) if reverse else (key(b"k0"), key(b"k1") + b"\0")]


@BOTH
def test_locks_behind_the_rows_that_were_looked_up_ahead(
    filled: TxnStore, monkeypatch: pytest.MonkeyPatch, reverse: bool
) -> None:
    monkeypatch.setattr(scan_module, "ROWS_AHEAD", 2)
    locked = (b"k0", b"k00", b"k1", b"k10", b"k2", b"k3", b"k33", b"k5")
    filled.must(filled.prewrite(30, *(put(key) for key in locked), primary=b"k0"))
    everything = filled.scan(50)
    assert {row.key for row in everything if row.error is not None} == set(locked)
    assert keys(everything) == sorted({*locked, b"k4"})
    assert filled.scan(50, reverse=True) == everything[::-1]
    assert filled.scan(50, limit=6, reverse=reverse) == (everything[::-1] if reverse else everything)[:6]
    # Deletes that are read through make no rows, so the rows looked up ahead are not enough.
    filled.must(filled.prewrite(32, delete(b"k4"), primary=b"k4"))
    view = {"committed_locks": frozenset({30, 32})}
    assert keys(filled.scan(50, limit=8, reverse=reverse, view=view)) == sorted(locked, reverse=reverse)


KEY = st.sampled_from([b"a", b"b", b"bb", b"c", b"12345678", b"123456789"])
STEP = st.tuples(KEY, st.sampled_from(["put", "long", "delete", "lock", "rollback", "prewrite", "protected"]))


@given(
    st.lists(STEP, max_size=80),
    st.integers(1, 500),
    st.sampled_from([1, 2, 3, ROWS_AHEAD]),
    st.sampled_from([1, 2, 3, RECORDS_PER_STEP]),
)
@settings(max_examples=150, deadline=None)
def test_scan_agrees_with_get(steps: list[tuple[bytes, str]], version: int, ahead: int, per_step: int) -> None:
    """Invariant: a scan, either way, yields what get finds at each key, or the error that it raises."""
    store = TxnStore()
    for number, (key, step) in enumerate(steps):
        start_ts = 10 * number + 1
        lock = store.lock(key)
        if lock is not None:
            store.run(store.commit(lock.start_ts, start_ts, key))
        if step in ("rollback", "protected"):
            store.must(store.cleanup(start_ts, key) if step == "protected" else store.rollback(start_ts, key))
            continue
        value = LONG if step == "long" else b"%d" % number
        mutation = {"delete": delete(key), "lock": lock_only(key)}.get(step, put(key, value))
        store.must(store.prewrite(start_ts, mutation, primary=b"elsewhere"))
        if step != "prewrite":
            store.must(store.commit(start_ts, start_ts + 3, key))
    expected = []
    for key in sorted({key for key, _ in steps}):
        try:
            value = store.get(key, version)
        except TxnErrorRaised as raised:
            expected.append(Pair(key, b"", raised.error))
        else:
            if value is not None:
                expected.append(Pair(key, value))
    with patch.object(scan_module, "ROWS_AHEAD", ahead), patch.object(scan_module, "RECORDS_PER_STEP", per_step):
        assert store.scan(version) == expected
        assert store.scan(version, reverse=True) == expected[::-1]
    store.engine.close()
