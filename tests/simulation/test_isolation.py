"""One hand-written history for each anomaly, and those that are none."""

from __future__ import annotations

import pytest

from pytinykv.simulation.isolation import Append, ListRead, ListTxn, Outcome, check_isolation


def txn(name: str, *operations: str, outcome: str = "committed", final: bool = False) -> ListTxn:
    """Make a transaction of operations such as `+x1` (append 1 to x) and `x12` (read x, which has 1 and 2)."""
    made = tuple(
        Append(word[1].encode(), word[2:]) if word[0] == "+" else ListRead(word[0].encode(), tuple(word[1:]))
        for word in operations
    )
    return ListTxn(name, made, Outcome(outcome), final)


GOOD = {
    "nothing": [],
    "one after the other": [txn("a", "+x1"), txn("b", "x1", "+x2", "x12"), txn("c", "x12", "y")],
    "own appends are seen at once": [txn("a", "+x1", "x1", "+x2", "x12"), txn("b", "x12")],
    "write skew": [txn("a", "x", "y", "+x1"), txn("b", "x", "y", "+y1"), txn("c", "x1", "y1")],
    "write skew of three": [
        txn("a", "x", "+y1"),
        txn("b", "y", "+z1"),
        txn("c", "z", "+x1"),
        txn("d", "x1", "y1", "z1"),
    ],
    "an old snapshot": [txn("a", "+x1", "+y1"), txn("b", "x", "y"), txn("c", "x1", "y1")],
    "an unknown outcome that was not seen": [txn("a", "+x1", outcome="unknown"), txn("b", "x", final=True)],
    "an unknown outcome that was seen": [txn("a", "+x1", "+y1", outcome="unknown"), txn("b", "x1", "y1", final=True)],
    "a rollback that was not seen": [txn("a", "+x1", outcome="aborted"), txn("b", "x")],
    "blind appends": [txn("a", "+x1", "+y1"), txn("b", "+x2", "+y2"), txn("c", "x12", "y12", final=True)],
}


@pytest.mark.parametrize("name", GOOD)
def test_what_snapshot_isolation_allows(name: str) -> None:
    assert check_isolation(GOOD[name]) == []


BAD = {
    "G0": [txn("a", "+x1", "+y1"), txn("b", "+x2", "+y2"), txn("c", "x12", "y21")],
    "G1a": [txn("a", "+x1", outcome="aborted"), txn("b", "x1")],
    "G1b": [txn("a", "+x1", "+x2"), txn("b", "x1"), txn("c", "x12")],
    "G1c": [txn("a", "+x1", "y1"), txn("b", "+y1", "x1")],
    "lost update": [txn("a", "x", "+x1"), txn("b", "x", "+x2"), txn("c", "x12")],
    "read skew": [txn("a", "+x1", "+y1"), txn("b", "x", "y1")],
    "long fork": [txn("a", "+x1"), txn("b", "+y1"), txn("c", "x1", "y"), txn("d", "x", "y1")],
    "internal": [txn("a", "+x1", "x")],
    "order": [txn("a", "+x1"), txn("b", "+x2"), txn("c", "x1"), txn("d", "x21")],
    "lost append": [txn("a", "+x1"), txn("b", "+x2"), txn("c", "x2", final=True)],
    "duplicate": [txn("a", "+x1"), txn("b", "x11")],
    "garbage": [txn("a", "x7")],
}


@pytest.mark.parametrize("kind", BAD)
def test_an_anomaly_is_found_and_named(kind: str) -> None:
    (anomaly,) = check_isolation(BAD[kind])
    assert anomaly.kind == kind
    assert anomaly.transactions
    assert all(name in anomaly.text for name in anomaly.transactions)


def test_a_read_that_changes_within_a_transaction_is_internal() -> None:
    history = [txn("a", "+x1"), txn("b", "x", "x1")]
    assert "internal" in {anomaly.kind for anomaly in check_isolation(history)}


def test_read_skew_over_an_unknown_outcome() -> None:
    history = [txn("a", "+x1", "+y1", outcome="unknown"), txn("b", "x1", "y")]
    assert [anomaly.kind for anomaly in check_isolation(history)] == ["read skew"]


def test_a_cycle_is_told_step_by_step() -> None:
    (anomaly,) = check_isolation(BAD["long fork"])
    assert anomaly.text == "a -wr(x)→ c, c -rw(y)→ b, b -wr(y)→ d, d -rw(x)→ a"


def test_several_anomalies_are_told_apart() -> None:
    history = [txn("a", "x", "+x1"), txn("b", "x", "+x2"), txn("c", "x12"), txn("d", "+u1", "+v1"), txn("e", "u", "v1")]
    assert sorted(anomaly.kind for anomaly in check_isolation(history)) == ["lost update", "read skew"]
