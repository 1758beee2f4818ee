"""Regions that hibernate: when they do, that they cost nothing then, and what wakes them; `activity` and `liveness`."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.raftstore.harness import REGION_ID, Cluster

from pytinykv.model import Peer, RegionEpoch, StoreId
from pytinykv.raft import AppendEntries, ConfChangeKind, Heartbeat, PeerId
from pytinykv.raftstore import RaftEnvelope, RaftStoreConfig
from pytinykv.raftstore.records import SleepCheck, SleepConsent, SleepRequest, StoreBeat, WakeUp

CONFIG = RaftStoreConfig(hibernate_after_s=1.0)
SLEEP_TICKS = 10 + 10 + 4
"""Within so many ticks a quiet region sleeps: the pause, another election timeout for the request, two heartbeats."""
FAILOVER_TICKS = 10 + 11 + 2
"""So soon another leads: an election timeout of silence, the latest first campaign of a follower, rounding."""


@pytest.fixture
def cluster(tmp_path: Path) -> Cluster:
    cluster = Cluster(tmp_path, config=CONFIG)
    cluster.elect(1)
    assert cluster.put(1, b"a", b"1").answers == 0
    cluster.settle()
    return cluster


def asleep(cluster: Cluster) -> list[int]:
    return [
        store_id
        for store_id, node in cluster.nodes.items()
        if node.store is not None and REGION_ID in node.store.peers and node.peer.rest.is_asleep
    ]


def fall_asleep(cluster: Cluster, stores: tuple[int, ...] = (1, 2, 3)) -> None:
    for _ in range(SLEEP_TICKS + 1):
        if asleep(cluster) == list(stores):
            return
        cluster.ticks()
    raise AssertionError(f"asleep: {asleep(cluster)}, not {stores}")


def raft_messages(cluster: Cluster) -> list[RaftEnvelope]:
    return [envelope for envelope in cluster.sent if envelope.message is not None]


def lose_notes(kind: type) -> object:
    return lambda envelope: isinstance(envelope.note, kind)


# --- falling asleep -------------------------------------------------------------------------------------------


def test_a_quiet_region_sleeps_on_all_members_and_sends_nothing(cluster: Cluster) -> None:
    fall_asleep(cluster)
    cluster.sent.clear()
    cluster.ticks(100)
    assert raft_messages(cluster) == []
    assert asleep(cluster) == [1, 2, 3]
    assert {type(envelope.note) for envelope in cluster.sent} <= {StoreBeat, SleepCheck}
    beats = sum(isinstance(envelope.note, StoreBeat) for envelope in cluster.sent)
    assert beats == 3 * 2 * 100 // CONFIG.heartbeat_ticks


def test_reads_and_writes_keep_a_region_awake(cluster: Cluster) -> None:
    for _ in range(SLEEP_TICKS):
        cluster.put(1, b"a", b"2")
        cluster.ticks()
    assert asleep(cluster) == []
    for _ in range(SLEEP_TICKS):
        assert cluster.nodes[1].peer.can_read_now(cluster.clock.monotonic())
        cluster.ticks()
    assert asleep(cluster) == []


def test_no_region_sleeps_where_that_is_switched_off(tmp_path: Path) -> None:
    cluster = Cluster(tmp_path, config=RaftStoreConfig(hibernate_after_s=0))
    cluster.elect()
    cluster.ticks(100)
    assert asleep(cluster) == []


def test_a_follower_that_lacks_an_entry_keeps_the_leader_awake_and_does_not_sleep(cluster: Cluster) -> None:
    cluster.drop = lambda envelope: envelope.receiver.store_id == 3 and isinstance(envelope.message, AppendEntries)
    cluster.put(1, b"b", b"2")
    cluster.ticks(SLEEP_TICKS * 2)
    assert asleep(cluster) == []
    cluster.drop = lambda _envelope: False
    fall_asleep(cluster)
    assert cluster.nodes[3].value(b"b") == b"2"


def test_a_request_to_sleep_is_refused_by_a_follower_whose_log_ends_elsewhere(cluster: Cluster) -> None:
    leader, follower = cluster.nodes[1].peer, cluster.nodes[2].peer
    for index in (leader.node.last_index + 1, leader.node.last_index - 1):
        note = SleepRequest(leader.node.term, index, 1)
        say(cluster, leader.peer, follower.peer, note)
    assert asleep(cluster) == []
    cluster.ticks(2)
    say(cluster, leader.peer, follower.peer, SleepRequest(leader.node.term, leader.node.last_index, 1))
    assert asleep(cluster) == [2]


def say(cluster: Cluster, sender: Peer, receiver: Peer, note: object) -> None:
    """Let a store get a note now."""
    from pytinykv.model import encode

    envelope = RaftEnvelope(REGION_ID, sender, receiver, RegionEpoch(1, 1), None, note=note)  # type: ignore[arg-type]
    cluster.nodes[receiver.store_id].running.receive(encode([envelope]))
    cluster.settle()


def test_a_member_on_a_store_of_an_older_version_keeps_the_region_awake(tmp_path: Path) -> None:
    """It sends no beats, and does nothing with notes."""
    cluster = Cluster(tmp_path, config=CONFIG)
    cluster.drop = lambda envelope: (
        envelope.note is not None
        and 3
        in {
            envelope.sender.store_id,
            envelope.receiver.store_id,
        }
    )
    cluster.elect(1)
    cluster.put(1, b"a", b"1")
    cluster.ticks(SLEEP_TICKS * 3)
    assert asleep(cluster) == []


def test_a_leader_does_not_sleep_by_consents_to_another_request(cluster: Cluster) -> None:
    cluster.drop = lambda envelope: isinstance(envelope.note, SleepConsent) and envelope.sender.store_id == 3
    cluster.ticks(SLEEP_TICKS)
    leader = cluster.nodes[1].peer
    assert not leader.rest.is_asleep
    say(cluster, cluster.nodes[3].peer.peer, leader.peer, SleepConsent(leader.node.term, leader.rest.round - 1))
    assert not leader.rest.is_asleep
    leader.rest.agreed.add(PeerId(102))
    say(cluster, cluster.nodes[3].peer.peer, leader.peer, SleepConsent(leader.node.term, leader.rest.round))
    assert leader.rest.is_asleep


def test_a_write_between_request_and_consent_keeps_the_leader_awake(cluster: Cluster) -> None:
    cluster.hold(lambda envelope: isinstance(envelope.note, SleepConsent))
    while not any(isinstance(envelope.note, SleepConsent) for envelope in cluster.sent):
        cluster.ticks()
    cluster.put(1, b"b", b"2")
    cluster.nodes[1].running.turn()
    cluster.release()
    cluster.settle()
    assert asleep(cluster) == []
    assert cluster.nodes[1].value(b"b") == b"2"


# --- leases ---------------------------------------------------------------------------------------------------


def test_a_sleeping_leader_has_no_lease_and_the_first_read_asks_a_quorum_and_wakes_all(cluster: Cluster) -> None:
    fall_asleep(cluster)
    leader = cluster.nodes[1].peer
    assert not leader.can_read_now(cluster.clock.monotonic())
    cluster.sent.clear()
    read = cluster.read(1, b"a")
    cluster.settle()
    assert read.succeeded
    assert read.seen == {b"a": b"1"}
    assert any(isinstance(envelope.message, Heartbeat) for envelope in cluster.sent)
    assert asleep(cluster) == []


def test_an_answer_that_comes_after_the_leader_fell_asleep_gives_no_lease(cluster: Cluster) -> None:
    cluster.hold(lambda envelope: type(envelope.message).__name__ == "HeartbeatResponse")
    leader = cluster.nodes[1].peer
    cluster.ticks(2)
    leader.node.fall_asleep(cluster.clock.monotonic())
    cluster.release()
    cluster.settle()
    assert not leader.can_read_now(cluster.clock.monotonic())


def test_a_sleeping_leader_that_was_replaced_serves_no_read(cluster: Cluster) -> None:
    """It is cut off, the others elect another one and take a write; a read at the old one gets no answer but a refusal."""
    fall_asleep(cluster)
    cluster.cut_off.add(1)
    cluster.ticks(FAILOVER_TICKS)
    [other] = [node for node in cluster.leaders() if node.store_id != 1]
    written = cluster.put(other.store_id, b"a", b"2")
    cluster.settle()
    assert written.succeeded
    read = cluster.read(1, b"a")
    cluster.ticks(30)
    assert read.failed
    assert read.seen == {}


# --- waking ---------------------------------------------------------------------------------------------------


def test_a_write_wakes_all_and_reaches_all(cluster: Cluster) -> None:
    fall_asleep(cluster)
    written = cluster.put(1, b"b", b"2")
    cluster.settle()
    assert written.succeeded
    assert asleep(cluster) == []
    cluster.ticks(3)
    assert [node.value(b"b") for node in cluster.nodes.values()] == [b"2"] * 3
    fall_asleep(cluster)


def test_when_its_leader_dies_a_sleeping_region_has_another_one_soon(cluster: Cluster) -> None:
    fall_asleep(cluster)
    term = cluster.nodes[1].peer.node.term
    cluster.crash(1)
    cluster.ticks(FAILOVER_TICKS)
    [leader] = cluster.leaders()
    assert leader.peer.node.term == term + 1, "the first campaign won"
    assert cluster.put(leader.store_id, b"b", b"2").answers == 0
    cluster.settle()
    assert leader.value(b"b") == b"2"


def test_when_its_leader_is_started_again_at_once_a_sleeping_region_has_a_leader_soon(cluster: Cluster) -> None:
    """No silence tells of that, but the number in its beats."""
    fall_asleep(cluster)
    cluster.restart(1)
    cluster.ticks(3)
    assert asleep(cluster) == []
    cluster.ticks(45)
    assert len(cluster.leaders()) == 1


def test_a_leader_that_only_some_do_not_hear_stays_the_leader(cluster: Cluster) -> None:
    """One follower finds its leader's store silent and campaigns; the other one hears that store, and sticks to it."""
    fall_asleep(cluster)
    cluster.drop = lambda envelope: {envelope.sender.store_id, envelope.receiver.store_id} == {1, 3}
    cluster.ticks(60)
    assert [node.store_id for node in cluster.leaders()] == [1]


