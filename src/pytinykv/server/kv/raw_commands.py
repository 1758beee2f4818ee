"""TiKV's raw commands: from a request to reads of the engine or operations for the log, and back to a response.

Pure translation, one entry in `READS` or `WRITES` per command. What a command's keys must satisfy is checked here:

* a key lies in the region it was sent to, or the answer is KeyNotInRegion;
* a range is cut to the region, since some clients send the same range to every region it touches;
* sizes are those of `pytinykv.wire.limits`.

A request that can never succeed raises `InvalidRequestError`; its text goes into the response's `error`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from typing import TYPE_CHECKING, Any, NamedTuple

from pytinykv.raftstore.keys import RAW_TAGS, raw_end
from pytinykv.raftstore.operations import COMPARE_AND_SWAP, RAW_CODE
from pytinykv.raftstore.raw_values import encode_raw_value, live_value, remaining_ttl_s
from pytinykv.storage import ColumnFamily
from pytinykv.storage.changes import DELETE, DELETE_RANGE, PUT
from pytinykv.wire.cf import UnknownColumnFamilyError, raw_column_family
from pytinykv.wire.checksum import RangeChecksum, checksum_pairs
from pytinykv.wire.errors import KeyNotInRegion
from pytinykv.wire.limits import KEY_BYTES_MAX, RAW_SCAN_LIMIT_MAX, bound_problem, key_problem
from pytinykv.wire.pb import kvrpcpb_pb2 as pb

if TYPE_CHECKING:
    from pytinykv.model import Region
    from pytinykv.raftstore import Operation
    from pytinykv.raftstore.pending import Results
    from pytinykv.storage import Reader

RAW = ColumnFamily.RAW
TTL_MAX_S = 100 * 365 * 24 * 3600
"""Longest time to live, a hundred years: more is a mistake of units."""


class InvalidRequestError(ValueError):
    """A request that must not be repeated as it is; the message says what is wrong with which field."""


class PreparedWrite(NamedTuple):
    """Operations for the region's log, and their size in bytes as it counts for limits."""

    operations: list[Operation]
    size_bytes: int


class ReadCommand(NamedTuple):
    """A command that only looks: called with a reader that may be shown to clients, at second `now_s`."""

    run: Callable[[Reader, Region, Any, int], Any]


class WriteCommand(NamedTuple):
    """A command that changes something; `respond` makes its response from the log's results."""

    prepare: Callable[[Region, Any, int], PreparedWrite]
    respond: Callable[[Results], Any]


# --- keys and ranges --------------------------------------------------------------------------------------------


def _tag(request: Any) -> bytes:
    try:
        return RAW_TAGS[raw_column_family(request.cf)]
    except UnknownColumnFamilyError as error:
        raise InvalidRequestError(str(error)) from error


def _check_key(region: Region, key: bytes) -> None:
    if not key or len(key) > KEY_BYTES_MAX:
        raise InvalidRequestError(key_problem(key))
    if not region.contains(key):
        raise KeyNotInRegion(key=key, region_id=region.id, start_key=region.start_key, end_key=region.end_key)


def _expires_at_s(ttl_s: int, now_s: int) -> int:
    if ttl_s > TTL_MAX_S:
        raise InvalidRequestError(f"ttl is too long: {ttl_s} s, at most {TTL_MAX_S} s; 0 means for ever")
    return now_s + ttl_s if ttl_s else 0


def _clip(region: Region, start: bytes, end: bytes) -> tuple[bytes, bytes] | None:
    """Return the part of a range (empty end: unbounded) that lies in the region, None if there is none."""
    for name, bound in (("start_key", start), ("end_key", end)):
        if (problem := bound_problem(bound)) is not None:
            raise InvalidRequestError(f"{name}: {problem}")
    start = max(start, region.start_key)
    if region.end_key and (not end or region.end_key < end):
        end = region.end_key
    return None if end and start >= end else (start, end)


def _live_pairs(
    reader: Reader, region: Region, tag: bytes, start: bytes, end: bytes, now_s: int, *, reverse: bool = False
) -> Iterator[tuple[bytes, bytes]]:
    """Yield the pairs of a range that have not expired, as the user knows them."""
    clipped = _clip(region, start, end)
    if clipped is None:
        return
    for key, stored in reader.scan(RAW, tag + clipped[0], raw_end(tag, clipped[1]), reverse=reverse):
        value = live_value(stored, now_s)
        if value is not None:
            yield key[1:], value


