from __future__ import annotations

import asyncio
import random
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.helpers import WALL_START_MS, ManualClock
from tests.scheduler.helpers import TickingClock, open_scheduler

from pytinykv.lifecycle import Scope
from pytinykv.scheduler import InvalidInput, SchedulerStopped, TimestampUnavailable
from pytinykv.scheduler.tso import LOGICAL_COUNT, Issued, TimestampOracle, WaitForTime, WaitForWindow
from pytinykv.storage import MemoryEngine
from pytinykv.wire.timestamp import compose

WINDOW_MS = 3000


class OracleOnDisk:
    """An oracle and the window that its disk has; `restart` loses the oracle and keeps the disk."""

    def __init__(self) -> None:
        self.clock = ManualClock()
        self.durable_end_ms = 0
        self.waits = 0
        self.restart()

    def restart(self) -> None:
        self.oracle = TimestampOracle(self.durable_end_ms, window_ms=WINDOW_MS, ahead_max_ms=5)

    def issue(self, count: int = 1) -> tuple[int, int]:
        """The first and the last timestamp of a run, waiting as often as it takes."""
        while True:
            attempt = self.oracle.allocate(count, wall_ms=self.clock.wall, monotonic=self.clock.now)
            match attempt:
                case Issued(physical_ms, logical, got):
                    assert got == count
                    assert physical_ms < self.durable_end_ms, "issued beyond what is durable"
                    return compose(physical_ms, logical - count + 1), compose(physical_ms, logical)
                case WaitForTime(seconds):
                    assert seconds > 0
                    self.waits += 1
                    self.clock.advance(seconds)
                case WaitForWindow(end_ms):
                    assert end_ms > self.durable_end_ms
                    self.durable_end_ms = end_ms
                    self.oracle.on_reserved(end_ms)


