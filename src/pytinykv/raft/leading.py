"""The leader's side: replication, commit, heartbeats, check of the quorum, transfer (Raft 5.3, 5.4.2, thesis 3.10 and 6.2).

Append messages are made when a Ready is taken, not when something is proposed: everything that came in since the last one
shares a message per follower.

Invariants:
1. A leader only appends to its log.
2. It commits an entry of its own term that a majority has on disk, and with it everything before; never an older entry by
   counting (Raft figure 8).
3. It counts itself only up to its own durable index.

Barriers
--------
An admin entry (a membership change, a split) makes another group of this one when it is applied: other members count, or part
of its keys belong to another group. `Leader.barrier_index` is the index of the newest one, or of the term's no-op while there
was none. A new leader can't tell which of the entries in its log are committed, let alone applied elsewhere;
the no-op stands for all of them.

    ... │ other admin entries │ no-op │ ... commands ... │ admin entry │ ... commands ...
                              ▲ term_start               ▲ barrier_index

1. A leader proposes an admin entry only when the barrier is applied (`check_barrier`): one at a time.
2. A peer that knows of a committed admin entry which it has not applied does not campaign (`election`).
3. Under a committed barrier that is not applied, a leader's lease gives no reads (`is_applied_current`): other peers may have
   applied it, and may have gone on as another group that takes writes already.

So applying may lag behind committing by any time. For a linearizable read nothing more has to be applied than the barrier,
because a write is acknowledged only by the peer that proposed it, when it is applied there. Say it was proposed
* by this leader in this term: then it is applied here;
* in an earlier term: then it lies below the no-op, if it was committed before this peer was elected (Raft 5.4), and the
  no-op is applied;
* in a later term, or committed by a later leader: none such exists while the lease lasts.
"""

from __future__ import annotations

from pytinykv.raft.core import Core
from pytinykv.raft.errors import (
    DropReason,
    ProposalDropped,
    ProtocolViolation,
    SnapshotTemporarilyUnavailable,
    StorageError,
)
from pytinykv.raft.messages import (
    NO_PEER,
    AppendEntries,
    AppendRejection,
    AppendResponse,
    Entry,
    EntryKind,
    Heartbeat,
    HeartbeatResponse,
    InstallSnapshot,
    LogIndex,
    Message,
    PeerId,
    TimeoutNow,
)
from pytinykv.raft.progress import NEVER, Progress, ProgressState
from pytinykv.raft.roles import Leader, Transfer

_FOREVER = float("inf")


def become_leader(core: Core) -> None:
    """Open the term with a no-op, so that entries of older terms can be committed (Raft section 8)."""
    last_index = core.log.last_index
    progress = {peer_id: new_progress(core, LogIndex(0)) for peer_id in core.conf.members}
    role = Leader(core.id, progress, LogIndex(last_index + 1))
    own = progress[core.id]
    own.match, own.state = core.log.durability.index, ProgressState.REPLICATE
    core.role = role
    core.election_elapsed = 0
    append(core, role, EntryKind.NORMAL, b"")


def new_progress(core: Core, match: LogIndex) -> Progress:
    """Return what is known about a member at first: it may lack anything, and it counts as alive for one round."""
    progress = Progress(
        match,
        LogIndex(core.log.last_index + 1),
        inflight_max=core.config.inflight_max,
        inflight_bytes_max=core.config.inflight_bytes_max,
    )
    progress.recent_active = True
    return progress


def append(core: Core, role: Leader, kind: EntryKind, data: bytes) -> LogIndex:
    """Append one entry of this term; return its index."""
    index = LogIndex(core.log.last_index + 1)
    core.log.append((Entry(index, core.term, kind, data),))
    role.uncommitted_bytes += len(data)
    return index


def check_barrier(core: Core, role: Leader) -> None:
    """Refuse an admin entry while an earlier one, or the no-op of the term, is not applied.

    Raises:
        ProposalDropped: that is so.
    """
    if role.barrier_index > core.log.applied:
        raise ProposalDropped(DropReason.ADMIN_PENDING)


