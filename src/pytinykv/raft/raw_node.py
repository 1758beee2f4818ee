"""The face of the core: one peer of a group, driven by ticks, messages, proposals and completions.

Every method takes what happened and changes the state in memory; what should be done about it waits for `ready`. A call that
raises one of `RaftError`'s kinds has changed nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any

from pytinykv.raft import describe, election, following, hibernation, leading, membership
from pytinykv.raft.config import Config
from pytinykv.raft.core import Core, Rng
from pytinykv.raft.errors import DropReason, NotLeading, ProposalDropped, ProtocolViolation, ReadNotReady
from pytinykv.raft.messages import (
    NO_PEER,
    AppendEntries,
    AppendRejection,
    AppendResponse,
    ConfChange,
    ConfState,
    EntryKind,
    Heartbeat,
    HeartbeatResponse,
    InstallSnapshot,
    LogIndex,
    Message,
    PeerId,
    PreVoteRequest,
    PreVoteResponse,
    StaleTerm,
    Term,
    TimeoutNow,
    TransferRequest,
    VoteRequest,
    VoteResponse,
)
from pytinykv.raft.progress import NEVER, Progress
from pytinykv.raft.read_index import ReadState
from pytinykv.raft.ready import Ready, SoftState
from pytinykv.raft.roles import Candidate, Leader
from pytinykv.raft.storage import Storage


class RawNode:
    """One peer of a Raft group, without I/O.

    `now` is always the driver's monotonic clock in seconds; it must not go back from call to call.
    """

    def __init__(self, config: Config, storage: Storage, rng: Rng) -> None:
        """Start or restart from what `storage` has; `rng` draws election timeouts.

        Raises:
            ValueError: the configuration contradicts itself.
        """
        self._core = Core(config, storage, rng)
        """All state that the rules of Raft know."""
        self._number = 0
        """The newest Ready's number."""
        self._last_hard = self._core.hard_state
        """What the driver has written or was last told to write."""
        self._last_soft = self._soft_state()
        """What the driver was last told."""
        self._last_role = self._core.role
        """The role that it was told of. A role's kind and leader never change, so while it is this one there is no news."""

    # --- what happened ------------------------------------------------------------------------------------------

    def tick(self, now: float) -> None:
        """Let one tick pass."""
        core = self._core
        core.now = now
        if isinstance(core.role, Leader):
            leading.tick(core, core.role)
        else:
            election.tick(core)

    def step(self, message: Message, now: float) -> None:
        """Take a message from another peer; what is old or not for this role is ignored.

        Raises:
            ProtocolViolation: no correct peer sends that here.
        """
        core = self._core
        if message.to != core.id:
            raise ProtocolViolation(f"message for peer {message.to} reached peer {core.id}")
        core.now = now
        _HANDLERS[type(message)](core, message)

    def campaign(self, now: float) -> bool:
        """Try to become the leader without waiting for the timeout; return whether a campaign began.

        None does while this peer leads already, can't lead (a learner, a snapshot to install, an admin entry to apply), or
        sticks to a leader.
        """
        self._core.now = now
        return election.campaign(self._core)

    def propose(self, data: bytes, now: float) -> tuple[Term, LogIndex]:
        """Append an entry; it is committed if an entry of this term is applied at this index.

        Raises:
            NotLeading, ProposalDropped: nothing was appended.
        """
        core, role = self._proposing()
        waiting = role.uncommitted_bytes
        if waiting and waiting + len(data) > core.config.uncommitted_bytes_max:
            raise ProposalDropped(DropReason.TOO_MUCH_UNCOMMITTED)
        core.now = now
        return core.term, leading.append(core, role, EntryKind.NORMAL, data)

    def propose_admin(self, data: bytes, now: float) -> tuple[Term, LogIndex]:
        """Append an ADMIN entry, which is a barrier (see `leading`); `uncommitted_bytes_max` does not limit it.

        Raises:
            NotLeading, ProposalDropped: nothing was appended; among the reasons, an earlier admin entry is not applied yet.
        """
        core, role = self._proposing()
        leading.check_barrier(core, role)
        core.now = now
        return core.term, leading.append_admin(core, role, EntryKind.ADMIN, data)

    def propose_conf_change(self, change: ConfChange, now: float) -> tuple[Term, LogIndex]:
        """Append a membership change; the driver calls `apply_conf_change` when it is committed.

        Raises:
            NotLeading, ProposalDropped: nothing was appended; among the reasons, an earlier admin entry is not applied yet.
        """
        core, role = self._proposing()
        index = membership.propose(core, role, change)
        core.now = now
        return core.term, index

    def apply_conf_change(self, change: ConfChange) -> ConfState:
        """Count by the changed membership from now on; return it, to be persisted together with the applied index.

        Called while applying the CONF_CHANGE entry, before `on_applied`. A driver that decides not to make the change (its
        epoch is old) does not call this; `on_applied` alone allows the next change then.
        """
        return membership.apply(self._core, change)

    def read_index(self, context: bytes, now: float) -> None:
        """Ask for the index from which a read is linearizable; `Ready.read_states` answers with `context`.

        Raises:
            NotLeading: ask the leader.
            ReadNotReady: the leader is too new to know.
        """
        core, role = self._leading()
        if not leading.has_committed_in_term(core, role):
            raise ReadNotReady
        core.now = now
        if core.conf.is_sole_voter(core.id):
            core.read_states.append(ReadState(context, core.log.committed))
        else:
            role.reads.add(context)

    def transfer_leader(self, peer_id: PeerId, now: float) -> bool:
        """Hand leadership to `peer_id`, or ask the leader to; return whether that is under way.

        Never to the leader itself nor to a peer that is no voter. Proposals are dropped until the new leader is heard, or the
        transfer is given up after `election_ticks`.
        """
        core = self._core
        role = core.role
        if isinstance(role, Leader):
            core.now = now
            return leading.begin_transfer(core, role, peer_id)
        if role.leader_id == NO_PEER:
            return False
        core.now = now
        core.send(TransferRequest(role.leader_id, core.id, core.term, peer_id))
        return True

    def report_snapshot(self, peer_id: PeerId, ok: bool) -> None:  # noqa: FBT001 - the driver's agreed signature
        """The sending of a snapshot to `peer_id` ended. After a failure the leader tries again at the next heartbeat."""
        progress = self._progress_of(peer_id)
        if progress is not None:
            leading.on_snapshot_report(progress, ok=ok)

    def on_snapshot_ready(self) -> None:
        """The snapshot that the storage could not give is there: followers that wait for it get it with the next Ready."""
        role = self._core.role
        if isinstance(role, Leader):
            leading.end_pauses(role)

    def ping(self, now: float) -> None:
        """Ask every member for an answer now rather than at the next heartbeat; nothing happens at a follower."""
        role = self._core.role
        if isinstance(role, Leader):
            self._core.now = now
            leading.broadcast_heartbeats(self._core, role)

    # --- hibernation, see there -----------------------------------------------------------------------------------

    def is_settled(self, absent: Collection[PeerId] = ()) -> bool:
        """Tell whether nothing is under way, so that this peer may hibernate; a leader does not count on those `absent`."""
        return not self.has_ready() and hibernation.is_settled(self._core, absent)

    def fall_asleep(self, now: float) -> None:
        """Give up the lease. From now on the driver does not tick this peer, until it has called `wake`."""
        self._core.now = now
        hibernation.fall_asleep(self._core)

    def wake(self, now: float, *, missed_ticks: int = 0, election_delay_ticks: int | None = None) -> None:
        """Go on after `fall_asleep`.

        `missed_ticks`: for how many ticks of the sleep the leader's process has been silent. `election_delay_ticks`: after
        how many ticks without a leader to campaign, in place of a random number of them.
        """
        self._core.now = now
        hibernation.wake(self._core, missed_ticks=missed_ticks, election_delay_ticks=election_delay_ticks)

    # --- what to do ---------------------------------------------------------------------------------------------

    def has_ready(self) -> bool:
        """Tell whether `ready` has something to do."""
        core = self._core
        log, role = core.log, core.role
        if core.messages or core.read_states or core.dropped_reads or self._soft_changed():
            return True
        if log.installing is not None:
            return False
        return bool(
            log.handed < log.last_index
            or core.after_sync
            or log.applying < log.committed
            or log.pending_snapshot is not None
            or self._hard_changed()
            or (isinstance(role, Leader) and leading.has_due_messages(core, role))
        )

    def can_wait(self, message: Message) -> bool:
        """Tell whether nothing that `ready` could hand out now depends on a message, so that it may be stepped later."""
        role = self._core.role
        return isinstance(role, Leader) and leading.can_wait(self._core, role, message)

    def ready(self, now: float) -> Ready:
        """Take everything there is to do. By now the driver has written what the Ready before asked for."""
        core = self._core
        log, role = core.log, core.role
        core.now = now
        if log.installing is not None:
            return self._ready_while_installing()
        log.on_written()
        if isinstance(role, Leader):
            leading.send_due(core, role)
        self._number += 1
        hard_state = core.hard_state if self._hard_changed() else None
        entries = log.take_unhanded()
        snapshot = None if log.pending_snapshot is None else log.take_snapshot()
        must_sync = bool(entries) or snapshot is not None or self._term_or_vote_changed()
        if core.after_sync and not must_sync:
            if log.durability.idle:
                core.messages.extend(core.after_sync)
                core.after_sync = []
            else:
                must_sync = True
        if must_sync:
            log.durability.handed(self._number, log.last_index, core.term)
        if hard_state is not None:
            self._last_hard = hard_state
        ready = Ready(
            number=self._number,
            soft_state=self._take_soft_state(),
            hard_state=hard_state,
            entries=entries,
            snapshot=snapshot,
            committed_entries=log.take_committed(core.config.committed_bytes_max)
            if log.applying < log.committed
            else (),
            messages=tuple(core.messages),
            messages_after_sync=tuple(core.after_sync),
            read_states=tuple(core.read_states),
            dropped_reads=tuple(core.dropped_reads),
            must_sync=must_sync,
        )
        self._clear_handed_out()
        return ready

    def _ready_while_installing(self) -> Ready:
        """Hand out what may be said now; what is to be written waits until the snapshot before it is in place."""
        core = self._core
        self._number += 1
        ready = Ready(
            number=self._number,
            soft_state=self._take_soft_state(),
            messages=tuple(core.messages),
            read_states=tuple(core.read_states),
            dropped_reads=tuple(core.dropped_reads),
        )
        waiting, core.after_sync = core.after_sync, []
        self._clear_handed_out()
        core.after_sync = waiting
        return ready

    def _clear_handed_out(self) -> None:
        core = self._core
        if core.messages:
            core.messages.clear()
        if core.after_sync:
            core.after_sync.clear()
        if core.read_states:
            core.read_states.clear()
        if core.dropped_reads:
            core.dropped_reads.clear()

    def on_persisted(self, number: int, now: float) -> None:
        """Ready `number`, and every one before it, is durable."""
        assert number <= self._number, f"Ready {number} was never handed out"
        core = self._core
        core.now = now
        if core.log.durability.persisted(number) and isinstance(core.role, Leader):
            leading.on_durable(core, core.role)

    def on_applied(self, index: LogIndex) -> None:
        """Everything up to `index` is applied, and a read that begins now sees it; after installing a snapshot, its index."""
        self._core.on_applied(index)

    # --- looking ------------------------------------------------------------------------------------------------

    @property
    def id(self) -> PeerId:
        """This peer's id."""
        return self._core.id

    @property
    def term(self) -> Term:
        """The current term."""
        return self._core.term

    @property
    def leader_id(self) -> PeerId:
        """The leader of the current term, 0 when none is known."""
        return self._core.leader_id

    @property
    def is_leader(self) -> bool:
        """Whether this peer leads, as far as it knows."""
        return isinstance(self._core.role, Leader)

    @property
    def is_campaigning(self) -> bool:
        """Whether this peer asks others for their votes, or whether they would give them."""
        return isinstance(self._core.role, Candidate)

    @property
    def transferee(self) -> PeerId:
        """The peer that this one, leading or just deposed, has told to campaign; 0 if none, or once more is known."""
        role = self._core.role
        return NO_PEER if isinstance(role, Candidate) else role.transferee

    @property
    def is_transferring(self) -> bool:
        """Whether this leader hands leadership over, and so drops proposals."""
        role = self._core.role
        return isinstance(role, Leader) and role.transfer is not None

    @property
    def commit_index(self) -> LogIndex:
        """Highest index known to be committed."""
        return self._core.log.committed

    @property
    def applied_index(self) -> LogIndex:
        """Highest index that `on_applied` has reported."""
        return self._core.log.applied

    @property
    def last_index(self) -> LogIndex:
        """Highest index of the log, durable or not."""
        return self._core.log.last_index

    @property
    def conf_state(self) -> ConfState:
        """The members, as far as applied."""
        return self._core.conf.state

    @property
    def has_committed_in_term(self) -> bool:
        """Whether this peer leads and has committed an entry of its own term, so that its commit index is up to date."""
        role = self._core.role
        return isinstance(role, Leader) and leading.has_committed_in_term(self._core, role)

    @property
    def lease_until(self) -> float:
        """Until when, on the driver's clock, the applied state is what a linearizable read may see (thesis 6.4.1).

        The whole condition for a read without a quorum is `clock() < lease_until`, asked after the data were read, or after
        the snapshot of the engine was taken from which they will be read. Nothing else has to be applied: see "Barriers" in
        `leading`, also for why.

        No other peer can lead until the send time of the newest message that a majority has answered, plus `lease_s`. Minus
        infinity without a lease: not the leader, its no-op or a committed admin entry not applied here, a transfer under way,
        leases not configured. Infinity when this peer is the only voter.
        """
        role = self._core.role
        return leading.lease_until(self._core, role) if isinstance(role, Leader) else NEVER

    def status(self) -> describe.Status:
        """Return the state of this peer, as a record of its own."""
        return describe.status(self._core)

    # --- inside -------------------------------------------------------------------------------------------------

    def _leading(self) -> tuple[Core, Leader]:
        role = self._core.role
        if not isinstance(role, Leader):
            raise NotLeading(role.leader_id)
        return self._core, role

    def _proposing(self) -> tuple[Core, Leader]:
        core, role = self._leading()
        if role.transfer is not None:
            raise ProposalDropped(DropReason.TRANSFERRING)
        return core, role

    def _progress_of(self, peer_id: PeerId) -> Progress | None:
        role = self._core.role
        return role.progress.get(peer_id) if isinstance(role, Leader) and peer_id != self._core.id else None

    def _soft_state(self) -> SoftState:
        return SoftState(self._core.role.leader_id, self._core.role.kind)

    def _soft_changed(self) -> bool:
        role, last = self._core.role, self._last_soft
        return role is not self._last_role and (role.leader_id != last.leader_id or role.kind is not last.role)

    def _take_soft_state(self) -> SoftState | None:
        if not self._soft_changed():
            return None
        self._last_soft, self._last_role = self._soft_state(), self._core.role
        return self._last_soft

    def _hard_changed(self) -> bool:
        core, last = self._core, self._last_hard
        return core.log.committed != last.commit or core.term != last.term or core.vote != last.vote

    def _term_or_vote_changed(self) -> bool:
        core, last = self._core, self._last_hard
        return core.term != last.term or core.vote != last.vote


