"""Single-step membership changes (thesis 4.1 and 4.2).

A change is an entry like any other; it counts from the moment a peer applies it. Old and new majorities overlap as long
as the configurations that peers count in are never two steps apart, which these rules give:

1. A leader proposes a change only when every earlier one is applied, and its own first entry is.
2. The message that brings change n + 1 to a peer says that change n is committed, and a peer that knows of a committed change
   which it has not applied does not campaign (`election`).

The first is the rule of barriers in `leading`. Without its second half ("and its own first entry is") two leaders can each
commit a change that the other does not know of, and majorities need not overlap (a bug of the thesis, mended in 2015).
"""

from __future__ import annotations

from pytinykv.raft import leading
from pytinykv.raft.core import Core
from pytinykv.raft.errors import DropReason, ProposalDropped
from pytinykv.raft.messages import (
    NO_PEER,
    ConfChange,
    ConfState,
    EntryKind,
    LogIndex,
    encode_conf_change,
)
from pytinykv.raft.roles import Candidate, Leader


def propose(core: Core, role: Leader, change: ConfChange) -> LogIndex:
    """Append a membership change; return its index.

    Raises:
        ProposalDropped: an earlier admin entry is not applied yet, or no voter would be left.
    """
    leading.check_barrier(core, role)
    if not core.conf.changed(change).voters:
        raise ProposalDropped(DropReason.LAST_VOTER)
    return leading.append_admin(core, role, EntryKind.CONF_CHANGE, encode_conf_change(change))


def apply(core: Core, change: ConfChange) -> ConfState:
    """Count in the changed configuration from now on; return it."""
    core.conf = core.conf.changed(change)
    role = core.role
    if isinstance(role, Leader):
        _apply_at_leader(core, role)
    elif isinstance(role, Candidate) and core.id not in core.conf.voters:
        core.become_follower(core.term, NO_PEER)
    return core.conf.state


def _apply_at_leader(core: Core, role: Leader) -> None:
    if core.id not in core.conf.voters:
        # The others learn that the change is committed from the last messages; then they elect (thesis 4.2.2).
        leading.send_due(core, role)
        core.become_follower(core.term, NO_PEER)
        return
    known = role.progress
    role.progress = {
        peer_id: known[peer_id] if peer_id in known else leading.new_progress(core, LogIndex(0))
        for peer_id in core.conf.members
    }
    for peer_id, progress in role.progress.items():
        if peer_id not in known:
            # The driver creates a new peer when a heartbeat for it arrives; the probe that follows would be lost.
            leading.send_heartbeat(core, role, peer_id, progress)
    if role.transfer is not None and role.transfer.transferee not in core.conf.voters:
        leading.abort_transfer(role)
    leading.maybe_commit(core, role)
    leading.release_reads(core, role)
