"""The checker of snapshot isolation: it allows what is allowed, and finds each anomaly in a history written by hand."""

from __future__ import annotations

import pytest

from pytinykv.simulation import run_scenario
from pytinykv.simulation.errors import Violation
from pytinykv.simulation.txn_history import (
    Elements,
    Fate,
    StoredVersion,
    TxnRecord,
    check_snapshot_isolation,
    decode_elements,
    encode_elements,
)

Versions = dict[bytes, list[StoredVersion]]
X, Y = b"x", b"y"


def txn(
    element: int,
    start_ts: int,
    commit_ts: int = 0,
    *,
    reads: dict[bytes, Elements] | None = None,
    writes: bytes = b"",
    fate: Fate | None = None,
    acknowledged_before: int = 0,
    is_pessimistic: bool = False,
) -> TxnRecord:
    return TxnRecord(
        element=element,
        start_ts=start_ts,
        commit_ts=commit_ts,
        reads=reads or {},
        writes=frozenset(bytes([key]) for key in writes),
        fate=fate or (Fate.COMMITTED if commit_ts or not writes else Fate.NOT),
        acknowledged_before=acknowledged_before,
        is_pessimistic=is_pessimistic,
    )


def version(start_ts: int, commit_ts: int, *elements: int) -> StoredVersion:
    return StoredVersion(start_ts, commit_ts, elements)


ALLOWED: dict[str, tuple[list[TxnRecord], Versions]] = {
    "nothing": ([], {}),
    "one after the other": (
        [txn(1, 10, 20, writes=b"xy"), txn(2, 30, 40, reads={X: (1,)}, writes=b"x", acknowledged_before=20)],
        {X: [version(30, 40, 1, 2), version(10, 20, 1)], Y: [version(10, 20, 1)]},
    ),
    "a reader that began before the commit does not see it": (
        [txn(1, 10, 20, writes=b"xy"), txn(2, 15, reads={X: (), Y: ()})],
        {X: [version(10, 20, 1)], Y: [version(10, 20, 1)]},
    ),
    "write skew": (
        [txn(1, 10, 20, reads={X: (), Y: ()}, writes=b"x"), txn(2, 11, 21, reads={X: (), Y: ()}, writes=b"y")],
        {X: [version(10, 20, 1)], Y: [version(11, 21, 2)]},
    ),
    "of unknown fate, and there": ([txn(1, 10, writes=b"x", fate=Fate.UNKNOWN)], {X: [version(10, 20, 1)]}),
    "of unknown fate, and not there": ([txn(1, 10, writes=b"x", fate=Fate.UNKNOWN)], {}),
    "a pessimistic one that began before the other's commit": (
        [txn(1, 10, 20, writes=b"x"), txn(2, 15, 30, writes=b"x", is_pessimistic=True)],
        {X: [version(10, 20, 1), version(15, 30, 1, 2)]},
    ),
}
FORBIDDEN: dict[str, tuple[str, list[TxnRecord], Versions]] = {
    "G0, dirty write: the versions of two keys are in different orders": (
        "which was committed at 40",
        [txn(1, 10, 20, writes=b"xy"), txn(2, 30, 40, writes=b"xy")],
        {X: [version(10, 20, 1), version(30, 40, 1, 2)], Y: [version(30, 40, 2), version(10, 45, 2, 1)]},
    ),
    "G1a, aborted read": (
        "has read [1] from b'x'",
        [txn(1, 10, writes=b"x"), txn(2, 30, reads={X: (1,)})],
        {},
    ),
    "G1a, a refused transaction is there": (
        "(not committed, began at 10) is there",
        [txn(1, 10, writes=b"x")],
        {X: [version(10, 20, 1)]},
    ),
    "G1b, intermediate read: half of a transaction is there": (
        "is there by half",
        [txn(1, 10, 20, writes=b"xy")],
        {X: [version(10, 20, 1)]},
    ),
    "G1c, circular information flow": (
        "has read [2] from b'y'",
        [txn(1, 10, 20, reads={Y: (2,)}, writes=b"x"), txn(2, 11, 21, reads={X: (1,)}, writes=b"y")],
        {X: [version(10, 20, 1)], Y: [version(11, 21, 2)]},
    ),
    "lost update": (
        "lost update",
        [txn(1, 10, 20, reads={X: ()}, writes=b"x"), txn(2, 11, 21, reads={X: ()}, writes=b"x")],
        {X: [version(10, 20, 1), version(11, 21, 2)]},
    ),
    "an append that was lost": (
        "is not there",
        [txn(1, 10, 20, writes=b"x")],
        {},
    ),
    "both of two at the same time have written a key": (
        "which was committed at 20",
        [txn(1, 10, 20, writes=b"x"), txn(2, 15, 30, writes=b"x")],
        {X: [version(10, 20, 1), version(15, 30, 1, 2)]},
    ),
    "read skew": (
        "has read [] from b'y'",
        [txn(1, 10, 20, writes=b"xy"), txn(2, 30, reads={X: (1,), Y: ()})],
        {X: [version(10, 20, 1)], Y: [version(10, 20, 1)]},
    ),
    "long fork": (
        "has read [] from b'x'",
        [
            txn(1, 10, 20, writes=b"x"),
            txn(2, 11, 21, writes=b"y"),
            txn(4, 31, reads={X: (), Y: (2,)}),
            txn(3, 30, reads={X: (1,), Y: ()}),
        ],
        {X: [version(10, 20, 1)], Y: [version(11, 21, 2)]},
    ),
    "a stale snapshot": (
        "had been acknowledged already",
        [txn(1, 10, 20, writes=b"x"), txn(2, 15, reads={X: ()}, acknowledged_before=20)],
        {X: [version(10, 20, 1)]},
    ),
    "two commit timestamps": (
        "several timestamps",
        [txn(1, 10, 20, writes=b"xy")],
        {X: [version(10, 20, 1)], Y: [version(10, 21, 1)]},
    ),
    "another commit timestamp than the client was told": (
        "was said to commit at 20",
        [txn(1, 10, 20, writes=b"x")],
        {X: [version(10, 21, 1)]},
    ),
    "a version of no transaction": ("no transaction has written", [], {X: [version(10, 20, 1)]}),
    "two that began at one timestamp": ("began at one timestamp", [txn(1, 10), txn(2, 10)], {}),
}


