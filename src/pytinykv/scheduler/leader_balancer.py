"""The leader balancer: spreads leadership, and so the work of serving clients, evenly over the stores.

A leader costs its store more than a follower does, and moving it costs little: no data moves. For a region whose
leader's store has clearly more leaders than the store of a working follower, leadership moves there. "Clearly more" is a
difference of `leader_balance_tolerance` or more, and of `leader_balance_tolerance_ratio` of the average; transfers under
way count as done. So a burst of decisions does not overshoot, leaders don't swing back and forth, and that of a lone region,
however busy, stays where it is: to move it would only exchange the two stores.

Nothing is moved before most regions were reported since the start of this process: until then the counts say little.
"""

from __future__ import annotations

from pytinykv.model import Peer, PeerRole
from pytinykv.scheduler.cluster_view import ClusterView
from pytinykv.scheduler.operator_controller import OperatorController
from pytinykv.scheduler.operators import Operator, OperatorKind, TransferLeader
from pytinykv.scheduler.quorum import next_leader
from pytinykv.scheduler.records import ReportedRegion
from pytinykv.scheduler.stores import StoreHealth


class LeaderBalancer:
    """A checker: looks at one region and proposes to move its leadership, or None."""

    def __init__(self, cluster: ClusterView, operators: OperatorController) -> None:
        self._cluster = cluster
        self._operators = operators

    def check(self, region: ReportedRegion, now: float) -> Operator | None:
        """Return a transfer of the region's leadership if that brings the stores clearly closer to each other."""
        config = self._cluster.config
        if region.leader is None or self._operators.count(OperatorKind.LEADER) >= config.leader_operators_max:
            return None
        if not self._cluster.is_prepared() or any(peer.role is not PeerRole.VOTER for peer in region.meta.peers):
            return None
        target = next_leader(
            self._cluster, region, now, count=self._leaders, unless=lambda peer: not self._may_lead(peer, now)
        )
        source = region.leader.store_id
        if target is None or self._leaders(source) - self._leaders(target.store_id) < self._tolerance(now):
            return None
        steps = (TransferLeader(source, target.store_id),)
        return Operator("balance leaders", region.id, region.meta.epoch, OperatorKind.LEADER, steps)

    def _tolerance(self, now: float) -> float:
        config = self._cluster.config
        counts = [
            len(self._cluster.regions.tally(store.id).leaders)
            for store in self._cluster.stores()
            if store.is_responsive(now, config)
        ]
        average = sum(counts) / max(len(counts), 1)
        return max(config.leader_balance_tolerance, average * config.leader_balance_tolerance_ratio)

    def _leaders(self, store_id: int) -> int:
        return len(self._cluster.regions.tally(store_id).leaders) + self._operators.leader_balance(store_id)

    def _may_lead(self, peer: Peer, now: float) -> bool:
        store = self._cluster.store(peer.store_id)
        return store is not None and not store.is_busy and store.health(now, self._cluster.config) is StoreHealth.UP
