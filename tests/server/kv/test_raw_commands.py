"""Every raw command, as a unary call and in a frame where TiKV's protocol has it there."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from tests.server.kv.kv_harness import Desk

from pytinykv.lifecycle import Scope
from pytinykv.model.raw_values import encode_raw_value
from pytinykv.raftstore.operations import RAW_CODE
from pytinykv.storage import ColumnFamily
from pytinykv.storage.changes import PUT
from pytinykv.wire.limits import KEY_BYTES_MAX, RAW_SCAN_LIMIT_MAX, TTL_S_MAX
from pytinykv.wire.pb import kvrpcpb_pb2 as pb

KEYS = [b"b", b"c", b"c\x00", b"d", b"x"]


@pytest.fixture
async def desk(tmp_path: Path) -> AsyncIterator[Desk]:
    """A store whose region is [b, y)."""
    async with Scope("test") as scope:
        yield Desk(tmp_path, scope, stores=1, key_range=(b"b", b"y"))


async def fill(desk: Desk, keys: list[bytes] = KEYS, *, cf: str = "") -> None:
    pairs = [pb.KvPair(key=key, value=b"v" + key) for key in keys]
    response = await desk.call("RawBatchPut", pairs=pairs, cf=cf)
    assert response == pb.RawBatchPutResponse()


async def value(desk: Desk, key: bytes, **fields: Any) -> bytes | None:
    response = await desk.each_way("RawGet", key=key, **fields)
    assert not response.error
    assert not response.HasField("region_error")
    return None if response.not_found else response.value


async def scan(desk: Desk, start: bytes, end: bytes, limit: int = 100, **fields: Any) -> list[bytes]:
    response = await desk.each_way("RawScan", start_key=start, end_key=end, limit=limit, **fields)
    assert not response.HasField("region_error")
    return [pair.key for pair in response.kvs]


def at(desk: Desk, seconds: float) -> None:
    """Let time pass while the lease lasts: ticks go on."""
    desk.cluster.clock.wall += int(seconds * 1000)


# --- one key


@pytest.mark.tinykv("TestRawGet1", "TestRawGetNotFound1", "TestRawPut1", "TestRawDelete1")
@pytest.mark.tinykv("TestRawGetAfterRawPut1", "TestRawGetAfterRawDelete1")
async def test_put_get_delete(desk: Desk) -> None:
    assert await value(desk, b"c") is None
    assert await desk.each_way("RawPut", key=b"c", value=b"1") == pb.RawPutResponse()
    assert await value(desk, b"c") == b"1"
    await desk.each_way("RawPut", key=b"c", value=b"2")
    await desk.each_way("RawPut", key=b"d", value=b"")
    assert await value(desk, b"c") == b"2"
    assert await value(desk, b"d") == b"", "empty is not absent"
    assert await desk.each_way("RawDelete", key=b"c") == pb.RawDeleteResponse()
    assert await value(desk, b"c") is None
    assert await value(desk, b"d") == b""
    await desk.each_way("RawDelete", key=b"c")


@pytest.mark.tinykv("TestRawGet1", "TestRawPut1", "TestRawScan1")
async def test_column_families_share_no_key(desk: Desk) -> None:
    for cf in ("default", "lock", "write"):
        await desk.each_way("RawPut", key=b"c", value=cf.encode(), cf=cf)
    assert [await value(desk, b"c", cf=cf) for cf in ("", "default", "lock", "write")] == [
        b"default",
        b"default",
        b"lock",
        b"write",
    ]
    await desk.each_way("RawDelete", key=b"c", cf="lock")
    assert await scan(desk, b"", b"", cf="lock") == []
    assert await scan(desk, b"", b"", cf="write") == [b"c"]
    await desk.call("RawDeleteRange", start_key=b"", end_key=b"", cf="default")
    assert await value(desk, b"c", cf="write") == b"write"


@pytest.mark.parametrize(
    ("name", "fields"),
    [
        ("RawGet", {"key": b"c"}),
        ("RawPut", {"key": b"c"}),
        ("RawDelete", {"key": b"c"}),
        ("RawBatchDelete", {"keys": [b"c"]}),
        ("RawBatchPut", {"pairs": [pb.KvPair(key=b"c")]}),
        ("RawDeleteRange", {}),
        ("RawCompareAndSwap", {"key": b"c"}),
        ("RawGetKeyTTL", {"key": b"c"}),
    ],
)
async def test_an_unknown_column_family_is_a_final_error(desk: Desk, name: str, fields: dict[str, Any]) -> None:
    response = await desk.each_way(name, cf="gold", **fields)
    assert "gold" in response.error
    assert not response.HasField("region_error")


@pytest.mark.parametrize("key", [b"", b"c" + bytes(KEY_BYTES_MAX)])
@pytest.mark.parametrize("name", ["RawGet", "RawPut", "RawDelete", "RawCompareAndSwap", "RawGetKeyTTL"])
async def test_a_key_of_no_possible_size_is_a_final_error(desk: Desk, name: str, key: bytes) -> None:
    response = await desk.each_way(name, key=key)
    assert "key is" in response.error
    assert not response.HasField("region_error"), "one client looks at one first, another at the other"


@pytest.mark.parametrize("key", [b"a", b"y", b"z"])
@pytest.mark.parametrize("name", ["RawGet", "RawPut", "RawDelete", "RawCompareAndSwap", "RawGetKeyTTL"])
async def test_a_key_of_another_region_says_which_keys_are_here(desk: Desk, name: str, key: bytes) -> None:
    response = await desk.each_way(name, key=key)
    found = response.region_error.key_not_in_region
    assert (found.key, found.region_id, found.start_key, found.end_key) == (key, 1, b"b", b"y")
    assert not response.error


# --- batches


async def test_batches(desk: Desk) -> None:
    await fill(desk)
    response = await desk.each_way("RawBatchGet", keys=[b"x", b"nope", b"b"])
    assert [(pair.key, pair.value) for pair in response.pairs] == [(b"x", b"vx"), (b"b", b"vb")]
    assert await desk.each_way("RawBatchDelete", keys=[b"x", b"nope", b"c"]) == pb.RawBatchDeleteResponse()
    assert await scan(desk, b"", b"") == [b"b", b"c\x00", b"d"]


@pytest.mark.parametrize("name", ["RawBatchPut", "RawBatchGet", "RawBatchDelete"])
async def test_empty_batches_do_nothing(desk: Desk, name: str) -> None:
    response = await desk.each_way(name)
    assert response == type(response)()


async def test_one_bad_key_refuses_the_whole_batch(desk: Desk) -> None:
    pairs = [pb.KvPair(key=b"c", value=b"1"), pb.KvPair(key=b"z", value=b"1")]
    response = await desk.each_way("RawBatchPut", pairs=pairs)
    assert response.region_error.HasField("key_not_in_region")
    assert await value(desk, b"c") is None
    response = await desk.each_way("RawBatchGet", keys=[b"c", b"z"])
    assert response.region_error.HasField("key_not_in_region")


async def test_of_two_values_for_a_key_the_last_one_stays(desk: Desk) -> None:
    await desk.call("RawBatchPut", pairs=[pb.KvPair(key=b"c", value=b"1"), pb.KvPair(key=b"c", value=b"2")])
    assert await value(desk, b"c") == b"2"


# --- time to live


async def ttl(desk: Desk, key: bytes) -> int | None:
    response = await desk.call("RawGetKeyTTL", key=key)
    return None if response.not_found else response.ttl


async def test_values_expire(desk: Desk) -> None:
    await desk.call("RawPut", key=b"c", value=b"1", ttl=10)
    await desk.call("RawPut", key=b"d", value=b"2")
    assert [await ttl(desk, key) for key in (b"c", b"d", b"e")] == [10, 0, None]
    at(desk, 9)
    assert await ttl(desk, b"c") == 1
    assert await value(desk, b"c") == b"1"
    at(desk, 1)
    assert await ttl(desk, b"c") is None
    assert await value(desk, b"c") is None
    assert await scan(desk, b"", b"") == [b"d"]
    assert await scan(desk, b"", b"", limit=1) == [b"d"], "what has expired counts for no limit"
    response = await desk.each_way("RawBatchGet", keys=[b"c", b"d"])
    assert [pair.key for pair in response.pairs] == [b"d"]


@pytest.mark.parametrize(
    ("ttls", "expected"), [([], [0, 0, 0]), ([7], [7, 7, 7]), ([7, 0, 9], [7, 0, 9])], ids=["none", "one", "each"]
)
async def test_a_batch_has_no_ttl_one_for_all_or_one_each(desk: Desk, ttls: list[int], expected: list[int]) -> None:
    pairs = [pb.KvPair(key=key, value=b"v") for key in (b"c", b"d", b"e")]
    await desk.call("RawBatchPut", pairs=pairs, ttls=ttls)
    assert [await ttl(desk, key) for key in (b"c", b"d", b"e")] == expected


async def test_another_number_of_ttls_is_a_final_error(desk: Desk) -> None:
    pairs = [pb.KvPair(key=key, value=b"v") for key in (b"c", b"d", b"e")]
    response = await desk.each_way("RawBatchPut", pairs=pairs, ttls=[1, 2])
    assert "ttls has 2 entries for 3 pairs" in response.error
    assert await value(desk, b"c") is None


@pytest.mark.parametrize("seconds", [TTL_S_MAX + 1, 2**64 - 1])
async def test_a_ttl_without_sense_is_a_final_error(desk: Desk, seconds: int) -> None:
    for name, fields in (("RawPut", {"key": b"c", "value": b"v"}), ("RawCompareAndSwap", {"key": b"c"})):
        response = await desk.each_way(name, ttl=seconds, **fields)
        assert "ttl is too long" in response.error


# --- scans


@pytest.mark.tinykv("TestRawScan1", "TestRawScanAfterRawPut1", "TestRawScanAfterRawDelete1", "TestIterWithRawDelete1")
async def test_scans_see_puts_and_deletes(desk: Desk) -> None:
    await fill(desk)
    assert await scan(desk, b"", b"") == KEYS
    assert await scan(desk, b"c", b"d") == [b"c", b"c\x00"]
    await desk.call("RawPut", key=b"cc", value=b"new")
    assert await scan(desk, b"c", b"d") == [b"c", b"c\x00", b"cc"]
    await desk.call("RawDelete", key=b"c")
    await desk.call("RawDelete", key=b"x")
    assert await scan(desk, b"", b"") == [b"b", b"c\x00", b"cc", b"d"]


async def test_ranges_are_cut_to_the_region(desk: Desk) -> None:
    """Some clients send the same range to every region; others take any error for an empty page."""
    await fill(desk)
    assert await scan(desk, b"a", b"zz") == KEYS
    assert await scan(desk, b"y", b"") == []
    assert await scan(desk, b"a", b"b") == []
    assert await scan(desk, b"d", b"c") == []
    assert await scan(desk, b"c", b"c") == []


@pytest.mark.parametrize("upper", [b"", b"y", b"z", b"\xff" * 8193], ids=["empty", "the end", "beyond", "8193 x ff"])
async def test_a_reverse_scan_goes_down_from_an_upper_bound_that_it_does_not_see(desk: Desk, upper: bytes) -> None:
    await fill(desk)
    assert await scan(desk, upper, b"", reverse=True) == KEYS[::-1]
    assert await scan(desk, upper, b"c\x00", reverse=True) == [b"x", b"d", b"c\x00"]
    assert await scan(desk, b"d", b"b", reverse=True) == [b"c\x00", b"c", b"b"]
    assert await scan(desk, upper, b"", 2, reverse=True) == [b"x", b"d"]


async def test_a_page_is_short_only_at_the_end_of_the_region(desk: Desk) -> None:
    await fill(desk)
    for limit in range(1, 8):
        assert await scan(desk, b"", b"", limit) == KEYS[:limit]
        assert await scan(desk, b"", b"", limit, reverse=True) == KEYS[::-1][:limit]
    assert await scan(desk, b"", b"", 0) == []


async def test_key_only_leaves_out_the_values(desk: Desk) -> None:
    await fill(desk)
    response = await desk.each_way("RawScan", start_key=b"c", limit=2, key_only=True)
    assert [(pair.key, pair.value) for pair in response.kvs] == [(b"c", b""), (b"c\x00", b"")]


@pytest.mark.parametrize("limit", [RAW_SCAN_LIMIT_MAX + 1, 2**32 - 1])
async def test_a_limit_without_sense_is_refused_not_shortened(desk: Desk, limit: int) -> None:
    response = await desk.each_way("RawScan", limit=limit)
    assert "limit is too large" in response.kvs[0].error.abort
    assert not response.HasField("region_error")


async def test_a_bound_longer_than_any_key_is_refused(desk: Desk) -> None:
    response = await desk.each_way("RawScan", start_key=b"c" * 9000, limit=1)
    assert "bound is too long" in response.kvs[0].error.abort
    response = await desk.each_way("RawDeleteRange", start_key=b"c" * 9000)
    assert "bound is too long" in response.error


async def test_batch_scan(desk: Desk) -> None:
    await fill(desk)
    ranges = [pb.KeyRange(start_key=b"b", end_key=b"d"), pb.KeyRange(start_key=b"d"), pb.KeyRange(start_key=b"z")]
    response = await desk.each_way("RawBatchScan", ranges=ranges, each_limit=2)
    assert [pair.key for pair in response.kvs] == [b"b", b"c", b"d", b"x"]
    backwards = [pb.KeyRange(start_key=b"d", end_key=b"b"), pb.KeyRange(start_key=b"", end_key=b"d")]
    response = await desk.each_way("RawBatchScan", ranges=backwards, each_limit=2, reverse=True, key_only=True)
    assert [(pair.key, pair.value) for pair in response.kvs] == [(b"c\x00", b""), (b"c", b""), (b"x", b""), (b"d", b"")]
    response = await desk.each_way("RawBatchScan", ranges=ranges, each_limit=RAW_SCAN_LIMIT_MAX)
    assert "too large" in response.kvs[0].error.abort


async def test_delete_range(desk: Desk) -> None:
    await fill(desk)
    assert await desk.each_way("RawDeleteRange", start_key=b"c", end_key=b"d") == pb.RawDeleteRangeResponse()
    assert await scan(desk, b"", b"") == [b"b", b"d", b"x"]
    await desk.each_way("RawDeleteRange", start_key=b"x", end_key=b"b")
    await desk.each_way("RawDeleteRange", start_key=b"z", end_key=b"zz")
    assert await scan(desk, b"", b"") == [b"b", b"d", b"x"]
    await desk.each_way("RawDeleteRange", start_key=b"a", end_key=b"")
    assert await scan(desk, b"", b"") == []


# --- compare and swap


async def cas(desk: Desk, previous: bytes | None, new: bytes, **fields: Any) -> tuple[bool, bytes | None]:
    response = await desk.call(
        "RawCompareAndSwap",
        key=b"c",
        value=new,
        previous_not_exist=previous is None,
        previous_value=previous or b"",
        **fields,
    )
    assert not response.error
    return response.succeed, None if response.previous_not_exist else response.previous_value


async def test_compare_and_swap_tells_what_was_there_before_in_both_outcomes(desk: Desk) -> None:
    assert await cas(desk, b"0", b"1") == (False, None)
    assert await cas(desk, None, b"1") == (True, None)
    assert await cas(desk, None, b"2") == (False, b"1")
    assert await cas(desk, b"x", b"2") == (False, b"1")
    assert await cas(desk, b"1", b"") == (True, b"1")
    assert await value(desk, b"c") == b""
    assert await cas(desk, None, b"2") == (False, b""), "an empty value is a value"
    assert await cas(desk, b"", b"2", ttl=5) == (True, b"")
    assert await ttl(desk, b"c") == 5
    at(desk, 5)
    assert await cas(desk, b"2", b"3") == (False, None), "what has expired is not there"
    assert await cas(desk, None, b"3") == (True, None)
    assert await cas(desk, b"3", b"", delete=True) == (True, b"3")
    assert await value(desk, b"c") is None


# --- checksum


async def checksum(desk: Desk, *ranges: tuple[bytes, bytes], **fields: Any) -> tuple[int, int, int]:
    wanted = [pb.KeyRange(start_key=start, end_key=end) for start, end in ranges]
    response = await desk.call("RawChecksum", ranges=wanted, **fields)
    return response.checksum, response.total_kvs, response.total_bytes


async def test_checksum_of_known_data(desk: Desk) -> None:
    await desk.call("RawPut", key=b"c123", value=b"")
    assert await checksum(desk, (b"", b"")) == (crc64_xz(b"c123"), 1, 4)
    await desk.call("RawDelete", key=b"c123")
    assert await checksum(desk, (b"", b"")) == (0, 0, 0)


def crc64_xz(data: bytes) -> int:
    """CRC-64/XZ by its definition: reflected, polynomial 42F0E1EBA9EA3693, all ones in and out."""
    value = 0xFFFFFFFFFFFFFFFF
    for byte in data:
        value ^= byte
        for _ in range(8):
            value = value >> 1 ^ (0xC96C5795D7870F42 if value & 1 else 0)
    return value ^ 0xFFFFFFFFFFFFFFFF


def test_the_reference_gives_the_published_check_value() -> None:
    assert crc64_xz(b"123456789") == 0x995DC9BBDF1939FA


async def test_checksums_of_parts_add_up_and_see_only_live_pairs_of_the_region(desk: Desk) -> None:
    await fill(desk)
    await desk.call("RawPut", key=b"e", value=b"soon gone", ttl=1)
    at(desk, 1)
    whole = await checksum(desk, (b"", b""))
    expected = 0
    for key in KEYS:
        expected ^= crc64_xz(key + b"v" + key)
    assert whole == (expected, len(KEYS), sum(2 * len(key) + 1 for key in KEYS))
    assert await checksum(desk, (b"", b"c"), (b"c", b"zz")) == whole
    response = await desk.call("RawChecksum", algorithm=1)
    assert "Crc64_Xor" in response.error


async def test_a_checksum_of_much_data_shows_one_moment(desk: Desk) -> None:
    node = desk.node
    batch = node.engine.write_batch()
    for n in range(2000):
        batch.put(ColumnFamily.RAW, b"dc%04d" % n, b"\x00v")
    node.engine.write(batch)
    task = desk.scope.start("call", lambda: desk.unary("RawChecksum", ranges=[pb.KeyRange()]))
    late = (PUT, RAW_CODE, b"dzzz", encode_raw_value(b"late"))
    for _ in range(200):
        await asyncio.sleep(0)
        desk.cluster.settle()
        if late:
            desk.cluster.propose(desk.node.store_id, late)
            late = ()
        if task.done:
            break
    assert (await task.wait()).total_kvs == 2000
