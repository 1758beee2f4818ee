"""The regions that a split makes, on a store: their peers are created in the batch in which the split is applied.

    what is here of the child's region                     what the split makes of it
    nothing                                                a new peer
    a peer that knows no region yet (a message made it)    the region is given to it; what it has promised stands
    a newer peer, or the tombstone of this or a newer one  nothing: the child's peer was removed; its data is deleted

Invariants:
1. The children's states, the parent's smaller range and its applied index are one batch: a crash leaves all or nothing.
2. A child whose peer had promised something here (a term, a vote, time to a leader) keeps it and waits like after a restart.
3. A child of the parent's leader campaigns at once; no other does, so they do not get in each other's way. Commands for it
   may wait for the outcome, since clients hear of the child before its members have voted.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Protocol

from pytinykv.model import Region
from pytinykv.raftstore import keys
from pytinykv.raftstore.bootstrap import write_initial_region
from pytinykv.raftstore.installing import delete_data
from pytinykv.raftstore.peer_storage import RAFT_CF
from pytinykv.raftstore.records import decode_raft_state
from pytinykv.raftstore.region_events import RegionChanged

if TYPE_CHECKING:
    from pytinykv.model import Peer, StoreId
    from pytinykv.raft import HardState
    from pytinykv.raftstore.peer import RegionPeer
    from pytinykv.raftstore.records import RegionLocalState
    from pytinykv.raftstore.turn import Turn
    from pytinykv.storage import Engine

_log = logging.getLogger(__name__)


class MakePeer(Protocol):
    """Makes a peer from its state in the engine and puts it in the table."""

    def __call__(self, peer: Peer, region: Region, *, is_fresh: bool) -> RegionPeer: ...


class Children:
    """Belongs to the store loop; `peers` and `tombstones` are shared with the store."""

    def __init__(
        self,
        store_id: StoreId,
        peers: Mapping[int, RegionPeer],
        tombstones: Mapping[int, RegionLocalState],
        *,
        make_peer: MakePeer,
        touch: Callable[[RegionPeer], None],
    ) -> None:
        """`touch` has the next turn look at a peer."""
        self._store_id = store_id
        self._peers = peers
        self._tombstones = tombstones
        self._make_peer = make_peer
        self._touch = touch

    def create(self, turn: Turn, parent: RegionPeer, made: Iterable[Region]) -> None:
        """Write the children's states beside the parent's, which is in the batch already; then make their peers."""
        kept: list[tuple[Peer, Region, bool]] = []
        for region in made:
            own = region.peer_on(self._store_id)
            assert own is not None, f"region {region.id} split off a region of this store without a peer on it"
            if self._is_removed(own, region):
                _log.info("region %d: peer %d was removed before its region came to be", region.id, own.id)
                delete_data(turn.batch, region)
                continue
            promised = self._promised(turn.engine, own, region)
            write_initial_region(turn.batch, region, own.id, promised=promised)
            kept.append((own, region, promised is None or promised.term == 0))
        turn.write()  # the new peers read their states from the engine
        for own, region, is_fresh in kept:
            if (older := self._peers.get(region.id)) is not None:
                older.is_destroyed = True  # another object takes over from what it has written
            child = self._make_peer(own, region, is_fresh=is_fresh)
            turn.events.append(RegionChanged(Region(region.id), region))
            if parent.is_leader:
                child.campaign_first(turn.now)
            self._touch(child)

    def _is_removed(self, own: Peer, region: Region) -> bool:
        tombstone, here = self._tombstones.get(region.id), self._peers.get(region.id)
        if here is not None and here.is_initialized and not here.is_destroyed:
            raise AssertionError(f"region {region.id} is here before it was split off")
        if tombstone is not None and tombstone.peer_id >= own.id:
            return True
        return here is not None and here.peer.id > own.id

    def _promised(self, engine: Engine, own: Peer, region: Region) -> HardState | None:
        """Return what the peer has promised before it had a region, in this life or an earlier one of the store."""
        here = self._peers.get(region.id)
        if here is not None and here.peer.id == own.id:
            return here.storage.hard_state
        state = engine.get(RAFT_CF, keys.raft_state_key(region.id))
        return None if state is None else decode_raft_state(state).hard_state
