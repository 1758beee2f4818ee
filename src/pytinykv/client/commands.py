"""What one operation on the keys of one region consists of, whatever it does.

A command is made once per call and encoded once per attempt, for the `BatchCommands` frame that will carry it.

    key, space          which region it goes to
    effect              what repeating it can do
    field, tag          its name in `BatchCommandsRequest.Request` (and in the response), and its tag there
    pairs_field         set where the reply carries pairs: the name of their field
    unary_path          set where `BatchCommands` has no such command: then it travels as a call of its own
    is_patient          set where no caller waits for the answer: it may wait a moment for company in its frame
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import Enum
from typing import Any, ClassVar, Generic, TypeVar

from google.protobuf.message import Message

from pytinykv.client.errors import ServerError
from pytinykv.client.key_space import ABOVE_ALL_KEYS, PLAIN, KeyRange, KeySpace, clip
from pytinykv.client.region_cache import RegionCache
from pytinykv.client.route import Destination, Route
from pytinykv.wire.keys import describe_key
from pytinykv.wire.pb import tikvpb_pb2

FramedRequest = tikvpb_pb2.BatchCommandsRequest.Request
"""One command within a `BatchCommands` frame."""
Pair = tuple[bytes, bytes]

_T_co = TypeVar("_T_co", covariant=True)
_ItemT = TypeVar("_ItemT")

SHRINK_FACTOR = 4
"""A store that could not answer is asked for so many times less."""


class Effect(Enum):
    """What an attempt does to the data, and so what may be done when its outcome is unknown."""

    READ = "changes nothing"
    """Repeated until the deadline."""
    IDEMPOTENT = "changes the data once, however often it is executed"
    """A write that says which transaction it belongs to: prewrite, commit, rollback, resolve. Repeated like a read; only
    when no repetition got an answer, the call ends undetermined."""
    ONCE = "changes the data each time"
    """Repeated only while it is certain that no attempt was executed: a repetition could bring an old value back over a
    newer one of another client."""


class Command(Generic[_T_co]):
    """One operation on keys of one region."""

    __slots__ = ("key", "route")

    field: ClassVar[str]
    tag: ClassVar[bytes] = b""
    verb: ClassVar[str]
    effect: ClassVar[Effect] = Effect.READ
    space: ClassVar[KeySpace] = PLAIN
    pairs_field: ClassVar[str | None] = None
    unary_path: ClassVar[str | None] = None
    is_patient: ClassVar[bool] = False

    key: bytes
    """The key that it is about, or the first of them."""
    route: Route | None
    """The way that the latest attempt went."""

    def destination(self) -> Destination:
        """Return which region this command goes to."""
        return Destination(self.space.to_bound(self.key))

    def locate(self, cache: RegionCache) -> Route | None:
        """Return the route to `destination`, if the cache knows it."""
        return cache.locate(self.space.to_bound(self.key))

    def request(self, route: Route) -> Message:
        """Return the request for an attempt at `route`."""
        raise NotImplementedError

    def encode(self, route: Route) -> bytes:
        """Return `request` encoded; the commonest commands do it without protobuf."""
        return self.request(route).SerializeToString()

    def decode(self, reply: Any) -> _T_co:
        """Return the result out of a reply without region error. Raises `ServerError`."""
        raise NotImplementedError

    def shrink(self) -> None:
        """Ask for less with the next attempt, if that makes sense: what was asked for was too much for the store."""

    def describe(self) -> str:
        """Return the operation and what it is about, for messages."""
        return f"{self.verb} {describe_key(self.key)}"

    def _check(self, error: str) -> None:
        if error:
            raise ServerError(f"{self.describe()}: the store answered {error!r} ({self.route!r})")


class BatchCommand(Command[_T_co], Generic[_ItemT, _T_co]):
    """An operation on several items, all of one region; what is repeated may be cut anew."""

    __slots__ = ("items",)

    items: Sequence[_ItemT]

    def describe(self) -> str:
        return f"{self.verb} of {len(self.items)} keys from {describe_key(self.key)} on"


class RangeCommand(Command[_T_co]):
    """An operation on a range of keys; one attempt covers the part of it that lies in one region."""

    __slots__ = ("covered", "range")

    range: KeyRange
    covered: KeyRange
    """The part that the latest attempt was about."""

    def __init__(self, range_: KeyRange) -> None:
        self.key = range_.start
        self.range = range_

    def destination(self) -> Destination:
        end = self.range.end
        return Destination(self.space.to_bound(self.key), needed_to=self.space.to_bound(end) if end else b"")

    def locate(self, cache: RegionCache) -> Route | None:
        return cache.find(self.destination())

    def describe(self) -> str:
        return f"{self.verb} {self.range}"

    def _cover(self, route: Route) -> KeyRange:
        """Return the part of the range that an attempt at `route` is about."""
        self.covered = clip(self.range, route, self.space)
        return self.covered


class PagedScan(RangeCommand[list[Pair]]):
    """A page of a range, in ascending or descending order. A page shorter than `limit` exhausts the region's part."""

    __slots__ = ("key_only", "limit", "reverse")

    verb = "scan"

    limit: int
    reverse: bool
    key_only: bool

    def __init__(self, range_: KeyRange, *, limit: int, reverse: bool, key_only: bool) -> None:
        super().__init__(range_)
        self.limit = limit
        """Rows to ask for; only `shrink` moves it, down to 1, when a store refuses so large an answer."""
        self.reverse = reverse
        self.key_only = key_only

    def destination(self) -> Destination:
        if not self.reverse:
            return super().destination()
        return Destination(self.space.to_bound(self.range.end or ABOVE_ALL_KEYS), below=True)

    def shrink(self) -> None:
        self.limit = max(1, self.limit // SHRINK_FACTOR)

    def _ends(self, route: Route) -> tuple[bytes, bytes]:
        """Return where an attempt at `route` begins and ends: in reverse, from an exclusive upper end down."""
        part = self._cover(route)
        return (part.end or ABOVE_ALL_KEYS, part.start) if self.reverse else (part.start, part.end)
