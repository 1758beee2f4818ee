"""Regions and peers, between the raftstore's records and the messages of the wire."""

from __future__ import annotations

from pytinykv.raft import PeerId
from pytinykv.raftstore.records import Peer, PeerRole, Region, RegionEpoch, RegionId, StoreId
from pytinykv.wire.pb import metapb_pb2


def peer_to_pb(peer: Peer) -> metapb_pb2.Peer:
    return metapb_pb2.Peer(id=peer.id, store_id=peer.store_id, role=int(peer.role))  # type: ignore[arg-type]  # enum


def peer_from_pb(peer: metapb_pb2.Peer) -> Peer:
    return Peer(PeerId(peer.id), StoreId(peer.store_id), PeerRole(peer.role))


def region_to_pb(region: Region) -> metapb_pb2.Region:
    return metapb_pb2.Region(
        id=region.id,
        start_key=region.start_key,
        end_key=region.end_key,
        region_epoch=metapb_pb2.RegionEpoch(conf_ver=region.epoch.conf_ver, version=region.epoch.version),
        peers=[peer_to_pb(peer) for peer in region.peers],
    )


def region_from_pb(region: metapb_pb2.Region) -> Region:
    return Region(
        RegionId(region.id),
        region.start_key,
        region.end_key,
        RegionEpoch(region.region_epoch.conf_ver, region.region_epoch.version),
        tuple(peer_from_pb(peer) for peer in region.peers),
    )
