"""Admin entries as barriers, and reads while applying lags behind committing (thesis 4.1 and 6.4)."""

from __future__ import annotations

from typing import Any

import pytest
from tests.raft.harness import Peer, stored

from pytinykv.raft import (
    AppendEntries,
    AppendResponse,
    ConfChange,
    ConfChangeKind,
    DropReason,
    Entry,
    EntryKind,
    HeartbeatResponse,
    LogIndex,
    PeerId,
    ProposalDropped,
    RoleKind,
    Term,
    TimeoutNow,
)

NEVER = float("-inf")
LEASES: dict[str, Any] = {"check_quorum": True, "lease_s": 0.8}
ADD_4 = ConfChange(ConfChangeKind.ADD_LEARNER, PeerId(4))


def leader(**config: Any) -> Peer:
    """Make peer 1 lead peers 2 and 3, its no-op applied."""
    peer = Peer(1, stored(), fresh=True, **config)
    peer.lead()
    return peer


def commit(peer: Peer, index: int) -> None:
    """Let peer 2 acknowledge everything up to `index`, and take what is committed by that; a lagging peer applies nothing."""
    peer.take()
    peer.step(AppendResponse(PeerId(1), PeerId(2), Term(peer.term), LogIndex(index), peer.now))
    peer.take()


# -- one admin entry at a time


def test_an_admin_entry_waits_for_the_one_before_it_to_be_applied() -> None:
    peer = leader()
    _, index = peer.node.propose_admin(b"split", peer.now)
    with pytest.raises(ProposalDropped) as refusal:
        peer.node.propose_admin(b"split again", peer.now)
    assert refusal.value.reason is DropReason.ADMIN_PENDING
    peer.is_applying = False
    commit(peer, index)
    with pytest.raises(ProposalDropped):
        peer.node.propose_admin(b"split again", peer.now)
    peer.node.on_applied(index)
    peer.node.propose_admin(b"split again", peer.now)


def test_membership_changes_and_other_admin_entries_wait_for_each_other() -> None:
    peer = leader()
    _, index = peer.node.propose_admin(b"split", peer.now)
    with pytest.raises(ProposalDropped):
        peer.change(ADD_4)
    commit(peer, index)
    peer.change(ADD_4)
    with pytest.raises(ProposalDropped):
        peer.node.propose_admin(b"split", peer.now)


def test_commands_do_not_wait_for_a_barrier() -> None:
    peer = leader()
    _, index = peer.node.propose_admin(b"split", peer.now)
    assert peer.propose(b"x") == index + 1


def test_a_new_leader_proposes_no_admin_entry_before_its_no_op_is_applied() -> None:
    """Its log may hold one of an earlier leader."""
    peer = Peer(1, stored(terms=(1, 1)))
    peer.lead(commit_no_op=False)
    with pytest.raises(ProposalDropped):
        peer.node.propose_admin(b"split", peer.now)
    peer.answer_appends()
    peer.take()
    peer.node.propose_admin(b"split", peer.now)


def test_an_admin_entry_is_taken_also_when_much_is_uncommitted() -> None:
    peer = leader(uncommitted_bytes_max=10)
    peer.propose(b"x" * 10)
    with pytest.raises(ProposalDropped):
        peer.propose(b"x")
    assert peer.node.propose_admin(b"split", peer.now) == (1, 3)


def test_an_admin_entry_is_stored_under_its_kind() -> None:
    peer = leader()
    peer.node.propose_admin(b"split", peer.now)
    assert peer.node.ready(peer.now).entries[-1] == Entry(LogIndex(2), Term(1), EntryKind.ADMIN, b"split")


def test_the_commit_of_an_admin_entry_is_announced() -> None:
    peer = leader(announce_commit=False)
    _, index = peer.node.propose_admin(b"split", peer.now)
    peer.take()
    peer.step(AppendResponse(PeerId(1), PeerId(2), Term(1), index, 0.0))
    assert {message.commit for message in peer.take() if isinstance(message, AppendEntries)} == {index}


# -- campaigns


