"""Bytes that must be read for ever, and that TiKV reads and writes as well."""

from __future__ import annotations

import contextlib
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytinykv.transaction.records import (
    LastChange,
    Lock,
    LockKind,
    RecordFormatError,
    Write,
    WriteKind,
    _decode_any_lock,
    _decode_usual_lock,
    decode_lock,
    decode_write,
    encode_lock,
    encode_write,
    rollback_record,
    short_value_of_put,
)

U64 = st.integers(0, 2**64 - 1)
LAST_CHANGE = st.none() | st.builds(LastChange, U64, st.integers(1, 2**64 - 1))

LOCKS: list[tuple[dict[str, Any], str]] = [
    ({"kind": LockKind.PUT, "ttl_ms": 3}, "50 02 70 05 03"),
    ({"kind": LockKind.DELETE, "primary": b"", "start_ts": 300, "ttl_ms": 0}, "44 00 ac 02 00"),
    ({"kind": LockKind.LOCK, "primary": b"k" * 64, "start_ts": 1}, "4c 80 01" + " 6b" * 64 + " 01 00"),
    ({"kind": LockKind.PUT, "short_value": b"val"}, "50 02 70 05 00 76 03 76 61 6c"),
    ({"kind": LockKind.PUT, "short_value": b""}, "50 02 70 05 00 76 00"),
    (
        {"kind": LockKind.PESSIMISTIC, "for_update_ts": 6, "txn_size": 2, "min_commit_ts": 7},
        "53 02 70 05 00 66 0000000000000006 74 0000000000000002 63 0000000000000007",
    ),
    (
        {"kind": LockKind.PUT, "use_async_commit": True, "secondaries": (b"a", b"bc"), "rollback_ts": (8, 9)},
        "50 02 70 05 00 61 02 02 61 04 6263 72 02 0000000000000008 0000000000000009",
    ),
    ({"kind": LockKind.PUT, "use_async_commit": True}, "50 02 70 05 00 61 00"),
    (
        {"kind": LockKind.LOCK, "last_change": LastChange(4, 200), "source": 1, "generation": 3},
        "4c 02 70 05 00 6c 0000000000000004 c8 01 73 01 67 0000000000000003",
    ),
    (
        {"kind": LockKind.PESSIMISTIC, "last_change": LastChange(0, 1), "is_locked_with_conflict": True},
        "53 02 70 05 00 6c 0000000000000000 01 46",
    ),
]

WRITES: list[tuple[Write, str]] = [
    (Write(kind=WriteKind.PUT, start_ts=5), "50 05"),
    (Write(kind=WriteKind.PUT, start_ts=300, short_value=b"val"), "50 ac 02 76 03 76 61 6c"),
    (Write(kind=WriteKind.DELETE, start_ts=2**64 - 1), "44 ff ff ff ff ff ff ff ff ff 01"),
    (Write(kind=WriteKind.LOCK, start_ts=5, last_change=LastChange(3, 1)), "4c 05 6c 0000000000000003 01"),
    (rollback_record(5, protected=False), "52 05"),
    (rollback_record(5, protected=True), "52 05 76 01 70"),
    (
        Write(kind=WriteKind.PUT, start_ts=5, has_overlapped_rollback=True, gc_fence=0, source=9),
        "50 05 52 46 0000000000000000 53 09",
    ),
    (
        Write(kind=WriteKind.DELETE, start_ts=5, has_overlapped_rollback=True, gc_fence=12),
        "44 05 52 46 000000000000000c",
    ),
]


@pytest.mark.parametrize(("fields", "stored"), LOCKS)
def test_golden_locks(fields: dict[str, Any], stored: str) -> None:
    lock = Lock(**{"primary": b"p", "start_ts": 5, "ttl_ms": 0, **fields})
    assert encode_lock(lock).hex() == stored.replace(" ", "")
    assert decode_lock(bytes.fromhex(stored)) == lock


@pytest.mark.parametrize(("write", "stored"), WRITES)
def test_golden_writes(write: Write, stored: str) -> None:
    assert encode_write(write).hex() == stored.replace(" ", "")
    assert decode_write(bytes.fromhex(stored)) == write


@pytest.mark.parametrize(
    "stored", [stored for _, stored in WRITES] + ["", "50", "50 05 76", "50 ff ff", "50 05 76 02 61"]
)
def test_the_short_way_agrees_with_the_long_one(stored: str) -> None:
    data = bytes.fromhex(stored)
    try:
        write = decode_write(data)
    except RecordFormatError:
        assert short_value_of_put(data) is None
        return
    is_plain = write == Write(kind=WriteKind.PUT, start_ts=write.start_ts, short_value=write.short_value)
    assert short_value_of_put(data) == (write.short_value if is_plain else None)


