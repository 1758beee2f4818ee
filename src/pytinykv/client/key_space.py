"""How the keys of commands relate to the bounds of regions.

    plain           raw data: a region's bounds are keys
    memcomparable   transactional data: a region's bounds are the memcomparable forms of keys (`wire.keys`)

The scheduler speaks of bounds, stores are asked for keys. A command belongs to one key space, which locates its region and
clips its range; everything else in the client is the same for both.
"""

from __future__ import annotations

from typing import NamedTuple, Protocol

from pytinykv.client.route import Route
from pytinykv.wire.keys import decode_bytes, describe_key, encode_bytes
from pytinykv.wire.limits import SCAN_BOUND_BYTES_MAX

ABOVE_ALL_KEYS = b"\xff" * SCAN_BOUND_BYTES_MAX
"""Stands for "no upper end" where an empty key would mean the first one; longer than any key."""


class KeyRange(NamedTuple):
    """Keys from `start` on and below `end`; an empty end means that there is none."""

    start: bytes
    end: bytes

    def behind(self, covered: KeyRange) -> KeyRange | None:
        """Return what lies behind `covered`, which begins where this range does; None if that is nothing."""
        if not covered.end or covered.end == self.end:
            return None
        return KeyRange(covered.end, self.end)

    def __str__(self) -> str:
        return f"from {describe_key(self.start)} to {describe_key(self.end) if self.end else 'the end'}"


class KeySpace(Protocol):
    """Translates between keys and bounds. Keeps the order of keys; the empty bound is no bound in both."""

    def to_bound(self, key: bytes) -> bytes:
        """Return what stands for `key` among the bounds of regions."""

    def from_bound(self, bound: bytes) -> bytes:
        """Return the key that a region's bound stands for. Raises `KeyCodecError` for a bound of another key space."""


class _Plain:
    def to_bound(self, key: bytes) -> bytes:
        return key

    def from_bound(self, bound: bytes) -> bytes:
        return bound


class _Memcomparable:
    def to_bound(self, key: bytes) -> bytes:
        return encode_bytes(key)

    def from_bound(self, bound: bytes) -> bytes:
        return decode_bytes(bound) if bound else b""


PLAIN: KeySpace = _Plain()
MEMCOMPARABLE: KeySpace = _Memcomparable()


def clip(range_: KeyRange, route: Route, space: KeySpace) -> KeyRange:
    """Return the part of a range of keys that lies in the region of `route`."""
    start, end = space.from_bound(route.start), space.from_bound(route.end)
    if range_.end and (not end or range_.end < end):
        end = range_.end
    return KeyRange(max(range_.start, start), end)
