"""Our client's reaction to every region error (the table of `client.retry_policy`), and to none of them being the truth."""

from __future__ import annotations

import asyncio
import copy
from collections.abc import Callable
from typing import Any

import pytest
from tests.client.fake_cluster import FakeCluster

from pytinykv.client import (
    AsyncClient,
    ClientError,
    DeadlineExceededError,
    EntryTooLargeError,
    StoreDiskFullError,
    StoreError,
    UndeterminedError,
)
from pytinykv.wire import errors as wire
from pytinykv.wire.pb import errorpb_pb2

NOT_EXECUTED = [
    wire.NotLeader(region_id=1),
    wire.EpochNotMatch(current_regions=[]),
    wire.RegionNotFound(region_id=1),
    wire.KeyNotInRegion(key=b"k", region_id=1, start_key=b"", end_key=b"a"),
    wire.StoreNotMatch(request_store_id=1, actual_store_id=2),
    wire.MismatchPeerId(request_peer_id=1, store_peer_id=2),
    wire.ServerIsBusy(reason="writing", backoff_ms=1),
    wire.MaxTimestampNotSynced(),
    wire.ReadIndexNotReady(region_id=1, reason="no entry of its term yet"),
    wire.ProposalInMergingMode(region_id=1),
    wire.DataIsNotReady(region_id=1, peer_id=2, safe_ts=3),
    wire.RegionNotInitialized(region_id=1),
    wire.RecoveryInProgress(region_id=1),
    wire.IsWitness(region_id=1),
    wire.BucketVersionNotMatch(version=1, keys=[]),
]
DOUBTFUL = [
    wire.StaleCommand(),
    wire.UndeterminedResult(message="lost leadership"),
    errorpb_pb2.Error(message="something new"),
]
FINAL = [
    (wire.RaftEntryTooLarge(region_id=1, entry_size=9 << 20), EntryTooLargeError),
    (wire.DiskFull(store_id=[2], reason="0 bytes left"), StoreDiskFullError),
    (wire.FlashbackInProgress(region_id=1, flashback_start_ts=5), StoreError),
    (wire.FlashbackNotPrepared(region_id=1), StoreError),
]
Call = Callable[[Any], Any]
WRITES: list[Call] = [
    lambda raw: raw.put(b"k", b"new"),
    lambda raw: raw.delete(b"k"),
    lambda raw: raw.batch_put({b"k": b"new", b"l": b"new"}),
    lambda raw: raw.batch_delete([b"k", b"l"]),
    lambda raw: raw.delete_range(b"k", b"l"),
    lambda raw: raw.compare_and_swap(b"k", b"old", b"new"),
]
READS: list[Call] = [
    lambda raw: raw.get(b"k"),
    lambda raw: raw.batch_get([b"k", b"l"]),
    lambda raw: anext(raw.scan(b"k")),
    lambda raw: anext(raw.scan(b"a", b"l", reverse=True)),
    lambda raw: raw.ttl(b"k"),
    lambda raw: raw.checksum(b"k", b"l"),
]
STORE = 2  # leads [g, p)


@pytest.fixture
def warm(cluster: FakeCluster) -> FakeCluster:
    cluster.data[""] = {b"k": b"old", b"l": b"old"}
    return cluster


def name(error: Any) -> str:
    return type(error).__name__


@pytest.mark.parametrize("error", NOT_EXECUTED, ids=name)
@pytest.mark.parametrize("call", WRITES)
async def test_a_write_that_was_not_executed_is_sent_again(
    client: AsyncClient, warm: FakeCluster, error: wire.RegionError, call: Call
) -> None:
    warm.stores[STORE].script.extend([error, error])
    await call(client.raw)
    assert len(warm.stores[STORE].seen) == 3
    assert warm.data[""].get(b"k") in (b"new", None)


@pytest.mark.parametrize("error", [*NOT_EXECUTED, *DOUBTFUL], ids=name)
@pytest.mark.parametrize("call", READS)
async def test_a_read_is_sent_again(
    client: AsyncClient, warm: FakeCluster, error: wire.RegionError, call: Call
) -> None:
    expected = await call(client.raw)
    sent = len(warm.stores[STORE].seen)
    warm.stores[STORE].script.extend([error, error])
    assert await call(client.raw) == expected
    assert len(warm.stores[STORE].seen) == sent + 3


