"""Elections: campaigns and votes (Raft 5.2 and 5.4.1, thesis 3.10, 4.2.3, 6.2 and 9.6).

Invariants:
1. A vote is given once a term, to a candidate whose log is at least as new, and it is sent only when it is durable.
2. A peer that knows of a committed admin entry which it has not applied does not campaign: it would count in a
   configuration that is two steps old, whose majorities need not overlap with the newest one's.
3. A peer that has a snapshot left to install does not campaign.
4. A pre-vote changes nothing at the voter.

A refusal of a vote says what its sender knows to be committed. Without that, a group can be stuck for ever: 1 and 3 are its
members, leader 3 removes itself, 1 has the entry but misses the message that it is committed. 1 counts in the old group and
needs 3's vote; 3 has more entries than 1, so it refuses, and it can't campaign itself because it is no member any more. With
the commit index in the refusal, 1 applies the change and elects itself.
"""

from __future__ import annotations

from pytinykv.raft import leading
from pytinykv.raft.core import Core
from pytinykv.raft.messages import (
    NO_PEER,
    EntryKind,
    LogIndex,
    PeerId,
    PreVoteRequest,
    PreVoteResponse,
    Term,
    TimeoutNow,
    VoteRequest,
    VoteResponse,
)
from pytinykv.raft.quorum import VoteResult
from pytinykv.raft.roles import Candidate, Follower, Leader

_SCAN_BYTES_MAX = 1 << 20


def tick(core: Core) -> None:
    """Let a tick pass for a peer that does not lead."""
    core.tick_stickiness()
    core.election_elapsed += 1
    if core.election_elapsed >= core.election_timeout and not core.is_sticky():
        core.reset_election_timer()
        campaign(core)


def campaign(core: Core, transfer_at: float | None = None) -> bool:
    """Try to become the leader; return whether a campaign began.

    `transfer_at` comes from a leader's TimeoutNow: then this peer need not stick to that leader, nor ask for pre-votes.
    """
    if isinstance(core.role, Leader) or not core.is_promotable() or _knows_unapplied_admin_entry(core):
        return False
    if transfer_at is None and core.is_sticky():
        return False
    if core.config.pre_vote and transfer_at is None:
        _begin_pre_vote(core)
    else:
        _begin_vote(core, transfer_at)
    return True


def _knows_unapplied_admin_entry(core: Core) -> bool:
    """Tell whether what is committed and not applied contains a barrier. Not to be asked while a snapshot is installed."""
    log = core.log
    low = LogIndex(log.applied + 1)
    while low <= log.committed:
        for entry in log.entries(low, log.committed, _SCAN_BYTES_MAX):
            if entry.kind is not EntryKind.NORMAL:
                return True
            low = LogIndex(entry.index + 1)
    return False


def _begin_pre_vote(core: Core) -> None:
    role = core.become_pre_candidate()
    role.votes[core.id] = True
    if core.conf.tally(role.votes) is VoteResult.WON:
        _begin_vote(core, None)
        return
    last_index, last_term = core.last_position()
    for peer_id in _other_voters(core):
        core.send(PreVoteRequest(peer_id, core.id, Term(core.term + 1), last_index, last_term))


def _begin_vote(core: Core, transfer_at: float | None) -> None:
    role = core.become_candidate()
    role.votes[core.id] = True
    if core.conf.tally(role.votes) is VoteResult.WON:
        leading.become_leader(core)
        return
    last_index, last_term = core.last_position()
    for peer_id in _other_voters(core):
        core.send_after_sync(VoteRequest(peer_id, core.id, core.term, last_index, last_term, transfer_at))


def _other_voters(core: Core) -> list[PeerId]:
    return [peer_id for peer_id in core.conf.voters if peer_id != core.id]


# --- the voter's side -------------------------------------------------------------------------------------------


