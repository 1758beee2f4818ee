"""What is stored for a key, all of it: for people who look for a mistake, and for tools that show it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Final

from pytinykv.storage import ColumnFamily
from pytinykv.transaction.commands import MvccGetByStartTs
from pytinykv.transaction.records import Lock, Write, decode_lock, decode_write
from pytinykv.transaction.results import MvccInfo
from pytinykv.transaction.stored_keys import (
    ABOVE_VERSIONS,
    TS_BYTES,
    encode_bytes,
    encoded_range,
    timestamp_of,
    user_key,
)
from pytinykv.wire.keys import describe_key
from pytinykv.wire.timestamp import Timestamp, decompose

if TYPE_CHECKING:
    from pytinykv.storage import Reader

RECORDS_PER_STEP: Final = 256
"""Records that are looked at in one step of a search."""


def mvcc_by_key(source: Reader, key: bytes) -> MvccInfo:
    """Return every version, value and lock of a user's key."""
    encoded = encode_bytes(key)
    above = encoded + ABOVE_VERSIONS
    lock = source.get(ColumnFamily.LOCK, encoded)
    return MvccInfo(
        key=key,
        lock=None if lock is None else decode_lock(lock),
        writes=[
            (timestamp_of(stored), decode_write(record))
            for stored, record in source.scan(ColumnFamily.WRITE, encoded, above)
        ],
        values=[(timestamp_of(stored), value) for stored, value in source.scan(ColumnFamily.DEFAULT, encoded, above)],
    )


def mvcc_by_start_ts(source: Reader, command: MvccGetByStartTs) -> MvccInfo | None:
    """Return all of the first key that a transaction has locked, written or rolled back; None if there is none.

    It looks at every lock, and then at every record, of the range.
    """
    key = next((key for key in key_by_start_ts(source, command) if key is not None), None)
    return None if key is None else mvcc_by_key(source, key)


def key_by_start_ts(source: Reader, command: MvccGetByStartTs) -> Iterator[bytes | None]:
    """Yield that key at the end, if there is one, and before that None for each `RECORDS_PER_STEP` that were looked at."""
    start, end = encoded_range(command.start, command.end)
    with source.cursor(ColumnFamily.LOCK, start, end) as locks, source.cursor(ColumnFamily.WRITE, start, end) as writes:
        for looked_at, (encoded, stored) in enumerate(locks.pairs(), 1):
            if decode_lock(stored).start_ts == command.start_ts:
                yield user_key(encoded)
                return
            if looked_at % RECORDS_PER_STEP == 0:
                yield None
        for looked_at, (stored, record) in enumerate(writes.pairs(), 1):
            if decode_write(record).start_ts == command.start_ts:
                yield user_key(stored[:-TS_BYTES])
                return
            if looked_at % RECORDS_PER_STEP == 0:
                yield None


def describe(info: MvccInfo) -> list[str]:
    """Return what is stored for a key as lines that a person reads, the newest first."""
    lines = [f"key {describe_key(info.key)}"]
    if info.lock is not None:
        lines.append(f"  lock   {describe_lock(info.lock)}")
    values = dict(info.values)
    for commit_ts, write in info.writes:
        lines.append(f"  write  {describe_write(commit_ts, write, values)}")
    used = {write.start_ts for _, write in info.writes} | ({info.lock.start_ts} if info.lock else set())
    lines.extend(
        f"  value  {_when(start_ts)}, {len(value)} bytes, of no lock and no record"
        for start_ts, value in info.values
        if start_ts not in used
    )
    return lines


def describe_lock(lock: Lock) -> str:
    """Return a lock as a person reads it."""
    said = [f"{lock.kind.name.lower()} by {_when(lock.start_ts)}, primary {describe_key(lock.primary)}"]
    said.append(f"lives {lock.ttl_ms} ms")
    if lock.for_update_ts:
        said.append(f"for update at {lock.for_update_ts}")
    if lock.min_commit_ts:
        said.append(f"commits at {lock.min_commit_ts} or later")
    if lock.use_async_commit:
        said.append(f"async commit with {len(lock.secondaries)} secondaries")
    if lock.short_value is not None:
        said.append(f"value {describe_key(lock.short_value)}")
    return ", ".join(said)


def describe_write(commit_ts: Timestamp, write: Write, values: dict[Timestamp, bytes]) -> str:
    """Return a commit record as a person reads it; `values` are the long ones, by start_ts."""
    said = [f"{write.kind.name.lower()} at {_when(commit_ts)} by {write.start_ts}"]
    if write.is_protected:
        said.append("protected")
    elif write.short_value is not None:
        said.append(f"value {describe_key(write.short_value)}")
    elif write.start_ts in values:
        said.append(f"value {describe_key(values[write.start_ts])}")
    if write.has_overlapped_rollback:
        said.append(f"transaction {commit_ts} is rolled back here")
    if write.gc_fence:
        said.append(f"superseded at {write.gc_fence}")
    return ", ".join(said)


def _when(timestamp: Timestamp) -> str:
    physical_ms, logical = decompose(timestamp)
    return f"{timestamp} ({physical_ms} ms + {logical})" if physical_ms else str(timestamp)
