"""Scans across regions: lazily, both ways, whatever the boundaries and page sizes."""

from __future__ import annotations

import asyncio
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.client.fake_cluster import FakeCluster

from pytinykv.client import AsyncClient, ClientClosedError, ClientConfig
from pytinykv.client import scanning as scanning_module
from pytinykv.lifecycle import Scope

KEYS = st.binary(min_size=1, max_size=3).map(lambda key: bytes(byte % 4 for byte in key))
BOUNDS = st.one_of(st.just(b""), KEYS)


@settings(max_examples=150, deadline=None)
@given(
    keys=st.sets(KEYS, max_size=40),
    splits=st.sets(KEYS, max_size=5),
    start=BOUNDS,
    end=BOUNDS,
    limit=st.one_of(st.none(), st.integers(0, 50)),
    reverse=st.booleans(),
    key_only=st.booleans(),
    rows=st.integers(1, 7),
)
async def test_a_scan_equals_the_sorted_slice(
    keys: set[bytes],
    splits: set[bytes],
    start: bytes,
    end: bytes,
    limit: int | None,
    reverse: bool,
    key_only: bool,
    rows: int,
) -> None:
    """A scan yields exactly the pairs of the range, in order, each once, however regions and pages cut it."""
    cluster = FakeCluster(splits=sorted(splits))
    cluster.data[""] = {key: b"v" + key for key in keys}
    scope = Scope("scan")
    config = ClientConfig(scan_page_rows_max=rows)
    client = AsyncClient(
        cluster.scheduler_address, connector=cluster.connector(scope), rng=Random(0), scope=scope, config=config
    )
    scan = client.raw.scan(start, end, limit=limit, reverse=reverse, key_only=key_only)
    scan._pager._rows = min(rows, scanning_module.FIRST_PAGE_ROWS)
    found = [pair async for pair in scan]
    expected = sorted(key for key in keys if start <= key and (not end or key < end))
    expected = (expected[::-1] if reverse else expected)[:limit]
    assert found == [(key, b"" if key_only else b"v" + key) for key in expected]
    await client.close()


async def test_pages_are_fetched_only_when_needed(client: AsyncClient, cluster: FakeCluster) -> None:
    cluster.data[""] = {b"a%03d" % number: b"v" for number in range(500)} | {b"z": b"v"}
    scan = client.raw.scan()
    assert cluster.commands() == []
    assert await anext(scan) == (b"a000", b"v")
    assert cluster.commands() == ["RawScan"]
    assert len([pair async for pair in scan]) == 500
    assert cluster.stores[1].pairs == [1, 4, 16, 64, 256, 159]


async def settle() -> None:
    for _ in range(20):
        await asyncio.sleep(0)


async def test_from_the_second_page_on_one_page_is_read_ahead(client: AsyncClient, cluster: FakeCluster) -> None:
    cluster.data[""] = {b"a%03d" % number: b"v" for number in range(500)}
    store, scan = cluster.stores[1], client.raw.scan()
    taken = [await anext(scan)]
    await settle()
    assert store.pairs == [1]
    taken.append(await anext(scan))
    await settle()
    assert store.pairs == [1, 4, 16]
    taken += [await anext(scan) for _ in range(4)]
    await settle()
    assert store.pairs == [1, 4, 16, 64]
    assert [*taken, *[pair async for pair in scan]] == sorted(cluster.data[""].items())


async def test_a_page_read_ahead_in_vain_is_asked_for_again(client: AsyncClient, cluster: FakeCluster) -> None:
    cluster.data[""] = {b"a%03d" % number: b"v" for number in range(100)}
    scan = client.raw.scan()
    taken = [await anext(scan)]
    cluster.stores[1].script.extend([None, "lose"])
    taken.append(await anext(scan))
    await asyncio.sleep(60)
    assert cluster.stores[1].seen == ["RawScan"] * 3
    assert [*taken, *[pair async for pair in scan]] == sorted(cluster.data[""].items())


