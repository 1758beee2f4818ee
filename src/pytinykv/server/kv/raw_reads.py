"""Raw commands that look: from a request to the engine's pairs, and to the encoded response.

Values that have expired are absent, and count for no limit. A scan returns fewer pairs than asked for only where its range
or region ends: clients take a short page for the end of the region, and a missing pair for a missing key.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator
from io import BytesIO
from typing import Any, NamedTuple

from pytinykv.model.raw_values import live_value, remaining_ttl_s
from pytinykv.raftstore.keys import RAW_TAGS, raw_end
from pytinykv.server.kv.encoding import PairWriter
from pytinykv.server.kv.kinds import ROW_COST, CommandContext, InvalidRequestError, View
from pytinykv.server.kv.raw_requests import check_key, clip, key_tag
from pytinykv.storage import ColumnFamily
from pytinykv.wire.checksum import RangeChecksum, checksum_pairs
from pytinykv.wire.encoding import field_tag, varint
from pytinykv.wire.limits import RAW_SCAN_LIMIT_MAX
from pytinykv.wire.pb import kvrpcpb_pb2 as pb

_RAW = ColumnFamily.RAW
_VALUE = field_tag(pb.RawGetResponse, "value")
_GET_NOT_FOUND = pb.RawGetResponse(not_found=True).SerializeToString()
_TTL_NOT_FOUND = pb.RawGetKeyTTLResponse(not_found=True).SerializeToString()
_PAIRS = field_tag(pb.RawBatchGetResponse, "pairs")
_KVS = field_tag(pb.RawScanResponse, "kvs")
LARGE_VALUE_BYTES = 64 * 1024
RANGE_COST = 4 * ROW_COST
"""What beginning with a range costs beside its rows, as `ROW_COST` counts."""
assert field_tag(pb.RawBatchScanResponse, "kvs") == _KVS


def _live_value(stored: bytes | None, now_s: int) -> bytes | memoryview | None:
    """Return what `live_value` does; of a large value it is a view, since copying takes longer than all the rest."""
    if stored is None or len(stored) < LARGE_VALUE_BYTES:
        return live_value(stored, now_s)
    return live_value(memoryview(stored), now_s)


def get(view: View, context: CommandContext, request: pb.RawGetRequest) -> bytes:
    key = request.key
    check_key(context.region, key)
    value = _live_value(view.reader.get(_RAW, key_tag(request) + key), context.now_s)
    return _GET_NOT_FOUND if value is None else b"".join((_VALUE, varint(len(value)), value))


def get_ttl(view: View, context: CommandContext, request: pb.RawGetKeyTTLRequest) -> bytes:
    check_key(context.region, request.key)
    stored = view.reader.get(_RAW, key_tag(request) + request.key)
    if stored is None or live_value(stored, context.now_s) is None:
        return _TTL_NOT_FOUND
    return pb.RawGetKeyTTLResponse(ttl=remaining_ttl_s(stored, context.now_s)).SerializeToString()


def batch_get(view: View, context: CommandContext, request: pb.RawBatchGetRequest, out: BytesIO) -> Iterator[None]:
    tag, region, now_s = key_tag(request), context.region, context.now_s
    pairs = PairWriter(out, _PAIRS)
    for key in request.keys:
        check_key(region, key)
        stored = view.reader.get(_RAW, tag + key)
        view.left -= ROW_COST
        if stored is not None:
            view.left -= len(stored)
            value = _live_value(stored, now_s)
            if value is not None:
                pairs.add(key, value)
        if view.left <= 0:
            yield


class _Range(NamedTuple):
    """A range of one column family, in engine keys."""

    start: bytes
    end: bytes
    reverse: bool = False


def _range(context: CommandContext, tag: bytes, start: bytes, end: bytes, *, reverse: bool = False) -> _Range | None:
    """Return the part that lies in the region; in a reverse request `start` is the upper end."""
    if reverse:
        start, end = end, start
    clipped = clip(context.region, start, end)
    return None if clipped is None else _Range(tag + clipped[0], raw_end(tag, clipped[1]), reverse)


def _scan_range(
    view: View, context: CommandContext, wanted: _Range | None, limit: int, out: BytesIO, *, key_only: bool
) -> Iterator[None]:
    if wanted is None or limit <= 0:
        return
    now_s = context.now_s
    add = PairWriter(out, _KVS).add
    found = 0
    for key, stored in view.reader.scan(_RAW, wanted.start, wanted.end, reverse=wanted.reverse):
        view.left -= ROW_COST + len(stored)
        value = _live_value(stored, now_s)
        if value is not None:
            add(key[1:], b"" if key_only else value)
            found += 1
            if found == limit:
                return
        if view.left <= 0:
            yield


def _check_limit(name: str, limit: int) -> None:
    if limit > RAW_SCAN_LIMIT_MAX:
        raise InvalidRequestError(f"{name} is too large: {limit}, at most {RAW_SCAN_LIMIT_MAX}; scan in pages")


def scan(view: View, context: CommandContext, request: pb.RawScanRequest, out: BytesIO) -> Iterator[None]:
    _check_limit("limit", request.limit)
    wanted = _range(context, key_tag(request), request.start_key, request.end_key, reverse=request.reverse)
    return _scan_range(view, context, wanted, request.limit, out, key_only=request.key_only)


def batch_scan(view: View, context: CommandContext, request: pb.RawBatchScanRequest, out: BytesIO) -> Iterator[None]:
    """Each range begins in the region; ranges of a reverse scan have their upper end in `start_key`."""
    _check_limit("each_limit", request.each_limit)
    _check_limit("each_limit times the number of ranges", request.each_limit * len(request.ranges))
    tag = key_tag(request)
    for one in request.ranges:
        view.left -= RANGE_COST
        wanted = _range(context, tag, one.start_key, one.end_key, reverse=request.reverse)
        yield from _scan_range(view, context, wanted, request.each_limit, out, key_only=request.key_only)
        if view.left <= 0:
            yield


def checksum(view: View, context: CommandContext, request: pb.RawChecksumRequest, out: BytesIO) -> Iterator[None]:
    if request.algorithm != pb.ChecksumAlgorithm.Crc64_Xor:
        raise InvalidRequestError(f"algorithm {request.algorithm} is unknown: use Crc64_Xor")
    total = checksum_pairs(())
    for one in request.ranges:
        view.left -= RANGE_COST
        total = yield from _checksum_range(view, context, one, total)
        if view.left <= 0:
            yield
    response = pb.RawChecksumResponse(checksum=total.checksum, total_kvs=total.total_kvs, total_bytes=total.total_bytes)
    out.write(response.SerializeToString())


def _checksum_range(
    view: View, context: CommandContext, one: Any, total: RangeChecksum
) -> Generator[None, None, RangeChecksum]:
    wanted = _range(context, RAW_TAGS["default"], one.start_key, one.end_key)
    if wanted is None:
        return total
    pairs: list[tuple[bytes, bytes]] = []
    for key, stored in view.reader.scan(_RAW, wanted.start, wanted.end):
        view.left -= ROW_COST + len(stored)
        value = live_value(stored, context.now_s)
        if value is not None:
            pairs.append((key[1:], value))
        if view.left <= 0:
            total ^= checksum_pairs(pairs)
            pairs.clear()
            yield
    return total ^ checksum_pairs(pairs)
