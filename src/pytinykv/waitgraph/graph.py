"""The wait-for graph as data: who waits for what, who would end that wait, and which of them can never go on.

```
runner   ──waits──►  thing  ──is held, filled or ended by──►  runner
task, thread,        lock, queue, event, condition,           …
loop, process        semaphore, future, call, timer
```

A runner may also wait for a runner (a task for a task, a thread for a thread). Most runners need *all* of what they wait
for; `asyncio.wait(FIRST_COMPLETED)` needs *any*. A thing needs any one of those that could end the wait for it.

Who is stuck is the largest set in which nobody is freed from outside: begin with all, and strike out, until nothing changes,
every runner that waits for nothing or for something struck out, and every thing that somebody struck out could end, or
that nobody known could (ignorance is no proof). What is left waits for itself, in at least one circle.

Invariants
1. A circle that is reported goes through stuck nodes only, so one filler that is free is enough to report none.
2. The graph holds no reference to what it describes: it can be kept, sent and printed later.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import StrEnum
from functools import cached_property
from typing import Final

from pytinykv.waitgraph.stacks import CallSite


class Kind(StrEnum):
    """What a node is."""

    TASK = "task"
    THREAD = "thread"
    LOOP = "event loop"
    CHILD = "child process"
    LOCK = "lock"
    QUEUE = "queue"
    EVENT = "event"
    CONDITION = "condition"
    SEMAPHORE = "semaphore"
    BARRIER = "barrier"
    FUTURE = "future"
    CALL = "grpc call"
    TIMER = "timer"
    IO = "input or output"
    OUTSIDE = "outside"
    """Somebody declared by name who is not one of this process's tasks and threads."""
    CODE = "code"
    """A function that would end the wait, and that nobody is inside of."""


CIRCLES_MAX: Final = 32
"""More than anybody reads; each is looked for through the whole graph."""
RUNNERS: Final = frozenset({Kind.TASK, Kind.THREAD, Kind.LOOP, Kind.CHILD})


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    """A runner or a thing."""

    id: str
    """Unique within the graph: the kind and a number, in the order of names."""
    kind: Kind
    name: str
    state: str = ""
    """For a thing: "full: 8 of 8"; for a runner: "ready", "running", "waiting"."""
    born: CallSite | None = None
    age_s: float | None = None
    stands_at: tuple[str, ...] = ()
    waits_s: float | None = None
    """How long it has waited for the present thing, at least."""
    ends_in_s: float | None = None
    """After how long the wait ends by itself; None without a deadline."""
    any_of: bool = False
    """Whether one of the things it waits for is enough."""

    @property
    def is_runner(self) -> bool:
        """Whether it does something, as opposed to being waited for only."""
        return self.kind in RUNNERS

    @property
    def title(self) -> str:
        """Kind and name; the name alone where the kind says nothing."""
        return self.name if self.kind in (Kind.OUTSIDE, Kind.CODE, Kind.IO, Kind.TIMER) else f"{self.kind} {self.name}"


@dataclass(frozen=True, slots=True)
class Edge:
    """`source` cannot go on before `target` does something."""

    source: str
    target: str
    verb: str
    """Reads well between the two: "waits to put into", "is held by"."""
    sure: bool = True
    """Whether it is known; otherwise it is what the source code suggests."""
    evidence: str = ""


@dataclass(frozen=True)
class WaitGraph:
    """All runners of a process with what they wait for, at one moment."""

    name: str
    pid: int
    nodes: dict[str, Node]
    edges: tuple[Edge, ...]
    circles: tuple[tuple[Edge, ...], ...] = field(default=())
    notes: tuple[str, ...] = ()
    """What could not be looked at, and why."""

    @classmethod
    def build(
        cls, name: str, pid: int, nodes: Iterable[Node], edges: Iterable[Edge], notes: Iterable[str] = ()
    ) -> WaitGraph:
        """Make a graph and find its circles."""
        known = {node.id: node for node in nodes}
        kept = tuple(edge for edge in edges if edge.source in known and edge.target in known)
        return cls(name, pid, known, kept, _find_circles(known, kept), tuple(notes))

    def outgoing(self, node_id: str) -> list[Edge]:
        """Return the edges that leave a node."""
        return self._by_source.get(node_id, [])

    @cached_property
    def _by_source(self) -> dict[str, list[Edge]]:
        found: dict[str, list[Edge]] = {}
        for edge in self.edges:
            found.setdefault(edge.source, []).append(edge)
        return found

    def runners(self, kind: Kind | None = None) -> list[Node]:
        """Return the runners, of one kind or of all, in the order of their ids."""
        return [node for node in self.nodes.values() if node.is_runner and kind in (None, node.kind)]

    def render(self) -> str:
        """Return the graph as text for people: circles first, then everybody else."""
        from pytinykv.waitgraph.graph_text import render_graph

        return render_graph(self)

    def to_data(self) -> dict[str, object]:
        """Return the graph as plain data, ready for JSON."""
        from pytinykv.waitgraph.graph_text import graph_to_data

        return graph_to_data(self)