# --- reads ------------------------------------------------------------------------------------------------------


def _get(reader: Reader, region: Region, request: pb.RawGetRequest, now_s: int) -> pb.RawGetResponse:
    key = request.key
    _check_key(region, key)
    value = live_value(reader.get(RAW, _tag(request) + key), now_s)
    if value is None:
        return pb.RawGetResponse(not_found=True)
    return pb.RawGetResponse(value=value)


def _batch_get(reader: Reader, region: Region, request: pb.RawBatchGetRequest, now_s: int) -> pb.RawBatchGetResponse:
    tag = _tag(request)
    response = pb.RawBatchGetResponse()
    for key in request.keys:
        _check_key(region, key)
        value = live_value(reader.get(RAW, tag + key), now_s)
        if value is not None:
            response.pairs.add(key=key, value=value)
    return response


def _get_ttl(reader: Reader, region: Region, request: pb.RawGetKeyTTLRequest, now_s: int) -> pb.RawGetKeyTTLResponse:
    _check_key(region, request.key)
    stored = reader.get(RAW, _tag(request) + request.key)
    if stored is None or live_value(stored, now_s) is None:
        return pb.RawGetKeyTTLResponse(not_found=True)
    return pb.RawGetKeyTTLResponse(ttl=remaining_ttl_s(stored, now_s))


def _scan_into(pairs: Any, found: Iterable[tuple[bytes, bytes]], limit: int, *, key_only: bool) -> None:
    if limit <= 0:
        return
    for count, (key, value) in enumerate(found, start=1):
        pairs.add(key=key, value=b"" if key_only else value)
        if count == limit:
            return


def _check_limit(name: str, limit: int) -> None:
    if limit > RAW_SCAN_LIMIT_MAX:
        raise InvalidRequestError(f"{name} is too large: {limit}, at most {RAW_SCAN_LIMIT_MAX}; scan in pages")


def _scan(reader: Reader, region: Region, request: pb.RawScanRequest, now_s: int) -> pb.RawScanResponse:
    _check_limit("limit", request.limit)
    start, end = request.start_key, request.end_key
    if request.reverse:
        start, end = end, start
    found = _live_pairs(reader, region, _tag(request), start, end, now_s, reverse=request.reverse)
    response = pb.RawScanResponse()
    _scan_into(response.kvs, found, request.limit, key_only=request.key_only)
    return response


def _batch_scan(reader: Reader, region: Region, request: pb.RawBatchScanRequest, now_s: int) -> pb.RawBatchScanResponse:
    """Each range begins in the region; ranges of a reverse scan have their upper end in `start_key`."""
    _check_limit("each_limit", request.each_limit)
    _check_limit("each_limit times the number of ranges", request.each_limit * len(request.ranges))
    tag = _tag(request)
    response = pb.RawBatchScanResponse()
    for key_range in request.ranges:
        start, end = key_range.start_key, key_range.end_key
        if request.reverse:
            start, end = end, start
        found = _live_pairs(reader, region, tag, start, end, now_s, reverse=request.reverse)
        _scan_into(response.kvs, found, request.each_limit, key_only=request.key_only)
    return response


CHECKSUM_STEP_PAIRS = 512
"""How many pairs a checksum takes before it lets the event loop turn."""


def checksum_steps(
    reader: Reader, region: Region, request: pb.RawChecksumRequest, now_s: int
) -> Iterator[RangeChecksum]:
    """Yield the checksum so far, again and again; the last one yielded is the result.

    A region has many pairs: the caller lets others run between two steps.
    """
    if request.algorithm != pb.ChecksumAlgorithm.Crc64_Xor:
        raise InvalidRequestError(f"algorithm {request.algorithm} is unknown: use Crc64_Xor")
    total = checksum_pairs(())
    for key_range in request.ranges:
        pairs = _live_pairs(reader, region, RAW_TAGS["default"], key_range.start_key, key_range.end_key, now_s)
        while step := list(islice(pairs, CHECKSUM_STEP_PAIRS)):
            total ^= checksum_pairs(step)
            yield total
    yield total