# --- which handler takes a message, by its kind and by its term --------------------------------------------------


def _on_leader_message(core: Core, message: AppendEntries | Heartbeat | InstallSnapshot) -> None:
    """Of an older term: say so. Otherwise its sender is the leader of its term."""
    if message.term < core.term:
        following.answer_old_leader(core, message)
        return
    following.check(core, message)
    if message.term > core.term:
        core.become_follower(message.term, message.sender)
    if type(message) is AppendEntries:
        following.on_append(core, message)
    elif type(message) is Heartbeat:
        following.on_heartbeat(core, message)
    else:
        assert isinstance(message, InstallSnapshot), "the other two were handled above"
        following.on_install_snapshot(core, message)


def _on_follower_answer(core: Core, message: AppendResponse | AppendRejection | HeartbeatResponse) -> None:
    """Only the leader of just that term cares, and only about its members."""
    role = core.role
    if not _adopt_answer_term(core, message) or not isinstance(role, Leader):
        return
    progress = role.progress.get(message.sender)
    if progress is None or message.sender == core.id:
        return
    if type(message) is AppendResponse:
        leading.on_append_response(core, role, progress, message)
    elif type(message) is HeartbeatResponse:
        leading.on_heartbeat_response(core, role, progress, message)
    else:
        assert isinstance(message, AppendRejection), "the other two were handled above"
        leading.on_append_rejection(core, progress, message)


