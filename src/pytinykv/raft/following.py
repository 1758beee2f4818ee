"""The follower's side: taking the leader's entries, commit index and snapshots (Raft 5.3 and 7).

Invariants:
1. An entry is overwritten only when it conflicts with the leader's; a message that is old, repeated or short never shortens
   the log.
2. What is acknowledged is durable when the acknowledgement leaves: it waits for the Ready that it is part of.
3. The commit index moves only over entries that are known to equal the leader's.
"""

from __future__ import annotations

from pytinykv.raft.core import Core
from pytinykv.raft.errors import ProtocolViolation
from pytinykv.raft.messages import (
    AppendEntries,
    AppendRejection,
    AppendResponse,
    Heartbeat,
    HeartbeatResponse,
    InstallSnapshot,
    LogIndex,
    PeerId,
    StaleTerm,
)
from pytinykv.raft.quorum import Configuration
from pytinykv.raft.roles import Follower


def check(core: Core, message: AppendEntries | Heartbeat | InstallSnapshot) -> None:
    """Refuse what no correct leader sends, before anything changes.

    Raises:
        ProtocolViolation: two leaders in one term, entries that do not follow each other, or a heartbeat that counts on
            entries this peer does not have (its disk lost what it had acknowledged).
    """
    if message.term == core.term and core.leader_id not in (0, message.sender):
        raise ProtocolViolation(f"peers {core.leader_id} and {message.sender} both lead term {message.term}")
    if type(message) is AppendEntries:
        _check_entries(message)
    elif type(message) is Heartbeat and message.term == core.term and message.commit > core.log.last_index:
        raise ProtocolViolation(
            f"leader {message.sender} counts on entry {message.commit}, the log ends at {core.log.last_index}: "
            "this peer has lost entries that it had acknowledged"
        )


def _check_entries(message: AppendEntries) -> None:
    index, term = message.prev_index, message.prev_term
    for entry in message.entries:
        index = LogIndex(index + 1)
        if entry.index != index or entry.term < term or entry.term > message.term:
            raise ProtocolViolation(
                f"entry {entry.index} of term {entry.term} cannot follow {index - 1} of term {term}"
            )
        term = entry.term


def follow(core: Core, leader_id: PeerId, sent_at: float) -> None:
    """Recognise the leader of this term."""
    if not isinstance(core.role, Follower) or core.role.leader_id != leader_id:
        core.become_follower(core.term, leader_id)
    core.heard_leader(sent_at)


def on_append(core: Core, message: AppendEntries) -> None:
    """Append what the leader has, if both logs agree just before it."""
    follow(core, message.sender, message.sent_at)
    log, entries = core.log, message.entries
    if message.prev_index < log.committed:
        entries = entries[log.committed - message.prev_index :]
        if not entries:
            _accept(core, message, log.committed)
            return
    elif not log.matches(message.prev_index, message.prev_term):
        hint_index, hint_term = log.conflict_hint(message.prev_index, message.prev_term)
        rejection = AppendRejection(
            message.sender, core.id, core.term, message.prev_index, hint_index, hint_term, message.sent_at
        )
        core.send_after_sync(rejection)
        return
    conflict = log.first_conflict(entries)
    if conflict < len(entries):
        log.append(entries[conflict:])
    match = entries[-1].index if entries else message.prev_index
    log.commit_to(min(message.commit, match))
    _accept(core, message, match)


def _accept(core: Core, message: AppendEntries | InstallSnapshot, match: LogIndex) -> None:
    core.send_after_sync(AppendResponse(message.sender, core.id, core.term, match, message.sent_at))


def on_heartbeat(core: Core, message: Heartbeat) -> None:
    """Answer a heartbeat. Its commit index is one that this peer has acknowledged to the leader."""
    follow(core, message.sender, message.sent_at)
    if message.commit <= core.log.last_index:
        core.log.commit_to(message.commit)
    core.send(HeartbeatResponse(message.sender, core.id, core.term, message.round, message.sent_at))


def on_install_snapshot(core: Core, message: InstallSnapshot) -> None:
    """Jump to a snapshot, unless this peer already has what it stands for."""
    follow(core, message.sender, message.sent_at)
    log, meta = core.log, message.meta
    if meta.index <= log.committed:
        _accept(core, message, log.committed)
        return
    if core.id not in Configuration(meta.conf_state).members:
        return
    if log.matches(meta.index, meta.term):
        log.commit_to(meta.index)
    else:
        log.restore(meta)
    _accept(core, message, meta.index)


def answer_old_leader(core: Core, message: AppendEntries | Heartbeat | InstallSnapshot) -> None:
    """Tell a leader of an older term that its term is over."""
    core.send_after_sync(StaleTerm(message.sender, core.id, core.term))
