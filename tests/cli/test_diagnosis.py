"""What the doctor makes of what a server tells."""

from __future__ import annotations

from typing import Any

import pytest

from pytinykv.cli.diagnosis import Diagnosis, cycle_text, diagnose

OWNED = [{"kind": "task", "count": 3}, {"kind": "child process", "count": 1}, {"kind": "task", "count": 1}]
CYCLE = """\
wait-for graph of store (pid 42): 2 tasks, 1 deadlock cycle

DEADLOCK CYCLE 1: each waits for the next, and none can go on
  task left
    waits to put into queue right
  and the cycle is closed

all others
  thread MainThread
"""


def node(kind: str, name: str, *stack: str) -> dict[str, Any]:
    return {"id": name, "kind": kind, "name": name, "stack": list(stack), "ends_in_s": None}


def told(problem: str = "", *, cycles: int = 0, text: str = "") -> Diagnosis:
    nodes = [
        node("loop", "loop-1"),
        node("thread", "MainThread", *(f"main.py:{n} in f{n}" for n in range(1, 10))),
        node("task", "store/loop", "loop.py:7 in run"),
    ]
    graph = {
        "name": "store",
        "pid": 42,
        "nodes": nodes,
        "edges": [{"source": "loop-1", "target": "MainThread"}, {"source": "store/loop", "target": "loop-1"}],
        "cycles": [["store/loop"]] * cycles,
    }
    return diagnose("127.0.0.1:20180", problem, graph, OWNED, text)


def test_a_server_that_is_well_gets_five_lines() -> None:
    assert told() == Diagnosis(
        [
            "well       store (pid 42) at 127.0.0.1:20180 serves, and its event loop turns",
            "deadlocks  none",
            "owned      1 child process, 4 tasks",
            "waits      1 tasks, 0 of them with a deadline",
            "more       --all shows every task and thread, where it is, and what it waits for",
        ],
        is_well=True,
    )


def test_of_a_blocked_loop_the_line_comes_first_then_what_to_do() -> None:
    lines, is_well = told("the event loop has not turned for 3.2 s")
    assert not is_well
    assert lines[:3] == [
        "trouble    store (pid 42): the event loop has not turned for 3.2 s",
        "where      thread MainThread at main.py:9 in f9",
        "           called at main.py:8 in f8",
    ]
    assert lines[7].startswith("to do      nothing of this process goes on until that line is done")
    assert "kill -9 42" in lines[7]
    assert len(lines) == 11


@pytest.mark.parametrize(
    ("problem", "advice"),
    [
        ("the disk has not answered a sync for 2.5 s", "look at the disk"),
        ("failed: disk full", "read the end of its log"),
        ("starting", "its scheduler"),
        ("stopping", "a stop ends by itself"),
        ("something new", "its log says more"),
    ],
)
def test_every_trouble_has_an_advice(problem: str, advice: str) -> None:
    assert any(line.startswith("to do") and advice in line for line in told(problem).lines)


def test_of_a_disk_that_does_not_answer_its_own_thread_is_shown() -> None:
    graph = {
        "name": "store",
        "pid": 42,
        "nodes": [
            node("thread", "store/store/disk", "disk.py:3 in flush"),
            node("thread", "MainThread", "x.py:1 in EpollSelector.select"),
        ],
        "edges": [],
        "cycles": [],
    }
    lines = diagnose("a", "the disk has not answered a sync for 2.5 s", graph, OWNED, "").lines
    assert lines[1] == "where      thread store/store/disk at disk.py:3 in flush"
    assert lines[2].startswith("to do")
    graph["nodes"] = [
        node("thread", "store/store/disk", "w.py:3 in ThreadWorker._run"),
        node("thread", "MainThread", "y.py:2 in sync"),
    ]
    lines = diagnose("a", "the disk has not answered a sync for 2.5 s", graph, OWNED, "").lines
    assert lines[1] == "where      thread MainThread at y.py:2 in sync"


def test_a_deadlock_is_shown_without_the_others() -> None:
    lines, is_well = told(cycles=1, text=CYCLE)
    assert not is_well
    assert lines[0] == "trouble    store (pid 42): there is a deadlock"
    assert lines[1] == "DEADLOCK CYCLE 1: each waits for the next, and none can go on"
    assert "thread MainThread" not in "\n".join(lines)
    assert any(line.startswith("to do      none of them can go on") for line in lines)
    assert told("stopping", cycles=2, text=CYCLE).lines[0] == "trouble    store (pid 42): stopping"


def test_cycles_end_where_others_begin() -> None:
    assert cycle_text("") == []
    assert cycle_text(CYCLE.replace("all others", "note: x"))[-1] == ""
