"""Pre-vote, check-quorum, stickiness and leases (thesis 9.6, 6.2, 4.2.3 and 6.4.1)."""

from __future__ import annotations

from typing import Any

import pytest
from tests.raft.harness import TICK_S, Network, Peer, stored

from pytinykv.raft import (
    AppendEntries,
    AppendResponse,
    Heartbeat,
    HeartbeatResponse,
    LogIndex,
    PeerId,
    PreVoteRequest,
    PreVoteResponse,
    RoleKind,
    Term,
    VoteRequest,
    VoteResponse,
)

FOLLOWER, PRE_CANDIDATE, LEADER = RoleKind.FOLLOWER, RoleKind.PRE_CANDIDATE, RoleKind.LEADER
CAREFUL: dict[str, Any] = {"pre_vote": True, "check_quorum": True, "lease_s": 0.8}
NEVER = float("-inf")


def heartbeat(term: int, *, sender: int = 2, sent_at: float = 0.0) -> Heartbeat:
    return Heartbeat(PeerId(1), PeerId(sender), Term(term), LogIndex(0), 0, sent_at)


def vote_request(sender: int, term: int) -> VoteRequest:
    return VoteRequest(PeerId(1), PeerId(sender), Term(term), LogIndex(9), Term(term - 1))


def pre_vote_request(sender: int, term: int, last: tuple[int, int] = (9, 9)) -> PreVoteRequest:
    return PreVoteRequest(PeerId(1), PeerId(sender), Term(term), LogIndex(last[0]), Term(last[1]))


# -- pre-vote


def test_a_pre_candidate_changes_neither_term_nor_vote() -> None:
    peer = Peer(1, stored(term=3), pre_vote=True)
    peer.campaign()
    messages = peer.take()
    assert (peer.role, peer.term, peer.vote) == (PRE_CANDIDATE, 3, 0)
    assert messages == [PreVoteRequest(PeerId(to), PeerId(1), Term(4), LogIndex(0), Term(0)) for to in (2, 3)]
    peer.step(PreVoteResponse(PeerId(1), PeerId(2), Term(4), granted=True))
    assert (peer.role, peer.term, peer.vote) == (RoleKind.CANDIDATE, 4, 1)


def test_a_refused_pre_candidate_goes_on_following() -> None:
    peer = Peer(1, stored(term=3), pre_vote=True)
    peer.campaign()
    for sender in (2, 3):
        peer.step(PreVoteResponse(PeerId(1), PeerId(sender), Term(3), granted=False))
    assert (peer.role, peer.term) == (FOLLOWER, 3)


def test_a_refusal_from_a_newer_term_brings_that_term() -> None:
    peer = Peer(1, stored(term=3), pre_vote=True)
    peer.campaign()
    peer.step(PreVoteResponse(PeerId(1), PeerId(2), Term(7), granted=False))
    assert (peer.role, peer.term) == (FOLLOWER, 7)


@pytest.mark.parametrize("term", [3, 5])
def test_consent_for_another_term_does_not_count(term: int) -> None:
    peer = Peer(1, stored(term=3), pre_vote=True)
    peer.campaign()
    peer.step(PreVoteResponse(PeerId(1), PeerId(2), Term(term), granted=True))
    assert (peer.role, peer.term) == (PRE_CANDIDATE, 3)


def test_a_pre_vote_changes_nothing_at_the_voter() -> None:
    peer = Peer(1, stored(term=3), pre_vote=True)
    peer.step(pre_vote_request(2, 9))
    assert peer.take() == [PreVoteResponse(PeerId(2), PeerId(1), Term(9), granted=True)]
    assert (peer.term, peer.vote) == (3, 0)


@pytest.mark.parametrize(("vote", "granted"), [(0, True), (2, True), (3, False)])
def test_a_pre_vote_for_the_voters_own_term_asks_for_a_vote_it_may_have_given(vote: int, granted: bool) -> None:
    peer = Peer(1, stored(term=3, vote=vote), pre_vote=True)
    peer.step(pre_vote_request(2, 3))
    assert peer.take() == [PreVoteResponse(PeerId(2), PeerId(1), Term(3), granted=granted)]


def test_a_pre_candidate_with_an_old_log_is_refused_and_learns_the_commit_index() -> None:
    peer = Peer(1, stored(terms=(3, 3), commit=2), pre_vote=True)
    peer.take()
    peer.step(pre_vote_request(2, 4, last=(9, 2)))
    assert peer.take() == [PreVoteResponse(PeerId(2), PeerId(1), Term(3), False, LogIndex(2), Term(3))]


