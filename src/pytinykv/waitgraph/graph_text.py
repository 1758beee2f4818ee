"""The wait-for graph for people and for programs.

The text begins with the circles, each told as a story that ends where it began; then come all other runners, one paragraph
each: who, where started, where it stands, what it waits for, who would end that. What a table would hide is said in words.

It stays readable with ten thousand tasks: those that were started in one place, stand in one place, and wait for the same
sort of thing are told once, with their number. Of very many sorts, and of very long circles, a part is told; the data has
all.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final

from pytinykv.waitgraph.graph import Edge, Kind, Node, WaitGraph
from pytinykv.waitgraph.stacks import CallSite, short_site

FORMAT: Final = 1
"""Of the data. Fields may be added in the same format; a program leaves alone what it does not know."""
_STANDS_MAX: Final = 6
_FILLERS_MAX: Final = 6
_THINGS_MAX: Final = 6
"""Of what one runner waits for."""
_CIRCLES_MAX: Final = 8
_STEPS_MAX: Final = 40
"""Of one circle."""
_SORTS_MAX: Final = 200
_NOTES_MAX: Final = 20
_NUMBER: Final = re.compile(r"\d+(\.\d+)?")


def render_graph(graph: WaitGraph) -> str:
    """Return the graph as text, without a newline at the end."""
    lines = [f"who waits for whom in {graph.name} (pid {graph.pid}): {_census(graph)}"]
    circles = render_circles(graph)
    if circles:
        lines += ["", circles]
    told = {edge.source for circle in graph.circles for edge in circle}
    others = [node for node in graph.runners() if node.id not in told and _is_worth_telling(graph, node)]
    if others:
        lines += ["", "everybody else" if graph.circles else "no circle; everybody"]
        lines += _everybody(graph, others)
    lines += [f"note: {note}" for note in graph.notes[:_NOTES_MAX]]
    if len(graph.notes) > _NOTES_MAX:
        lines.append(f"note: … {len(graph.notes) - _NOTES_MAX} more notes")
    return "\n".join(lines)


def render_circles(graph: WaitGraph) -> str:
    """Return the circles alone as text; empty without one."""
    told = [
        "\n".join([f"CIRCLE {number}: each waits for the next, and {_hope(graph, circle)}", *_circle(graph, circle)])
        for number, circle in enumerate(graph.circles[:_CIRCLES_MAX], 1)
    ]
    if len(graph.circles) > _CIRCLES_MAX:
        told.append(f"… {len(graph.circles) - _CIRCLES_MAX} more circles")
    return "\n\n".join(told)


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
        "circles": [[edge.source for edge in circle] for circle in graph.circles],
        "notes": list(graph.notes),
    }


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


def _hope(graph: WaitGraph, circle: tuple[Edge, ...]) -> str:
    ends = [ends for edge in circle if (ends := graph.nodes[edge.source].ends_in_s) is not None]
    return f"none can go on before a deadline breaks it, in {_seconds(min(ends))}" if ends else "none can go on"


def _circle(graph: WaitGraph, circle: tuple[Edge, ...]) -> list[str]:
    lines: list[str] = []
    left_out = range(_STEPS_MAX // 2, len(circle) - _STEPS_MAX // 2) if len(circle) > _STEPS_MAX else range(0)
    for place, edge in enumerate(circle):
        if place in left_out:
            if place == left_out.start:
                lines.append(f"  … {len(left_out)} more steps …")
            continue
        source, target = graph.nodes[edge.source], graph.nodes[edge.target]
        if source.is_runner:
            lines += _runner(source, "  ")
            lines.append(f"    {edge.verb} {_thing(target)}{_for_how_long(source)}{_doubt(edge)}")
            lines += _made(target, "      ")
        else:
            lines.append(f"      which {edge.verb} {target.title}{_doubt(edge)}")
    lines.append("  and here the circle closes")
    return lines


def _everybody(graph: WaitGraph, nodes: Iterable[Node]) -> list[str]:
    """Return a paragraph for each sort of runners: of those alike, the first is told."""
    sorts: dict[tuple[object, ...], list[Node]] = {}
    for node in nodes:
        sorts.setdefault(_sort(graph, node), []).append(node)
    lines: list[str] = []
    for alike in list(sorts.values())[:_SORTS_MAX]:
        paragraph = _runner(alike[0], "  ")
        edges = graph.outgoing(alike[0].id)
        for edge in edges[:_THINGS_MAX]:
            paragraph += _wait(graph, edge, "    ")
        if len(edges) > _THINGS_MAX:
            paragraph.append(f"    and for {len(edges) - _THINGS_MAX} more")
        if len(alike) > 1:
            paragraph.insert(1, f"    and {len(alike) - 1} more like it, to {alike[-1].title}")
        lines += paragraph
    untold = list(sorts.values())[_SORTS_MAX:]
    if untold:
        lines.append(f"  … {sum(map(len, untold))} more, of {len(untold)} sorts; as data, everybody is told")
    return lines


def _sort(graph: WaitGraph, node: Node) -> tuple[object, ...]:
    """Return what runners have in common that are told as one."""
    waits = []
    for edge in graph.outgoing(node.id):
        target = graph.nodes[edge.target]
        ends = (
            ()
            if target.is_runner
            else tuple(_alike(graph.nodes[end.target].title) for end in graph.outgoing(target.id))
        )
        waits.append((edge.verb, _alike(_thing(target)), target.born, ends[:_FILLERS_MAX]))
    stands_at = node.stands_at[-_STANDS_MAX:]
    return node.kind, _alike(node.name), node.state, node.born, stands_at, node.any_of, tuple(waits[:_THINGS_MAX])


def _alike(text: str) -> str:
    return _NUMBER.sub("#", text)


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
