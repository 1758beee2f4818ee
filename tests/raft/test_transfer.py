"""Leadership transfer (thesis 3.10)."""

from __future__ import annotations

import pytest
from tests.raft.harness import Network, Peer, stored

from pytinykv.raft import (
    AppendResponse,
    ConfChange,
    ConfChangeKind,
    DropReason,
    LogIndex,
    PeerId,
    ProposalDropped,
    RoleKind,
    Term,
    TimeoutNow,
    VoteRequest,
    VoteResponse,
)

FOLLOWER, LEADER = RoleKind.FOLLOWER, RoleKind.LEADER


def led_network(**config: object) -> Network:
    network = Network(3, **config)
    network.campaign(1)
    assert network[1].role is LEADER
    return network


def leads(network: Network, peer_id: int) -> bool:
    """Tell whether peer 1 sees it so."""
    return (network[1].role, network[1].leader_id) == (LEADER if peer_id == 1 else FOLLOWER, peer_id)


@pytest.mark.tinykv("TestLeaderTransferToUpToDateNode3A")
@pytest.mark.parametrize("careful", [False, True])
def test_a_follower_with_the_whole_log_takes_over_and_gives_back(careful: bool) -> None:
    network = led_network(pre_vote=careful, check_quorum=careful)
    network.transfer(1, 2)
    assert leads(network, 2)
    network.propose(2)
    network.transfer(2, 1)
    assert leads(network, 1)


@pytest.mark.tinykv("TestLeaderTransferToUpToDateNodeFromFollower3A")
def test_a_follower_passes_a_request_for_a_transfer_on_to_the_leader() -> None:
    network = led_network()
    assert network.transfer(2, 2)
    assert leads(network, 2)
    network.propose(2)
    assert network.transfer(1, 1)
    assert leads(network, 1)


def test_without_a_leader_there_is_no_peer_to_ask() -> None:
    assert Peer(1).node.transfer_leader(PeerId(2), 0.0) is False


@pytest.mark.tinykv("TestLeaderTransferToSlowFollower3A")
def test_a_follower_that_lacks_entries_gets_them_first() -> None:
    network = led_network()
    network.isolate(3)
    network.propose(1)
    network.heal()
    assert network[1].node.status().progress[PeerId(3)].match == 1
    network.transfer(1, 3)
    network.beat(1)
    assert leads(network, 3)


@pytest.mark.tinykv("TestLeaderTransferAfterSnapshot3A")
def test_a_follower_that_needs_a_snapshot_gets_it_first() -> None:
    network = led_network()
    network.isolate(3)
    network.propose(1)
    leader = network[1]
    leader.storage.compact(leader.node.applied_index)
    network.heal()
    assert leader.node.status().progress[PeerId(3)].match == 1
    network.transfer(1, 3)
    network.beat(1)
    assert network[3].storage.first_index() == 3
    assert leads(network, 3)


@pytest.mark.tinykv("TestLeaderTransferToSelf3A")
def test_a_transfer_to_the_leader_is_none() -> None:
    network = led_network()
    assert network.transfer(1, 1) is False
    assert leads(network, 1)
    network.propose(1)


@pytest.mark.tinykv("TestLeaderTransferToNonExistingNode3A")
def test_a_transfer_to_a_non_member_is_none() -> None:
    network = led_network()
    assert network.transfer(1, 4) is False
    assert leads(network, 1)


def test_a_transfer_to_a_learner_is_none() -> None:
    peer = Peer(1, stored((1, 2), learners=(3,)))
    peer.lead()
    assert peer.node.transfer_leader(PeerId(3), 0.0) is False


@pytest.mark.tinykv("TestLeaderTransferReceiveHigherTermVote3A")
def test_another_candidate_ends_a_transfer_that_hangs() -> None:
    network = led_network()
    network.isolate(3)
    network.transfer(1, 3)
    network.campaign(2)
    assert leads(network, 2)


@pytest.mark.tinykv("TestLeaderTransferRemoveNode3A")
def test_a_removed_member_cannot_take_over() -> None:
    network = led_network()
    network[1].node.apply_conf_change(ConfChange(ConfChangeKind.REMOVE, PeerId(3)))
    assert network.transfer(1, 3) is False
    assert leads(network, 1)


