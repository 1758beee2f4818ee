"""Which peer a message is for: finds it, creates it, or answers that the sender is out of date.

    the region's peer here       the message's receiver
    none, no tombstone           any                        created, if the message may create and its keys are free (below)
    none, tombstone of peer t    id <= t                    dropped: it was removed and must not come back (below)
    peer p                       id < p                     dropped: meant for one that was here before
    peer p                       id > p                     p was removed: destroyed, then as for none
    peer p                       p                          delivered, unless the sender was removed (below)

A peer that was removed while it was cut off does not know, and goes on asking for votes. A peer that knows a newer
membership answers a vote request of a non-member with a tombstone envelope, upon which it destroys itself (TiKV: gc message).

A member that missed the news of a removal counts the removed peer in, and may need its vote: of two peers, one was
removed and knows it, the other was restarted and has forgotten that the removal is committed. So a tombstone answers the
vote requests of its region's members with what it knows to be committed, and they go on without it.

Every envelope names its region's keys. While some of them belong to another region here, that one is about to be split, to
shrink or to go, and no peer is created: it would vote, promise and ask for a snapshot of what the split gives it for nothing.
Votes and heartbeats are parked meanwhile, the newest of each sender, and looked at again when a region here has changed.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TYPE_CHECKING

from pytinykv.model import Peer, Region
from pytinykv.raft import (
    Heartbeat,
    InstallSnapshot,
    PreVoteRequest,
    PreVoteResponse,
    Term,
    VoteRequest,
    VoteResponse,
)
from pytinykv.raftstore.records import RaftEnvelope, RegionLocalState
from pytinykv.raftstore.region_events import Destroyed

if TYPE_CHECKING:
    from pytinykv.model import StoreId
    from pytinykv.raftstore.peer import RegionPeer
    from pytinykv.raftstore.records import SnapshotHeader
    from pytinykv.raftstore.region_events import RegionEvent
    from pytinykv.raftstore.regions import RegionTable
    from pytinykv.raftstore.turn import Turn

_log = logging.getLogger(__name__)

_VOTE_REQUESTS = (VoteRequest, PreVoteRequest)
_PARKED = (*_VOTE_REQUESTS, Heartbeat)
"""Of the messages below, those that wait while their keys belong to another region; snapshots are refused then."""
_MAY_CREATE = (*_PARKED, InstallSnapshot)
"""Messages by which a peer may learn that it exists; the others only mean something to one that does already."""


class MessageRouter:
    """Decides for each message; see the table above. `peers` is shared with the store."""

    def __init__(
        self,
        store_id: StoreId,
        peers: dict[int, RegionPeer],
        tombstones: dict[int, RegionLocalState],
        make_peer: Callable[[Peer, Region], RegionPeer],
        table: RegionTable,
        *,
        parked_s: float,
    ) -> None:
        """`parked_s`: for how long a message waits for its keys; afterwards its sender has given up or said it again."""
        self._store_id = store_id
        self._peers = peers
        """By region; the store's own table, which this shares with it and adds to."""
        self._tombstones = tombstones
        """By region, what the newest destroyed peer left; a peer with that id or a lower one is never made again."""
        self._make_peer = make_peer
        self._table = table
        self._parked_s = parked_s
        self._parked: dict[tuple[int, int], tuple[RaftEnvelope, float]] = {}
        """By region and sender, the newest message whose keys belong to another region here, and until when it matters."""

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
            self._forget(peer.destroy(turn))
            turn.write()  # the new peer reads its state from the engine
            peer = None
        if peer is None:
            return None if envelope.is_tombstone else self._create(envelope, turn)
        if receiver.id < peer.peer.id:
            return None
        if envelope.is_tombstone:
            self._on_tombstone(peer, envelope, turn)
            return None
        if type(envelope.message) in _VOTE_REQUESTS and self._is_from_removed(peer, envelope):
            self._tell_removed(peer, envelope, turn)
            return None
        return peer

    def why_no_snapshot(self, header: SnapshotHeader) -> str | None:
        """Say why the snapshot behind this header would not be taken as things are; None if it would."""
        receiver, region = header.envelope.receiver, header.manifest.region
        if receiver.store_id != self._store_id:
            return f"it is for store {receiver.store_id}, this is store {self._store_id}"
        if region.peer(receiver.id) is None:
            return f"peer {receiver.id} is not in it"
        tombstone, peer = self._tombstones.get(region.id), self._peers.get(region.id)
        if tombstone is not None and receiver.id <= tombstone.peer_id:
            return f"peer {receiver.id} was removed"
        if peer is not None:
            if receiver.id < peer.peer.id:
                return f"peer {peer.peer.id} has come after peer {receiver.id}"
            if peer.is_installing:
                return "another one is being installed"
            if receiver.id == peer.peer.id and header.manifest.meta.index <= peer.node.commit_index:
                return f"the peer has the log up to index {peer.node.commit_index} already"
        other = self._table.overlapping(region)
        return None if other is None else f"it has keys of region {other.id}"

    def take_parked(self, now: float) -> list[RaftEnvelope]:
        """Return the parked messages that still matter, for another look at where they belong."""
        parked, self._parked = self._parked, {}
        return [envelope for envelope, until in parked.values() if now <= until]

    def _is_occupied(self, envelope: RaftEnvelope) -> bool:
        region = Region(envelope.region_id, envelope.start_key, envelope.end_key)
        return self._table.overlapping(region) is not None

    def on_event(self, event: RegionEvent) -> None:
        """Drop destroyed peers; a `RegionListener`."""
        if isinstance(event, Destroyed):
            self._forget(event.tombstone)

    def _forget(self, tombstone: RegionLocalState) -> None:
        region_id = tombstone.region.id
        peer = self._peers.get(region_id)
        if peer is not None and peer.is_destroyed and peer.peer.id == tombstone.peer_id:
            del self._peers[region_id]
        older = self._tombstones.get(region_id)
        if older is None or older.peer_id <= tombstone.peer_id:
            self._tombstones[region_id] = tombstone

    def _create(self, envelope: RaftEnvelope, turn: Turn) -> RegionPeer | None:
        receiver = envelope.receiver
        if not isinstance(envelope.message, _MAY_CREATE):
            return None
        tombstone = self._tombstones.get(envelope.region_id)
        if tombstone is not None and receiver.id <= tombstone.peer_id:
            if receiver.id == tombstone.peer_id:
                self._tell_removal(tombstone, envelope, turn)
            return None
        if isinstance(envelope.message, _PARKED) and self._is_occupied(envelope):
            self._parked[envelope.region_id, envelope.sender.id] = (envelope, turn.now + self._parked_s)
            return None
        _log.info("region %d: peer %d created by a message", envelope.region_id, receiver.id)
        return self._make_peer(receiver, Region(envelope.region_id))

    def _tell_removal(self, tombstone: RegionLocalState, envelope: RaftEnvelope, turn: Turn) -> None:
        request, sender = envelope.message, envelope.sender
        if not isinstance(request, _VOTE_REQUESTS) or not tombstone.removed_index:
            return
        if tombstone.region.peer(sender.id) is None:
            return
        kind = VoteResponse if isinstance(request, VoteRequest) else PreVoteResponse
        answer = kind(
            to=sender.id,
            sender=tombstone.peer_id,
            term=Term(0),  # it takes no part in anything any more: only what is committed counts
            granted=False,
            commit=tombstone.removed_index,
            commit_term=tombstone.removed_term,
        )
        turn.send(RaftEnvelope(envelope.region_id, envelope.receiver, sender, tombstone.region.epoch, answer))

    def _is_from_removed(self, peer: RegionPeer, envelope: RaftEnvelope) -> bool:
        region = peer.region
        return envelope.epoch.conf_ver < region.epoch.conf_ver and region.peer(envelope.sender.id) is None

    def _tell_removed(self, peer: RegionPeer, envelope: RaftEnvelope, turn: Turn) -> None:
        turn.send(
            RaftEnvelope(envelope.region_id, peer.peer, envelope.sender, peer.region.epoch, None, is_tombstone=True)
        )

    def _on_tombstone(self, peer: RegionPeer, envelope: RaftEnvelope, turn: Turn) -> None:
        if envelope.epoch.conf_ver > peer.region.epoch.conf_ver:
            self._forget(peer.destroy(turn))
