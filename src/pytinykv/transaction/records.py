"""Locks and commit records, in the bytes that TiKV stores.

    column family   key                                             value
    lock            encode_bytes(user key)                          `Lock`
    write           encode_bytes(user key) + inverted commit_ts     `Write`; a rollback stands at the start_ts
    default         encode_bytes(user key) + inverted start_ts      a value of more than 255 bytes, as it is

A lock says that a transaction is about to write a key, a write that it has, or that it never will (Percolator, section
2.2). A value of at most 255 bytes is inside both (the *short value*), so reading it takes no third look.

Both begin with a byte for the kind, and end in fields that begin with a byte for the field:

    lock   kind  primary (zigzag length, bytes)  start_ts (varint)  ttl (varint)  fields
    write  kind  start_ts (varint)                                                 fields

    v  short value: length:1, bytes            f  for_update_ts:8           t  txn_size:8         c  min_commit_ts:8
    a  secondaries: varint count, keys        r  rollback timestamps: varint count, :8 each    l  last change: ts:8, varint
    s  source (varint)                         F  locked with conflict      g  generation:8
    in a write:   R  overlapped rollback       F  gc fence:8                S  source (varint)

Fields come in this order, and those with their zero value are left out. As in TiKV, reading ends at a field that is not
known: it was written by a newer version, and so were all behind it.

Invariants
----------
1. `decode(encode(record)) == record`, and bytes of TiKV that hold known fields only come back as they were.
2. Decoding anything else raises `RecordFormatError`, which names the record.
"""

from __future__ import annotations

import struct
from enum import Enum
from typing import Any, Final, NoReturn

import msgspec

from pytinykv.wire.encoding import varint, varint_at
from pytinykv.wire.keys import describe_key
from pytinykv.wire.timestamp import Timestamp

NO_TS: Final = Timestamp(0)
"""In place of a timestamp that is not there."""

SHORT_VALUE_BYTES_MAX: Final = 255
"""Longest value that stands in the lock and the write themselves."""

_U64: Final = struct.Struct(">Q")
_unpack_u64: Final = _U64.unpack_from
_HIGH_BITS: Final = 0x8080808080808080
"""Those of eight bytes."""


class RecordFormatError(Exception):
    """Bytes that are no lock or no write. The message says of which, and where it went wrong."""


class LockKind(Enum):
    """What a lock protects. The values are stored."""

    PUT = ord("P")
    DELETE = ord("D")
    LOCK = ord("L")
    """Nothing is going to be written; the key is only kept from others. Invisible to reads."""
    PESSIMISTIC = ord("S")
    """The transaction has not prewritten yet. Invisible to reads, never committed."""


class WriteKind(Enum):
    """What a transaction did to a key. The values are stored."""

    PUT = ord("P")
    DELETE = ord("D")
    LOCK = ord("L")
    """Nothing; the key was only locked. Readers look at the versions below it."""
    ROLLBACK = ord("R")
    """The transaction with this start_ts never writes this key."""


_LOCK_KINDS: Final = {kind.value: kind for kind in LockKind}
_WRITE_KINDS: Final = {kind.value: kind for kind in WriteKind}
_SHARED_LOCK: Final = ord("H")

WRITE_OF_LOCK: Final = {
    LockKind.PUT: WriteKind.PUT,
    LockKind.DELETE: WriteKind.DELETE,
    LockKind.LOCK: WriteKind.LOCK,
}
"""What committing a lock leaves. A pessimistic one has no entry: it can't be committed."""


class LastChange(msgspec.Struct, frozen=True):
    """Where the newest put or delete below a LOCK record is, so that readers need not step through a pile of locks.

    `commit_ts` 0: there is none, or it is a delete (`versions` is then 1).
    """

    commit_ts: Timestamp
    versions: int
    """How many records lie in between, more or less; at least 1."""


