"""Where a region that has grown too large is split: between parts of about the same size. Found without reading the data.

The engine estimates how large a range is, so a key at a given share of the region's bytes is found by bisection: halve the
range of keys, go to the key that is there, ask how much lies below it. Usually ten to fifty estimates for each boundary.

Which bytes make a boundary:

    raw data alone on this store       the key of a pair
    transactional data as well         the memcomparable form of a user's key, without a timestamp

A plain boundary would break transactional clients, which decode boundaries. As all versions of a user's key begin with its
memcomparable form, none of the latter lies between them. Those of raw data then only come near the key they were made of.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

from pytinykv.model import Region
from pytinykv.raftstore import keys
from pytinykv.storage import ColumnFamily
from pytinykv.wire.keys import KeyCodecError, decode_bytes_prefix, encode_bytes

if TYPE_CHECKING:
    from pytinykv.storage import Cursor, Engine, Reader

STEPS_MAX: Final = 1024
"""Halvings of the range of keys for one boundary: 8 for each byte that takes part in the choice; usually 10 to 50."""
CLOSE_ENOUGH: Final = 1 / 32
"""By which share of a part its size may differ from what is wanted."""
_WIDTH: Final = 24
"""Bytes behind the common prefix of two keys in which the middle between them is looked for."""

_TRANSACTIONAL = (ColumnFamily.DEFAULT, ColumnFamily.LOCK, ColumnFamily.WRITE)


class _Range(NamedTuple):
    cf: ColumnFamily
    start: bytes
    end: bytes
    size_bytes: int


def holds_transactional_data(reader: Reader) -> bool:
    """Return whether there is any in what an engine holds. Costs three seeks."""
    for cf in _TRANSACTIONAL:
        with reader.cursor(cf, b"", None) as cursor:
            if cursor.seek_to_first() is not None:
                return True
    return False


def holds_transactional_data_in(reader: Reader, region: Region) -> bool:
    """As `holds_transactional_data`, for what lies in one region."""
    for cf, start, end in keys.data_ranges(region.start_key, region.end_key):
        if cf in _TRANSACTIONAL:
            with reader.cursor(cf, start, end) as cursor:
                if cursor.seek_to_first() is not None:
                    return True
    return False


def size_bytes(engine: Engine, region: Region) -> int:
    """Estimate the size of a region's data in the engine."""
    ranges = keys.data_ranges(region.start_key, region.end_key)
    return sum(engine.approximate_size_bytes(cf, start, end) for cf, start, end in ranges)


def find_split_keys(engine: Engine, region: Region, part_bytes: int, *, is_transactional: bool = False) -> list[bytes]:
    """Return where to split a region into parts of about the same size, none much above `part_bytes`; empty if nowhere.

    The family with most of the data decides. `is_transactional`: the cluster holds transactions, whatever this store does.
    Blocks for a few milliseconds. Raises EngineError.
    """
    ranges = [
        _Range(cf, start, end, engine.approximate_size_bytes(cf, start, end))
        for cf, start, end in keys.data_ranges(region.start_key, region.end_key)
    ]
    largest = max(ranges, key=lambda one: one.size_bytes)
    parts = -(-sum(one.size_bytes for one in ranges) // part_bytes)
    is_plain = not is_transactional and not holds_transactional_data(engine)
    found: list[bytes] = []
    with engine.cursor(largest.cf, largest.start, largest.end) as cursor:
        for number in range(1, parts):
            key = _key_at(engine, cursor, largest, largest.size_bytes * number // parts, largest.size_bytes / parts)
            bound = None if key is None else _boundary(largest.cf, key, is_plain=is_plain)
            if bound is not None and bound > (found[-1] if found else region.start_key) and region.contains(bound):
                found.append(bound)
    return found


def _key_at(engine: Engine, cursor: Cursor, within: _Range, wanted: int, part: float) -> bytes | None:
    """Return the key below which about `wanted` bytes of the range lie; never the first one."""
    low, high = cursor.seek_to_first(), cursor.seek_to_last()
    if low is None or high is None or low == high:
        return None
    best, best_error = high, float(within.size_bytes)
    for _ in range(STEPS_MAX):
        middle = _middle(low, high)
        if not low < middle < high:
            break
        key = cursor.seek(middle)
        if key is None or key >= high:
            high = middle
            continue
        size = engine.approximate_size_bytes(within.cf, within.start, key)
        error = abs(size - wanted)
        if error < best_error:
            best, best_error = key, error
        if error <= part * CLOSE_ENOUGH:
            break
        if size < wanted:
            low = key
        else:
            high = middle
    return best


def _middle(low: bytes, high: bytes) -> bytes:
    """Return bytes about in the middle between two keys."""
    common = 0
    while common < min(len(low), len(high)) and low[common] == high[common]:
        common += 1
    left = int.from_bytes(low[common : common + _WIDTH].ljust(_WIDTH, b"\0"), "big")
    right = int.from_bytes(high[common : common + _WIDTH].ljust(_WIDTH, b"\0"), "big")
    return low[:common] + ((left + right) // 2).to_bytes(_WIDTH, "big").rstrip(b"\0")


def _boundary(cf: ColumnFamily, key: bytes, *, is_plain: bool) -> bytes | None:
    """Return the boundary that an engine key stands for, None if it is no key that belongs there."""
    if cf is ColumnFamily.RAW:
        return key[1:] if is_plain else encode_bytes(key[1:])
    try:
        _user_key, timestamp = decode_bytes_prefix(key)
    except KeyCodecError:
        return None
    return key[: len(key) - len(timestamp)]
