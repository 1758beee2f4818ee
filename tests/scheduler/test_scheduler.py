from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from typing import Any, TypeVar

import pytest
from tests.scheduler.helpers import (
    ManualClock,
    apply_order,
    bootstrapped,
    open_scheduler,
    peer,
    region,
    store_meta,
)

from pytinykv.lifecycle import Scope
from pytinykv.model import StoreId
from pytinykv.scheduler import (
    AlreadyBootstrapped,
    InvalidInput,
    LookupIncomplete,
    NotBootstrapped,
    Scheduler,
    SchedulerConfig,
    SchedulerStopped,
    StaleRegion,
    StoreHealth,
    StoreNotFound,
)
from pytinykv.scheduler.operators import ChangeKind, ChangePeer, Order
from pytinykv.scheduler.records import StoreState, StoreStats
from pytinykv.storage import Engine, EngineError, MemoryEngine, RocksEngine

T = TypeVar("T")


class HeldWorker:
    """Holds the work back until told to do it, as a slow disk would."""

    def __init__(self) -> None:
        self.held: list[tuple[Callable[[], Any], Callable[[Any], None]]] = []

    def submit(self, work: Callable[[], T], on_done: Callable[[T | BaseException], None]) -> None:
        self.held.append((work, on_done))

    def do_one(self) -> None:
        work, on_done = self.held.pop(0)
        on_done(work())


def heartbeat(scheduler: Scheduler, *stores: int) -> None:
    for store in stores:
        scheduler.store_heartbeat(StoreStats(StoreId(store), capacity=1000, available=900))


@pytest.mark.tinykv("TestClusterID")
async def test_cluster_id_is_made_once_and_survives(engine: MemoryEngine, clock: ManualClock, scope: Scope) -> None:
    scheduler = open_scheduler(engine, clock, scope)
    cluster_id = scheduler.cluster_id
    assert 0 < cluster_id < 1 << 64
    await scheduler.stop()
    again = Scheduler.open(engine.crash(random.Random(1)), clock, scope=scope, rng=random.Random(99))
    assert again.cluster_id == cluster_id
    other = Scheduler.open(MemoryEngine(), clock, scope=scope, rng=random.Random(99))
    assert other.cluster_id != cluster_id
    await again.stop()
    await other.stop()


@pytest.mark.tinykv("TestBootstrap")
async def test_of_many_stores_that_bootstrap_at_once_one_succeeds(
    engine: MemoryEngine, clock: ManualClock, scope: Scope
) -> None:
    scheduler = open_scheduler(engine, clock, scope)
    assert not scheduler.is_bootstrapped
    attempts = [
        scope.start(f"store-{n}", scheduler.bootstrap, store_meta(n), region(n, stores=(n,)).meta) for n in range(1, 6)
    ]
    outcomes = []
    for attempt in attempts:
        try:
            await attempt.wait()
            outcomes.append("first")
        except AlreadyBootstrapped:
            outcomes.append("too late")
    assert sorted(outcomes) == ["first", *["too late"] * 4]
    first = outcomes.index("first") + 1
    assert list(scheduler.state.stores) == [first]
    await scheduler.bootstrap(store_meta(first), region(first, stores=(first,)).meta)
    with pytest.raises(LookupIncomplete, match="leader of region"):
        scheduler.cluster.lookup(b"")
    await scheduler.stop()


async def test_before_bootstrap_there_is_no_cluster(engine: MemoryEngine, clock: ManualClock, scope: Scope) -> None:
    scheduler = open_scheduler(engine, clock, scope)
    with pytest.raises(NotBootstrapped):
        await scheduler.put_store(store_meta(1))
    with pytest.raises(NotBootstrapped):
        scheduler.store_heartbeat(StoreStats(StoreId(1)))
    with pytest.raises(NotBootstrapped):
        scheduler.region_heartbeat(region(1))
    with pytest.raises(NotBootstrapped):
        await scheduler.ask_split(region(1).meta, 1)
    assert await scheduler.allocate_ids() == 1
    await scheduler.allocate_timestamps()
    await scheduler.stop()


