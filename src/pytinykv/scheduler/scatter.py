"""Scattering: spreading the peers and leaders of some regions evenly over all stores, because an administrator says so.

A table that was loaded or split just now lies on three stores, however many there are, and balance by size may take its time
or find nothing to do. Here only the regions of one request count:

    for each region, in key order:
        each peer stays, unless another store has fewer peers of the request's regions so far: then it moves there
        the leader is on the store, of those that then have a peer, with the fewest leaders of the request's regions so far
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

from pytinykv.model import PeerId, PeerRole, StoreId
from pytinykv.scheduler.cluster_view import ClusterView
from pytinykv.scheduler.operator_controller import OperatorController
from pytinykv.scheduler.operators import (
    AddLearner,
    Operator,
    OperatorKind,
    PromoteLearner,
    RemovePeer,
    Step,
    TransferLeader,
)
from pytinykv.scheduler.placement import can_hold
from pytinykv.scheduler.quorum import is_working
from pytinykv.scheduler.records import ReportedRegion


class Scatter:
    """One request to scatter: plans one region after the other, and remembers where their peers are going to be."""

    def __init__(
        self, cluster: ClusterView, operators: OperatorController, allocate_peer_id: Callable[[], PeerId | None]
    ) -> None:
        self._cluster = cluster
        self._operators = operators
        self._allocate_peer_id = allocate_peer_id
        self._peers: Counter[StoreId] = Counter()
        """How many peers of the regions planned so far each store will have."""
        self._leaders: Counter[StoreId] = Counter()
        """Likewise, how many of their leaders."""

    def why_not(self, region: ReportedRegion, now: float) -> str:
        """Say why a region can't be moved about now; empty if it can."""
        if region.leader is None:
            return "no leader is known"
        if any(peer.role is not PeerRole.VOTER for peer in region.meta.peers):
            return "its members are being changed"
        if not all(is_working(self._cluster, region, peer, now) for peer in region.meta.peers):
            return "not all its peers work and have caught up"
        running = self._operators.get(region.id)
        if running is not None and running.kind is OperatorKind.ADMIN:
            return f"another request is being carried out: {running}"
        return ""

    def plan(self, region: ReportedRegion, now: float) -> Operator | None:
        """Return what is to be done with a region for which `why_not` is empty; None if it is where it should be."""
        assert region.leader is not None, "why_not has said so"
        moves = self._moves(region, now)
        stays = [peer.store_id for peer in region.meta.peers if peer.store_id not in moves]
        leader, now_at = self._choose_leader([*stays, *moves.values()]), region.leader.store_id
        steps: list[Step] = []
        for source in sorted(moves, key=lambda store_id: (store_id == now_at, store_id)):
            peer_id = self._allocate_peer_id()
            if peer_id is None:
                return None
            steps += [AddLearner(moves[source], peer_id), PromoteLearner(moves[source], peer_id)]
            if source == now_at:
                steps.append(TransferLeader(now_at, leader))
            steps.append(RemovePeer(source))
        if now_at not in moves and leader != now_at:
            steps.append(TransferLeader(now_at, leader))
        return Operator("scatter", region.id, region.meta.epoch, OperatorKind.ADMIN, tuple(steps)) if steps else None

    def _moves(self, region: ReportedRegion, now: float) -> dict[StoreId, StoreId]:
        """Return from which stores to which others the region's peers move; count them where they will be."""
        free = [
            store.id
            for store in self._cluster.stores()
            if store.id not in region.meta.store_ids and can_hold(self._cluster, store, now) and not store.is_busy
        ]
        moves: dict[StoreId, StoreId] = {}
        for source in sorted(region.meta.store_ids, key=lambda store_id: (-self._peers[store_id], store_id)):
            target = min(free, key=lambda store_id: (*self._load(store_id), store_id), default=source)
            if self._peers[target] < self._peers[source]:
                moves[source] = target
                free.remove(target)
            self._peers[moves.get(source, source)] += 1
        return moves

    def _load(self, store_id: StoreId) -> tuple[int, int]:
        return (self._peers[store_id], self._operators.weight(store_id))

    def _choose_leader(self, stores: list[StoreId]) -> StoreId:
        chosen = min(stores, key=lambda store_id: (self._leaders[store_id], store_id))
        self._leaders[chosen] += 1
        return chosen