class Lock(msgspec.Struct, frozen=True, kw_only=True):
    """What stands in column family `lock` at a key. All timestamps are 0 where they do not apply."""

    kind: LockKind
    primary: bytes
    """The user's key that decides the fate of the transaction (Percolator, section 2.2)."""
    start_ts: Timestamp
    """Names the transaction."""
    ttl_ms: int
    """How long after the physical part of `start_ts` the transaction may be thought alive. Heartbeats raise it."""
    short_value: bytes | None = None
    """What a PUT is going to write; None: it is in `default`, or this is no PUT."""
    for_update_ts: Timestamp = NO_TS
    """Not 0: the transaction is pessimistic, and nothing was committed at the key after that when it was locked."""
    txn_size: int = 0
    """How many keys the transaction has, as its client thinks: small ones are resolved key by key."""
    min_commit_ts: Timestamp = NO_TS
    """The transaction commits at or above this. Readers below it need not wait. Only ever raised."""
    use_async_commit: bool = False
    """The transaction is committed once all its locks are there, at the largest of their `min_commit_ts`."""
    secondaries: tuple[bytes, ...] = ()
    """With async commit, in the primary's lock only: the user's keys of all other locks."""
    rollback_ts: tuple[Timestamp, ...] = ()
    """Start timestamps of others whose rollback this lock's commit record might overwrite; see `commit`."""
    last_change: LastChange | None = None
    source: int = 0
    """Who wrote it, for tools that replicate; carried through."""
    is_locked_with_conflict: bool = False
    """A pessimistic lock that was given although another transaction had committed above its `for_update_ts`."""
    generation: int = 0
    """Counts the flushes of a transaction that prewrites while it runs; carried through."""
    use_one_pc: bool = False
    """Only in memory: the transaction may be committed by this very command, so reads of the newest state wait for it."""

    @property
    def is_pessimistic(self) -> bool:
        """Whether this is a lock that is not prewritten yet."""
        return self.kind is LockKind.PESSIMISTIC

    @property
    def is_of_pessimistic_txn(self) -> bool:
        """Whether its transaction is pessimistic, prewritten or not."""
        return self.for_update_ts != 0

    def expires_at_ms(self) -> int:
        """Return the physical time after which the transaction may be rolled back."""
        return (self.start_ts >> 18) + self.ttl_ms

    def is_expired(self, current_ts: Timestamp) -> bool:
        """Tell whether the time to live was over at the physical part of `current_ts`."""
        return self.expires_at_ms() < current_ts >> 18


class Write(msgspec.Struct, frozen=True, kw_only=True):
    """What stands in column family `write` at a key and a commit_ts."""

    kind: WriteKind
    start_ts: Timestamp
    short_value: bytes | None = None
    """The value of a PUT; None: it is in `default` at `start_ts`. A rollback that must not be collapsed has `b"p"`."""
    has_overlapped_rollback: bool = False
    """Another transaction, whose start_ts is this one's commit_ts, is rolled back at this key: its record has no other
    place."""
    gc_fence: Timestamp | None = None
    """Set when `has_overlapped_rollback` was added to a record that was there already: the commit_ts of the next put or
    delete above it then, 0 for none. A replica that has collected both would get this one back alone; a reader that finds
    a fence at or below its version but not the record there knows that this one is gone, too."""
    last_change: LastChange | None = None
    source: int = 0

    @property
    def is_protected(self) -> bool:
        """Whether this is a rollback that stays until garbage collection."""
        return self.kind is WriteKind.ROLLBACK and self.short_value == _PROTECTED

    def is_fenced_off(self, read_ts: Timestamp) -> bool:
        """Tell whether this record, found newest at `read_ts`, was collected before and has only come back."""
        return bool(self.gc_fence) and self.gc_fence <= read_ts  # type: ignore[operator]  # None is false


_PROTECTED: Final = b"p"


def rollback_record(start_ts: Timestamp, *, protected: bool) -> Write:
    """Return the record of a transaction that is rolled back; a protected one is not collapsed into later ones."""
    return Write(kind=WriteKind.ROLLBACK, start_ts=start_ts, short_value=_PROTECTED if protected else None)


# --- encoding -----------------------------------------------------------------------------------------------------


def _compact(data: bytes) -> bytes:
    """Return bytes with their length before them, which is a signed varint (zigzag), as in TiKV."""
    return varint(len(data) << 1) + data


def _add_field(out: bytearray, name: bytes, number: int) -> None:
    """Add a field of eight bytes, unless it is 0."""
    if number:
        out += name
        out += _U64.pack(number)


def _add_short_value(out: bytearray, value: bytes | None) -> None:
    if value is not None:
        assert len(value) <= SHORT_VALUE_BYTES_MAX, "a longer value belongs into column family default"
        out += b"v"
        out.append(len(value))
        out += value


def _add_last_change(out: bytearray, last_change: LastChange | None) -> None:
    if last_change is not None:
        out += b"l"
        out += _U64.pack(last_change.commit_ts)
        out += varint(last_change.versions)


def encode_lock(lock: Lock) -> bytes:
    """Return the stored form of a lock."""
    out = bytearray((lock.kind.value,))
    out += _compact(lock.primary)
    out += varint(lock.start_ts)
    out += varint(lock.ttl_ms)
    _add_short_value(out, lock.short_value)
    _add_field(out, b"f", lock.for_update_ts)
    _add_field(out, b"t", lock.txn_size)
    _add_field(out, b"c", lock.min_commit_ts)
    if lock.use_async_commit:
        out += b"a"
        out += varint(len(lock.secondaries))
        for key in lock.secondaries:
            out += _compact(key)
    if lock.rollback_ts:
        out += b"r"
        out += varint(len(lock.rollback_ts))
        for timestamp in lock.rollback_ts:
            out += _U64.pack(timestamp)
    _add_last_change(out, lock.last_change)
    if lock.source:
        out += b"s" + varint(lock.source)
    if lock.is_locked_with_conflict:
        out += b"F"
    _add_field(out, b"g", lock.generation)
    return bytes(out)