@pytest.mark.tinykv("TestID")
@pytest.mark.tinykv("TestCommand")
async def test_ids_are_unique_among_concurrent_callers_and_over_crashes(
    engine: MemoryEngine, clock: ManualClock, scope: Scope
) -> None:
    seen: list[int] = []
    for round_number in range(3):
        scheduler = open_scheduler(engine, clock, scope, id_window=10)

        async def caller(scheduler: Scheduler, rng: random.Random) -> None:
            for _ in range(40):
                count = rng.choice([1, 1, 1, 3, 25])
                first = await scheduler.allocate_ids(count)
                seen.extend(range(first, first + count))

        callers = [scope.start(f"caller-{n}", caller, scheduler, random.Random(n)) for n in range(5)]
        for one in callers:
            await one.wait()
        if round_number < 2:
            engine = engine.crash(random.Random(round_number))
    assert len(seen) == len(set(seen))
    assert min(seen) == 1
    assert seen[-1] < len(seen) + 3 * 100
    await scheduler.stop()


@pytest.mark.parametrize("count", [0, -1, 1 << 40])
async def test_absurd_number_of_ids_is_refused(
    engine: MemoryEngine, clock: ManualClock, scope: Scope, count: int
) -> None:
    scheduler = open_scheduler(engine, clock, scope)
    with pytest.raises(InvalidInput, match="ids at once"):
        await scheduler.allocate_ids(count)
    await scheduler.stop()


async def test_ids_skip_those_that_stores_brought_along(engine: MemoryEngine, clock: ManualClock, scope: Scope) -> None:
    scheduler = open_scheduler(engine, clock, scope)
    await scheduler.bootstrap(store_meta(1), region(2, stores=(1,)).meta)
    assert await scheduler.allocate_ids() == 2002
    await scheduler.put_store(store_meta(5000))
    assert await scheduler.allocate_ids() == 5001
    await scheduler.stop()


@pytest.mark.tinykv("TestRaftClusterRestart")
@pytest.mark.tinykv("TestLoadClusterInfo")
@pytest.mark.tinykv("TestLoadGCSafePoint")
@pytest.mark.parametrize("how", ["stop", "crash"])
async def test_state_survives_a_restart(engine: MemoryEngine, clock: ManualClock, scope: Scope, how: str) -> None:
    scheduler = open_scheduler(engine, clock, scope)
    info = await bootstrapped(scheduler)
    heartbeat(scheduler, 1, 2, 3)
    scheduler.region_heartbeat(info)
    await scheduler.update_gc_safe_point(77)
    await scheduler.put_cluster_config(5)
    await scheduler.take_offline(3)
    if how == "stop":
        await scheduler.stop()
    again = open_scheduler(engine.crash(random.Random(2)), clock, scope)
    assert again.is_bootstrapped
    assert again.cluster_id == scheduler.cluster_id
    assert again.state.stores == scheduler.state.stores
    assert again.store(3).health(again.now, again.config) is StoreHealth.OFFLINE
    assert (again.state.meta.gc_safe_point, again.max_replicas) == (77, 5)
    assert again.cluster.regions.get(10) is not None
    with pytest.raises(LookupIncomplete, match="leader of region 10 is not known"):
        again.cluster.lookup(b"key")
    again.region_heartbeat(info)
    assert again.cluster.lookup(b"key").leader == peer(10, 1)
    await again.stop()
    await scheduler.stop()


@pytest.mark.tinykv("TestRestart")
async def test_region_goes_on_growing_after_a_restart(engine: MemoryEngine, clock: ManualClock, scope: Scope) -> None:
    scheduler = open_scheduler(engine, clock, scope)
    info = await bootstrapped(scheduler)
    order = scheduler.region_heartbeat(info)
    assert order is not None
    info = apply_order(info, order)
    await scheduler.stop()
    again = open_scheduler(engine.crash(random.Random(2)), clock, scope)
    order = again.region_heartbeat(info)
    assert order is not None
    info = apply_order(info, order)
    assert sorted(info.meta.store_ids) == [1, 2, 3]
    for _ in range(2):
        order = again.region_heartbeat(info)
        assert order is not None
        info = apply_order(info, order)
    assert len(info.meta.voters) == 3
    assert again.region_heartbeat(info) is None
    assert len({one.id for one in info.meta.peers}) == 3
    await again.stop()


