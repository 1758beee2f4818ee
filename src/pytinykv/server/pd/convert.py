"""The scheduler's records as messages of PD's protocol, and back."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TypedDict

from pytinykv.model import StoreId, epoch_to_pb, peer_from_pb, peer_to_pb, region_from_pb, region_to_pb
from pytinykv.scheduler.errors import InvalidInput
from pytinykv.scheduler.operators import ChangeKind, ChangePeer, MoveLeader, Order, SplitRegion
from pytinykv.scheduler.records import DownPeer, ReportedRegion, StoreLabel, StoreMeta, StoreState, StoreStats
from pytinykv.scheduler.stores import StoreInfo
from pytinykv.wire.pb import eraftpb_pb2, metapb_pb2, pdpb_pb2

NODE_STATES = {
    StoreState.UP: metapb_pb2.NodeState.Serving,
    StoreState.OFFLINE: metapb_pb2.NodeState.Removing,
    StoreState.TOMBSTONE: metapb_pb2.NodeState.Removed,
}
STORE_STATES = {
    StoreState.UP: metapb_pb2.StoreState.Up,
    StoreState.OFFLINE: metapb_pb2.StoreState.Offline,
    StoreState.TOMBSTONE: metapb_pb2.StoreState.Tombstone,
}
CHANGE_KINDS = {
    ChangeKind.ADD: eraftpb_pb2.ConfChangeType.AddNode,
    ChangeKind.REMOVE: eraftpb_pb2.ConfChangeType.RemoveNode,
    ChangeKind.ADD_LEARNER: eraftpb_pb2.ConfChangeType.AddLearnerNode,
}


def region_info_from_pb(request: pdpb_pb2.RegionHeartbeatRequest) -> ReportedRegion:
    """Raises InvalidInput when the report names no leader, InvalidRegion."""
    if not request.HasField("region"):
        raise InvalidInput("region heartbeat without a region")
    if not request.leader.id:
        raise InvalidInput(f"region heartbeat of region {request.region.id} names no leader")
    return ReportedRegion(
        meta=region_from_pb(request.region),
        leader=peer_from_pb(request.leader),
        term=request.term,
        down_peers=tuple(DownPeer(peer_from_pb(down.peer), down.down_seconds) for down in request.down_peers),
        pending_peers=tuple(peer_from_pb(peer) for peer in request.pending_peers),
        approximate_size=request.approximate_size,
    )


def leader_to_pb(region: ReportedRegion) -> metapb_pb2.Peer | None:
    return None if region.leader is None else peer_to_pb(region.leader)


class _Facts(TypedDict):
    """What PD tells of a region, under the names that several of its messages have in common."""

    region: metapb_pb2.Region
    leader: metapb_pb2.Peer | None
    down_peers: list[pdpb_pb2.PeerStats]
    pending_peers: list[metapb_pb2.Peer]


def _facts(region: ReportedRegion) -> _Facts:
    return {
        "region": region_to_pb(region.meta),
        "leader": leader_to_pb(region),
        "down_peers": [
            pdpb_pb2.PeerStats(peer=peer_to_pb(down.peer), down_seconds=down.down_seconds) for down in region.down_peers
        ],
        "pending_peers": [peer_to_pb(peer) for peer in region.pending_peers],
    }


def lookup_to_pb(header: pdpb_pb2.ResponseHeader, region: ReportedRegion) -> pdpb_pb2.GetRegionResponse:
    return pdpb_pb2.GetRegionResponse(header=header, **_facts(region))


def scanned_to_pb(region: ReportedRegion) -> pdpb_pb2.Region:
    return pdpb_pb2.Region(**_facts(region))


def queried_to_pb(region: ReportedRegion) -> pdpb_pb2.RegionResponse:
    return pdpb_pb2.RegionResponse(**_facts(region))


def store_from_pb(store: metapb_pb2.Store) -> StoreMeta:
    """The state a store claims for itself is ignored: the scheduler decides about it."""
    return StoreMeta(
        id=StoreId(store.id),
        address=store.address,
        labels=tuple(StoreLabel(label.key, label.value) for label in store.labels),
        version=store.version,
        peer_address=store.peer_address,
        status_address=store.status_address,
        git_hash=store.git_hash,
        start_timestamp=store.start_timestamp,
        deploy_path=store.deploy_path,
    )


def store_to_pb(store: StoreInfo) -> metapb_pb2.Store:
    meta = store.meta
    return metapb_pb2.Store(
        id=meta.id,
        address=meta.address,
        state=STORE_STATES[meta.state],
        labels=[metapb_pb2.StoreLabel(key=label.key, value=label.value) for label in meta.labels],
        version=meta.version,
        peer_address=meta.peer_address,
        status_address=meta.status_address,
        git_hash=meta.git_hash,
        start_timestamp=meta.start_timestamp,
        deploy_path=meta.deploy_path,
        last_heartbeat=store.last_heartbeat_ms * 1_000_000,  # PD reports nanoseconds
        node_state=NODE_STATES[meta.state],
    )


def stats_from_pb(stats: pdpb_pb2.StoreStats) -> StoreStats:
    return StoreStats(
        store_id=StoreId(stats.store_id),
        capacity=stats.capacity,
        available=stats.available,
        used_size=stats.used_size,
        region_count=stats.region_count,
        sending_snapshots=stats.sending_snap_count,
        receiving_snapshots=stats.receiving_snap_count,
        applying_snapshots=stats.applying_snap_count,
        is_busy=stats.is_busy,
        start_time=stats.start_time,
    )


def stats_to_pb(stats: StoreStats) -> pdpb_pb2.StoreStats:
    return pdpb_pb2.StoreStats(
        store_id=stats.store_id,
        capacity=stats.capacity,
        available=stats.available,
        used_size=stats.used_size,
        region_count=stats.region_count,
        sending_snap_count=stats.sending_snapshots,
        receiving_snap_count=stats.receiving_snapshots,
        applying_snap_count=stats.applying_snapshots,
        is_busy=stats.is_busy,
        start_time=stats.start_time,
    )


def order_to_pb(header: pdpb_pb2.ResponseHeader, order: Order) -> pdpb_pb2.RegionHeartbeatResponse:
    response = pdpb_pb2.RegionHeartbeatResponse(
        header=header,
        region_id=order.region_id,
        region_epoch=epoch_to_pb(order.epoch),
        target_peer=peer_to_pb(order.leader),
    )
    match order.instruction:
        case ChangePeer(kind, peer):
            response.change_peer.peer.CopyFrom(peer_to_pb(peer))
            response.change_peer.change_type = CHANGE_KINDS[kind]
        case MoveLeader(peer):
            response.transfer_leader.peer.CopyFrom(peer_to_pb(peer))
        case SplitRegion(keys):
            response.split_region.policy = pdpb_pb2.CheckPolicy.USEKEY
            response.split_region.keys.extend(keys)
    return response


def scan_response(header: pdpb_pb2.ResponseHeader, regions: Iterable[ReportedRegion]) -> pdpb_pb2.ScanRegionsResponse:
    """Fill the new list and the two parallel old ones (older clients read those; an unknown leader has id 0)."""
    response = pdpb_pb2.ScanRegionsResponse(header=header)
    for region in regions:
        response.regions.append(scanned_to_pb(region))
        response.region_metas.append(region_to_pb(region.meta))
        response.leaders.append(leader_to_pb(region) or metapb_pb2.Peer())
    return response
