"""The state of one peer, and the steps that every role shares: terms, timers, leader stickiness, sending.

What a role does with it stands in modules of functions that take a `Core`, so that each reads like its section of the paper:

    raw_node     checks what comes in, finds out whom it is for, hands out Readys
       ├── election     campaigns, votes                    (Raft 5.2, 5.4.1; thesis 4.2.3, 9.6)
       ├── following    takes entries, snapshots            (Raft 5.3, 7)
       ├── leading      proposals, replication, commits     (Raft 5.3, 5.4.2; thesis 3.10, 6.4)
       └── Core         term, vote, log, members, role, timers, what to send
            ├── RaftLog, Durability       entries, and how far each of them got
            ├── Configuration             who the members are, what a majority of them is
            └── Follower, Candidate, Leader: what only that role has; gone when the role ends

What moves term, vote and role (term and vote are on disk before any message tells of them):

    event                                      term        vote        role                 election timer
    ─────────────────────────────────────────────────────────────────────────────────────────────────────────────
    no leader for `election_timeout` ticks     stays       stays       pre-candidate (1)    begins anew
    a majority would vote for this peer        + 1         this peer   candidate            begins anew
    a majority has voted for it                stays       stays       leader               rests
    a leader of this term is heard             stays       stays       its follower         begins anew
    a vote is given                            stays       candidate   follower             begins anew
    a message of a newer term (2)              the newer   NO_PEER     follower             begins anew
    a restart                                  from disk   from disk   follower             begins anew

(1) A candidate at once where pre-vote is off, or the leader has asked for the election. (2) But for pre-votes, and for
requests that a sticky peer ignores: invariant 3.

A lease relies on leader stickiness (thesis 4.2.3 and 6.4.1). A peer that heard a leader elects no other one for
`election_ticks` ticks and for `stickiness_s` seconds of its own clock:

    leader    sent_at ├────────── lease_s ──────────┤ reads alone no longer
    follower       heard ├──── lease_s × (1 + clock_drift_max) ────┤ may elect another leader
                         └── neither campaigns nor votes ──────────┘

A change of term does not end this time. A restarted peer has forgotten which leader it heard, so for as long it neither
campaigns nor votes.

Invariants:
1. `term` never falls; within a term `vote` changes once, from no peer to a peer.
2. Nothing that speaks for a term leaves this peer before that term is on its disk: `send` holds it back.
3. A sticky peer neither campaigns nor votes nor adopts the term of a vote request, unless the leader that it heard asked for
   the election and has not been heard since (thesis 3.10).
"""

from __future__ import annotations

from typing import Protocol

from pytinykv.raft.config import Config
from pytinykv.raft.log import RaftLog
from pytinykv.raft.messages import NO_PEER, HardState, LogIndex, Message, PeerId, Term
from pytinykv.raft.progress import NEVER
from pytinykv.raft.quorum import Configuration
from pytinykv.raft.read_index import ReadState
from pytinykv.raft.roles import Candidate, Follower, Leader, Role
from pytinykv.raft.storage import Storage


class Rng(Protocol):
    """The randomness that elections need; `random.Random` has it."""

    def randrange(self, start: int, stop: int, /) -> int:
        """Return an integer from `start` up to, not including, `stop`."""
        ...


