"""Draw the wait-for graph of this process: tasks, threads, loops and child processes, and everything they wait for.

```
runners     tasks of the scopes' loops, threads, child processes          named by their owners, where they have one
what each waits for          `standing`, or declared with `waits`
who would end that           declared, proven by the stack of a coroutine, or likely by its code (`fillers`)
circles                      `graph`
```

It only reads, from any thread, also while the loop stands still, and costs nothing until it is called; then some tens of
milliseconds for a server. What moves while it is looked at may come out stale, never wrong enough to raise.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import dataclasses
import fnmatch
import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterable, Iterator
from types import MethodType
from typing import TYPE_CHECKING, Any, Final

from pytinykv.lifecycle import standing, waits
from pytinykv.lifecycle.children import OwnedChild
from pytinykv.lifecycle.fillers import Reach
from pytinykv.lifecycle.graph import Edge, Kind, Node, WaitGraph
from pytinykv.lifecycle.graph_text import short_site
from pytinykv.lifecycle.owned import OwnedTask, OwnedThread
from pytinykv.lifecycle.stacks import CallSite, Step, await_steps, thread_steps
from pytinykv.lifecycle.standing import Aspect, Wait
from pytinykv.lifecycle.things import describe_thing

if TYPE_CHECKING:
    from pytinykv.lifecycle.scope import Scope

_IDLE_FUNCTIONS: Final = frozenset({"select", "poll", "run_forever", "run_until_complete", "run", "_run_once"})
RUNS: Final = "runs now"
_RLOCK_OWNER: Final = re.compile(r"owner=(\d+)")
_MADE_UP: Final = re.compile(r"Task-\d+|None")
_GRPC: Final = "/grpc/"


def explain(scope: Scope) -> WaitGraph:
    """Return who waits for whom in this process, as far as the loops of `scope` and the process's threads go.

    Since when, is told where the root scope has a `wait_clock`. Callable from any thread.
    """
    return _Draft(scope).finish()


class _Runner:
    """A runner while the graph is drawn."""

    def __init__(self, key: str, kind: Kind, name: str, subject: object) -> None:
        self.key: Final = key
        self.kind: Final = kind
        self.name: Final = name
        self.subject: Final = subject
        self.born: CallSite | None = None
        self.age_s: float | None = None
        self.steps: tuple[Step, ...] = ()
        self.place: Final = _place(subject)
        self.wait: Wait | None = None
        self.state = ""
        self.now = 0.0
        """The time in which the ends of its waits are counted."""


class _Draft:
    """One drawing. Everything is looked at in one go, so that it fits together as well as it can."""

    def __init__(self, scope: Scope) -> None:
        self._scope: Final = scope
        self._clock: Final = scope.root.wait_clock
        self._runners: Final[dict[str, _Runner]] = {}
        self._by_subject: Final[dict[int, str]] = {}
        self._things: Final[dict[tuple[int, Aspect], Node]] = {}
        self._edges: Final[list[Edge]] = []
        self._extra: Final[dict[str, Node]] = {}
        self._notes: Final[list[str]] = []
        self._kept: Final[list[object]] = []
        self._owned: Final[dict[asyncio.Task[Any], OwnedTask[Any]]] = {}
        for below in scope.subtree():
            self._owned.update(below.tasks)
        self._loops: Final = {id(loop): loop for below in scope.subtree() if (loop := below.loop) is not None}

    def finish(self) -> WaitGraph:
        """Look at everything and put it together."""
        self._add_tasks()
        self._add_threads()
        self._add_loops()
        self._add_children()
        self._reach = Reach([(runner.key, runner.steps) for runner in self._runners.values()])
        self._entered = self._blocks_entered()
        for runner in list(self._runners.values()):
            self._guard(f"{runner.kind} {runner.name}", self._connect, runner)
        nodes = [self._node(runner) for runner in self._runners.values()]
        graph = WaitGraph.build(
            self._scope.name,
            os.getpid(),
            [*nodes, *self._things.values(), *self._extra.values()],
            self._edges,
            self._notes,
        )

        return dataclasses.replace(graph, circles=tuple(filter(self._stood_still, graph.circles)))

    def _stood_still(self, circle: tuple[Edge, ...]) -> bool:
        """Whether nobody in a circle has moved since the drawing began; otherwise it may never have been one."""
        runners = [self._runners[edge.source] for edge in circle if edge.source in self._runners]
        return all(runner.place == _place(runner.subject) for runner in runners)

    def _guard(self, what: str, function: Any, *args: Any) -> None:
        try:
            function(*args)
        except Exception as error:  # it moves while it is looked at; what can't be seen is said
            self._notes.append(f"{what} could not be looked at: {error!r}")

    # --- runners ------------------------------------------------------------------------------------------------

    def _add(self, kind: Kind, name: str, subject: object) -> _Runner:
        number = sum(runner.kind is kind for runner in self._runners.values()) + 1
        runner = _Runner(f"{kind.name.lower()}-{number}", kind, name, subject)
        self._runners[runner.key] = runner
        self._by_subject[id(subject)] = runner.key
        return runner

    def _add_tasks(self) -> None:
        found: dict[asyncio.Task[Any], None] = dict.fromkeys(self._owned)
        for loop in self._loops.values():
            found.update(dict.fromkeys(asyncio.all_tasks(loop)))
        handlers = dict(self._handlers())
        for task in sorted((task for task in found if not task.done()), key=_task_order):
            self._guard(f"task {task.get_name()}", self._add_task, task, handlers)

    def _add_task(self, task: asyncio.Task[Any], handlers: dict[asyncio.Task[Any], tuple[str, Any]]) -> None:
        path, start = handlers.get(task, ("", None))
        runner = self._add(Kind.TASK, path or _task_name(task), task)
        loop = task.get_loop()
        runner.now = loop.time()
        owned = self._owned.get(task)
        if owned is not None:
            runner.born, runner.age_s = owned.started_at, runner.now - owned.started_s
        runner.steps = await_steps(task, start)
        runner.wait = self._declared_wait(task=task) or standing.task_wait(task, runner.steps)
        if runner.wait is None:
            current = asyncio.current_task(loop) if loop.is_running() else None
            runner.state = RUNS if task is current else "ready, waits for its turn"

    def _handlers(self) -> Iterator[tuple[asyncio.Task[Any], tuple[str, Any]]]:
        for below in self._scope.subtree():
            for member in list(below.members):
                handlers = getattr(member, "handlers", None)
                if callable(handlers):
                    yield from handlers()

    def _add_threads(self) -> None:
        owned: dict[threading.Thread, OwnedThread] = {
            thread.thread: thread for below in self._scope.subtree() for thread in list(below.threads)
        }
        for thread in sorted(threading.enumerate(), key=lambda thread: (thread.name, thread.ident or 0)):
            me = thread is threading.current_thread()  # it draws, and stands nowhere
            if not me and not isinstance(thread, threading._DummyThread):  # noqa: SLF001 - the mark of a foreign one
                self._guard(f"thread {thread.name}", self._add_thread, thread, owned.get(thread))

    def _add_thread(self, thread: threading.Thread, owned: OwnedThread | None) -> None:
        runner = self._add(Kind.THREAD, thread.name if owned is None else owned.name, thread)
        if owned is not None:
            self._by_subject[id(owned)] = runner.key
            runner.born = owned.started_at
        runner.steps = thread_steps(thread.ident)
        runner.wait = self._declared_wait(thread=thread.ident) or standing.thread_wait(runner.steps)
        if runner.wait is None:
            runner.state = "idle" if _is_idle(runner.steps) else "runs, or waits for something unknown"

    def _add_loops(self) -> None:
        """A loop is turned by a thread, so it cannot go on while that thread waits."""
        threads = {runner.subject: runner for runner in self._runners.values() if runner.kind is Kind.THREAD}
        idents = {thread.ident: runner for thread, runner in threads.items() if isinstance(thread, threading.Thread)}
        for below in self._scope.subtree():
            loop = below.loop
            if loop is None or id(loop) in self._by_subject:
                continue
            runner = self._add(Kind.LOOP, f"of {below.name}", loop)
            thread = idents.get(below.loop_thread)
            if thread is not None:
                runner.wait = Wait(Aspect.END, ())
                verb = "is idle in" if thread.state == "idle" else "is turned by"
                if thread.state != "idle":
                    self._edges.append(Edge(runner.key, thread.key, verb))

    def _add_children(self) -> None:
        for below in self._scope.subtree():
            for member in list(below.members):
                if isinstance(member, OwnedChild):
                    runner = self._add(Kind.CHILD, f"{member.name} (pid {member.pid})", member)
                    runner.born, runner.state = member.started_at, member.describe_state()

    def _declared_wait(self, *, task: asyncio.Task[Any] | None = None, thread: int | None = None) -> Wait | None:
        for block in waits.open_waits():
            if (task is not None and block.task is task) or (block.task is None and block.thread == thread):
                return Wait(Aspect.DECLARED, (block,))
        return None

    # --- edges --------------------------------------------------------------------------------------------------

    def _connect(self, runner: _Runner) -> None:
        if runner.kind is Kind.LOOP:
            return
        if runner.wait is None:
            if runner.kind is Kind.TASK:
                self._connect_unblocked(runner)
            return
        aspect = runner.wait.aspect
        targets = {self._target(thing, aspect) for thing in runner.wait.things}
        for target in sorted(target for target in targets if target is not None):
            self._edges.append(Edge(runner.key, target, aspect.verb))

    def _connect_unblocked(self, runner: _Runner) -> None:
        """A task that could run waits for its loop; one that runs, for the thread it runs in."""
        assert isinstance(runner.subject, asyncio.Task)
        loop = runner.subject.get_loop()
        key = self._by_subject.get(id(loop))
        if key is None:
            return
        if runner.state == RUNS:
            thread = next((edge.target for edge in self._edges if edge.source == key), None)
            if thread is not None:
                self._edges.append(Edge(runner.key, thread, "runs in"))
        elif any(edge.source == key for edge in self._edges):
            self._edges.append(Edge(runner.key, key, "waits for a turn of"))

    def _target(self, thing: object, aspect: Aspect) -> str | None:
        """Return the node of what is waited for: a runner, or a thing, which is made with its fillers."""
        while isinstance(thing, asyncio.Future) and not isinstance(thing, asyncio.Task):
            inner = standing.inner_future(thing)
            if inner is None:
                break
            thing = inner
        thread = self._thread_of(thing)
        key = self._by_subject.get(id(thing if thread is None else thread))
        if key is not None:
            return key
        if isinstance(thing, asyncio.Task) and thing.done():
            return None
        aspect = Aspect.RESULT if isinstance(thing, asyncio.Task) else aspect
        node = self._things.get((id(thing), aspect))
        if node is None:
            self._kept.append(thing)
            node = self._things[id(thing), aspect] = self._thing_node(thing, aspect)
            self._add_fillers(node, thing, aspect)
        return node.id

    def _thread_of(self, thing: object) -> OwnedThread | None:
        """Return the thread whose end a future of `OwnedThread` stands for."""
        if isinstance(thing, concurrent.futures.Future):
            for below in self._scope.subtree():
                for thread in list(below.threads):
                    if thread.finished is thing:
                        return thread
        return None

    def _thing_node(self, thing: object, aspect: Aspect) -> Node:
        kind, state = describe_thing(thing, aspect)
        declared = waits.declaration_of(thing)
        if isinstance(thing, waits.waiting_for):
            declared = thing.declaration
        if declared is not None:
            name, born = declared.name, declared.made_at
        elif isinstance(thing, waits.OwnedLock):
            name, born = thing.name, thing.made_at
        elif isinstance(thing, standing.Named):
            name, born = thing.name, None
        else:
            name, found = self._reach.name_of(thing)
            name, born = name or "without a name", found
        number = sum(node.kind is kind for node in self._things.values()) + 1
        return Node(id=f"{kind.name.lower()}-{number}", kind=kind, name=name, state=state, born=born)

    def _add_fillers(self, node: Node, thing: object, aspect: Aspect) -> None:
        verb = aspect.filled
        declared = thing.declaration if isinstance(thing, waits.waiting_for) else waits.declaration_of(thing)
        if declared is not None and declared.filled_by:
            for filler in declared.filled_by:
                for key in self._declared_filler(filler):
                    self._edges.append(Edge(node.id, key, verb, evidence="declared"))
            return
        if isinstance(thing, standing.Named):
            if thing.peer:
                self._edges.append(Edge(node.id, self._outside(thing.peer, Kind.OUTSIDE), verb))
            return
        if isinstance(thing, (subprocess.Popen, waits.waiting_for)):
            return
        proven = dict(self._holders(thing, aspect))
        for key, evidence in proven.items():
            self._edges.append(Edge(node.id, key, verb, evidence=evidence))
        if proven and aspect is Aspect.LOCK:
            return
        self._add_likely_fillers(node, thing, aspect, set(proven))

    def _add_likely_fillers(self, node: Node, thing: object, aspect: Aspect, known: set[str]) -> None:
        found = self._reach.find(thing, aspect.methods)
        runners = {**found.runners, **dict(self._resolvers(thing))}
        for key, evidence in runners.items():
            wants_it = aspect is Aspect.LOCK and self._waits_for(key, thing)
            if key not in known and not wants_it:
                self._edges.append(Edge(node.id, key, aspect.filled, sure=False, evidence=evidence))
        for function in found.functions:
            self._edges.append(Edge(node.id, self._outside(function, Kind.CODE), aspect.filled, sure=False))
        if isinstance(thing, concurrent.futures.Future) and not runners and not found.functions:
            for runner in self._runners.values():
                if runner.kind is Kind.LOOP and any(edge.source == runner.key for edge in self._edges):
                    evidence = "a callback that waits for its turn"
                    self._edges.append(Edge(node.id, runner.key, aspect.filled, sure=False, evidence=evidence))

    def _waits_for(self, key: str, thing: object) -> bool:
        wait = self._runners[key].wait
        return wait is not None and any(waited is thing for waited in wait.things)

    def _declared_filler(self, filler: waits.Filler) -> list[str]:
        if not isinstance(filler, str):
            subject: object = filler.task if isinstance(filler, OwnedTask) else filler
            key = self._by_subject.get(id(subject))
            return (
                [self._outside(f"{getattr(filler, 'name', filler)}, which has ended", Kind.OUTSIDE)]
                if key is None
                else [key]
            )
        keys = [runner.key for runner in self._runners.values() if fnmatch.fnmatchcase(runner.name, filler)]
        return keys or [self._outside(filler, Kind.OUTSIDE)]

    def _holders(self, thing: object, aspect: Aspect) -> Iterator[tuple[str, str]]:
        """Yield those who hold a lock or a permit for certain."""
        if aspect not in (Aspect.LOCK, Aspect.PERMIT):
            return
        holder = getattr(thing, "holder", None)
        if isinstance(holder, asyncio.Task) and (key := self._by_subject.get(id(holder))) is not None:
            yield key, "it acquired it"
        match = _RLOCK_OWNER.search(repr(thing)) if isinstance(thing, type(threading.RLock())) else None
        for runner in self._runners.values():
            if match and isinstance(runner.subject, threading.Thread) and runner.subject.ident == int(match[1]):
                yield runner.key, "it acquired it"
        yield from self._entered.get(id(thing), {}).items()

    def _blocks_entered(self) -> dict[int, dict[str, str]]:
        """Return, by lock, who is inside of a `with` block of it, and not still waiting to enter."""
        found: dict[int, dict[str, str]] = {}
        for runner in self._runners.values():
            waited = [] if runner.wait is None else list(runner.wait.things)
            for block, evidence in reversed(list(_entered_by(runner))):
                self._kept.append(block)
                locks = [lock for lock in (block, getattr(block, "_lock", None)) if lock is not None]
                entering = [thing for thing in waited if any(thing is lock for lock in locks)]
                if entering and isinstance(runner.subject, asyncio.Task):  # the innermost block is not entered yet
                    waited.remove(entering[0])
                    continue
                for lock in locks:
                    found.setdefault(id(lock), {})[runner.key] = evidence
        return found

    def _resolvers(self, thing: object) -> Iterator[tuple[str, str]]:
        """Yield tasks whose end resolves a future, as `run_coroutine_threadsafe` arranges it."""
        if not isinstance(thing, (asyncio.Future, concurrent.futures.Future)):
            return
        for runner in self._runners.values():
            if not isinstance(runner.subject, asyncio.Task):
                continue
            for function in standing.callbacks_of(runner.subject):
                if any(value is thing for value in standing.closure_of(function).values()):
                    yield runner.key, "its end resolves it"
                    break

    def _outside(self, name: str, kind: Kind) -> str:
        key = f"{kind.name.lower()}:{name}"
        self._extra.setdefault(key, Node(id=key, kind=kind, name=name))
        return key

    # --- nodes --------------------------------------------------------------------------------------------------

    def _node(self, runner: _Runner) -> Node:
        ends_at = None if runner.wait is None else runner.wait.ends_at_s
        waits_s = None
        if self._clock is not None and runner.wait is not None:
            waits_s = self._clock.waited_s(runner.subject)
        return Node(
            id=runner.key,
            kind=runner.kind,
            name=runner.name,
            state=runner.state,
            born=runner.born,
            age_s=runner.age_s,
            stands_at=tuple(_lines(runner)),
            waits_s=waits_s,
            ends_in_s=None if ends_at is None else max(0.0, ends_at - runner.now),
            any_of=runner.wait is not None and runner.wait.any_of,
        )


def _place(subject: object) -> object:
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


def _task_order(task: asyncio.Task[Any]) -> tuple[str, float]:
    return task.get_name(), 0.0


def _entered_by(runner: _Runner) -> Iterable[tuple[object, str]]:
    for step in runner.steps:
        if step.suspended is not None:
            for block in standing.blocks_entered((step,)):
                yield (
                    block,
                    f"inside its block at {short_site(step.code.co_filename, step.line, step.code.co_qualname)}",
                )
        elif step.frame is not None:
            yield from standing.source_blocks(step)


def _is_idle(steps: tuple[Step, ...]) -> bool:
    """Whether a thread stands where an event loop waits for events, or in a loop written in C, under no callback."""
    return bool(steps) and steps[-1].code.co_name in _IDLE_FUNCTIONS and not isinstance(steps[-1].suspended, MethodType)


def _lines(runner: _Runner) -> Iterator[str]:
    if runner.state == "idle":
        return
    for step in runner.steps:
        path = step.code.co_filename
        if "/asyncio/" in path or path.endswith("/threading.py") or _GRPC in path:
            continue
        yield short_site(path, step.line, step.code.co_qualname)
