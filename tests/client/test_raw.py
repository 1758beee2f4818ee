"""Raw operations against a healthy cluster of several regions."""

from __future__ import annotations

import asyncio
import math

import pytest
from tests.client.fake_cluster import FakeCluster, FakeConnector

from pytinykv.client import AsyncClient, CasResult, InvalidArgumentError, InvalidTypeError, ServerError
from pytinykv.wire.checksum import checksum_pairs

DATA = {f"{letter}{number:02}".encode(): f"v{number}".encode() for letter in "adgkpz" for number in range(30)}


async def test_put_get_delete(client: AsyncClient) -> None:
    assert await client.raw.get(b"k") is None
    await client.raw.put(b"k", b"v")
    assert await client.raw.get(b"k") == b"v"
    await client.raw.put(b"k", b"")
    assert await client.raw.get(b"k") == b""
    await client.raw.delete(b"k")
    await client.raw.delete(b"k")
    assert await client.raw.get(b"k") is None


async def test_column_families_are_apart(client: AsyncClient) -> None:
    await client.raw.put(b"k", b"of write", cf="write")
    await client.raw.put(b"k", b"of default", cf="default")
    assert await client.raw.get(b"k") == b"of default"
    assert await client.raw.get(b"k", cf="write") == b"of write"
    assert await client.raw.get(b"k", cf="lock") is None
    assert [pair async for pair in client.raw.scan(cf="write")] == [(b"k", b"of write")]


async def test_time_to_live(client: AsyncClient) -> None:
    await client.raw.put(b"without end", b"v")
    await client.raw.put(b"k", b"v", ttl=60)
    await client.raw.batch_put({b"a": b"1", b"z": b"2"}, ttl=30)
    assert await client.raw.ttl(b"without end") == math.inf
    assert await client.raw.ttl(b"k") == 60
    assert await client.raw.ttl(b"z") == 30
    assert await client.raw.ttl(b"missing") is None


async def test_compare_and_swap(client: AsyncClient) -> None:
    assert await client.raw.compare_and_swap(b"k", None, b"1") == CasResult(swapped=True, previous=None)
    assert await client.raw.compare_and_swap(b"k", None, b"2") == CasResult(swapped=False, previous=b"1")
    assert await client.raw.compare_and_swap(b"k", b"1", b"2") == CasResult(swapped=True, previous=b"1")
    assert await client.raw.get(b"k") == b"2"


async def test_batches_span_regions(client: AsyncClient, cluster: FakeCluster) -> None:
    await client.raw.batch_put(DATA)
    assert cluster.data[""] == DATA
    assert await client.raw.batch_get([*reversed(DATA), b"missing"]) == dict(sorted(DATA.items()))
    assert sorted(set(cluster.commands())) == ["RawBatchGet", "RawBatchPut"]
    await client.raw.batch_delete([b"a00", b"z29", b"missing"])
    assert set(DATA) - set(cluster.data[""]) == {b"a00", b"z29"}


async def test_of_a_key_twice_in_a_batch_the_last_value_stays(client: AsyncClient, cluster: FakeCluster) -> None:
    await client.raw.batch_put([(b"k", b"1"), (b"a", b"x"), (b"k", b"2")])
    assert cluster.data[""] == {b"k": b"2", b"a": b"x"}


async def test_empty_batches_send_nothing(client: AsyncClient, cluster: FakeCluster) -> None:
    assert await client.raw.batch_get([]) == {}
    await client.raw.batch_put({})
    await client.raw.batch_delete([])
    assert cluster.commands() == []


async def test_checksum_and_delete_range_span_regions(client: AsyncClient, cluster: FakeCluster) -> None:
    await client.raw.batch_put(DATA)
    expected = checksum_pairs(DATA.items())
    assert await client.raw.checksum() == (expected.checksum, expected.total_kvs, expected.total_bytes)
    await client.raw.delete_range(b"d05", b"p")
    assert set(cluster.data[""]) == {key for key in DATA if not b"d05" <= key < b"p"}
    await client.raw.delete_range(prefix=b"z")
    assert not [key for key in cluster.data[""] if key.startswith(b"z")]
    await client.raw.delete_range(b"x", b"b")
    await client.raw.delete_range(everything=True)
    assert cluster.data[""] == {}


async def test_commands_of_one_turn_share_a_frame_per_store(client: AsyncClient, cluster: FakeCluster) -> None:
    await client.raw.batch_get([b"a", b"h", b"q"])  # warm: every region and store is known
    for store in cluster.stores.values():
        store.frames.clear()
    await asyncio.gather(*(client.raw.put(key, value) for key, value in DATA.items()))
    assert [store.frames for store in cluster.stores.values()] == [[60], [60], [60]]
    assert cluster.data[""] == DATA


async def test_many_cold_calls_ask_the_scheduler_once_per_region(client: AsyncClient, cluster: FakeCluster) -> None:
    await asyncio.gather(*(client.raw.put(key, value) for key, value in DATA.items()))
    assert cluster.schedulers[0].seen.count("GetRegion") == 3
    assert cluster.schedulers[0].seen.count("GetAllStores") == 3


async def test_an_error_text_of_the_store_is_raised(client: AsyncClient, cluster: FakeCluster) -> None:
    def fail(request: object, response: object, data: object, region: object) -> None:
        response.error = "engine on fire"  # type: ignore[attr-defined]

    for store in cluster.stores.values():
        store._RawPut = fail  # type: ignore[method-assign]
    with pytest.raises(ServerError, match="put b'k'.*engine on fire"):
        await client.raw.put(b"k", b"v")


