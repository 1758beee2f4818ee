"""Draw the wait-for graph of this process: tasks, threads, loops and child processes, and what they wait for.

```
runners               tasks of the program's loops, threads, child processes: `tasks_and_threads`
what each waits for   `blocked_on`, or declared: `declarations`
what would end that   declared, proven by a stack (`lock_holders`), or likely by the code of the runners (`wakers`)
deadlock cycles       `graph`
other wakers          before a cycle is reported that rests on likelihood, the heap is searched for more: `heap_referrers`
```

On a Python whose bytecode is not known (`stacks.bytecode_is_known`), holders and wakers that only code would tell are left
out. What they could end is then in no cycle, and a note says so.

It only reads, from any thread, also while the loop is blocked, and costs nothing until it is called; then some tens of
milliseconds for a server. What moves while it is looked at may be shown as it was before; no error comes of it. It takes no
lock and runs no code of what it looks at, so nothing that is stuck can hold it up.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import dataclasses
import fnmatch
import os
import re
import subprocess
import threading
from collections.abc import Iterator
from types import CodeType
from typing import Any, Final

from pytinykv.waitgraph import blocked_on, declarations
from pytinykv.waitgraph.graph import Edge, GraphNode, NodeKind, WaitGraph, stuck_nodes
from pytinykv.waitgraph.heap_referrers import find_referrers
from pytinykv.waitgraph.lock_holders import attribute_of, held_by, lock_of
from pytinykv.waitgraph.program import Program
from pytinykv.waitgraph.stacks import bytecode_is_known, why_code_is_not_read
from pytinykv.waitgraph.tasks_and_threads import RUNS, Runner, Runners
from pytinykv.waitgraph.wait import Aspect, Named, state_of
from pytinykv.waitgraph.wakers import Reach

_RLOCK_OWNER: Final = re.compile(r"owner=(\d+)")
_RLOCK: Final = type(threading.RLock())
_WAYS_OUT: Final = frozenset({"cancel", "abort", "reset"})
"""Methods that end any wait by breaking it off, which is no reason not to report a cycle."""
_NAMELESS: Final = "without a name"
_UNREAD: Final = "code that is not read on this Python"


def explain(program: Program) -> WaitGraph:
    """Return what waits for what in this process, as far as the loops of `program` and the process's threads go.

    Callable from any thread.
    """
    return _Draft(program).finish()


class _Draft:
    """One drawing. Everything is looked at in one go, so that it fits together as well as it can."""

    def __init__(self, program: Program) -> None:
        self._name: Final = program.name
        self._clock: Final = program.clock
        self._runners: Final = Runners(program)
        self._reach: Final = Reach([(runner.key, runner.steps) for runner in self._runners.all.values()])
        self._resources: Final[dict[tuple[int, Aspect], GraphNode]] = {}
        """By identity, and what about the resource is waited for."""
        self._resource_of: Final[dict[str, tuple[object, Aspect]]] = {}
        """By the ids of their nodes; keeps them alive, so that identities stay unique."""
        self._numbers: Final[dict[NodeKind, int]] = {}
        """How many resources there are of each kind."""
        self._edges: Final[list[Edge]] = []
        """In the order in which they were found. Only grows."""
        self._extra: Final[dict[str, GraphNode]] = {}
        """Wakers that are no runners, by the ids of their nodes."""
        self._waiting: Final[dict[int, set[str]]] = {}
        """By the identity of what they wait for: the keys of runners."""
        self._held: Final[dict[int, dict[str, str]]] = {}
        """By the identity of a lock: the runners inside of a `with` block of it, with the evidence."""
        self._blocks: Final[list[object]] = []
        """Keeps the objects of those blocks alive."""
        self._resolves: Final[dict[int, dict[str, str]]] = {}
        """By the identity of a future: the runners whose end resolves it, with the evidence."""
        self._ends_at: Final[dict[str, float]] = {}
        """By runner: when a runner that waits for it would cancel it."""
        self._reads_code: Final = bytecode_is_known()
        """Whether code can be asked who holds a lock, and what would end a wait."""
        if not self._reads_code:
            self._runners.notes.append(why_code_is_not_read())

    def finish(self) -> WaitGraph:
        """Look at everything and put it together."""
        for runner in self._runners.all.values():
            self._runners.guard(f"{runner.kind} {runner.name}", self._note, runner)
        for loop, (thread, verb) in self._runners.turned_by.items():
            self._edges.append(Edge(loop, thread, verb))
        for runner in list(self._runners.all.values()):
            self._runners.guard(f"{runner.kind} {runner.name}", self._connect, runner)
        graph = self._build()
        if graph.cycles and self._add_referrers(graph):
            graph = self._build()
        return dataclasses.replace(graph, cycles=tuple(filter(self._is_unmoved, graph.cycles)))

    def _build(self) -> WaitGraph:
        nodes = [self._node(runner) for runner in self._runners.all.values()]
        nodes += [*self._resources.values(), *self._extra.values()]
        return WaitGraph.build(self._name, os.getpid(), nodes, self._edges, self._runners.notes)

    def _is_unmoved(self, cycle: tuple[Edge, ...]) -> bool:
        """Whether no runner of a cycle has moved since the drawing began; otherwise it may never have been one."""
        runners = self._runners.all
        return not any(runners[edge.source].has_moved() for edge in cycle if edge.source in runners)

    def _add_referrers(self, graph: WaitGraph) -> bool:
        """Add what else could end the waits of the cycles that are only likely; return whether there is anything."""
        doubtful = {edge.source for cycle in graph.cycles for edge in cycle if not edge.sure}
        asked = [self._resource_of[node_id] for node_id in sorted(doubtful) if node_id in self._resource_of]
        stuck = stuck_nodes(graph.nodes, graph.edges)
        codes: dict[bool, set[CodeType]] = {True: set(), False: set()}
        for runner in self._runners.all.values():
            codes[runner.key in stuck].update(step.code for step in runner.steps)
        free = codes[False] - codes[True]
        named = [(resource, aspect.methods - _WAYS_OUT) for resource, aspect in asked]
        found = find_referrers(named, codes[True] | codes[False], free)
        for place, name in found:
            resource, aspect = asked[place]
            node = self._resources[id(resource), aspect]
            self._edges.append(Edge(node.id, self._outside(name, NodeKind.CODE), aspect.woken, sure=False))
        return bool(found)

    # --- what each has and waits for ----------------------------------------------------------------------------

    def _note(self, runner: Runner) -> None:
        if runner.wait is not None:
            for resource in runner.wait.resources:
                self._waiting.setdefault(id(resource), set()).add(runner.key)
        for held in held_by(runner.steps):
            self._blocks.append(held.block)
            self._held.setdefault(id(lock_of(held.block)), {})[runner.key] = held.evidence
        if isinstance(runner.subject, asyncio.Task):
            for function in blocked_on.callbacks_of(runner.subject):
                for value in blocked_on.closure_of(function).values():
                    if issubclass(type(value), (asyncio.Future, concurrent.futures.Future)):
                        self._resolves.setdefault(id(value), {})[runner.key] = "its end resolves it"
        elif (work := blocked_on.pool_work(runner.steps)) is not None:
            self._resolves.setdefault(id(work), {})[runner.key] = "it works on that"

    # --- edges --------------------------------------------------------------------------------------------------

    def _connect(self, runner: Runner) -> None:
        if runner.kind is NodeKind.LOOP:
            return
        if runner.wait is None:
            if runner.kind is NodeKind.TASK:
                self._connect_unblocked(runner)
            return
        wait = runner.wait
        targets = {self._target(resource, wait.aspect, wait.expression) for resource in wait.resources}
        for target in sorted(target for target in targets if target is not None):
            self._edges.append(Edge(runner.key, target, wait.aspect.verb))
            if wait.cancels and wait.ends_at_s is not None:
                self._ends_at[target] = min(wait.ends_at_s, self._ends_at.get(target, wait.ends_at_s))

    def _connect_unblocked(self, runner: Runner) -> None:
        """A task that could run waits for its loop; one that runs, for the thread it runs in."""
        assert isinstance(runner.subject, asyncio.Task)
        key = self._runners.key_of(runner.subject.get_loop())
        turned_by = self._runners.turned_by.get(key or "")
        if key is None or turned_by is None:
            return
        if runner.state == RUNS:
            self._edges.append(Edge(runner.key, turned_by[0], "runs in"))
        else:
            self._edges.append(Edge(runner.key, key, "waits for a turn of"))

    def _target(self, resource: object, aspect: Aspect, expression: str) -> str | None:
        """Return the node of what is waited for: a runner, or a resource, which is added with its wakers."""
        while isinstance(resource, asyncio.Future) and not isinstance(resource, asyncio.Task):
            inner = blocked_on.inner_future(resource)
            if inner is None:
                break
            resource = inner
        key = self._runners.key_of(resource)
        if key is not None:
            return key
        if isinstance(resource, asyncio.Task):
            if resource.done():
                return None
            aspect = Aspect.RESULT
        node = self._resources.get((id(resource), aspect))
        if node is None:
            node = self._resources[id(resource), aspect] = self._resource_node(resource, aspect, expression)
            self._resource_of[node.id] = resource, aspect
            self._add_wakers(node, resource, aspect)
        return node.id

    def _resource_node(self, resource: object, aspect: Aspect, expression: str) -> GraphNode:
        declared = declarations.declaration_of(resource)
        if isinstance(resource, declarations.waiting_for):
            declared = resource.declaration
        if declared is not None:
            name, made_at = declared.name, declared.made_at
        elif isinstance(resource, declarations.OwnedLock):
            name, made_at = resource.name, resource.made_at
        elif isinstance(resource, Named):
            name, made_at = resource.name, None
        else:
            name, made_at = self._reach.name_of(resource)
            name = name or (f"of `{expression}`" if expression else _NAMELESS)
        kind = aspect.kind
        number = self._numbers[kind] = self._numbers.get(kind, 0) + 1
        return GraphNode(
            id=f"{kind.name.lower()}-{number}", kind=kind, name=name, state=state_of(resource), created_at=made_at
        )

    def _add_wakers(self, node: GraphNode, resource: object, aspect: Aspect) -> None:
        verb = aspect.woken
        declared = (
            resource.declaration
            if isinstance(resource, declarations.waiting_for)
            else declarations.declaration_of(resource)
        )
        if declared is not None and declared.woken_by:
            for waker in declared.woken_by:
                for key in self._declared_waker(waker):
                    self._edges.append(Edge(node.id, key, verb, evidence="declared"))
            return
        if isinstance(resource, Named):
            if resource.peer:
                self._edges.append(Edge(node.id, self._outside(resource.peer, NodeKind.OUTSIDE), verb))
            return
        if isinstance(resource, (subprocess.Popen, declarations.waiting_for)):
            return
        proven = dict(self._holders(resource, aspect))
        for key, evidence in proven.items():
            self._edges.append(Edge(node.id, key, verb, evidence=evidence))
        if proven and aspect is Aspect.LOCK:
            return
        self._add_likely_wakers(node, resource, aspect, set(proven))

    def _add_likely_wakers(self, node: GraphNode, resource: object, aspect: Aspect, known: set[str]) -> None:
        found = self._reach.find(resource, aspect.methods)
        runners = {**found.runners, **self._resolves.get(id(resource), {})}
        for key, evidence in runners.items():
            wants_it = aspect in (Aspect.LOCK, Aspect.PARTIES) and key in self._waiting.get(id(resource), ())
            if key not in known and not wants_it:
                self._edges.append(Edge(node.id, key, aspect.woken, sure=False, evidence=evidence))
        for function in found.functions:
            self._edges.append(Edge(node.id, self._outside(function, NodeKind.CODE), aspect.woken, sure=False))
        if isinstance(resource, concurrent.futures.Future) and not runners and not found.functions:
            for key, evidence in self._would_take_up(resource):
                self._edges.append(Edge(node.id, key, aspect.woken, sure=False, evidence=evidence))
        if not self._reads_code:  # it may be free, whatever else is known: a cycle needs all that could end the wait
            self._edges.append(Edge(node.id, self._outside(_UNREAD, NodeKind.CODE), aspect.woken, sure=False))

    def _would_take_up(self, future: concurrent.futures.Future[Any]) -> Iterator[tuple[str, str]]:
        """Yield what has not begun yet to work on a future: a thread of a pool, or a loop that can't turn."""
        if attribute_of(future, "_state") == "PENDING":
            for runner in self._runners.of(NodeKind.THREAD):
                if blocked_on.is_of_a_pool(runner.steps):
                    yield runner.key, "a thread of a pool, which may take it up when it is free"
        for key in self._runners.turned_by:
            yield key, "a callback that waits for its turn"

    def _declared_waker(self, waker: declarations.Waker) -> list[str]:
        if not isinstance(waker, str):
            key = self._runners.key_of(waker)
            name = waker.get_name() if isinstance(waker, asyncio.Task) else getattr(waker, "name", type(waker).__name__)
            return [self._outside(f"{name}, which has ended", NodeKind.OUTSIDE) if key is None else key]
        runners = self._runners.all.values()
        keys = [runner.key for runner in runners if fnmatch.fnmatchcase(runner.name, waker)]
        return keys or [self._outside(waker, NodeKind.OUTSIDE)]

    def _holders(self, resource: object, aspect: Aspect) -> Iterator[tuple[str, str]]:
        """Yield the runners that hold a lock or a permit for certain."""
        if aspect not in (Aspect.LOCK, Aspect.PERMIT):
            return
        lock = lock_of(resource)
        if isinstance(lock, declarations.OwnedLock) and lock.holder is not None:
            key = self._runners.key_of(lock.holder)
            ended = f"task {lock.holder.get_name()}, which has ended without releasing it"
            yield (self._outside(ended, NodeKind.OUTSIDE) if key is None else key), "it acquired it"
        match = _RLOCK_OWNER.search(repr(lock)) if type(lock) is _RLOCK else None
        for runner in self._runners.of(NodeKind.THREAD) if match else ():
            if isinstance(runner.subject, threading.Thread) and runner.subject.ident == int(match[1] if match else 0):
                yield runner.key, "it acquired it"
        yield from self._held.get(id(lock), {}).items()

    def _outside(self, name: str, kind: NodeKind) -> str:
        key = f"{kind.name.lower()}:{name}"
        self._extra.setdefault(key, GraphNode(id=key, kind=kind, name=name))
        return key

    # --- nodes --------------------------------------------------------------------------------------------------

    def _node(self, runner: Runner) -> GraphNode:
        wait = runner.wait
        own_end = None if wait is None else wait.ends_at_s
        ends_at = min((at for at in (own_end, self._ends_at.get(runner.key)) if at is not None), default=None)
        waits_s = None
        if self._clock is not None and wait is not None:
            waits_s = self._clock.waited_s(runner.subject)
        return GraphNode(
            id=runner.key,
            kind=runner.kind,
            name=runner.name,
            state=runner.state,
            created_at=runner.started_at,
            age_s=runner.age_s,
            stack=runner.lines(),
            waits_s=waits_s,
            ends_in_s=None if ends_at is None else max(0.0, ends_at - runner.now),
            any_of=wait is not None and wait.any_of,
        )
