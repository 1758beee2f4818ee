"""`SplitRegion` as clients see it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from tests.raftstore.harness import REGION_ID, ManualLink
from tests.server.kv.kv_harness import Desk, config

from pytinykv.lifecycle import Scope
from pytinykv.model import RegionId
from pytinykv.storage import ColumnFamily
from pytinykv.wire.keys import encode_bytes


@pytest.fixture
async def desk(tmp_path: Path, scope: Scope) -> Desk:
    ManualLink.next_id = RegionId(1000)
    return Desk(tmp_path, scope)


def ranges(response: Any) -> list[tuple[bytes, bytes]]:
    return [(region.start_key, region.end_key) for region in response.regions]


async def test_one_key_makes_two_regions(desk: Desk) -> None:
    response = await desk.call("SplitRegion", split_key=b"g", is_raw_kv=True)
    assert ranges(response) == [(b"", b"g"), (b"g", b"")]
    assert (response.left.id, response.right.id) == (1000, REGION_ID)
    assert all(len(region.peers) == 3 for region in response.regions)


async def test_many_keys_make_many_regions(desk: Desk) -> None:
    response = await desk.call("SplitRegion", split_keys=[b"c", b"g", b"p", b"t"], is_raw_kv=True)
    assert ranges(response) == [(b"", b"c"), (b"c", b"g"), (b"g", b"p"), (b"p", b"t"), (b"t", b"")]


async def test_keys_that_are_not_raw_stand_for_their_memcomparable_form(desk: Desk) -> None:
    response = await desk.call("SplitRegion", split_keys=[b"g"])
    assert response.right.start_key == encode_bytes(b"g")


async def test_with_transactional_data_there_are_no_plain_boundaries(desk: Desk) -> None:
    batch = desk.node.engine.write_batch()
    batch.put(ColumnFamily.WRITE, encode_bytes(b"x") + bytes(8), b"")
    desk.node.engine.write(batch)
    response = await desk.call("SplitRegion", split_keys=[b"g"], is_raw_kv=True)
    assert response.right.start_key == encode_bytes(b"g")


@pytest.mark.parametrize(
    ("keys", "reason"),
    [
        ([], "empty"),
        ([b""], "empty"),
        ([b"g", b""], "empty"),
        ([b"g", b"g"], "twice"),
        ([b"p", b"g"], "ascend"),
        ([b"k" * 9000], "too long"),
    ],
)
async def test_bad_keys_are_refused_for_good(desk: Desk, keys: list[bytes], reason: str) -> None:
    response = await desk.call("SplitRegion", split_keys=keys, is_raw_kv=True)
    assert not response.HasField("region_error")
    assert reason in response.errors[0].abort
    assert not response.regions


async def test_keys_of_another_region_and_the_start_of_this_one(desk: Desk) -> None:
    await desk.call("SplitRegion", split_keys=[b"g"], is_raw_kv=True)
    outside = await desk.call("SplitRegion", split_keys=[b"c"], is_raw_kv=True)
    assert outside.region_error.key_not_in_region.key == b"c"
    start = await desk.call("SplitRegion", split_keys=[b"g"], is_raw_kv=True)
    assert "begins with" in start.errors[0].abort


async def test_an_old_view_of_the_region_is_told_all_that_became_of_it(desk: Desk) -> None:
    old = desk.context()
    await desk.call("SplitRegion", split_keys=[b"c", b"g", b"p", b"t"], is_raw_kv=True)
    for name, fields in (("SplitRegion", {"split_key": b"h"}), ("RawGet", {"key": b"a"}), ("RawPut", {"key": b"a"})):
        response = await desk.call(name, context=old, **fields)
        assert len(response.region_error.epoch_not_match.current_regions) == 5


async def test_four_thousand_long_keys_are_served(tmp_path: Path, scope: Scope) -> None:
    ManualLink.next_id = RegionId(1000)
    desk = Desk(tmp_path, scope, config=config(), stores=1)
    keys = [b"%04d" % number + bytes(4092) for number in range(4096)]
    response = await desk.call("SplitRegion", split_keys=keys, is_raw_kv=True)
    assert ranges(response) == list(zip([b"", *keys], [*keys, b""], strict=True))


async def test_without_a_scheduler_it_is_told_to_come_again(desk: Desk) -> None:
    desk.node.link.split_trouble = "it is away"
    response = await desk.call("SplitRegion", split_keys=[b"g"], is_raw_kv=True)
    assert "it is away" in response.region_error.server_is_busy.reason
