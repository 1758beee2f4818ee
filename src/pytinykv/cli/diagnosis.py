"""What `tinykv doctor` makes of a status port's answers: the cause on top, then what to do. Pure.

    trouble    the event loop has not turned for 3.2 s
    where      thread MainThread at pytinykv/storage/rocks.py:120 in RocksEngine.sync      innermost first
    to do      …
    deadlock   the cycle, as the server tells it
    more       …

A server that is well gets five lines. Everything else is behind `--all`.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final, NamedTuple

_STACK_MAX: Final = 6
_INDENT: Final = " " * 11
_ADVICE: Final = {
    "the event loop has not turned": """\
nothing of this process goes on until that line is done. If it waits in vain: kill -9 {pid}; the other
stores go on. A program with an event loop of its own moves such work to a thread""",
    "the disk has not answered": """\
look at the disk (dmesg, iostat -x, mount); a store hands its leaderships over meanwhile. If it stays
so, stop the store, and give it another disk (docs/operations.md)""",
    "failed:": "it serves no more: stop it, read the end of its log, and start it again once the cause is gone",
    "starting": "it waits for something: a store for its scheduler, mostly. Its log says for what",
    "stopping": """\
wait: a stop ends by itself, and says what it waited for. A second Ctrl-C, or kill -TERM {pid}, forces it""",
}
"""By how the trouble begins, what to do."""
_OTHER_ADVICE: Final = "its log says more; --all shows what waits for what"
_CYCLE_ADVICE: Final = """\
none of them can go on by itself: restart the process (kill -TERM {pid}, which shows this again), and
report this text"""
_MORE: Final = "more       --all shows every task and thread, where it is, and what it waits for"


class Diagnosis(NamedTuple):
    """The lines to print, and whether anything is wrong."""

    lines: list[str]
    is_well: bool


def diagnose(address: str, problem: str, graph: dict[str, Any], owned: list[dict[str, Any]], text: str) -> Diagnosis:
    """Judge a server by its pages: why it does not serve (empty: it does), its graph as data and as text, what it owns."""
    name = f"{graph['name']} (pid {graph['pid']})"
    cycles = len(graph["cycles"])
    if not problem and not cycles:
        lines = [
            f"well       {name} at {address} serves, and its event loop turns",
            "deadlocks  none",
            f"owned      {summary(owned)}",
            f"waits      {_waits(graph)}",
            _MORE,
        ]
        return Diagnosis(lines, is_well=True)
    lines = [f"trouble    {name}: {problem or _cycles(cycles)}"]
    if problem:
        lines += _where(problem, graph)
        lines += _to_do(next((_ADVICE[begin] for begin in _ADVICE if begin in problem), _OTHER_ADVICE), graph["pid"])
    if cycles:
        lines += [] if not problem else ["", f"deadlocks  {cycles}"]
        lines += cycle_text(text)
        lines += _to_do(_CYCLE_ADVICE, graph["pid"])
    lines += [
        f"owned      {summary(owned)}",
        "more       --all shows every task and thread, where it is, and what it waits for",
    ]
    return Diagnosis(lines, is_well=False)


def _cycles(number: int) -> str:
    return "there is a deadlock" if number == 1 else f"there are {number} deadlocks"


def _to_do(advice: str, pid: int) -> list[str]:
    first, *others = advice.format(pid=pid).splitlines()
    return [f"to do      {first}", *(f"{_INDENT}{line}" for line in others)]


def _where(problem: str, graph: dict[str, Any]) -> Iterator[str]:
    """Yield where the thread of the event loop is, and that of the disk if it is about that; innermost line first."""
    for thread in [node for node in graph["nodes"] if node["kind"] == "thread"]:
        is_disk = "disk" in problem and thread["name"].endswith("/disk")
        if thread["stack"] and (is_disk or thread["name"] == "MainThread") and not _is_idle(thread["stack"][-1]):
            first, *others = list(reversed(thread["stack"]))[:_STACK_MAX]
            yield f"where      thread {thread['name']} at {first}"
            yield from (f"{_INDENT}called at {line}" for line in others)


def _is_idle(line: str) -> bool:
    """Say whether a thread that is there waits for work."""
    return line.endswith((" in ThreadWorker._run", " in _Process.run", ".select", " in Runner.run"))


def _waits(graph: dict[str, Any]) -> str:
    tasks = [node for node in graph["nodes"] if node["kind"] == "task"]
    limited = sum(node["ends_in_s"] is not None for node in tasks)
    return f"{len(tasks)} tasks, {limited} of them with a deadline"


def cycle_text(text: str) -> list[str]:
    """Return the lines about deadlock cycles of a graph's text."""
    lines = text.splitlines()
    begin = next((n for n, line in enumerate(lines) if line.startswith("DEADLOCK CYCLE")), len(lines))
    end = next(
        (n for n, line in enumerate(lines) if n > begin and line.startswith(("all others", "note: "))), len(lines)
    )
    return [*lines[begin:end]]


def summary(owned: list[dict[str, Any]]) -> str:
    """Return what there is, in numbers."""
    counts: dict[str, int] = {}
    for entry in owned:
        counts[entry["kind"]] = counts.get(entry["kind"], 0) + entry["count"]
    return ", ".join(
        f"{count} {kind}{'' if count == 1 else 'es' if kind.endswith('ss') else 's'}"
        for kind, count in sorted(counts.items())
    )