class Core:
    """Data of one peer; the modules beside this one hold the rules of the roles."""

    __slots__ = (
        "after_sync",
        "conf",
        "config",
        "dropped_reads",
        "election_elapsed",
        "election_timeout",
        "heard_elapsed",
        "heard_sent_at",
        "heard_term",
        "id",
        "is_just_restarted",
        "log",
        "messages",
        "now",
        "read_states",
        "restart_ticks",
        "restart_until",
        "rng",
        "role",
        "sticky_until",
        "storage",
        "term",
        "vote",
    )

    def __init__(self, config: Config, storage: Storage, rng: Rng) -> None:
        config.validate()
        hard_state, conf_state = storage.initial_state()

        # What never changes.
        self.config = config
        """The settings, checked."""
        self.id = config.peer_id
        """This peer's own id."""
        self.storage = storage
        """Read only; asked here for snapshots, by the log for entries."""
        self.rng = rng
        """Drawn from for election timeouts, nothing else."""

        # What is persisted (Raft figure 2).
        self.term = hard_state.term
        """The newest term this peer knows of. Moved by `become_follower` and `become_candidate`; never falls."""
        self.vote = hard_state.vote
        """The peer that got this peer's vote in `term`, or NO_PEER. Set by `election`, reset by a newer term."""
        self.log = RaftLog(storage, hard_state.commit, config.applied, hard_state.term)
        """The log, and how far it is committed, applied and durable."""

        # What this peer is now.
        self.conf = Configuration(conf_state)
        """The members as of `log.applied`: the newest membership change applied, or the snapshot installed."""
        self.role: Role = Follower()
        """Replaced by the `become_…` methods and `leading.become_leader`; holds what only that role needs."""
        self.now = NEVER
        """The newest time handed in, seconds of the driver's monotonic clock."""

        # What the next Ready hands out; emptied by it.
        self.messages: list[Message] = []
        """May be sent at once."""
        self.after_sync: list[Message] = []
        """May be sent when everything up to now is durable."""
        self.read_states: list[ReadState] = []
        """Reads that a quorum has confirmed."""
        self.dropped_reads: list[bytes] = []
        """Contexts of reads that were lost together with leadership."""

        # The election timer (Raft 5.2).
        self.election_elapsed = 0
        """Ticks since a leader was heard, a vote given, or a campaign begun. Not used by a leader."""
        self.election_timeout = 0
        """At so many of them this peer campaigns; drawn from [election_ticks, 2 × election_ticks) at each new wait."""

        # Leader stickiness.
        self.is_just_restarted = config.check_quorum and hard_state.term > 0 and not config.fresh
        """Started so short a time ago that a leader may still rely on what this peer has forgotten. Ends for good once both
        `restart_ticks` and `restart_until` are over (`tick_stickiness`)."""
        self.restart_ticks = config.election_ticks
        """How many more ticks that takes at least."""
        self.restart_until = NEVER
        """Until when, on this peer's clock, it lasts at least; set at the first tick, which brings the first time."""
        self.heard_elapsed = 0 if self.is_just_restarted else config.election_ticks
        """Ticks since a leader of any term was last heard, or since a restart; counts on when the term changes."""
        self.sticky_until = NEVER
        """Until when, on this peer's clock, a leader may rely on it at least. Moved by `heard_leader`; never falls."""
        self.heard_term = Term(0)
        """The term of the leader that was last heard."""
        self.heard_sent_at = NEVER
        """Newest send time among that leader's messages in `heard_term`, on that leader's clock."""
        self.reset_election_timer()

    # --- looking ------------------------------------------------------------------------------------------------

    @property
    def hard_state(self) -> HardState:
        """Return what must survive a restart, as it is now."""
        return HardState(self.term, self.vote, self.log.committed)

    @property
    def leader_id(self) -> PeerId:
        """Return the leader of this term, 0 when none is known."""
        return self.role.leader_id

    def is_promotable(self) -> bool:
        """Tell whether this peer may campaign: a voter, and with no snapshot left to install.

        Before a snapshot is installed, the members it brings and the log it replaces are not on this peer's disk, and the
        entries between `applied` and `committed` can't be read.
        """
        return self.id in self.conf.voters and not self.log.is_installing()

    def is_sticky(self) -> bool:
        """Tell whether a leader may rely on this peer not electing another."""
        if not self.config.check_quorum or self.conf.is_sole_voter(self.id):
            return False
        if isinstance(self.role, Leader) or self.heard_elapsed < self.config.election_ticks:
            return True
        return self.now < self.sticky_until

    # --- terms and roles ----------------------------------------------------------------------------------------

    def become_follower(self, term: Term, leader_id: PeerId) -> None:
        """Follow `leader_id` in `term`, NO_PEER while its leader is not known.

        A vote stands for its whole term: it is forgotten when the term is a newer one, and kept when a candidate of the same
        term finds that another peer has won.
        """
        assert term >= self.term, f"term {self.term} must not fall to {term}"
        if term > self.term:
            self.term, self.vote = term, NO_PEER
        transferee = NO_PEER
        if isinstance(self.role, Leader):
            self.dropped_reads.extend(self.role.reads.drop_all())
            transferee = self.role.transferee
        self.role = Follower(leader_id, transferee)
        self.reset_election_timer()

    def become_candidate(self) -> Candidate:
        """Begin a new term with a vote for oneself."""
        assert not isinstance(self.role, Leader), "a leader never campaigns"
        self.term, self.vote = Term(self.term + 1), self.id
        role = Candidate(is_pre_vote=False)
        self.role = role
        self.reset_election_timer()
        return role

    def become_pre_candidate(self) -> Candidate:
        """Ask for consent before beginning a new term; nothing that is persisted changes."""
        assert not isinstance(self.role, Leader), "a leader never campaigns"
        role = Candidate(is_pre_vote=True)
        self.role = role
        self.reset_election_timer()
        return role

    # --- timers and stickiness ----------------------------------------------------------------------------------

    def reset_election_timer(self) -> None:
        """Start waiting for a leader anew, with a new random timeout (Raft 5.2)."""
        self.election_elapsed = 0
        ticks = self.config.election_ticks
        self.election_timeout = self.rng.randrange(ticks, 2 * ticks)

    def heard_leader(self, sent_at: float) -> None:
        """Note a message of the leader of this term: wait on, and elect no other for a while."""
        self.election_elapsed = self.heard_elapsed = 0
        until = self.now + self.config.stickiness_s
        self.sticky_until = max(self.sticky_until, until)
        if self.heard_term != self.term:
            self.heard_term, self.heard_sent_at = self.term, sent_at
        elif sent_at > self.heard_sent_at:
            self.heard_sent_at = sent_at

    def tick_stickiness(self) -> None:
        """Let a tick pass for the stickiness to a leader heard, and for that of a restart."""
        self.heard_elapsed += 1
        if not self.is_just_restarted:
            return
        if self.restart_until == NEVER:
            self.restart_until = self.now + self.config.stickiness_s
            self.sticky_until = max(self.sticky_until, self.restart_until)
        self.restart_ticks -= 1
        if self.restart_ticks <= 0 and self.now >= self.restart_until:
            self.is_just_restarted = False

    def is_released_by_transfer(self, transfer_at: float | None, campaign_term: Term) -> bool:
        """Tell whether the leader that this peer sticks to has itself asked for the election of `campaign_term`.

        From then on that leader counts no message sent before `transfer_at` for a lease. So the release is good unless this
        peer has heard something newer from it: then the transfer was given up, and a new lease may stand on that message.
        """
        if transfer_at is None or self.is_just_restarted:
            return False
        return self.heard_term != campaign_term - 1 or transfer_at >= self.heard_sent_at

    # --- applying -----------------------------------------------------------------------------------------------

    def on_applied(self, index: LogIndex) -> None:
        """Note that everything up to `index` is applied; with a snapshot, the members that it brings count from now on."""
        installed = self.log.on_applied(index)
        if installed is not None:
            self.conf = Configuration(installed.conf_state)

    # --- sending ------------------------------------------------------------------------------------------------

    def send(self, message: Message) -> None:
        """Send what is right as soon as this peer's term is durable."""
        if self.log.durability.term >= self.term:
            self.messages.append(message)
        else:
            self.after_sync.append(message)

    def send_after_sync(self, message: Message) -> None:
        """Send what says that everything up to now is durable: an acknowledgement, a vote."""
        self.after_sync.append(message)

    def last_position(self) -> tuple[LogIndex, Term]:
        """Return index and term of the last entry."""
        return self.log.last_index, self.log.last_term()