def stuck_nodes(nodes: dict[str, Node], edges: Iterable[Edge]) -> frozenset[str]:
    """Return the nodes that nobody outside of them can free, as far as is known."""
    waiting: dict[str, list[str]] = {node_id: [] for node_id in nodes}
    left = dict.fromkeys(nodes, 0)
    """By node, how many ends of its edges are not struck out."""
    for edge in edges:
        left[edge.source] += 1
        waiting[edge.target].append(edge.source)
    free = [node_id for node_id, number in left.items() if number == 0]
    stuck = set(nodes).difference(free)
    while free:
        for source in waiting[free.pop()]:
            left[source] -= 1
            needs_all = nodes[source].is_runner and not nodes[source].any_of
            if source in stuck and (not needs_all or left[source] == 0):
                stuck.discard(source)
                free.append(source)
    return frozenset(stuck)


def _find_circles(nodes: dict[str, Node], edges: tuple[Edge, ...]) -> tuple[tuple[Edge, ...], ...]:
    """Return disjoint shortest circles among the stuck, each beginning with a runner where it has one; not all of many."""
    stuck = stuck_nodes(nodes, edges)
    leaving: dict[str, list[Edge]] = {node_id: [] for node_id in stuck}
    for edge in edges:
        if edge.source in stuck and edge.target in stuck:
            leaving[edge.source].append(edge)
    starts = sorted(stuck, key=lambda node_id: (not nodes[node_id].is_runner, nodes[node_id].title, node_id))
    circles: list[tuple[Edge, ...]] = []
    while len(circles) < CIRCLES_MAX:
        round_about = _in_circles(leaving)
        start = next((node_id for node_id in starts if node_id in round_about), None)
        if start is None:
            break
        circle = _shortest_circle(start, leaving)
        circles.append(circle)
        taken = {edge.source for edge in circle}
        leaving = {
            node_id: [edge for edge in ends if edge.target not in taken]
            for node_id, ends in leaving.items()
            if node_id not in taken
        }
    return tuple(circles)


def _in_circles(leaving: dict[str, list[Edge]]) -> set[str]:
    """Return the nodes that a way leads back to: those of Tarjan's strongly connected components with a circle inside."""
    numbers: dict[str, int] = {}
    lowest: dict[str, int] = {}
    open_nodes: dict[str, None] = {}
    found: set[str] = set()
    for start, edges_of_start in leaving.items():
        way = [(start, iter(edges_of_start))] if start not in numbers else []
        while way:
            node_id, edges = way[-1]
            if node_id not in numbers:
                numbers[node_id] = lowest[node_id] = len(numbers)
                open_nodes[node_id] = None
            target = next((edge.target for edge in edges), None)
            if target is None:
                way.pop()
                if way:
                    lowest[way[-1][0]] = min(lowest[way[-1][0]], lowest[node_id])
                if lowest[node_id] == numbers[node_id]:
                    found.update(_close(node_id, open_nodes, leaving))
            elif target not in numbers:
                way.append((target, iter(leaving[target])))
            elif target in open_nodes:
                lowest[node_id] = min(lowest[node_id], numbers[target])
    return found


def _close(first: str, open_nodes: dict[str, None], leaving: dict[str, list[Edge]]) -> set[str]:
    """Take the component that begins with `first` off the open nodes; return it if there is a circle in it."""
    component: set[str] = set()
    while first not in component:
        component.add(open_nodes.popitem()[0])
    is_circle = len(component) > 1 or any(edge.target == first for edge in leaving[first])
    return component if is_circle else set()


def _shortest_circle(start: str, leaving: dict[str, list[Edge]]) -> tuple[Edge, ...]:
    """Return the shortest way from `start`, which lies on a circle, back to it."""
    came_by: dict[str, Edge] = {}
    border = deque([start])
    while start not in came_by:
        for edge in leaving[border.popleft()]:
            if edge.target not in came_by:
                came_by[edge.target] = edge
                border.append(edge.target)
    circle = [came_by[start]]
    while circle[-1].source != start:
        circle.append(came_by[circle[-1].source])
    return tuple(reversed(circle))
