"""Which peer a message is for: finds it, creates it, or answers that the sender is out of date.

    the region's peer here       the message's receiver
    none, no tombstone           any                        created, if the message may create
    none, tombstone of peer t    id <= t                    dropped: it was removed and must not come back
    peer p                       id < p                     dropped: meant for one that was here before
    peer p                       id > p                     p was removed: destroyed, then as for none
    peer p                       p                          delivered, unless the sender was removed (below)

A peer that was removed while it was cut off does not know, and goes on asking for votes. Whoever knows a newer membership
answers a vote request of a non-member with a tombstone envelope, upon which it destroys itself (TiKV: gc message).
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TYPE_CHECKING

from pytinykv.raft import Heartbeat, InstallSnapshot, PreVoteRequest, VoteRequest
from pytinykv.raftstore.records import Peer, RaftEnvelope, Region

if TYPE_CHECKING:
    from pytinykv.raft import PeerId
    from pytinykv.raftstore.peer import RegionPeer
    from pytinykv.raftstore.records import RegionId, StoreId
    from pytinykv.raftstore.turn import Turn

_log = logging.getLogger(__name__)

_VOTE_REQUESTS = (VoteRequest, PreVoteRequest)
_MAY_CREATE = (VoteRequest, PreVoteRequest, Heartbeat, InstallSnapshot)
"""Messages by which a peer may learn that it exists; the others only mean something to one that does already."""


class Router:
    """Decides for each message; see the table above. `peers` is shared with the store."""

    def __init__(
        self,
        store_id: StoreId,
        peers: dict[int, RegionPeer],
        tombstones: dict[int, PeerId],
        make_peer: Callable[[Peer, Region], RegionPeer],
    ) -> None:
        self._store_id = store_id
        self._peers = peers
        self._tombstones = tombstones
        self._make_peer = make_peer

    def find_receiver(self, envelope: RaftEnvelope, turn: Turn) -> RegionPeer | None:
        """Return the peer that has to step the message, if any."""
        receiver = envelope.receiver
        if receiver.store_id != self._store_id:
            _log.warning("message for store %d arrived at store %d", receiver.store_id, self._store_id)
            return None
        peer = self._peers.get(envelope.region_id)
        if peer is not None and receiver.id > peer.peer.id:
            if envelope.is_tombstone or not isinstance(envelope.message, _MAY_CREATE):
                return None
            peer.destroy(turn)
            turn.write()  # the new peer reads its state from the engine
            self.forget(peer)
            peer = None
        if peer is None:
            return None if envelope.is_tombstone else self._create(envelope)
        if receiver.id < peer.peer.id:
            return None
        if envelope.is_tombstone:
            self._on_tombstone(peer, envelope, turn)
            return None
        if self._is_from_removed(peer, envelope):
            self._tell_removed(peer, envelope, turn)
            return None
        return peer

    def overlapping(self, region: Region) -> Region | None:
        """Return another region on this store that shares keys with `region`."""
        for peer in self._peers.values():
            if peer.region.id != region.id and peer.is_initialized and peer.region.overlaps(region):
                return peer.region
        return None

    def forget(self, peer: RegionPeer) -> None:
        """Drop a destroyed peer."""
        region_id: RegionId = peer.region.id
        if self._peers.get(region_id) is peer:
            del self._peers[region_id]
        self._tombstones[region_id] = max(peer.peer.id, self._tombstones.get(region_id, peer.peer.id))

    def _create(self, envelope: RaftEnvelope) -> RegionPeer | None:
        receiver = envelope.receiver
        if not isinstance(envelope.message, _MAY_CREATE) or receiver.id <= self._tombstones.get(envelope.region_id, 0):
            return None
        _log.info("region %d: peer %d created by a message", envelope.region_id, receiver.id)
        return self._make_peer(receiver, Region(envelope.region_id))

    def _is_from_removed(self, peer: RegionPeer, envelope: RaftEnvelope) -> bool:
        region = peer.region
        return (
            isinstance(envelope.message, _VOTE_REQUESTS)
            and envelope.epoch.conf_ver < region.epoch.conf_ver
            and region.peer(envelope.sender.id) is None
        )

    def _tell_removed(self, peer: RegionPeer, envelope: RaftEnvelope, turn: Turn) -> None:
        turn.send(
            RaftEnvelope(envelope.region_id, peer.peer, envelope.sender, peer.region.epoch, None, is_tombstone=True)
        )

    def _on_tombstone(self, peer: RegionPeer, envelope: RaftEnvelope, turn: Turn) -> None:
        if envelope.epoch.conf_ver > peer.region.epoch.conf_ver:
            peer.destroy(turn)
            self.forget(peer)