def test_removing_the_transferee_ends_the_transfer() -> None:
    network = led_network()
    network.isolate(3)
    network.transfer(1, 3)
    network[1].node.apply_conf_change(ConfChange(ConfChangeKind.REMOVE, PeerId(3)))
    network.propose(1)
    assert leads(network, 1)


@pytest.mark.tinykv("TestLeaderTransferBack3A")
def test_asking_for_the_leader_itself_does_not_shake_it() -> None:
    network = led_network()
    network.isolate(3)
    network.transfer(1, 3)
    network.transfer(1, 1)
    assert leads(network, 1)


@pytest.mark.tinykv("TestLeaderTransferSecondTransferToAnotherNode3A")
def test_a_second_transfer_replaces_the_first() -> None:
    network = led_network()
    network.isolate(3)
    network.transfer(1, 3)
    network.transfer(1, 2)
    assert leads(network, 2)


@pytest.mark.tinykv("TestTransferNonMember3A")
def test_a_non_member_does_not_campaign_when_asked_to() -> None:
    peer = Peer(1, stored((2, 3, 4)))
    peer.step(TimeoutNow(PeerId(1), PeerId(2), Term(0), 0.0))
    for voter in (2, 3):
        peer.step(VoteResponse(PeerId(1), PeerId(voter), Term(0), granted=True))
    assert peer.role is FOLLOWER


def test_proposals_are_refused_until_the_transfer_is_given_up() -> None:
    network = led_network()
    network.isolate(3)
    network.transfer(1, 3)
    assert network[1].node.status().lead_transferee == 3
    with pytest.raises(ProposalDropped) as refusal:
        network.propose(1)
    assert refusal.value.reason is DropReason.TRANSFERRING
    network.tick(10, only=[1])
    assert network[1].node.status().lead_transferee == 0
    network.propose(1)


def test_voters_that_hear_their_leader_still_vote_for_its_transferee() -> None:
    network = led_network(pre_vote=True, check_quorum=True, lease_s=0.8)
    network.beat(1)
    network.transfer(1, 3)
    assert leads(network, 3)


def test_a_late_timeout_now_is_void_once_its_leader_leads_on() -> None:
    """1: TimeoutNow to 3 is held up.  2: the leader gives up, and 2 and 3 hear it again.  3: TimeoutNow arrives."""
    network = led_network(pre_vote=True, check_quorum=True, lease_s=0.8)
    held: list[TimeoutNow] = []

    def hold(message: object) -> bool:
        if isinstance(message, TimeoutNow):
            held.append(message)
            return False
        return True

    network.on_message = hold  # type: ignore[assignment]
    network.beat(1)
    network.transfer(1, 3)
    network.tick(12)
    assert network[1].node.status().lead_transferee == 0
    assert network[1].node.lease_until > network[1].now
    network.on_message = lambda _message: True
    network.pump(*held)
    assert leads(network, 1)
    # A voter does not help a transferee that has not heard the leader again either.
    network.pump(VoteRequest(PeerId(2), PeerId(3), Term(2), LogIndex(1), Term(1), held[0].sent_at))
    assert (network[2].term, network[2].leader_id) == (1, 1)


def test_a_transfer_voids_the_lease_until_a_newer_round_is_answered() -> None:
    peer = Peer(1, check_quorum=True, lease_s=0.8)
    peer.lead()
    peer.tick()
    peer.answer_appends()
    last = peer.node.last_index
    peer.step(AppendResponse(PeerId(1), PeerId(2), Term(1), last, peer.now))
    assert peer.node.lease_until == pytest.approx(peer.now + 0.8)
    peer.node.transfer_leader(PeerId(2), peer.now)
    began = peer.now
    assert peer.node.lease_until == float("-inf")
    peer.tick(5)
    beats = [message for message in peer.take() if message.to == 3]
    assert {getattr(beat, "sent_at", began) for beat in beats} == {began}
    peer.tick(5)
    assert peer.node.status().lead_transferee == 0
    peer.step(AppendResponse(PeerId(1), PeerId(2), Term(1), last, began))
    assert peer.node.lease_until == float("-inf")
    peer.step(AppendResponse(PeerId(1), PeerId(2), Term(1), last, peer.now))
    assert peer.node.lease_until == pytest.approx(peer.now + 0.8)
