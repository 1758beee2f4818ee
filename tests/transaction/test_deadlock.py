from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from pytinykv.transaction.deadlock import DeadlockDetector, Wait
from pytinykv.wire.timestamp import Timestamp


def wait(start_ts: int, lock_ts: int, key: bytes = b"k") -> Wait:
    return Wait(Timestamp(start_ts), Timestamp(lock_ts), key)


def test_waits_in_a_row_are_no_deadlock() -> None:
    detector = DeadlockDetector()
    assert detector.detect(wait(1, 2), 0.0) == ()
    assert detector.detect(wait(2, 3), 0.0) == ()
    assert detector.detect(wait(1, 3), 0.0) == ()


def test_the_wait_that_closes_a_cycle_is_told_the_cycle_and_not_kept() -> None:
    detector = DeadlockDetector()
    detector.detect(wait(10, 20, b"k1"), 0.0)
    detector.detect(wait(20, 30, b"k2"), 0.0)
    cycle = detector.detect(wait(30, 10, b"k3"), 0.0)
    assert cycle == (wait(30, 10, b"k3"), wait(10, 20, b"k1"), wait(20, 30, b"k2"))
    assert [one.start_ts for one in detector.waits()] == [10, 20]


def test_a_transaction_that_waits_for_itself_is_a_cycle() -> None:
    assert DeadlockDetector().detect(wait(7, 7), 0.0) == (wait(7, 7),)


def test_a_wait_that_ended_closes_no_cycle() -> None:
    detector = DeadlockDetector()
    detector.detect(wait(1, 2), 0.0)
    detector.end_wait(1, 2)
    assert detector.detect(wait(2, 1), 0.0) == ()
    detector.end_transaction(2)
    assert len(detector) == 0
    detector.end_wait(5, 6)


def test_a_wait_that_nobody_tells_again_is_forgotten() -> None:
    detector = DeadlockDetector(lifetime_s=10.0)
    detector.detect(wait(1, 2), 0.0)
    assert detector.detect(wait(2, 1), 10.5) == ()
    assert [one.start_ts for one in detector.waits()] == [2]


def test_a_wait_that_is_told_again_lasts() -> None:
    detector = DeadlockDetector(lifetime_s=10.0)
    detector.detect(wait(1, 2), 0.0)
    detector.detect(wait(1, 2), 9.0)
    assert detector.detect(wait(2, 1), 18.0)


@given(st.lists(st.tuples(st.integers(1, 6), st.integers(1, 6)), max_size=40))
def test_the_graph_never_has_a_cycle_and_a_told_cycle_is_closed(pairs: list[tuple[int, int]]) -> None:
    """What is kept can be sorted; a cycle's waits follow one another and come back to its start."""
    detector = DeadlockDetector()
    for start_ts, lock_ts in pairs:
        cycle = detector.detect(wait(start_ts, lock_ts), 0.0)
        if cycle:
            assert [one.lock_ts for one in cycle] == [one.start_ts for one in (*cycle[1:], cycle[0])]
    kept = {(one.start_ts, one.lock_ts) for one in detector.waits()}
    while kept:
        leaves = {end for _, end in kept} - {start for start, _ in kept}
        assert leaves, f"a cycle among {kept}"
        kept = {(start, end) for start, end in kept if end not in leaves}