async def test_regions_are_remembered_and_forgotten_on_disk(
    engine: MemoryEngine, clock: ManualClock, scope: Scope
) -> None:
    scheduler = open_scheduler(engine, clock, scope)
    await bootstrapped(scheduler)
    scheduler.region_heartbeat(region(10, b"m", version=2))
    scheduler.region_heartbeat(region(11, b"", b"m", version=2))
    scheduler.region_heartbeat(region(11, version=3))
    await scheduler.allocate_timestamps()  # its sync takes the regions along
    await scheduler.stop()
    again = open_scheduler(engine.crash(random.Random(2)), clock, scope)
    assert [one.id for one in again.cluster.regions] == [11]
    await again.stop()


async def test_silent_store_is_not_blamed_for_the_time_without_a_scheduler(
    engine: MemoryEngine, clock: ManualClock, scope: Scope
) -> None:
    scheduler = open_scheduler(engine, clock, scope)
    await bootstrapped(scheduler)
    await scheduler.stop()
    clock.advance(100_000)
    again = open_scheduler(engine.crash(random.Random(2)), clock, scope)
    assert again.store(2).health(again.now, again.config) is StoreHealth.UP
    clock.advance(1800)
    assert again.store(2).health(again.now, again.config) is StoreHealth.DOWN
    await again.stop()


async def test_nothing_is_visible_before_it_is_durable(engine: MemoryEngine, clock: ManualClock, scope: Scope) -> None:
    worker = HeldWorker()
    scheduler = Scheduler.open(engine, clock, scope=scope, worker=worker, rng=random.Random(1))
    first = scope.start("first", scheduler.bootstrap, store_meta(1), region(10, stores=(1,)).meta)
    second = scope.start("second", scheduler.put_store, store_meta(2))
    third = scope.start("third", scheduler.put_store, store_meta(3, store_meta(2).address))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert not scheduler.is_bootstrapped
    assert len(worker.held) == 1
    worker.do_one()
    await first.wait()
    assert scheduler.is_bootstrapped
    with pytest.raises(StoreNotFound):
        scheduler.store(2)
    worker.do_one()
    await second.wait()
    with pytest.raises(Exception, match="duplicated store address"):
        await third.wait()
    assert worker.held == [], "two commands, one sync"
    assert scheduler.store(2).meta == store_meta(2)
    await scheduler.stop()


async def test_stop_ends_those_who_wait_for_the_disk(engine: MemoryEngine, clock: ManualClock, scope: Scope) -> None:
    worker = HeldWorker()
    scheduler = Scheduler.open(engine, clock, scope=scope, worker=worker, rng=random.Random(1))
    waiting = [
        scope.start("ids", scheduler.allocate_ids),
        scope.start("store", scheduler.bootstrap, store_meta(1), region(10, stores=(1,)).meta),
        scope.start("tso", scheduler.allocate_timestamps),
    ]
    await asyncio.sleep(0)
    await scheduler.stop()
    await scheduler.stop()
    for one in waiting:
        with pytest.raises(SchedulerStopped):
            await one.wait()
    with pytest.raises(SchedulerStopped):
        await scheduler.allocate_ids()
    worker.do_one()


async def test_cancelled_caller_leaves_the_round_intact(engine: MemoryEngine, clock: ManualClock, scope: Scope) -> None:
    worker = HeldWorker()
    scheduler = Scheduler.open(engine, clock, scope=scope, worker=worker, rng=random.Random(1))
    call = scope.start("call", scheduler.bootstrap, store_meta(1), region(10, stores=(1,)).meta)
    await asyncio.sleep(0)
    call.cancel()
    await asyncio.sleep(0)
    worker.do_one()
    assert scheduler.is_bootstrapped
    await scheduler.stop()


@pytest.mark.parametrize("fault", ["write_error", "sync_error"])
async def test_failing_disk_ends_the_scheduler_with_an_error(
    engine: MemoryEngine, clock: ManualClock, scope: Scope, fault: str
) -> None:
    failures: list[BaseException] = []
    scheduler = Scheduler.open(engine, clock, scope=scope, rng=random.Random(1), on_failure=failures.append)
    setattr(engine.faults, fault, EngineError("the disk is on fire"))
    with pytest.raises(SchedulerStopped, match="the disk is on fire"):
        await scheduler.bootstrap(store_meta(1), region(10, stores=(1,)).meta)
    assert [str(one) for one in failures] == ["the disk is on fire"]
    with pytest.raises(SchedulerStopped):
        await scheduler.allocate_timestamps()
    await scheduler.stop()


