"""A store and its disk: errors, syncs that the loop does itself, and a disk that does not answer."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.raftstore.harness import Cluster, Node

from pytinykv.raft import TimeoutNow
from pytinykv.raftstore.errors import StoreFailedError
from pytinykv.raftstore.operations import RAW_CODE
from pytinykv.storage import EngineError
from pytinykv.wire.errors import NotLeader, UndeterminedResult


@pytest.fixture
def cluster(tmp_path: Path) -> Cluster:
    return Cluster(tmp_path)


def others(cluster: Cluster, store_id: int) -> list[int]:
    return [other for other in cluster.nodes if other != store_id]


# --- a disk that fails


@pytest.mark.parametrize("fault", ["write_error", "sync_error"])
def test_an_error_of_the_disk_fails_the_store_and_all_callers_are_answered(cluster: Cluster, fault: str) -> None:
    leader = cluster.elect()
    for store_id in others(cluster, leader.store_id):
        cluster.nodes[store_id].disk.is_held = True
    under_way = cluster.put(leader.store_id, b"a", b"v")
    cluster.settle()
    setattr(leader.engine.faults, fault, EngineError("the disk is gone"))
    queued = cluster.put(leader.store_id, b"b", b"v")
    read = cluster.read(leader.store_id, b"a")

    def go_on() -> None:
        for _ in range(5):
            cluster.turn(leader.store_id)
            leader.disk.work()

    with pytest.raises((StoreFailedError, EngineError)):
        go_on()
    later = cluster.put(leader.store_id, b"c", b"v")
    late_read = cluster.read(leader.store_id, b"a")
    cluster.turn(leader.store_id)
    for call in (under_way, queued, read, later, late_read):
        assert call.failed, "answered, and not with a success"
    assert isinstance(under_way.error, UndeterminedResult)
    assert isinstance(later.error, NotLeader)
    assert "the disk is gone" in str(later.error)
    assert leader.running.failure is not None


def deliver_messages(cluster: Cluster) -> None:
    messages, cluster.messages = cluster.messages, []
    for store_id, frame in messages:
        cluster.nodes[store_id].running.receive(frame)


def test_a_command_whose_effect_could_not_be_written_is_not_acknowledged(cluster: Cluster) -> None:
    """It is committed, taken from the books and applied to the turn's batch; then the write of the batch fails."""
    leader = cluster.elect()
    call = cluster.put(leader.store_id, b"a", b"v")
    leader.disk.is_held = True
    cluster.turn(leader.store_id)
    deliver_messages(cluster)
    for store_id in others(cluster, leader.store_id):
        cluster.turn(store_id)
        cluster.nodes[store_id].disk.work()
        cluster.turn(store_id)
    deliver_messages(cluster)
    leader.engine.faults.write_error = EngineError("the disk is gone")
    with pytest.raises(EngineError):
        cluster.turn(leader.store_id)
    assert isinstance(call.error, UndeterminedResult)
    assert call.answers == 1


def test_a_damaged_command_fails_the_store_and_its_caller_is_answered(cluster: Cluster) -> None:
    leader = cluster.elect()
    call = cluster.propose(leader.store_id, (99, RAW_CODE, b"dk"))
    with pytest.raises(AssertionError):
        cluster.settle()
    assert isinstance(call.error, UndeterminedResult)


# --- syncs


@pytest.mark.parametrize(
    ("took_s", "written", "inline"),
    [(0.0002, 100, True), (0.02, 100, False), (0.0002, 9_000, True), (0.0002, 90_000, False)],
)
def test_small_writes_on_a_quick_disk_are_synced_by_the_loop_itself(
    tmp_path: Path, took_s: float, written: int, inline: bool
) -> None:
    cluster = Cluster(tmp_path, stores=1, members=1)
    cluster.elect()
    node = cluster.nodes[1]
    store = node.running
    store.syncs._inline_sync_s = 0.001
    sync = node.engine.sync

    def timed_sync() -> None:
        cluster.clock.advance(took_s)
        sync()

    node.engine.sync = timed_sync  # type: ignore[method-assign]
    for number in range(3):
        call = cluster.put(1, b"k%d" % number, bytes(written))
        cluster.settle()
        assert call.succeeded
    before = store.syncs.started_inline
    for number in range(5):
        call = cluster.put(1, b"k%d" % number, bytes(written))
        cluster.settle()
        assert call.succeeded
    assert (store.syncs.started_inline - before == 5) is inline


def sync_in_the_loop(node: Node) -> None:
    """Let small syncs be done by the store loop itself; a disk of these tests takes no time."""
    node.running.syncs._inline_sync_s, node.running.syncs._slowest_s = 0.001, 0.0