def test_a_value_of_255_bytes_is_short() -> None:
    write = Write(kind=WriteKind.PUT, start_ts=1, short_value=bytes(255))
    assert encode_write(write)[:4] == b"P\x01v\xff"
    assert decode_write(encode_write(write)) == write


def test_a_lock_of_old_may_end_before_its_time_to_live() -> None:
    assert decode_lock(bytes.fromhex("50027005")).ttl_ms == 0


def test_what_stands_behind_a_field_that_is_not_known_is_ignored() -> None:
    """As TiKV reads it: fields have an order, so what follows an unknown one is newer, too."""
    assert decode_lock(bytes.fromhex("5002700500 7f 66")) == decode_lock(bytes.fromhex("5002700500"))
    assert decode_write(bytes.fromhex("5005 7f 76")) == decode_write(bytes.fromhex("5005"))


def test_one_phase_is_no_part_of_the_stored_lock() -> None:
    lock = Lock(kind=LockKind.PUT, primary=b"p", start_ts=5, ttl_ms=0, use_one_pc=True)
    assert not decode_lock(encode_lock(lock)).use_one_pc


@given(
    st.builds(
        Lock,
        kind=st.sampled_from(LockKind),
        primary=st.binary(max_size=200),
        start_ts=U64,
        ttl_ms=U64,
        short_value=st.none() | st.binary(max_size=255),
        for_update_ts=U64,
        txn_size=U64,
        min_commit_ts=U64,
        use_async_commit=st.just(value=True),
        secondaries=st.lists(st.binary(max_size=99)).map(tuple),
        rollback_ts=st.lists(U64).map(tuple),
        last_change=LAST_CHANGE,
        source=U64,
        is_locked_with_conflict=st.booleans(),
        generation=U64,
    )
)
def test_any_lock_comes_back(lock: Lock) -> None:
    assert decode_lock(encode_lock(lock)) == lock


@given(
    st.builds(
        Lock,
        kind=st.sampled_from(LockKind),
        primary=st.binary(max_size=20),
        start_ts=U64,
        ttl_ms=st.integers(0, 20_000),
        short_value=st.none() | st.binary(max_size=9),
        for_update_ts=U64,
        txn_size=st.integers(0, 3),
        min_commit_ts=U64,
        use_async_commit=st.just(value=True),
        secondaries=st.lists(st.binary(max_size=20), max_size=3).map(tuple),
    ),
    st.data(),
)
def test_the_usual_way_to_read_a_lock_agrees_with_the_long_one(lock: Lock, data: st.DataObject) -> None:
    stored = bytearray(encode_lock(lock))
    if all(lock.secondaries):
        assert _decode_usual_lock(bytes(stored)) == lock
    at = data.draw(st.integers(0, len(stored)))
    damaged = bytes(stored[:at] + data.draw(st.binary(max_size=3)) + stored[at + data.draw(st.integers(0, 3)) :])
    usual = _decode_usual_lock(damaged)
    assert usual is None or usual == _decode_any_lock(damaged)


@given(
    st.builds(
        Write,
        kind=st.sampled_from(WriteKind),
        start_ts=U64,
        short_value=st.none() | st.binary(max_size=255),
        has_overlapped_rollback=st.booleans(),
        gc_fence=st.none() | U64,
        last_change=LAST_CHANGE,
        source=U64,
    )
)
def test_any_write_comes_back(write: Write) -> None:
    assert decode_write(encode_write(write)) == write


@given(st.sampled_from("PDLSRHx").map(str.encode), st.binary(max_size=60))
def test_garbage_raises_the_decode_error_only(kind: bytes, garbage: bytes) -> None:
    for decode in (decode_lock, decode_write):
        with contextlib.suppress(RecordFormatError):
            decode(kind + garbage)  # type: ignore[operator]


@pytest.mark.parametrize(
    ("stored", "message"),
    [
        ("", "this is no lock: it ends at byte 0"),
        ("51", "this is no lock: an unknown kind at byte 1"),
        ("48 01", "a shared lock, which this version does not know"),
        ("50 02", "1 bytes should follow at byte 2"),
        ("50 01 00", "a length is negative"),
        ("50 00 ff ff ff ff ff ff ff ff ff 7f", "more than 64 bits, begins"),
        ("50 00 05 00 76 05 61", "5 bytes should follow"),
        ("50 00 05 00 72 ff ff 03", "65535 items should follow"),
    ],
)
def test_a_damaged_lock_says_where(stored: str, message: str) -> None:
    with pytest.raises(RecordFormatError, match=message):
        decode_lock(bytes.fromhex(stored))


def test_a_damaged_write_says_where() -> None:
    with pytest.raises(RecordFormatError, match="this is no commit record: an unknown kind at byte 1 of b'S"):
        decode_write(b"S\x01")
