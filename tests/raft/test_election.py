"""Elections without pre-vote and check-quorum: Raft 5.1, 5.2 and 5.4.1."""

from __future__ import annotations

import pytest
from tests.raft.harness import Network, Peer, stored

from pytinykv.raft import (
    AppendEntries,
    Heartbeat,
    LogIndex,
    PeerId,
    RoleKind,
    Term,
    VoteRequest,
    VoteResponse,
)

FOLLOWER, CANDIDATE, LEADER = RoleKind.FOLLOWER, RoleKind.CANDIDATE, RoleKind.LEADER
ROLES = [FOLLOWER, CANDIDATE, LEADER]


def append_from(sender: int, term: int, *, to: int = 1) -> AppendEntries:
    return AppendEntries(PeerId(to), PeerId(sender), Term(term), LogIndex(0), Term(0), LogIndex(0), 0.0)


def vote_request(sender: int, term: int, *, last: tuple[int, int] = (0, 0), to: int = 1) -> VoteRequest:
    return VoteRequest(PeerId(to), PeerId(sender), Term(term), LogIndex(last[0]), Term(last[1]))


def vote_response(sender: int, term: int, *, granted: bool, to: int = 1) -> VoteResponse:
    return VoteResponse(PeerId(to), PeerId(sender), Term(term), granted)


def peer_as(role: RoleKind, **config: int) -> Peer:
    """Make peer 1 of three in term 1 with the given role."""
    peer = Peer(1, **config)
    if role is FOLLOWER:
        peer.step(append_from(2, 1))
    elif role is CANDIDATE:
        peer.campaign()
    else:
        peer.lead(commit_no_op=False)
    peer.take()
    assert (peer.role, peer.term) == (role, 1)
    return peer


@pytest.mark.tinykv("TestStartAsFollower2AA")
def test_a_peer_starts_as_a_follower_without_a_leader() -> None:
    peer = Peer(1)
    assert (peer.role, peer.term, peer.leader_id) == (FOLLOWER, 0, 0)


@pytest.mark.parametrize(
    "role",
    [
        pytest.param(FOLLOWER, marks=pytest.mark.tinykv("TestFollowerUpdateTermFromMessage2AA")),
        pytest.param(CANDIDATE, marks=pytest.mark.tinykv("TestCandidateUpdateTermFromMessage2AA")),
        pytest.param(LEADER, marks=pytest.mark.tinykv("TestLeaderUpdateTermFromMessage2AA")),
    ],
)
def test_a_newer_term_makes_every_role_a_follower(role: RoleKind) -> None:
    """Raft 5.1."""
    peer = peer_as(role)
    peer.step(append_from(2, 2))
    assert (peer.role, peer.term, peer.leader_id) == (FOLLOWER, 2, 2)


@pytest.mark.parametrize(
    "role",
    [
        pytest.param(FOLLOWER, marks=pytest.mark.tinykv("TestFollowerStartElection2AA")),
        pytest.param(CANDIDATE, marks=pytest.mark.tinykv("TestCandidateStartNewElection2AA")),
    ],
)
def test_silence_for_an_election_timeout_starts_a_campaign(role: RoleKind) -> None:
    """Raft 5.2: next term, a vote for itself, requests to all others."""
    peer = peer_as(role)
    while peer.term == 1:
        peer.tick()
    messages = peer.take()
    assert (peer.role, peer.term, peer.vote) == (CANDIDATE, 2, 1)
    assert messages == [VoteRequest(PeerId(to), PeerId(1), Term(2), LogIndex(0), Term(0)) for to in (2, 3)]


