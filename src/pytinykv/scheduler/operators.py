"""Operators: what the scheduler wants changed about one region, step by step.

An operator is a short list of steps; the leader of the region is told the first one that is not finished, again with
every heartbeat until a heartbeat shows that it is. Orders are idempotent, and progress is read off the region itself, so no
message has to arrive.

    replace a lost peer   AddLearner(4) ─► PromoteLearner(4) ─► RemovePeer(2)
    ... that leads        AddLearner(4) ─► PromoteLearner(4) ─► TransferLeader(2→3) ─► RemovePeer(2)
    split                 SplitAt(keys)

A new peer is a learner first: it has no data yet, so it must not count for the majority. Once it has caught up it is
promoted.

Each step that changes the membership raises the region's conf_ver by one. If it has grown by more than the finished
steps explain, something else has changed the region too, and the operator is cancelled.
"""

from __future__ import annotations

from enum import IntEnum, StrEnum
from typing import TypeAlias

import msgspec

from pytinykv.model import Peer, PeerId, PeerRole, RegionEpoch, RegionId, StoreId
from pytinykv.scheduler.records import ReportedRegion


def has_caught_up(region: ReportedRegion, peer_id: int) -> bool:
    """Say whether the leader reports a peer as neither behind nor silent."""
    return not region.is_pending(peer_id) and not region.is_down(peer_id)


class AddLearner(msgspec.Struct, frozen=True):
    """Give the region a learner on another store. Finished when it is a member (in any role) and has caught up."""

    store_id: StoreId
    peer_id: PeerId

    def is_finished(self, region: ReportedRegion) -> bool:
        return self.conf_changes(region) > 0 and has_caught_up(region, self.peer_id)

    def conf_changes(self, region: ReportedRegion) -> int:
        """Say how many membership changes of the region this step explains."""
        peer = region.meta.peer_on(self.store_id)
        return 1 if peer is not None and peer.id == self.peer_id else 0

    def __str__(self) -> str:
        return f"add learner {self.peer_id} on store {self.store_id}"


class PromoteLearner(msgspec.Struct, frozen=True):
    """Make a voter of a learner. Ordered only while the learner is caught up. Finished when it is a voter."""

    store_id: StoreId
    peer_id: PeerId

    def is_finished(self, region: ReportedRegion) -> bool:
        peer = region.meta.peer_on(self.store_id)
        return peer is not None and peer.id == self.peer_id and peer.role is PeerRole.VOTER

    def conf_changes(self, region: ReportedRegion) -> int:
        return 1 if self.is_finished(region) else 0

    def __str__(self) -> str:
        return f"promote learner {self.peer_id} on store {self.store_id}"


class RemovePeer(msgspec.Struct, frozen=True):
    """Take the region's peer off a store. Finished when none is left there."""

    store_id: StoreId

    def is_finished(self, region: ReportedRegion) -> bool:
        return region.meta.peer_on(self.store_id) is None

    def conf_changes(self, region: ReportedRegion) -> int:
        return 1 if self.is_finished(region) else 0

    def __str__(self) -> str:
        return f"remove peer on store {self.store_id}"


class TransferLeader(msgspec.Struct, frozen=True):
    """Move leadership from one store to another. Finished when it has left the first one, wherever it went."""

    source: StoreId
    target: StoreId

    def is_finished(self, region: ReportedRegion) -> bool:
        return region.leader is not None and region.leader.store_id != self.source

    def conf_changes(self, region: ReportedRegion) -> int:
        return 0

    def __str__(self) -> str:
        return f"transfer leader from store {self.source} to store {self.target}"


class SplitAt(msgspec.Struct, frozen=True):
    """Split the region at these keys, which are in ascending order. Finished when none of them lies inside the region.

    The region keeps the last part (`model.split_region`). So what is left of the keys is inside it still, and they can be
    ordered in portions, from the left.
    """

    keys: tuple[bytes, ...]

    def is_finished(self, region: ReportedRegion) -> bool:
        return not self.keys_left(region)

    def keys_left(self, region: ReportedRegion) -> tuple[bytes, ...]:
        """Return the keys that are no boundaries of the region and lie inside it."""
        return tuple(key for key in self.keys if region.meta.start_key < key and region.meta.contains(key))

    def conf_changes(self, region: ReportedRegion) -> int:
        return 0

    def __str__(self) -> str:
        return f"split at {len(self.keys)} key{'s' if len(self.keys) > 1 else ''}"


Step: TypeAlias = AddLearner | PromoteLearner | RemovePeer | TransferLeader | SplitAt


class ChangeKind(IntEnum):
    """The numbers of eraftpb.ConfChangeType. `ADD` is told of learners only: it promotes."""

    ADD = 0
    REMOVE = 1
    ADD_LEARNER = 2


