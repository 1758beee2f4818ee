"""All that is stored for a key, and how a person reads it."""

from __future__ import annotations

from tests.transaction.txn_store import LONG, TxnStore, delete, put, ts

from pytinykv.transaction.commands import MvccGetByStartTs
from pytinykv.transaction.history import describe, mvcc_by_key, mvcc_by_start_ts


def test_everything_newest_first(store: TxnStore) -> None:
    store.write(10, 20, put(b"k", LONG))
    store.write(30, 40, put(b"k", b"short"))
    store.must(store.cleanup(40, b"k"))
    store.must(store.cleanup(45, b"k"))
    store.write(50, 60, delete(b"k"))
    store.must(store.prewrite(70, put(b"k"), min_commit_ts=71, secondaries=(b"s",)))
    store.write(1, 2, put(b"k\0"))
    info = mvcc_by_key(store.engine, b"k")
    assert info.lock is not None
    assert [commit_ts for commit_ts, _ in info.writes] == [60, 45, 40, 20]
    assert info.values == [(10, LONG)]
    assert describe(info) == [
        "key b'k'",
        (
            "  lock   put by 70, primary b'k', lives 3000 ms, commits at 71 or later, async commit with 1 secondaries, "
            "value b'v'"
        ),
        "  write  delete at 60 by 50",
        "  write  rollback at 45 by 45, protected",
        "  write  put at 40 by 30, value b'short', transaction 40 is rolled back here",
        f"  write  put at 20 by 10, value {LONG[:64]!r}… (500 bytes)",
    ]


def test_times_are_shown_where_there_are_any(store: TxnStore) -> None:
    store.must(store.pessimistic(ts(1000, 3), ts(1000, 4), b"k"))
    lines = describe(mvcc_by_key(store.engine, b"k"))
    assert lines[1] == (
        f"  lock   pessimistic by {ts(1000, 3)} (1000 ms + 3), primary b'k', lives 3000 ms, for update at {ts(1000, 4)}"
    )


def test_a_transaction_is_found_by_its_start_ts(store: TxnStore) -> None:
    store.write(10, 20, put(b"a"))
    store.must(store.rollback(30, b"b"))
    store.must(store.prewrite(40, put(b"c")))

    def key_of(start_ts: int, **bounds: bytes) -> bytes | None:
        info = mvcc_by_start_ts(store.engine, MvccGetByStartTs(start_ts, **bounds))  # type: ignore[arg-type]
        return None if info is None else info.key

    assert [key_of(start_ts) for start_ts in (10, 30, 40, 20)] == [b"a", b"b", b"c", None]
    assert key_of(10, start=b"b") is None


def test_a_value_that_belongs_to_nothing_is_shown_as_such(store: TxnStore) -> None:
    store.must(store.prewrite(10, put(b"k", LONG)))
    evaluation = store.evaluate(store.rollback(10, b"k"))
    evaluation.changes = [change for change in evaluation.changes if change[1] == 1]
    store.apply(evaluation)
    assert describe(mvcc_by_key(store.engine, b"k")) == ["key b'k'", "  value  10, 500 bytes, of no lock and no record"]
