from __future__ import annotations

import asyncio
import socket
from collections.abc import Coroutine
from random import Random
from typing import Any, TypeVar

import pytest

from pytinykv.simulation.errors import Deadlock, Livelock, RealIoError, TimeLimitExceeded
from pytinykv.simulation.loop import SimLoop

T = TypeVar("T")


def run(coroutine: Coroutine[Any, Any, T], **options: Any) -> tuple[T, SimLoop]:
    loop = SimLoop(**options)
    try:
        return loop.run_until_complete(coroutine), loop
    finally:
        for task in loop.pending_tasks():
            task.cancel()
        loop.run_briefly()
        loop.close()


def test_an_hour_of_sleep_takes_no_time_and_moves_the_clock_by_an_hour() -> None:
    async def sleep() -> float:
        await asyncio.sleep(3600)
        return asyncio.get_running_loop().time()

    assert run(sleep())[0] == 3600


def test_timers_of_one_moment_fire_in_the_order_they_were_set() -> None:
    seen = []

    async def main() -> None:
        loop = asyncio.get_running_loop()
        for number in range(20):
            loop.call_later(1.0, seen.append, number)
        await asyncio.sleep(2)

    run(main(), shuffle=Random(3))
    assert seen == list(range(20))


def test_shuffling_changes_the_order_of_tasks_and_repeats_it_for_the_same_seed() -> None:
    async def main(seen: list[int]) -> None:
        async def step(number: int) -> None:
            await asyncio.sleep(1)
            seen.append(number)

        tasks = [asyncio.get_running_loop().create_task(step(number)) for number in range(20)]
        await asyncio.wait(tasks)

    orders = []
    for seed in (1, 1, 2):
        orders.append([])
        run(main(orders[-1]), shuffle=Random(seed))
    assert orders[0] == orders[1] != orders[2]
    assert sorted(orders[0]) == list(range(20))


def test_waiting_for_what_can_never_come_is_a_deadlock_that_names_the_task() -> None:
    async def main() -> None:
        await asyncio.get_running_loop().create_future()

    with pytest.raises(Deadlock, match=r"test_loop\.py"):
        run(main())


def test_callbacks_without_end_are_a_livelock() -> None:
    async def main() -> None:
        while True:
            await asyncio.sleep(0)

    with pytest.raises(Livelock):
        run(main())


def test_a_history_that_goes_on_for_ever_ends_at_its_limit() -> None:
    async def main() -> None:
        while True:
            await asyncio.sleep(1)

    with pytest.raises(TimeLimitExceeded):
        run(main(), time_limit_s=50)


def test_sockets_and_threads_are_refused() -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        with pytest.raises(RealIoError):
            loop.run_in_executor(None, print)
        with socket.socket() as real, pytest.raises(RealIoError):
            loop.add_reader(real, print)

    run(main())


def test_cancelled_timers_are_forgotten() -> None:
    async def main() -> tuple[int, int]:
        loop = asyncio.get_running_loop()
        for _ in range(5000):
            loop.call_later(1000, print).cancel()
        return len(loop.pending_timers()), len(loop._timers)

    (pending, kept), _loop = run(main())
    assert pending == 0
    assert kept < 2000


def test_what_interrupts_a_callback_from_outside_ends_the_history() -> None:
    """The time limit of a test hit a client between taking a command and sending it: what failed then was the command."""

    class TimeIsUp(BaseException):
        pass

    def interrupted() -> None:
        raise TimeIsUp

    async def main() -> None:
        asyncio.get_running_loop().call_later(1, interrupted)
        await asyncio.sleep(10)

    with pytest.raises(TimeIsUp):
        run(main())


def test_an_unhandled_exception_is_kept() -> None:
    async def main() -> None:
        asyncio.get_running_loop().call_soon(lambda: 1 / 0)
        await asyncio.sleep(1)

    _, loop = run(main())
    assert isinstance(loop.errors[0]["exception"], ZeroDivisionError)
