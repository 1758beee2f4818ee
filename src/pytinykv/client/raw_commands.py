"""The raw operations as commands: what to write into a frame, what to read from the reply.

`cf` is the column family as it travels: empty for the default one. Commands over a range clip themselves to the region of
the attempt, and remember in `covered` how far they got.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple, TypeVar

from pytinykv.client.commands import BatchCommand, Command, Effect, FramedRequest, PagedScan, Pair, RangeCommand
from pytinykv.client.errors import ServerError
from pytinykv.client.key_space import KeyRange
from pytinykv.client.route import Route
from pytinykv.wire.encoding import field_tag, varint
from pytinykv.wire.keys import describe_key
from pytinykv.wire.pb import kvrpcpb_pb2

_T = TypeVar("_T")
_KEY = field_tag(kvrpcpb_pb2.RawPutRequest, "key")
_VALUE = field_tag(kvrpcpb_pb2.RawPutRequest, "value")
assert field_tag(kvrpcpb_pb2.RawGetRequest, "key") == field_tag(kvrpcpb_pb2.RawDeleteRequest, "key") == _KEY


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


class _OfKey(Command[_T]):
    """What needs a key and nothing else; its request has the key where `RawPutRequest` has it."""

    __slots__ = ("cf",)

    def __init__(self, key: bytes, cf: str) -> None:
        self.key = key
        self.cf = cf

    def encode(self, route: Route) -> bytes:
        if self.cf:
            return super().encode(route)
        key = self.key
        return b"".join((route.context_field, _KEY, varint(len(key)), key))


class _OfKeys(BatchCommand[bytes, _T]):
    """What needs some keys and nothing else."""

    __slots__ = ("cf",)

    def __init__(self, items: Sequence[bytes], cf: str) -> None:
        self.key = items[0]
        self.items = items
        self.cf = cf


class RawGet(_OfKey[bytes | None]):
    """The value of a key, None if there is none."""

    __slots__ = ()
    field = "RawGet"
    tag = field_tag(FramedRequest, field)
    verb = "get"

    def request(self, route: Route) -> kvrpcpb_pb2.RawGetRequest:
        return kvrpcpb_pb2.RawGetRequest(context=route.context, key=self.key, cf=self.cf)

    def decode(self, reply: kvrpcpb_pb2.RawGetResponse) -> bytes | None:
        if reply.error:
            self._check(reply.error)
        return None if reply.not_found else reply.value


class RawPut(Command[None]):
    """Set a key."""

    __slots__ = ("cf", "ttl_s", "value")
    field = "RawPut"
    tag = field_tag(FramedRequest, field)
    verb = "put"
    effect = Effect.ONCE

    def __init__(self, key: bytes, value: bytes, ttl_s: int, cf: str) -> None:
        self.key = key
        self.value = value
        self.ttl_s = ttl_s
        self.cf = cf

    def encode(self, route: Route) -> bytes:
        if self.ttl_s or self.cf:
            return super().encode(route)
        key, value = self.key, self.value
        return b"".join((route.context_field, _KEY, varint(len(key)), key, _VALUE, varint(len(value)), value))

    def request(self, route: Route) -> kvrpcpb_pb2.RawPutRequest:
        return kvrpcpb_pb2.RawPutRequest(
            context=route.context, key=self.key, value=self.value, ttl=self.ttl_s, cf=self.cf
        )

    def decode(self, reply: kvrpcpb_pb2.RawPutResponse) -> None:
        if reply.error:
            self._check(reply.error)


class RawDelete(_OfKey[None]):
    """Remove a key."""

    __slots__ = ()
    field = "RawDelete"
    tag = field_tag(FramedRequest, field)
    verb = "delete"
    effect = Effect.ONCE

    def request(self, route: Route) -> kvrpcpb_pb2.RawDeleteRequest:
        return kvrpcpb_pb2.RawDeleteRequest(context=route.context, key=self.key, cf=self.cf)

    def decode(self, reply: kvrpcpb_pb2.RawDeleteResponse) -> None:
        if reply.error:
            self._check(reply.error)


class RawBatchGet(_OfKeys[list[Pair]]):
    """The pairs of those keys that exist."""

    __slots__ = ()
    field = "RawBatchGet"
    tag = field_tag(FramedRequest, field)
    pairs_field = "pairs"
    verb = "batch_get"

    def request(self, route: Route) -> kvrpcpb_pb2.RawBatchGetRequest:
        return kvrpcpb_pb2.RawBatchGetRequest(context=route.context, keys=self.items, cf=self.cf)

    def decode(self, reply: kvrpcpb_pb2.RawBatchGetResponse) -> list[Pair]:
        return _pairs(self, reply.pairs)


class RawBatchPut(BatchCommand[Pair, None]):
    """Set several keys."""

    __slots__ = ("cf", "ttl_s")
    field = "RawBatchPut"
    tag = field_tag(FramedRequest, field)
    verb = "batch_put"
    effect = Effect.ONCE

    def __init__(self, items: Sequence[Pair], ttl_s: int, cf: str) -> None:
        self.key = items[0][0]
        self.items = items
        self.ttl_s = ttl_s
        self.cf = cf

    def request(self, route: Route) -> kvrpcpb_pb2.RawBatchPutRequest:
        request = kvrpcpb_pb2.RawBatchPutRequest(context=route.context, cf=self.cf)
        add = request.pairs.add
        for key, value in self.items:
            add(key=key, value=value)
        if self.ttl_s:
            request.ttls.append(self.ttl_s)  # one for all pairs
        return request

    def decode(self, reply: kvrpcpb_pb2.RawBatchPutResponse) -> None:
        self._check(reply.error)


class RawBatchDelete(_OfKeys[None]):
    """Remove several keys."""

    __slots__ = ()
    field = "RawBatchDelete"
    tag = field_tag(FramedRequest, field)
    verb = "batch_delete"
    effect = Effect.ONCE

    def request(self, route: Route) -> kvrpcpb_pb2.RawBatchDeleteRequest:
        return kvrpcpb_pb2.RawBatchDeleteRequest(context=route.context, keys=self.items, cf=self.cf)

    def decode(self, reply: kvrpcpb_pb2.RawBatchDeleteResponse) -> None:
        self._check(reply.error)


class RawScan(PagedScan):
    """A page of a range, in ascending or descending order."""

    __slots__ = ("cf",)
    field = "RawScan"
    tag = field_tag(FramedRequest, field)
    pairs_field = "kvs"

    def __init__(self, range_: KeyRange, *, limit: int, reverse: bool, key_only: bool, cf: str) -> None:
        super().__init__(range_, limit=limit, reverse=reverse, key_only=key_only)
        self.cf = cf

    def request(self, route: Route) -> kvrpcpb_pb2.RawScanRequest:
        start, end = self._ends(route)
        return kvrpcpb_pb2.RawScanRequest(
            context=route.context,
            start_key=start,
            end_key=end,
            reverse=self.reverse,
            limit=self.limit,
            key_only=self.key_only,
            cf=self.cf,
        )

    def decode(self, reply: kvrpcpb_pb2.RawScanResponse) -> list[Pair]:
        return _pairs(self, reply.kvs)


class RawDeleteRange(RangeCommand[None]):
    """Remove the keys of a range. Repeating it would remove what other clients have written there since."""

    __slots__ = ("cf",)
    field = "RawDeleteRange"
    tag = field_tag(FramedRequest, field)
    verb = "delete_range"
    effect = Effect.ONCE

    def __init__(self, range_: KeyRange, cf: str) -> None:
        super().__init__(range_)
        self.cf = cf

    def request(self, route: Route) -> kvrpcpb_pb2.RawDeleteRangeRequest:
        part = self._cover(route)
        return kvrpcpb_pb2.RawDeleteRangeRequest(
            context=route.context, start_key=part.start, end_key=part.end, cf=self.cf
        )

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
