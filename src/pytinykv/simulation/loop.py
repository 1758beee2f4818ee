"""The event loop on virtual time: asyncio's own tasks and futures, a clock that jumps, and no way out.

    ready:   handles that run in this turn            timers: heap of (when, sequence, handle)
    a turn:  nothing ready? -> time jumps to the first timer; due timers become ready; each ready handle runs once

Invariants
1. Time moves only when nothing is ready, and only to the moment of the next timer.
2. Handles due at the same moment run in the order they were scheduled; with a shuffle source, the steps of *different*
   tasks within one turn may change places (their order is random in production too), callbacks never.
3. Every handle belongs to the process whose context it carries (`current_process`), so a process can be stalled
   (its handles are held back) or killed (its callbacks and timers are dropped).
4. No selector, no thread, no signal: code that asks for one gets `RealIoError`.
5. Unhandled exceptions are kept in `errors`; the history fails by them.

Why not a ready-made one: docs/adr/0002-simulation-loop.md.
"""

from __future__ import annotations

import asyncio
import heapq
from asyncio import base_events
from collections import deque
from collections.abc import Callable, Coroutine, Iterable
from contextvars import Context, ContextVar
from random import Random
from typing import Any, NoReturn, Protocol

from pytinykv.simulation.errors import Deadlock, Livelock, RealIoError, TimeLimitExceeded

STEPS_PER_MOMENT_MAX = 200_000
_TASKS_BEFORE_PRUNING = 256


class Owner(Protocol):
    """Whose handle it is, as far as the loop cares."""

    @property
    def stalled(self) -> bool:
        """Say whether the process is held (as by SIGSTOP)."""
        ...


current_process: ContextVar[Owner | None] = ContextVar("current_process", default=None)
"""The process on whose behalf code runs; inherited by every task, callback and timer it starts."""