Event = st.one_of(
    st.tuples(st.just("issue"), st.sampled_from([1, 2, 64, 1000, LOGICAL_COUNT // 2, LOGICAL_COUNT])),
    st.tuples(st.just("pass"), st.integers(0, 10_000)),
    st.tuples(st.just("step"), st.integers(-100_000, 100_000)),
    st.tuples(st.just("restart"), st.just(0)),
)


@settings(max_examples=200)
@given(st.lists(Event, max_size=40))
def test_timestamps_grow_strictly_whatever_clocks_and_restarts_do(events: list[tuple[str, int]]) -> None:
    """Every run lies above all runs before, in parts that clients can add without masking."""
    disk, newest = OracleOnDisk(), 0
    for kind, amount in events:
        match kind:
            case "issue":
                first, last = disk.issue(amount)
                assert first > newest
                assert last - first == amount - 1
                newest = last
            case "pass":
                disk.clock.advance(amount / 1000)
            case "step":
                disk.clock.wall += amount
            case "restart":
                disk.restart()


def physical(timestamp: int) -> int:
    return timestamp >> 18


def test_physical_part_follows_the_wall_clock() -> None:
    disk = OracleOnDisk()
    for _ in range(50):
        disk.clock.advance(0.73)
        assert physical(disk.issue()[0]) == disk.clock.wall
    assert disk.waits == 0


def test_after_a_step_back_time_goes_on_at_half_speed_until_the_clock_has_caught_up() -> None:
    disk = OracleOnDisk()
    start = physical(disk.issue()[0])
    disk.clock.wall -= 10_000
    disk.clock.advance(4)
    assert physical(disk.issue()[0]) == start + 2000
    disk.clock.advance(16)
    assert physical(disk.issue()[0]) == disk.clock.wall == start + 10_000
    disk.clock.advance(1)
    assert physical(disk.issue()[0]) == disk.clock.wall


def test_burst_runs_ahead_of_the_clock_by_a_bounded_amount_and_then_waits() -> None:
    disk = OracleOnDisk()
    disk.issue()
    ahead = [physical(disk.issue(LOGICAL_COUNT)[0]) - disk.clock.wall for _ in range(40)]
    assert max(ahead) == 5
    assert disk.waits > 0


def test_restart_begins_above_the_old_window_and_does_not_wait_for_it() -> None:
    disk = OracleOnDisk()
    disk.issue()
    old_end = disk.durable_end_ms
    disk.restart()
    first, _ = disk.issue(LOGICAL_COUNT)
    assert physical(first) == old_end
    disk.issue(LOGICAL_COUNT)
    assert disk.waits == 0


def test_window_is_asked_for_before_it_is_used_up() -> None:
    oracle = TimestampOracle(0, window_ms=WINDOW_MS, ahead_max_ms=5)
    attempt = oracle.allocate(1, wall_ms=WALL_START_MS, monotonic=0)
    assert attempt == WaitForWindow(WALL_START_MS + WINDOW_MS)
    oracle.on_reserved(WALL_START_MS + WINDOW_MS)
    assert isinstance(oracle.allocate(1, wall_ms=WALL_START_MS + 1000, monotonic=1), Issued)
    assert oracle.wants_window() is None
    assert isinstance(oracle.allocate(1, wall_ms=WALL_START_MS + 1600, monotonic=2), Issued)
    assert oracle.wants_window() == WALL_START_MS + 1600 + WINDOW_MS


async def timestamp(scheduler: object, count: int = 1) -> int:
    issued = await scheduler.allocate_timestamps(count)
    return compose(issued.physical_ms, issued.logical)


@pytest.mark.tinykv("TestTso")
@pytest.mark.tinykv("TestTSO")
@pytest.mark.tinykv("TestTSORace")
async def test_concurrent_callers_never_share_a_timestamp(
    engine: MemoryEngine, clock: ManualClock, scope: Scope
) -> None:
    scheduler = open_scheduler(engine, clock, scope)
    seen: list[int] = []

    async def caller() -> None:
        newest = 0
        for _ in range(30):
            current = await timestamp(scheduler, 10)
            assert current >= newest + 10
            newest = current
            seen.append(current)
            clock.advance(0.01)
            await asyncio.sleep(0)

    callers = [scope.start(f"caller-{index}", caller) for index in range(10)]
    for one in callers:
        await one.wait()
    seen.sort()
    assert all(later - earlier >= 10 for earlier, later in pairwise(seen))
    await scheduler.stop()


@pytest.mark.tinykv("TestTsoWithoutCount")
@pytest.mark.parametrize("count", [0, -1, LOGICAL_COUNT + 1])
async def test_count_out_of_range_is_refused(
    engine: MemoryEngine, clock: ManualClock, scope: Scope, count: int
) -> None:
    scheduler = open_scheduler(engine, clock, scope)
    with pytest.raises(InvalidInput, match="tso count should be positive"):
        await scheduler.allocate_timestamps(count)
    assert (await scheduler.allocate_timestamps(LOGICAL_COUNT)).logical == LOGICAL_COUNT - 1
    await scheduler.stop()


async def test_timestamps_grow_over_a_crash_even_if_the_clock_went_back(
    engine: MemoryEngine, clock: ManualClock, scope: Scope
) -> None:
    scheduler = open_scheduler(engine, clock, scope)
    newest = await timestamp(scheduler)
    for _ in range(5):
        engine = engine.crash(random.Random(3))
        clock.wall -= 60_000
        scheduler = open_scheduler(engine, clock, scope)
        current = await timestamp(scheduler)
        assert current > newest
        newest = current
    await scheduler.stop()


async def test_stop_in_good_order_gives_the_window_back(engine: MemoryEngine, clock: ManualClock, scope: Scope) -> None:
    scheduler = open_scheduler(engine, clock, scope)
    newest = await timestamp(scheduler)
    await scheduler.stop()
    again = open_scheduler(engine.crash(random.Random(3)), clock, scope)
    current = await timestamp(again)
    assert current > newest
    assert physical(current) - clock.wall <= 1
    await again.stop()


async def test_burst_waits_for_the_clock_and_then_goes_on(engine: MemoryEngine, scope: Scope) -> None:
    clock = TickingClock()
    scheduler = open_scheduler(engine, clock, scope)
    newest = 0
    for _ in range(20):
        current = await timestamp(scheduler, LOGICAL_COUNT)
        assert current > newest
        newest = current
    assert physical(newest) - clock.wall <= 6
    await scheduler.stop()


async def test_clock_that_stands_still_ends_in_an_error_not_in_a_hang(
    engine: MemoryEngine, clock: ManualClock, scope: Scope
) -> None:
    scheduler = open_scheduler(engine, clock, scope, tso_wait_max_s=0.05)

    async def use_up() -> None:
        while True:
            await scheduler.allocate_timestamps(LOGICAL_COUNT)

    with pytest.raises(TimestampUnavailable, match="does not go on"):
        await scope.start("caller", use_up).wait()
    await scheduler.stop()
    with pytest.raises(SchedulerStopped):
        await scheduler.allocate_timestamps()
