"""The wait-for graph for people and for programs.

The text begins with the deadlock cycles; then come all other runners, one paragraph each: its name, where it was started,
where it is, what it waits for, what would end that.

It stays readable with ten thousand tasks: those that were started at one line, are at one line, and wait for the same sort of
resource share a paragraph with their number. Of very many sorts, and of very long cycles, a part is shown; the data has all.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final

from pytinykv.waitgraph.graph import Edge, GraphNode, NodeKind, WaitGraph
from pytinykv.waitgraph.stacks import CallSite, short_site

FORMAT: Final = 2
"""Of the data. Fields may be added in the same format; a program leaves alone what it does not know."""
_STACK_MAX: Final = 6
_WAKERS_MAX: Final = 6
_RESOURCES_MAX: Final = 6
"""Of what one runner waits for."""
_CYCLES_MAX: Final = 8
_STEPS_MAX: Final = 40
"""Of one cycle."""
_SORTS_MAX: Final = 200
_NOTES_MAX: Final = 20
_NUMBER: Final = re.compile(r"\d+(\.\d+)?")


def render_graph(graph: WaitGraph) -> str:
    """Return the graph as text, without a newline at the end."""
    lines = [f"wait-for graph of {graph.name} (pid {graph.pid}): {_census(graph)}"]
    cycles = render_cycles(graph)
    if cycles:
        lines += ["", cycles]
    shown = {edge.source for cycle in graph.cycles for edge in cycle}
    others = [node for node in graph.runners() if node.id not in shown and _is_worth_showing(graph, node)]
    if others:
        lines += ["", "all others" if graph.cycles else "no deadlock cycle; all tasks and threads"]
        lines += _paragraphs(graph, others)
    lines += [f"note: {note}" for note in graph.notes[:_NOTES_MAX]]
    if len(graph.notes) > _NOTES_MAX:
        lines.append(f"note: … {len(graph.notes) - _NOTES_MAX} more notes")
    return "\n".join(lines)


def render_cycles(graph: WaitGraph) -> str:
    """Return the deadlock cycles alone as text; empty without one."""
    shown = [
        "\n".join(
            [f"DEADLOCK CYCLE {number}: each waits for the next, and {_ending(graph, cycle)}", *_cycle(graph, cycle)]
        )
        for number, cycle in enumerate(graph.cycles[:_CYCLES_MAX], 1)
    ]
    if len(graph.cycles) > _CYCLES_MAX:
        shown.append(f"… {len(graph.cycles) - _CYCLES_MAX} more cycles")
    return "\n\n".join(shown)


def graph_to_data(graph: WaitGraph) -> dict[str, object]:
    """Return the graph as plain data; docs/formats.md says what each field means."""
    return {
        "format": FORMAT,
        "name": graph.name,
        "pid": graph.pid,
        "nodes": [_node_to_data(node) for node in graph.nodes.values()],
        "edges": [
            {
                "source": edge.source,
                "target": edge.target,
                "verb": edge.verb,
                "sure": edge.sure,
                "evidence": edge.evidence,
            }
            for edge in graph.edges
        ],
        "cycles": [[edge.source for edge in cycle] for cycle in graph.cycles],
        "notes": list(graph.notes),
    }


def _node_to_data(node: GraphNode) -> dict[str, object]:
    return {
        "id": node.id,
        "kind": str(node.kind),
        "name": node.name,
        "state": node.state,
        "created_at": None if node.created_at is None else str(node.created_at),
        "age_s": node.age_s,
        "stack": list(node.stack),
        "waits_s": node.waits_s,
        "ends_in_s": node.ends_in_s,
        "any_of": node.any_of,
    }


def _is_worth_showing(graph: WaitGraph, node: GraphNode) -> bool:
    return node.kind is not NodeKind.LOOP or bool(graph.outgoing(node.id))


def _census(graph: WaitGraph) -> str:
    counts = [
        f"{number} {word}{'' if number == 1 else 'es' if word.endswith('ss') else 's'}"
        for kind, word in ((NodeKind.TASK, "task"), (NodeKind.THREAD, "thread"), (NodeKind.CHILD, "child process"))
        if (number := len(graph.runners(kind)))
    ]
    cycles = len(graph.cycles)
    return ", ".join([*counts, f"{cycles or 'no'} deadlock cycle{'' if cycles == 1 else 's'}"])


def _ending(graph: WaitGraph, cycle: tuple[Edge, ...]) -> str:
    ends = [ends for edge in cycle if (ends := graph.nodes[edge.source].ends_in_s) is not None]
    return f"none can go on before a deadline breaks it, in {_seconds(min(ends))}" if ends else "none can go on"


def _cycle(graph: WaitGraph, cycle: tuple[Edge, ...]) -> list[str]:
    lines: list[str] = []
    left_out = range(_STEPS_MAX // 2, len(cycle) - _STEPS_MAX // 2) if len(cycle) > _STEPS_MAX else range(0)
    for place, edge in enumerate(cycle):
        if place in left_out:
            if place == left_out.start:
                lines.append(f"  … {len(left_out)} more steps …")
            continue
        source, target = graph.nodes[edge.source], graph.nodes[edge.target]
        if source.is_runner:
            lines += _runner(source, "  ")
            lines.append(f"    {edge.verb} {_described(target)}{_for_how_long(source)}{_doubt(edge)}")
            lines += _made(target, "      ")
        else:
            lines.append(f"      which {edge.verb} {target.title}{_doubt(edge)}")
    lines.append("  and the cycle is closed")
    return lines


def _paragraphs(graph: WaitGraph, nodes: Iterable[GraphNode]) -> list[str]:
    """Return a paragraph for each sort of runners: of those alike, the first is shown."""
    sorts: dict[tuple[object, ...], list[GraphNode]] = {}
    for node in nodes:
        sorts.setdefault(_sort(graph, node), []).append(node)
    lines: list[str] = []
    for alike in list(sorts.values())[:_SORTS_MAX]:
        paragraph = _runner(alike[0], "  ")
        edges = graph.outgoing(alike[0].id)
        for edge in edges[:_RESOURCES_MAX]:
            paragraph += _wait(graph, edge, "    ")
        if len(edges) > _RESOURCES_MAX:
            paragraph.append(f"    and for {len(edges) - _RESOURCES_MAX} more")
        if len(alike) > 1:
            paragraph.insert(1, f"    and {len(alike) - 1} more like it, to {alike[-1].title}")
        lines += paragraph
    left_out = list(sorts.values())[_SORTS_MAX:]
    if left_out:
        lines.append(f"  … {sum(map(len, left_out))} more, of {len(left_out)} sorts; the JSON has all of them")
    return lines


def _sort(graph: WaitGraph, node: GraphNode) -> tuple[object, ...]:
    """Return what runners have in common that share a paragraph."""
    waits = []
    for edge in graph.outgoing(node.id):
        target = graph.nodes[edge.target]
        ends = (
            ()
            if target.is_runner
            else tuple(_alike(graph.nodes[end.target].title) for end in graph.outgoing(target.id))
        )
        waits.append((edge.verb, _alike(_described(target)), target.created_at, ends[:_WAKERS_MAX]))
    stack = node.stack[-_STACK_MAX:]
    return node.kind, _alike(node.name), node.state, node.created_at, stack, node.any_of, tuple(waits[:_RESOURCES_MAX])


def _alike(text: str) -> str:
    return _NUMBER.sub("#", text)


def _runner(node: GraphNode, indent: str) -> list[str]:
    head = f"{indent}{node.title}"
    if node.state:
        head += f": {node.state}"
    lines = [head]
    if node.created_at is not None:
        age = f", {_seconds(node.age_s)} ago" if node.age_s is not None else ""
        lines.append(f"{indent}  started at {_site(node.created_at)}{age}")
    shown = list(node.stack[-_STACK_MAX:])
    if len(shown) < len(node.stack):
        shown.insert(0, f"… {len(node.stack) - len(shown)} more")
    lines += [f"{indent}  {'at' if n == 0 else '  '} {line}" for n, line in enumerate(shown)]
    return lines


def _wait(graph: WaitGraph, edge: Edge, indent: str) -> list[str]:
    source, target = graph.nodes[edge.source], graph.nodes[edge.target]
    lines = [f"{indent}{edge.verb} {_described(target)}{_for_how_long(source)}{_doubt(edge)}"]
    if target.is_runner:
        return lines
    lines += _made(target, f"{indent}  ")
    wakers = graph.outgoing(target.id)
    lines.extend(
        f"{indent}  which {waker.verb} {graph.nodes[waker.target].title}{_doubt(waker)}"
        for waker in wakers[:_WAKERS_MAX]
    )
    if len(wakers) > _WAKERS_MAX:
        lines.append(f"{indent}  or {len(wakers) - _WAKERS_MAX} more")
    if not wakers and target.kind not in (NodeKind.TIMER, NodeKind.IO, NodeKind.CALL):
        lines.append(f"{indent}  and nothing is known that would end the wait")
    return lines


def _described(node: GraphNode) -> str:
    if node.is_runner:
        return node.title
    return f"{node.title} ({node.state})" if node.state else node.title


def _made(node: GraphNode, indent: str) -> list[str]:
    return [f"{indent}made at {_site(node.created_at)}"] if node.created_at is not None and not node.is_runner else []


def _for_how_long(node: GraphNode) -> str:
    waits = f", for {_seconds(node.waits_s)}" if node.waits_s is not None else ""
    ends = f", at most {_seconds(node.ends_in_s)} more" if node.ends_in_s is not None else ""
    return waits + ends


def _doubt(edge: Edge) -> str:
    if edge.evidence:
        return f" ({edge.evidence})" if edge.sure else f" (probably: {edge.evidence})"
    return "" if edge.sure else " (probably)"


def _site(site: CallSite) -> str:
    return short_site(site.path, site.line, site.function)


def _seconds(value: float) -> str:
    return f"{value:.1f} s"
