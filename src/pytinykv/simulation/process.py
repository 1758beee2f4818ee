"""A simulated operating-system process: what runs in it, what it owns, how it dies.

Everything a process starts (tasks, callbacks, timers) inherits its context, so the loop knows whose handle it runs. A
process that crashes is dead at once: its connections and its disk handle answer nothing any more, its timers are gone, and
its tasks are cancelled so that they end; whatever they do on the way out reaches no other process.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from contextvars import Context, copy_context
from typing import Any, TypeVar

from pytinykv.simulation.errors import Violation
from pytinykv.simulation.loop import SimLoop, current_process

T = TypeVar("T")
_CANCEL_ROUNDS = 50


class Process:
    """One incarnation of a program on one host. A restart is a new `Process` with the same `host`."""

    def __init__(self, loop: SimLoop, host: str, incarnation: int = 1) -> None:
        self.loop = loop
        self.host = host
        self.incarnation = incarnation
        self.alive = True
        """False from the moment of its exit or death on."""
        self.stalled = False
        """Whether its handles are held; never after its end."""
        self.stalls = 0
        """How often it was held so far."""
        self.context: Context = copy_context()
        """Marks everything the process starts as its own."""
        self.context.run(current_process.set, self)
        self.on_death: list[Callable[[], None]] = []
        """Called at the moment of death, in order: the network closes sockets, the disk forgets what wasn't synced."""

    def __repr__(self) -> str:
        return f"{self.host}#{self.incarnation}"

    def spawn(self, name: str, coroutine: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        """Start a task that belongs to this process. Its starter waits for it or stops it."""
        return self.loop.create_task(coroutine, name=f"{self}:{name}", context=self.context.copy())

    def call(self, function: Callable[..., T], *args: Any) -> T:
        """Run a plain function on behalf of this process."""
        return self.context.copy().run(function, *args)

    def post(self, function: Callable[..., object], *args: Any) -> None:
        """Have the process run a plain function in its next turn: at once, or when its stall is over."""
        self.loop.call_soon(function, *args, context=self.context)

    def stall(self) -> None:
        """Hold every handle of the process, as SIGSTOP does. Time goes on for all others."""
        if self.alive and not self.stalled:
            self.stalled = True
            self.stalls += 1
            self.loop.gates += 1

    def resume(self) -> None:
        """Let a stalled process go on; timers that came due meanwhile fire now."""
        if self.stalled:
            self.stalled = False
            self.loop.gates -= 1
            self.loop.release_held()

    def exit(self) -> None:
        """Note that the program has ended in good order: its sockets close, its tasks should be gone already."""
        if self.alive:
            self.alive = False
            self.resume()
            callbacks, self.on_death = self.on_death, []
            for callback in callbacks:
                callback()

    async def crash(self) -> None:
        """Kill the process: nothing it does from now on reaches the outside; its tasks are swept up without time passing.

        Raises `Violation` when a task refuses to end although it is cancelled again and again.
        """
        if self.alive:
            self.die()
            await self.sweep()

    def die(self) -> None:
        """Be dead from this moment on, in the middle of whatever runs; `sweep` has to follow."""
        if self.alive:
            self.exit()
            self.loop.drop_handles_of(self)

    async def sweep(self) -> None:
        """Let the tasks of a dead process end. Raises `Violation` when one refuses."""
        for _ in range(_CANCEL_ROUNDS):
            tasks = self.loop.pending_tasks(self)
            if not tasks:
                break
            for task in tasks:
                task.cancel()
            for _ in range(10):
                await asyncio.sleep(0)
        else:
            names = ", ".join(task.get_name() for task in self.loop.pending_tasks(self))
            raise Violation("cancellation", f"tasks of {self} survive {_CANCEL_ROUNDS} cancellations: {names}")
        self.loop.drop_handles_of(self)
