from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from pytinykv.waitgraph import CallSite, Edge, GraphNode, NodeKind, WaitGraph, graph_to_data, render_graph
from pytinykv.waitgraph.graph import stuck_nodes


def task(name: str, *, any_of: bool = False) -> GraphNode:
    return GraphNode(id=name, kind=NodeKind.TASK, name=name, any_of=any_of)


def thing(name: str, kind: NodeKind = NodeKind.QUEUE) -> GraphNode:
    return GraphNode(id=name, kind=kind, name=name)


def build(nodes: list[GraphNode], *edges: tuple[str, str]) -> WaitGraph:
    return WaitGraph.build("test", 1, nodes, [Edge(source, target, "waits for") for source, target in edges])


def cycles(graph: WaitGraph) -> list[list[str]]:
    return [[edge.source for edge in cycle] for cycle in graph.cycles]


def test_two_that_wait_for_each_other() -> None:
    graph = build([task("a"), thing("q"), task("b"), thing("r")], ("a", "q"), ("q", "b"), ("b", "r"), ("r", "a"))
    assert cycles(graph) == [["a", "q", "b", "r"]]


def test_one_waker_that_is_free_is_enough() -> None:
    nodes = [task("a"), thing("q"), task("b"), task("free")]
    assert cycles(build(nodes, ("a", "q"), ("q", "b"), ("q", "free"), ("b", "a"))) == []
    assert cycles(build(nodes, ("a", "q"), ("q", "b"), ("b", "a"))) == [["a", "q", "b"]]


def test_a_resource_without_a_known_waker_proves_nothing() -> None:
    assert build([task("a"), thing("q")], ("a", "q")).cycles == ()


def test_a_function_that_no_runner_is_inside_of_may_be_called() -> None:
    graph = build([task("a"), thing("e"), thing("callback", NodeKind.CODE)], ("a", "e"), ("e", "a"), ("e", "callback"))
    assert graph.cycles == ()


def test_who_needs_all_is_stuck_by_one_and_who_needs_any_by_all() -> None:
    nodes = [task("a"), task("b"), task("free")]
    edges = ("a", "b"), ("b", "a"), ("a", "free")
    assert cycles(build(nodes, *edges)) == [["a", "b"]]
    assert cycles(build([task("a", any_of=True), *nodes[1:]], *edges)) == []


def test_who_waits_for_a_cycle_is_stuck_but_not_in_it() -> None:
    nodes = {name: task(name) for name in "abc"}
    edges = [Edge("a", "b", "waits for"), Edge("b", "a", "waits for"), Edge("c", "a", "waits for")]
    assert stuck_nodes(nodes, edges) == {"a", "b", "c"}
    assert cycles(WaitGraph.build("test", 1, nodes.values(), edges)) == [["a", "b"]]


def test_the_shortest_cycle_is_told_and_each_node_once() -> None:
    nodes = [task(name) for name in "abcd"]
    graph = build(nodes, ("a", "b"), ("b", "c"), ("c", "a"), ("b", "a"), ("d", "d"))
    assert cycles(graph) == [["a", "b"], ["d"]]


def test_edges_to_nowhere_are_dropped() -> None:
    assert build([task("a")], ("a", "gone")).edges == ()


def test_text_of_everything_a_node_can_tell() -> None:
    node = GraphNode(
        id="t",
        kind=NodeKind.TASK,
        name="store/loop",
        created_at=CallSite("/src/pytinykv/raftstore/store.py", 176, "Store.start"),
        age_s=12.34,
        stack=("raftstore/store.py:181 in Store._run",),
        waits_s=2.0,
        ends_in_s=0.5,
    )
    queue = GraphNode(id="q", kind=NodeKind.QUEUE, name="inbox", state="empty")
    edges = [
        Edge("t", "q", "waits for an item from"),
        Edge("q", "t", "would be filled by", sure=False, evidence="loop calls inbox.put"),
        Edge("q", "c", "would be filled by", sure=False),
    ]
    code = GraphNode(id="c", kind=NodeKind.CODE, name="Store.propose")
    graph = WaitGraph.build("store", 7, [node, queue, code], edges, ["one thing moved"])
    assert render_graph(graph).split("\n") == [
        "wait-for graph of store (pid 7): 1 task, no deadlock cycles",
        "",
        "no deadlock cycle; all tasks and threads",
        "  task store/loop",
        "    started at pytinykv/raftstore/store.py:176 in Store.start, 12.3 s ago",
        "    at raftstore/store.py:181 in Store._run",
        "    waits for an item from queue inbox (empty), for 2.0 s, at most 0.5 s more",
        "      which would be filled by task store/loop (probably: loop calls inbox.put)",
        "      which would be filled by Store.propose (probably)",
        "note: one thing moved",
    ]


def test_data_is_plain() -> None:
    graph = build([task("a"), task("b")], ("a", "b"), ("b", "a"))
    data = json.loads(json.dumps(graph_to_data(graph)))
    assert data["cycles"] == [["a", "b"]]
    assert [node["kind"] for node in data["nodes"]] == ["task", "task"]
    assert data["edges"][0] == {"source": "a", "target": "b", "verb": "waits for", "sure": True, "evidence": ""}


def test_the_data_has_the_fields_that_are_documented() -> None:
    page = (Path(__file__).parents[2] / "docs" / "formats.md").read_text(encoding="utf-8")
    section = page.partition("## The wait-for graph as JSON")[2].partition("\n## ")[0]
    documented = re.findall(r"^\| `([\w.\[\]]+)` \|", section, re.MULTILINE)
    node = GraphNode(id="task-1", kind=NodeKind.TASK, name="t")
    data: Any = graph_to_data(WaitGraph.build("x", 1, [node], [Edge("task-1", "task-1", "waits for")]))
    fields = [name for name in data if name not in ("nodes", "edges")]
    fields += [f"nodes[].{name}" for name in data["nodes"][0]] + [f"edges[].{name}" for name in data["edges"][0]]
    assert sorted(documented) == sorted(fields)
    assert all(str(kind) in section for kind in NodeKind)
