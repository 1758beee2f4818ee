"""The replica checker: every region shall have `max_replicas` peers, each on a store of its own that is there.

For one region, the first rule that applies decides:

 1. No leader known, or a peer on a store nobody registered: nothing (the scheduler may know too little).
 2. A peer on a store that is lost (silent for `max_store_down_time_s`, or buried): replace it.
 3. A peer on a store that is being drained (offline): replace it.
 4. Fewer peers than wanted: add one.
 5. More peers than wanted: remove the one that is needed least.

To replace is to add first and remove afterwards, so that the region is never weaker than before; if the region has more
peers than wanted anyway, the peer is removed at once. A drained peer that is still behind adds nothing, and only makes the
majority larger while the new one catches up: it goes first (rule 4 then adds the new one). The leader hands over before
its peer is removed.
"""

from __future__ import annotations

from collections.abc import Callable

from pytinykv.scheduler.cluster import Cluster
from pytinykv.scheduler.operator_controller import OperatorController
from pytinykv.scheduler.operators import AddPeer, Operator, OperatorKind, RemovePeer, Step, TransferLeader
from pytinykv.scheduler.placement import choose_surplus, choose_target
from pytinykv.scheduler.quorum import can_remove, next_leader
from pytinykv.scheduler.records import Peer, PeerId, RegionInfo, StoreState


class ReplicaChecker:
    """Looks at one region at a time and says what should be done. Changes nothing itself.

    `allocate_peer_id` gives a new id or None when none is at hand (then the region is looked at again later).
    """

    def __init__(
        self,
        cluster: Cluster,
        operators: OperatorController,
        *,
        max_replicas: Callable[[], int],
        allocate_peer_id: Callable[[], PeerId | None],
    ) -> None:
        self._cluster = cluster
        self._operators = operators
        self._max_replicas = max_replicas
        self._allocate_peer_id = allocate_peer_id

    def check(self, region: RegionInfo, now: float) -> Operator | None:
        """Return an operator that brings the region closer to what it should be, or None."""
        if region.leader is None or any(self._cluster.store(store_id) is None for store_id in region.meta.store_ids):
            return None
        for peer in region.meta.peers:
            store = self._cluster.store(peer.store_id)
            if store is not None and store.is_lost(now, self._cluster.config):
                return self._replace(region, peer, now, "lost")
        for peer in region.meta.peers:
            store = self._cluster.store(peer.store_id)
            if store is not None and store.meta.state is StoreState.OFFLINE:
                return self._replace(region, peer, now, "offline")
        wanted = self._max_replicas()
        if len(region.meta.peers) < wanted:
            return self._add(region, now)
        if len(region.meta.peers) > wanted:
            surplus = choose_surplus(self._cluster, region, now)
            return None if surplus is None else self._remove(region, surplus, now, "remove surplus peer")
        return None

    def _add(self, region: RegionInfo, now: float) -> Operator | None:
        step = self._addition(region, now)
        return None if step is None else self._operator("add missing peer", region, (step,))

    def _replace(self, region: RegionInfo, peer: Peer, now: float, why: str) -> Operator | None:
        if len(region.meta.peers) > self._max_replicas():
            return self._remove(region, peer, now, f"remove surplus {why} peer")
        if why == "offline" and region.is_pending(peer.id):
            return self._remove(region, peer, now, "remove offline peer that is behind")
        addition = self._addition(region, now)
        if addition is None:
            return None
        removal = self._removal(region, peer, now, new_peer=addition)
        return self._operator(f"replace {why} peer", region, (addition, *removal))

    def _remove(self, region: RegionInfo, peer: Peer, now: float, why: str) -> Operator | None:
        if not can_remove(self._cluster, region, peer, now):
            return None
        steps = self._removal(region, peer, now)
        return self._operator(why, region, steps) if steps else None

    def _addition(self, region: RegionInfo, now: float) -> AddPeer | None:
        target = choose_target(self._cluster, self._operators, region, now)
        peer_id = None if target is None else self._allocate_peer_id()
        return None if target is None or peer_id is None else AddPeer(target.id, peer_id)

    def _removal(
        self, region: RegionInfo, peer: Peer, now: float, *, new_peer: AddPeer | None = None
    ) -> tuple[Step, ...]:
        """Return the steps that take a peer away; none if it leads and nobody can take over."""
        if region.leader is None or region.leader.id != peer.id:
            return (RemovePeer(peer.store_id),)
        heir = next_leader(self._cluster, region, now)
        if heir is not None:
            return (TransferLeader(peer.store_id, heir.store_id), RemovePeer(peer.store_id))
        if new_peer is not None:
            return (TransferLeader(peer.store_id, new_peer.store_id), RemovePeer(peer.store_id))
        return ()

    def _operator(self, description: str, region: RegionInfo, steps: tuple[Step, ...]) -> Operator:
        return Operator(description, region.id, region.meta.epoch, OperatorKind.REPLICA, steps)
