"""The three acts: hanging, explained and got out of, and the wiring that cannot hang."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

from shapes import Shape

from pytinykv.lifecycle import Scope, StopReport

SETTLE_TURNS = 10


async def settle() -> None:
    """Let all tasks run until they are blocked."""
    for _ in range(SETTLE_TURNS):
        await asyncio.sleep(0)


async def without_the_kit(make: Callable[[], Shape], limit_s: float) -> bool:
    """Start and stop a shape with plain tasks; return whether it still hung when the timer ended it."""
    shape, tasks = make(), list[asyncio.Task[None]]()

    def spawn(name: str, coro_fn: Callable[[], Coroutine[Any, Any, None]]) -> asyncio.Task[None]:
        tasks.append(asyncio.get_running_loop().create_task(coro_fn(), name=name))
        return tasks[-1]

    shape.start(spawn)
    await settle()
    try:
        await asyncio.wait_for(shape.stop(), limit_s)
    except TimeoutError:
        return True
    finally:  # in Go, which has no way to end a goroutine from outside, this is where the process is killed
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
    return False


async def with_the_kit(make: Callable[[], Shape], limit_s: float) -> StopReport:
    """Start and stop the same shape in a scope: the stop has a deadline, shows the wait-for graph, and gets out."""
    shape, scope = make(), Scope("cluster")
    shape.start(lambda name, coro_fn: scope.start(name, coro_fn).task)
    scope.on_stop("shut down", shape.stop, limit_s)
    await settle()
    return await scope.stop(2 * limit_s)
