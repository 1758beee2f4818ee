"""Scopes: what owns a task, a thread, a server, a child process, and in which order they end.

A scope starts tasks and threads under its name, holds them strongly, and stops everything it owns in a fixed order, with
deadlines, ending in a report. Scopes nest.

```
scope "store-1"                     stop() of "store-1":
├── on_stop      s1, s2, s3         1  s1, s2, s3      as registered
├── members      m1, m2             2  m2, then m1     newest first: child scopes, servers, channels, processes
├── tasks        t1, t2             3  t1 and t2       cancelled, together
├── threads      d1                 4  d1              woken and joined
└── on_stopped   engine, lock       5  lock, engine    newest first: what all of the above uses is closed
```

A parent's tasks and threads outlive its children, because children may use what their parent owns and never the other way
round: waits form no cycle.

Invariants
1. A task, thread or member is in the scope's books from its start until it has ended.
2. From the moment `stop` is called nothing can be started in the scope.
3. `stop` runs once. Every caller, early or late, gets the same report; a cancelled caller does not cancel the stop.
4. A task that calls `stop` from inside is not waited for. A cycle that cannot be resolved so is refused, not waited out.
5. No step of a stop can prevent the next one: what raises or overruns is recorded.
"""

from __future__ import annotations

import asyncio
import collections
import inspect
import logging
import threading
from collections.abc import Callable, Coroutine, Iterator
from types import TracebackType
from typing import Any, Final, ParamSpec, Self, TypeVar, cast

from pytinykv.lifecycle.census import Census, take_census
from pytinykv.lifecycle.errors import LifecycleError, ScopeStoppedError
from pytinykv.lifecycle.members import Books, Member, Stage, StageFunction
from pytinykv.lifecycle.owned import OwnedTask, OwnedThread
from pytinykv.lifecycle.report import Leak, StopReport
from pytinykv.lifecycle.stopping import StopSequence
from pytinykv.waitgraph import Label, LoopLabel, Program, WaitClock, WaitGraph, call_site, explain

T = TypeVar("T")
P = ParamSpec("P")

FailureCallback = Callable[[str, BaseException], object]

STOP_DEADLINE_S: Final = 5.0
"""For a whole stop, unless the caller says otherwise."""
STAGE_DEADLINE_S: Final = 1.0
_FAILURES_KEPT: Final = 16

_log = logging.getLogger(__name__)


