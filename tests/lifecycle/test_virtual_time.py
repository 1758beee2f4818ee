"""A scope under a loop whose clock jumps: all of its waiting is in loop time and for events."""

from __future__ import annotations

import asyncio
import heapq
from collections.abc import Iterator

import pytest
from tests.helpers import Stubborn, forever

from pytinykv.lifecycle import Scope, StageOutcome


class JumpingLoop(asyncio.SelectorEventLoop):
    """Never sleeps: when nothing is ready, its clock jumps to the next timer."""

    def __init__(self) -> None:
        super().__init__()
        self._now = 0.0

    def time(self) -> float:
        return self._now

    def _run_once(self) -> None:
        while self._scheduled and self._scheduled[0]._cancelled:
            timer = heapq.heappop(self._scheduled)
            timer._scheduled = False
            self._timer_cancelled_count -= 1
        if not self._ready and self._scheduled:
            self._now = max(self._now, self._scheduled[0]._when)
        super()._run_once()


@pytest.fixture
def loop() -> Iterator[JumpingLoop]:
    made = JumpingLoop()
    yield made
    made.run_until_complete(asyncio.sleep(0))
    made.close()


def test_deadlines_are_kept_in_loop_time(loop: JumpingLoop) -> None:
    async def main() -> None:
        scope, mule = Scope("virtual"), Stubborn()
        scope.on_stop("slow", forever, deadline_s=100)
        scope.on_stop("minute", lambda: asyncio.sleep(60), deadline_s=100)
        scope.child("kid").start("ticker", forever)
        scope.start("mule", mule.run)
        await asyncio.sleep(0)
        report = await scope.stop(1000)
        assert [stage.outcome for stage in report.stages] == [
            StageOutcome.OVERRAN,
            StageOutcome.OK,
            StageOutcome.OVERRAN,
        ]
        assert [round(stage.took_s) for stage in report.stages] == [100, 60, 840]
        assert [leak.name for leak in report.leaks] == ["virtual/mule"]
        mule.released.set()
        await asyncio.sleep(0)

    loop.run_until_complete(main())
    assert loop.time() == pytest.approx(1000, abs=1)


def test_stop_that_need_not_wait_takes_no_time(loop: JumpingLoop) -> None:
    async def main() -> None:
        scope = Scope("virtual")
        scope.start("ticker", forever)
        scope.child("kid").start("ticker", forever)
        assert (await scope.stop()).took_s == 0.0

    loop.run_until_complete(main())
    assert loop.time() == 0.0


def test_a_step_that_keeps_its_own_deadline_has_not_overrun_if_the_loop_was_late(loop: JumpingLoop) -> None:
    """As on a busy machine: its deadline and that of the stop come due in one turn."""

    def be_late() -> None:
        loop._now += 1.0

    async def say_goodbye() -> None:
        loop.call_soon(be_late)
        try:
            await asyncio.wait_for(forever(), 0.01)
        except TimeoutError:
            for _ in range(5):
                await asyncio.sleep(0)

    async def main() -> None:
        scope = Scope("late")
        scope.on_stop("goodbye", say_goodbye, deadline_s=0.05)
        report = await scope.stop()
        assert [stage.outcome for stage in report.stages] == [StageOutcome.OK]

    loop.run_until_complete(main())
