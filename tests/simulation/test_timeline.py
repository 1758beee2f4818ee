"""A history as spans: from call to answer, and for as long as something was wrong."""

from __future__ import annotations

from pytinykv.simulation import Result
from pytinykv.simulation.timeline_spans import Fault, Operation, Spans, spans_of

LINES = """\
0.0 process store-1 1
0.5 invoke client-2 get (b'a',)
0.6 invoke client-2 get (b'b',)
0.7 complete client-2 get b'1'
0.8 deliver store-1 store-2 12 abcdef01
1.0 partition store-1 store-2+store-3
1.1 invoke client-1 put (b'a', b'2', 0)
1.2 crash store-1
1.4 unknown client-1 put
1.5 process store-1 2
1.6 stall store-1
1.7 power cut store-1
1.8 invoke client-1 delete (b'a',)
1.9 fail client-1 delete
2.0 heal
2.1 stop store-2
2.2 stopped store-2
2.5 invoke client-10 get (b'a',)
"""


def spans(failure: str = "") -> Spans:
    checker = "linearizability" if failure else ""
    return spans_of(Result(scenario="storm", seed=1, failure=failure, checker=checker, lines=LINES.splitlines()))


def of(operation: Operation) -> tuple[str, str, float, float, str, int]:
    return (*of_lane(operation), operation.outcome, operation.row)


def of_lane(one: Operation | Fault) -> tuple[str, str, float, float]:
    return one.lane, one.kind, one.start_s, one.end_s


def test_operations_last_from_call_to_answer_and_those_that_overlap_have_rows() -> None:
    assert [of(one) for one in spans().operations] == [
        ("client-2", "get", 0.5, 0.7, "done", 0),
        ("client-2", "get", 0.6, 2.5, "open", 1),
        ("client-1", "put", 1.1, 1.4, "unknown", 0),
        ("client-1", "delete", 1.8, 1.9, "failed", 0),
        ("client-10", "get", 2.5, 2.5, "open", 0),
    ]
    assert (spans().operations[0].asked, spans().operations[0].answer) == ("(b'a',)", "b'1'")


def test_operations_of_one_client_at_once_end_apart_and_none_outlives_its_client() -> None:
    lines = """\
0.5 invoke client-1 slow_commit#1
0.6 invoke client-1 slow_commit#2
0.7 complete client-1 slow_commit#2 12 to list-1
0.8 crash client-1
0.9 process client-1 2
1.0 invoke client-1 slow_commit#3
1.1 unknown client-1 slow_commit#3 TimeoutError
1.5 fail client-1 slow_commit#1 too late
"""
    told = spans_of(Result(scenario="storm", seed=1, lines=lines.splitlines()))
    assert [of(one) for one in told.operations] == [
        ("client-1", "slow commit", 0.5, 0.8, "open", 0),
        ("client-1", "slow commit", 0.6, 0.7, "done", 1),
        ("client-1", "slow commit", 1.0, 1.1, "unknown", 0),
    ]
    assert [one.answer for one in told.operations] == ["", "12 to list-1", "TimeoutError"]


def test_faults_last_until_they_are_over() -> None:
    assert [of_lane(one) for one in spans().faults] == [
        ("world", "partition", 1.0, 2.0),
        ("store-1", "down", 1.2, 1.5),
        ("store-1", "held", 1.6, 1.7),
        ("store-1", "down", 1.7, 2.5),
        ("store-2", "stopping", 2.1, 2.2),
        ("store-2", "stopped", 2.2, 2.5),
    ]
    assert spans().faults[0].text == "partition store-1 store-2+store-3"


def test_lanes_are_in_the_order_of_what_they_are_and_their_numbers() -> None:
    assert spans().lanes == ["world", "store-1", "store-2", "client-1", "client-2", "client-10"]
    assert "deliver" not in {mark.kind for mark in spans().marks}


def test_the_failure_is_where_it_went_wrong_or_was_noticed_or_at_the_end() -> None:
    assert spans().failure_s is None
    assert spans("answers: never came\nat 1.860 s:\n  scheduler: up").failure_s == 1.86
    assert spans("answers: never came\nat 9.860 s:\n").failure_s == 2.5
    assert spans("leaks: a file").failure_s == 2.5
    found = spans("x\nno valid ordering can explain: 'client-2': get(b'a') -> b'1' (invoked at event 3, returned at 4)")
    assert found.failure_s == 0.5
    assert [one.is_failure for one in found.operations] == [True, False, False, False, False]
