"""The state of one peer and the steps that every role shares: terms, timers, promises, sending.

A promise is what a lease stands on. A peer that hears a leader elects no other for `election_ticks` ticks and for `promise_s`
seconds of its own clock; changing the term does not end the promise, and a restarted peer, which has forgotten whom it
promised what, keeps still for as long.

Invariants:
1. `term` never falls; `vote` changes only together with it, or from nobody to somebody.
2. Nothing that speaks for a term leaves this peer before that term is on its disk: `send` holds it back.
3. While a promise lasts, this peer neither campaigns nor votes nor adopts the term of a vote request, unless the leader that
   it was given to asked for the election and has not been heard since.
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
        "forgotten_ticks",
        "forgotten_until",
        "has_forgotten",
        "heard_elapsed",
        "heard_sent_at",
        "heard_term",
        "id",
        "log",
        "messages",
        "now",
        "promise_until",
        "read_states",
        "rng",
        "role",
        "storage",
        "term",
        "vote",
    )

    def __init__(self, config: Config, storage: Storage, rng: Rng) -> None:
        config.validate()
        hard_state, conf_state = storage.initial_state()
        self.config = config
        self.storage = storage
        self.rng = rng
        self.id = config.peer_id
        self.log = RaftLog(storage, hard_state.commit, config.applied, hard_state.term)
        self.conf = Configuration(conf_state)
        self.term = hard_state.term
        self.vote = hard_state.vote
        self.role: Role = Follower()
        self.now = NEVER
        """The newest time handed in, in seconds."""
        self.messages: list[Message] = []
        self.after_sync: list[Message] = []
        self.read_states: list[ReadState] = []
        self.dropped_reads: list[bytes] = []
        self.election_elapsed = 0
        self.election_timeout = 0
        self.has_forgotten = config.check_quorum and hard_state.term > 0 and not config.fresh
        """Restarted a moment ago: there may be a promise that is not remembered."""
        self.forgotten_ticks = config.election_ticks
        self.forgotten_until = NEVER
        """What is left of that moment: ticks, and the time, set at the first of them."""
        self.heard_elapsed = 0 if self.has_forgotten else config.election_ticks
        """Ticks since a leader was last heard."""
        self.promise_until = NEVER
        self.heard_term = Term(0)
        self.heard_sent_at = NEVER
        """Newest send time among the messages of the leader of `heard_term`, by that leader's clock."""
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
        """Tell whether this peer may campaign: a voter that is not about to install a snapshot."""
        return self.id in self.conf.voters and self.log.pending_snapshot is None

    def is_promised(self) -> bool:
        """Tell whether a leader may count on this peer not electing another."""
        if not self.config.check_quorum or self.conf.is_sole_voter(self.id):
            return False
        if isinstance(self.role, Leader) or self.heard_elapsed < self.config.election_ticks:
            return True
        return self.now < self.promise_until

    # --- terms and roles ----------------------------------------------------------------------------------------

    def become_follower(self, term: Term, leader_id: PeerId) -> None:
        """Follow `leader_id`, or nobody yet, in `term`."""
        assert term >= self.term, f"term {self.term} must not fall to {term}"
        if term > self.term:
            self.term, self.vote = term, NO_PEER
        if isinstance(self.role, Leader):
            self.dropped_reads.extend(self.role.reads.drop_all())
        self.role = Follower(leader_id)
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
        """Ask around before beginning a new term; nothing that is persisted changes."""
        assert not isinstance(self.role, Leader), "a leader never campaigns"
        role = Candidate(is_pre_vote=True)
        self.role = role
        self.reset_election_timer()
        return role

    # --- timers and promises ------------------------------------------------------------------------------------

    def reset_election_timer(self) -> None:
        """Start waiting for a leader anew, with a new random patience (Raft 5.2)."""
        self.election_elapsed = 0
        ticks = self.config.election_ticks
        self.election_timeout = self.rng.randrange(ticks, 2 * ticks)

    def heard_leader(self, sent_at: float) -> None:
        """Note a message of the leader of this term: wait on, and keep the promise that it may count on."""
        self.election_elapsed = self.heard_elapsed = 0
        until = self.now + self.config.promise_s
        self.promise_until = max(self.promise_until, until)
        if self.heard_term != self.term:
            self.heard_term, self.heard_sent_at = self.term, sent_at
        elif sent_at > self.heard_sent_at:
            self.heard_sent_at = sent_at

    def tick_promise(self) -> None:
        """Let time pass for the promises."""
        self.heard_elapsed += 1
        if not self.has_forgotten:
            return
        if self.forgotten_until == NEVER:
            self.forgotten_until = self.now + self.config.promise_s
            self.promise_until = max(self.promise_until, self.forgotten_until)
        self.forgotten_ticks -= 1
        if self.forgotten_ticks <= 0 and self.now >= self.forgotten_until:
            self.has_forgotten = False

    def is_released_by(self, transfer_at: float | None, campaign_term: Term) -> bool:
        """Tell whether the promise is void because the leader it was given to asked for this election.

        That leader counts no message sent before `transfer_at` for a lease afterwards. So the release is good unless this
        peer has heard something newer from it: then the transfer was given up, and a new lease may stand on that message.
        """
        if transfer_at is None or self.has_forgotten:
            return False
        return self.heard_term != campaign_term - 1 or transfer_at >= self.heard_sent_at

    # --- sending ------------------------------------------------------------------------------------------------

    def send(self, message: Message) -> None:
        """Send what is right as soon as this peer's term is durable."""
        if self.log.durability.term >= self.term:
            self.messages.append(message)
        else:
            self.after_sync.append(message)

    def send_after_sync(self, message: Message) -> None:
        """Send what promises that everything up to now is durable."""
        self.after_sync.append(message)

    def last_position(self) -> tuple[LogIndex, Term]:
        """Return index and term of the last entry."""
        return self.log.last_index, self.log.last_term()
