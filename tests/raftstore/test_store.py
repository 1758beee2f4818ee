"""Commands and reads through whole stores: who is told what, and when."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from tests.raftstore.harness import REGION_ID, Call, Cluster, Node, put

from pytinykv.model import Peer, Region, RegionEpoch, StoreId, encode
from pytinykv.model.raw_values import encode_raw_value
from pytinykv.raft import (
    AppendEntries,
    AppendResponse,
    InstallSnapshot,
    PeerId,
    SnapshotMeta,
    StaleTerm,
    Term,
    VoteResponse,
)
from pytinykv.raftstore import RaftEnvelope, RaftStoreConfig
from pytinykv.raftstore.operations import COMPARE_AND_SWAP, RAW_CODE
from pytinykv.wire.errors import (
    EpochNotMatch,
    NotLeader,
    ProposalInMergingMode,
    RaftEntryTooLarge,
    ServerIsBusy,
    UndeterminedResult,
)


@pytest.fixture
def cluster(tmp_path: Path) -> Cluster:
    return Cluster(tmp_path)


def others(cluster: Cluster, store_id: int) -> list[int]:
    return [other for other in cluster.nodes if other != store_id]


def cas(
    key: bytes, expected: bytes | None, value: bytes | None, now_s: int = 0, expires_at_s: int = 0
) -> tuple[Any, ...]:
    new = None if value is None else encode_raw_value(value, expires_at_s)
    return (COMPARE_AND_SWAP, RAW_CODE, b"d" + key, expected, new, now_s)


# --- writes


def test_a_write_is_answered_when_the_leader_has_applied_it_and_reaches_all_stores(cluster: Cluster) -> None:
    leader = cluster.elect()
    call = cluster.put(leader.store_id, b"k", b"v")
    cluster.settle()
    assert call.succeeded
    cluster.ticks(3)
    assert [node.value(b"k") for node in cluster.nodes.values()] == [b"v"] * 3


def test_nothing_is_acknowledged_before_a_majority_has_synced(cluster: Cluster) -> None:
    leader = cluster.elect()
    for node in cluster.nodes.values():
        node.disk.is_held = True
    call = cluster.put(leader.store_id, b"k", b"v")
    cluster.settle()
    assert call.answers == 0
    leader.disk.is_held = False
    cluster.settle()
    assert call.answers == 0, "one of three is no majority"
    cluster.nodes[others(cluster, leader.store_id)[0]].disk.is_held = False
    cluster.settle()
    assert call.succeeded


def test_two_followers_are_a_majority_while_the_leaders_own_disk_is_slow(cluster: Cluster) -> None:
    leader = cluster.elect()
    leader.disk.is_held = True
    call = cluster.put(leader.store_id, b"k", b"v")
    cluster.settle()
    assert call.succeeded
    assert leader.value(b"k") == b"v", "who asks again reads what was acknowledged"


def test_a_follower_answers_an_append_only_after_its_sync(cluster: Cluster) -> None:
    leader = cluster.elect()
    follower = cluster.nodes[others(cluster, leader.store_id)[0]]
    follower.disk.is_held = True
    cluster.sent.clear()
    cluster.put(leader.store_id, b"k", b"v")
    cluster.settle()

    def answered() -> bool:
        return any(
            isinstance(envelope.message, AppendResponse) and envelope.sender.store_id == follower.store_id
            for envelope in cluster.sent
        )

    assert cluster.entries_sent_to(follower.store_id)
    assert not answered()
    follower.disk.is_held = False
    cluster.settle()
    assert answered()


def test_acknowledged_writes_survive_a_power_cut_of_all_stores(cluster: Cluster) -> None:
    leader = cluster.elect()
    calls = {f"k{n}".encode(): cluster.put(leader.store_id, f"k{n}".encode(), b"v") for n in range(20)}
    cluster.settle()
    for node in cluster.nodes.values():
        node.disk.is_held = True
    unsynced = cluster.put(leader.store_id, b"late", b"v")
    cluster.settle()
    assert unsynced.answers == 0
    for store_id in cluster.nodes:
        cluster.restart(store_id)
    again = cluster.elect()
    cluster.ticks(3)
    assert all(call.succeeded and again.value(key) == b"v" for key, call in calls.items())


def test_commands_of_one_turn_share_an_entry_and_a_sync(cluster: Cluster) -> None:
    leader = cluster.elect()
    cluster.ticks(2)
    last, syncs = leader.peer.node.last_index, leader.running.syncs.started
    calls = [cluster.put(leader.store_id, f"k{n}".encode(), b"v") for n in range(50)]
    cluster.settle()
    assert all(call.succeeded for call in calls)
    assert leader.peer.node.last_index == last + 1
    assert leader.running.syncs.started == syncs + 1


def test_commands_that_do_not_fit_one_entry_take_several(tmp_path: Path) -> None:
    cluster = Cluster(tmp_path, config=RaftStoreConfig(append_bytes_max=1000))
    leader = cluster.elect()
    last = leader.peer.node.last_index
    calls = [cluster.put(leader.store_id, f"k{n}".encode(), bytes(300)) for n in range(9)]
    cluster.settle()
    assert all(call.succeeded for call in calls)
    assert leader.peer.node.last_index == last + 3


def test_a_command_larger_than_an_entry_may_be_is_refused_alone(tmp_path: Path) -> None:
    cluster = Cluster(tmp_path, config=RaftStoreConfig(append_bytes_max=500, entry_bytes_max=1000))
    leader = cluster.elect()
    large, small = cluster.put(leader.store_id, b"l", bytes(2000)), cluster.put(leader.store_id, b"s", b"v")
    cluster.settle()
    assert isinstance(large.error, RaftEntryTooLarge)
    assert small.succeeded


def test_a_store_with_too_much_queued_says_that_it_is_busy(tmp_path: Path) -> None:
    cluster = Cluster(tmp_path, config=RaftStoreConfig(queued_bytes_max=1000))
    leader = cluster.elect()
    first, second, third = (cluster.put(leader.store_id, b"k%d" % n, bytes(900)) for n in range(3))
    cluster.settle()
    assert first.succeeded
    assert second.succeeded
    assert isinstance(third.error, ServerIsBusy)
    again = cluster.put(leader.store_id, b"k", bytes(900))
    cluster.settle()
    assert again.succeeded


def test_a_leader_that_cannot_commit_refuses_more_than_its_bound(tmp_path: Path) -> None:
    config = RaftStoreConfig(append_bytes_max=1000, entry_bytes_max=2000, uncommitted_bytes_max=2500)
    cluster = Cluster(tmp_path, config=config)
    leader = cluster.elect()
    for node in cluster.nodes.values():
        node.disk.is_held = True
    calls = [cluster.put(leader.store_id, b"k%d" % n, bytes(900)) for n in range(5)]
    cluster.settle()
    assert [type(call.error) for call in calls] == [type(None)] * 2 + [ServerIsBusy] * 3


def test_a_follower_names_the_leader(cluster: Cluster) -> None:
    leader = cluster.elect()
    follower = others(cluster, leader.store_id)[0]
    call = cluster.put(follower, b"k", b"v")
    assert isinstance(call.error, NotLeader)
    assert call.error.leader is not None
    assert call.error.leader.store_id == leader.store_id


def test_commands_wait_while_leadership_is_handed_over_and_may_be_tried_again_if_it_is_not_taken(
    cluster: Cluster,
) -> None:
    leader = cluster.elect()
    target = others(cluster, leader.store_id)[0]
    cluster.drop = lambda envelope: envelope.receiver.store_id == target
    leader.running.transfer_leader(REGION_ID, PeerId(100 + target))
    call = cluster.put(leader.store_id, b"k", b"v")
    cluster.settle()
    assert call.answers == 0
    cluster.ticks(cluster.config.election_ticks)
    assert call.failed
    assert isinstance(call.error, ProposalInMergingMode)
    again = cluster.put(leader.store_id, b"k", b"v")
    cluster.settle()
    assert again.succeeded


def test_commands_that_wait_for_a_hand_over_are_sent_to_who_takes_it_before_that_has_won(cluster: Cluster) -> None:
    leader = cluster.elect()
    target, third = others(cluster, leader.store_id)
    cluster.drop = lambda envelope: envelope.sender.store_id == third  # the vote of the old leader is needed, and held
    cluster.hold(
        lambda envelope: envelope.sender.store_id == leader.store_id and type(envelope.message) is VoteResponse
    )
    leader.running.transfer_leader(REGION_ID, PeerId(100 + target))
    write, read = cluster.put(leader.store_id, b"k", b"v"), cluster.read(leader.store_id, b"k")
    cluster.settle()
    assert not cluster.leaders()
    late = cluster.put(leader.store_id, b"k", b"v")
    for call in (write, read, late):
        assert call.failed
        assert isinstance(call.error, NotLeader)
        assert call.error.leader is not None
        assert call.error.leader.store_id == target
    transferee = cluster.nodes[target].peer
    assert transferee.calls.expects_leadership
    waiting = Call()
    cluster.nodes[target].running.leadership_waits.wait(transferee, 1, waiting.on_done)
    assert waiting.answers == 0
    cluster.release()
    cluster.settle()
    assert waiting.succeeded
    assert [node.store_id for node in cluster.leaders()] == [target]


def test_no_more_wait_for_a_hand_over_than_one_entry_would_hold(cluster: Cluster) -> None:
    leader = cluster.elect()
    target = others(cluster, leader.store_id)[0]
    cluster.drop = lambda envelope: envelope.receiver.store_id == target
    leader.running.transfer_leader(REGION_ID, PeerId(100 + target))
    size = cluster.config.append_bytes_max // 2
    calls = [cluster.put(leader.store_id, b"%d" % number, bytes(size)) for number in range(3)]
    cluster.settle()
    assert [call.answers for call in calls] == [0, 1, 1]
    assert [type(call.error) for call in calls[1:]] == [NotLeader, NotLeader]
    leader.running.refuse_commands()
    leader.running.in_turn(leader.running.fail_everything)
    cluster.settle()
    assert isinstance(calls[0].error, NotLeader)


@pytest.mark.tinykv("TestTransferLeader3B")
def test_leadership_goes_where_it_is_ordered_to(cluster: Cluster) -> None:
    cluster.elect()
    for store_id in (1, 2, 3, 1):
        leader = cluster.elect(store_id)
        call = cluster.put(leader.store_id, b"k", b"v")
        cluster.settle()
        assert call.succeeded
        assert [node.store_id for node in cluster.leaders()] == [store_id]


# --- commands that were checked against another state of the region


def grow_version(cluster: Cluster) -> None:
    """Let the region be another one everywhere, as a split would; both halves keep all keys here."""
    for node in cluster.nodes.values():
        region = node.peer.region
        epoch = RegionEpoch(region.epoch.conf_ver, region.epoch.version + 1)
        node.peer.storage.region = Region(region.id, region.start_key, region.end_key, epoch, region.peers)


def test_a_command_that_waits_while_the_region_changes_is_refused(cluster: Cluster) -> None:
    leader = cluster.elect()
    call = cluster.put(leader.store_id, b"k", b"v")
    grow_version(cluster)
    cluster.settle()
    assert isinstance(call.error, EpochNotMatch)
    assert [region.region_epoch.version for region in call.error.current_regions] == [2]
    assert leader.value(b"k") is None


def test_a_command_that_waits_while_leadership_is_lost_and_won_again_is_refused(cluster: Cluster) -> None:
    leader = cluster.elect(1)
    first_term = leader.peer.term
    depose(cluster, 1)
    cluster.cut_off = set()
    cluster.ticks(3)
    leader = cluster.elect(1)
    call = cluster.propose(1, put(b"k", b"v"), term=first_term)
    cluster.settle()
    assert isinstance(call.error, NotLeader)
    assert leader.value(b"k") is None
    again = cluster.put(1, b"k", b"v")
    cluster.settle()
    assert again.succeeded


# --- leaders that lose their leadership


def depose(cluster: Cluster, old: int) -> int:
    """Cut the leader off and elect another one; return whom."""
    cluster.cut_off = {old}
    for _ in range(60):
        cluster.ticks(1)
        for leader in cluster.leaders():
            if leader.store_id != old:
                return leader.store_id
    raise AssertionError("no leader was elected")


def test_overtaken_commands_are_told_that_they_were_not_executed(cluster: Cluster) -> None:
    old = cluster.elect().store_id
    cluster.cut_off = {old}
    call = cluster.put(old, b"k", b"lost")
    cluster.settle()
    new = depose(cluster, old)
    assert call.answers == 0, "who is cut off can't know"
    cluster.cut_off = set()
    cluster.ticks(3)
    assert isinstance(call.error, NotLeader)
    assert cluster.nodes[new].value(b"k") is None


def test_commands_of_a_deposed_leader_that_were_committed_after_all_succeed(cluster: Cluster) -> None:
    old = cluster.elect().store_id
    cluster.drop = lambda envelope: envelope.receiver.store_id == old  # it is heard, and hears nothing
    call = cluster.put(old, b"k", b"v")
    cluster.settle()
    cluster.ticks(15)
    cluster.drop = lambda _envelope: False
    cluster.elect()
    cluster.ticks(3)
    assert call.succeeded
    assert {node.value(b"k") for node in cluster.nodes.values()} == {b"v"}


def test_a_deposed_leader_that_hears_nothing_says_that_it_does_not_know(cluster: Cluster) -> None:
    old = cluster.elect().store_id
    cluster.cut_off = {old}
    call = cluster.put(old, b"k", b"v")
    cluster.ticks(50)
    assert call.answers == 0
    cluster.ticks(80)
    assert isinstance(call.error, UndeterminedResult)


def test_a_leader_that_came_back_answers_what_its_earlier_term_left_open(cluster: Cluster) -> None:
    """Its old entries are overwritten, its log is shorter now, and the old indexes are never filled again."""
    old = cluster.elect().store_id
    cluster.cut_off = {old}
    first = []
    for n in range(10):
        first.append(cluster.put(old, b"old%d" % n, b"v"))
        cluster.settle()
    depose(cluster, old)
    cluster.cut_off = set()
    cluster.ticks(3)
    again = cluster.elect(old)
    second = cluster.put(old, b"new", b"v")
    cluster.settle()
    assert second.succeeded, "it was applied, and must not be taken for one of the old ones"
    assert again.value(b"new") == b"v"
    cluster.ticks(120)
    assert all(call.failed for call in first)
    assert isinstance(first[0].error, NotLeader)
    assert isinstance(first[-1].error, UndeterminedResult)


def test_reads_of_a_deposed_leader_are_refused(cluster: Cluster) -> None:
    old = cluster.elect().store_id
    cluster.cut_off = {old}
    call = cluster.read(old, b"k")
    cluster.ticks(30)
    assert isinstance(call.error, NotLeader)


# --- reads


def test_a_quorum_read_sees_what_was_acknowledged_before_it(cluster: Cluster) -> None:
    leader = cluster.elect().store_id
    cluster.put(leader, b"k", b"v")
    cluster.settle()
    call = cluster.read(leader, b"k")
    assert call.answers == 0
    cluster.settle()
    assert call.succeeded
    assert call.seen == {b"k": b"v"}


def test_reads_of_a_new_leader_wait_for_its_first_entry(cluster: Cluster) -> None:
    first = cluster.elect().store_id
    cluster.put(first, b"k", b"v")
    cluster.settle()
    cluster.drop = lambda envelope: isinstance(envelope.message, AppendEntries)
    second = depose(cluster, first)
    assert not cluster.nodes[second].peer.can_read_now(cluster.clock.monotonic())
    call = cluster.read(second, b"k")
    cluster.settle()
    assert call.answers == 0
    cluster.drop = lambda _envelope: False
    cluster.ticks(3)
    assert call.succeeded
    assert call.seen == {b"k": b"v"}


def test_the_lease_ends_without_answers(cluster: Cluster) -> None:
    leader = cluster.elect()
    cluster.ticks(3)
    assert leader.peer.can_read_now(cluster.clock.monotonic())
    cluster.cut_off = {leader.store_id}
    cluster.clock.advance(cluster.config.lease_s + 0.01)
    assert leader.peer.is_leader, "it has had no turn yet, and does not know"
    assert not leader.peer.can_read_now(cluster.clock.monotonic())


def test_a_paused_leader_never_serves_while_another_one_leads(cluster: Cluster) -> None:
    """No turn, no tick, for as long as the others take to elect a leader; its clock goes on."""
    old = cluster.elect()
    cluster.ticks(3)
    cluster.cut_off = {old.store_id}
    paused, old.store = old.running, None
    peer = paused.peers[REGION_ID]
    for _ in range(60):
        cluster.ticks(1)
        if cluster.leaders():
            break
        assert peer.is_leader
    assert cluster.leaders()
    assert not peer.can_read_now(cluster.clock.monotonic())
    old.store = paused


def test_without_leases_every_read_asks(tmp_path: Path) -> None:
    cluster = Cluster(tmp_path, config=RaftStoreConfig(lease_reads=False))
    leader = cluster.elect()
    cluster.ticks(3)
    assert not leader.peer.can_read_now(cluster.clock.monotonic())
    call = cluster.read(leader.store_id, b"k")
    cluster.settle()
    assert call.succeeded


# --- compare and swap


def test_compare_and_swap_sees_what_came_before_it_in_the_same_turn(cluster: Cluster) -> None:
    leader = cluster.elect().store_id
    calls = [
        cluster.propose(leader, put(b"k", b"1")),
        cluster.propose(leader, cas(b"k", b"1", b"2")),
        cluster.propose(leader, cas(b"k", b"1", b"x")),
        cluster.propose(leader, put(b"k", b"3")),
        cluster.propose(leader, cas(b"k", b"3", None)),
        cluster.propose(leader, cas(b"k", None, b"4")),
    ]
    cluster.settle()
    assert [call.results for call in calls] == [
        None,
        [(True, b"1")],
        [(False, b"2")],
        None,
        [(True, b"3")],
        [(True, None)],
    ]
    cluster.ticks(3)
    assert {node.value(b"k") for node in cluster.nodes.values()} == {b"4"}


def test_replicas_agree_on_what_has_expired(cluster: Cluster) -> None:
    leader = cluster.elect().store_id
    cluster.propose(leader, cas(b"k", None, b"1", now_s=100, expires_at_s=110))
    late = cluster.propose(leader, cas(b"k", None, b"2", now_s=110))
    cluster.settle()
    assert late.results == [(True, None)]
    cluster.ticks(3)
    assert {node.value(b"k") for node in cluster.nodes.values()} == {b"2"}


@pytest.mark.parametrize("seed", range(6))
def test_replay_after_a_crash_gives_the_same_state(tmp_path: Path, seed: int) -> None:
    cluster = Cluster(tmp_path)
    cluster.rng.seed(seed)
    leader = cluster.elect().store_id
    for n in range(12):
        cluster.propose(leader, cas(b"n", None if n == 0 else b"%d" % (n - 1), b"%d" % n))
        if n % 3 == 0:
            cluster.nodes[leader].disk.is_held = not cluster.nodes[leader].disk.is_held
        cluster.settle()
    cluster.restart(leader, lose_all=False)
    cluster.elect()
    cluster.ticks(5)
    assert {node.value(b"n") for node in cluster.nodes.values()} == {b"11"}
    assert len({node.peer.storage.apply_state.applied_index for node in cluster.nodes.values()}) == 1


# --- strange messages


def test_a_snapshot_message_without_a_snapshot_is_ignored(cluster: Cluster) -> None:
    leader = cluster.elect()
    follower = cluster.nodes[others(cluster, leader.store_id)[0]]
    meta = SnapshotMeta(follower.peer.node.last_index, Term(99), leader.peer.node.conf_state)
    message = InstallSnapshot(follower.peer.peer.id, leader.peer.peer.id, Term(99), meta, 0.0)
    envelope = RaftEnvelope(REGION_ID, leader.peer.peer, follower.peer.peer, leader.peer.region.epoch, message)
    follower.running.receive(encode([envelope]))
    cluster.settle()
    assert follower.running.failure is None


def test_a_message_for_another_store_is_dropped(cluster: Cluster) -> None:
    leader = cluster.elect()
    unknown = Peer(leader.peer.peer.id, StoreId(77))
    message = StaleTerm(unknown.id, PeerId(5), Term(99))
    envelope = RaftEnvelope(REGION_ID, Peer(PeerId(5), StoreId(5)), unknown, leader.peer.region.epoch, message)
    leader.running.receive(encode([envelope]))
    cluster.settle()
    assert leader.peer.is_leader


def test_a_call_is_a_call() -> None:
    """The harness itself: two answers to one call are an error."""
    call = Call()
    call.on_done(None)
    call.on_done(None)
    with pytest.raises(AssertionError):
        assert call.succeeded


def hold_late_answers(cluster: Cluster, leader: Node) -> int:
    """Let the acknowledgements of one of the followers wait; return its store."""
    late = max(store_id for store_id in cluster.nodes if store_id != leader.store_id)
    cluster.hold(lambda envelope: envelope.sender.store_id == late and isinstance(envelope.message, AppendResponse))
    return late


def test_an_acknowledgement_that_comes_after_the_commit_takes_no_turn_of_its_own(cluster: Cluster) -> None:
    leader = cluster.elect()
    cluster.ticks(2)
    late = hold_late_answers(cluster, leader)
    call = cluster.put(leader.store_id, b"k", b"1")
    cluster.settle()
    assert call.succeeded, "the other follower and the leader are a quorum"
    turns = leader.running.counters.turns
    assert len(cluster.held) == 1
    cluster.release()
    cluster.settle()
    assert leader.running.counters.turns == turns
    cluster.ticks(1)
    assert match_of(leader, late) == leader.peer.node.last_index, "the next turn takes it, a tick later at most"


def test_an_acknowledgement_for_which_something_waits_takes_a_turn_at_once(cluster: Cluster) -> None:
    leader = cluster.elect()
    cluster.ticks(2)
    late = hold_late_answers(cluster, leader)
    cluster.put(leader.store_id, b"k", b"1")
    cluster.settle()
    leader.running.transfer_leader(REGION_ID, PeerId(100 + late))
    cluster.settle()
    assert leader.peer.is_leader, "the transferee is not known to have everything"
    cluster.release()
    cluster.settle()
    assert cluster.nodes[late].peer.is_leader, "no tick has passed"


def test_an_acknowledgement_that_commits_takes_a_turn_at_once(cluster: Cluster) -> None:
    leader = cluster.elect()
    cluster.ticks(2)
    cluster.hold(lambda envelope: isinstance(envelope.message, AppendResponse))
    call = cluster.put(leader.store_id, b"k", b"1")
    cluster.settle()
    assert not call.answers
    cluster.release()
    cluster.settle()
    assert call.succeeded


def match_of(leader: Node, store_id: int) -> int:
    """Return up to where the leader knows a follower to have its log."""
    return leader.peer.node.status().progress[PeerId(100 + store_id)].match