@pytest.mark.tinykv("TestLeaderElectionInOneRoundRPC2AA")
@pytest.mark.parametrize(
    ("size", "votes", "role"),
    [
        (1, {}, LEADER),
        (3, {2: True, 3: True}, LEADER),
        (3, {2: True}, LEADER),
        (5, {2: True, 3: True, 4: True, 5: True}, LEADER),
        (5, {2: True, 3: True, 4: True}, LEADER),
        (5, {2: True, 3: True}, LEADER),
        (3, {}, CANDIDATE),
        (5, {2: True}, CANDIDATE),
        (5, {2: False, 3: False}, CANDIDATE),
        (5, {}, CANDIDATE),
        (3, {2: False, 3: False}, FOLLOWER),
    ],
)
def test_one_round_of_votes_wins_loses_or_leaves_it_open(size: int, votes: dict[int, bool], role: RoleKind) -> None:
    """Raft 5.2."""
    peer = Peer(1, stored(range(1, size + 1)))
    peer.campaign()
    peer.take()
    for voter, granted in votes.items():
        peer.step(vote_response(voter, 1, granted=granted))
    assert (peer.role, peer.term) == (role, 1)


def test_a_second_answer_of_the_same_voter_does_not_count() -> None:
    peer = Peer(1, stored(range(1, 6)))
    peer.campaign()
    for _ in range(3):
        peer.step(vote_response(2, 1, granted=True))
    assert peer.role is CANDIDATE


def test_votes_of_non_members_and_of_older_terms_do_not_count() -> None:
    peer = Peer(1, stored(term=1))
    peer.campaign()
    peer.step(vote_response(7, 2, granted=True))
    peer.step(vote_response(2, 1, granted=True))
    assert (peer.role, peer.term) == (CANDIDATE, 2)


@pytest.mark.tinykv("TestFollowerVote2AA")
@pytest.mark.parametrize(
    ("vote", "candidate", "granted"),
    [(0, 2, True), (0, 3, True), (2, 2, True), (3, 3, True), (2, 3, False), (3, 2, False)],
)
def test_a_term_has_one_vote_and_the_first_candidate_gets_it(vote: int, candidate: int, granted: bool) -> None:
    """Raft 5.2; asking again gets the same answer."""
    peer = Peer(1, stored(term=1, vote=vote))
    peer.step(vote_request(candidate, 1))
    assert peer.take() == [vote_response(1, 1, granted=granted, to=candidate)]


@pytest.mark.tinykv("TestCandidateFallback2AA")
@pytest.mark.parametrize("term", [1, 2])
def test_a_candidate_recognises_a_leader_of_its_own_or_a_newer_term(term: int) -> None:
    """Raft 5.2."""
    peer = peer_as(CANDIDATE)
    peer.step(append_from(2, term))
    assert (peer.role, peer.term, peer.leader_id) == (FOLLOWER, term, 2)


@pytest.mark.parametrize(
    "role",
    [
        pytest.param(FOLLOWER, marks=pytest.mark.tinykv("TestFollowerElectionTimeoutRandomized2AA")),
        pytest.param(CANDIDATE, marks=pytest.mark.tinykv("TestCandidateElectionTimeoutRandomized2AA")),
    ],
)
def test_every_timeout_from_one_to_two_election_timeouts_occurs(role: RoleKind) -> None:
    """Raft 5.2."""
    peer = peer_as(role)
    seen = set()
    for _ in range(500):
        if role is FOLLOWER:
            peer.step(append_from(2, peer.term + 1))
            peer.take()
        ticks = 0
        while not peer.take():
            peer.tick()
            ticks += 1
        seen.add(ticks)
    assert seen == set(range(10, 20))


@pytest.mark.parametrize(
    "role",
    [
        pytest.param(FOLLOWER, marks=pytest.mark.tinykv("TestFollowersElectionTimeoutNonconflict2AA")),
        pytest.param(CANDIDATE, marks=pytest.mark.tinykv("TestCandidatesElectionTimeoutNonconflict2AA")),
    ],
)
def test_mostly_one_of_five_peers_times_out_first(role: RoleKind) -> None:
    """Raft 5.2: random timeouts keep split votes rare."""
    rounds, conflicts = 300, 0
    peers = [Peer(number, stored(range(1, 6)), seed=17 * number) for number in range(1, 6)]
    for peer in peers:
        peer.campaign()
        peer.take()
    for _ in range(rounds):
        for peer in peers:
            if role is FOLLOWER:
                peer.step(append_from(9, peer.term + 1, to=peer.id))
            else:
                peer.node._core.become_candidate()
            peer.take()
        timed_out = 0
        while timed_out == 0:
            for peer in peers:
                peer.tick()
                timed_out += bool(peer.take())
        conflicts += timed_out > 1
    assert conflicts / rounds <= 0.3