def append_admin(core: Core, role: Leader, kind: EntryKind, data: bytes) -> LogIndex:
    """Append an admin entry, the new barrier; return its index. The caller has checked the one before."""
    index = append(core, role, kind, data)
    role.barrier_index = index
    return index


# --- sending ----------------------------------------------------------------------------------------------------


def has_due_messages(core: Core, role: Leader) -> bool:
    """Tell whether `send_due` would send something."""
    if role.reads.has_waiting:
        return True
    last, announced = core.log.last_index, _announced_commit(core, role)
    for peer_id, progress in role.progress.items():  # noqa: SIM110 - asked after each step: a generator costs as much again
        if peer_id != core.id and progress.is_due(last, announced):
            return True
    return False


def _announced_commit(core: Core, role: Leader) -> LogIndex:
    """Return the commit index that is worth a message of its own (see `Config.announce_commit`).

    That of a barrier is: until it applies an admin entry, a peer does not campaign, or counts otherwise.
    """
    committed = core.log.committed
    if core.config.announce_commit:
        return committed
    return role.barrier_index if role.barrier_index <= committed else LogIndex(0)


def send_due(core: Core, role: Leader) -> None:
    """Make the append messages, and the round of heartbeats that waiting reads need."""
    role.close_run(core.log.last_index)
    if role.reads.has_waiting:
        role.reads.begin_round(core.log.committed)
        broadcast_heartbeats(core, role)
    announced, last = _announced_commit(core, role), core.log.last_index
    for peer_id, progress in role.progress.items():
        if peer_id == core.id:
            continue
        while progress.is_due(last, announced):
            # It had all there is, and the commit index: no need to ask whether another one is due.
            if not _send_append(core, role, peer_id, progress) or progress.next > last:
                break


def _send_append(core: Core, role: Leader, peer_id: PeerId, progress: Progress) -> bool:
    """Send one append message, or a snapshot if the log does not reach back; return whether it was an append."""
    log, next_index = core.log, progress.next
    previous = LogIndex(next_index - 1)
    entries: tuple[Entry, ...] = ()
    try:
        previous_term = log.term(previous)
        if next_index <= log.last_index and not progress.is_full():
            entries = log.entries(next_index, log.last_index, core.config.append_bytes_max)
    except StorageError:
        _send_snapshot(core, role, peer_id, progress)
        return False
    commit = log.committed
    core.send(AppendEntries(peer_id, core.id, core.term, previous, previous_term, commit, _stamp(core, role), entries))
    if entries:
        progress.on_sent(entries[-1].index, sum([len(entry.data) for entry in entries]), commit)
    else:
        progress.on_sent(None, 0, commit)
    return True


def _send_snapshot(core: Core, role: Leader, peer_id: PeerId, progress: Progress) -> None:
    """Ask the driver to send a snapshot; a silent follower or an unfinished snapshot waits for the next heartbeat."""
    if progress.state is not ProgressState.PROBE:
        progress.become_probe()
    progress.is_paused = True
    if not progress.recent_active:
        return
    try:
        meta = core.storage.snapshot()
    except SnapshotTemporarilyUnavailable:
        return
    if meta.index <= progress.match:
        return
    progress.become_snapshot(meta.index)
    core.send(InstallSnapshot(peer_id, core.id, core.term, meta, _stamp(core, role)))


def end_pauses(role: Leader) -> None:
    """Probe every follower once more: one that waited for a snapshot can have it now."""
    for progress in role.progress.values():
        progress.is_paused = False


def broadcast_heartbeats(core: Core, role: Leader) -> None:
    """Send every member a heartbeat, with the newest round of reads."""
    role.heartbeat_elapsed = 0
    for peer_id, progress in role.progress.items():
        if peer_id != core.id:
            send_heartbeat(core, role, peer_id, progress)


def send_heartbeat(core: Core, role: Leader, peer_id: PeerId, progress: Progress) -> None:
    commit = min(progress.match, core.log.committed)
    core.send(Heartbeat(peer_id, core.id, core.term, commit, role.reads.round, _stamp(core, role)))


