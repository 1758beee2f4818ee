"""Transactional commands that only look: from a request to versions, and to the encoded response.

The frame has noted their timestamps before (`read_ts` of their entries), so that no transaction commits below them any more
without a lock that they meet. They look first at the locks that are only in memory, then at the engine.

What is locked is told key by key, so that a client can resolve all locks of a page at once; a lock that is only in memory
stops a scan as a whole. A scan returns fewer pairs than asked for only where its range or region ends.
"""

from __future__ import annotations

from collections.abc import Iterator
from io import BytesIO
from typing import TYPE_CHECKING, Any, Final

from pytinykv.server.kv import txn_requests
from pytinykv.server.kv.encoding import PairWriter
from pytinykv.server.kv.kinds import ROW_COST, CommandContext, InvalidRequestError, View
from pytinykv.server.kv.txn_answers import key_error, lock_info, mvcc_info
from pytinykv.transaction import history
from pytinykv.transaction.commands import MvccGetByStartTs
from pytinykv.transaction.errors import SnapshotTooOld, TxnError, TxnErrorRaised
from pytinykv.transaction.history import key_by_start_ts, mvcc_by_key
from pytinykv.transaction.resolve import LOCKS_PER_STEP
from pytinykv.transaction.resolve import scan_lock_in_steps as find_locks
from pytinykv.transaction.scan import RECORDS_PER_STEP, scan_in_steps
from pytinykv.wire.encoding import field_tag, varint
from pytinykv.wire.pb import kvrpcpb_pb2 as pb
from pytinykv.wire.timestamp import Timestamp

if TYPE_CHECKING:
    from google.protobuf.message import Message

    from pytinykv.transaction.results import LocksResult


RECORD_COST: Final = 512
"""What stepping over a record costs that makes no row, in bytes, as `ROW_COST` is."""

_VALUE = field_tag(pb.GetResponse, "value")
_NOT_FOUND = pb.GetResponse(not_found=True).SerializeToString()
_PAIRS = field_tag(pb.ScanResponse, "pairs")
assert field_tag(pb.BatchGetResponse, "pairs") == _PAIRS
_LOCKS = field_tag(pb.ScanLockResponse, "locks")


def version_of(request: Any) -> int:
    """Return at which timestamp a read looks."""
    return request.version  # type: ignore[no-any-return]  # all reads have one


def get(view: View, context: CommandContext, request: pb.GetRequest) -> bytes:
    wanted = txn_requests.get(context, request)
    error = view.memory.blocks(wanted.key, wanted.view)
    if error is not None:
        return pb.GetResponse(error=key_error(error)).SerializeToString()
    try:
        found = view.mvcc.get(wanted.key, wanted.view)
    except TxnErrorRaised as raised:
        return pb.GetResponse(error=key_error(_told_by_key(raised.error))).SerializeToString()
    value = found.value
    if value is None:
        return _NOT_FOUND
    if request.need_commit_ts:
        return pb.GetResponse(value=value, commit_ts=found.commit_ts).SerializeToString()
    return b"".join((_VALUE, varint(len(value)), value))


def batch_get(view: View, context: CommandContext, request: pb.BatchGetRequest, out: BytesIO) -> Iterator[None]:
    wanted = txn_requests.batch_get(context, request)
    read_view, memory = wanted.view, view.memory
    pairs = PairWriter(out, _PAIRS)
    for key in wanted.keys:
        view.left -= ROW_COST
        error = memory.blocks(key, read_view)
        if error is None:
            try:
                found = view.mvcc.get(key, read_view)
            except TxnErrorRaised as raised:
                error = _told_by_key(raised.error)
            else:
                if found.value is not None:
                    view.left -= len(found.value)
                    if request.need_commit_ts:
                        _write(out, _PAIRS, pb.KvPair(key=key, value=found.value, commit_ts=found.commit_ts))
                    else:
                        pairs.add(key, found.value)
        if error is not None:
            _write_locked(out, key, error)
        if view.left <= 0:
            yield


def scan(view: View, context: CommandContext, request: pb.ScanRequest, out: BytesIO) -> Iterator[None]:
    wanted = txn_requests.scan(context, request)
    if wanted is None:
        return
    in_memory = view.memory.blocks_range(wanted.start, wanted.end, wanted.view)
    if in_memory is not None:
        out.write(pb.ScanResponse(error=key_error(in_memory)).SerializeToString())
        return
    add = PairWriter(out, _PAIRS).add
    try:
        for row in scan_in_steps(view.reader, wanted, safe_point=Timestamp(view.safe_point)):
            if row is None:
                view.left -= RECORDS_PER_STEP * RECORD_COST
            elif row.error is None:
                view.left -= ROW_COST + len(row.value)
                add(row.key, row.value)
            else:
                view.left -= ROW_COST
                _write_locked(out, row.key, row.error)
            if view.left <= 0:
                yield
    except TxnErrorRaised as raised:
        out.write(pb.ScanResponse(error=key_error(_told_by_key(raised.error))).SerializeToString())


def scan_lock(view: View, context: CommandContext, request: pb.ScanLockRequest, out: BytesIO) -> Iterator[None]:
    """List locks, those in memory, too: clients that look for old ones rely on their being all there are."""
    wanted = txn_requests.scan_lock(context, request)
    if wanted is None:
        return
    found: LocksResult | None = None
    steps = find_locks(view.reader, wanted, view.memory)
    while found is None:
        try:
            next(steps)
        except StopIteration as done:
            found = done.value
        else:
            view.left -= LOCKS_PER_STEP * RECORD_COST
        if view.left <= 0:
            yield
    assert found is not None, "the loop has ended"
    for one in found.locks:
        view.left -= ROW_COST
        _write(out, _LOCKS, lock_info(one.key, one.lock))
        if view.left <= 0:
            yield


def mvcc_get_by_key(
    view: View, context: CommandContext, request: pb.MvccGetByKeyRequest, out: BytesIO
) -> Iterator[None]:
    txn_requests.check_key(context.region, request.key)
    info = mvcc_by_key(view.reader, request.key)
    out.write(pb.MvccGetByKeyResponse(info=mvcc_info(info)).SerializeToString())
    view.left -= ROW_COST * (1 + len(info.writes))
    if view.left <= 0:
        yield


def mvcc_get_by_start_ts(
    view: View, context: CommandContext, request: pb.MvccGetByStartTsRequest, out: BytesIO
) -> Iterator[None]:
    start, end = txn_requests.bounds_of_data(context.region)
    wanted = MvccGetByStartTs(Timestamp(request.start_ts), start, end)
    for key in key_by_start_ts(view.reader, wanted):
        if key is not None:
            info = mvcc_info(mvcc_by_key(view.reader, key))
            out.write(pb.MvccGetByStartTsResponse(key=key, info=info).SerializeToString())
        view.left -= history.RECORDS_PER_STEP * RECORD_COST
        if view.left <= 0:
            yield


def _told_by_key(error: TxnError) -> TxnError:
    """Return an error that a key may have; one that the whole read meets ends it instead."""
    if isinstance(error, SnapshotTooOld):
        raise InvalidRequestError(error.describe())
    return error


def _write_locked(out: BytesIO, key: bytes, error: TxnError) -> None:
    _write(out, _PAIRS, pb.KvPair(key=key, error=key_error(error)))


def _write(out: BytesIO, tag: bytes, message: Message) -> None:
    encoded = message.SerializeToString()
    out.write(b"%b%b%b" % (tag, varint(len(encoded)), encoded))
