from __future__ import annotations

from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytinykv.transaction.latches import Latch, Latches


def test_latches_of_different_keys_are_held_at_once() -> None:
    latches = Latches()
    first = latches.acquire([b"a"], _never)
    second = latches.acquire([b"b"], _never)
    assert first.is_held
    assert second.is_held


@pytest.mark.tinykv("TestAcquireLatches")
def test_who_comes_later_waits_for_all_that_came_before() -> None:
    latches, granted = Latches(), []
    first = latches.acquire([b"a", b"b"], _never)
    second = latches.acquire([b"b", b"c"], lambda: granted.append(2))
    third = latches.acquire([b"c"], lambda: granted.append(3))
    assert not second.is_held
    assert not third.is_held, "it came after one that waits for its key"
    latches.release(first)
    assert granted == [2]
    latches.release(second)
    assert granted == [2, 3]
    latches.release(third)
    assert len(latches) == 0


def test_release_is_idempotent_and_takes_nothing_from_the_next() -> None:
    latches = Latches()
    first = latches.acquire([b"a"], _never)
    second = latches.acquire([b"a"], lambda: None)
    latches.release(first)
    latches.release(first)
    assert second.is_held
    assert not first.is_held


def test_a_key_named_twice_is_latched_once() -> None:
    latches = Latches()
    latch = latches.acquire([b"a", b"a"], _never)
    assert latch.is_held
    latches.release(latch)
    assert len(latches) == 0


def test_a_grant_may_release_and_acquire_at_once() -> None:
    latches, order = Latches(), []
    first = latches.acquire([b"a"], _never)

    def again() -> None:
        order.append("second")
        latches.release(second)
        latches.acquire([b"a"], lambda: order.append("fourth"))

    second = latches.acquire([b"a"], again)
    third = latches.acquire([b"a"], lambda: order.append("third"))
    latches.release(first)
    assert order == ["second", "third"]
    latches.release(third)
    assert order == ["second", "third", "fourth"]


@given(st.lists(st.sets(st.sampled_from([b"a", b"b", b"c", b"d"]), min_size=1), max_size=20), st.randoms())
def test_no_two_share_a_key_and_all_get_their_turn_in_order(claims: list[set[bytes]], rng: Random) -> None:
    """Holders never share a key; commands that share one run in the order they came; all run."""
    latches, running, ran = Latches(), [], []

    def start(number: int) -> None:
        assert all(not claims[number] & claims[other] for other in running)
        running.append(number)
        ran.append(number)

    taken: list[Latch] = []
    for number, claim in enumerate(claims):
        latch = latches.acquire(claim, lambda number=number: start(number))
        taken.append(latch)
        if latch.is_held:
            start(number)
        if running and rng.random() < 0.5:
            latches.release(taken[running.pop(rng.randrange(len(running)))])
    while running:
        latches.release(taken[running.pop(rng.randrange(len(running)))])
    assert sorted(ran) == list(range(len(claims)))
    assert len(latches) == 0
    for place, number in enumerate(ran):
        assert all(earlier < number for earlier in ran[:place] if claims[earlier] & claims[number])


def _never() -> None:
    raise AssertionError("it held its keys at once")