@pytest.mark.parametrize(
    ("call", "error", "says"),
    [
        (lambda raw: raw.get(b""), InvalidArgumentError, "key is empty"),
        (lambda raw: raw.get("k"), InvalidTypeError, r"key must be bytes, not str; encode it"),
        (lambda raw: raw.get(None), InvalidTypeError, "key must be bytes, not NoneType"),
        (lambda raw: raw.put(b"k", "v"), InvalidTypeError, "value must be bytes, not str"),
        (lambda raw: raw.put(b"k" * 8193, b"v"), InvalidArgumentError, "8193 bytes, at most 8192"),
        (lambda raw: raw.put(b"k", b"v" * (8 << 20)), InvalidArgumentError, "value is too long: 8388608 bytes"),
        (lambda raw: raw.put(b"k", b"v", ttl=-1), InvalidArgumentError, "ttl must be 1 to 3153600000 seconds"),
        (lambda raw: raw.put(b"k", b"v", ttl=0), InvalidArgumentError, "None for a value that stays; it is 0"),
        *(
            (call, InvalidArgumentError, "it is 3153600001")
            for call in (
                lambda raw: raw.put(b"k", b"v", ttl=3153600001),
                lambda raw: raw.batch_put({b"k": b"v"}, ttl=3153600001),
                lambda raw: raw.compare_and_swap(b"k", None, b"v", ttl=3153600001),
            )
        ),
        (lambda raw: raw.delete_range(), InvalidArgumentError, "say everything=True, or a range"),
        (lambda raw: raw.delete_range(b"", b""), InvalidArgumentError, "say everything=True, or a range"),
        (lambda raw: raw.delete_range(prefix=b""), InvalidArgumentError, "say everything=True, or a range"),
        (
            lambda raw: raw.delete_range(b"a", everything=True),
            InvalidArgumentError,
            "goes without start, end and prefix",
        ),
        (lambda raw: raw.delete_range(prefix=b"a", everything=True), InvalidArgumentError, "goes without start, end"),
        (lambda raw: raw.put(b"k", b"v", ttl=1.5), InvalidTypeError, "ttl must be a whole number"),
        (lambda raw: raw.put(b"k", b"v", cf="meta"), InvalidArgumentError, "unknown column family 'meta'"),
        (lambda raw: raw.get(b"k", timeout=0), InvalidArgumentError, "timeout must be positive"),
        (lambda raw: raw.get(b"k", timeout="1"), InvalidTypeError, "timeout must be a number"),
        (lambda raw: raw.batch_get(b"k"), InvalidTypeError, "keys must be several keys"),
        (lambda raw: raw.batch_get([b"k", "x"]), InvalidTypeError, r"keys\[1\] must be bytes"),
        (lambda raw: raw.batch_put([b"kv"]), InvalidArgumentError, r"pairs\[0\]"),
        (lambda raw: raw.batch_put([(b"k",)]), InvalidTypeError, r"pairs\[0\] must be a \(key, value\) pair"),
        (lambda raw: raw.batch_put({b"": b"v"}), InvalidArgumentError, r"pairs\[0\] key: key is empty"),
        (lambda raw: raw.batch_put({b"k": b"v" * (8 << 20)}), InvalidArgumentError, r"pairs\[0\] value is too long"),
        (lambda raw: raw.compare_and_swap(b"k", "x", b"v"), InvalidTypeError, "expected must be bytes"),
        (lambda raw: raw.delete_range(b"a", b"b", prefix=b"c"), InvalidArgumentError, "either prefix or start and end"),
        (lambda raw: raw.checksum("a"), InvalidTypeError, "start must be bytes"),
    ],
)
async def test_bad_arguments_are_refused_before_anything_is_sent(
    client: AsyncClient, cluster: FakeCluster, call: object, error: type[Exception], says: str
) -> None:
    with pytest.raises(error, match=says):
        await call(client.raw)  # type: ignore[operator]
    assert cluster.commands() == []
    assert cluster.schedulers[0].seen == []


@pytest.mark.parametrize(
    ("arguments", "error", "says"),
    [
        ({"limit": -1}, InvalidArgumentError, "limit must not be negative, is -1"),
        ({"limit": True}, InvalidTypeError, "limit must be a whole number"),
        ({"start": "a"}, InvalidTypeError, "start must be bytes"),
        ({"end": b"x" * 8194}, InvalidArgumentError, "end: bound is too long"),
        ({"prefix": b"a", "start": b"b"}, InvalidArgumentError, "either prefix or start and end"),
        ({"cf": "meta"}, InvalidArgumentError, "unknown column family"),
    ],
)
async def test_bad_scans_are_refused_when_they_are_made(
    client: AsyncClient, arguments: dict[str, object], error: type[Exception], says: str
) -> None:
    with pytest.raises(error, match=says):
        client.raw.scan(**arguments)  # type: ignore[arg-type]


async def test_buffers_are_taken_for_bytes(client: AsyncClient) -> None:
    await client.raw.put(bytearray(b"k"), memoryview(b"v"))  # type: ignore[arg-type]
    assert await client.raw.get(b"k") == b"v"


async def test_frames_respect_their_limits(client: AsyncClient, cluster: FakeCluster, connector: FakeConnector) -> None:
    await client.raw.get(b"a")
    await asyncio.gather(*(client.raw.put(b"a%03d" % number, b"") for number in range(600)))
    assert cluster.stores[1].frames == [1, 256, 256, 88]
    cluster.stores[1].frames.clear()
    await asyncio.gather(*(client.raw.put(b"a%03d" % number, b"x" * 600_000) for number in range(4)))
    assert cluster.stores[1].frames == [2, 2]