@pytest.mark.tinykv("TestLeaderElection2AA")
@pytest.mark.parametrize(
    ("size", "silent", "role"),
    [
        (3, (), LEADER),
        (3, (3,), LEADER),
        (3, (2, 3), CANDIDATE),
        (4, (2, 3), CANDIDATE),
        (5, (2, 3), LEADER),
    ],
)
def test_a_majority_that_answers_elects(size: int, silent: tuple[int, ...], role: RoleKind) -> None:
    network = Network(size, silent=silent)
    network.campaign(1)
    assert (network[1].role, network[1].term) == (role, 1)


@pytest.mark.tinykv("TestSingleNodeCandidate2AA")
def test_a_sole_voter_elects_itself() -> None:
    network = Network(1)
    network.campaign(1)
    assert network[1].role is LEADER


@pytest.mark.tinykv("TestLeaderCycle2AA")
@pytest.mark.parametrize("pre_vote", [False, True])
def test_every_peer_can_lead_in_turn(pre_vote: bool) -> None:
    network = Network(3, pre_vote=pre_vote)
    for candidate in (1, 2, 3):
        network.campaign(candidate)
        assert network.roles() == {peer_id: LEADER if peer_id == candidate else FOLLOWER for peer_id in (1, 2, 3)}


@pytest.mark.tinykv("TestCampaignWhileLeader2AA")
def test_a_leader_does_not_campaign() -> None:
    network = Network(1)
    network.campaign(1)
    assert network[1].campaign() is False
    assert (network[1].role, network[1].term) == (LEADER, 1)


@pytest.mark.tinykv("TestVoteFromAnyState2AA")
@pytest.mark.parametrize("role", ROLES)
def test_every_role_votes_for_a_good_candidate_of_a_newer_term(role: RoleKind) -> None:
    peer = peer_as(role)
    peer.step(vote_request(2, 2, last=(42, 2)))
    assert peer.take() == [vote_response(1, 2, granted=True, to=2)]
    assert (peer.role, peer.term, peer.vote, peer.leader_id) == (FOLLOWER, 2, 2, 0)


@pytest.mark.tinykv("TestSplitVote2AA")
def test_a_split_vote_is_mended_by_the_next_round() -> None:
    network = Network(3)
    network.campaign(1)
    network.isolate(1)
    network[2].campaign()
    network[3].campaign()
    network.pump()
    assert [(network[n].role, network[n].term) for n in (2, 3)] == [(CANDIDATE, 2)] * 2
    network.campaign(2)
    assert [(network[n].role, network[n].term) for n in (2, 3)] == [(LEADER, 3), (FOLLOWER, 3)]


@pytest.mark.tinykv("TestDuelingCandidates2AB")
def test_of_two_candidates_the_one_with_the_shorter_log_stays_behind() -> None:
    network = Network(3)
    network.cut(1, 3)
    network[1].campaign()
    network[3].campaign()
    network.pump()
    assert (network[1].role, network[3].role) == (LEADER, CANDIDATE)
    network.heal()
    network.campaign(3)
    assert network.roles() == {1: FOLLOWER, 2: FOLLOWER, 3: FOLLOWER}
    assert [network[n].term for n in (1, 2, 3)] == [2, 2, 2]
    assert [network[n].log_terms() for n in (1, 2, 3)] == [[1], [1], []]