def test_a_refusal_commits_what_the_candidate_has_itself() -> None:
    """1 and 3 are the group, 3 has left it and 1 has missed that: see `election`."""
    peer = Peer(1, stored(terms=(2, 2, 2), commit=1), pre_vote=True)
    peer.take()
    peer.campaign()
    peer.step(PreVoteResponse(PeerId(1), PeerId(2), Term(2), False, LogIndex(2), Term(1)))
    assert peer.commit == 1
    peer.step(PreVoteResponse(PeerId(1), PeerId(3), Term(2), False, LogIndex(2), Term(2)))
    assert peer.commit == 2


def test_a_follower_that_comes_back_does_not_disturb_the_group() -> None:
    """The counterpart of `test_election`'s disruptive follower."""
    network = Network(3, **CAREFUL)
    network.campaign(1)
    network.isolate(3)
    network.tick(60)
    assert network[3].term == 1
    network.heal()
    network.tick(5)
    assert (network.roles(), network[1].term) == ({1: LEADER, 2: FOLLOWER, 3: FOLLOWER}, 1)


def test_a_peer_that_is_ahead_in_term_comes_back_by_way_of_a_new_election() -> None:
    """3 moved on alone, as peers without pre-vote do; the leader's messages tell it so, and the group follows."""
    network = Network(3, storages={3: stored(term=8)}, **CAREFUL)
    network.isolate(3)
    network.campaign(1)
    network.heal()
    network.tick(60)
    terms = {peer.term for peer in network.peers.values()}
    assert len(terms) == 1
    assert terms.pop() > 8
    network.leader().propose(b"x")
    network.pump()
    assert len({peer.commit for peer in network.peers.values()}) == 1


# -- check-quorum


def test_a_leader_without_a_majority_steps_down() -> None:
    network = Network(3, **CAREFUL)
    network.campaign(1)
    network.isolate(1)
    network.tick(21, only=[1])
    assert (network[1].role, network[1].term) == (FOLLOWER, 1) or network[1].role is PRE_CANDIDATE


def test_a_leader_with_a_majority_stays() -> None:
    network = Network(3, **CAREFUL)
    network.campaign(1)
    network.isolate(3)
    network.tick(50)
    assert network[1].role is LEADER


def test_a_leader_that_steps_down_gives_up_its_reads() -> None:
    network = Network(3, **CAREFUL)
    network.campaign(1)
    network.isolate(1)
    network[1].node.read_index(b"r1", 0.0)
    network.pump()
    network[1].node.read_index(b"r2", 0.0)
    network.tick(21, only=[1])
    assert network[1].read_states == []
    assert network[1].dropped_reads == [b"r1", b"r2"]


# -- stickiness


@pytest.mark.parametrize("make", [vote_request, pre_vote_request])
def test_a_peer_that_hears_a_leader_ignores_candidates(make: Any) -> None:
    peer = Peer(1, **CAREFUL)
    peer.step(heartbeat(1))
    peer.take()
    peer.step(make(3, 5))
    assert (peer.take(), peer.term) == ([], 1)
    peer.tick(10)
    peer.step(make(3, 5))
    assert len(peer.take()) >= 1


def test_stickiness_outlasts_a_change_of_term() -> None:
    """1: hear leader 2 in term 1.  2: learn of term 5 by an answer.  3: be asked for the vote of term 5."""
    peer = Peer(1, **CAREFUL)
    peer.step(heartbeat(1))
    peer.step(VoteResponse(PeerId(1), PeerId(3), Term(5), granted=False))
    peer.take()
    assert (peer.term, peer.leader_id) == (5, 0)
    peer.step(vote_request(3, 5))
    assert peer.take() == []


def test_stickiness_lasts_for_seconds_even_when_ticks_run_fast() -> None:
    peer = Peer(1, **{**CAREFUL, "lease_s": 5.0})
    peer.step(heartbeat(1))
    peer.take()
    peer.tick(50)
    assert (peer.role, peer.campaign()) == (FOLLOWER, False)
    peer.step(vote_request(3, 5))
    assert peer.take() == []
    peer.tick(10)
    assert peer.role is PRE_CANDIDATE


def test_a_restarted_peer_neither_campaigns_nor_votes_for_a_while() -> None:
    peer = Peer(1, stored(term=3), **CAREFUL)
    assert peer.campaign() is False
    peer.step(vote_request(3, 5))
    assert (peer.take(), peer.term) == ([], 3)
    peer.tick(10)
    peer.step(vote_request(3, 5))
    assert VoteResponse(PeerId(3), PeerId(1), Term(5), granted=True) in peer.take()


