"""Peers that join learn first and vote later, through whole stores."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.raftstore.harness import REGION_ID, Cluster, Node

from pytinykv.model import Peer, PeerRole, Region, RegionEpoch, StoreId
from pytinykv.raft import ConfChangeKind, Heartbeat, InstallSnapshot, LogIndex, PeerId, RoleKind
from pytinykv.raftstore import MembershipChange, RaftStoreConfig, RegionReport
from pytinykv.raftstore.followers import FollowerWatch
from pytinykv.raftstore.membership import changed_region, conf_state, refusal
from pytinykv.wire.errors import NotLeader

VOTER, LEARNER = ConfChangeKind.ADD_VOTER, ConfChangeKind.ADD_LEARNER


@pytest.fixture
def cluster(tmp_path: Path) -> Cluster:
    """Three stores; the region has one peer, on store 1, which leads and has some data."""
    cluster = Cluster(tmp_path, members=1)
    cluster.elect(1)
    call = cluster.put(1, b"old", b"data")
    cluster.settle()
    assert call.succeeded
    return cluster


def join(cluster: Cluster, *store_ids: int) -> None:
    """Let learners 102, 103, … come and catch up."""
    for store_id in store_ids:
        cluster.change(1, LEARNER, 100 + store_id, store_id)
        cluster.ticks(8)


def promote(cluster: Cluster, store_id: int) -> None:
    cluster.change(1, VOTER, 100 + store_id, store_id)
    cluster.ticks(3)


def roles(node: Node) -> dict[int, PeerRole]:
    return {peer.store_id: peer.role for peer in node.peer.region.peers}


def report(node: Node) -> RegionReport:
    return node.link.reports[-1]


# --- the region


def region(*peers: tuple[int, PeerRole]) -> Region:
    members = tuple(Peer(PeerId(100 + store), StoreId(store), role) for store, role in peers)
    return Region(REGION_ID, b"", b"", RegionEpoch(7, 1), members)


def change(kind: ConfChangeKind, store_id: int, peer_id: int | None = None) -> MembershipChange:
    return MembershipChange(kind, Peer(PeerId(peer_id or 100 + store_id), StoreId(store_id)))


def test_a_peer_comes_as_a_learner_and_is_promoted_each_in_one_step() -> None:
    alone = region((1, PeerRole.VOTER))
    learning = changed_region(alone, change(LEARNER, 2))
    assert learning.epoch.conf_ver == 8
    assert (conf_state(learning).voters, conf_state(learning).learners) == ((101,), (102,))
    whole = changed_region(learning, change(VOTER, 2))
    assert whole.epoch.conf_ver == 9
    assert (conf_state(whole).voters, conf_state(whole).learners) == ((101, 102), ())


@pytest.mark.parametrize(
    ("kind", "store_id", "peer_id", "reason"),
    [
        (VOTER, 4, None, "no learner"),
        (VOTER, 1, None, "already a voter"),
        (LEARNER, 1, None, "already a voter"),
        (LEARNER, 2, None, "already a learner"),
        (LEARNER, 2, 900, "already has peer 102 on store 2"),
        (VOTER, 2, 900, "already has peer 102 on store 2"),
        (VOTER, 4, 102, "is on store 2"),
    ],
)
def test_there_is_no_other_way_to_a_vote(kind: ConfChangeKind, store_id: int, peer_id: int | None, reason: str) -> None:
    members = region((1, PeerRole.VOTER), (2, PeerRole.LEARNER))
    assert reason in str(refusal(members, change(kind, store_id, peer_id)))


def test_the_last_voter_stays_whatever_learners_there_are() -> None:
    members = region((1, PeerRole.VOTER), (2, PeerRole.LEARNER))
    assert "last voter" in str(refusal(members, change(ConfChangeKind.REMOVE, 1)))
    assert refusal(members, change(ConfChangeKind.REMOVE, 2)) is None


# --- whole stores


def test_a_learner_takes_the_data_and_becomes_a_voter_that_can_lead(cluster: Cluster) -> None:
    join(cluster, 2, 3)
    assert [node.value(b"old") for node in cluster.nodes.values()] == [b"data"] * 3
    assert roles(cluster.nodes[3]) == {1: PeerRole.VOTER, 2: PeerRole.LEARNER, 3: PeerRole.LEARNER}
    assert cluster.nodes[3].peer.peer.role is PeerRole.LEARNER
    for store_id in (2, 3):
        promote(cluster, store_id)
    assert set(roles(cluster.nodes[2]).values()) == {PeerRole.VOTER}
    cluster.crash(1)
    leader = cluster.elect()
    assert report(leader).leader == leader.peer.region.peer_on(leader.store_id)
    assert report(leader).leader.role is PeerRole.VOTER


@pytest.mark.parametrize("moment", [Heartbeat, InstallSnapshot, None], ids=["creation", "snapshot", "caught up"])
def test_writes_go_on_when_a_store_dies_while_it_joins(cluster: Cluster, moment: type | None) -> None:
    """With voters that join at once, the first two are stuck for ever."""
    if moment is None:
        join(cluster, 2)
    else:
        cluster.drop = lambda envelope: envelope.receiver.store_id == 2 and isinstance(envelope.message, moment)
        join(cluster, 2)
    cluster.crash(2)
    cluster.ticks(40)
    call = cluster.put(1, b"k", b"v")
    cluster.settle()
    assert call.succeeded
    assert cluster.nodes[1].peer.can_read_now(cluster.clock.now), "the lease needs no learner either"


def test_a_learner_is_not_asked_for_its_acknowledgement_nor_counted(cluster: Cluster) -> None:
    join(cluster, 2)
    promote(cluster, 2)
    join(cluster, 3)
    cluster.nodes[2].disk.is_held = True
    call = cluster.put(1, b"k", b"v")
    cluster.settle()
    assert not call.answers, "leader and learner have it, and that is one voter of two"
    cluster.nodes[2].disk.is_held = False
    cluster.settle()
    assert call.succeeded


def test_the_leader_refuses_to_promote_before_the_learner_has_caught_up(cluster: Cluster) -> None:
    cluster.drop = lambda envelope: isinstance(envelope.message, InstallSnapshot)
    join(cluster, 2)
    assert [peer.store_id for peer in report(cluster.nodes[1]).pending_peers] == [2]
    promote(cluster, 2)
    assert roles(cluster.nodes[1])[2] is PeerRole.LEARNER
    cluster.drop = lambda _envelope: False
    cluster.ticks(700)
    assert report(cluster.nodes[1]).pending_peers == ()
    promote(cluster, 2)
    assert roles(cluster.nodes[1])[2] is PeerRole.VOTER


def test_the_leader_does_not_promote_a_learner_that_has_just_died(cluster: Cluster) -> None:
    join(cluster, 2)
    cluster.crash(2)
    promote(cluster, 2)
    cluster.ticks(40)
    assert roles(cluster.nodes[1])[2] is PeerRole.LEARNER
    assert [peer.store_id for peer, _silent_s in report(cluster.nodes[1]).down_peers] == [2]
    cluster.start(2)
    cluster.ticks(4)
    assert report(cluster.nodes[1]).down_peers == (), "its return is told at once"
    assert roles(cluster.nodes[1])[2] is PeerRole.LEARNER, "an old order is forgotten"


def test_a_peer_that_has_just_been_asked_to_come_is_not_reported_as_down(cluster: Cluster) -> None:
    cluster.ticks(100)
    cluster.change(1, LEARNER, 102, 2)
    cluster.settle()
    assert report(cluster.nodes[1]).region.peer_on(2) is not None
    assert report(cluster.nodes[1]).down_peers == ()


def test_a_learner_does_not_campaign_also_after_a_restart(cluster: Cluster) -> None:
    join(cluster, 2, 3)
    for store_id in (2, 3):
        cluster.restart(store_id)
        assert cluster.nodes[store_id].peer.peer.role is PeerRole.LEARNER
    cluster.crash(1)
    cluster.ticks(100)
    assert cluster.leaders() == []
    assert [cluster.nodes[store_id].peer.node.status().role for store_id in (2, 3)] == [RoleKind.FOLLOWER] * 2
    cluster.start(1)
    cluster.ticks(30)
    call = cluster.put(1, b"k", b"v")
    cluster.settle()
    assert call.succeeded
    cluster.ticks(3)  # the next heartbeat tells followers what is committed
    assert cluster.nodes[3].value(b"k") == b"v"


def test_a_learner_names_the_leader_and_forgets_one_that_falls_silent(cluster: Cluster) -> None:
    join(cluster, 2)
    call = cluster.put(2, b"k", b"v")
    assert isinstance(call.error, NotLeader)
    assert call.error.leader is not None
    assert call.error.leader.store_id == 1
    cluster.crash(1)
    cluster.ticks(30)
    silent = cluster.put(2, b"k", b"v")
    assert isinstance(silent.error, NotLeader)
    assert silent.error.leader is None


def test_a_learner_that_was_removed_while_cut_off_asks_and_destroys_itself(cluster: Cluster) -> None:
    """It asks no peer for votes, so no peer can tell it."""
    join(cluster, 2)
    cluster.cut_off = {2}
    cluster.change(1, ConfChangeKind.REMOVE, 102, 2)
    cluster.ticks(400)
    cluster.cut_off = set()
    cluster.ticks(4)
    assert cluster.nodes[2].peer.peer.id == 102
    _region_id, answer = cluster.nodes[2].link.questions[-1]
    answer(cluster.nodes[1].peer.region)
    cluster.ticks()
    assert REGION_ID not in cluster.nodes[2].running.peers


def test_leadership_is_not_handed_to_a_learner(cluster: Cluster) -> None:
    join(cluster, 2)
    assert not cluster.nodes[1].peer.offer_leadership(cluster.clock.now)
    cluster.nodes[1].running.transfer_leader(REGION_ID, PeerId(102))
    cluster.ticks(15)
    assert [node.store_id for node in cluster.leaders()] == [1]


# --- nothing waits for a tick


def test_a_peer_joins_catches_up_and_becomes_a_voter_without_a_tick(cluster: Cluster) -> None:
    """The first message, the snapshot, the report and the promotion each waited for a tick or for the next heartbeat."""
    for store_id in (2, 3):
        cluster.change(1, LEARNER, 100 + store_id, store_id)
        cluster.settle()
        assert roles(cluster.nodes[store_id])[store_id] is PeerRole.LEARNER
        assert report(cluster.nodes[1]).pending_peers == ()
    for store_id in (2, 3):
        cluster.change(1, VOTER, 100 + store_id, store_id)
        cluster.turn(1)
        cluster.clock.advance(0.001)  # an answer counts if it is newer than the order
        cluster.settle()
        assert roles(cluster.nodes[1])[store_id] is PeerRole.VOTER


def test_an_order_that_comes_before_the_first_entry_of_the_term_is_applied_is_kept(tmp_path: Path) -> None:
    """A leader reports at once, and the order may be there before its own disk is: it was refused, and 5 s went by."""
    cluster = Cluster(tmp_path, members=1)
    cluster.nodes[1].disk.is_held = True
    cluster.nodes[1].peer.node.campaign(cluster.clock.now)
    cluster.nodes[1].running.tick_soon()
    cluster.settle()
    assert cluster.nodes[1].peer.is_leader
    cluster.change(1, LEARNER, 102, 2)
    cluster.settle()
    assert 2 not in roles(cluster.nodes[1])
    cluster.nodes[1].disk.is_held = False
    cluster.settle()
    assert roles(cluster.nodes[1])[2] is PeerRole.LEARNER


def test_an_order_that_is_kept_is_void_once_the_membership_is_another_one(cluster: Cluster) -> None:
    join(cluster, 2, 3)
    promote(cluster, 2)
    cluster.nodes[1].disk.is_held = cluster.nodes[2].disk.is_held = True
    cluster.change(1, ConfChangeKind.REMOVE, 103, 3)
    cluster.change(1, LEARNER, 203, 3)
    cluster.settle()
    cluster.nodes[1].disk.is_held = cluster.nodes[2].disk.is_held = False
    cluster.ticks(5)
    assert 3 not in roles(cluster.nodes[1])


# --- who is behind, who is silent


@pytest.fixture
def watch() -> FollowerWatch:
    watch = FollowerWatch(RaftStoreConfig())
    watch.on_leading(100.0)
    return watch


MEMBERS = region((1, PeerRole.VOTER), (2, PeerRole.LEARNER), (3, PeerRole.LEARNER))


def behind(watch: FollowerWatch, match: int, commit: int) -> list[int]:
    matches = {PeerId(101): LogIndex(commit), PeerId(102): LogIndex(match)}
    pending = watch.pending(MEMBERS, matches, truncated=LogIndex(5), commit=LogIndex(commit))
    return [peer.id for peer in pending]


def test_a_learner_has_caught_up_with_what_was_committed_when_it_came_or_an_election_ago(watch: FollowerWatch) -> None:
    assert behind(watch, 99, 100) == [102]
    for commit in (100, 150, 200):
        watch.on_tick(MEMBERS, LogIndex(commit))
    assert behind(watch, 99, 200) == [102]
    assert behind(watch, 100, 200) == []
    for commit in range(300, 400, 10):
        watch.on_tick(MEMBERS, LogIndex(commit))
    assert behind(watch, 299, 400) == [102]
    assert behind(watch, 300, 400) == []


def why_not(watch: FollowerWatch, now: float, *, ordered_at: float, pending: tuple[Peer, ...] = ()) -> str:
    return watch.why_not_promote(MEMBERS, MEMBERS.peers[1], pending, ordered_at=ordered_at, now=now)


def test_a_promotion_to_an_even_number_waits_until_all_learners_that_live_have_spoken(watch: FollowerWatch) -> None:
    def hear(now: float, *peer_ids: int) -> None:
        for peer_id in peer_ids:
            watch.on_heard(PeerId(peer_id), now)

    hear(101.0, 102, 103)
    assert "heard since the order" in why_not(watch, 101.1, ordered_at=101.1)
    hear(101.2, 102)
    assert "heard since the order" in why_not(watch, 101.2, ordered_at=101.1)
    hear(101.3, 103)
    assert why_not(watch, 101.3, ordered_at=101.1) == ""
    assert why_not(watch, 101.3, ordered_at=101.1, pending=MEMBERS.peers[1:2]) == "it has not caught up"
    hear(104.0, 102)
    assert "heard since the order" in why_not(watch, 104.1, ordered_at=104.1)
    hear(104.2, 102)
    assert why_not(watch, 104.2, ordered_at=104.1) == "", "the other one is dead, and not waited for"
    assert "silent for 3.0 s" in why_not(watch, 107.2, ordered_at=104.1)


def test_a_promotion_to_an_odd_number_does_not_wait(watch: FollowerWatch) -> None:
    members = region((1, PeerRole.VOTER), (2, PeerRole.VOTER), (3, PeerRole.LEARNER))
    watch.on_heard(PeerId(103), 101.0)
    assert watch.why_not_promote(members, members.peers[2], (), ordered_at=101.1, now=101.1) == ""
