"""A store that stops: every caller is answered, in every state."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
from tests.raftstore.harness import REGION_ID, Call, Cluster

from pytinykv.lifecycle import Scope, StopReport
from pytinykv.raft import TimeoutNow
from pytinykv.raftstore import RaftStoreConfig, StoreLoop
from pytinykv.storage import EngineError
from pytinykv.wire.errors import NotLeader, UndeterminedResult


@pytest.fixture
def cluster(tmp_path: Path) -> Cluster:
    # Ticks come from the tests, not from the clock of the machine.
    return Cluster(tmp_path, config=RaftStoreConfig(tick_s=3600.0, undetermined_after_s=1e9, leader_missing_s=1e9))


def immediate(cluster: Cluster, store_id: int) -> None:
    """Let this store's disk work at once, since only its own loop runs now."""
    disk = cluster.nodes[store_id].disk
    submit = disk.submit

    def work_at_once(work: Callable[[], object], on_done: Callable[[object], None]) -> None:
        submit(work, on_done)
        if not disk.is_held:
            disk.work()

    disk.submit = work_at_once  # type: ignore[method-assign,assignment]


async def stop(cluster: Cluster, store_id: int, *, before: Callable[[], object] = lambda: None) -> StopReport:
    immediate(cluster, store_id)
    scope = Scope("store")
    StoreLoop(cluster.nodes[store_id].running).start(scope)
    before()
    return await scope.stop(10.0)


async def test_an_idle_follower_stops_at_once(cluster: Cluster) -> None:
    leader = cluster.elect().store_id
    report = await stop(cluster, leader % 3 + 1)
    assert report.ok, report.render()
    assert report.took_s < 0.4, "it has nothing to wait for"


async def test_a_leader_without_a_peer_to_hand_over_to_does_not_wait(tmp_path: Path) -> None:
    cluster = Cluster(tmp_path, stores=1, config=RaftStoreConfig(tick_s=3600.0))
    cluster.settle()
    assert cluster.leaders()
    report = await stop(cluster, 1)
    assert report.ok, report.render()
    assert report.took_s < 0.4


async def test_a_leader_asks_a_follower_to_take_over(cluster: Cluster) -> None:
    leader = cluster.elect().store_id
    cluster.messages.clear()
    await stop(cluster, leader)
    cluster.nodes[leader].store = None
    cluster.settle()
    assert [node.store_id for node in cluster.leaders()] != []


async def test_unconfirmed_commands_and_reads_are_answered(cluster: Cluster) -> None:
    leader = cluster.elect().store_id
    calls: list[Call] = []

    def ask() -> None:
        calls.extend([cluster.put(leader, b"k", b"v"), cluster.read(leader, b"k")])

    report = await stop(cluster, leader, before=ask)
    assert report.ok, report.render()
    assert all(call.answers == 1 for call in calls)
    assert calls[1].failed


async def test_a_command_under_way_is_not_told_that_it_failed(cluster: Cluster) -> None:
    leader = cluster.elect().store_id
    call = cluster.put(leader, b"k", b"v")
    cluster.turn(leader)
    report = await stop(cluster, leader)
    assert report.ok, report.render()
    assert isinstance(call.error, UndeterminedResult)


async def test_late_calls_are_refused(cluster: Cluster) -> None:
    leader = cluster.elect().store_id
    await stop(cluster, leader)
    for call in (cluster.put(leader, b"k", b"v"), cluster.read(leader, b"k")):
        assert isinstance(call.error, NotLeader)
        assert "stopping" in str(call.error)


async def test_a_disk_that_never_answers_does_not_hold_up_the_stop(cluster: Cluster) -> None:
    leader = cluster.elect().store_id
    cluster.nodes[leader].disk.is_held = True
    call = cluster.put(leader, b"k", b"v")
    report = await stop(cluster, leader)
    assert call.answers == 1
    assert report.took_s < 5.0


async def test_a_store_that_has_failed_stops_at_once(cluster: Cluster) -> None:
    leader = cluster.elect().store_id
    cluster.nodes[leader].engine.faults.write_error = EngineError("the disk is gone")
    call = cluster.put(leader, b"k", b"v")
    with pytest.raises(EngineError):
        cluster.turn(leader)
    report = await stop(cluster, leader)
    assert call.failed
    assert report.took_s < 0.4


async def test_a_loop_that_fails_is_the_scopes_business(cluster: Cluster) -> None:
    leader = cluster.elect().store_id
    failures: list[BaseException] = []
    scope = Scope("store")
    scope.on_failure(lambda _name, error: failures.append(error))
    store = cluster.nodes[leader].running
    StoreLoop(store).start(scope)
    cluster.nodes[leader].engine.faults.write_error = EngineError("the disk is gone")
    call = cluster.put(leader, b"k", b"v")
    await scope.stop(10.0)
    assert call.failed
    assert [str(error) for error in failures] == ["the disk is gone"]


async def test_leadership_that_comes_back_while_the_store_stops_is_handed_over_again(cluster: Cluster) -> None:
    leader = cluster.elect().store_id
    store = cluster.nodes[leader].running
    store.in_turn(store.leaving.offer)
    cluster.settle()
    (other,) = [node.store_id for node in cluster.leaders()]
    assert other != leader
    back = cluster.nodes[other].running
    back.transfer_leader(REGION_ID, store.peers[REGION_ID].peer.id)  # a scheduler that has not heard of the stop
    cluster.settle()
    assert [node.store_id for node in cluster.leaders()] != [leader]
    assert store.peers[REGION_ID].term > back.peers[REGION_ID].term - 2, "it has led for a moment"
    assert store.leaving.is_done


async def test_leadership_goes_to_another_follower_if_the_first_does_not_take_it(cluster: Cluster) -> None:
    leader = cluster.elect().store_id
    store = cluster.nodes[leader].running
    first = max(node.store_id for node in cluster.nodes.values() if node.store_id != leader)
    cluster.hold(lambda envelope: isinstance(envelope.message, TimeoutNow) and envelope.receiver.store_id == first)
    store.in_turn(store.leaving.offer)
    cluster.settle()
    assert [node.store_id for node in cluster.leaders()] == [leader]
    store.in_turn(partial(store.leaving.offer, attempt=1))
    cluster.settle()
    assert [node.store_id for node in cluster.leaders()] == [leader], "no follower was heard since: the offer stands"
    cluster.clock.advance(0.01)
    for _ in range(2):  # a heartbeat
        store.tick_soon()
        cluster.settle()
    store.in_turn(partial(store.leaving.offer, attempt=1))
    cluster.settle()
    assert [node.store_id for node in cluster.leaders()] not in ([leader], [first])
