"""The three roles of a peer, each with the data that only it has.

```
    Follower ──timeout──▶ Candidate(pre-vote) ──majority──▶ Candidate ──majority──▶ Leader
       ▲                        │                              │                      │
       └── newer term, or a leader of this term, or lost ──────┴── newer term, no ────┘
                                                                   quorum, removed
```
"""

from __future__ import annotations

from enum import Enum

from pytinykv.raft.messages import NO_PEER, LogIndex, PeerId
from pytinykv.raft.progress import NEVER, Progress
from pytinykv.raft.read_index import ReadIndexQueue


class RoleKind(Enum):
    """A role's name, for status and soft state."""

    FOLLOWER = "follower"
    PRE_CANDIDATE = "pre-candidate"
    CANDIDATE = "candidate"
    LEADER = "leader"


class Follower:
    """Takes what a leader says."""

    __slots__ = ("leader_id",)

    def __init__(self, leader_id: PeerId = NO_PEER) -> None:
        self.leader_id = leader_id
        """The leader of this term, once heard; 0 before."""

    @property
    def kind(self) -> RoleKind:
        return RoleKind.FOLLOWER


class Candidate:
    """Collects votes, or consent to collect votes."""

    __slots__ = ("is_pre_vote", "votes")

    def __init__(self, *, is_pre_vote: bool) -> None:
        self.is_pre_vote = is_pre_vote
        self.votes: dict[PeerId, bool] = {}
        """First answer of each peer; True is granted."""

    @property
    def leader_id(self) -> PeerId:
        return NO_PEER

    @property
    def kind(self) -> RoleKind:
        return RoleKind.PRE_CANDIDATE if self.is_pre_vote else RoleKind.CANDIDATE


class Transfer:
    """A leadership transfer under way."""

    __slots__ = ("elapsed_ticks", "sent_at", "transferee")

    def __init__(self, transferee: PeerId) -> None:
        self.transferee = transferee
        self.elapsed_ticks = 0
        self.sent_at: float | None = None
        """When TimeoutNow went out; while the transfer runs, no message asks for a promise newer than that."""


class Leader:
    """Replicates its log."""

    __slots__ = (
        "heartbeat_elapsed",
        "lease_floor",
        "peer_id",
        "pending_conf_index",
        "progress",
        "quorum_elapsed",
        "reads",
        "term_start",
        "transfer",
        "uncommitted_bytes",
    )

    def __init__(self, peer_id: PeerId, progress: dict[PeerId, Progress], term_start: LogIndex) -> None:
        self.peer_id = peer_id
        self.progress = progress
        """Of every member, this peer included, in order of ids."""
        self.term_start = term_start
        """Index of the no-op that opens the term: own entries are those from here on (Raft 5.4.2)."""
        self.pending_conf_index = term_start
        """No membership change is proposed before this index is applied: one at a time, and none before the leader has
        committed in its term (thesis 4.1; the fix of the 2015 bug in single-step changes)."""
        self.reads = ReadIndexQueue()
        self.heartbeat_elapsed = 0
        self.quorum_elapsed = 0
        self.transfer: Transfer | None = None
        self.lease_floor = NEVER
        """Rounds sent at or before this time give no lease: a TimeoutNow was sent then, and may still arrive."""
        self.uncommitted_bytes = 0

    def is_own_entry(self, index: LogIndex) -> bool:
        """Tell whether the entry at `index` is of this leader's term."""
        return index >= self.term_start

    @property
    def leader_id(self) -> PeerId:
        return self.peer_id

    @property
    def kind(self) -> RoleKind:
        return RoleKind.LEADER


Role = Follower | Candidate | Leader
