"""A history as spans on lanes: operations from call to answer, faults for as long as they last, and moments. For drawing.

lane        one for each program and client, in the order scheduler, stores, clients; above them the world: the network
operation   `invoke` … `complete`, `unknown` or `fail`; open until the client dies, or the end, if none came
fault       down (crash, power cut, failure) and stopped until the program starts again; stopping; held (a stall);
            partition until it heals; slow and hurt disks until the end, or the next start
mark        everything else: starts, clocks that are set, snapshots, orders
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final

import msgspec

from pytinykv.simulation.scenario import Result
from pytinykv.simulation.timeline import WORLD, Moment, lane_order, moments

_BEGINS: Final = {
    "crash": "down",
    "power_cut": "down",
    "fails": "down",
    "stop": "stopping",
    "stopped": "stopped",
    "stall": "held",
    "slows": "slow disk",
    "hurts": "bad disk",
    "partition": "partition",
}
"""The fault that an event begins."""
_ENDS: Final = {
    "process": frozenset({"down", "stopped", "stopping", "held", "bad disk"}),
    "crash": frozenset({"stopping", "held"}),
    "power_cut": frozenset({"stopping", "held"}),
    "stopped": frozenset({"stopping", "held"}),
    "resume": frozenset({"held"}),
    "heal": frozenset({"partition"}),
    "partition": frozenset({"partition"}),
}
"""The faults of its lane that an event ends."""
_DEATHS: Final = frozenset({"crash", "power_cut", "stopped"})
"""What ends whatever a client had under way."""
_OUTCOMES: Final = {"complete": "done", "unknown": "unknown", "fail": "failed"}
"""What came of an operation, by the event that ends it. Failed: it was not executed."""
_AT: Final = re.compile(r"^at (\d+\.\d+) s:", re.MULTILINE)
_UNEXPLAINED: Final = re.compile(r"can explain: '([^']+)': (\w+)\((.*)\) -> (.+?) \(invoked at")


class Operation(msgspec.Struct):
    """What a client asked for, and what came of it."""

    lane: str
    kind: str
    """get, put, …"""
    start_s: float
    end_s: float
    asked: str
    answer: str = ""
    outcome: str = "open"
    """done, failed (not executed), unknown, or open: no answer until the end."""
    row: int = 0
    """Among operations of its lane that overlap; from 0."""
    is_failure: bool = False


class Fault(msgspec.Struct):
    """Something that was wrong for a while."""

    lane: str
    kind: str
    start_s: float
    end_s: float
    text: str


class Mark(msgspec.Struct):
    """Something that happened at a moment."""

    lane: str
    kind: str
    at_s: float
    text: str


class Spans(msgspec.Struct):
    """All of a history."""

    lanes: list[str]
    operations: list[Operation]
    faults: list[Fault]
    marks: list[Mark]
    end_s: float
    failure_s: float | None
    """When it went wrong, as near as can be told; None if nothing did."""


def spans_of(result: Result) -> Spans:
    """Return the spans of a history that kept its lines."""
    events = list(moments(result.lines))
    end_s = max((each.at_s for each in events), default=0.0)
    hosts = sorted({each.host for each in events if each.host != WORLD}, key=lane_order)
    operations = _operations(events, end_s)
    return Spans(
        lanes=[WORLD, *hosts],
        operations=operations,
        faults=_faults(events, end_s),
        marks=[
            Mark(each.host, each.kind.replace("_", " "), each.at_s, each.text)
            for each in events
            if each.kind != "invoke" and each.kind not in _OUTCOMES
        ],
        end_s=end_s,
        failure_s=None if result.ok else _failure_s(result.failure, operations, end_s),
    )


def _operations(events: Iterable[Moment], end_s: float) -> list[Operation]:
    found: list[Operation] = []
    open_: dict[tuple[str, str], list[Operation]] = {}
    for each in events:
        name, _, text = each.text.partition(" ")  # get, or append#12 where a client has several under way
        if each.kind in _DEATHS:
            for (lane, _), several in open_.items():
                while lane == each.host and several:
                    several.pop().end_s = each.at_s
        waiting = open_.setdefault((each.host, name), [])
        if each.kind == "invoke":
            operation = Operation(each.host, name.partition("#")[0].replace("_", " "), each.at_s, end_s, text)
            operation.row = _free_row(
                [one for (lane, _), several in open_.items() if lane == each.host for one in several]
            )
            waiting.append(operation)
            found.append(operation)
        elif each.kind in _OUTCOMES and waiting:
            operation = waiting.pop(0)
            operation.end_s, operation.answer = each.at_s, text
            operation.outcome = _OUTCOMES[each.kind]
    return found


def _free_row(open_: list[Operation]) -> int:
    taken = {one.row for one in open_}
    return next(row for row in range(len(taken) + 1) if row not in taken)


def _faults(events: Iterable[Moment], end_s: float) -> list[Fault]:
    found: list[Fault] = []
    open_: dict[tuple[str, str], Fault] = {}
    for each in events:
        for kind in sorted(_ENDS.get(each.kind, ())):
            if (ended := open_.pop((each.host, kind), None)) is not None:
                ended.end_s = each.at_s
        begun = _BEGINS.get(each.kind)
        if begun is not None and (each.host, begun) not in open_:
            fault = Fault(each.host, begun, each.at_s, end_s, f"{each.kind.replace('_', ' ')} {each.text}".strip())
            open_[each.host, begun] = fault
            found.append(fault)
    return found


def _failure_s(failure: str, operations: list[Operation], end_s: float) -> float:
    """Return when it went wrong: at the operation that nothing explains, or when it was noticed, or at the end."""
    if (unexplained := _UNEXPLAINED.search(failure)) is not None:
        lane, kind, asked, answer = unexplained.groups()
        for one in reversed(operations):
            if (one.lane, one.kind, one.answer) == (lane, kind, answer) and asked in one.asked:
                one.is_failure = True
                return one.start_s
    noticed = _AT.search(failure)
    return min(float(noticed[1]), end_s) if noticed is not None else end_s
