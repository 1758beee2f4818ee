"""Draw the wait-for graph of this process: tasks, threads, loops and child processes, and everything they wait for.

```
runners     tasks of the scopes' loops, threads, child processes          `runners`
what each waits for          `standing`, or declared with `waits`
who would end that           declared, proven by a stack (`holders`), or likely by the code of those who run (`fillers`)
circles                      `graph`
who else could               before a circle is told that rests on likelihood, the heap is asked for others: `strangers`
```

It only reads, from any thread, also while the loop stands still, and costs nothing until it is called; then some tens of
milliseconds for a server. What moves while it is looked at may come out stale, never wrong enough to raise. It takes no lock
and runs no code of what it looks at, so it can't be held up by whoever is stuck.
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
from typing import TYPE_CHECKING, Any, Final

from pytinykv.lifecycle.owned import OwnedTask
from pytinykv.waitgraph import blocked_on, waits
from pytinykv.waitgraph.blocked_on import Aspect
from pytinykv.waitgraph.graph import Edge, Kind, Node, WaitGraph, stuck_nodes
from pytinykv.waitgraph.heap_referrers import find_strangers
from pytinykv.waitgraph.lock_holders import attribute_of, held_by, lock_of
from pytinykv.waitgraph.tasks_and_threads import RUNS, Runner, Runners
from pytinykv.waitgraph.things import describe_thing
from pytinykv.waitgraph.wakers import Reach

if TYPE_CHECKING:
    from pytinykv.lifecycle.scope import Scope

_RLOCK_OWNER: Final = re.compile(r"owner=(\d+)")
_RLOCK: Final = type(threading.RLock())
_WAYS_OUT: Final = frozenset({"cancel", "abort", "reset"})
"""Methods that end any wait by breaking it off, which is no reason not to tell of a circle."""
_NAMELESS: Final = "without a name"


def explain(scope: Scope) -> WaitGraph:
    """Return who waits for whom in this process, as far as the loops of `scope` and the process's threads go.

    For how long they have waited is known only where the root scope has a `wait_clock`. Callable from any thread.
    """
    return _Draft(scope).finish()


class _Draft:
    """One drawing. Everything is looked at in one go, so that it fits together as well as it can."""

    def __init__(self, scope: Scope) -> None:
        self._name: Final = scope.name
        self._clock: Final = scope.root.wait_clock
        self._runners: Final = Runners(scope)
        self._reach: Final = Reach([(runner.key, runner.steps) for runner in self._runners.all.values()])
        self._things: Final[dict[tuple[int, Aspect], Node]] = {}
        self._thing_of: Final[dict[str, tuple[object, Aspect]]] = {}
        """By the ids of their nodes; keeps them alive, so that identities stay unique."""
        self._numbers: Final[dict[Kind, int]] = {}
        self._edges: Final[list[Edge]] = []
        self._extra: Final[dict[str, Node]] = {}
        self._waiting: Final[dict[int, set[str]]] = {}
        """By the identity of what they wait for."""
        self._held: Final[dict[int, dict[str, str]]] = {}
        """By the identity of a lock: who is inside of a `with` block of it, and the evidence."""
        self._blocks: Final[list[object]] = []
        self._resolves: Final[dict[int, dict[str, str]]] = {}
        """By the identity of a future: whose end resolves it, and the evidence."""
        self._ends_at: Final[dict[str, float]] = {}
        """By runner: when somebody who waits for it would cancel it."""

    def finish(self) -> WaitGraph:
        """Look at everything and put it together."""
        for runner in self._runners.all.values():
            self._runners.guard(f"{runner.kind} {runner.name}", self._note, runner)
        for loop, (thread, verb) in self._runners.turned_by.items():
            self._edges.append(Edge(loop, thread, verb))
        for runner in list(self._runners.all.values()):
            self._runners.guard(f"{runner.kind} {runner.name}", self._connect, runner)
        graph = self._build()
        if graph.circles and self._add_strangers(graph):
            graph = self._build()
        return dataclasses.replace(graph, circles=tuple(filter(self._stood_still, graph.circles)))

    def _build(self) -> WaitGraph:
        nodes = [self._node(runner) for runner in self._runners.all.values()]
        nodes += [*self._things.values(), *self._extra.values()]
        return WaitGraph.build(self._name, os.getpid(), nodes, self._edges, self._runners.notes)

    def _stood_still(self, circle: tuple[Edge, ...]) -> bool:
        """Whether nobody in a circle has moved since the drawing began; otherwise it may never have been one."""
        runners = self._runners.all
        return all(runners[edge.source].stood_still() for edge in circle if edge.source in runners)

    def _add_strangers(self, graph: WaitGraph) -> bool:
        """Add who else could end the waits of the circles that are only likely; return whether there is anybody."""
        doubtful = {edge.source for circle in graph.circles for edge in circle if not edge.sure}
        asked = [self._thing_of[node_id] for node_id in sorted(doubtful) if node_id in self._thing_of]
        stuck = stuck_nodes(graph.nodes, graph.edges)
        codes: dict[bool, set[CodeType]] = {True: set(), False: set()}
        for runner in self._runners.all.values():
            codes[runner.key in stuck].update(step.code for step in runner.steps)
        free = codes[False] - codes[True]
        named = [(thing, aspect.methods - _WAYS_OUT) for thing, aspect in asked]
        found = find_strangers(named, codes[True] | codes[False], free)
        for place, name in found:
            thing, aspect = asked[place]
            node = self._things[id(thing), aspect]
            self._edges.append(Edge(node.id, self._outside(name, Kind.CODE), aspect.filled, sure=False))
        return bool(found)

    # --- what each has and waits for ----------------------------------------------------------------------------

    def _note(self, runner: Runner) -> None:
        if runner.wait is not None:
            for thing in runner.wait.things:
                self._waiting.setdefault(id(thing), set()).add(runner.key)
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
        if runner.kind is Kind.LOOP:
            return
        if runner.wait is None:
            if runner.kind is Kind.TASK:
                self._connect_unblocked(runner)
            return
        wait = runner.wait
        targets = {self._target(thing, wait.aspect, wait.said) for thing in wait.things}
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

    def _target(self, thing: object, aspect: Aspect, said: str) -> str | None:
        """Return the node of what is waited for: a runner, or a thing, which is made with its fillers."""
        while isinstance(thing, asyncio.Future) and not isinstance(thing, asyncio.Task):
            inner = blocked_on.inner_future(thing)
            if inner is None:
                break
            thing = inner
        key = self._runners.key_of(thing)
        if key is not None:
            return key
        if isinstance(thing, asyncio.Task):
            if thing.done():
                return None
            aspect = Aspect.RESULT
        node = self._things.get((id(thing), aspect))
        if node is None:
            node = self._things[id(thing), aspect] = self._thing_node(thing, aspect, said)
            self._thing_of[node.id] = thing, aspect
            self._add_fillers(node, thing, aspect)
        return node.id

    def _thing_node(self, thing: object, aspect: Aspect, said: str) -> Node:
        kind, state = describe_thing(thing, aspect)
        declared = waits.declaration_of(thing)
        if isinstance(thing, waits.waiting_for):
            declared = thing.declaration
        if declared is not None:
            name, born = declared.name, declared.made_at
        elif isinstance(thing, waits.OwnedLock):
            name, born = thing.name, thing.made_at
        elif isinstance(thing, blocked_on.Named):
            name, born = thing.name, None
        else:
            name, born = self._reach.name_of(thing)
            name = name or (f"of `{said}`" if said else _NAMELESS)
        number = self._numbers[kind] = self._numbers.get(kind, 0) + 1
        return Node(id=f"{kind.name.lower()}-{number}", kind=kind, name=name, state=state, born=born)

    def _add_fillers(self, node: Node, thing: object, aspect: Aspect) -> None:
        verb = aspect.filled
        declared = thing.declaration if isinstance(thing, waits.waiting_for) else waits.declaration_of(thing)
        if declared is not None and declared.filled_by:
            for filler in declared.filled_by:
                for key in self._declared_filler(filler):
                    self._edges.append(Edge(node.id, key, verb, evidence="declared"))
            return
        if isinstance(thing, blocked_on.Named):
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
        runners = {**found.runners, **self._resolves.get(id(thing), {})}
        for key, evidence in runners.items():
            wants_it = aspect in (Aspect.LOCK, Aspect.PARTIES) and key in self._waiting.get(id(thing), ())
            if key not in known and not wants_it:
                self._edges.append(Edge(node.id, key, aspect.filled, sure=False, evidence=evidence))
        for function in found.functions:
            self._edges.append(Edge(node.id, self._outside(function, Kind.CODE), aspect.filled, sure=False))
        if isinstance(thing, concurrent.futures.Future) and not runners and not found.functions:
            for key, evidence in self._would_take_up(thing):
                self._edges.append(Edge(node.id, key, aspect.filled, sure=False, evidence=evidence))

    def _would_take_up(self, future: concurrent.futures.Future[Any]) -> Iterator[tuple[str, str]]:
        """Yield who has not begun yet what resolves a future: a thread of a pool, or a loop that can't turn."""
        if attribute_of(future, "_state") == "PENDING":
            for runner in self._runners.of(Kind.THREAD):
                if blocked_on.is_of_a_pool(runner.steps):
                    yield runner.key, "a thread of a pool, which may take it up when it is free"
        for key in self._runners.turned_by:
            yield key, "a callback that waits for its turn"

    def _declared_filler(self, filler: waits.Filler) -> list[str]:
        if not isinstance(filler, str):
            key = self._runners.key_of(filler.task if isinstance(filler, OwnedTask) else filler)
            ended = f"{getattr(filler, 'name', filler)}, which has ended"
            return [self._outside(ended, Kind.OUTSIDE) if key is None else key]
        runners = self._runners.all.values()
        keys = [runner.key for runner in runners if fnmatch.fnmatchcase(runner.name, filler)]
        return keys or [self._outside(filler, Kind.OUTSIDE)]

    def _holders(self, thing: object, aspect: Aspect) -> Iterator[tuple[str, str]]:
        """Yield those who hold a lock or a permit for certain."""
        if aspect not in (Aspect.LOCK, Aspect.PERMIT):
            return
        lock = lock_of(thing)
        if isinstance(lock, waits.OwnedLock) and lock.holder is not None:
            key = self._runners.key_of(lock.holder)
            ended = f"task {lock.holder.get_name()}, which has ended without releasing it"
            yield (self._outside(ended, Kind.OUTSIDE) if key is None else key), "it acquired it"
        match = _RLOCK_OWNER.search(repr(lock)) if type(lock) is _RLOCK else None
        for runner in self._runners.of(Kind.THREAD) if match else ():
            if isinstance(runner.subject, threading.Thread) and runner.subject.ident == int(match[1] if match else 0):
                yield runner.key, "it acquired it"
        yield from self._held.get(id(lock), {}).items()

    def _outside(self, name: str, kind: Kind) -> str:
        key = f"{kind.name.lower()}:{name}"
        self._extra.setdefault(key, Node(id=key, kind=kind, name=name))
        return key

    # --- nodes --------------------------------------------------------------------------------------------------

    def _node(self, runner: Runner) -> Node:
        wait = runner.wait
        own_end = None if wait is None else wait.ends_at_s
        ends_at = min((at for at in (own_end, self._ends_at.get(runner.key)) if at is not None), default=None)
        waits_s = None
        if self._clock is not None and wait is not None:
            waits_s = self._clock.waited_s(runner.subject)
        return Node(
            id=runner.key,
            kind=runner.kind,
            name=runner.name,
            state=runner.state,
            born=runner.born,
            age_s=runner.age_s,
            stands_at=runner.lines(),
            waits_s=waits_s,
            ends_in_s=None if ends_at is None else max(0.0, ends_at - runner.now),
            any_of=wait is not None and wait.any_of,
        )