@pytest.mark.parametrize("error", DOUBTFUL, ids=name)
@pytest.mark.parametrize("call", WRITES)
async def test_a_write_of_unknown_fate_is_never_sent_again(
    client: AsyncClient, warm: FakeCluster, error: wire.RegionError, call: Call
) -> None:
    warm.stores[STORE].script.append(error)
    with pytest.raises(UndeterminedError, match=r"region \d+ .*is unknown") as raised:
        await call(client.raw)
    assert raised.value.undetermined
    assert not raised.value.retryable
    assert len(warm.stores[STORE].seen) == 1


@pytest.mark.parametrize(("error", "expected"), FINAL, ids=name)
@pytest.mark.parametrize("call", [WRITES[0], READS[0]])
async def test_final_errors_are_raised_at_once(
    client: AsyncClient, warm: FakeCluster, error: wire.RegionError, expected: type[ClientError], call: Call
) -> None:
    warm.stores[STORE].script.append(error)
    with pytest.raises(expected, match="nothing was changed") as raised:
        await call(client.raw)
    assert not raised.value.undetermined
    assert len(warm.stores[STORE].seen) == 1


async def test_a_leader_hint_is_followed_without_asking_the_scheduler(client: AsyncClient, warm: FakeCluster) -> None:
    await client.raw.get(b"k")
    await client.raw.get(b"a")  # knows the store that is to lead next
    asked = list(warm.schedulers[0].seen)
    warm.region_of(b"k").leader = 1
    assert await client.raw.get(b"k") == b"old"
    assert warm.schedulers[0].seen == asked
    assert warm.stores[1].seen == ["RawGet", "RawGet"]


async def test_a_leader_learnt_from_a_store_is_kept_when_the_scheduler_names_many_regions(
    client: AsyncClient, warm: FakeCluster
) -> None:
    await client.raw.get(b"k")
    await client.raw.get(b"a")
    warm.scheduler_sees = copy.deepcopy(warm.regions)
    warm.region_of(b"k").leader = 1
    assert await client.raw.get(b"k") == b"old"
    sent = len(warm.stores[STORE].seen)
    await client.raw.batch_get([b"k", b"z"])  # the region of z is not known yet
    await client.raw.delete_range(b"x")
    assert await client.raw.get(b"k") == b"old"
    client.executor.router.regions.remove(client.executor.router.regions.locate(b"a"))  # type: ignore[arg-type]
    await client.raw.checksum()
    assert await client.raw.get(b"k") == b"old"
    assert len(warm.stores[STORE].seen) == sent


async def test_a_hint_at_an_unknown_peer_makes_the_client_ask_the_scheduler(
    client: AsyncClient, warm: FakeCluster
) -> None:
    await client.raw.get(b"k")
    region = warm.region_of(b"k")
    region.peers[1] = warm.new_id()
    region.conf_ver += 1
    region.leader = 1
    assert await client.raw.get(b"k") == b"old"
    assert warm.schedulers[0].seen.count("GetRegion") == 2


async def test_two_stores_that_point_at_each_other_are_not_asked_in_a_tight_loop(
    client: AsyncClient, warm: FakeCluster
) -> None:
    region = warm.region_of(b"k")
    hints = {number: wire.NotLeader(region_id=region.id, leader=peer) for number, peer in _peers(region).items()}
    warm.stores[1].script.extend([hints[2]] * 1000)
    warm.stores[2].script.extend([hints[1]] * 1000)
    with pytest.raises(DeadlineExceededError, match="not leader of region"):
        await client.raw.put(b"k", b"v", timeout=0.05)
    assert len(warm.commands()) < 60
    assert warm.data[""][b"k"] == b"old"


def _peers(region: Any) -> dict[int, Any]:
    return {peer.store_id: peer for peer in region.meta().peers}


async def test_regions_told_by_epoch_not_match_are_used_at_once(client: AsyncClient, warm: FakeCluster) -> None:
    await client.raw.get(b"k")
    asked = len(warm.schedulers[0].seen)
    warm.split(b"k5")
    await client.raw.put(b"l", b"right")
    await client.raw.put(b"k", b"left")
    assert len(warm.schedulers[0].seen) == asked
    assert [(region.start, region.end) for region in client.executor.router.regions if region.end != b""][-2:] == [
        (b"g", b"k5"),
        (b"k5", b"p"),
    ]