@pytest.mark.tinykv("TestAskSplit")
async def test_split_gets_fresh_ids_for_regions_and_peers(
    engine: MemoryEngine, clock: ManualClock, scope: Scope
) -> None:
    scheduler = open_scheduler(engine, clock, scope)
    await bootstrapped(scheduler)
    info = region(10, version=4)
    scheduler.region_heartbeat(info)
    splits = await scheduler.ask_split(info.meta, 2) + await scheduler.ask_split(info.meta, 1)
    ids = [one for split in splits for one in (split.region_id, *split.peer_ids)]
    assert len(ids) == len(set(ids)) == 12
    assert not set(ids) & {10, 10001, 1, 2, 3}
    with pytest.raises(StaleRegion):
        await scheduler.ask_split(region(10, version=3).meta, 1)
    with pytest.raises(LookupIncomplete):
        await scheduler.ask_split(region(99).meta, 1)
    for count in (0, -1, 1 << 30):
        with pytest.raises(InvalidInput):
            await scheduler.ask_split(info.meta, count)
    await scheduler.stop()


@pytest.mark.tinykv("TestReportSplit")
async def test_reported_split_must_lie_side_by_side(engine: MemoryEngine, clock: ManualClock, scope: Scope) -> None:
    scheduler = open_scheduler(engine, clock, scope)
    await bootstrapped(scheduler)
    left, right = region(1, b"a", b"b").meta, region(2, b"b", b"c").meta
    scheduler.report_split([left, right])
    for wrong in ([right, left], [left], [], [region(3).meta, left]):
        with pytest.raises(InvalidInput):
            scheduler.report_split(wrong)
    await scheduler.stop()


async def test_tick_pushes_orders_to_the_store_of_the_leader(
    engine: MemoryEngine, clock: ManualClock, scope: Scope
) -> None:
    scheduler = open_scheduler(engine, clock, scope)
    info = await bootstrapped(scheduler, stores=(1,))
    pushed: list[Order] = []
    scheduler.bind(1, pushed.append)
    assert scheduler.region_heartbeat(info) is None
    scheduler.tick()
    assert pushed == []
    await scheduler.put_store(store_meta(2))
    scheduler.tick()
    scheduler.tick()
    order, again = pushed
    assert again == order, "it may have been lost, or refused"
    assert (order.region_id, order.leader) == (10, peer(10, 1))
    assert isinstance(order.instruction, ChangePeer)
    assert (order.instruction.kind, order.instruction.peer.store_id) == (ChangeKind.ADD_LEARNER, 2)
    assert scheduler.region_heartbeat(info) == order
    scheduler.unbind(pushed.append)
    await scheduler.stop()


async def test_the_first_heartbeat_of_a_store_lets_regions_that_waited_for_it_grow(
    engine: MemoryEngine, clock: ManualClock, scope: Scope
) -> None:
    scheduler = open_scheduler(engine, clock, scope)
    info = await bootstrapped(scheduler, stores=(1,))
    pushed: list[Order] = []
    scheduler.bind(1, pushed.append)
    scheduler.region_heartbeat(info)
    await scheduler.put_store(store_meta(2))
    assert pushed == []
    for _ in range(2):
        scheduler.store_heartbeat(StoreStats(StoreId(2)))
        assert len(pushed) == 1
    await scheduler.stop()


async def test_step_of_the_wall_clock_is_reported_once(
    engine: MemoryEngine, clock: ManualClock, scope: Scope, caplog: pytest.LogCaptureFixture
) -> None:
    scheduler = open_scheduler(engine, clock, scope)
    clock.advance(60)
    scheduler.tick()
    assert "wall clock" not in caplog.text
    clock.wall -= 90_000
    scheduler.tick()
    scheduler.tick()
    assert [one for one in caplog.messages if "wall clock" in one] == [
        "the wall clock stepped by -90.0 s; timestamps go on growing"
    ]
    await scheduler.stop()


