"""Single-step membership changes (thesis 4.1, 4.2)."""

from __future__ import annotations

import msgspec
import pytest
from tests.raft.harness import Network, Peer, stored

from pytinykv.raft import (
    AppendEntries,
    AppendResponse,
    ConfChange,
    ConfChangeKind,
    DropReason,
    Entry,
    EntryKind,
    LogIndex,
    MemoryStorage,
    PeerId,
    ProposalDropped,
    RoleKind,
    StaleTerm,
    Term,
    VoteRequest,
    decode_conf_change,
    encode_conf_change,
)


def add(peer_id: int) -> ConfChange:
    return ConfChange(ConfChangeKind.ADD_VOTER, PeerId(peer_id))


def remove(peer_id: int) -> ConfChange:
    return ConfChange(ConfChangeKind.REMOVE, PeerId(peer_id))


def learner(peer_id: int) -> ConfChange:
    return ConfChange(ConfChangeKind.ADD_LEARNER, PeerId(peer_id))


def founder() -> MemoryStorage:
    """Make the storage of a group's first member: its log begins after a snapshot that newcomers need."""
    return stored((1,), base=(5, 5), term=5, commit=5)


@pytest.mark.tinykv("TestAddNode3A")
def test_an_added_voter_counts() -> None:
    peer = Peer(1, stored((1,)))
    assert peer.node.apply_conf_change(add(2)).voters == (1, 2)


@pytest.mark.tinykv("TestRemoveNode3A")
def test_a_removed_voter_does_not_count() -> None:
    peer = Peer(1, stored((1, 2)))
    assert peer.node.apply_conf_change(remove(2)).voters == (1,)
    assert peer.node.apply_conf_change(remove(1)).voters == ()


@pytest.mark.tinykv("TestCommitAfterRemoveNode3A")
def test_removing_a_silent_member_commits_what_waited_for_it() -> None:
    peer = Peer(1, stored((1, 2)))
    peer.lead()
    index = peer.change(remove(2))
    peer.take()
    peer.propose(b"hello")
    peer.take()
    applied = len(peer.applied)
    peer.step(AppendResponse(PeerId(1), PeerId(2), Term(1), index, 0.0))
    peer.take()
    assert [(entry.kind, entry.data) for entry in peer.applied[applied:]] == [
        (EntryKind.CONF_CHANGE, encode_conf_change(remove(2))),
        (EntryKind.NORMAL, b"hello"),
    ]


def test_a_new_member_is_sent_the_log_and_then_counts() -> None:
    network = Network(3, storages={1: founder(), 2: stored(()), 3: stored(())})
    network.campaign(1)
    for number in (2, 3):
        network[1].change(add(number))
        network.pump()
    network.propose(1, b"x")
    assert [peer.log()[-1] for peer in network.peers.values()] == [(6, b"x")] * 3
    assert [peer.commit for peer in network.peers.values()] == [network[1].node.last_index] * 3
    assert [peer.node.conf_state.voters for peer in network.peers.values()] == [(1, 2, 3)] * 3
    network.isolate(1)
    network.campaign(2)
    assert network[2].role is RoleKind.LEADER


def test_one_change_at_a_time() -> None:
    peer = Peer(1)
    peer.lead()
    peer.change(add(4))
    with pytest.raises(ProposalDropped) as refusal:
        peer.change(add(5))
    assert refusal.value.reason is DropReason.ADMIN_PENDING
    peer.answer_appends()
    peer.take()
    peer.change(add(5))


def test_a_change_that_the_driver_declines_makes_room_for_the_next() -> None:
    """Its epoch was old: the entry is applied, the members stay."""
    peer = Peer(1)
    peer.lead()
    index = peer.change(add(4))
    peer.is_applying = False
    peer.answer_appends()
    peer.take()
    peer.node.on_applied(index)
    assert peer.node.conf_state.voters == (1, 2, 3)
    peer.change(add(5))


def test_a_new_leader_proposes_no_change_before_its_no_op_is_applied() -> None:
    """An inherited change may be among the entries it does not know to be committed."""
    peer = Peer(1, stored(terms=(1, 1)))
    peer.lead(commit_no_op=False)
    with pytest.raises(ProposalDropped):
        peer.change(add(4))
    peer.answer_appends()
    peer.take()
    peer.change(add(4))


def test_a_leader_that_removes_itself_tells_the_others_and_follows() -> None:
    """Thesis 4.2.2: it does not count itself afterwards, and the others elect."""
    network = Network(3)
    network.campaign(1)
    index = network[1].change(remove(1))
    network.pump()
    assert network[1].role is RoleKind.FOLLOWER
    assert [network[n].commit for n in (1, 2, 3)] == [index] * 3
    assert network[2].node.conf_state.voters == (2, 3)
    assert network[1].campaign() is False
    network.campaign(2)
    assert network[2].role is RoleKind.LEADER


def test_a_leader_made_a_learner_follows() -> None:
    network = Network(3)
    network.campaign(1)
    network[1].change(learner(1))
    network.pump()
    assert network[1].role is RoleKind.FOLLOWER
    assert network[1].node.conf_state.learners == (1,)


def test_a_learner_receives_the_log_and_can_become_a_voter() -> None:
    network = Network(3, storages={1: founder(), 2: stored(()), 3: stored(())})
    network.campaign(1)
    network[1].change(learner(2))
    network.pump()
    network.propose(1, b"x")
    assert (network[2].log()[-1], network[2].commit) == ((6, b"x"), network[1].node.last_index)
    match = network[1].node.status().progress[PeerId(2)].match
    network[1].change(add(2))
    network.pump()
    assert network[1].node.conf_state.voters == (1, 2)
    assert network[1].node.status().progress[PeerId(2)].match == match + 1


def test_a_peer_does_not_campaign_past_a_committed_change_that_it_has_not_applied() -> None:
    """It would count in a configuration that may be two steps old."""
    peer = Peer(1)
    change = Entry(LogIndex(1), Term(1), EntryKind.CONF_CHANGE, encode_conf_change(add(4)))
    peer.is_applying = False
    peer.step(AppendEntries(PeerId(1), PeerId(2), Term(1), LogIndex(0), Term(0), LogIndex(1), 0.0, (change,)))
    peer.take()
    assert peer.campaign() is False
    peer.node.apply_conf_change(add(4))
    peer.node.on_applied(LogIndex(1))
    assert peer.campaign() is True


def test_a_candidate_that_is_removed_gives_up() -> None:
    peer = Peer(1)
    peer.campaign()
    peer.node.apply_conf_change(remove(1))
    assert peer.role is RoleKind.FOLLOWER


def test_a_removed_member_cannot_depose_the_leader() -> None:
    """Thesis 4.2.3: neither by asking for votes, nor by answering a late message with its high term."""
    network = Network(4, check_quorum=True, pre_vote=False)
    network.campaign(1)
    network[1].change(remove(4))
    network.pump()
    network.beat(1)
    network.pump(
        VoteRequest(PeerId(1), PeerId(4), Term(9), LogIndex(99), Term(9)),
        VoteRequest(PeerId(2), PeerId(4), Term(9), LogIndex(99), Term(9)),
        StaleTerm(PeerId(1), PeerId(4), Term(9)),
    )
    assert (network[1].role, network[1].term, network[2].term) == (RoleKind.LEADER, 1, 1)


def test_garbage_in_a_change_is_a_decode_error() -> None:
    assert decode_conf_change(encode_conf_change(add(7))) == add(7)
    for garbage in (b"", b"\x00", b"\x93\x09\x01\x00", b"garbage"):
        with pytest.raises(msgspec.DecodeError):
            decode_conf_change(garbage)
