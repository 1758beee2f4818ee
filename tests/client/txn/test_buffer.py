"""What a transaction has written: what each operation makes of what was there before, and what scans show of it."""

from __future__ import annotations

from collections import deque
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytinykv.client import KeyExistsError, TransactionClosedError, TransactionTooLargeError
from pytinykv.client.commands import Pair
from pytinykv.client.key_space import KeyRange
from pytinykv.client.scan_request import ScanRequest
from pytinykv.client.txn.buffer import WriteBuffer
from pytinykv.client.txn.merging import MergingPages
from pytinykv.client.txn.read_set import ReadSet
from pytinykv.client.txn.records import CHECK_NOT_EXISTS, DELETE, INSERT, LOCK, PUT


def make_buffer(*, is_pessimistic: bool = False, keys_max: int = 100, bytes_max: int = 1000) -> WriteBuffer:
    return WriteBuffer(is_pessimistic=is_pessimistic, keys_max=keys_max, bytes_max=bytes_max)


def apply(buffer: WriteBuffer, steps: str) -> None:
    for step in steps.split():
        match step:
            case "put":
                buffer.put(b"k", b"v")
            case "insert":
                buffer.insert(b"k", b"v")
            case "delete":
                buffer.delete(b"k")
            case "lock":
                buffer.lock(b"k")


@pytest.mark.parametrize(
    ("steps", "op"),
    [
        ("put", PUT),
        ("insert", INSERT),
        ("delete", DELETE),
        ("lock", LOCK),
        ("put put", PUT),
        ("put delete", DELETE),
        ("put lock", PUT),
        ("insert put", INSERT),
        ("insert delete", CHECK_NOT_EXISTS),
        ("insert delete put", INSERT),
        ("insert delete insert", INSERT),
        ("insert delete delete", CHECK_NOT_EXISTS),
        ("insert delete lock", CHECK_NOT_EXISTS),
        ("delete put", PUT),
        ("delete insert", PUT),
        ("delete lock", DELETE),
        ("lock put", PUT),
        ("lock insert", INSERT),
        ("lock delete", DELETE),
    ],
)
def test_what_becomes_of_a_key_that_is_written_again(steps: str, op: Any) -> None:
    buffer = make_buffer()
    apply(buffer, steps)
    (write,) = buffer.freeze(str)
    assert write.op == op


def test_a_pessimistic_transaction_deletes_what_it_has_inserted() -> None:
    buffer = make_buffer(is_pessimistic=True)
    apply(buffer, "insert delete")
    (write,) = buffer.freeze(str)
    assert write.op == DELETE, "the server takes no mere check from a pessimistic transaction"


@pytest.mark.parametrize("steps", ["put insert", "insert insert", "insert put insert"])
def test_an_insert_of_a_key_that_the_transaction_has_written_is_refused(steps: str) -> None:
    with pytest.raises(KeyExistsError, match="this transaction has written it") as caught:
        apply(make_buffer(), steps)
    assert caught.value.key == b"k"


def test_reads_see_what_was_written_but_not_what_was_only_locked() -> None:
    buffer = make_buffer()
    assert buffer.find(b"k") == (False, None)
    apply(buffer, "lock")
    assert buffer.find(b"k") == (False, None)
    apply(buffer, "put")
    assert buffer.find(b"k") == (True, b"v")
    apply(buffer, "delete")
    assert buffer.find(b"k") == (True, None)


def test_more_bytes_than_allowed_are_refused_and_the_rest_stands() -> None:
    buffer = make_buffer(bytes_max=10)
    buffer.put(b"a", b"12345")
    with pytest.raises(TransactionTooLargeError, match="would have 12 bytes with b'b'; at most 10 are allowed"):
        buffer.put(b"b", b"12345")
    buffer.put(b"a", b"1")  # what takes the place of another counts alone
    buffer.put(b"b", b"12345")
    assert (len(buffer), buffer.size) == (2, 8)


def test_more_keys_than_allowed_are_refused() -> None:
    buffer = make_buffer(keys_max=1)
    buffer.put(b"a", b"")
    with pytest.raises(TransactionTooLargeError, match="has 1 keys already"):
        buffer.delete(b"b")


def test_nothing_is_taken_after_the_end() -> None:
    buffer = make_buffer()
    apply(buffer, "put")
    assert [write.key for write in buffer.freeze(lambda: "it is committed")] == [b"k"]
    with pytest.raises(TransactionClosedError, match="it is committed"):
        buffer.put(b"late", b"v")


class FakePages:
    """Pages of pairs that are there already."""

    def __init__(self, pairs: list[Pair], size: int) -> None:
        self.pages = [deque(pairs[at : at + size]) for at in range(0, len(pairs), size)]

    def check_origin(self) -> None:
        """It can be used everywhere."""

    async def next_page(self) -> deque[Pair]:
        return self.pages.pop(0) if self.pages else deque()


KEYS = st.binary(min_size=1, max_size=2)
ROWS = st.dictionaries(KEYS, st.binary(max_size=1), max_size=12)
OWN = st.dictionaries(KEYS, st.one_of(st.none(), st.binary(max_size=1)), max_size=8)


@given(ROWS, OWN, st.integers(1, 5), st.one_of(st.none(), st.integers(0, 15)), st.booleans(), st.booleans())
def test_a_scan_shows_own_writes_on_top_of_the_snapshot(
    rows: dict[bytes, bytes],
    own: dict[bytes, bytes | None],
    page_size: int,
    limit: int | None,
    reverse: bool,
    key_only: bool,
) -> None:
    shown = {key: value for key, value in (rows | own).items() if value is not None}
    expected = sorted(shown.items(), reverse=reverse)[:limit]
    snapshot = sorted(rows.items(), reverse=reverse)
    if key_only:
        expected = [(key, b"") for key, _ in expected]
        snapshot = [(key, b"") for key, _ in snapshot]
    scan = ScanRequest.checked(b"", None, prefix=None, limit=limit, reverse=reverse, key_only=key_only, timeout=None)
    pages = MergingPages(FakePages(snapshot, page_size), sorted(own.items()), scan, check=int)
    result: list[Pair] = []

    async def read() -> None:
        while page := await pages.next_page():
            result.extend(page)

    coroutine = read()
    with pytest.raises(StopIteration):  # nothing in it waits
        coroutine.send(None)
    assert result == expected


@given(OWN, KEYS, st.one_of(st.just(b""), KEYS))
def test_a_range_of_the_buffer(own: dict[bytes, bytes | None], start: bytes, end: bytes) -> None:
    buffer = make_buffer()
    for key, value in own.items():
        if value is None:
            buffer.delete(key)
        else:
            buffer.put(key, value)
    inside = sorted(item for item in own.items() if start <= item[0] and (not end or item[0] < end))
    assert buffer.within(KeyRange(start, end)) == (inside if not end or start < end else [])


def test_a_read_set_holds_keys_and_ranges() -> None:
    read = ReadSet()
    read.add(b"a")
    read.update([b"c", b"d"])
    read.add_range(KeyRange(b"m", b"p"))
    read.add_range(KeyRange(b"x", b""))
    held = [key for key in (b"a", b"b", b"c", b"d", b"l", b"m", b"o", b"p", b"x", b"z") if read.holds(key)]
    assert held == [b"a", b"c", b"d", b"m", b"o", b"x", b"z"]