def ignores_vote_request(core: Core, message: VoteRequest | PreVoteRequest) -> bool:
    """Tell whether this peer sticks to a leader and so ignores a request of this or a newer term (thesis 4.2.3)."""
    if not core.is_sticky():
        return False
    transfer_at = message.transfer_at if isinstance(message, VoteRequest) else None
    return not core.is_released_by_transfer(transfer_at, message.term)


def on_vote_request(core: Core, message: VoteRequest) -> None:
    """Vote, in this peer's own term."""
    may_vote = core.vote == message.sender or (core.vote == NO_PEER and core.leader_id == NO_PEER)
    granted = may_vote and core.log.is_up_to_date(message.last_index, message.last_term)
    if granted:
        core.vote = message.sender
        core.election_elapsed = 0
    answer = VoteResponse(message.sender, core.id, core.term, granted, *_known_commit(core, granted=granted))
    core.send_after_sync(answer)


def on_pre_vote_request(core: Core, message: PreVoteRequest) -> None:
    """Say whether a vote would be given, in a term that is this peer's own or newer."""
    may_vote = message.term > core.term or (
        core.vote == message.sender or (core.vote == NO_PEER and core.leader_id == NO_PEER)
    )
    granted = may_vote and core.log.is_up_to_date(message.last_index, message.last_term)
    term = message.term if granted else core.term
    core.send(PreVoteResponse(message.sender, core.id, term, granted, *_known_commit(core, granted=granted)))


def _known_commit(core: Core, *, granted: bool) -> tuple[LogIndex, Term]:
    """Return the last committed position for a refusal; nothing for a grant, which needs no help."""
    if granted:
        return LogIndex(0), Term(0)
    committed = core.log.committed
    return committed, core.log.term(committed)


def refuse_old_vote_request(core: Core, message: VoteRequest | PreVoteRequest) -> None:
    """Tell a candidate of an older term about the newer one."""
    commit, commit_term = _known_commit(core, granted=False)
    response = VoteResponse if isinstance(message, VoteRequest) else PreVoteResponse
    answer = response(message.sender, core.id, core.term, granted=False, commit=commit, commit_term=commit_term)
    core.send_after_sync(answer)


# --- the candidate's side ---------------------------------------------------------------------------------------


def learn_commit(core: Core, message: VoteResponse | PreVoteResponse) -> None:
    """Commit what a refusal says is committed, if this log has that very entry (then it has all before it, too)."""
    if isinstance(core.role, Leader) or message.commit <= core.log.committed:
        return
    if not core.log.matches(message.commit, message.commit_term):
        return
    core.log.commit_to(message.commit)
    if isinstance(core.role, Candidate) and _knows_unapplied_admin_entry(core):
        core.become_follower(core.term, NO_PEER)


def on_vote_response(core: Core, message: VoteResponse) -> None:
    """Count a vote of this term."""
    role = core.role
    if not isinstance(role, Candidate) or role.is_pre_vote:
        return
    role.votes.setdefault(message.sender, message.granted)
    result = core.conf.tally(role.votes)
    if result is VoteResult.WON:
        leading.become_leader(core)
    elif result is VoteResult.LOST:
        core.become_follower(core.term, NO_PEER)


def on_pre_vote_response(core: Core, message: PreVoteResponse) -> None:
    """Count consent for the next term, or a refusal in this one."""
    role = core.role
    if not isinstance(role, Candidate) or not role.is_pre_vote:
        return
    if message.term != (core.term + 1 if message.granted else core.term):
        return
    role.votes.setdefault(message.sender, message.granted)
    result = core.conf.tally(role.votes)
    if result is VoteResult.WON:
        _begin_vote(core, None)
    elif result is VoteResult.LOST:
        core.become_follower(core.term, NO_PEER)


def on_timeout_now(core: Core, message: TimeoutNow) -> None:
    """Campaign because the leader wants to hand over, unless it has been heard since it asked."""
    if isinstance(core.role, Follower) and core.is_released_by_transfer(message.sent_at, Term(core.term + 1)):
        campaign(core, message.sent_at)