@pytest.mark.tinykv("TestCandidateConcede2AB")
def test_a_candidate_gives_in_to_the_leader_that_was_elected_meanwhile() -> None:
    network = Network(3)
    network.isolate(1)
    network.campaign(1)
    network.campaign(3)
    network.heal()
    network.beat(3)
    network.propose(3, b"follow me")
    network.beat(3)
    assert (network[1].role, network[1].term) == (FOLLOWER, 1)
    assert network.logs() == [[(1, b""), (1, b"follow me")]] * 3
    assert [network[n].commit for n in (1, 2, 3)] == [2, 2, 2]


@pytest.mark.parametrize(
    "kind",
    [
        pytest.param(Heartbeat, marks=pytest.mark.tinykv("TestCandidateResetTermMessageType_MsgHeartbeat2AA")),
        pytest.param(AppendEntries, marks=pytest.mark.tinykv("TestCandidateResetTermMessageType_MsgAppend2AA")),
    ],
)
def test_a_candidate_takes_the_term_of_the_leader_it_hears(kind: type) -> None:
    network = Network(3)
    network.campaign(1)
    network.isolate(3)
    network.campaign(2)
    network.campaign(1)
    while network[3].role is not CANDIDATE:
        network[3].tick()
    network[3].take()
    network.heal()
    if kind is Heartbeat:
        network.pump(Heartbeat(PeerId(3), PeerId(1), network[1].node.term, LogIndex(0), 0, 0.0))
    else:
        network.pump(append_from(1, network[1].term, to=3))
    assert (network[3].role, network[3].term) == (FOLLOWER, network[1].term)


@pytest.mark.tinykv("TestDisruptiveFollower2AA")
def test_without_pre_vote_a_follower_that_missed_heartbeats_deposes_its_leader() -> None:
    network = Network(3)
    network.campaign(1)
    while network[3].role is not CANDIDATE:
        network[3].tick()
    network[3].take()
    assert (network[1].role, network[1].term, network[3].term) == (LEADER, 1, 2)
    network.pump(Heartbeat(PeerId(3), PeerId(1), Term(1), LogIndex(0), 0, 0.0))
    assert (network[1].role, network[1].term) == (FOLLOWER, 2)


@pytest.mark.tinykv("TestRecvMessageType_MsgBeat2AA")
@pytest.mark.parametrize(("role", "beats"), [(LEADER, 2), (CANDIDATE, 0), (FOLLOWER, 0)])
def test_only_a_leader_sends_heartbeats(role: RoleKind, beats: int) -> None:
    peer = peer_as(role)
    peer.tick()
    assert len([message for message in peer.take() if isinstance(message, Heartbeat)]) == beats


@pytest.mark.tinykv("TestLeaderBcastBeat2AA")
def test_a_leader_sends_heartbeats_to_all_every_heartbeat_interval() -> None:
    """Raft 5.2."""
    peer = Peer(1, heartbeat_ticks=3)
    peer.lead()
    peer.propose(b"x")
    peer.take()
    peer.tick(2)
    assert peer.take() == []
    peer.tick()
    beats = peer.take()
    assert [(type(beat), beat.to, beat.term) for beat in beats] == [(Heartbeat, 2, 1), (Heartbeat, 3, 1)]


@pytest.mark.tinykv("TestVoteRequest2AB")
@pytest.mark.parametrize("terms", [(1,), (1, 2)])
def test_a_vote_request_tells_where_the_candidates_log_ends(terms: tuple[int, ...]) -> None:
    """Raft 5.4.1."""
    peer = Peer(1, stored(terms=terms))
    while peer.role is not CANDIDATE:
        peer.tick()
    last = (LogIndex(len(terms)), Term(terms[-1]))
    assert peer.take() == [VoteRequest(PeerId(to), PeerId(1), Term(terms[-1] + 1), *last) for to in (2, 3)]


