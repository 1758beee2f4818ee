r"""Where things are in the engine.

`raft` column family, all integers big-endian, so that byte order is numeric order:

    01                              StoreIdent
    02                              the first region, while this store tries to bootstrap the cluster
    03 region_id:8                  RegionLocalState
    04 region_id:8                  RaftLocalState
    05 region_id:8                  ApplyState
    06 region_id:8 index:8          Entry

`raw` column family: one tag byte and the user's key. The tag tells the three raw column families of TiKV's protocol
apart (`default`, `lock`, `write`), which share no key.
"""

from __future__ import annotations

from pytinykv.storage import ColumnFamily
from pytinykv.wire.limits import KEY_BYTES_MAX

STORE_IDENT_KEY = b"\x01"
PREPARED_REGION_KEY = b"\x02"

_REGION_STATE = b"\x03"
_RAFT_STATE = b"\x04"
_APPLY_STATE = b"\x05"
_ENTRY = b"\x06"

REGION_STATE_START = _REGION_STATE
REGION_STATE_END = _RAFT_STATE

RAW_TAGS = {"default": b"d", "lock": b"l", "write": b"w"}
"""Raw column family -> tag byte. Stored, never change."""

ABOVE_ALL_ENCODED_KEYS = b"\xff" * (KEY_BYTES_MAX // 8 * 9 + 1)
"""Greater than every key of the transactional families.

Their keys begin with the memcomparable form of a user's key: groups of 8 bytes, each with a marker byte behind it. The marker
is FF after a full group only, and the last group is never full, so at most KEY_BYTES_MAX / 8 groups of 9 FF come before a
byte that is less."""


def region_state_key(region_id: int) -> bytes:
    return _REGION_STATE + region_id.to_bytes(8, "big")


def raft_state_key(region_id: int) -> bytes:
    return _RAFT_STATE + region_id.to_bytes(8, "big")


def apply_state_key(region_id: int) -> bytes:
    return _APPLY_STATE + region_id.to_bytes(8, "big")


def entry_prefix(region_id: int) -> bytes:
    return _ENTRY + region_id.to_bytes(8, "big")


def entry_key(region_id: int, index: int) -> bytes:
    return _ENTRY + region_id.to_bytes(8, "big") + index.to_bytes(8, "big")


def index_of_entry(key: bytes) -> int:
    """Return the index of the log entry that is stored under a key."""
    return int.from_bytes(key[-8:], "big")


def data_ranges(start_key: bytes, end_key: bytes) -> list[tuple[ColumnFamily, bytes, bytes]]:
    """Return every engine range (column family, start, end) that belongs to a region's key range, in a fixed order.

    The ends are never empty; in the transactional families an unbounded region ends at `ABOVE_ALL_ENCODED_KEYS`.
    """
    ranges = [
        (cf, start_key, end_key or ABOVE_ALL_ENCODED_KEYS)
        for cf in (ColumnFamily.DEFAULT, ColumnFamily.LOCK, ColumnFamily.WRITE)
    ]
    ranges.extend((ColumnFamily.RAW, start, end) for start, end in raw_ranges(start_key, end_key))
    return ranges


def raw_ranges(start_key: bytes, end_key: bytes) -> list[tuple[bytes, bytes]]:
    """Return the ranges of the raw family (start, end) that belong to a region's key range, in key order."""
    return [(tag + start_key, raw_end(tag, end_key)) for tag in RAW_TAGS.values()]


def raw_end(tag: bytes, end_key: bytes) -> bytes:
    """Return the engine key at which a raw range with this end (empty: unbounded) ends."""
    return tag + end_key if end_key else bytes([tag[0] + 1])
