"""Transactional commands for whole ranges: deleting all there is, and collecting garbage.

    KvDeleteRange        one region          all versions, values and locks, through its log
    UnsafeDestroyRange   each store          the same in every region of the range, by the store as a client of the cluster
    KvGC                 one region          what the cluster's safe point allows to delete; the cluster does that by itself

Deleting a range asks neither readers nor transactions: it is for data that is not used any more.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from pytinykv.client.errors import ClientError
from pytinykv.lifecycle import ScopeStoppedError
from pytinykv.raftstore.keys import ABOVE_ALL_ENCODED_KEYS
from pytinykv.server.kv.kinds import CommandContext, InvalidRequestError, PreparedWrite
from pytinykv.server.kv.txn_requests import PlainBoundsError, bounds_of_data, clip
from pytinykv.storage import ColumnFamily
from pytinykv.storage.changes import CF_CODES, DELETE_RANGE
from pytinykv.wire.keys import encode_bytes
from pytinykv.wire.limits import bound_problem
from pytinykv.wire.pb import kvrpcpb_pb2 as pb

if TYPE_CHECKING:
    from pytinykv.model import Region
    from pytinykv.raftstore import Operation, RegionPeer
    from pytinykv.server.kv.txn_host import TransactionHost

DESTROY_TIMEOUT_S: Final = 120.0
"""How long a range may take to be deleted; clients wait for minutes."""

_FAMILIES = tuple(CF_CODES[cf] for cf in (ColumnFamily.LOCK, ColumnFamily.WRITE, ColumnFamily.DEFAULT))


def _deletions(region: Region, start: bytes, end: bytes) -> list[Operation]:
    """Return what deletes the part of a range of users' keys that lies in a region."""
    clipped = clip(region, start, end)
    if clipped is None:
        return []
    first = encode_bytes(clipped[0]) if clipped[0] else b""
    last = encode_bytes(clipped[1]) if clipped[1] else ABOVE_ALL_ENCODED_KEYS
    return [(DELETE_RANGE, family, first, last) for family in _FAMILIES]


def delete_range(context: CommandContext, request: pb.DeleteRangeRequest) -> PreparedWrite:
    if request.notify_only:
        return PreparedWrite([], 0)
    operations = _deletions(context.region, request.start_key, request.end_key)
    return PreparedWrite(operations, sum(len(one[2]) + len(one[3]) for one in operations))


def destroy_range(
    host: TransactionHost, request: pb.UnsafeDestroyRangeRequest, on_answer: Callable[[bytes], None]
) -> None:
    """Delete a range; answered when all of its regions have applied it, or with what some did not.

    Clients ask every store, and each store sees to the whole range: were each to delete what it leads, a region whose leader
    moves from a store that has not been asked yet to one that has would be missed.
    """
    for name, bound in (("start_key", request.start_key), ("end_key", request.end_key)):
        if (problem := bound_problem(bound)) is not None:
            raise InvalidRequestError(f"{name}: {problem}")
    cluster = host.cluster
    if cluster is None:
        _destroy_led_range(host, request, on_answer)
        return

    async def run() -> None:
        error = "the store is stopping; a part of the range may be deleted"
        try:
            await cluster.delete_range(request.start_key, request.end_key, DESTROY_TIMEOUT_S)
            error = ""
        except ClientError as failure:
            error = str(failure)
        finally:
            on_answer(pb.UnsafeDestroyRangeResponse(error=error).SerializeToString())

    try:
        host.scope.start("destroy-range", run)
    except ScopeStoppedError:
        on_answer(pb.UnsafeDestroyRangeResponse(error="the store is stopping").SerializeToString())


def _destroy_led_range(
    host: TransactionHost, request: pb.UnsafeDestroyRangeRequest, on_answer: Callable[[bytes], None]
) -> None:
    """Delete a range in every region that is led here."""
    left = 1
    problems: list[str] = []

    def on_applied(error: Exception | None) -> None:
        nonlocal left
        left -= 1
        if error is not None:
            problems.append(str(error))
        if not left:
            on_answer(pb.UnsafeDestroyRangeResponse(error="; ".join(problems)).SerializeToString())

    for peer in [peer for peer in host.store.peers.values() if peer.is_leader]:
        try:
            operations = _deletions(peer.region, request.start_key, request.end_key)
        except PlainBoundsError:
            continue  # it holds no transactional data
        if operations:
            left += 1
            host.port(peer, peer.region.epoch.version, peer.term).propose(operations, on_applied)
    on_applied(None)


def collect(host: TransactionHost, peer: RegionPeer, request: pb.GCRequest, on_answer: Callable[[bytes], None]) -> None:
    """Collect one region's garbage now; answered when that is done. Raises InvalidRequestError."""
    collector = host.collector
    reached = 0 if collector is None else collector.collect_ts
    if collector is None or request.safe_point > reached:
        raise InvalidRequestError(
            f"safe_point {request.safe_point} is above {reached}, which all stores keep to: move it on at the scheduler "
            "(UpdateGCSafePoint) and wait until it is taken up"
        )
    bounds_of_data(peer.region)

    def on_done(error: Exception | None) -> None:
        response = pb.GCResponse() if error is None else pb.GCResponse(error=pb.KeyError(abort=str(error)))
        on_answer(response.SerializeToString())

    collector.collect_region(peer, on_done)


def lock_wait_info(
    host: TransactionHost, _request: pb.GetLockWaitInfoRequest, on_answer: Callable[[bytes], None]
) -> None:
    """List who waits for locks on this store."""
    on_answer(pb.GetLockWaitInfoResponse(entries=host.deadlocks.entries()).SerializeToString())
