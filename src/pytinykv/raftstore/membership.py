"""Membership changes of a region: what one does to the region, and which may be proposed. Pure.

Each change is a single step (Raft thesis 4.1): one peer at a time, so that every majority of the old voters meets every
majority of the new ones. The region's `conf_ver` counts them.

A peer comes as a learner, which counts for nothing, and becomes a voter once it has caught up (thesis 4.2.1):

    no member ──ADD_LEARNER──► learner ──ADD_VOTER──► voter        REMOVE: from either back to no member

There is no other way to a vote and no way back to learning. So an order that comes late, after the peer was removed or
promoted, does no harm. A change names the epoch it was proposed in, and is skipped in any other.
"""

from __future__ import annotations

from dataclasses import dataclass

import msgspec

from pytinykv.model import FormatError, Peer, PeerId, PeerRole, Region, RegionEpoch, StoreId, encode, record_decoder
from pytinykv.raft import ConfChange, ConfChangeKind, ConfState, decode_conf_change


@dataclass(frozen=True)
class MembershipChange:
    """One peer more, less, or in another role."""

    kind: ConfChangeKind
    peer: Peer

    def to_raft(self, epoch: RegionEpoch) -> ConfChange:
        """Return what is proposed while the region has this epoch."""
        peer = self.peer
        return ConfChange(self.kind, peer.id, encode(ChangeContext(peer.id, peer.store_id, peer.role, epoch)))

    @classmethod
    def from_raft(cls, change: ConfChange) -> tuple[MembershipChange, RegionEpoch | None]:
        """Return the change, and the epoch in which it was proposed, if it says. Raises FormatError."""
        context = decode_context(change.context)
        return cls(change.kind, Peer(context.peer_id, context.store_id, context.role)), context.epoch


class ChangeContext(msgspec.Struct, frozen=True, array_like=True):
    """What the entry of a change says beyond Raft's part: a `Peer`'s fields and the region's epoch at the proposal.

    A change is made only if the region has that epoch when the entry is applied. Entries of older versions name none.
    """

    peer_id: PeerId
    store_id: StoreId
    role: PeerRole
    epoch: RegionEpoch | None = None


decode_context = record_decoder(ChangeContext, "membership change")


def conf_state(region: Region) -> ConfState:
    """Return the region's members as Raft knows them, sorted."""
    return ConfState(
        voters=tuple(sorted(peer.id for peer in region.voters)),
        learners=tuple(sorted(peer.id for peer in region.learners)),
    )


def changed_region(region: Region, change: MembershipChange) -> Region:
    """Return the region after the change; unchanged, epoch included, if there is nothing to do."""
    peers = [peer for peer in region.peers if peer.id != change.peer.id]
    if change.kind is not ConfChangeKind.REMOVE:
        role = PeerRole.LEARNER if change.kind is ConfChangeKind.ADD_LEARNER else PeerRole.VOTER
        peers.append(Peer(change.peer.id, change.peer.store_id, role))
    if sorted(peers, key=_id) == sorted(region.peers, key=_id):
        return region
    epoch = RegionEpoch(region.epoch.conf_ver + 1, region.epoch.version)
    return msgspec.structs.replace(region, peers=tuple(peers), epoch=epoch)


def refusal(region: Region, change: MembershipChange) -> str | None:
    """Say why a change must not be proposed, or None if it may be."""
    peer = change.peer
    if change.kind is ConfChangeKind.REMOVE:
        if region.peer(peer.id) is None:
            return f"peer {peer.id} is not a member of region {region.id}"
        voters = [member.id for member in region.peers if member.role is PeerRole.VOTER]
        if voters == [peer.id]:
            return f"peer {peer.id} is the last voter of region {region.id}"
        return None
    neighbour, member = region.peer_on(peer.store_id), region.peer(peer.id)
    if neighbour is not None and neighbour.id != peer.id:
        return f"region {region.id} already has peer {neighbour.id} on store {peer.store_id}"
    if member is not None and member.store_id != peer.store_id:
        return f"peer {peer.id} is on store {member.store_id}, not {peer.store_id}"
    if change.kind is ConfChangeKind.ADD_LEARNER:
        return None if member is None else f"peer {peer.id} is already a {member.role.name.lower()}"
    if member is None:
        return f"peer {peer.id} is no learner of region {region.id}, so it can't be promoted"
    return f"peer {peer.id} is already a voter" if member.role is PeerRole.VOTER else None


def decode_change(data: bytes) -> ConfChange:
    """Return what a CONF_CHANGE entry holds. Raises FormatError."""
    try:
        return decode_conf_change(data)
    except msgspec.DecodeError as error:
        raise FormatError(f"membership change: damaged ({error})") from error


def describe(region: Region) -> str:
    """Return the members and the epoch, for logs."""
    members = ", ".join(
        f"{peer.id}@{peer.store_id}{' (learner)' if peer.role is PeerRole.LEARNER else ''}" for peer in region.peers
    )
    return f"peers {members}, epoch {region.epoch.conf_ver}.{region.epoch.version}"


def _id(peer: Peer) -> int:
    return peer.id
