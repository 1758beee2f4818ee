"""One timer for the deadlines of many, on virtual time."""

from __future__ import annotations

import asyncio
import math
import random

from pytinykv.client.deadlines import EXPIRY_GRAIN_S, DeadlineTimer


class Callers:
    """Deadlines, and when each was found to be over."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self.timer = DeadlineTimer(self._loop, self._expire)
        self.left: list[float] = []
        self.expired: list[tuple[float, float]] = []
        self.calls = 0

    def add(self, deadline: float) -> None:
        self.left.append(deadline)
        self.timer.watch(deadline)

    def _expire(self, due: float) -> float | None:
        self.calls += 1
        self.expired += [(deadline, self._loop.time()) for deadline in self.left if deadline <= due]
        self.left = [deadline for deadline in self.left if deadline > due]
        return min(self.left, default=None)


async def test_each_expires_at_its_deadline_in_whatever_order_they_come() -> None:
    rng = random.Random(7)
    callers = Callers()
    for _ in range(500):
        callers.add(asyncio.get_running_loop().time() + rng.uniform(0.0, 3.0))
        await asyncio.sleep(rng.uniform(0.0, 0.01))
    await asyncio.sleep(4.0)
    assert callers.left == []
    assert len(callers.expired) == 500
    late = [at - deadline for deadline, at in callers.expired]
    assert min(late) >= -EXPIRY_GRAIN_S - 1e-9
    assert max(late) <= EXPIRY_GRAIN_S + 1e-9


async def test_deadlines_close_together_expire_together() -> None:
    callers = Callers()
    for number in range(100):
        callers.add(1.0 + number * EXPIRY_GRAIN_S / 100)
    await asyncio.sleep(2.0)
    assert (callers.calls, len(callers.expired)) == (1, 100)


async def test_an_earlier_deadline_moves_the_timer_and_a_later_one_does_not() -> None:
    callers = Callers()
    assert callers.timer.moves_below == math.inf
    callers.add(5.0)
    moves_below = callers.timer.moves_below
    callers.add(6.0)
    assert callers.timer.moves_below == moves_below
    callers.add(1.0)
    await asyncio.sleep(2.0)
    assert callers.expired == [(1.0, 1.0)]
    await asyncio.sleep(5.0)
    assert [deadline for deadline, _ in callers.expired] == [1.0, 5.0, 6.0]
    assert callers.timer.moves_below == math.inf


async def test_a_stopped_one_calls_no_more_and_one_without_an_end_never_does() -> None:
    callers = Callers()
    callers.add(math.inf)
    callers.add(1.0)
    callers.timer.stop()
    await asyncio.sleep(2.0)
    assert (callers.calls, callers.left) == (0, [math.inf, 1.0])
