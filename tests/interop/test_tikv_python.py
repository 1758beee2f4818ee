"""tikv-python 0.1.1, unmodified, both faces: every raw operation it has, over three stores."""

from __future__ import annotations

import signal
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
import tikv
from tests.interop.tikv_faces import FACES, Face
from tests.process.cluster import Cluster, wait_until

from pytinykv.wire.checksum import checksum_pairs

Connect = Callable[..., Any]


@asynccontextmanager
async def connected(kind: str, cluster: Cluster, **options: Any) -> AsyncIterator[Face]:
    client = FACES[kind](cluster.address, **options)
    try:
        yield client
    finally:
        await client.close()


@pytest.fixture(params=sorted(FACES))
def kind(request: pytest.FixtureRequest) -> str:
    face: str = request.param
    return face


@pytest.fixture
async def client(kind: str, cluster: Cluster) -> AsyncIterator[Face]:
    async with connected(kind, cluster) as made:
        yield made


@pytest.fixture
async def atomic(kind: str, cluster: Cluster) -> AsyncIterator[Face]:
    async with connected(kind, cluster, atomic=True) as made:
        yield made


def numbered(prefix: bytes, count: int) -> dict[bytes, bytes]:
    return {prefix + b"%05d" % number: b"value %d" % number for number in range(count)}


async def test_put_get_overwrite_delete(client: Face, prefix: bytes) -> None:
    key = prefix + bytes(range(256))
    assert await client.get(key) is None
    await client.put(key, b"one")
    assert await client.get(key) == b"one"
    await client.put(key, b"\x00\xff two")
    assert await client.get(key) == b"\x00\xff two"
    await client.delete(key)
    assert await client.get(key) is None
    await client.delete(key)


async def test_an_empty_value_is_a_value(client: Face, prefix: bytes) -> None:
    await client.put(prefix, b"")
    assert await client.get(prefix) == b""
    assert await client.scan(prefix=prefix) == [(prefix, b"")]


async def test_batches_larger_than_a_request(client: Face, prefix: bytes) -> None:
    pairs = numbered(prefix, 1300)
    await client.put_many(pairs)
    missing = [prefix + b"missing", prefix + b"zzz"]
    assert await client.get_many([*pairs, *missing]) == pairs
    gone = list(pairs)[::2]
    await client.delete_many([*gone, *missing])
    assert await client.get_many(list(pairs)) == {key: value for key, value in pairs.items() if key not in gone}


async def test_batch_of_large_values(client: Face, prefix: bytes) -> None:
    pairs = {prefix + b"%d" % number: bytes([number]) * 700_000 for number in range(6)}
    await client.put_many(pairs)
    assert await client.get_many(list(pairs)) == pairs
    assert dict(await client.scan(prefix=prefix)) == pairs


async def test_scan_forward_over_several_pages(client: Face, prefix: bytes) -> None:
    pairs = numbered(prefix, 1300)
    await client.put_many(pairs)
    everything = sorted(pairs.items())
    assert await client.scan(prefix=prefix) == everything
    assert await client.scan(prefix + b"00100", prefix + b"00900") == everything[100:900]
    assert await client.scan(prefix=prefix, limit=513) == everything[:513]
    assert await client.scan_keys(prefix=prefix) == sorted(pairs)
    assert await client.scan(prefix + b"01299\x00", prefix + b"99999") == []


async def test_scan_backward_over_several_pages(client: Face, prefix: bytes) -> None:
    pairs = numbered(prefix, 1300)
    await client.put_many(pairs)
    everything = sorted(pairs.items(), reverse=True)
    assert await client.scan(prefix=prefix, reverse=True) == everything
    assert await client.scan(prefix + b"00100", prefix + b"00900", reverse=True) == everything[400:1200]
    assert await client.scan(prefix=prefix, reverse=True, limit=7) == everything[:7]
    assert await client.scan_keys(prefix=prefix, reverse=True) == sorted(pairs, reverse=True)


async def test_scan_without_bounds_begins_at_either_end_of_all_keys(client: Face) -> None:
    first, last = b"\x00", b"\xff" * 40
    await client.put_many({first: b"first", last: b"last"})
    assert await client.scan(limit=1) == [(first, b"first")]
    assert await client.scan(limit=1, reverse=True) == [(last, b"last")]
    await client.delete_many([first, last])


