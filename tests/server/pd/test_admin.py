"""What administrators ask: splits, scattering, leaders, stores, and what the scheduler is doing."""

from __future__ import annotations

import asyncio

import pytest
from tests.server.pd.pd_harness import ERROR, Pd, region, store

from pytinykv.wire import StatusCode
from pytinykv.wire.pb import metapb_pb2, pdpb_pb2


async def test_split_orders_reach_the_leader_and_the_answer_tells_how_far_it_is(pd: Pd) -> None:
    await pd.bootstrap()
    requests, responses = pd.stream("RegionHeartbeat")
    requests.send(pd.heartbeat(region(10)))
    asked = asyncio.ensure_future(pd.ok("SplitRegions", split_keys=[b"t", b"g", b"g"]))
    order = await anext(responses)
    assert (order.region_id, order.region_epoch.version, order.target_peer.store_id) == (10, 1, 1)
    assert order.split_region == pdpb_pb2.SplitRegion(policy=pdpb_pb2.USEKEY, keys=[b"g", b"t"])
    requests.send(pd.heartbeat(region(20, b"", b"g", version=2)))
    half = await asked
    assert (half.finished_percentage, list(half.regions_id)) == (0, [])
    again = asyncio.ensure_future(pd.ok("SplitRegions", split_keys=[b"t", b"g"]))
    requests.send(pd.heartbeat(region(21, b"g", b"t", version=2)))
    requests.send(pd.heartbeat(region(10, b"t", version=2)))
    whole = await again
    assert (whole.finished_percentage, list(whole.regions_id)) == (100, [21, 10])
    (split,) = (one for one in (await pd.admin("ListOperators")).operators if one.description == "split")
    assert (split.status, list(split.steps)) == (pdpb_pb2.OperatorStatus.SUCCESS, ["split at 2 keys"])
    requests.end()
    async for _ in responses:
        pass


@pytest.mark.parametrize(
    ("keys", "why"),
    [
        ([], "no key"),
        ([b"a", b""], "empty key"),
        ([b"%d" % n for n in range(4097)], "4097 keys"),
        ([b"x" * 16_385], "16385 bytes"),
    ],
)
async def test_split_keys_that_make_no_sense_are_refused(pd: Pd, keys: list[bytes], why: str) -> None:
    await pd.bootstrap()
    error = await pd.refused("SplitRegions", split_keys=keys)
    assert error.code is StatusCode.INVALID_ARGUMENT
    assert why in error.message


async def test_store_is_removed_by_an_administrator(pd: Pd) -> None:
    await pd.bootstrap((1, 2, 3))
    running = store(2)
    running.start_timestamp = 100
    await pd.ok("PutStore", store=running)
    refused = await pd.admin_refused("RemoveStore", store_id=2)
    assert refused.code is StatusCode.ABORTED
    assert refused.message == (
        "store 2 can't be removed: each region needs 3 replicas on different stores, and without store 2 there are only 2"
        " that can hold one (1, 3): start another store first"
    )
    await pd.ok("PutStore", store=store(4))
    await pd.report(region(10, version=2))
    removal = await pd.admin("RemoveStore", store_id=2)
    assert (removal.state, removal.regions_left, removal.obstacle) == (metapb_pb2.StoreState.Offline, 1, "")
    await pd.admin("RestoreStore", store_id=2)
    assert (await pd.ok("GetStore", store_id=2)).store.state == metapb_pb2.StoreState.Up
    await pd.admin("RemoveStore", store_id=2)
    await pd.report(region(10, stores=(1, 3, 4), version=2, conf_ver=4))
    await pd.scheduler._mark_empty_stores()
    removal = await pd.admin("RemoveStore", store_id=2)
    assert (removal.state, removal.regions_left) == (metapb_pb2.StoreState.Tombstone, 0)
    assert (await pd.admin_refused("RemoveStore", store_id=77)).code is StatusCode.NOT_FOUND
    gone = await pd.admin("RestoreStore", store_id=2)
    assert gone.header.error.type == ERROR.STORE_TOMBSTONE


