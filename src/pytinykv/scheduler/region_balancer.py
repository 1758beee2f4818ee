"""The region balancer: moves peers from stores that carry much to stores that carry little.

A store carries the sum of its regions' weights, which are their sizes, but at least 1 MiB each. What its disk holds besides
does not count; operators under way count as done. From the store that carries most, a peer moves to the one that carries
least and has none of the region:

    AddLearner(target) ─► PromoteLearner(target) ─► (TransferLeader, if the peer leads) ─► RemovePeer(source)

so that the region is never weaker than before. If no region of that store can move, the next one is tried.

A move must help: the stores differ by one and a half times the region's weight or more, so that what they differ by
afterwards is no reason to move it back; and they differ by more than `region_balance_tolerance_ratio` of what a store carries
on average, or there would be no end to it. Every move makes the sum of the squares of what stores carry smaller.

Only healthy regions move: enough voters, no learners, no peer down, none behind, none on a store that is going. A region of
which only the peer on the source is behind is fine, and comes first: that copy is missed least. Regions led elsewhere come
before those led there, and among equals the one whose move leaves the smallest difference: with few large regions it matters
which.

Nothing is moved before most regions were reported since the start of this process.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping

from pytinykv.model import PeerId, PeerRole, StoreId
from pytinykv.scheduler.cluster_view import ClusterView
from pytinykv.scheduler.limits import Way
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
from pytinykv.scheduler.placement import can_hold, is_target
from pytinykv.scheduler.quorum import is_working, next_leader
from pytinykv.scheduler.records import ReportedRegion
from pytinykv.scheduler.stores import StoreHealth, StoreInfo

GAP_MIN_RATIO = 1.5
"""How many times a region's weight the stores must differ by before it moves. Above 1, or the move would not help."""
CANDIDATES_MAX = 32
"""How many regions of a store are looked at in one go, picked at random."""


class RegionBalancer:
    """Looks at the whole cluster and proposes to move one peer, or nothing. Changes nothing itself."""

    def __init__(
        self,
        cluster: ClusterView,
        operators: OperatorController,
        *,
        max_replicas: Callable[[], int],
        allocate_peer_id: Callable[[], PeerId | None],
        rng: random.Random,
    ) -> None:
        self._cluster = cluster
        self._operators = operators
        self._max_replicas = max_replicas
        self._allocate_peer_id = allocate_peer_id
        self._rng = rng

    def propose(self, now: float) -> Operator | None:
        """Return a move that brings the stores clearly closer to each other, or None."""
        config = self._cluster.config
        if self._operators.count(OperatorKind.REGION) >= config.region_operators_max:
            return None
        stores = [store for store in self._cluster.stores() if can_hold(self._cluster, store, now)]
        if len(stores) <= 1 or not self._cluster.is_prepared():
            return None
        scores = {store.id: self._operators.weight(store.id) for store in stores}
        tolerance = config.region_balance_tolerance_ratio * sum(scores.values()) / len(scores)
        lowest = min(scores.values())
        for source in sorted(stores, key=lambda store: (-scores[store.id], store.id)):
            if scores[source.id] - lowest <= tolerance:
                return None
            gap = scores[source.id] - lowest
            for region in self._candidates(source, gap, now):
                target = self._target(region, source, scores, tolerance, now)
                if target is not None:
                    return self._move(region, source.id, target.id, now)
        return None

    def _candidates(self, source: StoreInfo, gap: int, now: float) -> Iterator[ReportedRegion]:
        """Yield regions that may lose their peer on a store, those first that will miss it least.

        Of the others those come first that leave the least of `gap`, the difference to the store that carries least.
        """
        ids = list(self._cluster.regions.tally(source.id).regions)
        picked = self._rng.sample(ids, min(len(ids), CANDIDATES_MAX))
        regions = [region for region_id in picked if (region := self._cluster.regions.get(region_id)) is not None]
        found = [region for region in regions if self._may_move(region, source.id, now)]
        yield from sorted(found, key=lambda region: (_merit(region, source.id), abs(gap - 2 * region.weight)))

    def _may_move(self, region: ReportedRegion, source: StoreId, now: float) -> bool:
        meta = region.meta
        return (
            region.leader is not None
            and self._operators.get(region.id) is None
            and len(meta.peers) == self._max_replicas()
            and all(peer.role is PeerRole.VOTER and self._is_up(peer.store_id, now) for peer in meta.peers)
            and not region.down_peers
            and all(is_working(self._cluster, region, peer, now) for peer in meta.peers if peer.store_id != source)
            and self._operators.limits.allows(source, Way.REMOVE, region, now)
        )

    def _is_up(self, store_id: StoreId, now: float) -> bool:
        """Say whether the replica checker has no reason to take peers from a store."""
        return self._cluster.health(store_id, now) is StoreHealth.UP

    def _target(
        self, region: ReportedRegion, source: StoreInfo, scores: Mapping[StoreId, int], tolerance: float, now: float
    ) -> StoreInfo | None:
        taken = region.meta.store_ids
        for store_id in sorted(scores, key=lambda store_id: (scores[store_id], store_id)):
            gap = scores[source.id] - scores[store_id]
            if gap < GAP_MIN_RATIO * region.weight or gap <= tolerance:
                return None
            store = self._cluster.store(store_id)
            if store_id in taken or store is None:
                continue
            if is_target(self._cluster, self._operators, store, region, now):
                return store
        return None

    def _move(self, region: ReportedRegion, source: StoreId, target: StoreId, now: float) -> Operator | None:
        peer_id = self._allocate_peer_id()
        if peer_id is None:
            return None
        steps: list[Step] = [AddLearner(target, peer_id), PromoteLearner(target, peer_id)]
        if region.leader is not None and region.leader.store_id == source:
            successor = next_leader(self._cluster, region, now)
            steps.append(TransferLeader(source, target if successor is None else successor.store_id))
        steps.append(RemovePeer(source))
        return Operator("balance regions", region.id, region.meta.epoch, OperatorKind.REGION, tuple(steps))


def _merit(region: ReportedRegion, source: StoreId) -> int:
    """Rank a region among those of a store: 0 for one whose peer there is behind, 2 for one that is led there."""
    if region.leader is not None and region.leader.store_id == source:
        return 2
    return 1 - any(peer.store_id == source for peer in region.pending_peers)
