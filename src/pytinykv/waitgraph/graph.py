"""The wait-for graph as data: what waits for what, what would end that wait, and which of them can never go on.

```
runner   ──waits──►  resource  ──is held, filled or ended by──►  waker
task, thread,        lock, queue, event, condition,              a runner; code that no
loop, process        semaphore, future, call, timer              runner is in; a peer
```

A runner may also wait for a runner (a task for a task, a thread for a thread). Most runners need *all* of what they wait
for; `asyncio.wait(FIRST_COMPLETED)` needs *any*. A resource needs any one of its wakers.

Stuck is the largest set of nodes that nothing outside of it can free: begin with all, and remove, until nothing changes,
every runner that waits for nothing or for something removed, and every resource that has a waker which was removed, or no
known waker at all (ignorance is no proof). What is left waits for itself, in at least one cycle.

Invariants
1. A cycle that is reported goes through stuck nodes only: one waker that is free is enough to report none.
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


class NodeKind(StrEnum):
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
    CALL = "remote call"
    TIMER = "timer"
    IO = "input or output"
    OUTSIDE = "outside"
    """A waker that was declared by name and is not one of this process's tasks and threads."""
    CODE = "code"
    """A function that would end the wait, and that no task or thread is inside of."""


CYCLES_MAX: Final = 32
"""How many cycles are looked for: each costs a search of the whole graph, and few readers want more."""
RUNNERS: Final = frozenset({NodeKind.TASK, NodeKind.THREAD, NodeKind.LOOP, NodeKind.CHILD})


@dataclass(frozen=True, slots=True, kw_only=True)
class GraphNode:
    """A runner, a resource, or a waker that is not a runner."""

    id: str
    """Unique within the graph: the kind and a number, in the order of names."""
    kind: NodeKind
    name: str
    state: str = ""
    """Of a resource: "full: 8 of 8"; of a runner that is not blocked: what it does."""
    created_at: CallSite | None = None
    """Where a runner was started, or a resource made; None where that is not known."""
    age_s: float | None = None
    """Seconds since a task was started; None where that is not known."""
    stack: tuple[str, ...] = ()
    """The lines of source that a runner is in, outermost first."""
    waits_s: float | None = None
    """For how long it has waited for the present resource, at least; None where nothing looks regularly."""
    ends_in_s: float | None = None
    """After how long the wait ends by itself; None without a deadline."""
    any_of: bool = False
    """Whether one of the resources it waits for is enough."""

    @property
    def is_runner(self) -> bool:
        """Whether it does something, as opposed to being waited for only."""
        return self.kind in RUNNERS

    @property
    def title(self) -> str:
        """NodeKind and name; the name alone where the kind says nothing."""
        return (
            self.name
            if self.kind in (NodeKind.OUTSIDE, NodeKind.CODE, NodeKind.IO, NodeKind.TIMER)
            else f"{self.kind} {self.name}"
        )


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
    nodes: dict[str, GraphNode]
    edges: tuple[Edge, ...]
    cycles: tuple[tuple[Edge, ...], ...] = field(default=())
    """Deadlock cycles, each in the order of the waits: the last edge leads to where the first begins."""
    notes: tuple[str, ...] = ()
    """What could not be looked at, and why."""

    @classmethod
    def build(
        cls, name: str, pid: int, nodes: Iterable[GraphNode], edges: Iterable[Edge], notes: Iterable[str] = ()
    ) -> WaitGraph:
        """Make a graph and find its deadlock cycles."""
        known = {node.id: node for node in nodes}
        kept = tuple(edge for edge in edges if edge.source in known and edge.target in known)
        return cls(name, pid, known, kept, _find_cycles(known, kept), tuple(notes))

    def outgoing(self, node_id: str) -> list[Edge]:
        """Return the edges that leave a node."""
        return self._by_source.get(node_id, [])

    @cached_property
    def _by_source(self) -> dict[str, list[Edge]]:
        found: dict[str, list[Edge]] = {}
        for edge in self.edges:
            found.setdefault(edge.source, []).append(edge)
        return found

    def runners(self, kind: NodeKind | None = None) -> list[GraphNode]:
        """Return the runners, of one kind or of all, in the order of their ids."""
        return [node for node in self.nodes.values() if node.is_runner and kind in (None, node.kind)]


def stuck_nodes(nodes: dict[str, GraphNode], edges: Iterable[Edge]) -> frozenset[str]:
    """Return the nodes that nothing outside of them can free, as far as is known."""
    waiting: dict[str, list[str]] = {node_id: [] for node_id in nodes}
    left = dict.fromkeys(nodes, 0)
    """By node, how many ends of its edges are not removed."""
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


def _find_cycles(nodes: dict[str, GraphNode], edges: tuple[Edge, ...]) -> tuple[tuple[Edge, ...], ...]:
    """Return disjoint shortest cycles among the stuck, each beginning with a runner where it has one; not all of many."""
    stuck = stuck_nodes(nodes, edges)
    leaving: dict[str, list[Edge]] = {node_id: [] for node_id in stuck}
    for edge in edges:
        if edge.source in stuck and edge.target in stuck:
            leaving[edge.source].append(edge)
    starts = sorted(stuck, key=lambda node_id: (not nodes[node_id].is_runner, nodes[node_id].title, node_id))
    cycles: list[tuple[Edge, ...]] = []
    while len(cycles) < CYCLES_MAX:
        in_cycles = _in_cycles(leaving)
        start = next((node_id for node_id in starts if node_id in in_cycles), None)
        if start is None:
            break
        cycle = _shortest_cycle(start, leaving)
        cycles.append(cycle)
        taken = {edge.source for edge in cycle}
        leaving = {
            node_id: [edge for edge in ends if edge.target not in taken]
            for node_id, ends in leaving.items()
            if node_id not in taken
        }
    return tuple(cycles)


def _in_cycles(leaving: dict[str, list[Edge]]) -> set[str]:
    """Return the nodes that a way leads back to: those of Tarjan's strongly connected components with a cycle inside."""
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
    """Take the component that begins with `first` off the open nodes; return it if there is a cycle in it."""
    component: set[str] = set()
    while first not in component:
        component.add(open_nodes.popitem()[0])
    is_cycle = len(component) > 1 or any(edge.target == first for edge in leaving[first])
    return component if is_cycle else set()


def _shortest_cycle(start: str, leaving: dict[str, list[Edge]]) -> tuple[Edge, ...]:
    """Return the shortest way from `start`, which lies on a cycle, back to it."""
    came_by: dict[str, Edge] = {}
    border = deque([start])
    while start not in came_by:
        for edge in leaving[border.popleft()]:
            if edge.target not in came_by:
                came_by[edge.target] = edge
                border.append(edge.target)
    cycle = [came_by[start]]
    while cycle[-1].source != start:
        cycle.append(came_by[cycle[-1].source])
    return tuple(reversed(cycle))
