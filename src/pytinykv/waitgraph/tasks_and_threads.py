"""The runners of a process at one moment: tasks, threads, event loops and child processes.

Tasks are those that the program has labelled and all others of its loops; threads are all that Python knows. Each is noted
with its name, where it was started, its stack, and what it waits for. Callable from any thread; it only reads.
"""

from __future__ import annotations

import asyncio
import re
import sys
import threading
from collections.abc import Callable, Sequence
from typing import Any, Final

from pytinykv.waitgraph import blocked_on, declarations
from pytinykv.waitgraph.graph import NodeKind
from pytinykv.waitgraph.program import Label, LoopLabel, Program
from pytinykv.waitgraph.stacks import CallSite, Step, await_steps, ends_of, short_site, thread_steps
from pytinykv.waitgraph.wait import Aspect, Wait

RUNS: Final = "runs now"
IDLE: Final = "idle"
_MADE_UP: Final = re.compile(r"Task-\d+|None")
_GRPC_POLLER: Final = "_poll_wrapper"
"""A part of the name of the thread that grpc.aio has for each process."""
_TURNING: Final = ("run_forever", "run_until_complete")
_NAME_MAX: Final = 120
"""Characters: a name may be anything."""


class Runner:
    """A runner while the graph is drawn."""

    def __init__(self, key: str, kind: NodeKind, name: str, subject: object) -> None:
        self.key: Final = key
        self.kind: Final = kind
        self.name: Final = name
        self.subject: Final = subject
        self.started_at: CallSite | None = None
        """The line that started it, if a label tells."""
        self.age_s: float | None = None
        """How long ago that was, if a label tells."""
        self.steps: tuple[Step, ...] = ()
        """Its stack, outermost first."""
        self.place: Final = place_of(subject)
        self.wait: Wait | None = None
        """What it is blocked on; None if on nothing, or nothing known."""
        self.state = ""
        """What it does if it is not blocked, in words."""
        self.now = 0.0
        """The time in which the ends of its waits are counted."""

    def lines(self) -> tuple[str, ...]:
        """Return where it is, as lines for people, without what every program has."""
        if self.state == IDLE:
            return ()
        own = [step for step in self.steps if not blocked_on.is_library(step)]
        return ends_of(
            [short_site(step.code.co_filename, step.line, step.code.co_qualname) for step in own or self.steps[-1:]]
        )

    def has_moved(self) -> bool:
        """Whether it has gone on since it was noted."""
        return self.place != place_of(self.subject)