def released_vote_request(term: int, transfer_at: float) -> VoteRequest:
    """As from peer 3, after the leader of the term before has asked it to take over."""
    return VoteRequest(PeerId(1), PeerId(3), Term(term), LogIndex(9), Term(term - 1), transfer_at)


def test_a_peer_that_restarted_long_ago_helps_a_transfer() -> None:
    """The time in which a leader could rely on what it has forgotten is over, however often one has been heard since."""
    peer = Peer(1, stored(term=3), **CAREFUL)
    for _ in range(5):
        peer.step(heartbeat(3, sent_at=peer.now))
        peer.tick()
    peer.step(released_vote_request(4, peer.now))
    assert peer.term == 3, "half a second ago it may have heard a leader that it does not remember"
    for _ in range(10):
        peer.step(heartbeat(3, sent_at=peer.now))
        peer.tick()
    peer.take()
    peer.step(released_vote_request(4, peer.now))
    assert VoteResponse(PeerId(3), PeerId(1), Term(4), granted=True) in peer.take()


def test_a_peer_of_a_group_that_is_being_created_need_not_wait() -> None:
    peer = Peer(1, stored(term=5), fresh=True, **CAREFUL)
    assert peer.campaign() is True


def test_a_sole_voter_need_not_wait() -> None:
    peer = Peer(1, stored((1,), term=5), **CAREFUL)
    assert peer.campaign() is True
    assert peer.role is LEADER


# -- leases


def careful_leader(**config: Any) -> Peer:
    peer = Peer(1, stored(term=1), fresh=True, **{**CAREFUL, **config})
    peer.lead()
    peer.tick(5)
    peer.take()
    return peer


def answer(sender: int, sent_at: float) -> AppendResponse:
    return AppendResponse(PeerId(1), PeerId(sender), Term(2), LogIndex(1), sent_at)


def test_a_lease_runs_from_the_sending_of_what_a_majority_answered() -> None:
    peer = careful_leader()
    peer.step(answer(2, 0.3))
    assert peer.node.lease_until == pytest.approx(0.3 + 0.8)
    peer.step(answer(3, 0.4))
    assert peer.node.lease_until == pytest.approx(0.4 + 0.8)
    peer.step(answer(2, 0.1))
    assert peer.node.lease_until == pytest.approx(0.4 + 0.8)


def test_a_heartbeats_answer_renews_the_lease() -> None:
    peer = careful_leader()
    peer.step(HeartbeatResponse(PeerId(1), PeerId(3), Term(2), 0, peer.now))
    assert peer.node.lease_until == pytest.approx(peer.now + 0.8)


def test_answers_of_learners_give_no_lease() -> None:
    peer = Peer(1, stored((1, 2), learners=(3,)), fresh=True, **CAREFUL)
    peer.lead()
    peer.step(HeartbeatResponse(PeerId(1), PeerId(3), Term(1), 0, 5.0))
    assert peer.node.lease_until < 5.0


def test_there_is_no_lease_before_the_no_op_is_committed() -> None:
    peer = Peer(1, fresh=True, **CAREFUL)
    peer.lead(commit_no_op=False)
    peer.step(HeartbeatResponse(PeerId(1), PeerId(2), Term(1), 0, 0.0))
    assert peer.node.lease_until == NEVER


def test_followers_and_peers_without_check_quorum_have_no_lease() -> None:
    plain = Peer(1)
    plain.lead()
    assert (plain.node.lease_until, Peer(1).node.lease_until) == (NEVER, NEVER)


def test_a_sole_voter_needs_no_renewal() -> None:
    peer = Peer(1, stored((1,)), **CAREFUL)
    peer.lead()
    assert peer.node.lease_until == float("inf")


def test_the_send_time_comes_back_with_the_answer() -> None:
    peer = Peer(1)
    peer.step(AppendEntries(PeerId(1), PeerId(2), Term(1), LogIndex(0), Term(0), LogIndex(0), 12.5))
    peer.step(heartbeat(1, sent_at=13.5))
    assert [getattr(message, "sent_at", None) for message in peer.take()] == [12.5, 13.5]


def test_a_group_fails_over_within_a_few_timeouts() -> None:
    network = Network(3, **CAREFUL)
    network.campaign(1)
    network.beat(1)
    network.isolate(1)
    ticks = 0
    while all(network[n].role is not LEADER for n in (2, 3)):
        network.tick(only=[2, 3])
        ticks += 1
    assert ticks * TICK_S <= 4.0
