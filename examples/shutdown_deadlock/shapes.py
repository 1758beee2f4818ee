"""Five ways to hang in a shutdown, in miniature: each is a part of how TinyKV's test harness does.

Goroutines are tasks here, channels are bounded queues, and `wg.Wait()` is a wait for the tasks. None of these few lines
is careless; each shape works until it is stopped.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, Protocol

Spawn = Callable[[str, Callable[[], Coroutine[Any, Any, None]]], asyncio.Task[None]]
"""Starts a task, given a name: `asyncio.create_task` without the kit, `Scope.start` with it."""

STOP = "stop"


class Shape(Protocol):
    """Something that runs, and a `stop` that does not return."""

    def start(self, spawn: Spawn) -> None:
        """Start the tasks and give them something to do."""

    async def stop(self) -> None:
        """Shut down in good order, as its author thought."""


class Worker:
    """A store's Raft worker: takes a message, answers it to the other store, by a send that blocks when that one is full."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.inbox: asyncio.Queue[str] = asyncio.Queue(1)
        self.closing = asyncio.Event()
        self.other = self

    async def run(self) -> None:
        while not self.closing.is_set():
            message = await self.inbox.get()
            if message == STOP:
                return
            await self.other.inbox.put(f"{self.name} has received {message}")
            await self.other.inbox.put(f"{self.name} has something to add")


class TwoQueues:
    """Two workers with bounded queues send to each other. Both queues are full, and neither worker takes."""

    def __init__(self) -> None:
        self.left, self.right = Worker("store-1"), Worker("store-2")
        self.left.other, self.right.other = self.right, self.left
        self.tasks: list[asyncio.Task[None]] = []

    def start(self, spawn: Spawn) -> None:
        for worker in (self.left, self.right):
            worker.inbox.put_nowait("a message")
            self.tasks.append(spawn(worker.name, worker.run))

    async def stop(self) -> None:
        for worker in (self.left, self.right):
            worker.closing.set()  # neither looks: both are in `put`
        await asyncio.wait(self.tasks)


class StoppedFirst:
    """A store leaves its loop before it leaves the transport: the next one sends to a queue without a reader."""

    def __init__(self) -> None:
        self.first, self.second = Worker("store-1"), Worker("store-2")
        self.first.other, self.second.other = self.second, self.first
        self.tasks: dict[str, asyncio.Task[None]] = {}

    def start(self, spawn: Spawn) -> None:
        for worker in (self.first, self.second):
            self.tasks[worker.name] = spawn(worker.name, worker.run)

    async def stop(self) -> None:
        await self.first.inbox.put(STOP)
        await asyncio.wait((self.tasks["store-1"],))
        await self.second.inbox.put("one last message")  # the network does not know that store-1 has gone
        await asyncio.sleep(0)
        self.second.closing.set()
        await asyncio.wait((self.tasks["store-2"],))


class LockAcrossSend:
    """A lock is held across a send that blocks, and the task that would make room wants that lock first."""

    def __init__(self) -> None:
        self.addresses = asyncio.Lock()
        self.outgoing: asyncio.Queue[str] = asyncio.Queue(1)
        self.tasks: list[asyncio.Task[None]] = []

    async def send(self) -> None:
        while True:
            async with self.addresses:
                await self.outgoing.put("a message")

    async def deliver(self) -> None:
        while True:
            async with self.addresses:
                await self.outgoing.get()

    def start(self, spawn: Spawn) -> None:
        self.tasks = [spawn("sender", self.send), spawn("delivery", self.deliver)]

    async def stop(self) -> None:
        async with self.addresses:  # to close the connections
            pass


class StopInTheQueue:
    """The stop signal travels in the work queue: it waits behind the work, which waits for a network that is cut."""

    def __init__(self) -> None:
        self.work: asyncio.Queue[str] = asyncio.Queue(1)
        self.link_is_up = asyncio.Event()
        self.tasks: list[asyncio.Task[None]] = []

    async def run(self) -> None:
        while await self.work.get() != STOP:
            await self.link_is_up.wait()

    def heal(self) -> None:
        self.link_is_up.set()

    def start(self, spawn: Spawn) -> None:
        self.tasks = [spawn("worker", self.run)]

    async def stop(self) -> None:
        await self.work.put("work under way")
        await self.work.put("more work")
        await self.work.put(STOP)
        await asyncio.wait(self.tasks)


class ForgottenCallback:
    """Proposals are dropped when the leader steps down, and their callbacks with them; the caller waits for ever."""

    def __init__(self) -> None:
        self.callbacks: list[asyncio.Future[str]] = []
        self.tasks: list[asyncio.Task[None]] = []

    async def propose(self) -> None:
        callback: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self.callbacks.append(callback)
        await callback

    def step_down(self) -> None:
        self.callbacks.clear()

    def start(self, spawn: Spawn) -> None:
        self.tasks = [spawn("client", self.propose)]

    async def stop(self) -> None:
        self.step_down()
        await asyncio.wait(self.tasks)


SHAPES: dict[str, Callable[[], Shape]] = {
    "two-queues": TwoQueues,
    "stopped-first": StoppedFirst,
    "lock-across-send": LockAcrossSend,
    "stop-in-the-queue": StopInTheQueue,
    "forgotten-callback": ForgottenCallback,
}