class Runners:
    """All runners, by key."""

    def __init__(self, program: Program) -> None:
        self.all: Final[dict[str, Runner]] = {}
        """In the order in which the text shows them. Only grows."""
        self.notes: Final[list[str]] = []
        """What could not be looked at, and why."""
        self.turned_by: Final[dict[str, tuple[str, str]]] = {}
        """By the key of a loop: that of the thread that turns it, and the verb between the two. Not of an idle loop."""
        self._by_subject: Final[dict[int, str]] = {}
        """Keys by the identity of the subject, or of a handle."""
        self._numbers: Final[dict[NodeKind, int]] = {}
        """How many there are of each kind."""
        self._blocks: Final = declarations.open_waits()
        tasks = {label.subject: label for label in program.labels if isinstance(label.subject, asyncio.Task)}
        threads = {label.subject: label for label in program.labels if isinstance(label.subject, threading.Thread)}
        self._add_tasks(program.loops, tasks)
        self._add_threads(threads)
        self._add_loops(program.loops)
        for label in program.labels:
            if not isinstance(label.subject, (asyncio.Task, threading.Thread)):
                self._add(NodeKind.CHILD, label.name, label.subject, label).state = label.state

    def key_of(self, subject: object) -> str | None:
        """Return the key of a task, thread, loop or child process, or of what a handle stands for."""
        return self._by_subject.get(id(subject))

    def of(self, kind: NodeKind) -> list[Runner]:
        """Return the runners of one kind."""
        return [runner for runner in self.all.values() if runner.kind is kind]

    def guard(self, what: str, function: Callable[..., object], *args: Any) -> None:
        """Call `function`; note what could not be looked at because it moved meanwhile."""
        try:
            function(*args)
        except Exception as error:
            self.notes.append(f"{what} could not be looked at: {type(error).__name__}: {_text_of(error)}")

    def _add(self, kind: NodeKind, name: str, subject: object, label: Label | None = None) -> Runner:
        number = self._numbers[kind] = self._numbers.get(kind, 0) + 1
        runner = Runner(f"{kind.name.lower()}-{number}", kind, _one_line(name), subject)
        self.all[runner.key] = runner
        self._by_subject[id(subject)] = runner.key
        if label is not None:
            runner.started_at = label.started_at
            self._by_subject.update((id(handle), runner.key) for handle in label.handles)
        return runner

    def _add_tasks(self, labels_of_loops: Sequence[LoopLabel], labels: dict[asyncio.Task[Any], Label]) -> None:
        loops = {id(label.loop): label.loop for label in labels_of_loops}
        found: dict[asyncio.Task[Any], None] = dict.fromkeys(labels)
        for loop in loops.values():
            found.update(dict.fromkeys(asyncio.all_tasks(loop)))
        running = {asyncio.current_task(loop) for loop in loops.values() if loop.is_running()}
        names = {task: str(task.get_name()) for task in found if not task.done()}
        for task in sorted(names, key=names.__getitem__):
            label = labels.get(task) or Label(task, _task_name(task))
            self.guard(f"task {_one_line(names[task])}", self._add_task, task, label, task in running)

    def _add_task(self, task: asyncio.Task[Any], label: Label, is_running: bool) -> None:  # noqa: FBT001 - see `guard`
        runner = self._add(NodeKind.TASK, label.name, task, label)
        runner.now = task.get_loop().time()
        if label.started_s is not None:
            runner.age_s = runner.now - label.started_s
        runner.steps = await_steps(task, label.coroutine)
        runner.wait = self._declared_wait(task=task) or blocked_on.task_wait(task, runner.steps)
        if runner.wait is None:
            runner.state = RUNS if is_running else "ready, waits for its turn"

    def _add_threads(self, labels: dict[threading.Thread, Label]) -> None:
        for thread in sorted(threading.enumerate(), key=lambda thread: (thread.name, thread.ident or 0)):
            me = thread is threading.current_thread()  # it draws, and is blocked on nothing
            if not me and not isinstance(thread, threading._DummyThread):  # noqa: SLF001 - the mark of a foreign one
                self.guard(f"thread {_one_line(thread.name)}", self._add_thread, thread, labels.get(thread))

    def _add_thread(self, thread: threading.Thread, label: Label | None) -> None:
        runner = self._add(NodeKind.THREAD, thread.name if label is None else label.name, thread, label)
        runner.steps = thread_steps(thread.ident)
        runner.wait = self._declared_wait(thread=thread.ident) or blocked_on.thread_wait(runner.steps)
        if runner.wait is None:
            of_grpc = _GRPC_POLLER in thread.name
            busy = "waits for events of gRPC" if of_grpc else "runs, or waits for something unknown"
            runner.state = IDLE if _is_idle(runner.steps) else busy

    def _add_loops(self, labels: Sequence[LoopLabel]) -> None:
        """A loop is turned by a thread, so it cannot go on while that thread waits."""
        threads = {
            runner.subject.ident: runner
            for runner in self.of(NodeKind.THREAD)
            if isinstance(runner.subject, threading.Thread)
        }
        for label in labels:
            if self.key_of(label.loop) is not None:
                continue
            runner = self._add(NodeKind.LOOP, label.name, label.loop)
            thread = threads.get(label.thread_id)
            if thread is not None:
                runner.wait = Wait(Aspect.END, ())
                if thread.state != IDLE:
                    self.turned_by[runner.key] = (thread.key, "is turned by")

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
    except Exception:  # an error whose text can't be had
        return "?"


def _is_idle(steps: Sequence[Step]) -> bool:
    """Whether a thread is where an event loop waits for events, or in a loop written in C, under no callback."""
    if not steps:
        return False
    innermost = steps[-1]
    if blocked_on.is_pool_idle(steps) or innermost.code.co_filename.endswith("/selectors.py"):
        return True
    return blocked_on.method_called(innermost) in _TURNING