async def test_closing_ends_what_is_read_ahead(client: AsyncClient, cluster: FakeCluster) -> None:
    cluster.data[""] = {b"a%03d" % number: b"v" for number in range(100)}
    scan = client.raw.scan()
    taken = [await anext(scan)]
    cluster.stores[1].script.extend([None, "lose"])
    taken.append(await anext(scan))
    await settle()
    report = await client.close()
    assert report.ok, report.render()
    with pytest.raises(ClientClosedError):
        _ = [pair async for pair in scan]


async def test_a_page_that_is_too_much_for_the_store_is_made_smaller(client: AsyncClient, cluster: FakeCluster) -> None:
    small = {b"a%04d" % number: b"v" for number in range(400)}
    cluster.data[""] = small | {b"b%04d" % number: b"x" * 300_000 for number in range(40)}
    cluster.stores[1].answer_bytes_max = 5_000_000
    assert [pair async for pair in client.raw.scan()] == sorted(cluster.data[""].items())
    assert max(cluster.stores[1].pairs) == 256
    assert cluster.stores[1].refused > 1


async def test_a_client_that_saw_large_rows_begins_small(client: AsyncClient, cluster: FakeCluster) -> None:
    cluster.data[""] = {b"a%03d" % number: b"x" * 300_000 for number in range(10)}
    assert len([pair async for pair in client.raw.scan()]) == 10
    cluster.stores[1].pairs.clear()
    await anext(client.raw.scan())
    assert cluster.stores[1].pairs == [3]
    await anext(client.raw.scan(key_only=True))
    assert cluster.stores[1].pairs == [3, 10]


@pytest.mark.parametrize("reverse", [False, True])
async def test_a_scan_of_many_regions(client: AsyncClient, cluster: FakeCluster, reverse: bool) -> None:
    for number in range(200):
        cluster.split(b"a%03d" % number)
    cluster.data[""] = {b"a%03d" % number: b"v" for number in range(200)}
    assert [pair async for pair in client.raw.scan(reverse=reverse)] == sorted(
        cluster.data[""].items(), reverse=reverse
    )
    seen = cluster.schedulers[0].seen
    if not reverse:
        assert (seen.count("ScanRegions"), seen.count("GetRegion")) == (4, 0)  # 64 at a time


async def test_large_rows_make_small_pages(client: AsyncClient, cluster: FakeCluster) -> None:
    cluster.data[""] = {b"a%03d" % number: b"x" * 300_000 for number in range(25)}
    assert len([pair async for pair in client.raw.scan()]) == 25
    assert cluster.stores[1].seen == ["RawScan"] * 10  # of 1 row, then 3 at a time


async def test_prefix(client: AsyncClient, cluster: FakeCluster) -> None:
    cluster.data[""] = dict.fromkeys([b"a", b"a\xff", b"a\xff\xff", b"b", b"\xff", b"\xff\xff\x01"], b"")
    assert [key async for key, _ in client.raw.scan(prefix=b"a\xff")] == [b"a\xff", b"a\xff\xff"]
    assert [key async for key, _ in client.raw.scan(prefix=b"\xff")] == [b"\xff", b"\xff\xff\x01"]
    assert [key async for key, _ in client.raw.scan(prefix=b"a", reverse=True)] == [b"a\xff\xff", b"a\xff", b"a"]
    assert len([pair async for pair in client.raw.scan(prefix=b"")]) == 6


@pytest.mark.parametrize("reverse", [False, True])
async def test_a_split_in_the_middle_of_a_scan_loses_and_repeats_nothing(
    client: AsyncClient, cluster: FakeCluster, reverse: bool
) -> None:
    cluster.data[""] = {b"%c%02d" % (letter, number): b"v" for letter in b"abch" for number in range(60)}
    found = []
    async for key, _ in client.raw.scan(reverse=reverse):
        if len(found) == 30:
            cluster.split(b"b30")
            cluster.split(b"c30")
        if len(found) == 140:
            cluster.merge(b"b30")
        found.append(key)
    assert found == sorted(cluster.data[""], reverse=reverse)


async def test_an_impossible_range_is_empty_without_asking(client: AsyncClient, cluster: FakeCluster) -> None:
    assert [pair async for pair in client.raw.scan(b"b", b"a")] == []
    assert [pair async for pair in client.raw.scan(b"a", b"a")] == []
    assert [pair async for pair in client.raw.scan(limit=0)] == []
    assert cluster.commands() == []
