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

from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final

from pytinykv.lifecycle.stacks import CallSite


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
    FUTURE = "future"
    CALL = "grpc call"
    TIMER = "timer"
    IO = "input or output"
    OUTSIDE = "outside"
    """Somebody declared by name who is not one of this process's tasks and threads."""
    CODE = "code"
    """A function that would end the wait, and that nobody is inside of."""


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
        return [edge for edge in self.edges if edge.source == node_id]

    def runners(self, kind: Kind | None = None) -> list[Node]:
        """Return the runners, of one kind or of all, in the order of their ids."""
        return [node for node in self.nodes.values() if node.is_runner and kind in (None, node.kind)]

    def render(self) -> str:
        """Return the graph as text for people: circles first, then everybody else."""
        from pytinykv.lifecycle.graph_text import render_graph

        return render_graph(self)

    def to_data(self) -> dict[str, object]:
        """Return the graph as plain data, ready for JSON."""
        from pytinykv.lifecycle.graph_text import graph_to_data

        return graph_to_data(self)


def stuck_nodes(nodes: dict[str, Node], edges: Iterable[Edge]) -> frozenset[str]:
    """Return the nodes that nobody outside of them can free, as far as is known."""
    targets: dict[str, list[str]] = {node_id: [] for node_id in nodes}
    for edge in edges:
        targets[edge.source].append(edge.target)
    stuck = set(nodes)
    changed = True
    while changed:
        changed = False
        for node_id in sorted(stuck):
            node, ends = nodes[node_id], targets[node_id]
            needs_all = node.is_runner and not node.any_of
            holds = any(end in stuck for end in ends) if needs_all else all(end in stuck for end in ends)
            if not ends or not holds:
                stuck.discard(node_id)
                changed = True
    return frozenset(stuck)


def _find_circles(nodes: dict[str, Node], edges: tuple[Edge, ...]) -> tuple[tuple[Edge, ...], ...]:
    """Return disjoint shortest circles among the stuck, each beginning with a runner where it has one."""
    stuck = stuck_nodes(nodes, edges)
    leaving: dict[str, list[Edge]] = {}
    for edge in edges:
        if edge.source in stuck and edge.target in stuck:
            leaving.setdefault(edge.source, []).append(edge)
    circles: list[tuple[Edge, ...]] = []
    taken: set[str] = set()
    starts = sorted(stuck, key=lambda node_id: (not nodes[node_id].is_runner, nodes[node_id].title, node_id))
    for start in starts:
        if start in taken:
            continue
        circle = _shortest_circle(start, leaving, taken)
        if circle:
            circles.append(circle)
            taken.update(edge.source for edge in circle)
    return tuple(circles)


def _shortest_circle(start: str, leaving: dict[str, list[Edge]], taken: set[str]) -> tuple[Edge, ...]:
    """Return the shortest way from `start` back to it that keeps off `taken`; empty if there is none."""
    reached: dict[str, tuple[Edge, ...]] = {}
    border: list[tuple[str, tuple[Edge, ...]]] = [(start, ())]
    while border:
        further: list[tuple[str, tuple[Edge, ...]]] = []
        for node_id, way in border:
            for edge in leaving.get(node_id, ()):
                if edge.target == start:
                    return (*way, edge)
                if edge.target not in reached and edge.target not in taken:
                    reached[edge.target] = (*way, edge)
                    further.append((edge.target, reached[edge.target]))
        border = further
    return ()
