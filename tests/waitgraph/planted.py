"""Things that wait for each other for ever, one of each kind. Each has a way out for the end of its test: cancellation."""

from __future__ import annotations

import asyncio
import concurrent.futures
import threading
from collections.abc import Awaitable, Callable

from pytinykv.lifecycle import OwnedTask, Scope


class Worker:
    """Takes from its inbox and puts into its peer's, with a bounded queue on both sides: the bug of TinyKV's harness."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.inbox: asyncio.Queue[str] = asyncio.Queue(1)
        self.peer = self

    async def run(self) -> None:
        while True:
            message = await self.inbox.get()
            await self.peer.inbox.put(f"re: {message}")
            await self.peer.inbox.put(f"by the way, {self.name}")


def start_two_queues(scope: Scope) -> None:
    left, right = Worker("left"), Worker("right")
    left.peer, right.peer = right, left
    for worker in (left, right):
        worker.inbox.put_nowait("hello")
        scope.start(worker.name, worker.run)


class Outlet:
    """A lock held across a send that blocks, while the one who would make room wants the lock."""

    def __init__(self) -> None:
        self.lock = asyncio.Lock()
        self.sent: asyncio.Queue[int] = asyncio.Queue(1)

    async def send(self) -> None:
        async with self.lock:
            for number in range(3):
                await self.sent.put(number)

    async def drain(self) -> None:
        while True:
            async with self.lock:
                await self.sent.get()


def start_lock_across_send(scope: Scope) -> None:
    outlet = Outlet()
    scope.start("sender", outlet.send)
    scope.start("drain", outlet.drain)


async def flush_then_tell() -> None:
    flushed = asyncio.Event()
    await wait_until(flushed)
    flushed.set()


async def wait_until(event: asyncio.Event) -> None:
    await event.wait()


def start_event_of_its_own(scope: Scope) -> None:
    scope.start("flusher", flush_then_tell)


async def take_in_order(first: asyncio.Lock, second: asyncio.Lock) -> None:
    async with first:
        await asyncio.sleep(0)
        async with second:
            pass


def start_two_locks(scope: Scope) -> None:
    first, second = asyncio.Lock(), asyncio.Lock()
    scope.start("upwards", take_in_order, first, second)
    scope.start("downwards", take_in_order, second, first)


class Pool:
    """One permit, held by a task that waits for another task that wants one."""

    def __init__(self) -> None:
        self.permits = asyncio.Semaphore(1)
        self.inner: asyncio.Task[None] | None = None

    async def outer(self, scope: Scope) -> None:
        async with self.permits:
            await scope.start("needs-a-permit-too", self.use).wait()

    async def use(self) -> None:
        async with self.permits:
            pass


def start_permit_within_permit(scope: Scope) -> None:
    scope.start("holds-the-permit", Pool().outer, scope)


class Turnstile:
    """Each waits to be notified of its own condition, and would notify the other only afterwards."""

    def __init__(self) -> None:
        self.mine = asyncio.Condition()
        self.yours = asyncio.Condition()

    async def i(self) -> None:
        async with self.mine:
            await self.mine.wait()
        async with self.yours:
            self.yours.notify_all()

    async def you(self) -> None:
        async with self.yours:
            await self.yours.wait()
        async with self.mine:
            self.mine.notify_all()


def start_two_conditions(scope: Scope) -> None:
    turnstile = Turnstile()
    scope.start("i", turnstile.i)
    scope.start("you", turnstile.you)


async def ask(answer: asyncio.Future[int], question: asyncio.Future[int]) -> None:
    await answer
    question.set_result(1)


def start_two_futures(scope: Scope) -> None:
    loop = asyncio.get_running_loop()
    one, two = loop.create_future(), loop.create_future()
    scope.start("first", ask, one, two)
    scope.start("second", ask, two, one)


def start_tasks_that_await_each_other(scope: Scope) -> None:
    tasks: dict[str, OwnedTask[None]] = {}

    async def wait_for(name: str) -> None:
        await asyncio.sleep(0)
        await tasks[name].wait()

    tasks["a"] = scope.start("a", wait_for, "b")
    tasks["b"] = scope.start("b", wait_for, "a")


PLANTED: dict[str, tuple[Callable[[Scope], None], int, set[str]]] = {
    "two queues": (start_two_queues, 4, {"plant/left", "plant/right"}),
    "a lock held across a blocking send": (start_lock_across_send, 4, {"plant/sender", "plant/drain"}),
    "an event of its own": (start_event_of_its_own, 2, {"plant/flusher"}),
    "two locks in two orders": (start_two_locks, 4, {"plant/upwards", "plant/downwards"}),
    "a permit within a permit": (start_permit_within_permit, 3, {"plant/holds-the-permit", "plant/needs-a-permit-too"}),
    "two conditions": (start_two_conditions, 4, {"plant/i", "plant/you"}),
    "two futures": (start_two_futures, 4, {"plant/first", "plant/second"}),
    "tasks that await each other": (start_tasks_that_await_each_other, 2, {"plant/a", "plant/b"}),
}
"""By what it is: how to start it, how many edges the cycle has, and the runners in it."""


class LoopCaller:
    """A thread that waits for the loop, while the loop's thread waits for that thread."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self.asked = threading.Event()
        self.let_go = threading.Event()
        self.answer: concurrent.futures.Future[int] | None = None

    async def compute(self) -> int:
        return 42

    def run(self) -> None:
        self.answer = asyncio.run_coroutine_threadsafe(self.compute(), self.loop)
        self.asked.set()
        self.answer.result()


async def settle(turns: int = 10, wait: Callable[[float], Awaitable[None]] = asyncio.sleep) -> None:
    """Let all tasks run until they are blocked."""
    for _ in range(turns):
        await wait(0)