async def test_leader_is_moved_by_an_administrator_and_operators_are_told(pd: Pd) -> None:
    await pd.bootstrap()
    await pd.report(region(10, version=2))
    assert (await pd.admin("TransferLeader", region_id=10, store_id=1)).leads_already
    assert not (await pd.admin("TransferLeader", region_id=10, store_id=3)).leads_already
    pd.clock.advance(2)
    (running,) = (await pd.admin("ListOperators")).operators
    assert (running.region_id, running.kind, running.status) == (10, "admin", pdpb_pb2.OperatorStatus.RUNNING)
    assert (list(running.steps), running.done_steps) == (["transfer leader from store 1 to store 3"], 0)
    assert (running.duration_ms, running.ended_ago_ms) == (2000, 0)
    busy = await pd.admin_refused("TransferLeader", region_id=10, store_id=2)
    assert "another request is carried out: transfer leader (region 10" in busy.message
    pd.clock.advance(20)
    pd.scheduler.tick()
    pd.clock.advance(1)
    (ended,) = (await pd.admin("ListOperators")).operators
    assert (ended.status, ended.duration_ms, ended.ended_ago_ms) == (pdpb_pb2.OperatorStatus.TIMEOUT, 22_000, 1000)
    unknown = await pd.admin("TransferLeader", region_id=99, store_id=1)
    assert unknown.header.error.type == ERROR.REGION_NOT_FOUND
    assert (await pd.admin_refused("TransferLeader", region_id=10, store_id=77)).code is StatusCode.NOT_FOUND
    silent = await pd.admin_refused("TransferLeader", region_id=10, store_id=2)
    assert silent.message.endswith("the store has been silent for 23 s")


async def test_sizes_are_told_of_the_regions_that_a_leader_has_reported(pd: Pd) -> None:
    await pd.bootstrap((1, 2, 3))
    assert list((await pd.admin("ListRegionSizes")).regions) == []
    requests, responses = pd.stream("RegionHeartbeat")
    requests.send(pd.heartbeat(region(10, version=2), approximate_size=96 << 20))
    requests.end()
    assert [response async for response in responses] == []
    assert [(one.region_id, one.approximate_bytes) for one in (await pd.admin("ListRegionSizes")).regions] == [
        (10, 96 << 20)
    ]


async def test_leader_is_not_moved_where_it_can_not_lead(pd: Pd) -> None:
    await pd.bootstrap((1, 2, 3, 4))
    behind = region(10, version=2)
    requests, responses = pd.stream("RegionHeartbeat")
    requests.send(pd.heartbeat(behind, pending_peers=[behind.peers[2]]))
    requests.end()
    assert [response async for response in responses] == []
    for store_id, why in ((3, "is behind or does not answer"), (4, "no peer there, but on stores 1, 2, 3")):
        refused = await pd.admin_refused("TransferLeader", region_id=10, store_id=store_id)
        assert refused.code is StatusCode.ABORTED
        assert why in refused.message


async def test_scatter_moves_what_it_can(pd: Pd) -> None:
    await pd.bootstrap((1, 2, 3, 4, 5, 6))
    await pd.report(region(10, b"", b"m", version=2), region(11, b"m", version=2))
    done = await pd.ok("ScatterRegion", regions_id=[10, 11])
    assert (done.finished_percentage, list(done.failed_regions_id)) == (100, [])
    assert [
        (one.region_id, list(one.steps)[-1])
        for one in (await pd.admin("ListOperators")).operators
        if one.description == "scatter"
    ] == [(11, "remove peer on store 1")]
    refused = await pd.ok("ScatterRegion", regions_id=[10, 11])
    assert (refused.finished_percentage, list(refused.failed_regions_id)) == (50, [11])


async def test_request_to_split_ends_with_the_scheduler(pd: Pd) -> None:
    await pd.bootstrap()
    asked = asyncio.ensure_future(pd.refused("SplitRegions", split_keys=[b"k"]))
    await asyncio.sleep(0)
    await pd.scheduler.stop()
    assert (await asked).code is StatusCode.UNAVAILABLE