def _adopt_answer_term(core: Core, message: Message) -> bool:
    """Go along with a newer term; return whether the message is of the term that was current before.

    A leader ignores the term of a peer that is no member: a removed one must not depose it.
    """
    if message.term > core.term and not (isinstance(core.role, Leader) and message.sender not in core.role.progress):
        core.become_follower(message.term, NO_PEER)
        return False
    return message.term == core.term


def _on_stale_term(core: Core, message: StaleTerm) -> None:
    _adopt_answer_term(core, message)


def _on_vote_request(core: Core, message: VoteRequest) -> None:
    if message.term < core.term:
        election.refuse_old_vote_request(core, message)
    elif not election.ignores_vote_request(core, message):
        if message.term > core.term:
            core.become_follower(message.term, NO_PEER)
        election.on_vote_request(core, message)


def _on_pre_vote_request(core: Core, message: PreVoteRequest) -> None:
    if message.term < core.term:
        election.refuse_old_vote_request(core, message)
    elif not election.ignores_vote_request(core, message):
        election.on_pre_vote_request(core, message)


def _on_vote_response(core: Core, message: VoteResponse) -> None:
    election.learn_commit(core, message)
    if _adopt_answer_term(core, message):
        election.on_vote_response(core, message)


def _on_pre_vote_response(core: Core, message: PreVoteResponse) -> None:
    election.learn_commit(core, message)
    if message.granted or _adopt_answer_term(core, message):
        election.on_pre_vote_response(core, message)


def _on_timeout_now(core: Core, message: TimeoutNow) -> None:
    if message.term > core.term:
        core.become_follower(message.term, message.sender)
    if message.term == core.term:
        election.on_timeout_now(core, message)


def _on_transfer_request(core: Core, message: TransferRequest) -> None:
    if message.term == core.term and isinstance(core.role, Leader):
        leading.begin_transfer(core, core.role, message.transferee)


_HANDLERS: dict[type, Callable[[Core, Any], None]] = {  # Any: each kind goes to the function that takes just that kind
    AppendEntries: _on_leader_message,
    Heartbeat: _on_leader_message,
    InstallSnapshot: _on_leader_message,
    AppendResponse: _on_follower_answer,
    AppendRejection: _on_follower_answer,
    HeartbeatResponse: _on_follower_answer,
    StaleTerm: _on_stale_term,
    VoteRequest: _on_vote_request,
    VoteResponse: _on_vote_response,
    PreVoteRequest: _on_pre_vote_request,
    PreVoteResponse: _on_pre_vote_response,
    TimeoutNow: _on_timeout_now,
    TransferRequest: _on_transfer_request,
}