def test_a_request_to_a_sleeping_follower_wakes_it_and_its_leader(cluster: Cluster) -> None:
    fall_asleep(cluster)
    refused = cluster.put(2, b"b", b"2")
    assert refused.failed
    cluster.settle()
    assert asleep(cluster) == []


def test_a_leader_that_is_none_any_more_is_found_out_by_a_request_to_a_follower(cluster: Cluster) -> None:
    """Its store beats, but what it says of the region gets lost: a follower that is asked does not wait for silence."""
    fall_asleep(cluster)
    cluster.drop = lambda envelope: envelope.sender.store_id == 1 and envelope.message is not None
    cluster.put(2, b"b", b"2")
    cluster.ticks(45)
    assert any(node.store_id != 1 for node in cluster.leaders())


def test_a_silent_member_is_reported_and_left_out_and_missed_entries_reach_it_when_it_is_back(cluster: Cluster) -> None:
    fall_asleep(cluster)
    cluster.cut_off.add(3)
    cluster.ticks(12)
    assert 1 not in asleep(cluster)
    cluster.ticks(round(CONFIG.peer_down_s / CONFIG.tick_s) + 2)
    report = cluster.nodes[1].link.reports[-1]
    assert [peer.store_id for peer, _seconds in report.down_peers] == [3]
    fall_asleep(cluster, (1, 2))
    cluster.put(1, b"b", b"2")
    cluster.settle()
    cluster.cut_off.clear()
    cluster.ticks(25)
    assert cluster.nodes[3].value(b"b") == b"2"
    assert cluster.nodes[1].link.reports[-1].down_peers == ()
    fall_asleep(cluster)