# --- writes -----------------------------------------------------------------------------------------------------


def _put(region: Region, request: pb.RawPutRequest, now_s: int) -> PreparedWrite:
    key, value = request.key, request.value
    _check_key(region, key)
    stored = encode_raw_value(value, _expires_at_s(request.ttl, now_s))
    return PreparedWrite([(PUT, RAW_CODE, _tag(request) + key, stored)], len(key) + len(value))


def _batch_put(region: Region, request: pb.RawBatchPutRequest, now_s: int) -> PreparedWrite:
    tag = _tag(request)
    pairs = request.pairs
    ttls = request.ttls or [request.ttl]
    if len(ttls) not in {1, len(pairs)}:
        raise InvalidRequestError(
            f"ttls has {len(ttls)} entries for {len(pairs)} pairs: give none, one, or one per pair"
        )
    expires = [_expires_at_s(ttl, now_s) for ttl in ttls]
    if len(expires) == 1:
        expires *= len(pairs)
    operations: list[Operation] = []
    size = 0
    for pair, expires_at_s in zip(pairs, expires, strict=True):
        key, value = pair.key, pair.value
        _check_key(region, key)
        operations.append((PUT, RAW_CODE, tag + key, encode_raw_value(value, expires_at_s)))
        size += len(key) + len(value)
    return PreparedWrite(operations, size)


def _delete(region: Region, request: pb.RawDeleteRequest, _now_s: int) -> PreparedWrite:
    _check_key(region, request.key)
    return PreparedWrite([(DELETE, RAW_CODE, _tag(request) + request.key)], len(request.key))


def _batch_delete(region: Region, request: pb.RawBatchDeleteRequest, _now_s: int) -> PreparedWrite:
    tag = _tag(request)
    operations: list[Operation] = []
    size = 0
    for key in request.keys:
        _check_key(region, key)
        operations.append((DELETE, RAW_CODE, tag + key))
        size += len(key)
    return PreparedWrite(operations, size)


def _delete_range(region: Region, request: pb.RawDeleteRangeRequest, _now_s: int) -> PreparedWrite:
    tag = _tag(request)
    clipped = _clip(region, request.start_key, request.end_key)
    if clipped is None:
        return PreparedWrite([], 0)
    start, end = clipped
    return PreparedWrite([(DELETE_RANGE, RAW_CODE, tag + start, raw_end(tag, end))], len(start) + len(end))


def _compare_and_swap(region: Region, request: pb.RawCASRequest, now_s: int) -> PreparedWrite:
    key = request.key
    _check_key(region, key)
    expected = None if request.previous_not_exist else request.previous_value
    new = None if request.delete else encode_raw_value(request.value, _expires_at_s(request.ttl, now_s))
    operation = (COMPARE_AND_SWAP, RAW_CODE, _tag(request) + key, expected, new, now_s)
    return PreparedWrite([operation], len(key) + len(request.value) + len(request.previous_value))


def _swapped(results: Results) -> pb.RawCASResponse:
    assert results is not None
    result: Any = results[0]
    succeeded, previous = result
    return pb.RawCASResponse(
        succeed=succeeded, previous_not_exist=previous is None, previous_value=previous if previous is not None else b""
    )


READS = {
    "RawGet": ReadCommand(_get),
    "RawBatchGet": ReadCommand(_batch_get),
    "RawGetKeyTTL": ReadCommand(_get_ttl),
    "RawScan": ReadCommand(_scan),
    "RawBatchScan": ReadCommand(_batch_scan),
}

WRITES = {
    "RawPut": WriteCommand(_put, lambda _results: pb.RawPutResponse()),
    "RawBatchPut": WriteCommand(_batch_put, lambda _results: pb.RawBatchPutResponse()),
    "RawDelete": WriteCommand(_delete, lambda _results: pb.RawDeleteResponse()),
    "RawBatchDelete": WriteCommand(_batch_delete, lambda _results: pb.RawBatchDeleteResponse()),
    "RawDeleteRange": WriteCommand(_delete_range, lambda _results: pb.RawDeleteRangeResponse()),
    "RawCompareAndSwap": WriteCommand(_compare_and_swap, _swapped),
}
