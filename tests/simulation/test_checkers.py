from __future__ import annotations

import pytest

from pytinykv.simulation.checkers import CompareAndSwap
from pytinykv.simulation.errors import Violation
from pytinykv.simulation.history import RawHistory

K = b"k"


def test_reads_that_follow_the_writes_are_explained() -> None:
    history = RawHistory()
    write = history.invoke("a", "put", [(K, b"1")])
    read = history.invoke("b", "get", [(K,)])
    history.complete(write, [None])
    history.complete(read, [None])  # overlapped the write, so it may have come first
    read = history.invoke("b", "get", [(K,)])
    history.complete(read, [b"1"])
    assert history.check() == 3


def test_a_stale_read_is_found() -> None:
    history = RawHistory()
    for value in (b"1", b"2"):
        history.complete(history.invoke("a", "put", [(K, value)]), [None])
    history.complete(history.invoke("b", "get", [(K,)]), [b"1"])
    with pytest.raises(Violation, match="linearizability"):
        history.check()


def test_a_lost_write_is_found_through_a_scan() -> None:
    history = RawHistory()
    history.complete(history.invoke("a", "put", [(b"x", b"1"), (b"y", b"2")]), [None, None])
    history.complete(history.invoke("b", "get", [(b"x",), (b"y",), (b"z",)]), [b"1", None, None])
    with pytest.raises(Violation):
        history.check()


def test_a_write_of_unknown_fate_may_show_up_late_or_never_but_not_vanish_again() -> None:
    def until_seen(*reads: bytes | None) -> RawHistory:
        history = RawHistory()
        history.complete(history.invoke("a", "put", [(K, b"1")]), [None])
        history.lose(history.invoke("a", "put", [(K, b"2")]))
        for seen in reads:
            history.complete(history.invoke("b", "get", [(K,)]), [seen])
        return history

    until_seen(b"1", b"1").check()
    until_seen(b"1", b"2", b"2").check()
    with pytest.raises(Violation):
        until_seen(b"2", b"1").check()


def test_a_failed_write_must_not_show_up() -> None:
    history = RawHistory()
    history.fail(history.invoke("a", "put", [(K, b"1")]))
    history.complete(history.invoke("b", "get", [(K,)]), [b"1"])
    with pytest.raises(Violation):
        history.check()


@pytest.mark.parametrize(
    ("answer", "then", "right"),
    [
        (CompareAndSwap(succeeded=True, previous=b"1"), b"2", True),
        (CompareAndSwap(succeeded=False, previous=b"0"), b"1", False),
        (CompareAndSwap(succeeded=True, previous=b"1"), b"1", False),
    ],
)
def test_compare_and_swap_is_held_to_its_answer(answer: CompareAndSwap, then: bytes, right: bool) -> None:
    history = RawHistory()
    history.complete(history.invoke("a", "put", [(K, b"1")]), [None])
    history.complete(history.invoke("b", "cas", [(K, b"1", b"2")]), [answer])
    history.complete(history.invoke("a", "get", [(K,)]), [then])
    if right:
        history.check()
    else:
        with pytest.raises(Violation):
            history.check()


def test_many_writes_of_unknown_fate_do_not_slow_the_search_down() -> None:
    history = RawHistory()
    for number in range(2000):
        history.lose(history.invoke("a", "put", [(K, b"lost %d" % number)]))
        history.complete(history.invoke("b", "put", [(K, b"%d" % number)]), [None])
        history.complete(history.invoke("b", "get", [(K,)]), [b"%d" % number])
    assert history.check() == 4000


def at(moment_s: float) -> None:
    """Let the history's clock, which is that of the running loop, be at this moment."""
    MOMENTS[0] = moment_s


MOMENTS = [0.0]


@pytest.fixture
def _clock(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("detangle.lin._now", lambda: MOMENTS[0])


def put_for_a_second(history: RawHistory, begin_s: float, end_s: float) -> None:
    at(begin_s)
    event = history.invoke("a", "put", [(K, b"1", 1)])
    at(end_s)
    history.complete(event, [None])


def ask(history: RawHistory, kind: str, moment_s: float, answer: object, *arguments: object) -> None:
    at(moment_s)
    history.complete(history.invoke("b", kind, [(K, *arguments)]), [answer])


@pytest.mark.usefixtures("_clock")
@pytest.mark.parametrize(
    ("reads", "right"),
    [
        ([(4.9, b"1"), (5.0, None)], True),
        ([(5.0, b"1")], False),
        ([(3.9, None)], False),
        ([(4.5, None)], False),
    ],
)
def test_a_value_ends_with_the_second_in_which_its_time_is_over(
    reads: list[tuple[float, bytes | None]], right: bool
) -> None:
    history = RawHistory()
    put_for_a_second(history, 4.1, 4.2)
    for moment_s, seen in reads:
        ask(history, "get", moment_s, seen)
    if right:
        history.check()
    else:
        with pytest.raises(Violation):
            history.check()


@pytest.mark.usefixtures("_clock")
def test_a_value_whose_end_is_uncertain_does_not_come_back() -> None:
    history = RawHistory()
    put_for_a_second(history, 4.9, 5.1)
    ask(history, "get", 5.2, None)
    history.check()
    ask(history, "get", 5.3, b"1")
    with pytest.raises(Violation):
        history.check()


@pytest.mark.usefixtures("_clock")
@pytest.mark.parametrize(("left", "right"), [(1, True), (2, False), (0, False), (None, False)])
def test_the_time_left_is_held_to_the_end(left: int | None, right: bool) -> None:
    history = RawHistory()
    put_for_a_second(history, 4.1, 4.2)
    ask(history, "ttl", 4.5, left)
    if right:
        history.check()
    else:
        with pytest.raises(Violation):
            history.check()


@pytest.mark.usefixtures("_clock")
def test_a_swap_over_an_expired_value_finds_nothing() -> None:
    for previous, right in ((None, True), (b"1", False)):
        history = RawHistory()
        put_for_a_second(history, 4.1, 4.2)
        ask(history, "cas", 5.5, CompareAndSwap(succeeded=True, previous=previous), previous, b"2")
        ask(history, "get", 5.6, b"2")
        if right:
            history.check()
        else:
            with pytest.raises(Violation):
                history.check()


@pytest.mark.usefixtures("_clock")
def test_a_lost_write_of_a_value_that_ends_may_explain_that_nothing_is_seen() -> None:
    history = RawHistory()
    at(1.0)
    history.complete(history.invoke("a", "put", [(K, b"0")]), [None])
    history.lose(history.invoke("a", "put", [(K, b"1", 1)]))
    ask(history, "get", 9.0, None)
    history.check()