class SimLoop(base_events.BaseEventLoop):
    """An asyncio event loop whose time is virtual and whose order of events depends on nothing but its arguments."""

    def __init__(self, *, shuffle: Random | None = None, time_limit_s: float = 3600.0) -> None:
        super().__init__()
        self._now = 0.0
        """Virtual seconds; moves to the next timer when nothing else is runnable."""
        self._shuffle = shuffle
        self._time_limit_s = time_limit_s
        self._runnable: deque[asyncio.Handle] = deque()
        """What runs at this moment."""
        self._timers: list[tuple[float, int, asyncio.TimerHandle]] = []
        """A heap by time, then by the order in which they were set."""
        self._sequence = 0
        """Number of the newest timer."""
        self._cancelled_timers = 0
        """How many in the heap are cancelled; when there are too many, they are taken out."""
        self._steps_at_moment = 0
        """Callbacks run since time last moved; too many are a livelock."""
        self._tasks: list[tuple[Owner | None, asyncio.Task[Any]]] = []
        """Tasks with the process they belong to; finished ones are taken out when there are more than `_tasks_limit`."""
        self._tasks_limit = _TASKS_BEFORE_PRUNING
        """At so many tasks those that have ended are dropped; twice what was left at the last time."""
        self._held: list[asyncio.Handle] = []
        """What would be runnable if its process were not stalled."""
        self.gates = 0
        """How many processes are stalled: while there are any, handles must be looked at before they run."""
        self.steps = 0
        """Callbacks run since the start."""
        self.errors: list[dict[str, Any]] = []
        """Contexts of unhandled exceptions; with one of them the history fails."""
        self._abort: BaseException | None = None
        """Raised out of the loop before the next callback. Set by `abort`."""
        self._alarm: tuple[int, asyncio.Future[None]] | None = None
        """The step at which a future is to be resolved, and the future."""

    # time and timers

    def time(self) -> float:
        """Return virtual seconds since the start of the history."""
        return self._now

    def call_soon(  # type: ignore[override] # the base's is generic in the arguments
        self, callback: Callable[..., object], *args: Any, context: Context | None = None
    ) -> asyncio.Handle:
        if self._closed:  # type: ignore[attr-defined] # what is_closed() tells, without a call
            raise RuntimeError("Event loop is closed")
        handle = asyncio.Handle(callback, args, self, context)
        self._runnable.append(handle)
        return handle

    def call_soon_threadsafe(  # type: ignore[override] # see call_soon
        self, callback: Callable[..., object], *args: Any, context: Context | None = None
    ) -> asyncio.Handle:
        return self.call_soon(callback, *args, context=context)

    def call_later(  # type: ignore[override] # see call_soon
        self, delay: float, callback: Callable[..., object], *args: Any, context: Context | None = None
    ) -> asyncio.TimerHandle:
        return self.call_at(self._now + delay, callback, *args, context=context)

    def call_at(  # type: ignore[override] # see call_soon
        self, when: float, callback: Callable[..., object], *args: Any, context: Context | None = None
    ) -> asyncio.TimerHandle:
        if self._closed:  # type: ignore[attr-defined] # see call_soon
            raise RuntimeError("Event loop is closed")
        timer = asyncio.TimerHandle(when, callback, args, self, context)
        self._sequence += 1
        heapq.heappush(self._timers, (when, self._sequence, timer))
        timer._scheduled = True  # type: ignore[attr-defined] # noqa: SLF001 - the contract between a timer and its loop
        return timer

    def _timer_handle_cancelled(self, handle: asyncio.TimerHandle) -> None:
        if not handle._scheduled:  # type: ignore[attr-defined] # noqa: SLF001 - see call_at
            return
        self._cancelled_timers += 1
        if self._cancelled_timers > 512 and self._cancelled_timers * 2 > len(self._timers):
            self._timers = [entry for entry in self._timers if not entry[2].cancelled()]
            heapq.heapify(self._timers)
            self._cancelled_timers = 0

    def pending_timers(self) -> list[asyncio.TimerHandle]:
        """Return the timers that would still fire, in the order of their time."""
        return [timer for _, _, timer in sorted(self._timers, key=lambda entry: entry[:2]) if not timer.cancelled()]

    def drop_handles_of(self, owner: Owner) -> None:
        """Forget the callbacks and timers of a dead process; the steps of its tasks stay, so that they can end."""
        for _, _, timer in self._timers:
            if not timer.cancelled() and _owner_of(timer) is owner and not _is_task_step(timer):
                timer.cancel()
        for handle in (*self._runnable, *self._held):
            if not handle.cancelled() and _owner_of(handle) is owner and not _is_task_step(handle):
                handle.cancel()

    # tasks

    def create_task(  # type: ignore[override] # see call_soon
        self, coro: Coroutine[Any, Any, Any], *, name: str | None = None, context: Context | None = None, **_: Any
    ) -> asyncio.Task[Any]:
        if self._closed:  # type: ignore[attr-defined] # see call_soon
            raise RuntimeError("Event loop is closed")
        task: asyncio.Task[Any] = asyncio.Task(coro, loop=self, name=name, context=context)
        owner = current_process.get() if context is None else context.get(current_process)
        self._tasks.append((owner, task))
        if len(self._tasks) > self._tasks_limit:
            self._tasks = [pair for pair in self._tasks if not pair[1].done()]
            self._tasks_limit = max(_TASKS_BEFORE_PRUNING, 2 * len(self._tasks))
        return task

    def pending_tasks(self, owner: Owner | None = None) -> list[asyncio.Task[Any]]:
        """Return the unfinished tasks, of one process or of all, oldest first."""
        return [task for of, task in self._tasks if (owner is None or of is owner) and not task.done()]

    def abort(self, error: BaseException) -> None:
        """End the history before the next turn: `run_until_complete` raises `error`. The first one counts."""
        if self._abort is None:
            self._abort = error

    def at_step(self, step: int) -> asyncio.Future[None]:
        """Return a future that is done once so many steps have run: a moment between two steps, not between two timers.

        One at a time.
        """
        future: asyncio.Future[None] = self.create_future()
        self._alarm = (step, future)
        return future

    # the turn

    def _run_once(self) -> None:
        if self._abort is not None:
            error, self._abort = self._abort, None
            raise error
        runnable, timers = self._runnable, self._timers
        if not runnable:
            self._advance()
        if timers and timers[0][0] <= self._now:
            self._take_due_timers()
        count = len(runnable)
        self._steps_at_moment += count
        self.steps += count
        if self._alarm is not None or self._steps_at_moment > STEPS_PER_MOMENT_MAX:
            self._look_at_steps()
        if count == 1 and not self.gates:  # most turns
            handle = runnable.popleft()
            if not handle._cancelled:  # noqa: SLF001 - the property costs a call per step
                handle._run()  # noqa: SLF001 - what a loop does with a handle
            return
        batch = [runnable.popleft() for _ in range(count)]
        if self.gates:
            batch = self._hold_back(batch)
        if self._shuffle is not None and len(batch) > 1:
            batch = _shuffle_tasks(batch, self._shuffle)
        for handle in batch:
            if not handle._cancelled:  # noqa: SLF001 - as above
                handle._run()  # noqa: SLF001 - as above

    def _look_at_steps(self) -> None:
        if self._alarm is not None and self.steps >= self._alarm[0]:
            if not self._alarm[1].done():
                self._alarm[1].set_result(None)
            self._alarm = None
        if self._steps_at_moment > STEPS_PER_MOMENT_MAX:
            raise Livelock(f"{STEPS_PER_MOMENT_MAX} callbacks ran at {self._now:.6f} s without time moving on")

    def run_briefly(self, turns: int = 20) -> None:
        """Run what is ready, for a few turns, without letting time pass."""

        async def spin() -> None:
            for _ in range(turns):
                await asyncio.sleep(0)

        self._steps_at_moment = 0
        self.run_until_complete(spin())

    def _advance(self) -> None:
        timers = self._timers
        while timers and timers[0][2].cancelled():
            heapq.heappop(timers)[2]._scheduled = False  # type: ignore[attr-defined] # noqa: SLF001 - see call_at
            self._cancelled_timers -= 1
        if self._stopping:  # type: ignore[attr-defined] # set by stop()
            return
        if not timers:
            raise Deadlock(f"nothing can run any more at {self._now:.6f} s:\n{self.describe_tasks()}")
        when = timers[0][0]
        if when > self._time_limit_s:
            raise TimeLimitExceeded(f"{self._time_limit_s} virtual seconds are over:\n{self.describe_tasks()}")
        if when > self._now:
            self._now = when
            self._steps_at_moment = 0

    def _take_due_timers(self) -> None:
        timers, now = self._timers, self._now
        while timers and timers[0][0] <= now:
            timer = heapq.heappop(timers)[2]
            timer._scheduled = False  # type: ignore[attr-defined] # noqa: SLF001 - see call_at
            if timer.cancelled():
                self._cancelled_timers -= 1
            else:
                self._runnable.append(timer)

    def _hold_back(self, batch: list[asyncio.Handle]) -> list[asyncio.Handle]:
        """Keep the handles of stalled processes for later."""
        kept: list[asyncio.Handle] = []
        for handle in batch:
            owner = _owner_of(handle)
            (self._held if owner is not None and owner.stalled else kept).append(handle)
        return kept

    def release_held(self) -> None:
        """Let the held handles run again, in their order; those of processes that are still stalled come back here."""
        held, self._held = self._held, []
        self._runnable.extend(held)

    # errors and closed doors

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        """Keep an unhandled exception; the history fails by it, at once if it was not meant for the history.

        That is one that is no `Exception`, raised by a signal in the middle of a callback: the time limit of a test. Were it
        only kept, what the callback left undone would look like a bug of the program.
        """
        self.errors.append(context)
        error = context.get("exception")
        if error is not None and not isinstance(error, Exception | asyncio.CancelledError):
            self.abort(error)

    def describe_tasks(self) -> str:
        """Return one line per unfinished task: name and the place where it waits."""
        return "\n".join(_describe_task(task) for task in self.pending_tasks()) or "no task is left"

    def run_in_executor(  # type: ignore[override] # see call_soon
        self, executor: Any, func: Callable[..., Any], *args: Any
    ) -> NoReturn:
        raise RealIoError(f"a thread for {func!r}: there are no threads on virtual time")

    def _write_to_self(self) -> None:
        """There is nothing to wake: the loop never sleeps."""

    def _process_events(self, event_list: Iterable[object]) -> None:
        """There is no selector, hence no events of one."""

    def _refuse(self, *_: Any, **__: Any) -> NoReturn:
        raise RealIoError("sockets, pipes, files and signals are not simulated: use the virtual network and disk")

    add_reader = _refuse  # type: ignore[assignment] # refuses whatever it is given
    add_writer = _refuse  # type: ignore[assignment] # refuses whatever it is given
    add_signal_handler = _refuse  # type: ignore[assignment] # refuses whatever it is given
    create_connection = create_server = create_datagram_endpoint = subprocess_exec = subprocess_shell = _refuse
    connect_read_pipe = connect_write_pipe = sock_recv = sock_sendall = sock_connect = sock_accept = _refuse


def _owner_of(handle: asyncio.Handle) -> Owner | None:
    return handle._context.get(current_process)  # type: ignore[attr-defined,no-any-return] # noqa: SLF001 - 3.12 has get_context


def _task_of(handle: asyncio.Handle) -> object:
    return getattr(handle._callback, "__self__", None)  # type: ignore[attr-defined] # noqa: SLF001 - nothing public tells it


def _is_task_step(handle: asyncio.Handle) -> bool:
    return isinstance(_task_of(handle), asyncio.Task)


def _shuffle_tasks(batch: list[asyncio.Handle], rng: Random) -> list[asyncio.Handle]:
    """Let the steps of tasks change places among themselves; everything else stays where it is."""
    places = [place for place, handle in enumerate(batch) if _is_task_step(handle)]
    steps = [batch[place] for place in places]
    if len({id(_task_of(step)) for step in steps}) == len(steps):
        rng.shuffle(steps)
        for place, step in zip(places, steps, strict=True):
            batch[place] = step
    return batch


def _describe_task(task: asyncio.Task[Any]) -> str:
    frames = task.get_stack(limit=1)
    place = f"{frames[0].f_code.co_filename}:{frames[0].f_lineno}" if frames else "not started"
    return f"  {task.get_name()} at {place}"
