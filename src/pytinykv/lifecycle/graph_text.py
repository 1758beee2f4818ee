"""The wait-for graph for people and for programs.

The text begins with the circles, each told as a story that ends where it began; then come all other runners, one paragraph
each: who, where started, where it stands, what it waits for, who would end that. What a table would hide is said in words.
"""

from __future__ import annotations

from pathlib import PurePath
from typing import Final

from pytinykv.lifecycle.graph import Edge, Kind, Node, WaitGraph
from pytinykv.lifecycle.stacks import CallSite

_STANDS_MAX: Final = 6
_FILLERS_MAX: Final = 6


def render_graph(graph: WaitGraph) -> str:
    """Return the graph as text, without a newline at the end."""
    lines = [f"who waits for whom in {graph.name} (pid {graph.pid}): {_census(graph)}"]
    for number, circle in enumerate(graph.circles, 1):
        lines += ["", f"CIRCLE {number}: each waits for the next, and none can go on", *_circle(graph, circle)]
    told = {edge.source for circle in graph.circles for edge in circle}
    others = [node for node in graph.runners() if node.id not in told and _is_worth_telling(graph, node)]
    if others:
        lines += ["", "everybody else" if graph.circles else "no circle; everybody"]
        for node in others:
            lines += _runner(node, "  ")
            for edge in graph.outgoing(node.id):
                lines += _wait(graph, edge, "    ")
    lines += [f"note: {note}" for note in graph.notes]
    return "\n".join(lines)


def render_circles(graph: WaitGraph) -> str:
    """Return the circles alone as text; empty without one."""
    lines: list[str] = []
    for number, circle in enumerate(graph.circles, 1):
        lines += [f"CIRCLE {number}: each waits for the next, and none can go on", *_circle(graph, circle)]
    return "\n".join(lines)


def graph_to_data(graph: WaitGraph) -> dict[str, object]:
    """Return the graph as plain data: pid, nodes, edges, circles (lists of node ids), notes."""
    return {
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
        "circles": [[edge.source for edge in circle] for circle in graph.circles],
        "notes": list(graph.notes),
    }


def short_site(path: str, line: int, function: str) -> str:
    """Return a place in the source with the end of its path, which is what tells files apart."""
    parts = PurePath(path).parts
    return f"{'/'.join(parts[-3:])}:{line} in {function}"


def _node_to_data(node: Node) -> dict[str, object]:
    return {
        "id": node.id,
        "kind": str(node.kind),
        "name": node.name,
        "state": node.state,
        "born": None if node.born is None else str(node.born),
        "age_s": node.age_s,
        "stands_at": list(node.stands_at),
        "waits_s": node.waits_s,
        "ends_in_s": node.ends_in_s,
        "any_of": node.any_of,
    }


def _is_worth_telling(graph: WaitGraph, node: Node) -> bool:
    return node.kind is not Kind.LOOP or bool(graph.outgoing(node.id))


def _census(graph: WaitGraph) -> str:
    counts = [
        f"{number} {word}{'' if number == 1 else 'es' if word.endswith('ss') else 's'}"
        for kind, word in ((Kind.TASK, "task"), (Kind.THREAD, "thread"), (Kind.CHILD, "child process"))
        if (number := len(graph.runners(kind)))
    ]
    circles = len(graph.circles)
    return ", ".join([*counts, f"{circles or 'no'} circle{'' if circles == 1 else 's'}"])


def _circle(graph: WaitGraph, circle: tuple[Edge, ...]) -> list[str]:
    lines: list[str] = []
    for place, edge in enumerate(circle):
        source, target = graph.nodes[edge.source], graph.nodes[edge.target]
        if source.is_runner:
            lines += _runner(source, "  ")
            lines.append(f"    {edge.verb} {_thing(target)}{_for_how_long(source)}{_doubt(edge)}")
            lines += _made(target, "      ")
        else:
            lines.append(f"      which {edge.verb} {target.title}{_doubt(edge)}")
        if place == len(circle) - 1:
            lines.append("  and here the circle closes")
    return lines


def _runner(node: Node, indent: str) -> list[str]:
    head = f"{indent}{node.title}"
    if node.state:
        head += f": {node.state}"
    lines = [head]
    if node.born is not None:
        age = f", {_seconds(node.age_s)} ago" if node.age_s is not None else ""
        lines.append(f"{indent}  started at {_site(node.born)}{age}")
    shown = node.stands_at[-_STANDS_MAX:]
    if len(shown) < len(node.stands_at):
        lines.append(f"{indent}  stands at … {len(node.stands_at) - len(shown)} more")
        lines += [f"{indent}            {line}" for line in shown]
    else:
        lines += [f"{indent}  {'stands at' if n == 0 else '         '} {line}" for n, line in enumerate(shown)]
    return lines


def _wait(graph: WaitGraph, edge: Edge, indent: str) -> list[str]:
    source, target = graph.nodes[edge.source], graph.nodes[edge.target]
    lines = [f"{indent}{edge.verb} {_thing(target)}{_for_how_long(source)}{_doubt(edge)}"]
    if target.is_runner:
        return lines
    lines += _made(target, f"{indent}  ")
    fillers = graph.outgoing(target.id)
    lines.extend(
        f"{indent}  which {filler.verb} {graph.nodes[filler.target].title}{_doubt(filler)}"
        for filler in fillers[:_FILLERS_MAX]
    )
    if len(fillers) > _FILLERS_MAX:
        lines.append(f"{indent}  or {len(fillers) - _FILLERS_MAX} more")
    if not fillers and target.kind not in (Kind.TIMER, Kind.IO, Kind.CALL):
        lines.append(f"{indent}  and nobody is known who would end that")
    return lines


def _thing(node: Node) -> str:
    if node.is_runner:
        return node.title
    return f"{node.title} ({node.state})" if node.state else node.title


def _made(node: Node, indent: str) -> list[str]:
    return [f"{indent}made at {_site(node.born)}"] if node.born is not None and not node.is_runner else []


def _for_how_long(node: Node) -> str:
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
