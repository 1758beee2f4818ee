"""Learners: they get everything and count for nothing (thesis 4.2.1)."""

from __future__ import annotations

from tests.raft.harness import Network, Peer, answer_vote, stored

from pytinykv.raft import (
    AppendEntries,
    ConfChange,
    ConfChangeKind,
    ConfState,
    HeartbeatResponse,
    InstallSnapshot,
    LogIndex,
    PeerId,
    RoleKind,
    SnapshotMeta,
    Term,
    TimeoutNow,
)

PROMOTE_3 = ConfChange(ConfChangeKind.ADD_VOTER, PeerId(3))


def with_learner(**config: object) -> Network:
    """Voters 1 and 2, learner 3."""
    return Network(3, storages={number: stored((1, 2), learners=(3,)) for number in (1, 2, 3)}, **config)


def test_a_learner_never_campaigns_not_even_when_asked_to() -> None:
    learner = Peer(3, stored((1, 2), learners=(3,), terms=(1,)), pre_vote=True, check_quorum=True)
    learner.tick(100)
    assert learner.campaign() is False
    learner.step(AppendEntries(PeerId(3), PeerId(1), Term(1), LogIndex(1), Term(1), LogIndex(1), 0.0))
    learner.take()
    learner.step(TimeoutNow(PeerId(3), PeerId(1), Term(1), 1.0))
    assert (learner.role, learner.take()) == (RoleKind.FOLLOWER, [])


def test_a_learner_is_not_asked_for_its_vote_and_its_vote_does_not_count() -> None:
    candidate = Peer(1, stored((1, 2), learners=(3,)))
    candidate.campaign()
    requests = candidate.take()
    assert [message.to for message in requests] == [2]
    grant = answer_vote(requests[0])
    assert grant is not None
    candidate.step(type(grant)(PeerId(1), PeerId(3), grant.term, True))
    assert candidate.role is RoleKind.CANDIDATE


def test_a_leader_that_hears_only_learners_steps_down_and_one_that_hears_no_learner_does_not() -> None:
    network = with_learner(check_quorum=True)
    network.campaign(1)
    network.isolate(3)
    network.tick(50)
    assert network[1].role is RoleKind.LEADER
    network.heal()
    network.isolate(2)
    network.tick(50, only=[1])
    assert network[1].role is not RoleKind.LEADER


def test_neither_leases_nor_reads_nor_commits_count_learners() -> None:
    network = with_learner(check_quorum=True, lease_s=0.5)
    network.campaign(1)
    leader = network[1]
    network.tick(2)
    lease, commit = leader.node.lease_until, leader.commit
    network.cut(1, 2)
    leader.node.read_index(b"read", leader.now)
    network.propose(1, b"x")
    network.tick(3)
    assert (leader.node.lease_until, leader.commit, leader.read_states) == (lease, commit, [])
    assert network[3].log()[-1][1] == b"x", "it has it all the same"


def test_the_only_voter_leads_and_reads_alone_whatever_its_learners_do() -> None:
    leader = Peer(1, stored((1,), learners=(2, 3)), check_quorum=True, lease_s=0.5)
    leader.campaign()
    leader.take()
    index = leader.propose(b"x")
    leader.take()
    leader.node.read_index(b"read", leader.now)
    leader.take()
    leader.tick(100)
    leader.take()
    assert (leader.role, leader.commit, leader.node.lease_until) == (RoleKind.LEADER, index, float("inf"))
    assert [state.context for state in leader.read_states] == [b"read"]


def test_a_promoted_learner_counts_at_once_with_its_log_and_its_stickiness() -> None:
    network = Network(3, storages={number: stored((1,), learners=(3,)) for number in (1, 3)}, silent=(2,))
    network.campaign(1)
    network.propose(1, b"x")
    network[1].change(PROMOTE_3)
    network.pump()
    assert [network[number].node.conf_state.voters for number in (1, 3)] == [(1, 3)] * 2
    network.cut(1, 3)
    commit = network[1].commit
    network.propose(1, b"y")
    assert network[1].commit == commit, "its acknowledgement is needed now"
    network.heal()
    network.tick(3)
    assert network[1].commit == network[1].node.last_index
    assert network[3].campaign() is True


def test_a_learner_gets_a_snapshot_and_stays_a_learner() -> None:
    learner = Peer(3, stored(()))
    meta = SnapshotMeta(LogIndex(7), Term(2), ConfState((PeerId(1), PeerId(2)), (PeerId(3),)))
    learner.step(InstallSnapshot(PeerId(3), PeerId(1), Term(2), meta, 0.0))
    learner.take()
    assert learner.node.conf_state == meta.conf_state
    assert learner.storage.initial_state()[1] == meta.conf_state
    again = Peer(3, learner.storage, applied=LogIndex(7))
    again.tick(100)
    assert again.campaign() is False


def test_a_learner_answers_heartbeats_so_that_its_leader_knows_it_lives() -> None:
    network = with_learner()
    network.campaign(1)
    heard: list[int] = []

    def listen(message: object) -> bool:
        if isinstance(message, HeartbeatResponse):
            heard.append(message.sender)
        return True

    network.on_message = listen
    network.beat(1)
    assert sorted(heard) == [2, 3]