@pytest.mark.parametrize("name", ALLOWED)
def test_what_is_allowed(name: str) -> None:
    check_snapshot_isolation(*ALLOWED[name])


@pytest.mark.parametrize("name", FORBIDDEN)
def test_what_is_forbidden(name: str) -> None:
    words, records, stored = FORBIDDEN[name]
    with pytest.raises(Violation) as caught:
        check_snapshot_isolation(records, stored)
    assert words in str(caught.value)


def test_lists_travel_as_values() -> None:
    assert decode_elements(encode_elements((3, 1, 2))) == (3, 1, 2)
    assert decode_elements(None) == decode_elements(encode_elements(())) == ()


@pytest.mark.seeds(4)
def test_transactions_keep_snapshot_isolation_under_trouble(seed: int) -> None:
    run_scenario("transactions", seed).check()


def test_an_append_is_committed_after_trouble_that_let_none_come_through() -> None:
    run_scenario("transactions", 40).check()


@pytest.mark.seeds(2)
def test_transactions_keep_snapshot_isolation_while_messages_are_late(seed: int) -> None:
    run_scenario("late-transactions", seed).check()


@pytest.mark.seeds(1)
@pytest.mark.parametrize("scenario", ["slow-commits", "new-leaders", "unapplied-entries", "split-waits"])
def test_transactions_keep_snapshot_isolation_whatever_becomes_of_a_commit_between_its_steps(
    scenario: str, seed: int
) -> None:
    run_scenario(scenario, seed).check()


@pytest.mark.seeds(2)
def test_garbage_is_collected_under_old_readers_and_a_running_transaction(seed: int) -> None:
    run_scenario("old-readers", seed).check()