def follower_with(kind: EntryKind) -> Peer:
    """Make a follower that knows of a committed entry which it has not applied."""
    peer = Peer(1)
    peer.is_applying = False
    entry = Entry(LogIndex(1), Term(1), kind, b"data")
    peer.step(AppendEntries(PeerId(1), PeerId(2), Term(1), LogIndex(0), Term(0), LogIndex(1), 0.0, (entry,)))
    peer.take()
    return peer


@pytest.mark.parametrize(("kind", "campaigns"), [(EntryKind.NORMAL, True), (EntryKind.ADMIN, False)])
def test_a_peer_does_not_campaign_past_an_admin_entry_that_it_has_not_applied(kind: EntryKind, campaigns: bool) -> None:
    peer = follower_with(kind)
    assert peer.campaign() is campaigns
    peer.node.on_applied(LogIndex(1))
    assert peer.campaign()


def test_a_transferee_that_could_not_campaign_yet_is_told_again() -> None:
    """1: the leader says TimeoutNow.  2: the transferee has an admin entry to apply.  3: it answers a heartbeat."""
    peer = leader()
    peer.node.transfer_leader(PeerId(2), peer.now)
    assert [message for message in peer.take() if isinstance(message, TimeoutNow)]
    peer.step(HeartbeatResponse(PeerId(1), PeerId(3), Term(1), 0, 0.0))
    assert peer.take() == []
    peer.tick(2)
    peer.step(HeartbeatResponse(PeerId(1), PeerId(2), Term(1), 0, 0.0))
    (again,) = [message for message in peer.take() if isinstance(message, TimeoutNow)]
    assert (again.to, again.sent_at) == (2, 0.0), "the send time stays that of the first: leases end there"
    transferee = follower_with(EntryKind.ADMIN)
    told = TimeoutNow(PeerId(1), PeerId(2), Term(1), 0.0)
    transferee.step(told)
    assert transferee.role is RoleKind.FOLLOWER
    transferee.node.on_applied(LogIndex(1))
    transferee.step(told)
    assert transferee.role is RoleKind.CANDIDATE


# -- leases while applying lags


def test_a_lease_gives_no_reads_before_the_no_op_is_applied() -> None:
    """What earlier leaders acknowledged may lie below it."""
    peer = Peer(1, stored(terms=(1, 1)), fresh=True, **LEASES)
    peer.lead(commit_no_op=False)
    peer.is_applying = False
    commit(peer, 3)
    assert (peer.commit, peer.node.lease_until) == (3, NEVER)
    peer.node.on_applied(LogIndex(2))
    assert peer.node.lease_until == NEVER
    peer.node.on_applied(LogIndex(3))
    assert peer.node.lease_until == pytest.approx(0.8)


def test_a_lease_gives_reads_while_commands_wait_to_be_applied() -> None:
    """None of them is acknowledged, since their proposer is this peer."""
    peer = leader(**LEASES)
    peer.is_applying = False
    commit(peer, peer.propose(b"x"))
    assert (peer.commit, peer.node.applied_index) == (2, 1)
    assert peer.node.lease_until == pytest.approx(0.8)


def test_a_lease_gives_no_reads_under_a_committed_admin_entry_that_is_not_applied() -> None:
    """Others may have applied a split, and the new group may have taken a write that a read here would miss."""
    peer = leader(**LEASES)
    peer.is_applying = False
    _, index = peer.node.propose_admin(b"split", peer.now)
    peer.take()
    assert peer.node.lease_until == pytest.approx(0.8), "what is not committed is applied nowhere"
    commit(peer, index)
    assert peer.node.lease_until == NEVER
    peer.node.on_applied(index)
    assert peer.node.lease_until == pytest.approx(0.8)


def test_a_read_index_covers_what_is_committed_and_not_applied() -> None:
    peer = leader()
    peer.is_applying = False
    commit(peer, peer.propose(b"x"))
    peer.node.read_index(b"r", peer.now)
    peer.take()
    peer.step(HeartbeatResponse(PeerId(1), PeerId(2), Term(1), 1, 0.0))
    peer.take()
    assert [(state.context, state.index) for state in peer.read_states] == [(b"r", 2)]
    assert peer.node.applied_index == 1
