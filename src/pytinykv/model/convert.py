"""Regions, peers and epochs to and from the messages of the wire (metapb)."""

from __future__ import annotations

from pytinykv.model.ids import PeerId, RegionId, StoreId
from pytinykv.model.region import Peer, PeerRole, Region, RegionEpoch
from pytinykv.wire.pb import metapb_pb2

_ROLES = {
    PeerRole.VOTER: metapb_pb2.PeerRole.Voter,
    PeerRole.LEARNER: metapb_pb2.PeerRole.Learner,
    PeerRole.INCOMING_VOTER: metapb_pb2.PeerRole.IncomingVoter,
    PeerRole.DEMOTING_VOTER: metapb_pb2.PeerRole.DemotingVoter,
}


class InvalidRegion(ValueError):
    """A message describes a region or peer that this version does not understand."""


def peer_to_pb(peer: Peer) -> metapb_pb2.Peer:
    return metapb_pb2.Peer(id=peer.id, store_id=peer.store_id, role=_ROLES[peer.role])


def peer_from_pb(peer: metapb_pb2.Peer) -> Peer:
    """Raises InvalidRegion for a role that this version does not know."""
    try:
        role = PeerRole(peer.role)
    except ValueError as error:
        raise InvalidRegion(f"peer {peer.id} has unknown role {peer.role}") from error
    return Peer(PeerId(peer.id), StoreId(peer.store_id), role)


def epoch_to_pb(epoch: RegionEpoch) -> metapb_pb2.RegionEpoch:
    return metapb_pb2.RegionEpoch(conf_ver=epoch.conf_ver, version=epoch.version)


def epoch_from_pb(epoch: metapb_pb2.RegionEpoch) -> RegionEpoch:
    return RegionEpoch(epoch.conf_ver, epoch.version)


def region_to_pb(region: Region) -> metapb_pb2.Region:
    return metapb_pb2.Region(
        id=region.id,
        start_key=region.start_key,
        end_key=region.end_key,
        region_epoch=epoch_to_pb(region.epoch),
        peers=[peer_to_pb(peer) for peer in region.peers],
    )


def region_from_pb(region: metapb_pb2.Region) -> Region:
    """Raises InvalidRegion for a peer in a role that this version does not know."""
    return Region(
        RegionId(region.id),
        region.start_key,
        region.end_key,
        epoch_from_pb(region.region_epoch),
        tuple(peer_from_pb(peer) for peer in region.peers),
    )
