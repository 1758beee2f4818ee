"""A turn takes a bounded amount of work; the next ones do the rest, and no promise depends on when."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path

import pytest
from tests.raftstore.harness import REGION_ID, Call, Cluster, Node, put

from pytinykv.lifecycle import Scope
from pytinykv.model import RegionId
from pytinykv.raft import LogIndex
from pytinykv.raftstore import RaftStoreConfig, StoreLoop
from pytinykv.raftstore.operations import decode_operations
from pytinykv.raftstore.store_loop import PAUSE_EACH_S, PAUSE_FROM, PAUSE_MAX_S
from pytinykv.raftstore.turn import OPERATION_COST
from pytinykv.storage import ColumnFamily

KIB = 1024
VALUE = bytes(100 * KIB)
SMALL = RaftStoreConfig(turn_bytes_max=200 * KIB, apply_bytes_max=100 * KIB, append_bytes_max=100 * KIB)


@pytest.fixture
def cluster(tmp_path: Path) -> Cluster:
    return Cluster(tmp_path, config=SMALL)


def turns_of(node: Node, *, bytes_max: int) -> int:
    """Run the turns that are due; return how many wrote anything. None writes much more than `bytes_max`."""
    store, writing = node.running, 0
    for _ in range(1000):
        if not store.take_due():
            return writing
        before = node.engine.used_bytes
        store.turn()
        written = node.engine.used_bytes - before
        assert written < bytes_max
        writing += written > len(VALUE) // 2
    raise AssertionError("turns without end")


def put_many(cluster: Cluster, store_id: int, count: int) -> list[Call]:
    return [cluster.put(store_id, b"k%d" % number, VALUE) for number in range(count)]


def test_a_leader_proposes_what_a_turn_holds(cluster: Cluster) -> None:
    leader = cluster.elect()
    calls = put_many(cluster, leader.store_id, 20)
    assert turns_of(leader, bytes_max=450 * KIB) >= 9
    cluster.settle()
    assert all(call.succeeded for call in calls)
    cluster.ticks(3)
    assert all(node.value(b"k19") == VALUE for node in cluster.nodes.values())


def test_commands_that_wait_for_their_turn_still_count_as_queued(cluster: Cluster) -> None:
    leader = cluster.elect()
    put_many(cluster, leader.store_id, 10)
    cluster.turn(leader.store_id)
    queued = leader.running._queued_bytes
    assert 7 * len(VALUE) < queued < 9 * len(VALUE)
    cluster.settle()
    assert leader.running._queued_bytes == 0


def test_a_follower_takes_and_applies_what_a_turn_holds(cluster: Cluster) -> None:
    leader = cluster.elect()
    follower = next(node for node in cluster.nodes.values() if node is not leader)
    cluster.cut_off = {follower.store_id}
    for call in put_many(cluster, leader.store_id, 20):
        cluster.settle()
        assert call.succeeded
    cluster.cut_off = set()
    follower_turns = follower.running.turn
    written: list[int] = []

    def turn() -> None:
        before = follower.engine.used_bytes
        follower_turns()
        written.append(follower.engine.used_bytes - before)

    follower.running.turn = turn  # type: ignore[method-assign]
    cluster.ticks(20)
    assert follower.value(b"k19") == VALUE
    assert max(written) < 650 * KIB, "of 4 MB: what it took of messages, and what it applied"


def test_a_read_under_the_lease_sees_every_acknowledged_write_while_the_rest_waits_to_be_applied(
    cluster: Cluster,
) -> None:
    leader = cluster.elect()
    cluster.ticks(3)
    calls = put_many(cluster, leader.store_id, 20)
    lagged = False
    for _ in range(200):
        cluster.step()
        peer = leader.peer
        lagged |= peer.node.applied_index < peer.node.commit_index
        if peer.can_read_now(cluster.clock.monotonic()):
            seen = [leader.value(b"k%d" % number) == VALUE for number in range(20)]
            assert all(there for there, call in zip(seen, calls, strict=True) if call.succeeded)
    assert lagged, "the test has shown nothing"
    assert all(call.succeeded for call in calls)


def test_tiny_operations_are_bounded_by_their_number(tmp_path: Path) -> None:
    few = replace(SMALL, turn_bytes_max=100 * OPERATION_COST, apply_bytes_max=1 * KIB, entry_operations_max=50)
    cluster = Cluster(tmp_path, config=few)
    leader = cluster.elect()
    cluster.settle()
    calls = [
        cluster.propose(leader.store_id, *(put(b"k%d/%d" % (number, part), b"") for part in range(20)))
        for number in range(50)
    ]
    applied: dict[int, list[int]] = {}
    for node in cluster.nodes.values():
        applied[node.store_id] = count_changes(node)
    cluster.settle()
    cluster.ticks(3)
    assert all(call.succeeded for call in calls)
    assert sum(applied[leader.store_id]) == 1000
    for changes in applied.values():
        assert max(changes) <= 100 + 2 * 50, "a turn stops once it is full, after the entries of one Ready"
    last = leader.peer.storage.last_index()
    entries = leader.peer.storage.entries(leader.peer.storage.first_index(), LogIndex(last + 1), 1 << 30)
    sizes = [len(decode_operations(entry.data)[1]) for entry in entries if entry.data]
    assert max(sizes) <= 50
    assert sum(sizes) == 1000


def count_changes(node: Node) -> list[int]:
    """Return a list that gets, for each turn, how many operations it applied."""
    changes: list[int] = []
    turn = node.running.turn

    def counted() -> None:
        before = sum(1 for _pair in node.engine.scan(ColumnFamily.RAW, b"", None))
        turn()
        changes.append(sum(1 for _pair in node.engine.scan(ColumnFamily.RAW, b"", None)) - before)

    node.running.turn = counted  # type: ignore[method-assign]
    return changes


async def test_others_have_the_event_loop_between_full_turns(tmp_path: Path) -> None:
    cluster = Cluster(tmp_path, stores=1, config=replace(SMALL, tick_s=3600.0))
    cluster.settle()
    (leader,) = cluster.leaders()
    store, order = leader.running, list[str]()
    turn = store.turn

    def noted_turn() -> None:
        order.append("turn")
        turn()

    store.turn = noted_turn  # type: ignore[method-assign]
    calls = put_many(cluster, 1, 8)
    scope = Scope("store")
    StoreLoop(store).start(scope)
    while store.has_leftovers or "turn" not in order:
        order.append("other")
        await asyncio.sleep(0)
    leader.disk.submit = lambda work, on_done: on_done(work())  # type: ignore[method-assign,assignment]
    leader.disk.work()
    await scope.stop(10.0)
    assert all(call.answers for call in calls)
    assert "turn turn" not in " ".join(order[: order.index("turn") + 6]), "what is left waits for the others"


@pytest.mark.parametrize(("regions", "turns"), [(PAUSE_FROM - 1, 3), (PAUSE_FROM, 2)])
async def test_what_comes_shortly_after_a_turn_of_many_regions_shares_the_next_one(
    tmp_path: Path, regions: int, turns: int
) -> None:
    cluster = Cluster(tmp_path, stores=1, config=RaftStoreConfig(tick_s=3600.0))
    cluster.settle()
    leader = cluster.leaders()[0].running
    if regions > 1:
        leader.splits.split(
            REGION_ID, [b"%02d" % number for number in range(1, regions)], lambda _error, _regions: None
        )
    cluster.settle()
    assert len(leader.peers) == regions
    cluster.nodes[1].disk.is_held = True  # no turn comes of a sync
    ran: list[int] = []
    turn = leader.turn
    leader.turn = lambda: (ran.append(len(ran)), turn())[0]  # type: ignore[method-assign,assignment,return-value]
    scope = Scope("store")
    StoreLoop(leader).start(scope)
    await asyncio.sleep(0.1)
    ran.clear()
    calls = [cluster.put(1, b"k", b"1", region_id=region) for region in leader.peers]
    for _ in range(2):
        await asyncio.sleep(PAUSE_EACH_S)
        calls.append(cluster.put(1, b"k", b"2"))
    await asyncio.sleep(PAUSE_MAX_S * 2)
    assert len(ran) == turns
    cluster.nodes[1].disk.submit = lambda work, on_done: on_done(work())  # type: ignore[method-assign,assignment]
    cluster.nodes[1].disk.work()
    await scope.stop(10.0)
    assert all(call.answers == 1 for call in calls)


def test_a_busy_region_gets_a_share_of_a_turn_while_others_have_work_and_all_of_it_while_it_is_alone(
    tmp_path: Path,
) -> None:
    config = RaftStoreConfig(turn_bytes_max=1000 * KIB, region_turn_bytes_max=200 * KIB, append_bytes_max=100 * KIB)
    cluster = Cluster(tmp_path, config=config)
    leader = cluster.elect()
    leader.running.splits.split(REGION_ID, [b"m"], lambda _error, _regions: None)
    cluster.settle()
    [cold] = [region for region in leader.running.peers if region != REGION_ID]
    cluster.ticks(2)

    def entries_of_first_turn() -> int:
        before = leader.peer.node.last_index
        leader.running.turn()
        return leader.peer.node.last_index - before

    hot = [cluster.put(leader.store_id, b"x%d" % number, VALUE) for number in range(20)]
    quick = cluster.put(leader.store_id, b"a", b"1", region_id=RegionId(cold))
    first = leader.running.peers[cold].node.last_index
    assert entries_of_first_turn() == 2
    assert leader.running.peers[cold].node.last_index == first + 1
    cluster.settle()
    assert all(call.succeeded for call in [*hot, quick])
    hot = [cluster.put(leader.store_id, b"x%d" % number, VALUE) for number in range(20)]
    assert entries_of_first_turn() == 10
    cluster.settle()
    assert all(call.succeeded for call in hot)
