"""All who run in this process at one moment, for the wait-for graph: tasks, threads, event loops and child processes.

Tasks are those that a scope owns and all others of the scopes' loops; threads are all that Python knows. Each is noted with
its name, its place of birth, where it stands, and what it waits for. Callable from any thread; it only reads.
"""

from __future__ import annotations

import asyncio
import re
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, Final

from pytinykv.lifecycle.census import ENGINE_THREADS
from pytinykv.lifecycle.children import OwnedChild
from pytinykv.lifecycle.owned import OwnedTask, OwnedThread
from pytinykv.waitgraph import blocked_on, waits
from pytinykv.waitgraph.blocked_on import Aspect, Wait
from pytinykv.waitgraph.graph import Kind
from pytinykv.waitgraph.stacks import CallSite, Step, await_steps, ends_of, short_site, thread_steps

if TYPE_CHECKING:
    from pytinykv.lifecycle.scope import Scope

RUNS: Final = "runs now"
IDLE: Final = "idle"
_MADE_UP: Final = re.compile(r"Task-\d+|None")
_TURNING: Final = ("run_forever", "run_until_complete")
_NAME_MAX: Final = 120
"""Characters. A name is made by anybody, of anything."""


class Runner:
    """A runner while the graph is drawn."""

    def __init__(self, key: str, kind: Kind, name: str, subject: object) -> None:
        self.key: Final = key
        self.kind: Final = kind
        self.name: Final = name
        self.subject: Final = subject
        self.born: CallSite | None = None
        self.age_s: float | None = None
        self.steps: tuple[Step, ...] = ()
        self.place: Final = place_of(subject)
        self.wait: Wait | None = None
        self.state = ""
        self.now = 0.0
        """The time in which the ends of its waits are counted."""

    def lines(self) -> tuple[str, ...]:
        """Return where it stands, as lines for people, without what every program has."""
        if self.state == IDLE:
            return ()
        own = [step for step in self.steps if not blocked_on.is_library(step)]
        return ends_of(
            [short_site(step.code.co_filename, step.line, step.code.co_qualname) for step in own or self.steps[-1:]]
        )

    def stood_still(self) -> bool:
        """Whether it has not moved since it was noted."""
        return self.place == place_of(self.subject)


