"""The raw operations as commands: what to write into a frame, what to read from the reply.

`cf` is the column family as it travels: empty for the default one. Commands over a range clip themselves to the region of
the attempt, and remember in `covered` how far they got.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

from pytinykv.client.commands import SHRINK_FACTOR, BatchCommand, Command, Effect, FramedRequest, Pair, RangeCommand
from pytinykv.client.errors import ServerError
from pytinykv.client.key_space import ABOVE_ALL_KEYS, KeyRange
from pytinykv.client.route import Destination, Route
from pytinykv.wire.keys import describe_key
from pytinykv.wire.pb import kvrpcpb_pb2


class CasResult(NamedTuple):
    """Outcome of a compare-and-swap."""

    swapped: bool
    """Whether the new value is in place."""
    previous: bytes | None
    """The value before the operation, None if there was none; in both outcomes."""


class Checksum(NamedTuple):
    """Checksum of a range; equal data has equal checksums, however it is split into regions."""

    checksum: int
    """XOR over all pairs of the CRC-64 of key and value."""
    total_kvs: int
    """Number of pairs."""
    total_bytes: int
    """Bytes of all keys and values."""


class RawGet(Command[bytes | None]):
    """The value of a key, None if there is none."""

    __slots__ = ("cf",)
    field = "RawGet"
    verb = "get"

    def __init__(self, key: bytes, cf: str) -> None:
        self.key = key
        self.cf = cf

    def encode(self, request: FramedRequest, route: Route) -> None:
        body = request.RawGet
        body.context.MergeFrom(route.context)
        body.key = self.key
        if self.cf:
            body.cf = self.cf

    def decode(self, reply: kvrpcpb_pb2.RawGetResponse) -> bytes | None:
        if reply.error:
            self._check(reply.error)
        return None if reply.not_found else reply.value


class RawPut(Command[None]):
    """Set a key."""

    __slots__ = ("cf", "ttl_s", "value")
    field = "RawPut"
    verb = "put"
    effect = Effect.ONCE

    def __init__(self, key: bytes, value: bytes, ttl_s: int, cf: str) -> None:
        self.key = key
        self.value = value
        self.ttl_s = ttl_s
        self.cf = cf

    @property
    def size_bytes(self) -> int:
        return len(self.key) + len(self.value)

    def encode(self, request: FramedRequest, route: Route) -> None:
        body = request.RawPut
        body.context.MergeFrom(route.context)
        body.key = self.key
        body.value = self.value
        if self.ttl_s:
            body.ttl = self.ttl_s
        if self.cf:
            body.cf = self.cf

    def decode(self, reply: kvrpcpb_pb2.RawPutResponse) -> None:
        if reply.error:
            self._check(reply.error)


class RawDelete(Command[None]):
    """Remove a key."""

    __slots__ = ("cf",)
    field = "RawDelete"
    verb = "delete"
    effect = Effect.ONCE

    def __init__(self, key: bytes, cf: str) -> None:
        self.key = key
        self.cf = cf

    def encode(self, request: FramedRequest, route: Route) -> None:
        body = request.RawDelete
        body.context.MergeFrom(route.context)
        body.key = self.key
        if self.cf:
            body.cf = self.cf

    def decode(self, reply: kvrpcpb_pb2.RawDeleteResponse) -> None:
        if reply.error:
            self._check(reply.error)


class RawBatchGet(BatchCommand[bytes, list[Pair]]):
    """The pairs of those keys that exist."""

    __slots__ = ("cf",)
    field = "RawBatchGet"
    pairs_field = "pairs"
    verb = "batch_get"

    def __init__(self, items: Sequence[bytes], cf: str) -> None:
        self.key = items[0]
        self.items = items
        self.cf = cf

    @property
    def size_bytes(self) -> int:
        return sum(map(len, self.items))

    def encode(self, request: FramedRequest, route: Route) -> None:
        body = request.RawBatchGet
        body.context.MergeFrom(route.context)
        body.keys.extend(self.items)
        body.cf = self.cf

    def decode(self, reply: kvrpcpb_pb2.RawBatchGetResponse) -> list[Pair]:
        return _pairs(self, reply.pairs)


class RawBatchPut(BatchCommand[Pair, None]):
    """Set several keys."""

    __slots__ = ("cf", "ttl_s")
    field = "RawBatchPut"
    verb = "batch_put"
    effect = Effect.ONCE

    def __init__(self, items: Sequence[Pair], ttl_s: int, cf: str) -> None:
        self.key = items[0][0]
        self.items = items
        self.ttl_s = ttl_s
        self.cf = cf

    @property
    def size_bytes(self) -> int:
        return sum(len(key) + len(value) for key, value in self.items)

    def encode(self, request: FramedRequest, route: Route) -> None:
        body = request.RawBatchPut
        body.context.MergeFrom(route.context)
        add = body.pairs.add
        for key, value in self.items:
            add(key=key, value=value)
        if self.ttl_s:
            body.ttls.append(self.ttl_s)  # one for all pairs
        body.cf = self.cf

    def decode(self, reply: kvrpcpb_pb2.RawBatchPutResponse) -> None:
        self._check(reply.error)


class RawBatchDelete(BatchCommand[bytes, None]):
    """Remove several keys."""

    __slots__ = ("cf",)
    field = "RawBatchDelete"
    verb = "batch_delete"
    effect = Effect.ONCE

    def __init__(self, items: Sequence[bytes], cf: str) -> None:
        self.key = items[0]
        self.items = items
        self.cf = cf

    @property
    def size_bytes(self) -> int:
        return sum(map(len, self.items))

    def encode(self, request: FramedRequest, route: Route) -> None:
        body = request.RawBatchDelete
        body.context.MergeFrom(route.context)
        body.keys.extend(self.items)
        body.cf = self.cf

    def decode(self, reply: kvrpcpb_pb2.RawBatchDeleteResponse) -> None:
        self._check(reply.error)


class RawScan(RangeCommand[list[Pair]]):
    """A page of a range, in ascending or descending order. A page shorter than `limit` exhausts the region's part."""

    __slots__ = ("cf", "key_only", "limit", "reverse")
    field = "RawScan"
    pairs_field = "kvs"
    verb = "scan"

    def __init__(self, range_: KeyRange, *, limit: int, reverse: bool, key_only: bool, cf: str) -> None:
        super().__init__(range_)
        self.limit = limit
        self.reverse = reverse
        self.key_only = key_only
        self.cf = cf

    def destination(self) -> Destination:
        if not self.reverse:
            return super().destination()
        return Destination(self.space.to_bound(self.range.end or ABOVE_ALL_KEYS), below=True)

    def shrink(self) -> None:
        self.limit = max(1, self.limit // SHRINK_FACTOR)

    def encode(self, request: FramedRequest, route: Route) -> None:
        body = request.RawScan
        body.context.MergeFrom(route.context)
        part = self._cover(route)
        if self.reverse:  # from an exclusive upper end down to an inclusive lower one
            body.start_key = part.end or ABOVE_ALL_KEYS
            body.end_key = part.start
            body.reverse = True
        else:
            body.start_key = part.start
            body.end_key = part.end
        body.limit = self.limit
        body.key_only = self.key_only
        body.cf = self.cf

    def decode(self, reply: kvrpcpb_pb2.RawScanResponse) -> list[Pair]:
        return _pairs(self, reply.kvs)


class RawDeleteRange(RangeCommand[None]):
    """Remove the keys of a range. Repeating it would remove what other clients have written there since."""

    __slots__ = ("cf",)
    field = "RawDeleteRange"
    verb = "delete_range"
    effect = Effect.ONCE

    def __init__(self, range_: KeyRange, cf: str) -> None:
        super().__init__(range_)
        self.cf = cf

    def encode(self, request: FramedRequest, route: Route) -> None:
        body = request.RawDeleteRange
        body.context.MergeFrom(route.context)
        part = self._cover(route)
        body.start_key = part.start
        body.end_key = part.end
        body.cf = self.cf

    def decode(self, reply: kvrpcpb_pb2.RawDeleteRangeResponse) -> None:
        self._check(reply.error)


class RawChecksum(RangeCommand[Checksum]):
    """Checksum of a range."""

    __slots__ = ()
    field = "RawChecksum"
    verb = "checksum"
    unary_path = "/tikvpb.Tikv/RawChecksum"

    def request(self, route: Route) -> kvrpcpb_pb2.RawChecksumRequest:
        part = self._cover(route)
        return kvrpcpb_pb2.RawChecksumRequest(
            context=route.context, ranges=[kvrpcpb_pb2.KeyRange(start_key=part.start, end_key=part.end)]
        )

    def decode(self, reply: kvrpcpb_pb2.RawChecksumResponse) -> Checksum:
        self._check(reply.error)
        return Checksum(reply.checksum, reply.total_kvs, reply.total_bytes)


class RawTtl(Command[float | None]):
    """After how many seconds a key ends: infinity if it stays, None if there is no such key."""

    __slots__ = ("cf",)
    field = "RawGetKeyTTL"
    verb = "ttl"
    unary_path = "/tikvpb.Tikv/RawGetKeyTTL"

    def __init__(self, key: bytes, cf: str) -> None:
        self.key = key
        self.cf = cf

    def request(self, route: Route) -> kvrpcpb_pb2.RawGetKeyTTLRequest:
        return kvrpcpb_pb2.RawGetKeyTTLRequest(context=route.context, key=self.key, cf=self.cf)

    def decode(self, reply: kvrpcpb_pb2.RawGetKeyTTLResponse) -> float | None:
        self._check(reply.error)
        return None if reply.not_found else reply.ttl or math.inf


class RawCompareAndSwap(Command[CasResult]):
    """Set a key if it has the expected value (None: if it does not exist)."""

    __slots__ = ("cf", "expected", "ttl_s", "value")
    field = "RawCompareAndSwap"
    verb = "compare_and_swap"
    effect = Effect.ONCE
    unary_path = "/tikvpb.Tikv/RawCompareAndSwap"

    def __init__(self, key: bytes, *, expected: bytes | None, value: bytes, ttl_s: int, cf: str) -> None:
        self.key = key
        self.expected = expected
        self.value = value
        self.ttl_s = ttl_s
        self.cf = cf

    def request(self, route: Route) -> kvrpcpb_pb2.RawCASRequest:
        return kvrpcpb_pb2.RawCASRequest(
            context=route.context,
            key=self.key,
            value=self.value,
            previous_not_exist=self.expected is None,
            previous_value=self.expected or b"",
            cf=self.cf,
            ttl=self.ttl_s,
        )

    def decode(self, reply: kvrpcpb_pb2.RawCASResponse) -> CasResult:
        self._check(reply.error)
        return CasResult(reply.succeed, None if reply.previous_not_exist else reply.previous_value)


def _pairs(command: Command[Any], pairs: Any) -> list[Pair]:
    result = []
    for pair in pairs:
        if pair.HasField("error"):
            raise ServerError(f"{command.describe()}: the store could not read {describe_key(pair.key)}: {pair.error}")
        result.append((pair.key, pair.value))
    return result