async def test_data_older_than_the_cluster_is_noticed_and_no_id_is_given_twice(
    engine: MemoryEngine, clock: ManualClock, scope: Scope, caplog: pytest.LogCaptureFixture
) -> None:
    scheduler = open_scheduler(engine, clock, scope, id_window=100)
    await bootstrapped(scheduler)
    assert await scheduler.allocate_ids() < 50_003
    scheduler.region_heartbeat(region(50, version=2, stores=(1, 2, 3)))
    assert await scheduler.allocate_ids() > 50_003 + 1_000_000, "others may be in use that no region shows"
    assert "this data is older than the cluster" in caplog.text
    caplog.clear()
    scheduler.region_heartbeat(region(50, version=2, stores=(1, 2, 3)))
    assert "older" not in caplog.text
    again = open_scheduler(engine.crash(random.Random(1)), clock, scope)
    assert await again.allocate_ids() > 50_003 + 1_000_000, "it is durable"
    await again.stop()
    await scheduler.stop()


async def test_patrol_goes_round_all_regions(engine: MemoryEngine, clock: ManualClock, scope: Scope) -> None:
    scheduler = open_scheduler(
        engine, clock, scope, patrol_regions_max=3, store_operators_max=100, leader_operators_max=0
    )
    await bootstrapped(scheduler)
    keys = [b"", *(b"%02d" % n for n in range(1, 10)), b""]
    for n in range(10):
        scheduler.region_heartbeat(region(20 + n, keys[n], keys[n + 1], version=2))
    await scheduler.put_store(store_meta(4))
    await scheduler.take_offline(3)
    pushed: list[Order] = []
    scheduler.bind(1, pushed.append)
    for _ in range(4):
        scheduler.tick()
    assert [order.region_id for order in pushed] == list(range(20, 30))
    await scheduler.stop()


async def test_drained_store_becomes_a_tombstone_once_leaders_have_reported_all_regions(
    engine: MemoryEngine, clock: ManualClock, scope: Scope
) -> None:
    scheduler = open_scheduler(engine, clock, scope, tick_interval_s=0.001)
    await bootstrapped(scheduler)
    await scheduler.take_offline(3)

    async def tick() -> None:
        await scheduler._mark_empty_stores()

    await tick()
    assert scheduler.store(3).meta.state is StoreState.OFFLINE, "no leader has spoken yet"
    scheduler.region_heartbeat(region(10, stores=(1, 2, 3)))
    await tick()
    assert scheduler.store(3).meta.state is StoreState.OFFLINE, "a peer is there"
    scheduler.region_heartbeat(region(10, stores=(1, 2), conf_ver=2))
    await tick()
    assert scheduler.store(3).meta.state is StoreState.TOMBSTONE
    await scheduler.stop()


def test_configuration_that_contradicts_itself_is_refused() -> None:
    SchedulerConfig().validate()
    for wrong in (
        {"max_replicas": 0},
        {"id_window": 0},
        {"tick_interval_s": 0},
        {"tso_wait_max_s": -1},
        {"store_disconnect_time_s": 0},
        {"max_store_down_time_s": -1},
        {"tso_ahead_max_ms": 2000},
        {"low_space_ratio": 1.5},
    ):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            SchedulerConfig(**wrong).validate()


async def test_state_survives_on_a_real_disk(tmp_path: Any, clock: ManualClock, scope: Scope) -> None:
    engine: Engine = RocksEngine.open(tmp_path / "db")
    scheduler = open_scheduler(engine, clock, scope)
    await bootstrapped(scheduler)
    first = await scheduler.allocate_ids()
    issued = await scheduler.allocate_timestamps()
    cluster_id = scheduler.cluster_id
    await scheduler.stop()
    engine.close()
    engine = RocksEngine.open(tmp_path / "db")
    again = open_scheduler(engine, clock, scope)
    assert again.cluster_id == cluster_id
    assert sorted(again.state.stores) == [1, 2, 3]
    assert await again.allocate_ids() > first
    later = await again.allocate_timestamps()
    assert (later.physical_ms, later.logical) > (issued.physical_ms, issued.logical)
    await again.stop()
    engine.close()
