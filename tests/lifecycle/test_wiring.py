from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytinykv.lifecycle import WhenFull, Wiring, WiringError


def wired(*components: str) -> Wiring:
    wiring = Wiring("test")
    for component in components:
        wiring.component(component)
    return wiring


def tinykv() -> Wiring:
    """The wiring that hangs: stores that send to each other, blocking, from the worker that empties their own queue."""
    wiring = wired("store 1", "store 2")
    wiring.hands_over("store 1", "store 2", "Raft messages", bound=40960, when_full=WhenFull.WAIT)
    wiring.hands_over("store 2", "store 1", "Raft messages", bound=40960, when_full=WhenFull.WAIT)
    return wiring


def test_the_wiring_of_tinykv_is_refused() -> None:
    with pytest.raises(WiringError) as refused:
        tinykv().check()
    assert str(refused.value).split("\n") == [
        "the wiring of test can hang: these wait for each other",
        "  store 1 hands Raft messages to store 2 through a queue of 40960; when it is full, waits",
        "  store 2 hands Raft messages to store 1 through a queue of 40960; when it is full, waits",
        "let one of them drop, refuse or replace instead of waiting",
    ]


@pytest.mark.parametrize("policy", [policy for policy in WhenFull if policy is not WhenFull.WAIT])
def test_one_that_does_not_wait_opens_the_cycle(policy: WhenFull) -> None:
    wiring = wired("a", "b")
    wiring.hands_over("a", "b", "messages", bound=1, when_full=WhenFull.WAIT)
    wiring.hands_over("b", "a", "messages", bound=1, when_full=policy)
    wiring.check()


def test_a_queue_without_a_bound_never_waits() -> None:
    wiring = wired("a", "b")
    wiring.waits("a", "b", "an answer")
    wiring.hands_over("b", "a", "answers", bound=None, when_full=WhenFull.WAIT)
    wiring.check()


def test_who_waits_for_itself_is_refused() -> None:
    wiring = wired("a")
    wiring.waits("a", "a", "its own answer")
    with pytest.raises(WiringError, match="a waits for a to give it its own answer"):
        wiring.check()


def test_who_is_waited_for_has_to_stop_later() -> None:
    wiring = wired("store", "transport")
    wiring.waits("transport", "store", "room")
    with pytest.raises(WiringError, match="can hang in its stop: transport waits for store .* store stops first"):
        wiring.check()


def test_unknown_components_are_refused() -> None:
    with pytest.raises(WiringError, match="no component 'c'; it has a, b"):
        wired("a", "b").waits("a", "c", "anything")


def test_what_no_component_claims() -> None:
    wiring = Wiring("test")
    wiring.component("loop", runs=("*/store-loop", "*/ticks"))
    assert wiring.undeclared(["store/store-loop", "store/ticks", "store/mystery"]) == ["store/mystery"]


def test_text() -> None:
    wiring = wired("a", "b")
    wiring.waits("a", "b", "an answer")
    wiring.hands_over("b", "a", "news", bound=3, when_full=WhenFull.REPLACE)
    assert wiring.render().split("\n") == [
        "test, in the order in which it stops: a, b",
        "  blocks  a waits for b to give it an answer",
        "  passes  b hands news to a through a queue of 3; when it is full, replaces an older one",
    ]


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)), max_size=12))
def test_waits_are_accepted_exactly_when_they_all_go_the_same_way(links: list[tuple[int, int]]) -> None:
    """With the order of the stop given, going down it is what there is to check; cycles always go up somewhere."""
    wiring = wired(*map(str, range(6)))
    for source, target in links:
        wiring.waits(str(source), str(target), "anything")
    if all(source < target for source, target in links):
        wiring.check()
    else:
        with pytest.raises(WiringError):
            wiring.check()