@pytest.mark.tinykv("TestVoter2AB")
@pytest.mark.parametrize(
    ("terms", "last", "granted"),
    [
        ((1,), (1, 1), True),
        ((1,), (2, 1), True),
        ((1, 1), (1, 1), False),
        ((1,), (1, 2), True),
        ((1,), (2, 2), True),
        ((1, 1), (1, 2), True),
        ((2,), (1, 1), False),
        ((2,), (2, 1), False),
        ((1, 2), (1, 1), False),
    ],
)
def test_a_voter_with_the_newer_log_refuses(terms: tuple[int, ...], last: tuple[int, int], granted: bool) -> None:
    """Raft 5.4.1: the later last term, then the longer log."""
    peer = Peer(1, stored((1, 2), terms=terms))
    peer.step(vote_request(2, 3, last=last))
    assert peer.take() == [vote_response(1, 3, granted=granted, to=2)]


@pytest.mark.tinykv("TestRecvMessageType_MsgRequestVote2AB")
@pytest.mark.parametrize(
    ("last_index", "last_term", "granted"),
    [(index, term, (term, index) >= (2, 2)) for index in range(4) for term in range(4)],
)
def test_a_follower_votes_by_the_end_of_both_logs(last_index: int, last_term: int, granted: bool) -> None:
    peer = Peer(1, stored((1, 2), terms=(2, 2), term=3))
    peer.step(vote_request(2, 3, last=(last_index, last_term)))
    assert peer.take() == [vote_response(1, 3, granted=granted, to=2)]


@pytest.mark.tinykv("TestRecvMessageType_MsgRequestVote2AB")
@pytest.mark.parametrize("role", [CANDIDATE, LEADER])
def test_a_candidate_and_a_leader_refuse_a_rival_of_their_term(role: RoleKind) -> None:
    peer = peer_as(role)
    peer.step(vote_request(2, 1, last=(3, 1)))
    assert vote_response(1, 1, granted=False, to=2) in peer.take()
    assert peer.role is role


@pytest.mark.tinykv("TestAllServerStepdown2AB")
@pytest.mark.parametrize(("role", "last_index"), [(FOLLOWER, 0), (CANDIDATE, 0), (LEADER, 1)])
def test_every_role_steps_down_for_a_request_or_an_append_of_a_newer_term(role: RoleKind, last_index: int) -> None:
    peer = peer_as(role)
    peer.step(vote_request(2, 3, last=(0, 3)))
    assert (peer.role, peer.term, peer.leader_id) == (FOLLOWER, 3, 0)
    peer.step(append_from(2, 3))
    assert (peer.role, peer.term, peer.leader_id) == (FOLLOWER, 3, 2)
    assert peer.node.last_index == last_index


def test_a_candidate_of_an_older_term_hears_of_the_newer_one() -> None:
    peer = Peer(1, stored(term=5))
    peer.step(vote_request(2, 3))
    assert peer.take() == [vote_response(1, 5, granted=False, to=2)]


def test_a_peer_that_is_no_voter_never_campaigns() -> None:
    learner = Peer(3, stored((1, 2), learners=(3,)))
    outsider = Peer(4, stored((1, 2)))
    for peer in (learner, outsider):
        peer.tick(100)
        assert peer.campaign() is False
        assert (peer.role, peer.term) == (FOLLOWER, 0)


def test_a_learner_votes_because_it_may_not_know_yet_that_it_is_a_voter() -> None:
    learner = Peer(3, stored((1, 2), learners=(3,)))
    learner.step(vote_request(1, 1, to=3))
    assert learner.take() == [vote_response(3, 1, granted=True, to=1)]


def test_requests_for_votes_wait_for_the_disk() -> None:
    peer = Peer(1)
    peer.campaign()
    ready = peer.node.ready(0.0)
    assert ready.messages == ()
    assert len(ready.messages_after_sync) == 2
    assert ready.must_sync


def test_peers_with_longer_and_newer_but_uncommitted_logs_are_overwritten() -> None:
    """As in `test_replication`, seen from a candidate that must first learn of the newer term."""
    network = Network(5, storages={3: stored(range(1, 6), terms=(2,)), 4: stored(range(1, 6), term=2, vote=3)})
    network.campaign(1)
    assert network[1].term == 2