def encode_write(write: Write) -> bytes:
    """Return the stored form of a write."""
    out = bytearray((write.kind.value,))
    out += varint(write.start_ts)
    _add_short_value(out, write.short_value)
    if write.has_overlapped_rollback:
        out += b"R"
    if write.gc_fence is not None:
        out += b"F" + _U64.pack(write.gc_fence)
    _add_last_change(out, write.last_change)
    if write.source:
        out += b"S" + varint(write.source)
    return bytes(out)


def put_record(start_ts: Timestamp, short_value: bytes | None) -> bytes:
    """Return `encode_write` of a plain put; None: its value is too long to stand in it."""
    if short_value is None:
        return b"P" + varint(start_ts)
    return b"P%bv%c%b" % (varint(start_ts), len(short_value), short_value)


def delete_record(start_ts: Timestamp) -> bytes:
    """Return `encode_write` of a plain delete."""
    return b"D" + varint(start_ts)


# --- decoding -----------------------------------------------------------------------------------------------------


class _Bytes:
    """What is left to decode of a record."""

    __slots__ = ("at", "data", "record")

    def __init__(self, data: bytes, record: str) -> None:
        self.data = data
        self.record = record
        self.at = 0
        """Where the next field begins."""

    def fail(self, what: str) -> NoReturn:
        raise RecordFormatError(f"this is no {self.record}: {what} at byte {self.at} of {describe_key(self.data)}")

    def byte(self) -> int:
        if self.at >= len(self.data):
            self.fail("it ends")
        self.at += 1
        return self.data[self.at - 1]

    def take(self, size: int) -> bytes:
        taken = self.data[self.at : self.at + size]
        if len(taken) != size:
            self.fail(f"{size} bytes should follow")
        self.at += size
        return taken

    def u64(self) -> Timestamp:
        """Return a number of eight bytes; nearly all of them are timestamps."""
        return Timestamp(_U64.unpack(self.take(8))[0])

    def varint(self) -> int:
        number, self.at = varint_at(self.data, self.at)
        if number < 0:
            self.fail("a number that does not end, or has more than 64 bits, begins")
        return number

    def count(self, item_bytes: int) -> int:
        """Return how many items follow, each of at least so many bytes: never more than there is room for."""
        count = self.varint()
        if count * item_bytes > len(self.data) - self.at:
            self.fail(f"{count} items should follow")
        return count

    def compact(self) -> bytes:
        zigzag = self.varint()
        if zigzag & 1:
            self.fail("a length is negative")
        return self.take(zigzag >> 1)

    def last_change(self) -> LastChange | None:
        commit_ts, versions = self.u64(), self.varint()
        return LastChange(commit_ts, versions) if versions else None


def decode_lock(data: bytes) -> Lock:
    """Read a lock. Raises RecordFormatError; also for a lock that several transactions share, which is not supported."""
    return _decode_usual_lock(data) or _decode_any_lock(data)


def _decode_usual_lock(data: bytes) -> Lock | None:
    """Read a lock with the fields that nearly all have; None for every other one, and for what is none.

    Takes a third of the time of `_decode_any_lock`.
    """
    size = len(data)
    kind = _LOCK_KINDS.get(data[0]) if data else None
    length, at = varint_at(data, 1)
    if kind is None or length < 0 or length & 1:
        return None
    primary = data[at : at + (length >> 1)]
    start_ts, at = varint_at(data, at + (length >> 1))
    ttl_ms, at = varint_at(data, at)
    if start_ts < 0 or ttl_ms < 0:
        return None
    fields: dict[str, Any] = {}
    while at < size:
        field = data[at]
        if field in _LOCK_NUMBERS and at + 9 <= size:
            (fields[_LOCK_NUMBERS[field]],) = _unpack_u64(data, at + 1)
            at += 9
        elif field == 0x76 and at + 1 < size:  # v
            end = at + 2 + data[at + 1]
            fields["short_value"], at = data[at + 2 : end], end
        elif field == 0x61:  # a
            fields["use_async_commit"] = True
            fields["secondaries"], at = _keys_at(data, at + 1)
        else:
            return None
    return (
        Lock(kind=kind, primary=primary, start_ts=Timestamp(start_ts), ttl_ms=ttl_ms, **fields) if at == size else None
    )


