"""Peers come and go: what a change does to a region, and what becomes of the peers."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.raftstore.harness import REGION_ID, Cluster

from pytinykv.model import Peer, PeerRole, Region, RegionEpoch, RegionId, StoreId, encode
from pytinykv.raft import (
    AppendEntries,
    ConfChangeKind,
    HardState,
    Heartbeat,
    LogIndex,
    Message,
    PeerId,
    PreVoteRequest,
    PreVoteResponse,
    Term,
    VoteRequest,
)
from pytinykv.raftstore import MembershipChange, RaftEnvelope, RaftStoreConfig, keys
from pytinykv.raftstore.membership import changed_region, refusal
from pytinykv.raftstore.records import (
    ApplyState,
    PeerState,
    RaftLocalState,
    RegionLocalState,
    decode_apply_state,
    decode_raft_state,
    decode_region_state,
)
from pytinykv.storage import ColumnFamily
from pytinykv.wire.errors import NotLeader, RegionNotFound, UndeterminedResult

ADD, REMOVE, LEARN = ConfChangeKind.ADD_VOTER, ConfChangeKind.REMOVE, ConfChangeKind.ADD_LEARNER


def member(peer_id: int, store_id: int, role: PeerRole = PeerRole.VOTER) -> Peer:
    return Peer(PeerId(peer_id), StoreId(store_id), role)


def region(*peers: Peer) -> Region:
    return Region(RegionId(1), b"", b"", RegionEpoch(5, 2), peers)


# --- what a change does


def test_each_change_counts_in_conf_ver_and_leaves_the_version() -> None:
    one = region(member(1, 1))
    two = changed_region(one, MembershipChange(LEARN, member(2, 2)))
    assert two.peers == (member(1, 1), member(2, 2, PeerRole.LEARNER))
    three = changed_region(two, MembershipChange(ADD, member(2, 2)))
    assert three.peers == (member(1, 1), member(2, 2))
    four = changed_region(three, MembershipChange(REMOVE, member(1, 1)))
    assert four.peers == (member(2, 2),)
    assert [r.epoch for r in (one, two, three, four)] == [RegionEpoch(n, 2) for n in (5, 6, 7, 8)]


def test_a_change_that_changes_nothing_counts_for_nothing() -> None:
    one = region(member(1, 1), member(2, 2))
    assert changed_region(one, MembershipChange(ADD, member(2, 2))) is one
    assert changed_region(one, MembershipChange(REMOVE, member(3, 3))) is one


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (MembershipChange(REMOVE, member(9, 9)), "not a member"),
        (MembershipChange(LEARN, member(9, 2)), "already has peer 2 on store 2"),
        (MembershipChange(ADD, member(2, 2)), "already a voter"),
    ],
)
def test_what_must_not_be_proposed(change: MembershipChange, reason: str) -> None:
    assert reason in (refusal(region(member(1, 1), member(2, 2)), change) or "")


def test_the_last_voter_is_never_removed() -> None:
    assert "last voter" in (
        refusal(region(member(1, 1), member(2, 2, PeerRole.LEARNER)), MembershipChange(REMOVE, member(1, 1))) or ""
    )


# --- in a cluster


@pytest.fixture
def cluster(tmp_path: Path) -> Cluster:
    return Cluster(tmp_path, stores=4, members=3)


def join(cluster: Cluster, peer_id: int, store_id: int) -> None:
    """Let a peer learn, and give it its vote."""
    for kind in (LEARN, ADD):
        for _ in range(40):
            leader = cluster.elect()
            cluster.change(leader.store_id, kind, peer_id, store_id)
            cluster.ticks(2)
            found = leader.peer.region.peer(peer_id)
            if found is not None and found.role is (PeerRole.VOTER if kind is ADD else PeerRole.LEARNER):
                break
        else:
            raise AssertionError(f"peer {peer_id} does not join")


def leave(cluster: Cluster, peer_id: int) -> None:
    for _ in range(40):
        leader = cluster.elect()
        found = leader.peer.region.peer(peer_id)
        if found is None:
            return
        cluster.change(leader.store_id, REMOVE, peer_id, found.store_id)
        cluster.ticks(2)
    raise AssertionError(f"peer {peer_id} does not leave")


def put(cluster: Cluster, key: bytes, value: bytes) -> None:
    call = cluster.put(cluster.elect().store_id, key, value)
    cluster.settle()
    assert call.succeeded
    cluster.ticks(3)  # followers learn with the next heartbeat what is committed


def state_on_disk(cluster: Cluster, store_id: int) -> PeerState | None:
    stored = cluster.nodes[store_id].engine.get(ColumnFamily.RAFT, keys.region_state_key(1))
    return None if stored is None else decode_region_state(stored).state


@pytest.mark.tinykv("TestBasicConfChange3B")
def test_peers_come_with_all_data_and_go_without_a_trace(tmp_path: Path) -> None:
    cluster = Cluster(tmp_path, stores=3, members=1)
    put(cluster, b"k1", b"v1")
    assert [cluster.nodes[n].value(b"k1") for n in (1, 2, 3)] == [b"v1", None, None]
    join(cluster, 102, 2)
    put(cluster, b"k2", b"v2")
    assert [cluster.nodes[2].value(k) for k in (b"k1", b"k2")] == [b"v1", b"v2"]
    join(cluster, 103, 3)
    put(cluster, b"k3", b"v3")
    assert [cluster.nodes[3].value(k) for k in (b"k1", b"k2", b"k3")] == [b"v1", b"v2", b"v3"]
    assert cluster.elect().peer.region.epoch == RegionEpoch(5, 1), "two changes a peer"
    leave(cluster, 102)
    put(cluster, b"k4", b"v4")
    cluster.ticks(20)
    assert [cluster.nodes[2].value(k) for k in (b"k1", b"k2", b"k3", b"k4")] == [None] * 4
    assert REGION_ID not in cluster.nodes[2].running.peers
    assert state_on_disk(cluster, 2) is PeerState.TOMBSTONE
    join(cluster, 202, 2)
    assert [cluster.nodes[2].value(k) for k in (b"k1", b"k4")] == [b"v1", b"v4"]
    leave(cluster, 103)
    put(cluster, b"k5", b"v5")
    assert cluster.nodes[2].value(b"k5") == b"v5"


@pytest.mark.tinykv("TestConfChangeRemoveLeader3B")
def test_a_leader_that_is_to_go_hands_over_first(cluster: Cluster) -> None:
    old = cluster.elect(1)
    put(cluster, b"k", b"v")
    cluster.change(1, REMOVE, 101, 1)
    cluster.settle()
    assert not old.peer.is_leader
    assert cluster.leaders(), "the others need no election timeout"
    leave(cluster, 101)
    put(cluster, b"k2", b"v")
    cluster.ticks(20)
    assert REGION_ID not in cluster.nodes[1].running.peers
    assert cluster.nodes[1].value(b"k") is None


def test_a_removed_peer_stays_gone_over_restarts_and_old_messages(cluster: Cluster) -> None:
    cluster.elect(1)
    put(cluster, b"k", b"v")
    leave(cluster, 103)
    cluster.ticks(20)
    assert state_on_disk(cluster, 3) is PeerState.TOMBSTONE
    for store_restarts in (False, True):
        if store_restarts:
            cluster.nodes[3].engine.sync()
            cluster.restart(3)
        for message in old_messages(103):
            envelope = RaftEnvelope(REGION_ID, member(101, 1), member(103, 3), RegionEpoch(1, 1), message)
            cluster.nodes[3].running.receive(encode([envelope, envelope]))
        cluster.settle()
        assert REGION_ID not in cluster.nodes[3].running.peers


def old_messages(to: int) -> list[Message]:
    peer, sender, term = PeerId(to), PeerId(101), Term(99)
    return [
        Heartbeat(peer, sender, term, LogIndex(0), 0, 0.0),
        VoteRequest(peer, sender, term, LogIndex(99), term),
        PreVoteRequest(peer, sender, term, LogIndex(99), term),
        AppendEntries(peer, sender, term, LogIndex(5), Term(5), LogIndex(5), 0.0),
    ]


def test_a_peer_that_was_cut_off_when_it_was_removed_is_told(cluster: Cluster) -> None:
    cluster.elect(1)
    put(cluster, b"k", b"v")
    cluster.cut_off = {3}
    leave(cluster, 103)
    cluster.ticks(30)
    assert REGION_ID in cluster.nodes[3].running.peers
    cluster.cut_off = set()
    cluster.ticks(60)
    assert REGION_ID not in cluster.nodes[3].running.peers
    assert cluster.nodes[3].value(b"k") is None
    put(cluster, b"k2", b"v")


def test_a_peer_without_answers_asks_the_scheduler(tmp_path: Path) -> None:
    cluster = Cluster(tmp_path, config=RaftStoreConfig(leader_missing_s=3.0))
    cluster.elect()
    cluster.cut_off = {3}
    node = cluster.nodes[3]
    for _ in range(80):
        cluster.ticks(1)
        if node.link.questions:
            break
    region_id, on_answer = node.link.questions[0]
    on_answer(node.peer.region)
    cluster.settle()
    assert REGION_ID in node.running.peers, "still a member"
    without = Region(region_id, b"", b"", RegionEpoch(9, 1), (member(101, 1), member(102, 2)))
    on_answer(without)
    cluster.settle()
    assert REGION_ID not in node.running.peers
    assert state_on_disk(cluster, 3) is PeerState.TOMBSTONE


def test_a_newcomer_does_not_believe_a_scheduler_that_has_not_heard_of_it_yet(tmp_path: Path) -> None:
    """It knows no region, so any answer looked newer: it destroyed itself, and its tombstone kept it away for ever."""
    cluster = Cluster(tmp_path, stores=3, members=2)
    node = cluster.nodes[3]
    message = Heartbeat(PeerId(103), PeerId(101), Term(9), LogIndex(0), 0, 0.0)
    envelope = RaftEnvelope(REGION_ID, member(101, 1), member(103, 3), RegionEpoch(7, 1), message)
    node.running.receive(encode([envelope]))
    cluster.turn(3)
    assert not node.peer.is_initialized
    for conf_ver in (6, 7):
        node.running.on_membership_answer(region_of_two(conf_ver))
        cluster.turn(3)
        assert REGION_ID in node.running.peers
    node.running.on_membership_answer(region_of_two(8))
    cluster.turn(3)
    assert REGION_ID not in node.running.peers


def region_of_two(conf_ver: int) -> Region:
    return Region(REGION_ID, b"", b"", RegionEpoch(conf_ver, 1), (member(101, 1), member(102, 2)))


def test_an_order_for_another_membership_is_not_followed(cluster: Cluster) -> None:
    """A repeated order to add a peer came after the peer had been removed again: it was added, and could never live."""
    cluster.elect(1)
    order = MembershipChange(LEARN, member(203, 3, PeerRole.LEARNER))
    leave(cluster, 103)
    leader = cluster.elect()
    conf_ver = leader.peer.region.epoch.conf_ver
    for late, joins in ((conf_ver - 1, False), (conf_ver, True)):
        leader.running.change_membership(REGION_ID, order, conf_ver=late)
        cluster.ticks(3)
        assert (leader.peer.region.peer(203) is not None) is joins


def test_a_change_that_was_proposed_in_another_epoch_comes_to_nothing(cluster: Cluster) -> None:
    """The region is split between proposal and apply: the change was meant for what it was before."""
    leader = cluster.elect(1)
    cluster.ticks(3)
    before = leader.peer.region
    cluster.change(1, LEARN, 104, 4)
    cluster.turn(1)
    for node in cluster.nodes.values():
        if (peer := node.running.peers.get(REGION_ID)) is not None:
            epoch = RegionEpoch(before.epoch.conf_ver, before.epoch.version + 1)
            peer.storage.region = Region(before.id, b"", b"m", epoch, before.peers)
    cluster.ticks(3)
    assert leader.peer.region.peers == before.peers
    assert leader.peer.region.epoch == RegionEpoch(before.epoch.conf_ver, before.epoch.version + 1)
    cluster.change(1, LEARN, 104, 4)
    cluster.ticks(3)
    assert leader.peer.region.peer(104) is not None, "the next one is made"


def test_callers_of_a_destroyed_peer_are_answered(cluster: Cluster) -> None:
    leader = cluster.elect(1)
    cluster.cut_off = {1}
    call, read = cluster.put(1, b"k", b"v"), cluster.read(1, b"k")
    cluster.settle()
    peer = leader.peer
    without = Region(REGION_ID, b"", b"", RegionEpoch(9, 1), (member(102, 2),))
    leader.running.on_membership_answer(without)
    cluster.settle()
    assert isinstance(call.error, UndeterminedResult), "it was proposed: the others may yet execute it"
    assert isinstance(read.error, RegionNotFound)
    answers: list[object] = []
    leader.running.propose(peer, [], 0, lambda error, _results: answers.append(error), version=1, term=peer.term)
    leader.running.read(peer, answers.append)
    assert len(answers) == 2
    assert all(isinstance(error, NotLeader) for error in answers)


def test_the_last_two_members_do_not_wait_for_each_other_for_ever(tmp_path: Path) -> None:
    """Peer 102 is removed and knows it; 101 is restarted and has forgotten that the removal is committed.

    It needs 102's vote in the configuration that it knows, and 102 is gone. The tombstone tells it.
    """
    cluster = Cluster(tmp_path, stores=2)
    cluster.elect(1)
    put(cluster, b"k", b"v")
    cluster.change(1, REMOVE, 102, 2)
    cluster.settle()
    assert REGION_ID not in cluster.nodes[2].running.peers
    cluster.nodes[2].engine.sync()
    forget_commit(cluster)
    cluster.start(1)
    leader = cluster.elect()
    assert leader.store_id == 1
    cluster.ticks(5)
    assert leader.peer.region.peers == (member(101, 1),)
    assert any(isinstance(envelope.message, PreVoteResponse) for envelope in cluster.sent)
    put(cluster, b"k2", b"v")


def forget_commit(cluster: Cluster) -> None:
    """Make store 1's disk one that has the entry that removes 102, but not the news that it is committed."""
    node = cluster.nodes[1]
    batch = node.engine.write_batch()
    raft = decode_raft_state(node.engine.get(ColumnFamily.RAFT, keys.raft_state_key(1)) or b"")
    applied = decode_apply_state(node.engine.get(ColumnFamily.RAFT, keys.apply_state_key(1)) or b"")
    removal = LogIndex(raft.last_index - 1)
    hard = HardState(raft.hard_state.term, raft.hard_state.vote, removal)
    before = ApplyState(removal, applied.applied_term, applied.truncated_index, applied.truncated_term)
    old = Region(REGION_ID, b"", b"", RegionEpoch(1, 1), (member(101, 1), member(102, 2)))
    for key, record in (
        (keys.raft_state_key(1), RaftLocalState(hard, raft.last_index)),
        (keys.apply_state_key(1), before),
        (keys.region_state_key(1), RegionLocalState(PeerState.NORMAL, old, PeerId(101))),
    ):
        batch.put(ColumnFamily.RAFT, key, encode(record))
    node.engine.write(batch)
    node.engine.sync()
