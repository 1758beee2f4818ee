"""The sequence of one stop: stages, members newest first, tasks, threads, last stages; each with its share of the deadline.

Each step gets the time that is left, but never less than a moment (`MOMENT_S`), so that closing an engine still happens
when a stuck step before it has used everything up. Waiting is always for an event (a step's task, the scope having no
tasks, a thread's end) with a bound in loop time, so it works on a virtual clock as well.

A task that is cancelled may clean up. Being cancelled again would break its clean-up off, so a task that did not end is
cancelled again only after `CANCEL_AGAIN_S`, or half of the time left if that is less, and then at each further half.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
from collections.abc import Awaitable, Callable
from typing import Any, Final

from pytinykv.lifecycle.members import MOMENT_S, Books, Member, Stage
from pytinykv.lifecycle.report import Leak, LeakKind, StageOutcome, StageResult, StopReport
from pytinykv.waitgraph import WaitGraph
from pytinykv.waitgraph.stacks import await_chain

CANCEL_AGAIN_S: Final = 1.0
THREADS_SHARE: Final = 0.25
"""The part of the time left that is kept for threads while tasks are waited for, when there are threads."""

_log = logging.getLogger(__name__)


class StopSequence:
    """One stop of one scope, while it runs. `results`, `leaks` and `child_reports` grow as it goes."""

    def __init__(self, name: str, books: Books, deadline_at: float, explain: Callable[[], WaitGraph]) -> None:
        """Make the stop of scope `name`, which is to be over at `deadline_at`, in loop time."""
        self._name: Final = name
        self._books: Final = books
        self._deadline_at = deadline_at
        """Moved to now when the stop itself is cancelled."""
        self._explain: Final = explain
        self.results: Final[list[StageResult]] = []
        """How each stage and member ended, in the order in which they did."""
        self.leaks: Final[list[Leak]] = []
        """What was told to end and did not, or was given up."""
        self.child_reports: Final[list[StopReport]] = []
        """Of child scopes that have stopped, in the order of their stops."""
        self.graph: WaitGraph | None = None
        """What waited for what when a step of this scope first overran; None when none did."""
        self.step_task: asyncio.Task[Any] | None = None
        """The task that runs the present stage or member's stop."""
        self._stopping: Member | None = None
        """The member whose stop is the present step."""
        self._idle: asyncio.Future[None] | None = None
        """Resolved when the scope has no tasks but excused ones; exists only while tasks are waited for."""
        self._late_failures: Final[list[str]] = []
        """What has failed since the stop began and is not in `results` yet."""

    async def run(self) -> None:
        """Go through all steps; returns when they are done, abandoned or recorded as stuck."""
        for stage in list(self._books.stages):
            await self._run_stage(stage)
        for member in reversed(list(self._books.members)):
            if member in self._books.members:  # it may have ended meanwhile
                await self._stop_member(member)
        if self._books.tasks:
            await self._stop_tasks()
        if self._books.threads:
            await self._stop_threads()
        for stage in reversed(self._books.last_stages):
            await self._run_stage(stage)

    def note_failure(self, line: str) -> None:
        """Record something owned that failed during the stop."""
        self._late_failures.append(line)

    def is_stopping(self, member: Member) -> bool:
        """Whether the present step is the stop of `member`, whose report will be taken from there."""
        return self._stopping is member

    def check_idle(self) -> None:
        """Wake the step that waits for tasks if none is left to wait for."""
        if self._idle is not None and not self._idle.done() and not self._remaining_tasks():
            self._idle.set_result(None)

    # --- steps --------------------------------------------------------------------------------------------------

    async def _run_stage(self, stage: Stage) -> None:
        loop = asyncio.get_running_loop()
        started = loop.time()
        outcome, detail = await self._bounded(stage, min(stage.deadline_s, self._left()))
        self.results.append(StageResult(stage.name, loop.time() - started, outcome, detail))

    async def _stop_member(self, member: Member) -> None:
        loop = asyncio.get_running_loop()
        started = loop.time()
        left = self._left()
        self._stopping = member
        step = Stage(member.name, lambda: member.stop_member(left), left, member.made_at)
        outcome, detail = await self._bounded(step, left + member.stop_margin_s)
        self._stopping = None
        if member.report is not None:
            self.child_reports.append(member.report)
        else:
            self.results.append(StageResult(member.name, loop.time() - started, outcome, detail))
            self.leaks.extend(member.leaks())
        if outcome is not StageOutcome.OVERRAN:
            self._books.members.pop(member, None)

    async def _stop_tasks(self) -> None:
        loop = asyncio.get_running_loop()
        started = loop.time()
        count = len(self._books.tasks)
        left = self._left()
        until = started + (left * (1 - THREADS_SHARE) if self._books.threads else left)
        self._idle = loop.create_future()
        self._cancel_tasks()
        self.check_idle()
        while True:
            slice_s = min(CANCEL_AGAIN_S, max(MOMENT_S, (until - loop.time()) / 2))
            await self._wait((self._idle,), slice_s)
            if self._idle.done() or loop.time() >= until:
                break
            self._cancel_tasks()
        stuck = self._remaining_tasks()
        if stuck:
            self._draw_graph()
        self.leaks.extend(self._books.tasks[task].as_leak() for task in stuck)
        self._finish_owned(f"tasks ({count})", started, stuck=len(stuck), what="did not end after being cancelled")

    async def _stop_threads(self) -> None:
        loop = asyncio.get_running_loop()
        started = loop.time()
        threads = list(self._books.threads)
        for thread in threads:
            try:
                thread.wake()
            except Exception as error:
                _log.exception("waking thread %s failed", thread.name)
                self.note_failure(f"waking {thread.name}: {error!r}")
        for thread in threads:
            try:
                await thread.wait(self._left())
            except asyncio.CancelledError:
                self._hurry()
        stuck = [thread for thread in threads if not thread.done]
        if stuck:
            self._draw_graph()
        self.leaks.extend(thread.as_leak() for thread in stuck)
        self._finish_owned(
            f"threads ({len(threads)})", started, stuck=len(stuck), what="did not return after being woken"
        )

    # --- inside -------------------------------------------------------------------------------------------------

    def _finish_owned(self, name: str, started: float, *, stuck: int, what: str) -> None:
        """Record the step for tasks or threads, with what failed meanwhile."""
        took_s = asyncio.get_running_loop().time() - started
        failed, self._late_failures[:] = "; ".join(self._late_failures), []
        if stuck:
            self.results.append(StageResult(name, took_s, StageOutcome.OVERRAN, f"{stuck} {what}"))
        elif failed:
            self.results.append(StageResult(name, took_s, StageOutcome.RAISED, failed))
        else:
            self.results.append(StageResult(name, took_s, StageOutcome.OK))

    async def _bounded(self, step: Stage, limit_s: float) -> tuple[StageOutcome, str]:
        """Run the function of a step, plain or async, for at most `limit_s` seconds."""
        try:
            result = step.function()
        except Exception as error:
            _log.exception("stop of scope %s: %s failed", self._name, step.name)
            return StageOutcome.RAISED, repr(error)
        if not inspect.isawaitable(result):
            return StageOutcome.OK, ""
        # A wrapper that is cancelled before its first step would never await what it wraps, and Python would complain.
        coroutine = result if inspect.iscoroutine(result) else _await(result)
        task = asyncio.get_running_loop().create_task(coroutine, name=f"{self._name}/stop:{step.name}")
        self.step_task = task
        try:
            return await self._finish_step(step, task, limit_s)
        finally:
            self.step_task = None

    async def _finish_step(self, step: Stage, task: asyncio.Task[Any], limit_s: float) -> tuple[StageOutcome, str]:
        await self._wait((task,), limit_s)
        if not task.done():
            chain = await_chain(task)
            self._draw_graph()
            task.cancel()
            await self._wait((task,), MOMENT_S)
            if not task.done():
                self.leaks.append(Leak(LeakKind.TASK, task.get_name(), step.registered_at, await_chain(task)))
                task.add_done_callback(_retrieve)
            _log.error("stop of scope %s: %s overran its %.3f s", self._name, step.name, limit_s)
            own = [line for line in chain if "/asyncio/" not in line and _await.__name__ not in line]
            return StageOutcome.OVERRAN, f"was at {' > '.join(own)}"
        if task.cancelled():
            return StageOutcome.RAISED, "was cancelled"
        if (error := task.exception()) is not None:
            _log.error("stop of scope %s: %s failed", self._name, step.name, exc_info=error)
            return StageOutcome.RAISED, repr(error)
        return StageOutcome.OK, ""

    def _draw_graph(self) -> None:
        """Draw what waits for what, before anything that could show it is cancelled. Once; a scope below may have done it."""
        if self.graph is not None or any(
            report.graph is not None for child in self.child_reports for report in child.walk()
        ):
            return
        try:
            self.graph = self._explain()
        except Exception:
            _log.exception("stop of scope %s: the wait-for graph could not be drawn", self._name)

    def _remaining_tasks(self) -> list[asyncio.Task[Any]]:
        return [task for task in self._books.tasks if task not in self._books.excused]

    def _cancel_tasks(self) -> None:
        for task in self._remaining_tasks():
            try:
                task.cancel(f"scope {self._name} is stopping")
            except RecursionError:  # tasks that await each other: asyncio passes the cancellation on without end
                _log.error("task %s awaits itself through other tasks, so it can't be cancelled", task.get_name())

    def _left(self) -> float:
        return max(MOMENT_S, self._deadline_at - asyncio.get_running_loop().time())

    def _hurry(self) -> None:
        """The stop itself was cancelled, so its loop is about to close: finish with a moment per step."""
        self._deadline_at = asyncio.get_running_loop().time()

    async def _wait(self, futures: tuple[asyncio.Future[Any], ...], limit_s: float) -> None:
        """Wait for all of them, at most `limit_s` seconds, and a moment longer if the loop itself was late.

        On a busy machine the limit and the shorter deadlines that a step keeps by itself come due in one turn of the loop,
        and the step needs some more turns to act on them.
        """
        loop = asyncio.get_running_loop()
        due = loop.time() + limit_s
        try:
            await asyncio.wait(futures, timeout=limit_s)
            if loop.time() > due + MOMENT_S:
                await asyncio.wait(futures, timeout=MOMENT_S)
        except asyncio.CancelledError:
            self._hurry()
            await asyncio.wait(futures, timeout=MOMENT_S)


async def _await(awaitable: Awaitable[object]) -> object:
    return await awaitable


def _retrieve(task: asyncio.Task[Any]) -> None:
    """Take the result of an abandoned step, so that asyncio does not complain about it as well."""
    if not task.cancelled() and (error := task.exception()) is not None:
        _log.error("abandoned %s failed in the end: %r", task.get_name(), error)
