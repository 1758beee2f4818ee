"""Where a request belongs, and what a client is told that can't have it.

Checked in this order: the store (StoreNotMatch), the region (RegionNotFound), the leader (NotLeader), the epoch's version
(EpochNotMatch; `conf_ver` does not matter to data). The keys come later, with the command (KeyNotInRegion). A peer that is
about to lead, as its region was just split off or handed over to it, passes for the leader: its commands wait (`dispatcher`).
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from pytinykv.model import FormatError
from pytinykv.server.kv.kinds import CommandKind, InvalidRequestError
from pytinykv.storage import EngineError
from pytinykv.transaction.records import RecordFormatError
from pytinykv.wire import RpcError, StatusCode
from pytinykv.wire.errors import (
    MismatchPeerId,
    RegionError,
    RegionNotFound,
    RegionNotInitialized,
    StoreNotMatch,
)
from pytinykv.wire.pb import kvrpcpb_pb2

if TYPE_CHECKING:
    from pytinykv.raftstore import RegionPeer, Store

_log = logging.getLogger(__name__)


class AnswerTooLargeError(InvalidRequestError):
    """The answer to a command exceeds what one message may hold."""


REFUSALS = (RegionError, InvalidRequestError, EngineError, FormatError, RecordFormatError)
"""Errors of one command that its response tells; the stream or call it came in goes on."""


def locate(store: Store, cluster_id: int, context: kvrpcpb_pb2.Context) -> RegionPeer:
    """Return the peer that has to serve a request: it leads, or may be waited for (`LeadershipWaits`).

    Raises RegionError, RpcError for another cluster.
    """
    if context.cluster_id and context.cluster_id != cluster_id:
        raise RpcError(
            StatusCode.FAILED_PRECONDITION,
            f"mismatch cluster id: this is cluster {cluster_id}, the request is for {context.cluster_id}",
        )
    target = context.peer
    if target.store_id and target.store_id != store.store_id:
        raise StoreNotMatch(request_store_id=target.store_id, actual_store_id=store.store_id)
    region_id = context.region_id
    peer = store.peers.get(region_id)
    if peer is None:
        raise RegionNotFound(region_id=region_id)
    if not (peer.is_leader or peer.calls.expects_leadership):
        if not peer.is_initialized:
            raise RegionNotInitialized(region_id=region_id)
        store.rouse(peer)
        raise peer.not_leader()
    if target.id and target.id != peer.peer.id:
        raise MismatchPeerId(request_peer_id=target.id, store_peer_id=peer.peer.id)
    _check_version(peer, context.region_epoch.version)
    return peer


def check_unchanged(peer: RegionPeer, version: int) -> None:
    """Refuse a read that waited when the region is gone or was split meanwhile."""
    if peer.is_destroyed:
        raise RegionNotFound(region_id=peer.region.id)
    _check_version(peer, version)


def _check_version(peer: RegionPeer, version: int) -> None:
    if version != peer.region.epoch.version:
        raise peer.epoch_not_match(version)


def refusal(store: Store, command: CommandKind, error: Exception) -> bytes:
    """Return the encoded response that tells one of `REFUSALS`. A store that can't read its disk fails soon."""
    match error:
        case RegionError():
            return command.region_error(error.to_pb())
        case EngineError():
            return command.region_error(store.report_damage(error).to_pb())
        case FormatError() | RecordFormatError():
            _log.error("%s failed", command.name, exc_info=error)
            return command.final_error(f"store {store.store_id} can't read: {error}")
        case _:
            return command.final_error(str(error), try_smaller=isinstance(error, AnswerTooLargeError))
