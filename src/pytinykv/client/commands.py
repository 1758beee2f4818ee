"""The raw operations as commands: what to write into a frame, what to read from the reply.

A command is made once per call and encoded once per attempt, straight into the `BatchCommands` frame that will carry it.
Commands over a range clip themselves to the region of the attempt, and remember in `covered` how far they got.

    key, cf, write      where it goes, and whether repeating it could do harm
    field               its name in `BatchCommandsRequest.Request` (and in the response)
    unary_path          set where `BatchCommands` has no such command: then it travels as a call of its own
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Generic, NamedTuple, TypeVar

from pytinykv.client.errors import ServerError
from pytinykv.wire.keys import describe_key
from pytinykv.wire.limits import SCAN_BOUND_BYTES_MAX
from pytinykv.wire.pb import kvrpcpb_pb2, tikvpb_pb2

if TYPE_CHECKING:
    from pytinykv.client.region_cache import Region

Frame = tikvpb_pb2.BatchCommandsRequest.Request
Pair = tuple[bytes, bytes]

_T_co = TypeVar("_T_co", covariant=True)
_ItemT = TypeVar("_ItemT")

ABOVE_ALL_KEYS = b"\xff" * SCAN_BOUND_BYTES_MAX
"""Stands for "no upper end" in a reverse scan, whose empty start key would mean the opposite; longer than any key."""


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
    total_bytes: int


class KeyRange(NamedTuple):
    """Keys from `start` on and below `end`; an empty end means that there is none."""

    start: bytes
    end: bytes

    def clip(self, region: Region) -> KeyRange:
        """Return the part that lies in `region`."""
        end = min(self.end, region.end) if self.end and region.end else self.end or region.end
        return KeyRange(max(self.start, region.start), end)


class Command(Generic[_T_co]):
    """One operation on keys of one region."""

    __slots__ = ("cf", "key", "region")

    field: ClassVar[str]
    verb: ClassVar[str]
    write: ClassVar[bool] = False
    unary_path: ClassVar[str | None] = None

    key: bytes
    cf: str
    region: Region | None
    """The region of the latest attempt."""

    @property
    def size_bytes(self) -> int:
        """Approximate size in a frame, beyond a constant."""
        return len(self.key)

    def locate(self, cache: Any) -> Region | None:
        """Return the region this command goes to, if the cache knows it."""
        region: Region | None = cache.locate(self.key)
        return region

    def encode(self, request: Frame, region: Region) -> None:
        """Write the command into `request`, for an attempt at `region`."""
        raise NotImplementedError

    def request(self, region: Region) -> Any:
        """Return the message of a unary call."""
        frame = Frame()
        self.encode(frame, region)
        return getattr(frame, self.field)

    def decode(self, reply: Any) -> _T_co:
        """Return the result out of a reply without region error. Raises `ServerError`."""
        raise NotImplementedError

    def describe(self) -> str:
        """Return the operation and what it is about, for messages."""
        return f"{self.verb} {describe_key(self.key)}"

    def _check(self, error: str) -> None:
        if error:
            raise ServerError(f"{self.describe()}: the store answered {error!r} ({self.region!r})")


class RawGet(Command[bytes | None]):
    """The value of a key, None if there is none."""

    __slots__ = ()
    field = "RawGet"
    verb = "get"

    def __init__(self, key: bytes, cf: str) -> None:
        self.key = key
        self.cf = cf

    def encode(self, request: Frame, region: Region) -> None:
        body = request.RawGet
        body.context.MergeFrom(region.context)
        body.key = self.key
        if self.cf:
            body.cf = self.cf

    def decode(self, reply: kvrpcpb_pb2.RawGetResponse) -> bytes | None:
        if reply.error:
            self._check(reply.error)
        return None if reply.not_found else reply.value


class RawPut(Command[None]):
    """Set a key."""

    __slots__ = ("ttl_s", "value")
    field = "RawPut"
    verb = "put"
    write = True

    def __init__(self, key: bytes, value: bytes, ttl_s: int, cf: str) -> None:
        self.key = key
        self.value = value
        self.ttl_s = ttl_s
        self.cf = cf

    @property
    def size_bytes(self) -> int:
        return len(self.key) + len(self.value)

    def encode(self, request: Frame, region: Region) -> None:
        body = request.RawPut
        body.context.MergeFrom(region.context)
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

    __slots__ = ()
    field = "RawDelete"
    verb = "delete"
    write = True

    def __init__(self, key: bytes, cf: str) -> None:
        self.key = key
        self.cf = cf

    def encode(self, request: Frame, region: Region) -> None:
        body = request.RawDelete
        body.context.MergeFrom(region.context)
        body.key = self.key
        if self.cf:
            body.cf = self.cf

    def decode(self, reply: kvrpcpb_pb2.RawDeleteResponse) -> None:
        if reply.error:
            self._check(reply.error)


class BatchCommand(Command[_T_co], Generic[_ItemT, _T_co]):
    """A command about several items, all in one region; `key` is that of the first."""

    __slots__ = ("items",)

    items: Sequence[_ItemT]

    def describe(self) -> str:
        return f"{self.verb} of {len(self.items)} keys from {describe_key(self.key)} on"


class RawBatchGet(BatchCommand[bytes, list[Pair]]):
    """The pairs of those keys that exist."""

    __slots__ = ()
    field = "RawBatchGet"
    verb = "batch_get"

    def __init__(self, items: Sequence[bytes], cf: str) -> None:
        self.key = items[0]
        self.items = items
        self.cf = cf

    @property
    def size_bytes(self) -> int:
        return sum(map(len, self.items))

    def encode(self, request: Frame, region: Region) -> None:
        body = request.RawBatchGet
        body.context.MergeFrom(region.context)
        body.keys.extend(self.items)
        body.cf = self.cf

    def decode(self, reply: kvrpcpb_pb2.RawBatchGetResponse) -> list[Pair]:
        return _pairs(self, reply.pairs)


class RawBatchPut(BatchCommand[Pair, None]):
    """Set several keys."""

    __slots__ = ("ttl_s",)
    field = "RawBatchPut"
    verb = "batch_put"
    write = True

    def __init__(self, items: Sequence[Pair], ttl_s: int, cf: str) -> None:
        self.key = items[0][0]
        self.items = items
        self.ttl_s = ttl_s
        self.cf = cf

    @property
    def size_bytes(self) -> int:
        return sum(len(key) + len(value) for key, value in self.items)

    def encode(self, request: Frame, region: Region) -> None:
        body = request.RawBatchPut
        body.context.MergeFrom(region.context)
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

    __slots__ = ()
    field = "RawBatchDelete"
    verb = "batch_delete"
    write = True

    def __init__(self, items: Sequence[bytes], cf: str) -> None:
        self.key = items[0]
        self.items = items
        self.cf = cf

    @property
    def size_bytes(self) -> int:
        return sum(map(len, self.items))

    def encode(self, request: Frame, region: Region) -> None:
        body = request.RawBatchDelete
        body.context.MergeFrom(region.context)
        body.keys.extend(self.items)
        body.cf = self.cf

    def decode(self, reply: kvrpcpb_pb2.RawBatchDeleteResponse) -> None:
        self._check(reply.error)


class _RangeCommand(Command[_T_co]):
    """A command over a range; one attempt covers the part of it that lies in one region."""

    __slots__ = ("covered", "range")

    range: KeyRange
    covered: KeyRange
    """The part the latest attempt was about."""

    def __init__(self, range_: KeyRange, cf: str) -> None:
        self.key = range_.start
        self.range = range_
        self.cf = cf

    def describe(self) -> str:
        end = describe_key(self.range.end) if self.range.end else "the end"
        return f"{self.verb} from {describe_key(self.range.start)} to {end}"


class RawScan(_RangeCommand[list[Pair]]):
    """A page of a range, in ascending or descending order. A page shorter than `limit` exhausts the region's part."""

    __slots__ = ("key_only", "limit", "reverse")
    field = "RawScan"
    verb = "scan"

    def __init__(self, range_: KeyRange, *, limit: int, reverse: bool, key_only: bool, cf: str) -> None:
        super().__init__(range_, cf)
        self.limit = limit
        self.reverse = reverse
        self.key_only = key_only

    def locate(self, cache: Any) -> Region | None:
        region: Region | None = (
            cache.locate_below(self.range.end or None) if self.reverse else cache.locate(self.range.start)
        )
        return region

    def encode(self, request: Frame, region: Region) -> None:
        body = request.RawScan
        body.context.MergeFrom(region.context)
        part = self.covered = self.range.clip(region)
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


