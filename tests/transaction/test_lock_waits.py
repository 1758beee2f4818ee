from __future__ import annotations

from pytinykv.transaction.lock_waits import NEXT_WAKE_UP_S, LockWaits, WaitEnd, Waiter
from pytinykv.wire.timestamp import Timestamp


class Line:
    """A `LockWaits` and what became of those that waited, by start timestamp."""

    def __init__(self) -> None:
        self.waits = LockWaits()
        self.ended: list[tuple[int, WaitEnd]] = []

    def add(self, start_ts: int, key: bytes = b"k", *, deadline: float = 10.0, region_id: int = 1) -> Waiter:
        waiter = Waiter(
            key=key,
            start_ts=Timestamp(start_ts),
            lock_ts=Timestamp(10),
            region_id=region_id,
            deadline=deadline,
            on_end=lambda why: self.ended.append((start_ts, why)),
        )
        self.waits.add(waiter)
        return waiter


def test_a_release_wakes_the_oldest_transaction_alone() -> None:
    line = Line()
    for start_ts in (40, 20, 30):
        line.add(start_ts)
    line.waits.on_released([b"k", b"other"])
    assert line.ended == [(20, WaitEnd.WOKEN)]
    assert len(line.waits) == 2


def test_the_next_has_its_chance_if_the_first_did_not_lock() -> None:
    line = Line()
    line.add(20)
    line.add(30)
    line.waits.on_released([b"k"])
    line.waits.on_tried(b"k", 5.0)
    assert line.waits.next_due() == 5.0 + NEXT_WAKE_UP_S
    line.waits.on_time(5.0)
    assert line.ended == [(20, WaitEnd.WOKEN)]
    line.waits.on_time(5.0 + NEXT_WAKE_UP_S)
    assert line.ended == [(20, WaitEnd.WOKEN), (30, WaitEnd.WOKEN)]
    assert line.waits.next_due() is None


def test_a_lock_that_was_taken_meanwhile_ends_the_chance_and_is_what_all_wait_for() -> None:
    line = Line()
    first, second = line.add(20), line.add(30)
    line.waits.on_tried(b"k", 0.0)
    assert line.waits.on_locked(b"k", 15) == [first, second]
    assert line.waits.on_locked(b"k", 15) == []
    line.waits.on_time(1.0)
    assert line.ended == []
    assert first.lock_ts == 15


def test_each_waits_until_its_deadline() -> None:
    line = Line()
    line.add(20, deadline=3.0)
    line.add(30, deadline=2.0)
    assert line.waits.next_due() == 2.0
    line.waits.on_time(2.0)
    assert line.ended == [(30, WaitEnd.TIMED_OUT)]
    line.waits.on_time(9.0)
    assert line.ended == [(30, WaitEnd.TIMED_OUT), (20, WaitEnd.TIMED_OUT)]
    assert line.waits.next_due() is None
    assert len(line.waits) == 0


def test_one_that_was_woken_has_no_deadline_any_more() -> None:
    line = Line()
    line.add(20, deadline=3.0)
    line.waits.on_released([b"k"])
    assert line.waits.next_due() is None
    line.waits.on_time(9.0)
    assert line.ended == [(20, WaitEnd.WOKEN)]


def test_a_lost_region_ends_its_waits_alone_and_a_stop_all() -> None:
    line = Line()
    line.add(20, b"a", region_id=1)
    line.add(30, b"b", region_id=2)
    line.add(40, b"a", region_id=1)
    line.waits.fail_region(1)
    assert line.ended == [(20, WaitEnd.REGION_LOST), (40, WaitEnd.REGION_LOST)]
    line.waits.fail_all()
    assert line.ended[2:] == [(30, WaitEnd.STOPPING)]
    line.waits.fail_all()
    assert len(line.ended) == 3


def test_a_wait_that_was_ended_from_the_middle_is_never_woken() -> None:
    line = Line()
    line.add(20)
    middle = line.add(30)
    line.add(40)
    line.waits.end(middle, WaitEnd.TIMED_OUT)
    line.waits.end(middle, WaitEnd.TIMED_OUT)
    line.waits.on_released([b"k"])
    line.waits.on_released([b"k"])
    assert line.ended == [(30, WaitEnd.TIMED_OUT), (20, WaitEnd.WOKEN), (40, WaitEnd.WOKEN)]


def test_who_comes_again_while_it_ends_stands_in_line_again() -> None:
    line = Line()
    ended: list[WaitEnd] = []

    def again(why: WaitEnd) -> None:
        ended.append(why)
        line.add(20)

    line.waits.add(
        Waiter(key=b"k", start_ts=Timestamp(20), lock_ts=Timestamp(10), region_id=1, deadline=5.0, on_end=again)
    )
    line.waits.on_released([b"k"])
    assert ended == [WaitEnd.WOKEN]
    assert len(line.waits) == 1
