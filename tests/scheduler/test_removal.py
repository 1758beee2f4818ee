"""Stores that go: by an administrator's word, or by themselves."""

from __future__ import annotations

import pytest
from tests.helpers import ManualClock
from tests.scheduler.helpers import bootstrapped, open_scheduler, region, store_meta

from pytinykv.lifecycle import Scope
from pytinykv.model import StoreId
from pytinykv.scheduler import Scheduler, StoreInUse, StoreTombstone
from pytinykv.scheduler.errors import CannotRemove
from pytinykv.scheduler.operators import AddLearner
from pytinykv.scheduler.records import StoreState, StoreStats
from pytinykv.scheduler.removal import Removal
from pytinykv.storage import MemoryEngine

DOWN_S = 1800.0


def heartbeat(scheduler: Scheduler, *stores: int, used: float = 0.1) -> None:
    for store_id in stores:
        available = round(1000 * (1 - used))
        scheduler.store_heartbeat(StoreStats(StoreId(store_id), capacity=1000, available=available, start_time=100))


async def started(engine: MemoryEngine, clock: ManualClock, scope: Scope, *stores: int) -> Scheduler:
    """A scheduler with stores, and one region on the first three of them."""
    scheduler = open_scheduler(engine, clock, scope, max_store_down_time_s=DOWN_S)
    await bootstrapped(scheduler, stores)
    heartbeat(scheduler, *stores)
    scheduler.region_heartbeat(region(10, stores=stores[:3], version=2))
    return scheduler


async def test_the_last_store_that_can_take_over_decides(
    engine: MemoryEngine, clock: ManualClock, scope: Scope
) -> None:
    scheduler = await started(engine, clock, scope, 1, 2, 3, 4)
    heartbeat(scheduler, 4, used=0.9)
    with pytest.raises(CannotRemove, match=r"without store 3 there are only 2 that can hold one \(1, 2\)"):
        await scheduler.remove_store(3)
    heartbeat(scheduler, 4)
    assert await scheduler.remove_store(3) == Removal(StoreState.OFFLINE, 1, 10, "")
    assert await scheduler.remove_store(3) == Removal(StoreState.OFFLINE, 1, 10, ""), "may be repeated"
    with pytest.raises(CannotRemove):
        await scheduler.remove_store(2)
    assert scheduler.store(2).meta.state is StoreState.UP
    await scheduler.stop()


async def test_an_empty_store_that_is_needed_stays_too(engine: MemoryEngine, clock: ManualClock, scope: Scope) -> None:
    scheduler = await started(engine, clock, scope, 1)
    await scheduler.put_store(store_meta(2))
    for store_id in (1, 2):
        with pytest.raises(CannotRemove):
            await scheduler.remove_store(store_id)
    await scheduler.stop()


async def test_a_silent_store_is_removed_at_once_and_what_is_missing_is_said(
    engine: MemoryEngine, clock: ManualClock, scope: Scope
) -> None:
    scheduler = await started(engine, clock, scope, 1, 2, 3)
    clock.advance(60)
    heartbeat(scheduler, 1, 2)
    removal = await scheduler.remove_store(3)
    assert (removal.state, removal.regions_left) == (StoreState.OFFLINE, 1)
    assert "only 2 that can hold one (1, 2): start another store first" in removal.obstacle
    await scheduler.put_store(store_meta(4))
    heartbeat(scheduler, 4)
    assert (await scheduler.remove_store(3)).obstacle == ""
    scheduler.region_heartbeat(region(10, stores=(1, 2, 3), version=2))
    operator = scheduler.operators.get(10)
    assert operator is not None, "it is replaced without waiting for half an hour"
    assert isinstance(operator.steps[0], AddLearner)
    await scheduler.stop()


async def test_a_lost_store_that_holds_nothing_becomes_a_tombstone_by_itself(
    engine: MemoryEngine, clock: ManualClock, scope: Scope
) -> None:
    scheduler = await started(engine, clock, scope, 1, 2, 3, 4, 5)
    clock.advance(DOWN_S - 1)
    heartbeat(scheduler, 1, 2, 4)
    await scheduler._mark_empty_stores()
    assert scheduler.store(5).meta.state is StoreState.UP, "it may come back"
    clock.advance(2)
    await scheduler._mark_empty_stores()
    assert scheduler.store(5).meta.state is StoreState.TOMBSTONE
    assert scheduler.store(3).meta.state is StoreState.UP, "its peer was not replaced yet"
    scheduler.region_heartbeat(region(10, stores=(1, 2, 4), version=2, conf_ver=4))
    await scheduler._mark_empty_stores()
    assert scheduler.store(3).meta.state is StoreState.TOMBSTONE
    for come_back in (lambda: scheduler.put_store(store_meta(3)), lambda: scheduler.put_store(store_meta(5))):
        with pytest.raises(StoreTombstone, match="start with an empty data directory"):
            await come_back()
    with pytest.raises(StoreTombstone):
        heartbeat(scheduler, 3)
    await scheduler.stop()


async def test_a_store_whose_disk_was_lost_is_replaced_by_an_empty_one_at_its_address(
    engine: MemoryEngine, clock: ManualClock, scope: Scope
) -> None:
    scheduler = await started(engine, clock, scope, 1, 2, 3)
    clock.advance(10)
    heartbeat(scheduler, 1, 2)
    await scheduler.put_store(store_meta(4, store_meta(3).address))
    assert (scheduler.store(3).meta.address, scheduler.store(4).meta.address) == ("", "127.0.0.1:20003")
    await scheduler.remove_store(3)
    scheduler.region_heartbeat(region(10, stores=(1, 2, 4), version=2, conf_ver=4))
    await scheduler._mark_empty_stores()
    assert scheduler.store(3).meta.state is StoreState.TOMBSTONE
    await scheduler.stop()


async def test_three_stores_swap_their_addresses(engine: MemoryEngine, clock: ManualClock, scope: Scope) -> None:
    scheduler = await started(engine, clock, scope, 1, 2, 3)
    for store_id in (1, 2, 3):
        await scheduler.store_stopped(store_id, 100)
    for store_id, owner in ((1, 2), (2, 3), (3, 1)):
        await scheduler.put_store(store_meta(store_id, store_meta(owner).address))
    assert [scheduler.store(store).meta.address[-1] for store in (1, 2, 3)] == ["2", "3", "1"]
    heartbeat(scheduler, 1, 2, 3)
    await scheduler.stop()


async def test_a_store_that_was_silent_and_lost_its_address_is_told_to_start_again(
    engine: MemoryEngine, clock: ManualClock, scope: Scope
) -> None:
    scheduler = await started(engine, clock, scope, 1, 2, 3)
    clock.advance(10)
    await scheduler.put_store(store_meta(4, store_meta(3).address))
    assert scheduler.store(3).silence_s(clock.monotonic()) == 10, "it was not heard by that"
    with pytest.raises(StoreInUse, match="lost its address"):
        heartbeat(scheduler, 3)
    await scheduler.put_store(store_meta(3, "127.0.0.1:9"))
    heartbeat(scheduler, 3)
    await scheduler.stop()
