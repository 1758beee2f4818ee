"""The operator controller: which operators run, and what each region's leader is to be told next.

Invariants:
 1. At most one operator runs per region.
 2. An operator ends by what heartbeats show (success), by time (timeout), by a change of the region that it does not
    explain or a target that is gone (cancel), or by a more urgent one (replace).
 3. An order never puts a second peer of a region on a store, never takes a peer the majority depends on, and never gives
    a vote to a peer that is behind or silent.
"""

from __future__ import annotations

import logging
from collections import OrderedDict

from pytinykv.model import Peer, PeerRole, RegionId, StoreId
from pytinykv.scheduler.cluster_view import ClusterView
from pytinykv.scheduler.limits import StoreLimits, Way
from pytinykv.scheduler.operators import (
    AddLearner,
    ChangeKind,
    ChangePeer,
    Instruction,
    MoveLeader,
    Operator,
    OperatorKind,
    OperatorStatus,
    Order,
    PromoteLearner,
    RemovePeer,
    SplitAt,
    SplitRegion,
    Step,
    TransferLeader,
)
from pytinykv.scheduler.quorum import can_lead, can_remove, is_working, next_leader
from pytinykv.scheduler.records import ReportedRegion
from pytinykv.scheduler.stores import StoreHealth

_log = logging.getLogger(__name__)

GONE_S = 5.0
"""How long the region of an operator may be off the map before the operator is cancelled: after a split, the heartbeat of one
half hides the other one until that has reported."""
SPLIT_KEYS_MAX, SPLIT_KEY_BYTES_MAX = 256, 1 << 20
"""At how many keys, and bytes of keys, a region is split by one order; one key always."""


