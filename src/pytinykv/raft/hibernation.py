"""Hibernation: a group in which nothing happens rests, and costs nothing until something does.

A peer hibernates while its driver does not tick it. It sends no heartbeats then, looks for no quorum and does not campaign;
messages, proposals and reads are taken as ever, and the driver wakes it first. When all of a group may rest, and who says so,
is the driver's affair; here is what a peer knows of that.

Why it is safe
--------------
Nothing in Raft's safety counts ticks: a peer that is not ticked is a slow one. What does depend on time are leases:

1. A leader that falls asleep gives up its lease, and answers that are still on their way give none (`lease_floor`). So the
   first read asks a quorum, and only answers to what was sent after waking make a new lease.
2. A follower sticks to a leader for `election_ticks` and until `sticky_until` on its clock. The ticks that it slept through
   count as far as its driver has heard nothing of the leader's process (`missed_ticks`); the clock goes on by itself. So it
   is never released earlier than an awake one, on which an older lease may rely.
3. Votes, terms and logs are on disk; sleeping changes nothing of them.

Why no peer sleeps for ever
---------------------------
A peer falls asleep only when it has no work left (`is_settled`), a leader only when every member has the whole log. What
wakes it is said in `raftstore.activity`. Check-quorum begins a new period on waking: a leader is not deposed for the time
when it asked no one. Pre-votes stay what they are: a follower that wakes alone can't disturb a leader that others hear.
"""

from __future__ import annotations

from collections.abc import Collection

from pytinykv.raft import leading
from pytinykv.raft.core import Core
from pytinykv.raft.messages import NO_PEER, PeerId
from pytinykv.raft.progress import ProgressState
from pytinykv.raft.roles import Candidate, Leader


def is_settled(core: Core, absent: Collection[PeerId]) -> bool:
    """Tell whether nothing is under way: the log is durable and applied to its end, nothing waits to be said or answered.

    A leader knows besides that every member has all of it, but for those `absent`; a follower knows its leader.
    """
    log, role = core.log, core.role
    if log.applied != log.last_index or log.is_installing() or not log.durability.idle:
        return False
    if core.is_just_restarted or core.messages or core.after_sync or core.read_states or core.dropped_reads:
        return False
    if isinstance(role, Leader):
        return _is_followed(core, role, absent)
    return not isinstance(role, Candidate) and role.leader_id != NO_PEER


def _is_followed(core: Core, role: Leader, absent: Collection[PeerId]) -> bool:
    if role.transfer is not None or role.reads.has_waiting or role.reads.has_pending:
        return False
    last_index = core.log.last_index
    if not core.conf.has_quorum(lambda peer_id: peer_id not in absent):
        return False
    return core.id in core.conf.voters and all(
        progress.match == last_index and progress.state is ProgressState.REPLICATE
        for peer_id, progress in role.progress.items()
        if peer_id not in absent
    )


def fall_asleep(core: Core) -> None:
    """Give up the lease: what was sent up to now gives none any more. The driver stops ticking."""
    if isinstance(core.role, Leader):
        core.role.lease_floor = max(core.role.lease_floor, core.now)


def wake(core: Core, *, missed_ticks: int, election_delay_ticks: int | None) -> None:
    """Go on: a leader asks all members for an answer, another peer waits for its leader anew.

    `missed_ticks`: for how long the leader's process has been silent, as counted by the driver. `election_delay_ticks`: how
    long to wait for a leader now, if that is not left to chance.
    """
    role = core.role
    if isinstance(role, Leader):
        role.quorum_elapsed = 0
        leading.broadcast_heartbeats(core, role)
        return
    core.heard_elapsed += missed_ticks
    core.reset_election_timer()
    if election_delay_ticks is not None:
        core.election_timeout = election_delay_ticks
