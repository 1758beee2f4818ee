"""What raw requests have in common: keys, ranges, column families, times to live.

* a key lies in the region it was sent to, or the answer is KeyNotInRegion;
* a range is cut to the region, since some clients send the same range to every region it touches;
* sizes are those of `pytinykv.wire.limits`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pytinykv.raftstore.keys import RAW_TAGS
from pytinykv.server.kv.kinds import InvalidRequestError
from pytinykv.wire.cf import InvalidRawFamilyError, raw_column_family
from pytinykv.wire.errors import KeyNotInRegion
from pytinykv.wire.limits import KEY_BYTES_MAX, TTL_S_MAX, bound_problem, key_problem

if TYPE_CHECKING:
    from pytinykv.model import Region

DEFAULT_TAG = RAW_TAGS[raw_column_family("")]


def key_tag(request: Any) -> bytes:
    """Return what the engine's keys of the request's column family begin with."""
    family = request.cf
    if not family:
        return DEFAULT_TAG
    try:
        return RAW_TAGS[raw_column_family(family)]
    except InvalidRawFamilyError as error:
        raise InvalidRequestError(str(error)) from error


def is_key_of(region: Region, key: bytes) -> bool:
    """Return whether a key may be, and lies in the region."""
    end = region.end_key  # `Region.contains` without the call: each command is checked
    return 0 < len(key) <= KEY_BYTES_MAX and region.start_key <= key and not (end and key >= end)


def check_key(region: Region, key: bytes) -> None:
    """Raise what a command is refused with whose key may not be, or lies in another region."""
    if is_key_of(region, key):
        return
    if (problem := key_problem(key)) is not None:
        raise InvalidRequestError(problem)
    raise KeyNotInRegion(key=key, region_id=region.id, start_key=region.start_key, end_key=region.end_key)


def expires_at_s(ttl_s: int, now_s: int) -> int:
    """Return the second at which a value expires, 0 for never."""
    if ttl_s > TTL_S_MAX:
        raise InvalidRequestError(f"ttl is too long: {ttl_s} s, at most {TTL_S_MAX} s; 0 means for ever")
    return now_s + ttl_s if ttl_s else 0


def clip(region: Region, start: bytes, end: bytes) -> tuple[bytes, bytes] | None:
    """Return the part of a range (empty end: unbounded) that lies in the region, None if there is none."""
    for name, bound in (("start_key", start), ("end_key", end)):
        if (problem := bound_problem(bound)) is not None:
            raise InvalidRequestError(f"{name}: {problem}")
    start = max(start, region.start_key)
    if region.end_key and (not end or region.end_key < end):
        end = region.end_key
    return None if end and start >= end else (start, end)