def test_a_region_whose_majority_is_silent_does_not_sleep(cluster: Cluster) -> None:
    fall_asleep(cluster)
    cluster.cut_off |= {2, 3}
    cluster.ticks(60)
    assert asleep(cluster) == []
    assert not cluster.nodes[1].peer.is_leader


def test_a_late_request_to_sleep_of_a_leader_that_is_silent_by_now_is_refused(cluster: Cluster) -> None:
    fall_asleep(cluster)
    leader, follower = cluster.nodes[1].peer, cluster.nodes[2].peer
    late = SleepRequest(leader.node.term, leader.node.last_index, leader.rest.round)
    cluster.crash(1)
    cluster.ticks(10)
    assert asleep(cluster) == []
    say(cluster, leader.peer, follower.peer, late)
    assert asleep(cluster) == []


@pytest.mark.parametrize("lost", [SleepConsent, SleepRequest, WakeUp, StoreBeat])
def test_lost_notes_cost_time_only(cluster: Cluster, lost: type) -> None:
    """With each kind of note lost in turns, a write always succeeds, and at last all sleep again."""
    count = 0

    def drop(envelope: RaftEnvelope) -> bool:
        nonlocal count
        count += isinstance(envelope.note, lost)
        return isinstance(envelope.note, lost) and count % 3 != 0

    cluster.drop = drop
    cluster.ticks(100)
    [leader] = cluster.leaders()
    written = cluster.put(leader.store_id, b"b", b"2")
    cluster.ticks(5)
    assert written.succeeded
    cluster.drop = lambda _envelope: False
    cluster.ticks(SLEEP_TICKS * 2)
    assert asleep(cluster) == [1, 2, 3]


