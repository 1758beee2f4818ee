from __future__ import annotations

import pytest

from pytinykv.simulation.checkers import check_linearizable
from pytinykv.simulation.errors import Violation
from pytinykv.simulation.history import CompareAndSwap, RawHistory

K = b"k"


def test_reads_that_follow_the_writes_are_explained() -> None:
    history = RawHistory()
    write = history.invoke("a", "put", [(K, b"1")])
    read = history.invoke("b", "get", [(K,)])
    history.complete(write, [None])
    history.complete(read, [None])  # overlapped the write, so it may have come first
    read = history.invoke("b", "get", [(K,)])
    history.complete(read, [b"1"])
    assert check_linearizable(history) == 3


def test_a_stale_read_is_found() -> None:
    history = RawHistory()
    for value in (b"1", b"2"):
        history.complete(history.invoke("a", "put", [(K, value)]), [None])
    history.complete(history.invoke("b", "get", [(K,)]), [b"1"])
    with pytest.raises(Violation, match="linearizability"):
        check_linearizable(history)


def test_a_lost_write_is_found_through_a_scan() -> None:
    history = RawHistory()
    history.complete(history.invoke("a", "put", [(b"x", b"1"), (b"y", b"2")]), [None, None])
    history.complete(history.invoke("b", "get", [(b"x",), (b"y",), (b"z",)]), [b"1", None, None])
    with pytest.raises(Violation):
        check_linearizable(history)


def test_a_write_of_unknown_fate_may_show_up_late_or_never_but_not_vanish_again() -> None:
    def until_seen(*reads: bytes | None) -> RawHistory:
        history = RawHistory()
        history.complete(history.invoke("a", "put", [(K, b"1")]), [None])
        history.lose(history.invoke("a", "put", [(K, b"2")]))
        for seen in reads:
            history.complete(history.invoke("b", "get", [(K,)]), [seen])
        return history

    check_linearizable(until_seen(b"1", b"1"))
    check_linearizable(until_seen(b"1", b"2", b"2"))
    with pytest.raises(Violation):
        check_linearizable(until_seen(b"2", b"1"))


def test_a_failed_write_must_not_show_up() -> None:
    history = RawHistory()
    history.fail(history.invoke("a", "put", [(K, b"1")]))
    history.complete(history.invoke("b", "get", [(K,)]), [b"1"])
    with pytest.raises(Violation):
        check_linearizable(history)


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
        check_linearizable(history)
    else:
        with pytest.raises(Violation):
            check_linearizable(history)


def test_many_writes_of_unknown_fate_do_not_slow_the_search_down() -> None:
    history = RawHistory()
    for number in range(2000):
        history.lose(history.invoke("a", "put", [(K, b"lost %d" % number)]))
        history.complete(history.invoke("b", "put", [(K, b"%d" % number)]), [None])
        history.complete(history.invoke("b", "get", [(K,)]), [b"%d" % number])
    assert check_linearizable(history) == 4000