async def test_time_to_live(client: Face, prefix: bytes) -> None:
    await client.put(prefix + b"for ever", b"v")
    await client.put(prefix + b"for an hour", b"v", ttl=3600)
    await client.put_many({prefix + b"a": b"v", prefix + b"b": b"v"}, ttl=1800)
    assert await client.ttl(prefix + b"for ever") is None
    assert 3500 < (await client.ttl(prefix + b"for an hour") or 0) <= 3600
    for name in (b"a", b"b"):
        assert 1700 < (await client.ttl(prefix + name) or 0) <= 1800
    with pytest.raises(KeyError):
        await client.ttl(prefix + b"missing")


async def test_an_expired_key_is_gone_for_every_read(client: Face, prefix: bytes) -> None:
    key = prefix + b"short"
    await client.put(key, b"v", ttl=1)
    checks = 0
    while await client.get(key) is not None:
        checks += 1
        assert checks < 100_000, "a key with a second to live is still there"
    assert await client.get_many([key]) == {}
    assert await client.scan(prefix=prefix) == []
    assert (await client.checksum(prefix=prefix)).keys == 0
    with pytest.raises(KeyError):
        await client.ttl(key)


async def test_compare_and_swap(atomic: Face, prefix: bytes) -> None:
    assert await atomic.compare_and_swap(prefix, None, b"one") == (True, None)
    assert await atomic.compare_and_swap(prefix, None, b"two") == (False, b"one")
    assert await atomic.compare_and_swap(prefix, b"other", b"two") == (False, b"one")
    assert await atomic.compare_and_swap(prefix, b"one", b"") == (True, b"one")
    assert await atomic.compare_and_swap(prefix, b"", b"three") == (True, b"")
    assert await atomic.get(prefix) == b"three"
    await atomic.put(prefix, b"four")
    await atomic.delete(prefix)
    assert await atomic.compare_and_swap(prefix, b"four", b"five") == (False, None)


async def test_checksum_is_that_of_the_pairs(client: Face, prefix: bytes) -> None:
    pairs = numbered(prefix, 700)
    await client.put_many(pairs)
    expected = checksum_pairs(pairs.items())
    found = await client.checksum(prefix=prefix)
    assert tuple(found) == (expected.checksum, expected.total_kvs, expected.total_bytes)
    assert found.keys == 700


async def test_delete_range(client: Face, prefix: bytes) -> None:
    pairs = numbered(prefix, 20)
    await client.put_many(pairs)
    await client.delete_range(prefix + b"00005", prefix + b"00015")
    assert await client.scan_keys(prefix=prefix) == sorted(pairs)[:5] + sorted(pairs)[15:]
    await client.delete_range(prefix=prefix)
    assert await client.scan_keys(prefix=prefix) == []
    beyond = b"\xff\xff" + prefix
    await client.put(beyond, b"v")
    await client.delete_range(beyond)
    assert await client.get(beyond) is None


async def test_refusals_say_what_is_wrong(client: Face, prefix: bytes) -> None:
    with pytest.raises(tikv.ServerError, match="key is too long: 8193 bytes, at most 8192"):
        await client.put(b"k" * 8193, b"v")
    with pytest.raises((tikv.RegionError, tikv.ServerError), match="too large"):
        await client.put(prefix, b"v" * (9 << 20))
    assert await client.get(prefix) is None
    await client.put(prefix, b"serves all the same")


@pytest.mark.parametrize(
    ("kind", "number"), [("sync", signal.SIGKILL), ("async", signal.SIGTERM), ("async", signal.SIGKILL)]
)
async def test_all_operations_go_on_when_the_leader_goes(kind: str, fresh_cluster: Cluster, number: int) -> None:
    prefix = b"leader/"
    pairs = numbered(prefix, 600)
    async with connected(kind, fresh_cluster, timeout=30.0) as client:
        await client.put_many(pairs)
        fresh_cluster.leader().send(number)
        assert await client.scan(prefix=prefix) == sorted(pairs.items())
        await client.put(prefix + b"new", b"v")
        assert await client.get_many([prefix + b"new", prefix + b"00000"]) == {
            prefix + b"new": b"v",
            prefix + b"00000": b"value 0",
        }
        await client.delete_range(prefix + b"00000", prefix + b"00599")
        assert await client.scan_keys(prefix=prefix, reverse=True) == [prefix + b"new", prefix + b"00599"]
        assert (await client.checksum(prefix=prefix)).keys == 2
        assert await client.ttl(prefix + b"new") is None
    async with connected(kind, fresh_cluster, timeout=30.0, atomic=True) as atomic:
        assert (await atomic.compare_and_swap(prefix + b"new", b"v", b"w")).swapped
    wait_until(
        lambda: sum(not store.running for store in fresh_cluster.stores) == 1, within_s=5.0, what="one has ended"
    )