class OperatorController:
    """Runs operators over the cluster. Time is handed in as monotonic seconds."""

    def __init__(self, cluster: ClusterView) -> None:
        self._cluster = cluster
        self.limits = StoreLimits(cluster.config)
        self._now = 0.0
        """The latest time that was handed in, monotonic seconds."""
        self._running: dict[RegionId, Operator] = {}
        """At most one for each region."""
        self._ended: OrderedDict[RegionId, Operator] = OrderedDict()
        """The last operator of each region that had one, oldest first."""
        self.ended_counts: dict[tuple[OperatorKind, OperatorStatus], int] = {}
        """How many have ended since the start, by kind and how; only grow."""

    def get(self, region_id: int) -> Operator | None:
        """Return the operator that runs for a region."""
        return self._running.get(RegionId(region_id))

    def last(self, region_id: int) -> Operator | None:
        """Return the operator that runs, or else the last one that ended."""
        return self.get(region_id) or self._ended.get(RegionId(region_id))

    def running(self) -> list[Operator]:
        """Return all running operators by region."""
        return [
            operator for _, operator in sorted(self._running.items())
        ]  # copied in one step: status threads ask as well

    def ended(self) -> list[Operator]:
        """Return the last operator of each region that has ended and is remembered, the latest first."""
        return list(reversed(self._ended.values()))

    def count(self, kind: OperatorKind) -> int:
        """Return how many operators of a kind run."""
        return sum(operator.kind is kind for operator in self._running.values())

    def pending_additions(self, store_id: int) -> int:
        """Return how many peers running operators are still to add on a store."""
        return sum(operator.adds_to(store_id) for operator in self._running.values())

    def weight(self, store_id: int) -> int:
        """Return what a store will carry when the operators under way are done: the sum of its regions' weights, in bytes."""
        changes = 0
        for operator in self._running.values():
            region = self._cluster.regions.get(operator.region_id)
            if region is not None:
                changes += operator.weight_change(region, store_id)
        return self._cluster.regions.tally(store_id).weight + changes

    def leader_balance(self, store_id: int) -> int:
        """Return how many leaders a store will have gained (or lost) when the transfers under way are done."""
        return sum(operator.leader_balance(store_id) for operator in self._running.values())

    def store_load(self, store_id: int) -> int:
        """Return how many running operators add a peer on a store or take one away."""
        return sum(store_id in operator.changed_stores for operator in self._running.values())

    def add(self, operator: Operator, now: float) -> bool:
        """Start an operator if the region is as it was when the operator was made, and no limit forbids it."""
        self._now = now
        region = self._cluster.regions.get(operator.region_id)
        if region is None or region.meta.epoch != operator.epoch or not operator.steps:
            return False
        current = self.get(operator.region_id)
        if current is not None:
            if operator.kind is not OperatorKind.ADMIN or current.kind is OperatorKind.ADMIN:
                return False
            self._end(current, OperatorStatus.REPLACE, "replaced by a request of the administrator")
        if operator.kind is not OperatorKind.ADMIN and not self._is_within_limits(operator, region, now):
            return False
        for store_id, way in self._changes(operator):
            self.limits.take(store_id, way, region, now)
        operator.started_at = now
        self._running[operator.region_id] = operator
        _log.info("operator starts: %s", operator)
        return True

    def cancel(self, operator: Operator, reason: str) -> bool:
        """End an operator early. Returns whether it was running."""
        if self._running.get(operator.region_id) is not operator:
            return False
        self._end(operator, OperatorStatus.CANCEL, reason)
        return True

    def on_region(self, region: ReportedRegion, now: float) -> Order | None:
        """Follow the region's operator by what was reported; return what its leader is to do now, if anything."""
        self._now = now
        operator = self.get(region.id)
        if operator is None:
            return None
        operator.gone_since = None
        step = operator.advance(region)
        if step is None:
            self._end(operator, OperatorStatus.SUCCESS)
            return None
        if self._end_if_failed(operator, step, region, now):
            return None
        return self._order(step, region, now)

    def expire(self, now: float) -> None:
        """End the operators whose time is up or whose region is gone."""
        self._now = now
        for operator in self.running():
            if self._cluster.regions.get(operator.region_id) is None:
                operator.gone_since = now if operator.gone_since is None else operator.gone_since
                if now - operator.gone_since >= GONE_S:
                    self._end(operator, OperatorStatus.CANCEL, "the region is gone")
            elif self._is_timed_out(operator, now):
                self._end(operator, OperatorStatus.TIMEOUT)

    def _is_within_limits(self, operator: Operator, region: ReportedRegion, now: float) -> bool:
        config = self._cluster.config
        at_once = {OperatorKind.REPLICA: config.operators_max, OperatorKind.REGION: config.region_operators_max}
        if operator.kind in at_once and self.count(operator.kind) >= at_once[operator.kind]:
            return False
        return all(
            self.store_load(store_id) < config.store_operators_max for store_id in operator.changed_stores
        ) and all(self.limits.allows(store_id, way, region, now) for store_id, way in self._changes(operator))

    def _changes(self, operator: Operator) -> list[tuple[StoreId, Way]]:
        """Return which stores gain or lose a peer by the operator, but for lost ones: those have no work with it."""
        changes: list[tuple[StoreId, Way]] = []
        for step in operator.steps:
            if isinstance(step, AddLearner):
                changes.append((step.store_id, Way.ADD))
            elif isinstance(step, RemovePeer):
                store = self._cluster.store(step.store_id)
                if store is not None and store.is_responsive(self._now, self._cluster.config):
                    changes.append((step.store_id, Way.REMOVE))
        return changes

    def _is_timed_out(self, operator: Operator, now: float) -> bool:
        config = self._cluster.config
        limit_s = config.operator_timeout_s if operator.changed_stores else config.leader_operator_timeout_s
        return now - operator.started_at > limit_s

    def _end_if_failed(self, operator: Operator, step: Step, region: ReportedRegion, now: float) -> bool:
        if self._is_timed_out(operator, now):
            self._end(operator, OperatorStatus.TIMEOUT)
            return True
        if region.meta.epoch.conf_ver - operator.epoch.conf_ver > operator.conf_changes(region):
            self._end(operator, OperatorStatus.CANCEL, "the region's members changed meanwhile")
            return True
        if isinstance(step, AddLearner | PromoteLearner) and (trouble := _trouble_with(step, region)):
            self._end(operator, OperatorStatus.CANCEL, trouble)
            return True
        if isinstance(step, RemovePeer | SplitAt):
            return False
        target = step.target if isinstance(step, TransferLeader) else step.store_id
        if self._is_gone(target, now):
            self._end(operator, OperatorStatus.CANCEL, f"store {target} went away")
            return True
        return False

    def _is_gone(self, store_id: int, now: float) -> bool:
        return self._cluster.health(store_id, now) not in (StoreHealth.UP, StoreHealth.OFFLINE)

    def _order(self, step: Step, region: ReportedRegion, now: float) -> Order | None:
        if region.leader is None:
            return None
        instruction = self._instruction(step, region, region.leader, now)
        if instruction is None:
            return None
        return Order(region.id, region.meta.epoch, region.leader, instruction)

    def _instruction(self, step: Step, region: ReportedRegion, leader: Peer, now: float) -> Instruction | None:
        match step:
            case AddLearner():
                if region.meta.peer_on(step.store_id) is not None:
                    return None  # a member already, and still catching up
                return ChangePeer(ChangeKind.ADD_LEARNER, Peer(step.peer_id, step.store_id, PeerRole.LEARNER))
            case PromoteLearner():
                learner = region.meta.peer_on(step.store_id)
                if learner is None or not is_working(self._cluster, region, learner, now):
                    return None
                return ChangePeer(ChangeKind.ADD, Peer(step.peer_id, step.store_id))
            case TransferLeader():
                target = region.meta.peer_on(step.target)
                if target is None or not can_lead(self._cluster, region, target, now):
                    target = next_leader(self._cluster, region, now)
                return None if target is None else MoveLeader(target)
            case RemovePeer():
                return self._removal(step, region, leader, now)
            case SplitAt():
                return SplitRegion(_portion(step.keys_left(region)))

    def _removal(self, step: RemovePeer, region: ReportedRegion, leader: Peer, now: float) -> Instruction | None:
        peer = region.meta.peer_on(step.store_id)
        if peer is None or not can_remove(self._cluster, region, peer, now):
            return None
        if peer.id == leader.id:
            # It became leader after the operator was made; a leader does not remove itself.
            successor = next_leader(self._cluster, region, now)
            return None if successor is None else MoveLeader(successor)
        return ChangePeer(ChangeKind.REMOVE, peer)

    def _end(self, operator: Operator, status: OperatorStatus, reason: str = "") -> None:
        operator.status = status
        operator.reason = reason
        operator.ended_at = self._now
        key = (operator.kind, status)
        self.ended_counts[key] = self.ended_counts.get(key, 0) + 1
        del self._running[operator.region_id]
        self._ended.pop(operator.region_id, None)
        self._ended[operator.region_id] = operator
        while len(self._ended) > self._cluster.config.operator_history_max:
            self._ended.popitem(last=False)
        _log.info("operator ends, %s%s: %s", status.name.lower(), reason and f" ({reason})", operator)


def _portion(keys: tuple[bytes, ...]) -> tuple[bytes, ...]:
    """Return the first of the keys, as many as one order takes."""
    size = 0
    for index, key in enumerate(keys[:SPLIT_KEYS_MAX]):
        size += len(key)
        if index and size > SPLIT_KEY_BYTES_MAX:
            return keys[:index]
    return keys[:SPLIT_KEYS_MAX]


def _trouble_with(step: AddLearner | PromoteLearner, region: ReportedRegion) -> str:
    """Say why a learner will not become a voter by this operator; empty if it may."""
    present = region.meta.peer_on(step.store_id)
    if present is not None and present.id != step.peer_id:
        return f"store {step.store_id} has another peer of the region"
    if present is None and isinstance(step, PromoteLearner):
        return f"learner {step.peer_id} is gone"
    if region.is_down(step.peer_id):
        return f"learner {step.peer_id} does not answer its leader"
    return ""