def test_a_follower_that_is_not_led_any_more_finds_out_by_its_check(cluster: Cluster) -> None:
    """It slept through its removal: all that was said of it got lost, but its leader's store is there."""
    fall_asleep(cluster)
    cluster.drop = lambda envelope: envelope.receiver.store_id == 3 and envelope.region_id == REGION_ID
    cluster.change(1, ConfChangeKind.REMOVE, 103, 3)
    cluster.settle()
    assert cluster.nodes[1].peer.region.peer(PeerId(103)) is None
    assert asleep(cluster) == [3]
    cluster.drop = lambda _envelope: False
    cluster.ticks(round(CONFIG.sleep_check_s / CONFIG.tick_s) + 60)
    assert REGION_ID not in cluster.nodes[3].running.peers


def test_leadership_of_a_sleeping_region_is_transferred(cluster: Cluster) -> None:
    fall_asleep(cluster)
    cluster.nodes[1].running.transfer_leader(REGION_ID, PeerId(102))
    cluster.settle()
    assert [node.store_id for node in cluster.leaders()] == [2]


def test_a_store_that_stops_hands_over_what_sleeps(cluster: Cluster) -> None:
    fall_asleep(cluster)
    leaving = cluster.nodes[1].running.leaving
    cluster.nodes[1].running.in_turn(leaving.offer)
    cluster.settle()
    assert leaving.is_done
    assert [node.store_id for node in cluster.leaders()] != [1]


def test_members_change_in_a_sleeping_region(tmp_path: Path) -> None:
    cluster = Cluster(tmp_path, stores=4, members=3, config=CONFIG)
    cluster.elect(1)
    cluster.put(1, b"a", b"1")
    fall_asleep(cluster)
    cluster.change(1, ConfChangeKind.ADD_LEARNER, 104, 4)
    cluster.ticks(30)
    assert cluster.nodes[4].value(b"a") == b"1"
    fall_asleep(cluster, (1, 2, 3, 4))
    cluster.change(1, ConfChangeKind.ADD_VOTER, 104, 4)
    cluster.ticks(5)
    assert len(cluster.nodes[1].peer.region.voters) == 4


# --- what the scheduler hears -----------------------------------------------------------------------------------


def test_a_sleeping_region_is_reported_seldom_and_its_members_are_not_down(cluster: Cluster) -> None:
    fall_asleep(cluster)
    cluster.ticks(60)
    reports = cluster.nodes[1].link.reports
    reports.clear()
    cluster.ticks(round(CONFIG.hibernating_heartbeat_s / CONFIG.tick_s))
    assert 1 <= len(reports) <= 2
    assert [report.down_peers for report in reports] == [()] * len(reports)
    assert asleep(cluster) == [1, 2, 3]


def test_beats_go_to_the_stores_of_new_members_too(tmp_path: Path) -> None:
    cluster = Cluster(tmp_path, stores=4, members=3, config=CONFIG)
    cluster.elect(1)
    cluster.ticks(2)
    assert not cluster.nodes[4].running.liveness.is_alive(StoreId(1))
    cluster.change(1, ConfChangeKind.ADD_LEARNER, 104, 4)
    cluster.ticks(20)
    assert cluster.nodes[4].running.liveness.is_alive(StoreId(1))
    assert cluster.nodes[1].running.liveness.is_alive(StoreId(4))