class Scope(Member):
    """An owner of background work; see the module's text for the order in which a stop ends it.

    Not thread-safe: a scope belongs to the event loop that uses it first. It may be made outside any loop.
    """

    stop_margin_s = 1.0  # it bounds itself; this is for a stop that was begun before, with a longer deadline

    def __init__(self, name: str, *, parent: Scope | None = None) -> None:
        """Make a root scope, or use `child` for one below another. `name` appears in logs, reports and task names."""
        if parent is not None:
            parent.refuse_if_stopping(f"scope {name!r}")
        made_at = call_site(1 if parent is None else 2)
        super().__init__(name if parent is None else f"{parent.name}/{name}", made_at)
        self.parent: Final = parent
        self.books: Final = Books()
        self.failures: Final = collections.deque[str](maxlen=_FAILURES_KEPT)
        """The last tasks and threads that failed, here and not below, each with its error."""
        self._bad_reports: Final[list[StopReport]] = []
        """Reports of children that were stopped on their own and left something behind."""
        self._failure_callbacks: Final[list[FailureCallback]] = []
        """Asked when background work fails; a scope that has none leaves it to its parent. Only grows."""
        self._before: Final[Census | None] = take_census() if parent is None else None
        """Of a root scope: what the process had when it was made."""
        self.wait_clock: WaitClock | None = None
        """What knows for how long each task and thread has waited: set on a root scope by its `Watch`."""
        self.loop_blocked_s: Callable[[], float] = float
        """Returns for how long the event loop has not turned, 0.0 while it does: set on a root scope by its `Watch`."""
        self._loop: asyncio.AbstractEventLoop | None = None
        """The loop that the scope belongs to: the one in which it first started something, or was stopped."""
        self._loop_thread: int | None = None
        """The identifier of the thread that turned the loop then."""
        self._sequence: StopSequence | None = None
        """The stop, from the moment it began; never None again."""
        self._stop_task: asyncio.Task[StopReport] | None = None
        """The task that runs the sequence."""
        self._report: StopReport | None = None
        """Set once, when the stop is over."""
        if parent is not None:
            parent.books.members[self] = None
        _log.debug("scope %s started", self.name)

    @property
    def root(self) -> Scope:
        """The scope at the top of the tree."""
        return self if self.parent is None else self.parent.root

    @property
    def loop(self) -> asyncio.AbstractEventLoop | None:
        """The loop that the scope belongs to, once it has used one that is not closed."""
        return None if self._loop is None or self._loop.is_closed() else self._loop

    # --- starting -----------------------------------------------------------------------------------------------

    def child(self, name: str) -> Scope:
        """Make a scope below this one; it is stopped with it, before this scope's own tasks, unless it stops earlier.

        Raises:
            ScopeStoppedError: this scope is stopping or has stopped.
        """
        return Scope(name, parent=self)

    def start(
        self, name: str, coro_fn: Callable[P, Coroutine[Any, Any, T]], /, *args: P.args, **kwargs: P.kwargs
    ) -> OwnedTask[T]:
        """Run `coro_fn(*args, **kwargs)` as a task named `<scope>/<name>`.

        A task that raises is logged and given to `on_failure`; the scope goes on.

        Raises:
            ScopeStoppedError: the scope is stopping or has stopped; `coro_fn` was not called.
            LifecycleError: there is no running event loop, or it is not the scope's.
        """
        if inspect.iscoroutine(given := cast("object", coro_fn)):
            given.close()
            raise TypeError(f"scope.start({name!r}, …) takes the coroutine function and its arguments, not a coroutine")
        self.refuse_if_stopping(f"task {name!r}")
        loop = self._bind_loop()
        full_name = f"{self.name}/{name}"
        task = loop.create_task(coro_fn(*args, **kwargs), name=full_name)
        owned = OwnedTask(full_name, task, call_site(), loop.time())
        self.books.tasks[task] = owned
        task.add_done_callback(self._on_task_done)
        _log.debug("task %s started", full_name)
        return owned

    def start_thread(
        self, name: str, target: Callable[..., object], *args: Any, wake: Callable[[], object] | None = None
    ) -> OwnedThread:
        """Run `target(*args)` in a thread named `<scope>/<name>`.

        Args:
            name: the thread's name within the scope.
            target: has to return soon after `wake` was called; a thread cannot be ended from outside.
            args: given to `target`.
            wake: called once, at stop, from the event loop; must not block. None for a target that returns by itself.

        Raises:
            ScopeStoppedError: the scope is stopping or has stopped.
        """
        self.refuse_if_stopping(f"thread {name!r}")
        try:
            loop: asyncio.AbstractEventLoop | None = self._bind_loop()
        except LifecycleError:
            loop = None

        def on_error(full_name: str, error: BaseException) -> None:
            if loop is None or loop.is_closed():
                self.fail(full_name, error)
            else:
                loop.call_soon_threadsafe(self.fail, full_name, error)

        thread = OwnedThread(f"{self.name}/{name}", target, args, wake=wake, started_at=call_site(), on_error=on_error)
        self.books.threads[thread] = None
        thread.add_done_callback(self._on_thread_done)
        _log.debug("thread %s started", thread.name)
        thread.thread.start()
        return thread

    def adopt(self, member: Member) -> None:
        """Take a server, channel or process into the books; it is stopped with the scope, newest first.

        Raises:
            ScopeStoppedError: the scope is stopping or has stopped; the caller still has to close `member`.
        """
        self.refuse_if_stopping(member.name)
        self.books.members[member] = None

    def disown(self, member: Member) -> None:
        """Strike a member that has ended from the books; unknown ones are ignored."""
        self.books.members.pop(member, None)

    # --- registering --------------------------------------------------------------------------------------------

    def on_stop(self, name: str, function: StageFunction, deadline_s: float = STAGE_DEADLINE_S) -> None:
        """Register a stage of the stop: `function()`, plain or async, run in the order of registration.

        A stage that raises, or that takes longer than `deadline_s` seconds and is then cancelled, is recorded in the
        report and the next one runs. A plain function cannot be interrupted: it must be quick.

        Raises:
            ScopeStoppedError: the scope is stopping or has stopped.
        """
        self.refuse_if_stopping(f"stage {name!r}")
        self.books.stages.append(Stage(name, function, deadline_s, call_site()))

    def on_stopped(self, name: str, function: StageFunction, deadline_s: float = STAGE_DEADLINE_S) -> None:
        """As `on_stop`, but run when everything else in the scope has been stopped, in the reverse order of registration.

        For what the scope's children, tasks and threads use until their end. Register it right after opening it.
        """
        self.refuse_if_stopping(f"stage {name!r}")
        self.books.last_stages.append(Stage(name, function, deadline_s, call_site()))

    def forget_stages(self) -> None:
        """Forget what was registered with `on_stop`, here and below: a stop then ends things without a word to others.

        For tests, in which it is to look like a crash. What `on_stopped` has registered still runs.
        """
        for scope in self.subtree():
            scope.books.stages.clear()

    def on_failure(self, callback: FailureCallback) -> None:
        """Call `callback(name, error)` when a task or thread fails, here or in a child without a callback of its own."""
        self._failure_callbacks.append(callback)

    def fail(self, name: str, error: BaseException) -> None:
        """Record that something owned has failed: log it, remember it, and call the nearest `on_failure`."""
        _log.error("%s failed: %r", name, error, exc_info=error)
        self.failures.append(f"{name}: {error!r}")
        if self._sequence is not None:
            self._sequence.note_failure(f"{name}: {error!r}")
        scope: Scope | None = self
        while scope is not None and not scope._failure_callbacks:  # noqa: SLF001 - same class
            scope = scope.parent
        for callback in [] if scope is None else list(scope._failure_callbacks):  # noqa: SLF001 - same class
            try:
                callback(name, error)
            except Exception:
                _log.exception("the failure callback of scope %s failed", self.name)

    # --- stopping -----------------------------------------------------------------------------------------------

    @property
    def stopping(self) -> bool:
        """Whether a stop has begun; stays true when it is over."""
        return self._sequence is not None

    @property
    def stopped(self) -> bool:
        """Whether the stop is over and the report there."""
        return self._report is not None

    @property
    def report(self) -> StopReport | None:
        """The report of the stop, once it is over."""
        return self._report

    async def stop(self, deadline_s: float = STOP_DEADLINE_S) -> StopReport:
        """End everything the scope owns and return the report; never raises because of what it ends.

        Idempotent; callers at the same time share one stop, and the first one's deadline holds. A caller that is
        cancelled leaves the stop running. A task of this scope (or below) may call it: it is then not waited for.

        Args:
            deadline_s: seconds of loop time for the whole stop. Past it every remaining step still gets a moment.

        Raises:
            LifecycleError: called by a stage of the very stop it would wait for, or in another event loop.
        """
        if self._report is not None:
            return self._report
        loop = self._bind_loop()
        self._excuse(asyncio.current_task())
        if self._stop_task is None:
            _log.debug("scope %s stopping", self.name)
            self._sequence = StopSequence(self.name, self.books, loop.time() + deadline_s, self.root.explain)
            self._stop_task = loop.create_task(self._run_stop(self._sequence), name=f"{self.name}/stop")
        return await asyncio.shield(self._stop_task)

    async def stop_member(self, deadline_s: float) -> None:
        """Stop, as a part of the parent's stop."""
        await self.stop(deadline_s)

    async def _run_stop(self, sequence: StopSequence) -> StopReport:
        loop = asyncio.get_running_loop()
        started = loop.time()
        await sequence.run()
        report = StopReport(
            name=self.name,
            took_s=loop.time() - started,
            stages=tuple(sequence.results),
            own_leaks=tuple(sequence.leaks),
            children=(*self._bad_reports, *sequence.child_reports),
            failures=tuple(self.failures),
            before=self._before,
            after=take_census(without=asyncio.current_task()) if self.parent is None else None,
            graph=sequence.graph,
        )
        self._report = report
        if self.parent is not None:
            self.parent._on_child_stopped(self, report)  # noqa: SLF001 - same class
        if report.ok:
            _log.debug("scope %s stopped in %.3f s", self.name, report.took_s)
        else:
            _log.error("scope %s did not stop cleanly\n%s", self.name, report.render())
        return report

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop the scope; raises LifecycleError with the report if something was left and nothing else is raised."""
        report = await self.stop()
        if not report.ok and error is None:
            raise LifecycleError(report.render())

    # --- explaining: from any thread ----------------------------------------------------------------------------

    def explain(self) -> WaitGraph:
        """Return what waits for what in this process, as far as the loops of this scope and those below it go."""
        loops: dict[asyncio.AbstractEventLoop, LoopLabel] = {}
        for scope in self.subtree():
            if (loop := scope.loop) is not None:
                loops.setdefault(loop, LoopLabel(loop, f"of {scope.name}", scope._loop_thread))  # noqa: SLF001 - same class
        clock = self.root.wait_clock
        return explain(Program(name=self.name, loops=tuple(loops.values()), labels=self.labels(), clock=clock))

    def labels(self) -> list[Label]:
        """Return all tasks, threads and child processes that this scope and those below it own."""
        return [
            *(task.label() for task in list(self.books.tasks.values())),
            *(thread.label() for thread in list(self.books.threads)),
            *(label for member in list(self.books.members) for label in member.labels()),
        ]

    def leaks(self) -> list[Leak]:
        """Return everything that this scope and those below it own now, as what would be left behind."""
        return [
            *(task.as_leak() for task in list(self.books.tasks.values())),
            *(thread.as_leak() for thread in list(self.books.threads)),
            *(leak for member in list(self.books.members) for leak in member.leaks()),
        ]

    # --- inside -------------------------------------------------------------------------------------------------

    def refuse_if_stopping(self, what: str) -> None:
        """Raise ScopeStoppedError, naming `what`, when a stop has begun."""
        if self.stopping:
            state = "has stopped" if self._report is not None else "is stopping"
            raise ScopeStoppedError(f"cannot start {what} in scope {self.name}: it {state}")

    def subtree(self) -> Iterator[Scope]:
        """Iterate over this scope and all below it."""
        yield self
        for member in list(self.books.members):
            if isinstance(member, Scope):
                yield from member.subtree()

    def is_stage_task(self, task: asyncio.Task[Any]) -> bool:
        """Whether `task` runs a part of this scope's stop."""
        return self._sequence is not None and task in (self._stop_task, self._sequence.step_task)

    def _excuse(self, caller: asyncio.Task[Any] | None) -> None:
        """Take the caller of `stop` out of what the stop waits for (invariant 4)."""
        if caller is None:
            return
        for scope in self.subtree():
            if scope.is_stage_task(caller):
                raise LifecycleError(f"a stage of the stop of scope {scope.name} cannot wait for scope {self.name}")
            if caller in scope.books.tasks:
                scope.books.excused.add(caller)
                if scope._sequence is not None:  # noqa: SLF001 - same class
                    scope._sequence.check_idle()  # noqa: SLF001 - same class

    def _bind_loop(self) -> asyncio.AbstractEventLoop:
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:
            raise LifecycleError(f"scope {self.name} needs a running event loop for this") from None
        if self._loop is None or self._loop.is_closed():
            self._loop, self._loop_thread = loop, threading.get_ident()
        elif self._loop is not loop:
            raise LifecycleError(f"scope {self.name} belongs to another event loop")
        return loop

    def _on_task_done(self, task: asyncio.Task[Any]) -> None:
        owned = self.books.tasks.pop(task)
        self.books.excused.discard(task)
        if task.cancelled():
            _log.debug("task %s cancelled", owned.name)
        elif (error := task.exception()) is not None:
            self.fail(owned.name, error)
        else:
            _log.debug("task %s ended", owned.name)
        if self._sequence is not None:
            self._sequence.check_idle()

    def _on_thread_done(self, thread: OwnedThread) -> None:
        self.books.threads.pop(thread, None)

    def _on_child_stopped(self, child: Scope, report: StopReport) -> None:
        """A child has stopped. If it did so on its own and badly, its report becomes a part of this scope's."""
        self.books.members.pop(child, None)
        if not report.ok and (self._sequence is None or not self._sequence.is_stopping(child)):
            self._bad_reports.append(report)

    def __repr__(self) -> str:
        state = "stopped" if self._report is not None else "stopping" if self.stopping else "running"
        owned = f"{len(self.books.tasks)} tasks, {len(self.books.threads)} threads, {len(self.books.members)} members"
        return f"<Scope {self.name} {state}: {owned}>"
