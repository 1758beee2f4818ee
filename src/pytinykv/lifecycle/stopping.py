"""The sequence of one stop: stages, members newest first, tasks, threads; each with its share of the deadline.

Each step gets the time that is left, but never less than a moment (`MOMENT_S`), so that closing an engine still happens
when a stuck stage before it has used everything up. Waiting is always for an event (a step's task, the scope having no
tasks, a thread's end) with a bound in loop time, so it works on a virtual clock as well.

A task that is cancelled may clean up. Being cancelled again would break its clean-up off, so a task that did not end is
cancelled again only after `PATIENCE_S`, or half of the time left if that is less, and then at each further half.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
from collections.abc import Awaitable
from typing import TYPE_CHECKING, Any, Final

from pytinykv.lifecycle.report import Leak, LeakKind, Outcome, StageResult, StopReport
from pytinykv.waitgraph.stacks import CallSite, await_chain

if TYPE_CHECKING:
    from pytinykv.lifecycle.scope import Member, Scope, Stage, StageFunction
    from pytinykv.waitgraph.graph import WaitGraph

MOMENT_S: Final = 0.05
PATIENCE_S: Final = 1.0
CHILD_MARGIN_S: Final = 1.0
"""What a child scope may take past the deadline it was given: the moments of its own late steps."""
THREADS_SHARE: Final = 0.25
"""The part of the time left that is kept for threads while tasks are waited for, when there are threads."""

_log = logging.getLogger(__name__)


class StopSequence:
    """One stop of one scope, while it runs. `results`, `leaks` and `child_reports` grow as it goes."""

    def __init__(self, scope: Scope, deadline_at: float) -> None:
        self._scope: Final = scope
        self._deadline_at = deadline_at
        self.results: Final[list[StageResult]] = []
        self.leaks: Final[list[Leak]] = []
        self.child_reports: Final[list[StopReport]] = []
        self.graph: WaitGraph | None = None
        """Who waited for whom when a step of this scope first overran; None when none did."""
        self.step_task: asyncio.Task[Any] | None = None
        """The task that runs the present stage or member's stop."""
        self._waiting_for: Scope | None = None
        self._idle: asyncio.Future[None] | None = None
        """Resolved when the scope has no tasks but excused ones; exists only while tasks are waited for."""
        self._late_failures: Final[list[str]] = []

    async def run(self) -> None:
        """Go through all steps; returns when they are done, abandoned or recorded as stuck."""
        for stage in list(self._scope.stages):
            await self._run_stage(stage)
        for member in reversed(list(self._scope.members)):
            await self._stop_member(member)
        if self._scope.tasks:
            await self._stop_tasks()
        if self._scope.threads:
            await self._stop_threads()

    def note_failure(self, line: str) -> None:
        """Record something owned that failed during the stop."""
        self._late_failures.append(line)

    def is_waiting_for(self, child: Scope) -> bool:
        """Whether the present step is the stop of `child`, whose report will be taken from there."""
        return self._waiting_for is child

    def check_idle(self) -> None:
        """Wake the step that waits for tasks if none is left to wait for."""
        if self._idle is not None and not self._idle.done() and not self._remaining_tasks():
            self._idle.set_result(None)

    # --- steps --------------------------------------------------------------------------------------------------

    async def _run_stage(self, stage: Stage) -> None:
        loop = asyncio.get_running_loop()
        started = loop.time()
        outcome, detail = await self._bounded(stage.name, stage.function, min(stage.deadline_s, self._left()))
        self.results.append(StageResult(stage.name, loop.time() - started, outcome, detail))

    async def _stop_member(self, member: Scope | Member) -> None:
        from pytinykv.lifecycle.scope import Scope

        if isinstance(member, Scope):
            await self._stop_child(member)
            return
        loop = asyncio.get_running_loop()
        started = loop.time()
        left = self._left()
        outcome, detail = await self._bounded(member.name, lambda: member.stop_member(left), left + MOMENT_S)
        self.results.append(StageResult(member.name, loop.time() - started, outcome, detail))
        self.leaks.extend(member.leaks())
        self._scope.members.pop(member, None)

    async def _stop_child(self, child: Scope) -> None:
        """Stop a child scope. It bounds itself; the bound here is for one whose stop was begun by another with more time."""
        if child.stopped:
            return
        self._waiting_for = child
        left = self._left()
        outcome, detail = await self._bounded(child.name, lambda: child.stop(left), left + CHILD_MARGIN_S)
        self._waiting_for = None
        if child.report is not None:
            self.child_reports.append(child.report)
        else:
            self.results.append(StageResult(child.name, 0.0, outcome, detail))

    async def _stop_tasks(self) -> None:
        loop = asyncio.get_running_loop()
        started = loop.time()
        count = len(self._scope.tasks)
        left = self._left()
        until = started + (left * (1 - THREADS_SHARE) if self._scope.threads else left)
        self._idle = loop.create_future()
        self._cancel_tasks()
        self.check_idle()
        while True:
            slice_s = min(PATIENCE_S, max(MOMENT_S, (until - loop.time()) / 2))
            await self._wait((self._idle,), slice_s)
            if self._idle.done() or loop.time() >= until:
                break
            self._cancel_tasks()
        stuck = self._remaining_tasks()
        if stuck:
            self._explain()
        self.leaks.extend(self._scope.tasks[task].as_leak() for task in stuck)
        self._finish_owned(f"tasks ({count})", started, stuck=len(stuck), what="did not end after being cancelled")

    async def _stop_threads(self) -> None:
        loop = asyncio.get_running_loop()
        started = loop.time()
        threads = list(self._scope.threads)
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
            self._explain()
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
            self.results.append(StageResult(name, took_s, Outcome.OVERRAN, f"{stuck} {what}"))
        elif failed:
            self.results.append(StageResult(name, took_s, Outcome.RAISED, failed))
        else:
            self.results.append(StageResult(name, took_s, Outcome.OK))

    async def _bounded(self, name: str, function: StageFunction, limit_s: float) -> tuple[Outcome, str]:
        """Run `function`, plain or async, for at most `limit_s` seconds."""
        try:
            result = function()
        except Exception as error:
            _log.exception("stop of scope %s: %s failed", self._scope.name, name)
            return Outcome.RAISED, repr(error)
        if not inspect.isawaitable(result):
            return Outcome.OK, ""
        # A wrapper that is cancelled before its first step would never await what it wraps, and Python would complain.
        coroutine = result if inspect.iscoroutine(result) else _await(result)
        task = asyncio.get_running_loop().create_task(coroutine, name=f"{self._scope.name}/stop:{name}")
        self.step_task = task
        try:
            return await self._finish_step(name, task, limit_s)
        finally:
            self.step_task = None

    async def _finish_step(self, name: str, task: asyncio.Task[Any], limit_s: float) -> tuple[Outcome, str]:
        await self._wait((task,), limit_s)
        if not task.done():
            chain = await_chain(task)
            self._explain()
            task.cancel()
            await self._wait((task,), MOMENT_S)
            if not task.done():
                self.leaks.append(Leak(LeakKind.TASK, task.get_name(), CallSite(__file__, 0, name), await_chain(task)))
                task.add_done_callback(_retrieve)
            _log.error("stop of scope %s: %s overran its %.3f s", self._scope.name, name, limit_s)
            own = [line for line in chain if "/asyncio/" not in line and _await.__name__ not in line]
            return Outcome.OVERRAN, f"stood at {' > '.join(own)}"
        if task.cancelled():
            return Outcome.RAISED, "was cancelled"
        if (error := task.exception()) is not None:
            _log.error("stop of scope %s: %s failed", self._scope.name, name, exc_info=error)
            return Outcome.RAISED, repr(error)
        return Outcome.OK, ""

    def _explain(self) -> None:
        """Draw who waits for whom, before anything that could tell is cancelled. Once; a scope below may have done it."""
        if self.graph is not None or any(
            report.graph is not None for child in self.child_reports for report in child.walk()
        ):
            return
        from pytinykv.waitgraph.explain import explain

        try:
            self.graph = explain(self._scope.root)
        except Exception:
            _log.exception("stop of scope %s: the wait-for graph could not be drawn", self._scope.name)

    def _remaining_tasks(self) -> list[asyncio.Task[Any]]:
        return [task for task in self._scope.tasks if task not in self._scope.excused]

    def _cancel_tasks(self) -> None:
        for task in self._remaining_tasks():
            try:
                task.cancel(f"scope {self._scope.name} is stopping")
            except RecursionError:  # tasks that await each other: asyncio passes the cancellation round and round
                _log.error("task %s awaits itself through other tasks, so it can't be cancelled", task.get_name())

    def _left(self) -> float:
        return max(MOMENT_S, self._deadline_at - asyncio.get_running_loop().time())

    def _hurry(self) -> None:
        """The stop itself was cancelled, so its loop is about to close: finish with a moment per step."""
        self._deadline_at = asyncio.get_running_loop().time()

    async def _wait(self, futures: tuple[asyncio.Future[Any], ...], limit_s: float) -> None:
        try:
            await asyncio.wait(futures, timeout=limit_s)
        except asyncio.CancelledError:
            self._hurry()
            await asyncio.wait(futures, timeout=MOMENT_S)


async def _await(awaitable: Awaitable[object]) -> object:
    return await awaitable


def _retrieve(task: asyncio.Task[Any]) -> None:
    """Take the result of an abandoned step, so that asyncio does not complain about it as well."""
    if not task.cancelled() and (error := task.exception()) is not None:
        _log.error("abandoned %s failed in the end: %r", task.get_name(), error)