def test_a_follower_that_syncs_by_itself_acknowledges_within_the_same_turn(cluster: Cluster) -> None:
    """One turn and one wake-up less on the way of every single put."""
    leader = cluster.elect()
    follower = cluster.nodes[others(cluster, leader.store_id)[0]]
    sync_in_the_loop(follower)
    cluster.put(leader.store_id, b"a", b"v")
    cluster.turn(leader.store_id)
    deliver_messages(cluster)
    follower.running.take_due()
    cluster.turn(follower.store_id)
    [acknowledgement] = cluster.messages
    assert acknowledgement[0] == leader.store_id
    assert follower.engine.unsynced_batches == 0
    assert not follower.running.take_due(), "nothing is left for another turn"


def test_a_sync_in_the_disk_thread_is_acknowledged_without_another_turn(cluster: Cluster) -> None:
    leader = cluster.elect()
    follower = cluster.nodes[others(cluster, leader.store_id)[0]]
    cluster.put(leader.store_id, b"a", b"v")
    cluster.turn(leader.store_id)
    deliver_messages(cluster)
    follower.running.take_due()
    cluster.turn(follower.store_id)
    assert cluster.messages == [], "not durable yet"
    follower.disk.work()
    [acknowledgement] = cluster.messages
    assert acknowledgement[0] == leader.store_id
    assert not follower.running.take_due(), "nothing is left for another turn"


def test_what_waited_for_the_disk_and_cannot_be_counted_fails_the_store(cluster: Cluster) -> None:
    leader = cluster.elect()
    call = cluster.put(leader.store_id, b"a", b"v")
    cluster.turn(leader.store_id)

    def broken(number: int, now: float) -> None:
        raise AssertionError(f"Ready {number} at {now}")

    leader.peer.node.on_persisted = broken  # type: ignore[method-assign]
    leader.disk.work()
    with pytest.raises(StoreFailedError, match="Ready"):
        cluster.turn(leader.store_id)
    assert isinstance(call.error, UndeterminedResult)


def test_a_leader_that_syncs_by_itself_takes_another_turn_only_if_that_commits_something(tmp_path: Path) -> None:
    cluster = Cluster(tmp_path)
    leader = cluster.elect()
    sync_in_the_loop(leader)
    leader.running.take_due()
    cluster.put(leader.store_id, b"a", b"v")
    leader.running.take_due()
    cluster.turn(leader.store_id)
    assert not leader.running.take_due()
    alone = Cluster(tmp_path / "alone", stores=1)
    sync_in_the_loop(alone.elect())
    call = alone.put(1, b"a", b"v")
    alone.turn(1)
    assert not call.succeeded
    assert alone.nodes[1].running.take_due()
    alone.turn(1)
    assert call.succeeded


def test_a_sync_that_fails_in_the_loop_fails_the_store_all_the_same(tmp_path: Path) -> None:
    cluster = Cluster(tmp_path, stores=1, members=1)
    cluster.elect()
    node = cluster.nodes[1]
    sync_in_the_loop(node)
    first = cluster.put(1, b"k", b"v")
    cluster.settle()
    assert first.succeeded
    assert node.running.syncs.started_inline > 0

    def broken_sync() -> None:
        raise EngineError("the disk is gone")

    node.engine.sync = broken_sync  # type: ignore[method-assign]
    call = cluster.put(1, b"k", b"w")
    with pytest.raises(StoreFailedError, match="the disk is gone"):
        cluster.settle()
    assert isinstance(call.error, UndeterminedResult)
    assert isinstance(node.running.failure, StoreFailedError)


def test_a_leader_whose_disk_does_not_answer_hands_over(cluster: Cluster) -> None:
    """It could lead on: two others are a quorum, and its own loop turns."""
    leader = cluster.elect()
    leader.disk.is_held = True
    call = cluster.put(leader.store_id, b"k", b"v")
    cluster.settle()
    assert call.succeeded
    cluster.ticks(int(leader.running.config.disk_silence_s / leader.running.config.tick_s) - 1)
    assert not leader.running.is_disk_silent
    assert cluster.leaders() == [leader]
    cluster.ticks(2)
    assert leader.running.is_disk_silent
    (successor,) = cluster.leaders()
    assert successor is not leader
    leader.disk.is_held = False
    cluster.settle()
    assert not leader.running.is_disk_silent
    call = cluster.put(successor.store_id, b"k", b"w")
    cluster.ticks(5)  # followers hear of the commit with later messages
    assert call.succeeded
    assert leader.value(b"k") == b"w"


def test_leadership_that_the_first_choice_does_not_take_is_offered_to_others(cluster: Cluster) -> None:
    leader = cluster.elect(1)
    cluster.drop = lambda envelope: isinstance(envelope.message, TimeoutNow) and envelope.receiver.store_id == 3
    leader.disk.is_held = True
    calls = [cluster.put(1, b"k", b"v")]
    while cluster.leaders() == [leader]:
        assert len(calls) < 100, "it is still offered to the same one"
        cluster.ticks()
        calls.append(cluster.put(1, b"k", b"v"))
    assert cluster.leaders() == [cluster.nodes[2]]
    silent_after = int(leader.running.config.disk_silence_s / leader.running.config.tick_s)
    assert sum(call.succeeded for call in calls) > silent_after + 5, "between two offers it goes on"
