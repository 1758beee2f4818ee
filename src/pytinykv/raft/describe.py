"""The state of a peer, as a record and as text for people."""

from __future__ import annotations

import msgspec

from pytinykv.raft import leading
from pytinykv.raft.core import Core
from pytinykv.raft.messages import NO_PEER, ConfState, LogIndex, PeerId, Term
from pytinykv.raft.progress import NEVER, Progress, ProgressState
from pytinykv.raft.roles import Leader, RoleKind


class ProgressStatus(msgspec.Struct, frozen=True, kw_only=True):
    """One member as the leader knows it; see `progress.Progress`."""

    match: LogIndex
    next: LogIndex
    state: ProgressState
    recent_active: bool
    is_paused: bool
    inflight: int
    pending_snapshot: LogIndex


class Status(msgspec.Struct, frozen=True, kw_only=True):
    """One peer."""

    peer_id: PeerId
    role: RoleKind
    term: Term
    vote: PeerId
    leader_id: PeerId
    commit: LogIndex
    applied: LogIndex
    first_index: LogIndex
    last_index: LogIndex
    durable_index: LogIndex
    """How far the log is on this peer's disk."""
    conf_state: ConfState
    lead_transferee: PeerId
    """The peer that a leader is handing over to, or NO_PEER."""
    lease_until: float
    """See `RawNode.lease_until`; minus infinity except at a leader."""
    progress: dict[PeerId, ProgressStatus]
    """Of every member, at a leader; empty elsewhere."""

    def render(self) -> str:
        """Return a few lines for people."""
        lines = [
            f"peer {self.peer_id}: {self.role.value} in term {self.term}",
            f"leader {self.leader_id or 'unknown'}, vote {self.vote or 'none'}",
            f"log {self.first_index}..{self.last_index}, durable {self.durable_index}",
            f"committed {self.commit}, applied {self.applied}",
            f"voters {list(self.conf_state.voters)}, learners {list(self.conf_state.learners)}",
        ]
        if self.lead_transferee:
            lines.append(f"handing leadership to {self.lead_transferee}")
        lines.extend(_render_progress(peer_id, progress) for peer_id, progress in self.progress.items())
        return "\n".join(lines)


def _render_progress(peer_id: PeerId, progress: ProgressStatus) -> str:
    notes = [] if progress.recent_active else ["silent"]
    if progress.is_paused:
        notes.append("paused")
    if progress.state is ProgressState.SNAPSHOT:
        notes.append(f"waiting for the snapshot at {progress.pending_snapshot}")
    if progress.inflight:
        notes.append(f"{progress.inflight} in flight")
    tail = f" ({', '.join(notes)})" if notes else ""
    return f"  peer {peer_id}: {progress.state.value}, match {progress.match}, next {progress.next}{tail}"


def status(core: Core) -> Status:
    """Return the state of a peer."""
    role, log = core.role, core.log
    leader = role if isinstance(role, Leader) else None
    transfer = leader.transfer if leader is not None else None
    return Status(
        peer_id=core.id,
        role=role.kind,
        term=core.term,
        vote=core.vote,
        leader_id=role.leader_id,
        commit=log.committed,
        applied=log.applied,
        first_index=log.first_index(),
        last_index=log.last_index,
        durable_index=log.durability.index,
        conf_state=core.conf.state,
        lead_transferee=transfer.transferee if transfer is not None else NO_PEER,
        lease_until=leading.lease_until(core, leader) if leader is not None else NEVER,
        progress={} if leader is None else {peer: _progress_status(it) for peer, it in leader.progress.items()},
    )


def _progress_status(progress: Progress) -> ProgressStatus:
    return ProgressStatus(
        match=progress.match,
        next=progress.next,
        state=progress.state,
        recent_active=progress.recent_active,
        is_paused=progress.is_paused,
        inflight=progress.inflight,
        pending_snapshot=progress.pending_snapshot,
    )