async def test_a_batch_is_grouped_anew_after_a_split(client: AsyncClient, warm: FakeCluster) -> None:
    pairs = {b"h%02d" % number: b"v" for number in range(40)}
    await client.raw.batch_put(pairs)
    warm.split(b"h10")
    warm.split(b"h20")
    warm.split(b"h30")
    assert await client.raw.batch_get(pairs) == pairs
    assert warm.stores[STORE].seen == ["RawBatchPut"] + ["RawBatchGet"] * 6  # one key first, whose epoch is old


async def test_a_batch_of_which_a_part_was_executed_is_undetermined(client: AsyncClient, warm: FakeCluster) -> None:
    warm.stores[STORE].script.append(wire.DiskFull(store_id=[2], reason="0 bytes left"))
    with pytest.raises(UndeterminedError, match="only a part of the batch was executed.*disk full"):
        await client.raw.batch_put({b"a": b"1", b"k": b"2", b"z": b"3"})
    assert warm.data[""] == {b"a": b"1", b"k": b"old", b"l": b"old", b"z": b"3"}


async def test_a_batch_whose_rest_finds_no_route_is_undetermined(client: AsyncClient, warm: FakeCluster) -> None:
    await client.raw.batch_get([b"a", b"k", b"z"])
    warm.stores[STORE].script.extend([wire.NotLeader(region_id=1)] * 1000)
    with pytest.raises(UndeterminedError, match="only a part of the batch was executed: batch_put of 1 keys from b'k'"):
        await client.raw.batch_put({b"a": b"1", b"k": b"2", b"z": b"3"}, timeout=0.1)
    assert warm.data[""] == {b"a": b"1", b"k": b"old", b"l": b"old", b"z": b"3"}


async def test_a_write_is_not_sent_again_when_its_time_is_nearly_up(client: AsyncClient, warm: FakeCluster) -> None:
    """Sent at the last moment it could only end undetermined; not sent, it certainly was not executed."""
    warm.stores[STORE].script.extend([wire.ServerIsBusy(reason="busy", backoff_ms=45)] * 9)
    with pytest.raises(DeadlineExceededError, match="it was not executed"):
        await client.raw.put(b"k", b"v", timeout=0.05)
    assert warm.stores[STORE].seen == ["RawPut"]


async def test_a_range_of_which_a_part_was_deleted_is_undetermined(client: AsyncClient, warm: FakeCluster) -> None:
    warm.data[""][b"a"] = b"1"
    warm.stores[STORE].script.append(wire.DiskFull(store_id=[2], reason="0 bytes left"))
    with pytest.raises(UndeterminedError, match="up to b'g' only"):
        await client.raw.delete_range(everything=True)


async def test_a_busy_server_is_given_the_time_it_asks_for(client: AsyncClient, warm: FakeCluster) -> None:
    await client.raw.get(b"k")
    loop = asyncio.get_running_loop()
    warm.stores[STORE].script.append(wire.ServerIsBusy(reason="compacting", backoff_ms=40))
    began = loop.time()
    await client.raw.put(b"k", b"v")
    assert loop.time() - began >= 0.04


async def test_the_scheduler_names_a_leader_late(client: AsyncClient, warm: FakeCluster) -> None:
    region = warm.region_of(b"k")
    region.leader = 0

    def elect() -> None:
        region.leader = 3

    asyncio.get_running_loop().call_later(0.02, elect)
    await client.raw.put(b"k", b"v")
    assert warm.data[""][b"k"] == b"v"


async def test_the_scheduler_lags_behind_a_split(client: AsyncClient, warm: FakeCluster) -> None:
    warm.scheduler_sees = copy.deepcopy(warm.regions)
    warm.split(b"k5")
    await client.raw.batch_put({b"k": b"1", b"l": b"2"})
    assert await client.raw.get(b"l") == b"2"


async def test_the_deadline_tells_what_was_last_wrong(client: AsyncClient, warm: FakeCluster) -> None:
    warm.stores[STORE].script.extend([wire.RegionNotFound(region_id=9)] * 1000)
    with pytest.raises(
        DeadlineExceededError, match="put b'k' ran out of time: it was not executed.*region 9"
    ) as raised:
        await client.raw.put(b"k", b"v", timeout=0.02)
    assert raised.value.retryable
    assert not raised.value.undetermined
    with pytest.raises(DeadlineExceededError, match="get b'k' ran out of time: there is no answer"):
        await client.raw.get(b"k", timeout=0.02)