class Runners:
    """Everybody, by key and by what they are."""

    def __init__(self, scope: Scope) -> None:
        self.scopes: Final = list(scope.subtree())
        self.all: Final[dict[str, Runner]] = {}
        self.notes: Final[list[str]] = []
        """What could not be looked at, and why."""
        self.turned_by: Final[dict[str, tuple[str, str]]] = {}
        """By the key of a loop: that of the thread that turns it, and whether it is idle in it, in words."""
        self._by_subject: Final[dict[int, str]] = {}
        self._numbers: Final[dict[Kind, int]] = {}
        self._blocks: Final = waits.open_waits()
        self._owned: Final[dict[asyncio.Task[Any], OwnedTask[Any]]] = {}
        for below in self.scopes:
            self._owned.update(below.tasks)
        self._add_tasks()
        self._add_threads()
        self._add_loops()
        self._add_children()

    def key_of(self, subject: object) -> str | None:
        """Return the key of a task, thread, loop or child, or of what the scopes have it as."""
        return self._by_subject.get(id(subject))

    def of(self, *kinds: Kind) -> list[Runner]:
        """Return the runners of some kinds."""
        return [runner for runner in self.all.values() if runner.kind in kinds]

    def guard(self, what: str, function: Callable[..., object], *args: Any) -> None:
        """Call `function`; note what could not be looked at because it moved meanwhile."""
        try:
            function(*args)
        except Exception as error:
            self.notes.append(f"{what} could not be looked at: {type(error).__name__}: {_text_of(error)}")

    def _add(self, kind: Kind, name: str, subject: object) -> Runner:
        number = self._numbers[kind] = self._numbers.get(kind, 0) + 1
        runner = Runner(f"{kind.name.lower()}-{number}", kind, _one_line(name), subject)
        self.all[runner.key] = runner
        self._by_subject[id(subject)] = runner.key
        return runner

    def _add_tasks(self) -> None:
        loops = {id(loop): loop for below in self.scopes if (loop := below.loop) is not None}
        found: dict[asyncio.Task[Any], None] = dict.fromkeys(self._owned)
        for loop in loops.values():
            found.update(dict.fromkeys(asyncio.all_tasks(loop)))
        self._running = {asyncio.current_task(loop) for loop in loops.values() if loop.is_running()}
        handlers = dict(self._handlers())
        names = {task: str(task.get_name()) for task in found if not task.done()}
        for task in sorted(names, key=names.__getitem__):
            self.guard(f"task {_one_line(names[task])}", self._add_task, task, handlers.get(task))

    def _add_task(self, task: asyncio.Task[Any], handler: tuple[str, Any] | None) -> None:
        path, start = handler or ("", None)
        runner = self._add(Kind.TASK, path or _task_name(task), task)
        runner.now = task.get_loop().time()
        owned = self._owned.get(task)
        if owned is not None:
            runner.born, runner.age_s = owned.started_at, runner.now - owned.started_s
        runner.steps = await_steps(task, start)
        runner.wait = self._declared_wait(task=task) or blocked_on.task_wait(task, runner.steps)
        if runner.wait is None:
            runner.state = RUNS if task in self._running else "ready, waits for its turn"

    def _handlers(self) -> Iterator[tuple[asyncio.Task[Any], tuple[str, Any]]]:
        for below in self.scopes:
            for member in list(below.members):
                handlers = getattr(member, "handlers", None)
                if callable(handlers):
                    yield from handlers()

    def _add_threads(self) -> None:
        owned: dict[threading.Thread, OwnedThread] = {
            thread.thread: thread for below in self.scopes for thread in list(below.threads)
        }
        for thread in sorted(threading.enumerate(), key=lambda thread: (thread.name, thread.ident or 0)):
            me = thread is threading.current_thread()  # it draws, and stands nowhere
            if not me and not isinstance(thread, threading._DummyThread):  # noqa: SLF001 - the mark of a foreign one
                self.guard(f"thread {_one_line(thread.name)}", self._add_thread, thread, owned.get(thread))

    def _add_thread(self, thread: threading.Thread, owned: OwnedThread | None) -> None:
        runner = self._add(Kind.THREAD, thread.name if owned is None else owned.name, thread)
        if owned is not None:
            self._by_subject[id(owned)] = runner.key
            self._by_subject[id(owned.finished)] = runner.key
            runner.born = owned.started_at
        runner.steps = thread_steps(thread.ident)
        runner.wait = self._declared_wait(thread=thread.ident) or blocked_on.thread_wait(runner.steps)
        if runner.wait is None:
            of_grpc = any(part in thread.name for part in ENGINE_THREADS)
            busy = "waits for events of gRPC" if of_grpc else "runs, or waits for something unknown"
            runner.state = IDLE if _is_idle(runner.steps) else busy

    def _add_loops(self) -> None:
        """A loop is turned by a thread, so it cannot go on while that thread waits."""
        threads = {
            runner.subject.ident: runner
            for runner in self.of(Kind.THREAD)
            if isinstance(runner.subject, threading.Thread)
        }
        for below in self.scopes:
            loop = below.loop
            if loop is None or self.key_of(loop) is not None:
                continue
            runner = self._add(Kind.LOOP, f"of {below.name}", loop)
            thread = threads.get(below.loop_thread)
            if thread is not None:
                runner.wait = Wait(Aspect.END, ())
                if thread.state != IDLE:
                    self.turned_by[runner.key] = (thread.key, "is turned by")

    def _add_children(self) -> None:
        for below in self.scopes:
            for member in list(below.members):
                if isinstance(member, OwnedChild):
                    runner = self._add(Kind.CHILD, f"{member.name} (pid {member.pid})", member)
                    runner.born, runner.state = member.started_at, member.describe_state()

    def _declared_wait(self, *, task: asyncio.Task[Any] | None = None, thread: int | None = None) -> Wait | None:
        for block in self._blocks:
            if (task is not None and block.task is task) or (block.task is None and block.thread == thread):
                return Wait(Aspect.DECLARED, (block,))
        return None


def place_of(subject: object) -> object:
    """Return what changes when a task or thread goes on; the same for everything else."""
    if isinstance(subject, asyncio.Task):
        return getattr(subject, "_fut_waiter", None)
    if isinstance(subject, threading.Thread):
        frame = sys._current_frames().get(subject.ident or 0)  # noqa: SLF001 - public in all but name
        return None if frame is None else (id(frame), frame.f_lasti)
    return None


def _task_name(task: asyncio.Task[Any]) -> str:
    """Return the task's name; what it runs beside one that asyncio made up."""
    name = task.get_name()
    if not _MADE_UP.fullmatch(name):
        return name
    return f"{name} ({getattr(task.get_coro(), '__qualname__', '?')})"


def _one_line(name: object) -> str:
    text = " ".join(str(name).split())
    return text if len(text) <= _NAME_MAX else f"{text[: _NAME_MAX - 1]}…"


def _text_of(error: Exception) -> str:
    try:
        return _one_line(error)
    except Exception:  # an error that can't even be told
        return "?"


def _is_idle(steps: Sequence[Step]) -> bool:
    """Whether a thread stands where an event loop waits for events, or in a loop written in C, under no callback."""
    if not steps:
        return False
    innermost = steps[-1]
    if blocked_on.is_pool_idle(steps) or innermost.code.co_filename.endswith("/selectors.py"):
        return True
    return blocked_on.method_called(innermost) in _TURNING