class RawDeleteRange(_RangeCommand[None]):
    """Remove the keys of a range."""

    __slots__ = ()
    field = "RawDeleteRange"
    verb = "delete_range"
    write = True

    def encode(self, request: Frame, region: Region) -> None:
        body = request.RawDeleteRange
        body.context.MergeFrom(region.context)
        part = self.covered = self.range.clip(region)
        body.start_key = part.start
        body.end_key = part.end
        body.cf = self.cf

    def decode(self, reply: kvrpcpb_pb2.RawDeleteRangeResponse) -> None:
        self._check(reply.error)


class RawChecksum(_RangeCommand[Checksum]):
    """Checksum of a range."""

    __slots__ = ()
    field = "RawChecksum"
    verb = "checksum"
    unary_path = "/tikvpb.Tikv/RawChecksum"

    def request(self, region: Region) -> kvrpcpb_pb2.RawChecksumRequest:
        part = self.covered = self.range.clip(region)
        return kvrpcpb_pb2.RawChecksumRequest(
            context=region.context, ranges=[kvrpcpb_pb2.KeyRange(start_key=part.start, end_key=part.end)]
        )

    def decode(self, reply: kvrpcpb_pb2.RawChecksumResponse) -> Checksum:
        self._check(reply.error)
        return Checksum(reply.checksum, reply.total_kvs, reply.total_bytes)


class RawTtl(Command[int | None]):
    """Seconds a key has left to live: 0 when it lives for ever, None when there is no such key."""

    __slots__ = ()
    field = "RawGetKeyTTL"
    verb = "ttl"
    unary_path = "/tikvpb.Tikv/RawGetKeyTTL"

    def __init__(self, key: bytes, cf: str) -> None:
        self.key = key
        self.cf = cf

    def request(self, region: Region) -> kvrpcpb_pb2.RawGetKeyTTLRequest:
        return kvrpcpb_pb2.RawGetKeyTTLRequest(context=region.context, key=self.key, cf=self.cf)

    def decode(self, reply: kvrpcpb_pb2.RawGetKeyTTLResponse) -> int | None:
        self._check(reply.error)
        return None if reply.not_found else reply.ttl


class RawCompareAndSwap(Command[CasResult]):
    """Set a key if it has the expected value (None: if it does not exist)."""

    __slots__ = ("expected", "ttl_s", "value")
    field = "RawCompareAndSwap"
    verb = "compare_and_swap"
    write = True
    unary_path = "/tikvpb.Tikv/RawCompareAndSwap"

    def __init__(self, key: bytes, *, expected: bytes | None, value: bytes, ttl_s: int, cf: str) -> None:
        self.key = key
        self.expected = expected
        self.value = value
        self.ttl_s = ttl_s
        self.cf = cf

    def request(self, region: Region) -> kvrpcpb_pb2.RawCASRequest:
        return kvrpcpb_pb2.RawCASRequest(
            context=region.context,
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