class ChangePeer(msgspec.Struct, frozen=True):
    """What a leader is told to do: propose this membership change."""

    kind: ChangeKind
    peer: Peer


class MoveLeader(msgspec.Struct, frozen=True):
    """What a leader is told to do: hand leadership to this peer."""

    peer: Peer


class SplitRegion(msgspec.Struct, frozen=True):
    """What a leader is told to do: split its region at these keys, which are in ascending order and inside the region."""

    keys: tuple[bytes, ...]


Instruction: TypeAlias = ChangePeer | MoveLeader | SplitRegion


class Order(msgspec.Struct, frozen=True):
    """An instruction and whom it is for: the leader of the region at this epoch."""

    region_id: RegionId
    epoch: RegionEpoch
    leader: Peer
    instruction: Instruction


class OperatorKind(StrEnum):
    """Why an operator exists."""

    REPLICA = "replica"
    """The region has too few, too many or lost peers."""
    LEADER = "leader"
    """Leadership is spread unevenly over the stores."""
    REGION = "region"
    """Regions are spread unevenly over the stores."""
    ADMIN = "admin"
    """Requested by an administrator; replaces a running operator of another kind."""


class OperatorStatus(IntEnum):
    """How an operator ended, or that it runs. The numbers of pdpb.OperatorStatus."""

    SUCCESS = 0
    TIMEOUT = 1
    CANCEL = 2
    REPLACE = 3
    RUNNING = 4


class Operator(msgspec.Struct):
    """Steps for one region. Created by a checker, run by the `OperatorController`."""

    description: str
    region_id: RegionId
    epoch: RegionEpoch
    """Epoch of the region when the operator was made."""
    kind: OperatorKind
    steps: tuple[Step, ...]
    started_at: float = 0.0
    """Monotonic seconds; set when it begins to run."""
    ended_at: float = 0.0
    """Monotonic seconds; set when it ends."""
    gone_since: float | None = None
    """Since when its region is not on the map (monotonic seconds); None while it is. A split hides a region for a moment."""
    done_steps: int = 0
    status: OperatorStatus = OperatorStatus.RUNNING
    reason: str = ""
    """Why it was cancelled or replaced."""

    def advance(self, region: ReportedRegion) -> Step | None:
        """Count the steps that the region shows as finished; return the first unfinished one, or None at the end."""
        while self.done_steps < len(self.steps):
            step = self.steps[self.done_steps]
            if not step.is_finished(region):
                return step
            self.done_steps += 1
        return None

    def conf_changes(self, region: ReportedRegion) -> int:
        """Say how many membership changes since `epoch` this operator explains (a step in the making included)."""
        return sum(step.conf_changes(region) for step in self.steps[: self.done_steps + 1])

    def waits_for(self, peer_id: int) -> bool:
        """Say whether the first unfinished step is about this learner."""
        step = self.steps[self.done_steps] if self.done_steps < len(self.steps) else None
        return isinstance(step, AddLearner | PromoteLearner) and step.peer_id == peer_id

    @property
    def changed_stores(self) -> tuple[StoreId, ...]:
        """The stores that gain or lose a peer, or a learner's vote; none if only leadership moves, or the region is split."""
        return tuple(step.store_id for step in self.steps if isinstance(step, AddLearner | PromoteLearner | RemovePeer))

    def adds_to(self, store_id: int) -> bool:
        """Say whether a peer is still to be added on this store."""
        remaining = self.steps[self.done_steps :]
        return any(isinstance(step, AddLearner) and step.store_id == store_id for step in remaining)

    def weight_change(self, region: ReportedRegion, store_id: int) -> int:
        """Say by how many bytes of weight (`ReportedRegion.weight`) a store still gains or loses by this."""
        has_peer = region.meta.peer_on(store_id) is not None
        remaining = self.steps[self.done_steps :]
        gains = any(isinstance(step, AddLearner) and step.store_id == store_id for step in remaining)
        loses = any(isinstance(step, RemovePeer) and step.store_id == store_id for step in remaining)
        return region.weight * ((gains and not has_peer) - (loses and has_peer))

    def leader_balance(self, store_id: int) -> int:
        """Say how many leaders a store still gains (or loses) by this."""
        remaining = [step for step in self.steps[self.done_steps :] if isinstance(step, TransferLeader)]
        return sum((step.target == store_id) - (step.source == store_id) for step in remaining)

    def __str__(self) -> str:
        steps = ", ".join(str(step) for step in self.steps)
        return f"{self.description} (region {self.region_id}; {self.done_steps}/{len(self.steps)}: {steps})"
