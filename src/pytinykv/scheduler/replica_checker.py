"""The replica checker: every region shall have `max_replicas` voters, each on a store of its own that is alive.

For one region, the first rule that applies decides:

 1. No leader known, or a peer on a store that never registered: nothing (the scheduler may know too little).
 2. A learner on a store that is lost (silent for `max_store_down_time_s`, or a tombstone) or being drained (offline), or one
    that did not catch up within the time limit of an operator: remove it.
 3. A voter on a store that is lost: replace it.
 4. A voter on a store that is being drained: replace it.
 5. Fewer voters than wanted: make one more, of a learner that is there, or else of a new peer.
 6. A learner, though there are enough voters: remove it.
 7. More voters than wanted: remove the one that is needed least.

To replace is to add first and remove afterwards, so that the region is never weaker than before; if the region has more
voters than wanted anyway, the peer is removed at once. That holds also for a peer on a store that is being drained and is
behind: it may catch up when another one is lost, and without it the region would stop at that loss. The leader hands over
before its peer is removed.

A new peer starts as a learner and gets its vote when it has caught up. A voter without data would make the majority
larger and could not be part of it: the region could not commit until the snapshot is there, and never if that store
died.

Learners are left over when an operator was cancelled (the store went silent, the scheduler was restarted). Where a voter is
missing, one that answers is promoted. One that does not answer is no obstacle: another store gets a learner, and once there
are enough voters rule 6 removes the other one.

Growing by two. An even number of voters bears no more losses than the odd number below it, and two voters bear none at all,
where one voter bears the loss of the new peer. So from an odd number the region takes in two learners before it promotes
either, and then both at once, as long as there are stores for two. With a store for one only it is promoted alone: two copies
of every acknowledged write are worth more than going on alone.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from pytinykv.model import Peer, PeerId
from pytinykv.scheduler.cluster_view import ClusterView
from pytinykv.scheduler.operator_controller import OperatorController
from pytinykv.scheduler.operators import (
    AddLearner,
    Operator,
    OperatorKind,
    OperatorStatus,
    PromoteLearner,
    RemovePeer,
    Step,
    TransferLeader,
    has_caught_up,
)
from pytinykv.scheduler.placement import choose_surplus, choose_target
from pytinykv.scheduler.quorum import can_remove, next_leader
from pytinykv.scheduler.records import ReportedRegion, StoreState

LEARNERS_MAX = 3
"""From here on a learner that does not answer goes before another is added."""


class ReplicaChecker:
    """Looks at one region at a time and says what should be done. Changes nothing itself.

    `allocate_peer_id` gives a new id, or None while ids are being reserved (then the region is checked again later).
    """

    def __init__(
        self,
        cluster: ClusterView,
        operators: OperatorController,
        *,
        max_replicas: Callable[[], int],
        allocate_peer_id: Callable[[], PeerId | None],
    ) -> None:
        self._cluster = cluster
        self._operators = operators
        self._max_replicas = max_replicas
        self._allocate_peer_id = allocate_peer_id

    def check(self, region: ReportedRegion, now: float) -> Operator | None:
        """Return an operator that brings the region closer to what it should be, or None."""
        meta = region.meta
        if region.leader is None or any(self._cluster.store(store_id) is None for store_id in meta.store_ids):
            return None
        for peer in meta.learners:
            if why := self._why_useless(region, peer, now):
                return self._remove(region, peer, now, f"remove learner {why}")
        for peer in meta.voters:
            if self._is_lost(peer, now):
                return self._replace(region, peer, now, "lost")
        for peer in meta.voters:
            if self._is_drained(peer):
                return self._replace(region, peer, now, "offline")
        wanted = self._max_replicas()
        if len(meta.voters) < wanted:
            return self._grow(region, now)
        if meta.learners:
            return self._remove(region, meta.learners[0], now, "remove learner without need")
        if len(meta.voters) > wanted:
            surplus = choose_surplus(self._cluster, region, now)
            return None if surplus is None else self._remove(region, surplus, now, "remove surplus peer")
        return None

    # --- more voters --------------------------------------------------------------------------------------------

    def _grow(self, region: ReportedRegion, now: float) -> Operator | None:
        learners, voters = self._usable_learners(region, now), len(region.meta.voters)
        if voters % 2 == 1 and voters + 2 <= self._max_replicas():
            if len(learners) >= 2:
                # The one that is behind first: both votes then follow each other closely.
                pair = sorted(learners[:2], key=lambda peer: has_caught_up(region, peer.id))
                return self._operator("promote two learners", region, [_promotion(peer) for peer in pair])
            learner = self._addition(region, now)
            if learner is not None:
                return self._operator("add learner for a missing peer", region, (learner,))
        steps = self._one_more_voter(region, now)
        return self._operator("add missing peer", region, steps) if steps else None

    def _one_more_voter(self, region: ReportedRegion, now: float) -> tuple[AddLearner | PromoteLearner, ...]:
        """Return the steps that give the region one more voter; none if no store can have it."""
        learners = self._usable_learners(region, now)
        if learners:
            return (_promotion(learners[0]),)
        addition = self._addition(region, now)
        return () if addition is None else (addition, PromoteLearner(addition.store_id, addition.peer_id))

    def _usable_learners(self, region: ReportedRegion, now: float) -> list[Peer]:
        """Return the learners that may become voters, those that have caught up first."""
        usable = [peer for peer in region.meta.learners if self._is_usable(region, peer, now)]
        return sorted(usable, key=lambda peer: (not has_caught_up(region, peer.id), peer.id))

    def _is_usable(self, region: ReportedRegion, peer: Peer, now: float) -> bool:
        store = self._cluster.store(peer.store_id)
        is_there = store is not None and store.is_responsive(now, self._cluster.config)
        return is_there and not self._is_drained(peer) and not region.is_down(peer.id)

    def _is_lost(self, peer: Peer, now: float) -> bool:
        store = self._cluster.store(peer.store_id)
        return store is not None and store.is_lost(now, self._cluster.config)

    def _is_drained(self, peer: Peer) -> bool:
        store = self._cluster.store(peer.store_id)
        return store is not None and store.meta.state is StoreState.OFFLINE

    def _why_useless(self, region: ReportedRegion, learner: Peer, now: float) -> str:
        """Say why a learner must go, whether or not voters are missing; empty if it need not."""
        if self._is_lost(learner, now):
            return "on a lost store"
        if self._is_drained(learner):
            return "on an offline store"
        last = self._operators.last(region.id)
        if last is not None and last.status is OperatorStatus.TIMEOUT and last.waits_for(learner.id):
            return "" if has_caught_up(region, learner.id) else "that did not catch up in time"
        if len(region.meta.learners) >= LEARNERS_MAX and not self._is_usable(region, learner, now):
            return "that does not answer, one of too many"
        return ""

    def _addition(self, region: ReportedRegion, now: float) -> AddLearner | None:
        target = choose_target(self._cluster, self._operators, region, now)
        peer_id = None if target is None else self._allocate_peer_id()
        return None if target is None or peer_id is None else AddLearner(target.id, peer_id)

    # --- other or fewer voters ----------------------------------------------------------------------------------

    def _replace(self, region: ReportedRegion, peer: Peer, now: float, why: str) -> Operator | None:
        if len(region.meta.voters) > self._max_replicas():
            return self._remove(region, peer, now, f"remove surplus {why} peer")
        added = self._one_more_voter(region, now)
        if not added:
            return None
        removal = self._removal(region, peer, now, new_peer=added[-1])
        return self._operator(f"replace {why} peer", region, (*added, *removal))

    def _remove(self, region: ReportedRegion, peer: Peer, now: float, why: str) -> Operator | None:
        if not can_remove(self._cluster, region, peer, now):
            return None
        steps = self._removal(region, peer, now)
        return self._operator(why, region, steps) if steps else None

    def _removal(
        self, region: ReportedRegion, peer: Peer, now: float, *, new_peer: AddLearner | PromoteLearner | None = None
    ) -> tuple[Step, ...]:
        """Return the steps that take a peer away; none if it leads and no other peer can."""
        if region.leader is None or region.leader.id != peer.id:
            return (RemovePeer(peer.store_id),)
        successor = next_leader(self._cluster, region, now)
        if successor is not None:
            return (TransferLeader(peer.store_id, successor.store_id), RemovePeer(peer.store_id))
        if new_peer is not None:
            return (TransferLeader(peer.store_id, new_peer.store_id), RemovePeer(peer.store_id))
        return ()

    def _operator(self, description: str, region: ReportedRegion, steps: Sequence[Step]) -> Operator:
        return Operator(description, region.id, region.meta.epoch, OperatorKind.REPLICA, tuple(steps))


def _promotion(learner: Peer) -> PromoteLearner:
    return PromoteLearner(learner.store_id, learner.id)