def _stamp(core: Core, role: Leader) -> float:
    """Return the send time that answers may count for; it is frozen once a transferee was told to campaign."""
    transfer = role.transfer
    return core.now if transfer is None or transfer.sent_at is None else transfer.sent_at


# --- time -------------------------------------------------------------------------------------------------------


def tick(core: Core, role: Leader) -> None:
    """Let a tick pass: heartbeats, check of the quorum, limits of transfers and snapshots."""
    core.tick_stickiness()
    role.heartbeat_elapsed += 1
    role.quorum_elapsed += 1
    if role.transfer is not None:
        role.transfer.elapsed_ticks += 1
        if role.transfer.elapsed_ticks >= core.config.election_ticks:
            abort_transfer(role)
    if role.quorum_elapsed >= core.config.election_ticks:
        role.quorum_elapsed = 0
        if core.config.check_quorum and not _check_quorum(core, role):
            core.become_follower(core.term, NO_PEER)
            return
    for progress in role.progress.values():
        if progress.state is ProgressState.SNAPSHOT:
            progress.snapshot_ticks += 1
            if progress.snapshot_ticks >= core.config.snapshot_ticks_max:
                on_snapshot_report(progress, ok=False)
    if role.heartbeat_elapsed >= core.config.heartbeat_ticks:
        broadcast_heartbeats(core, role)


def _check_quorum(core: Core, role: Leader) -> bool:
    """Tell whether a majority was heard since the last check, and begin the next one."""
    active = core.conf.has_quorum(lambda peer_id: peer_id == core.id or role.progress[peer_id].recent_active)
    for progress in role.progress.values():
        progress.recent_active = False
    return active


# --- answers ----------------------------------------------------------------------------------------------------


def on_append_response(core: Core, role: Leader, progress: Progress, message: AppendResponse) -> None:
    """A follower's disk has the log up to `match`."""
    if message.match > core.log.last_index:
        raise ProtocolViolation(f"peer {message.sender} acknowledged {message.match}, beyond {core.log.last_index}")
    _note_contact(progress, message.sent_at)
    if not progress.on_accepted(message.match):
        return
    if message.match > core.log.committed:  # what is committed already commits nothing more
        maybe_commit(core, role)
    if role.transfer is not None and role.transfer.transferee == message.sender:
        maybe_send_timeout_now(core, role)


def can_wait(core: Core, role: Leader, message: Message) -> bool:
    """Tell whether nothing comes of a message that could be done now; it is stepped all the same, somewhat later.

    So it is with the acknowledgement that comes when the others' have committed everything already: it commits nothing, and
    its sender has been sent everything. Of a slow network the leader would get it later, too.
    """
    if type(message) is not AppendResponse or message.term != core.term or role.transfer is not None:
        return False
    progress = role.progress.get(message.sender)
    return (
        progress is not None
        and progress.state is ProgressState.REPLICATE
        and progress.next > core.log.last_index
        and message.match <= core.log.committed
    )


def on_append_rejection(core: Core, progress: Progress, message: AppendRejection) -> None:
    """A follower's log differs: go back to where the terms can agree, one term at a time."""
    _note_contact(progress, message.sent_at)
    hint = message.hint_index
    if message.hint_term > 0:
        hint, _ = core.log.conflict_hint(message.hint_index, message.hint_term)
    progress.on_rejected(message.rejected, hint)


def on_heartbeat_response(core: Core, role: Leader, progress: Progress, message: HeartbeatResponse) -> None:
    """A follower still follows; find out whether it lacks something, and release the reads that waited for this.

    If it is the transferee, it is told to campaign once more: the first time it may not have been able to yet.
    """
    if message.round > role.reads.round:
        raise ProtocolViolation(f"peer {message.sender} answered round {message.round}, not begun yet")
    _note_contact(progress, message.sent_at)
    progress.is_paused = False
    if progress.state is ProgressState.REPLICATE and progress.match < progress.next - 1:
        progress.is_poked = True
    if message.round > progress.acked_round:
        progress.acked_round = message.round
        release_reads(core, role)
    if role.transfer is not None and role.transfer.transferee == message.sender:
        maybe_send_timeout_now(core, role)


