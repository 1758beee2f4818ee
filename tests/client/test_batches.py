"""Batches: how they are cut, how they learn the size of values, and what they ask the scheduler for."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.client.fake_cluster import FakeCluster

from pytinykv.client import AsyncClient, StoreDiskFullError
from pytinykv.client.answer_sizes import AnswerKind, AnswerSizes
from pytinykv.wire import errors as wire

KIND = AnswerKind("")
STORE = 2  # leads [g, p)


async def test_a_cold_batch_asks_for_the_regions_of_all_its_keys_at_once(
    client: AsyncClient, cluster: FakeCluster
) -> None:
    for number in range(100):
        cluster.split(b"h%03d" % number)
    pairs = {b"h%03d" % number: b"v" for number in range(100)}
    await client.raw.batch_put(pairs)
    assert cluster.data[""] == pairs
    seen = cluster.schedulers[0].seen
    assert (seen.count("ScanRegions"), seen.count("GetRegion")) == (2, 0)  # 64 at a time


async def test_a_batch_of_small_values_is_soon_asked_for_in_full_commands(
    client: AsyncClient, cluster: FakeCluster
) -> None:
    cluster.data[""] = {b"h%04d" % number: b"v" for number in range(2000)}
    assert await client.raw.batch_get(cluster.data[""]) == cluster.data[""]
    assert cluster.stores[STORE].pairs == [1, 16, 256, 512, 512, 512, 191]
    cluster.stores[STORE].pairs.clear()
    assert await client.raw.batch_get(cluster.data[""]) == cluster.data[""]
    assert cluster.stores[STORE].pairs == [512, 512, 512, 464]


async def test_a_batch_of_large_values_is_asked_for_in_small_commands(
    client: AsyncClient, cluster: FakeCluster
) -> None:
    cluster.data[""] = {b"h%04d" % number: b"x" * 300_000 for number in range(40)}
    cluster.stores[STORE].answer_bytes_max = 1_300_000
    for _ in range(2):
        assert await client.raw.batch_get(cluster.data[""]) == cluster.data[""]
    assert max(cluster.stores[STORE].pairs[1:]) == 3


async def test_missing_keys_are_asked_for_in_ever_larger_portions(client: AsyncClient, cluster: FakeCluster) -> None:
    assert await client.raw.batch_get([b"h%04d" % number for number in range(500)]) == {}
    assert len(cluster.stores[STORE].seen) == 4


async def test_values_that_become_large_are_asked_for_again_in_smaller_portions(
    client: AsyncClient, cluster: FakeCluster
) -> None:
    small = {b"h%04d" % number: b"v" for number in range(100)}
    large = {b"k%04d" % number: b"x" * 300_000 for number in range(40)}
    cluster.data[""] = small | large
    cluster.stores[STORE].answer_bytes_max = 5_000_000
    assert await client.raw.batch_get(small) == small
    assert await client.raw.batch_get(large) == large
    assert cluster.stores[STORE].refused > 0


async def test_a_batch_that_fails_in_its_second_portion_tells_of_a_read_what_was_wrong(
    client: AsyncClient, cluster: FakeCluster
) -> None:
    cluster.data[""] = {b"h%04d" % number: b"v" for number in range(20)}
    cluster.stores[STORE].script.extend([None, wire.DiskFull(store_id=[2], reason="0 bytes left")])
    with pytest.raises(StoreDiskFullError):
        await client.raw.batch_get(cluster.data[""])


@given(st.lists(st.integers(0, 10_000), min_size=1, max_size=30), st.integers(1, 100_000))
def test_an_expected_answer_never_exceeds_the_target_by_more_than_a_pair(sizes: list[int], target: int) -> None:
    """Pairs as large as those of the last answer fit the target, or it is one pair."""
    expected = AnswerSizes()
    pairs = [(b"k", bytes(size)) for size in sizes]
    assert expected.rows(KIND, target) is None
    row_bytes = expected.learn(KIND, pairs)
    rows = expected.rows(KIND, target)
    assert rows is not None
    assert rows == 1 or rows * row_bytes <= target


def test_expected_sizes_rise_at_once_and_fall_by_half() -> None:
    sizes = AnswerSizes()
    sizes.learn(KIND, [(b"", b"x" * 1000)])
    assert sizes.rows(KIND, 100_000) == 100
    sizes.learn(KIND, [(b"", b"x" * 10)])
    assert sizes.rows(KIND, 100_000) == 200
    sizes.learn_too_much(KIND, 100_000)
    assert sizes.rows(KIND, 100_000) == 50
    assert sizes.rows(AnswerKind("", key_only=True), 100_000) is None
    small_then_large = [(b"", b"")] * 96 + [(b"", b"x" * 10_000)] * 4
    assert sizes.learn(KIND, small_then_large) == 10_000
