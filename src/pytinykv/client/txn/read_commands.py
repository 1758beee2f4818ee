"""Reads as commands: what to write into a frame, what to read from the reply. They raise `KeysLockedError` for the resolver.

Keys travel plain; their memcomparable forms only find the region.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pytinykv.client.commands import BatchCommand, Command, FramedRequest, PagedScan, Pair
from pytinykv.client.errors import TransactionRefusedError
from pytinykv.client.key_space import MEMCOMPARABLE, KeyRange
from pytinykv.client.route import Route
from pytinykv.client.txn.key_errors import error_of, locked
from pytinykv.client.txn.records import ForeignLock, SnapshotView
from pytinykv.wire.encoding import field_tag, varint
from pytinykv.wire.keys import KeyCodecError
from pytinykv.wire.pb import kvrpcpb_pb2

_KEY = field_tag(kvrpcpb_pb2.GetRequest, "key")
_VERSION = bytes([kvrpcpb_pb2.GetRequest.DESCRIPTOR.fields_by_name["version"].number << 3])
"""The tag of a varint field."""


def _encode_get(key: bytes, view: SnapshotView, route: Route) -> bytes:
    if view.passed or view.committed:
        return _get_request(key, view, route).SerializeToString()
    return b"".join((route.context_field, _KEY, varint(len(key)), key, _VERSION, varint(view.ts)))


def _get_request(key: bytes, view: SnapshotView, route: Route) -> kvrpcpb_pb2.GetRequest:
    request = kvrpcpb_pb2.GetRequest(context=route.context, key=key, version=view.ts)
    view.fill(request.context)
    return request


class TxnGet(Command[bytes | None]):
    """The value of a key at a snapshot, None if there is none."""

    __slots__ = ("view",)
    field = "Get"
    tag = field_tag(FramedRequest, field)
    verb = "get"
    space = MEMCOMPARABLE

    def __init__(self, key: bytes, view: SnapshotView) -> None:
        self.key = key
        self.view = view

    def encode(self, route: Route) -> bytes:
        return _encode_get(self.key, self.view, route)

    def request(self, route: Route) -> kvrpcpb_pb2.GetRequest:
        return _get_request(self.key, self.view, route)

    def decode(self, reply: kvrpcpb_pb2.GetResponse) -> bytes | None:
        if reply.HasField("error"):
            raise error_of(reply.error, self.describe())
        return None if reply.not_found else reply.value


class TxnGetPair(BatchCommand[bytes, list[Pair]]):
    """The pair of the only key of a batch, if it exists: for client and store much less work than a batch of one."""

    __slots__ = ("view",)
    field = "Get"
    tag = field_tag(FramedRequest, field)
    verb = "get_many"
    space = MEMCOMPARABLE

    def __init__(self, items: Sequence[bytes], view: SnapshotView) -> None:
        self.key = items[0]
        self.items = items
        self.view = view

    def encode(self, route: Route) -> bytes:
        return _encode_get(self.key, self.view, route)

    def request(self, route: Route) -> kvrpcpb_pb2.GetRequest:
        return _get_request(self.key, self.view, route)

    def decode(self, reply: kvrpcpb_pb2.GetResponse) -> list[Pair]:
        if reply.HasField("error"):
            raise error_of(reply.error, self.describe())
        return [] if reply.not_found else [(self.key, reply.value)]


def get_pairs(items: Sequence[bytes], view: SnapshotView) -> BatchCommand[bytes, list[Pair]]:
    """Return the command that reads keys of one region at a snapshot."""
    return TxnGetPair(items, view) if len(items) == 1 else TxnBatchGet(items, view)


class TxnBatchGet(BatchCommand[bytes, list[Pair]]):
    """The pairs of those keys that exist at a snapshot."""

    __slots__ = ("view",)
    field = "BatchGet"
    tag = field_tag(FramedRequest, field)
    pairs_field = "pairs"
    verb = "get_many"
    space = MEMCOMPARABLE

    def __init__(self, items: Sequence[bytes], view: SnapshotView) -> None:
        self.key = items[0]
        self.items = items
        self.view = view

    def request(self, route: Route) -> kvrpcpb_pb2.BatchGetRequest:
        request = kvrpcpb_pb2.BatchGetRequest(context=route.context, keys=self.items, version=self.view.ts)
        self.view.fill(request.context)
        return request

    def decode(self, reply: kvrpcpb_pb2.BatchGetResponse) -> list[Pair]:
        return _pairs(self, reply)


class TxnScan(PagedScan):
    """A page of a range at a snapshot."""

    __slots__ = ("view",)
    field = "Scan"
    tag = field_tag(FramedRequest, field)
    pairs_field = "pairs"
    space = MEMCOMPARABLE

    def __init__(self, range_: KeyRange, view: SnapshotView, *, limit: int, reverse: bool, key_only: bool) -> None:
        super().__init__(range_, limit=limit, reverse=reverse, key_only=key_only)
        self.view = view

    def request(self, route: Route) -> kvrpcpb_pb2.ScanRequest:
        start, end = _encoded_ends(self, route)
        request = kvrpcpb_pb2.ScanRequest(
            context=route.context,
            start_key=start,
            end_key=end,
            limit=self.limit,
            version=self.view.ts,
            key_only=self.key_only,
            reverse=self.reverse,
        )
        self.view.fill(request.context)
        return request

    def decode(self, reply: kvrpcpb_pb2.ScanResponse) -> list[Pair]:
        return _pairs(self, reply)


def _encoded_ends(command: PagedScan, route: Route) -> tuple[bytes, bytes]:
    try:
        return command._ends(route)  # noqa: SLF001 - of the base class
    except KeyCodecError as error:
        raise plain_boundary(command, route, error) from error


def plain_boundary(command: Command[Any], route: Route, error: object) -> TransactionRefusedError:
    """Return the error for a region whose boundary no transactional client can read."""
    return TransactionRefusedError(
        f"{command.describe()}: the boundaries of {route!r} were made for raw data ({error}). Transactions need a cluster "
        "that had no plain boundary when they came to it: use one of their own"
    )


def _pairs(command: Command[Any], reply: Any) -> list[Pair]:
    """Return the pairs of a reply. Raises for locks and other errors that it carries, of all pairs together."""
    if reply.HasField("error"):
        raise error_of(reply.error, command.describe())
    pairs = reply.pairs
    result = [(pair.key, pair.value) for pair in pairs if not pair.HasField("error")]
    if len(result) == len(pairs):
        return result
    locks: list[ForeignLock] = []
    for pair in pairs:
        if not pair.HasField("error"):
            continue
        if pair.error.HasField("locked"):
            locks.append(ForeignLock.from_pb(pair.error.locked))
        else:
            raise error_of(pair.error, command.describe())
    raise locked(locks)


class MvccOfKey(Command[kvrpcpb_pb2.MvccInfo]):
    """Every version and the lock of a key."""

    __slots__ = ()
    field = "MvccGetByKey"
    verb = "mvcc"
    unary_path = "/tikvpb.Tikv/MvccGetByKey"
    space = MEMCOMPARABLE

    def __init__(self, key: bytes) -> None:
        self.key = key

    def request(self, route: Route) -> kvrpcpb_pb2.MvccGetByKeyRequest:
        return kvrpcpb_pb2.MvccGetByKeyRequest(context=route.context, key=self.key)

    def decode(self, reply: kvrpcpb_pb2.MvccGetByKeyResponse) -> kvrpcpb_pb2.MvccInfo:
        self._check(reply.error)
        return reply.info
