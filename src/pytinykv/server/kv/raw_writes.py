"""Raw commands that change something: from a request to operations for the region's log, and to the encoded response."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pytinykv.model.raw_values import encode_raw_value
from pytinykv.raftstore.keys import raw_end
from pytinykv.raftstore.operations import COMPARE_AND_SWAP, RAW_CODE
from pytinykv.server.kv.kinds import CommandContext, InvalidRequestError, PreparedWrite
from pytinykv.server.kv.raw_requests import DEFAULT_TAG, check_key, clip, expires_at_s, is_key_of, key_tag
from pytinykv.storage.changes import DELETE, DELETE_RANGE, PUT
from pytinykv.wire.frames import key_and_value, lone_key
from pytinykv.wire.pb import kvrpcpb_pb2 as pb

if TYPE_CHECKING:
    from pytinykv.raftstore import Operation
    from pytinykv.raftstore.pending import Results


def put(context: CommandContext, request: pb.RawPutRequest) -> tuple[Operation, int]:
    key, value, ttl = request.key, request.value, request.ttl
    check_key(context.region, key)
    stored = encode_raw_value(value, expires_at_s(ttl, context.now_s) if ttl else 0)
    return (PUT, RAW_CODE, key_tag(request) + key, stored), len(key) + len(value)


def read_put(context: CommandContext, encoded: bytes, at: int) -> tuple[Operation, int] | None:
    """Evaluate a put of the commonest form: for the default column family, and for ever. None where `put` has to do it."""
    pair = key_and_value(encoded, at)
    if pair is None or not is_key_of(context.region, pair[0]):
        return None
    key, value = pair
    return (PUT, RAW_CODE, DEFAULT_TAG + key, encode_raw_value(value)), len(key) + len(value)


def batch_put(context: CommandContext, request: pb.RawBatchPutRequest, first: int, end: int) -> PreparedWrite:
    tag = key_tag(request)
    ttls = request.ttls or [request.ttl]
    if len(ttls) not in {1, len(request.pairs)}:
        raise InvalidRequestError(
            f"ttls has {len(ttls)} entries for {len(request.pairs)} pairs: give none, one, or one per pair"
        )
    pairs = request.pairs[first:end]
    if len(ttls) > 1:
        ttls = ttls[first:end]
    expiries = [expires_at_s(ttl, context.now_s) for ttl in ttls]
    if len(expiries) == 1:
        expiries *= len(pairs)
    operations: list[Operation] = []
    size = 0
    for pair, expiry in zip(pairs, expiries, strict=True):
        key, value = pair.key, pair.value
        check_key(context.region, key)
        operations.append((PUT, RAW_CODE, tag + key, encode_raw_value(value, expiry)))
        size += len(key) + len(value)
    return PreparedWrite(operations, size)


def delete(context: CommandContext, request: pb.RawDeleteRequest) -> tuple[Operation, int]:
    key = request.key
    check_key(context.region, key)
    return (DELETE, RAW_CODE, key_tag(request) + key), len(key)


def read_delete(context: CommandContext, encoded: bytes, at: int) -> tuple[Operation, int] | None:
    """Evaluate a delete of the commonest form: for the default column family. None where `delete` has to do it."""
    key = lone_key(encoded, at)
    if key is None or not is_key_of(context.region, key):
        return None
    return (DELETE, RAW_CODE, DEFAULT_TAG + key), len(key)


def batch_delete(context: CommandContext, request: pb.RawBatchDeleteRequest, first: int, end: int) -> PreparedWrite:
    tag = key_tag(request)
    operations: list[Operation] = []
    size = 0
    for key in request.keys[first:end]:
        check_key(context.region, key)
        operations.append((DELETE, RAW_CODE, tag + key))
        size += len(key)
    return PreparedWrite(operations, size)


def delete_range(context: CommandContext, request: pb.RawDeleteRangeRequest) -> PreparedWrite:
    tag = key_tag(request)
    clipped = clip(context.region, request.start_key, request.end_key)
    if clipped is None:
        return PreparedWrite([], 0)
    start, end = clipped
    return PreparedWrite([(DELETE_RANGE, RAW_CODE, tag + start, raw_end(tag, end))], len(start) + len(end))


def compare_and_swap(context: CommandContext, request: pb.RawCASRequest) -> PreparedWrite:
    key = request.key
    check_key(context.region, key)
    expected = None if request.previous_not_exist else request.previous_value
    new = None if request.delete else encode_raw_value(request.value, expires_at_s(request.ttl, context.now_s))
    operation = (COMPARE_AND_SWAP, RAW_CODE, key_tag(request) + key, expected, new, context.now_s)
    size = len(key) + len(request.value) + len(request.previous_value)
    return PreparedWrite([operation], size, _swapped)


def _swapped(results: Results) -> bytes:
    assert results is not None
    result: Any = results[0]
    succeeded, previous = result
    return pb.RawCASResponse(
        succeed=succeeded, previous_not_exist=previous is None, previous_value=previous if previous is not None else b""
    ).SerializeToString()
