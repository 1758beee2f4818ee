"""The three roles of a peer, each with the data that only it has.

```
    Follower ──timeout──▶ Candidate(pre-vote) ──majority──▶ Candidate ──majority──▶ Leader
       ▲                        │                              │                      │
       └── newer term, or a leader of this term, or lost ──────┴── newer term, no ────┘
                                                                   quorum, removed
```
"""

from __future__ import annotations

from collections import deque
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
    """Takes entries from a leader, or waits for one to appear."""

    __slots__ = ("leader_id", "transferee")

    def __init__(self, leader_id: PeerId = NO_PEER, transferee: PeerId = NO_PEER) -> None:
        self.leader_id = leader_id
        """The leader of this term, once heard; NO_PEER before. A term has one leader, so it is set once."""
        self.transferee = transferee
        """Who was told to campaign by this peer, which led in the term before; NO_PEER if it did not, or told none."""

    @property
    def kind(self) -> RoleKind:
        return RoleKind.FOLLOWER


class Candidate:
    """Collects votes, or consent to collect votes."""

    __slots__ = ("is_pre_vote", "votes")

    def __init__(self, *, is_pre_vote: bool) -> None:
        self.is_pre_vote = is_pre_vote
        """Whether this is only the question whether an election could be won (thesis 9.6), in the old term still."""
        self.votes: dict[PeerId, bool] = {}
        """First answer of each peer, this one's own included; True is granted."""

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
        """The voter that is to lead."""
        self.elapsed_ticks = 0
        """Ticks since the transfer began; after `election_ticks` it is given up."""
        self.sent_at: float | None = None
        """When the first TimeoutNow went out, on this peer's clock. From then on, while the transfer runs, all messages carry
        this as their send time, so that no answer to them can extend the lease."""


class Leader:
    """Replicates its log. A new one is made for each term led."""

    __slots__ = (
        "_run_bytes",
        "barrier_index",
        "heartbeat_elapsed",
        "lease_floor",
        "peer_id",
        "progress",
        "quorum_elapsed",
        "reads",
        "term_start",
        "transfer",
        "uncommitted",
        "uncommitted_bytes",
    )

    def __init__(self, peer_id: PeerId, progress: dict[PeerId, Progress], term_start: LogIndex) -> None:
        self.peer_id = peer_id
        """This peer's own id."""
        self.progress = progress
        """What is known about every member, this peer included, in order of ids. Follows the applied membership."""
        self.term_start = term_start
        """Index of the no-op that opens the term: own entries are those from here on (Raft 5.4.2)."""
        self.barrier_index = term_start
        """Index of the newest admin entry; at first of the no-op, below which older ones may lie. Until it is applied no
        further one is proposed, and once it is committed the lease gives no reads; see "Barriers" in `leading`."""
        self.reads = ReadIndexQueue()
        """Reads that wait for a quorum to confirm that this peer still leads."""
        self.heartbeat_elapsed = 0
        """Ticks since the last heartbeats."""
        self.quorum_elapsed = 0
        """Ticks since the last check that a quorum is heard (thesis 6.2)."""
        self.transfer: Transfer | None = None
        """The leadership transfer under way. While there is one, nothing is proposed and there is no lease."""
        self.lease_floor = NEVER
        """Answers to messages sent at or before this time give no lease: a TimeoutNow was sent then, and may still arrive."""
        self.uncommitted: deque[tuple[LogIndex, int]] = deque()
        """Last index and data bytes of each run of own entries that was sent together and is not committed as a whole."""
        self.uncommitted_bytes = 0
        """Data bytes of these runs, and of the entries after them."""
        self._run_bytes = 0
        """Data bytes of these runs alone."""

    @property
    def transferee(self) -> PeerId:
        """Return the peer that was told to campaign in place of this one, NO_PEER if none was."""
        transfer = self.transfer
        return NO_PEER if transfer is None or transfer.sent_at is None else transfer.transferee

    def close_run(self, last_index: LogIndex) -> None:
        """Count what was proposed since the last time as one run, which ends at `last_index`."""
        size_bytes = self.uncommitted_bytes - self._run_bytes
        if size_bytes:
            self.uncommitted.append((last_index, size_bytes))
            self._run_bytes = self.uncommitted_bytes

    def on_committed(self, index: LogIndex) -> None:
        """Count the runs no more that are committed."""
        runs = self.uncommitted
        while runs and runs[0][0] <= index:
            size_bytes = runs.popleft()[1]
            self.uncommitted_bytes -= size_bytes
            self._run_bytes -= size_bytes

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
