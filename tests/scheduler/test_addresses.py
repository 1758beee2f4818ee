"""One process serves a store at a time: another one, perhaps on a copy of the data, may not while the first may be alive."""

from __future__ import annotations

import asyncio
import random

import msgspec
import pytest
from tests.helpers import ManualClock
from tests.scheduler.helpers import bootstrapped, open_scheduler, store_meta

from pytinykv.lifecycle import Scope
from pytinykv.model import StoreId
from pytinykv.scheduler import DuplicateAddress, Scheduler, StoreInUse
from pytinykv.scheduler.records import StoreMeta, StoreStats
from pytinykv.storage import MemoryEngine

HERE, THERE = "10.0.0.1:20160", "10.0.0.2:20160"
HOLD_S = 10.0


def process(address: str, started: int) -> StoreMeta:
    return msgspec.structs.replace(store_meta(3, address), start_timestamp=started)


def heartbeat(scheduler: Scheduler, started: int) -> None:
    scheduler.store_heartbeat(StoreStats(StoreId(3), start_time=started))


@pytest.fixture
async def scheduler(engine: MemoryEngine, clock: ManualClock, scope: Scope) -> Scheduler:
    """A scheduler with a store 3 that runs at `HERE` since second 100."""
    scheduler = open_scheduler(engine, clock, scope, store_address_hold_s=HOLD_S)
    await bootstrapped(scheduler, (1, 2))
    await scheduler.put_store(process(HERE, 100))
    heartbeat(scheduler, 100)
    return scheduler


async def test_a_copy_is_refused_while_the_store_is_heard_from(scheduler: Scheduler, clock: ManualClock) -> None:
    for _ in range(30):
        clock.advance(HOLD_S * 0.9)
        with pytest.raises(StoreInUse, match=rf"store 3 is served at {HERE}, heard of 9.0 s ago, .* at {THERE}"):
            await scheduler.put_store(process(THERE, 200))
        heartbeat(scheduler, 100)
    assert scheduler.store(3).meta == process(HERE, 100)
    await scheduler.stop()


async def test_a_store_that_was_killed_may_move_after_a_silence(scheduler: Scheduler, clock: ManualClock) -> None:
    clock.advance(HOLD_S)
    await scheduler.put_store(process(THERE, 200))
    heartbeat(scheduler, 200)
    assert scheduler.store(3).meta.address == THERE
    await scheduler.stop()


async def test_a_store_that_was_killed_may_come_back_at_its_address_at_once(scheduler: Scheduler) -> None:
    await scheduler.put_store(process(HERE, 200))
    heartbeat(scheduler, 200)
    await scheduler.stop()


async def test_a_store_that_stopped_may_move_at_once(scheduler: Scheduler) -> None:
    await scheduler.store_stopped(3, 100)
    assert scheduler.store(3).meta.start_timestamp == 0
    await scheduler.put_store(process(THERE, 200))
    heartbeat(scheduler, 200)
    await scheduler.stop()


async def test_a_process_that_was_replaced_can_not_say_that_the_store_has_stopped(scheduler: Scheduler) -> None:
    await scheduler.put_store(process(HERE, 200))
    await scheduler.store_stopped(3, 100)
    await scheduler.store_stopped(99, 100)
    with pytest.raises(StoreInUse):
        await scheduler.put_store(process(THERE, 300))
    await scheduler.stop()


async def test_a_process_that_was_replaced_is_told_to_end(scheduler: Scheduler, clock: ManualClock) -> None:
    """It was only cut off, or paused, while the other one came."""
    clock.advance(HOLD_S)
    await scheduler.put_store(process(THERE, 200))
    with pytest.raises(StoreInUse, match=f"served by another process now, at {THERE}"):
        heartbeat(scheduler, 100)
    heartbeat(scheduler, 200)
    await scheduler.stop()


async def test_of_two_that_start_in_the_same_moment_one_is_refused(scheduler: Scheduler, clock: ManualClock) -> None:
    clock.advance(HOLD_S)
    outcomes = await asyncio.gather(
        scheduler.put_store(process(THERE, 200)), scheduler.put_store(process(HERE, 201)), return_exceptions=True
    )
    assert outcomes[0] is None
    assert isinstance(outcomes[1], StoreInUse)
    assert THERE in str(outcomes[1])
    assert HERE in str(outcomes[1])
    assert scheduler.store(3).meta.address == THERE
    await scheduler.stop()


@pytest.mark.parametrize("stopped", [False, True])
async def test_after_a_restart_the_scheduler_waits_to_hear_from_the_store(
    scheduler: Scheduler, engine: MemoryEngine, clock: ManualClock, scope: Scope, stopped: bool
) -> None:
    """It does not know when the store was heard from last; but that one has stopped is on disk."""
    if stopped:
        await scheduler.store_stopped(3, 100)
    clock.advance(2 * HOLD_S)
    again = open_scheduler(engine.crash(random.Random(1)), clock, scope, store_address_hold_s=HOLD_S)
    if not stopped:
        with pytest.raises(StoreInUse):
            await again.put_store(process(THERE, 200))
        clock.advance(HOLD_S)
    await again.put_store(process(THERE, 200))
    await again.stop()
    await scheduler.stop()


async def test_a_registration_that_fails_takes_no_address(scheduler: Scheduler, clock: ManualClock) -> None:
    clock.advance(HOLD_S)
    scheduler.store_heartbeat(StoreStats(StoreId(2), start_time=100))
    with pytest.raises(DuplicateAddress):
        await scheduler.put_store(process(store_meta(2).address, 200))
    await scheduler.put_store(process(HERE, 201))
    await scheduler.stop()