def _note_contact(progress: Progress, sent_at: float) -> None:
    progress.recent_active = True
    progress.acked_at = max(progress.acked_at, sent_at)


def on_snapshot_report(progress: Progress, *, ok: bool) -> None:
    """The driver knows how the sending of a snapshot ended; go on probing at the next answer to a heartbeat."""
    if progress.state is not ProgressState.SNAPSHOT:
        return
    if not ok:
        progress.pending_snapshot = LogIndex(0)
    progress.become_probe()
    progress.is_paused = True


# --- commit -----------------------------------------------------------------------------------------------------


def on_durable(core: Core, role: Leader) -> None:
    """Count this peer's own disk."""
    own = role.progress.get(core.id)
    if own is not None and core.log.durability.index > own.match:
        own.match = core.log.durability.index
        own.next = LogIndex(own.match + 1)
        maybe_commit(core, role)


def maybe_commit(core: Core, role: Leader) -> bool:
    """Move the commit index to what a majority has on disk, if that is of this term; return whether it moved."""
    progress, log, conf = role.progress, core.log, core.conf
    reached = conf.reached_of([progress[peer_id].match for peer_id in conf.voters])
    if reached <= log.committed or not role.is_own_entry(reached):
        return False
    log.commit_to(reached)
    role.on_committed(reached)
    return True


def has_committed_in_term(core: Core, role: Leader) -> bool:
    """Tell whether the commit index is surely up to date: an own entry is committed."""
    return core.log.committed >= role.term_start


# --- reads and leases -------------------------------------------------------------------------------------------


def release_reads(core: Core, role: Leader) -> None:
    """Hand out the reads that a majority has confirmed by answering their round."""
    if role.reads.has_pending:
        current, progress = role.reads.round, role.progress
        reached = core.conf.reached(lambda peer_id: current if peer_id == core.id else progress[peer_id].acked_round)
        core.read_states.extend(role.reads.confirmed(reached))


def lease_until(core: Core, role: Leader) -> float:
    """Return until when the applied state may be read without asking a quorum; see `RawNode.lease_until`."""
    if not core.config.lease_s or role.transfer is not None or not is_applied_current(core, role):
        return NEVER
    progress = role.progress
    newest = core.conf.reached(lambda peer_id: _FOREVER if peer_id == core.id else progress[peer_id].acked_at)
    return newest + core.config.lease_s if newest > role.lease_floor else NEVER


def is_applied_current(core: Core, role: Leader) -> bool:
    """Tell whether everything that a linearizable read of this group has to see is applied, if no later leader exists.

    That is the term's no-op, and whatever barrier is committed; see the module's docstring.
    """
    log = core.log
    if log.applied < role.term_start:
        return False
    return log.applied >= role.barrier_index or role.barrier_index > log.committed


# --- transfer ---------------------------------------------------------------------------------------------------


def begin_transfer(core: Core, role: Leader, transferee: PeerId) -> bool:
    """Hand leadership over; a transfer to another peer ends, one to the same peer goes on. Return whether one runs."""
    if transferee == core.id or transferee not in core.conf.voters:
        return False
    if role.transfer is not None:
        if role.transfer.transferee == transferee:
            return True
        abort_transfer(role)
    role.transfer = Transfer(transferee)
    role.progress[transferee].is_paused = False
    maybe_send_timeout_now(core, role)
    return True


def maybe_send_timeout_now(core: Core, role: Leader) -> None:
    """Tell the transferee to campaign once it has the whole log."""
    transfer = role.transfer
    assert transfer is not None, "only called while a transfer runs"
    if role.progress[transfer.transferee].match == core.log.last_index:
        if transfer.sent_at is None:
            transfer.sent_at = core.now
        core.send(TimeoutNow(transfer.transferee, core.id, core.term, transfer.sent_at))


def abort_transfer(role: Leader) -> None:
    """Lead on; a TimeoutNow that is on its way finds voters that have heard something newer."""
    if role.transfer is not None:
        if role.transfer.sent_at is not None:
            role.lease_floor = max(role.lease_floor, role.transfer.sent_at)
        role.transfer = None