def _keys_at(data: bytes, at: int) -> tuple[tuple[bytes, ...], int]:
    """Return the keys whose number stands at `at`, and where they end: behind the end of `data` if they are none."""
    count, at = varint_at(data, at)
    keys: list[bytes] = []
    while len(keys) < count:
        length, at = varint_at(data, at)
        if length < 0 or length & 1 or at >= len(data):
            return (), len(data) + 1
        keys.append(data[at : at + (length >> 1)])
        at += length >> 1
    return tuple(keys), at if count >= 0 else len(data) + 1


def _decode_any_lock(data: bytes) -> Lock:
    left = _Bytes(data, "lock")
    first = left.byte()
    kind = _LOCK_KINDS.get(first)
    if kind is None:
        left.fail("a shared lock, which this version does not know," if first == _SHARED_LOCK else "an unknown kind")
    primary, start_ts = left.compact(), left.varint()
    ttl_ms = left.varint() if left.at < len(data) else 0
    fields: dict[str, object] = {}
    while left.at < len(data):
        if not _decode_lock_field(left.byte(), left, fields):
            break
    return Lock(kind=kind, primary=primary, start_ts=start_ts, ttl_ms=ttl_ms, **fields)  # type: ignore[arg-type]  # by name


def _decode_lock_field(field: int, left: _Bytes, fields: dict[str, object]) -> bool:
    """Read one field behind the byte that names it; False if it is not known."""
    name = chr(field)
    if field in _LOCK_NUMBERS:
        fields[_LOCK_NUMBERS[field]] = left.u64()
    elif name == "v":
        fields["short_value"] = left.take(left.byte())
    elif name == "a":
        fields["use_async_commit"] = True
        fields["secondaries"] = tuple(left.compact() for _ in range(left.count(1)))
    elif name == "r":
        fields["rollback_ts"] = tuple(left.u64() for _ in range(left.count(8)))
    elif name == "l":
        fields["last_change"] = left.last_change()
    elif name == "s":
        fields["source"] = left.varint()
    elif name == "F":
        fields["is_locked_with_conflict"] = True
    else:
        return False
    return True


_LOCK_NUMBERS: Final = {0x66: "for_update_ts", 0x74: "txn_size", 0x63: "min_commit_ts", 0x67: "generation"}
"""Fields of eight bytes, by the byte before them: f, t, c, g."""


def decode_write(data: bytes) -> Write:
    """Read a write. Raises RecordFormatError."""
    kind = _WRITE_KINDS.get(data[0]) if data else None
    start, at = varint_at(data, 1)
    if kind is not None and start >= 0:
        # What nearly all records are: no field, or a short value.
        if at == len(data):
            return Write(kind=kind, start_ts=Timestamp(start))
        if data[at] == 0x76 and at + 2 <= len(data) == at + 2 + data[at + 1]:
            return Write(kind=kind, start_ts=Timestamp(start), short_value=data[at + 2 :])
    return _decode_any_write(data)


def short_value_of_put(data: bytes) -> bytes | None:
    """Return the value of a record that is a PUT with a short value and nothing else; None for every other one.

    That is what nearly all records are that readers meet, and takes a third of the time of `decode_write`.
    """
    size = len(data)
    if size < 4 or data[0] != 0x50:
        return None
    if (
        size > 11
        and data[10] == 0x76
        and size == data[11] + 12
        and data[9] < 0x80
        and _unpack_u64(data, 1)[0] & _HIGH_BITS == _HIGH_BITS
    ):
        return data[12:]  # nine bytes of start_ts, as all timestamps have from 1978 to 3084
    at = 2
    while data[at - 1] > 0x7F:  # the start_ts
        at += 1
        if at == size:
            return None
    if data[at] == 0x76 and at + 2 <= size == at + 2 + data[at + 1]:
        return data[at + 2 :]
    return None


def _decode_any_write(data: bytes) -> Write:
    left = _Bytes(data, "commit record")
    kind = _WRITE_KINDS.get(left.byte())
    if kind is None:
        left.fail("an unknown kind")
    start_ts = Timestamp(left.varint())
    short_value: bytes | None = None
    has_overlapped_rollback = False
    gc_fence: Timestamp | None = None
    last_change: LastChange | None = None
    source = 0
    while left.at < len(data):
        field = left.byte()
        if field == 0x76:  # v
            short_value = left.take(left.byte())
        elif field == 0x52:  # R
            has_overlapped_rollback = True
        elif field == 0x46:  # F
            gc_fence = left.u64()
        elif field == 0x6C:  # l
            last_change = left.last_change()
        elif field == 0x53:  # S
            source = left.varint()
        else:
            break
    return Write(
        kind=kind,
        start_ts=start_ts,
        short_value=short_value,
        has_overlapped_rollback=has_overlapped_rollback,
        gc_fence=gc_fence,
        last_change=last_change,
        source=source,
    )
