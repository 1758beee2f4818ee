"""`pdpb.PD` as stores and foreign clients see it, without a socket."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
from tests.helpers import WALL_START_MS
from tests.server.pd.pd_harness import ERROR, STORES, Pd, region, store

from pytinykv.lifecycle import Scope
from pytinykv.scheduler import Scheduler
from pytinykv.server.pd.service import SAVED_SAFE_POINT, PdService
from pytinykv.wire import RpcError, StatusCode
from pytinykv.wire.pb import eraftpb_pb2, etcdpb_pb2, metapb_pb2, pdpb_pb2


@pytest.mark.tinykv("TestGetPDMembers")
@pytest.mark.tinykv("TestClient")
async def test_members_are_told_to_requests_without_a_header(pd: Pd) -> None:
    response = await pd.raw("GetMembers", pdpb_pb2.GetMembersRequest())
    assert response.header.cluster_id == pd.scheduler.cluster_id != 0
    assert not response.header.HasField("error")
    assert list(response.leader.client_urls) == ["http://127.0.0.1:2379"]
    assert list(response.members) == [response.leader]
    info = await pd.raw("GetClusterInfo", pdpb_pb2.GetClusterInfoRequest())
    assert list(info.serviceModes) == [pdpb_pb2.ServiceMode.PD_SVC_MODE]
    assert not info.header.HasField("error")


@pytest.mark.tinykv("TestUpdateAdvertiseUrls")
async def test_scheduler_that_is_reached_at_another_address_after_a_restart_says_so(pd: Pd, scope: Scope) -> None:
    await pd.bootstrap()
    await pd.scheduler.stop()
    again = Scheduler.open(pd.engine, pd.clock, scope=scope)
    moved = PdService(again, scope, client_url="http://10.0.0.7:2379")
    response: Any = await moved.unary("/pdpb.PD/GetMembers", pdpb_pb2.GetMembersRequest())
    assert list(response.leader.client_urls) == ["http://10.0.0.7:2379"]
    assert response.header.cluster_id == pd.scheduler.cluster_id
    await again.stop()


@pytest.mark.tinykv("TestCheckClusterID")
async def test_request_of_another_cluster_is_refused_everywhere(pd: Pd) -> None:
    await pd.bootstrap()
    for path, spec in pd.service.methods.items():
        if spec.method_name in ("GetMembers", "GetClusterInfo", "Range"):
            continue
        for header in (pdpb_pb2.RequestHeader(cluster_id=pd.scheduler.cluster_id ^ 1), None):
            request: Any = spec.request_type(header=header)
            if spec.request_streaming:
                requests, responses = pd.stream(spec.method_name)
                requests.send(request)
                answer = anext(responses)
            else:
                answer = pd.service.unary(path, request)
            with pytest.raises(RpcError, match="mismatch cluster id") as caught:
                await answer
            assert caught.value.code is StatusCode.FAILED_PRECONDITION


async def test_method_that_is_not_there_says_so(pd: Pd) -> None:
    for name in ("SyncRegions", "Nonsense"):
        with pytest.raises(RpcError) as caught:
            await pd.raw(name, pdpb_pb2.SplitRegionsRequest(header=pd.header()))
        assert caught.value.code is StatusCode.UNIMPLEMENTED
    _, responses = pd.stream("Nonsense")
    with pytest.raises(RpcError):
        await anext(responses)


@pytest.mark.tinykv("TestBootstrap")
async def test_bootstrap_answers_the_first_and_tells_the_others(pd: Pd) -> None:
    assert not (await pd.ok("IsBootstrapped")).bootstrapped
    await pd.ok("Bootstrap", store=store(1), region=region(10, stores=(1,)))
    assert (await pd.ok("IsBootstrapped")).bootstrapped
    await pd.ok("Bootstrap", store=store(1), region=region(10, stores=(1,)))
    assert await pd.error("Bootstrap", store=store(2), region=region(20, stores=(2,))) == ERROR.ALREADY_BOOTSTRAPPED
    assert await pd.error("Bootstrap") == ERROR.ALREADY_BOOTSTRAPPED


async def test_before_bootstrap_stores_are_told_and_clients_are_put_off(pd: Pd) -> None:
    assert await pd.error("PutStore", store=store(1)) == ERROR.NOT_BOOTSTRAPPED
    assert await pd.error("StoreHeartbeat", stats=pdpb_pb2.StoreStats(store_id=1)) == ERROR.NOT_BOOTSTRAPPED
    assert await pd.error("AskSplit", region=region(1)) == ERROR.NOT_BOOTSTRAPPED
    for method in ("GetRegion", "GetPrevRegion", "GetRegionByID", "ScanRegions", "BatchScanRegions", "GetStore"):
        assert (await pd.refused(method)).code is StatusCode.UNAVAILABLE
    assert (await pd.refused("Bootstrap")).code is StatusCode.INVALID_ARGUMENT
    assert (await pd.refused("Bootstrap", store=store(1), region=region(1))).code is StatusCode.INVALID_ARGUMENT
    assert (await pd.ok("AllocID")).id == 1


async def test_last_of_the_ids_is_answered(pd: Pd) -> None:
    first = await pd.ok("AllocID")
    assert (first.id, first.count) == (1, 1)
    second = await pd.ok("AllocID", count=5)
    assert (second.id, second.count) == (6, 5)
    assert (await pd.ok("AllocID")).id == 7
    assert (await pd.refused("AllocID", count=(1 << 32) - 1)).code is StatusCode.INVALID_ARGUMENT


async def test_tso_answers_each_request_in_order_with_its_count(pd: Pd) -> None:
    requests, responses = pd.stream("Tso")
    counts = [1, 5, 64, 1, 1 << 18, 1]
    for count in counts:
        requests.send(pdpb_pb2.TsoRequest(header=pd.header(), count=count))
    newest = 0
    for count in counts:
        response = await anext(responses)
        assert response.count == count
        assert not response.header.HasField("error")
        assert response.timestamp.logical < 1 << 18
        first = (response.timestamp.physical << 18) + response.timestamp.logical - count + 1
        assert first > newest
        newest = first + count - 1
    assert abs((newest >> 18) - WALL_START_MS) <= 5
    requests.end()
    with pytest.raises(StopAsyncIteration):
        await anext(responses)
    timestamp = (await pd.ok("GetMinTS")).timestamp
    assert (timestamp.physical << 18) + timestamp.logical > newest


@pytest.mark.tinykv("TestTsoWithoutCount")
async def test_tso_without_count_ends_the_stream_with_the_reason(pd: Pd) -> None:
    requests, responses = pd.stream("Tso")
    requests.send(pdpb_pb2.TsoRequest(header=pd.header()))
    with pytest.raises(RpcError, match="tso count should be positive") as caught:
        await anext(responses)
    assert caught.value.code is StatusCode.INVALID_ARGUMENT


@pytest.mark.tinykv("TestGetStore")
async def test_stores_register_and_are_found(pd: Pd) -> None:
    await pd.bootstrap()
    labels = [metapb_pb2.StoreLabel(key="zone", value="z1")]
    asked = metapb_pb2.Store(
        id=2, address="127.0.0.1:4444", labels=labels, version="1.2.3", status_address="127.0.0.1:5"
    )
    asked.state = metapb_pb2.StoreState.Tombstone  # it does not decide about itself
    await pd.ok("PutStore", store=asked)
    found = (await pd.ok("GetStore", store_id=2)).store
    asked.state, asked.node_state = metapb_pb2.StoreState.Up, metapb_pb2.NodeState.Serving
    assert found == asked
    await pd.ok("StoreHeartbeat", stats=pdpb_pb2.StoreStats(store_id=2, capacity=100, available=40, region_count=3))
    response = await pd.ok("GetStore", store_id=2)
    assert (response.stats.capacity, response.stats.region_count) == (100, 3)
    assert response.store.last_heartbeat == WALL_START_MS * 1_000_000
    assert [one.id for one in (await pd.ok("GetAllStores")).stores] == [1, 2, 3]


async def test_unknown_and_wrong_stores_get_clear_errors(pd: Pd) -> None:
    await pd.bootstrap()
    for error in (
        await pd.refused("GetStore", store_id=77),
        await pd.refused("StoreHeartbeat", stats=pdpb_pb2.StoreStats(store_id=77)),
    ):
        assert error.code is StatusCode.NOT_FOUND
        assert "invalid store ID 77, not found: there are stores 1, 2, 3" in error.message
    assert (await pd.refused("PutStore")).code is StatusCode.INVALID_ARGUMENT
    for absurd in (0, (1 << 64) - 1):
        assert (await pd.refused("PutStore", store=store(absurd))).code is StatusCode.INVALID_ARGUMENT
    no_address = metapb_pb2.Store(id=9)
    assert "has no address" in (await pd.refused("PutStore", store=no_address)).message
    owner = store(1)
    owner.start_timestamp = 100
    await pd.ok("PutStore", store=owner)
    taken = (await pd.call("PutStore", store=store(9, owner.address))).header.error
    assert taken.type == ERROR.DUPLICATED_ENTRY
    assert "duplicated store address" in taken.message
    assert "`tinykv ctl store remove 1`" in taken.message


async def test_removed_store_is_told_that_it_is_a_tombstone(pd: Pd) -> None:
    await pd.bootstrap()
    await pd.scheduler.take_offline(3)
    assert (await pd.ok("GetStore", store_id=3)).store.state == metapb_pb2.StoreState.Offline
    await pd.ok("StoreHeartbeat", stats=pdpb_pb2.StoreStats(store_id=3))
    await pd.scheduler.mark_tombstone(3)
    assert await pd.error("PutStore", store=store(3)) == ERROR.STORE_TOMBSTONE
    assert await pd.error("StoreHeartbeat", stats=pdpb_pb2.StoreStats(store_id=3)) == ERROR.STORE_TOMBSTONE
    assert [one.id for one in (await pd.ok("GetAllStores", exclude_tombstone_stores=True)).stores] == [1, 2]
    await pd.ok("PutStore", store=store(4, store(3).address))
    requests, responses = pd.stream("RegionHeartbeat")
    requests.send(pd.heartbeat(region(10, stores=(3,))))
    assert (await anext(responses)).header.error.type == ERROR.STORE_TOMBSTONE
    await responses.aclose()


@pytest.mark.tinykv("TestGetRegion")
@pytest.mark.tinykv("TestGetRegionByID")
@pytest.mark.tinykv("TestGetPrevRegion")
async def test_regions_are_found_once_a_leader_has_reported(pd: Pd) -> None:
    await pd.bootstrap()
    for method, fields in [("GetRegion", {"region_key": b"k"}), ("GetRegionByID", {"region_id": 10})]:
        error = await pd.refused(method, **fields)
        assert error.code is StatusCode.UNAVAILABLE
        assert "leader of region 10 is not known" in error.message
    left, right = region(10, b"", b"m", version=2), region(11, b"m", version=2)
    await pd.report(left)
    error = await pd.refused("GetRegion", region_key=b"x")
    assert error.code is StatusCode.UNAVAILABLE
    await pd.report(right)
    found = await pd.ok("GetRegion", region_key=b"k")
    assert (found.region, found.leader) == (left, left.peers[0])
    assert (await pd.ok("GetRegion", region_key=b"m")).region == right
    assert (await pd.ok("GetRegion")).region == left
    assert (await pd.ok("GetRegionByID", region_id=11)).region == right
    assert not (await pd.ok("GetRegionByID", region_id=99)).HasField("region")
    assert (await pd.ok("GetPrevRegion", region_key=b"m")).region == left
    assert not (await pd.ok("GetPrevRegion", region_key=b"a")).HasField("region")


async def test_pending_and_down_peers_are_passed_on(pd: Pd) -> None:
    await pd.bootstrap()
    meta = region(10)
    requests, responses = pd.stream("RegionHeartbeat")
    down = pdpb_pb2.PeerStats(peer=meta.peers[1], down_seconds=33)
    requests.send(pd.heartbeat(meta, pending_peers=[meta.peers[2]], down_peers=[down], approximate_size=5, term=3))
    requests.end()
    assert [one async for one in responses] == []
    found = await pd.ok("GetRegion", region_key=b"k")
    assert list(found.pending_peers) == [meta.peers[2]]
    assert list(found.down_peers) == [down]


@pytest.mark.tinykv("TestScanRegions")
async def test_scans_are_whole_and_limited(pd: Pd) -> None:
    await pd.bootstrap()
    keys = [b"", b"b", b"d", b"f", b""]
    metas = [region(20 + n, keys[n], keys[n + 1], version=2) for n in range(4)]
    await pd.report(*metas)

    async def scan(start: bytes, end: bytes = b"", limit: int = 0) -> list[int]:
        response = await pd.ok("ScanRegions", start_key=start, end_key=end, limit=limit)
        assert [one.region for one in response.regions] == list(response.region_metas)
        assert [one.leader for one in response.regions] == list(response.leaders)
        return [one.region.id for one in response.regions]

    assert await scan(b"") == [20, 21, 22, 23]
    assert await scan(b"", limit=2) == [20, 21]
    assert await scan(b"c", b"e") == [21, 22]
    assert await scan(b"c", b"d", limit=-5) == [21]
    assert await scan(b"z", limit=1 << 30) == [23]
    assert await scan(b"e", b"e") == []

    async def batch(*ranges: tuple[bytes, bytes], limit: int = 0) -> list[int]:
        asked = [pdpb_pb2.KeyRange(start_key=start, end_key=end) for start, end in ranges]
        response = await pd.ok("BatchScanRegions", ranges=asked, limit=limit)
        return [one.region.id for one in response.regions]

    assert await batch((b"a", b"b"), (b"b", b"c"), (b"c", b"d"), (b"g", b"")) == [20, 21, 23]
    assert await batch((b"a", b"c"), (b"e", b"g"), limit=3) == [20, 21, 22]
    assert await batch((b"g", b"h"), (b"x", b"")) == [23]
    assert await batch() == []
    for wrong in ([(b"c", b"b")], [(b"b", b"d"), (b"c", b"e")], [(b"b", b""), (b"c", b"d")]):
        asked = [pdpb_pb2.KeyRange(start_key=start, end_key=end) for start, end in wrong]
        assert (await pd.refused("BatchScanRegions", ranges=asked)).code is StatusCode.INVALID_ARGUMENT

    pd.scheduler.cluster.regions.remove(21)
    for method, fields in [
        ("ScanRegions", {"start_key": b"a"}),
        ("ScanRegions", {"start_key": b"c", "limit": 1}),
        ("BatchScanRegions", {"ranges": [pdpb_pb2.KeyRange(start_key=b"a", end_key=b"c")]}),
    ]:
        assert (await pd.refused(method, **fields)).code is StatusCode.UNAVAILABLE
    assert await scan(b"a", limit=1) == [20]


async def test_queries_are_answered_side_by_side_and_in_order(pd: Pd) -> None:
    await pd.bootstrap()
    left, right = region(10, b"", b"m", version=2), region(11, b"m", version=2)
    await pd.report(left, right)
    requests, responses = pd.stream("QueryRegion")
    requests.send(
        pdpb_pb2.QueryRegionRequest(header=pd.header(), keys=[b"z", b"a", b"m"], prev_keys=[b"m", b"a"], ids=[11, 99])
    )
    requests.send(pdpb_pb2.QueryRegionRequest(header=pd.header(), ids=[10]))
    first, second = await anext(responses), await anext(responses)
    assert list(first.key_id_map) == [11, 10, 11]
    assert list(first.prev_key_id_map) == [10, 0]
    assert {key: one.region for key, one in first.regions_by_id.items()} == {10: left, 11: right}
    assert first.regions_by_id[11].leader == right.peers[0]
    assert not first.header.HasField("error")
    assert list(second.regions_by_id) == [10]
    requests.end()
    assert [one async for one in responses] == []


async def test_heartbeats_are_answered_with_orders_until_the_region_is_whole(pd: Pd) -> None:
    await pd.bootstrap()
    requests, responses = pd.stream("RegionHeartbeat")
    meta = region(10, stores=(1,))
    for conf_ver in (2, 3):
        requests.send(pd.heartbeat(meta))
        order = await anext(responses)
        assert not order.header.HasField("error")
        assert (order.region_id, order.region_epoch, order.target_peer) == (10, meta.region_epoch, meta.peers[0])
        assert order.change_peer.change_type == eraftpb_pb2.ConfChangeType.AddLearnerNode
        assert order.change_peer.peer.id
        assert order.change_peer.peer.role == metapb_pb2.PeerRole.Learner
        assert order.change_peer.peer.store_id not in [one.store_id for one in meta.peers]
        meta.peers.append(order.change_peer.peer)
        meta.region_epoch.conf_ver = conf_ver
    for conf_ver in (4, 5):
        requests.send(pd.heartbeat(meta))
        order = await anext(responses)
        assert order.change_peer.change_type == eraftpb_pb2.ConfChangeType.AddNode
        assert order.change_peer.peer.role == metapb_pb2.PeerRole.Voter
        (learner,) = [one for one in meta.peers if one.id == order.change_peer.peer.id]
        assert learner.role == metapb_pb2.PeerRole.Learner
        learner.CopyFrom(order.change_peer.peer)
        meta.region_epoch.conf_ver = conf_ver
    requests.send(pd.heartbeat(meta))
    requests.end()
    assert [one async for one in responses] == []
    operator = await pd.ok("GetOperator", region_id=10)
    assert operator.status == pdpb_pb2.OperatorStatus.SUCCESS
    assert operator.kind == b"replica"
    assert await pd.error("GetOperator", region_id=99) == ERROR.REGION_NOT_FOUND


async def test_order_is_pushed_without_a_heartbeat(pd: Pd) -> None:
    await pd.bootstrap(stores=(1,))
    requests, responses = pd.stream("RegionHeartbeat")
    reading = pd.scope.start("reader", anext, responses)
    requests.send(pd.heartbeat(region(10, stores=(1,))))
    for _ in range(5):
        await asyncio.sleep(0)
    assert not reading.done
    await pd.ok("PutStore", store=store(2))
    pd.scheduler.tick()
    order: Any = await reading.wait(5)
    assert order.change_peer.peer.store_id == 2
    await responses.aclose()
    await pd.ok("PutStore", store=store(3))
    pd.scheduler.tick()


async def test_leader_is_told_to_hand_over(pd: Pd) -> None:
    await pd.bootstrap(stores=(1, 2, 3, 4))
    await pd.scheduler.take_offline(1)
    requests, responses = pd.stream("RegionHeartbeat")
    requests.send(pd.heartbeat(region(10, stores=(1, 2, 3, 4))))
    order = await anext(responses)
    assert order.transfer_leader.peer.store_id == 2
    assert not order.HasField("change_peer")
    await responses.aclose()


async def test_bad_heartbeats_are_answered_and_the_stream_lives_on(pd: Pd) -> None:
    await pd.bootstrap()
    requests, responses = pd.stream("RegionHeartbeat")
    await pd.report(region(10, version=5))
    leaderless = pdpb_pb2.RegionHeartbeatRequest(header=pd.header(), region=region(10, version=6))
    regionless = pdpb_pb2.RegionHeartbeatRequest(header=pd.header())
    for bad, message in [
        (pd.heartbeat(region(10, version=4)), "is reported with epoch"),
        (pd.heartbeat(region(10, stores=(77,), version=6)), "invalid store ID 77, not found"),
        (pd.heartbeat(region(10, b"b", b"a", version=6)), "empty range"),
        (leaderless, "names no leader"),
        (regionless, "without a region"),
    ]:
        requests.send(bad)
        response = await anext(responses)
        assert response.header.error.type == ERROR.UNKNOWN
        assert message in response.header.error.message
        assert response.region_id == bad.region.id
    requests.send(pd.heartbeat(region(10, version=6, stores=(1, 2))))
    assert (await anext(responses)).change_peer.peer.store_id == 3
    await responses.aclose()


@pytest.mark.tinykv("TestConcurrentHandleRegion3C")
async def test_many_regions_are_reported_over_several_streams_at_once(pd: Pd) -> None:
    await pd.bootstrap()
    count = 600
    keys = [b"", *(b"%05d" % n for n in range(1, count)), b""]
    metas = [region(100 + n, keys[n], keys[n + 1], stores=(n % 3 + 1,), version=2) for n in range(count)]
    streams = [pd.stream("RegionHeartbeat") for _ in STORES]

    async def read(responses: AsyncIterator[Any]) -> int:
        return len([one async for one in responses])

    readers = [pd.scope.start(f"reader-{n}", read, responses) for n, (_, responses) in enumerate(streams)]
    for n, meta in enumerate(metas):
        streams[n % 3][0].send(pd.heartbeat(meta))
    for requests, _ in streams:
        requests.end()
    answered = [await reader.wait(30) for reader in readers]
    assert sum(answered) > 0, "regions with one peer want two more, as many at once as stores may take"
    assert pd.scheduler.cluster.regions.is_complete()
    assert [one.id for one in pd.scheduler.cluster.regions] == [meta.id for meta in metas]


@pytest.mark.tinykv("TestAskSplit")
@pytest.mark.tinykv("TestReportSplit")
async def test_split_is_asked_for_and_reported(pd: Pd) -> None:
    await pd.bootstrap()
    await pd.report(region(10, version=3))
    one = await pd.ok("AskSplit", region=region(10, version=3))
    assert one.new_region_id
    assert len(one.new_peer_ids) == 3
    many = await pd.ok("AskBatchSplit", region=region(10, version=3), split_count=4)
    ids = [one.new_region_id, *one.new_peer_ids]
    for split in many.ids:
        ids += [split.new_region_id, *split.new_peer_ids]
    assert len(ids) == len(set(ids)) == 20
    assert (await pd.refused("AskBatchSplit", region=region(10, version=3))).code is StatusCode.INVALID_ARGUMENT
    assert (await pd.refused("AskSplit", region=region(10, version=2))).code is StatusCode.ABORTED
    assert (await pd.refused("AskSplit", region=region(99))).code is StatusCode.UNAVAILABLE
    left, right = region(10, b"", b"m"), region(11, b"m")
    await pd.ok("ReportSplit", left=left, right=right)
    await pd.ok("ReportBatchSplit", regions=[left, right])
    assert (await pd.refused("ReportSplit", left=right, right=left)).code is StatusCode.INVALID_ARGUMENT


@pytest.mark.tinykv("TestUpdateGCSafePoint")
async def test_safe_points_move_up_and_are_told(pd: Pd) -> None:
    await pd.bootstrap()
    for asked, expected in [(0, 0), (233, 233), (1, 233), ((1 << 64) - 1, (1 << 64) - 1)]:
        assert (await pd.ok("UpdateGCSafePoint", safe_point=asked)).new_safe_point == expected
        assert (await pd.ok("GetGCSafePoint")).safe_point == expected


async def test_services_hold_the_safe_point_back(pd: Pd) -> None:
    first = await pd.ok("UpdateServiceGCSafePoint", service_id=b"br", TTL=60, safe_point=100)
    assert (first.service_id, first.min_safe_point) == (b"gc_worker", 0)
    first = await pd.ok("UpdateServiceGCSafePoint", service_id=b"gc_worker", TTL=(1 << 63) - 1, safe_point=150)
    assert (first.service_id, first.min_safe_point, first.TTL) == (b"br", 100, 60)
    state = (await pd.ok("GetGCState")).gc_state
    assert (state.txn_safe_point, state.gc_safe_point, state.is_keyspace_level_gc) == (150, 0, False)
    assert [(one.barrier_id, one.barrier_ts) for one in state.gc_barriers] == [("br", 100)]
    assert not (await pd.ok("GetGCState", exclude_gc_barriers=True)).gc_state.gc_barriers
    pd.clock.advance(61)
    assert not (await pd.ok("GetGCState")).gc_state.gc_barriers


async def test_configuration_can_be_read_and_changed(pd: Pd) -> None:
    await pd.bootstrap()
    cluster = (await pd.ok("GetClusterConfig")).cluster
    assert (cluster.id, cluster.max_peer_count) == (pd.scheduler.cluster_id, 3)
    await pd.ok("PutClusterConfig", cluster=metapb_pb2.Cluster(max_peer_count=5))
    assert (await pd.ok("GetClusterConfig")).cluster.max_peer_count == 5
    for wrong in (metapb_pb2.Cluster(id=1, max_peer_count=3), metapb_pb2.Cluster(max_peer_count=0)):
        assert (await pd.refused("PutClusterConfig", cluster=wrong)).code is StatusCode.INVALID_ARGUMENT
    assert not (await pd.ok("IsSnapshotRecovering")).marked


async def test_scatter_admits_that_nothing_was_scattered(pd: Pd) -> None:
    """No leader has reported the region."""
    await pd.bootstrap()
    response = await pd.ok("ScatterRegion", regions_id=[10])
    assert (response.finished_percentage, list(response.failed_regions_id)) == (0, [10])
    assert await pd.error("ScatterRegion", region_id=99) == ERROR.REGION_NOT_FOUND


async def test_stopped_scheduler_is_unavailable_and_its_streams_end(pd: Pd) -> None:
    await pd.bootstrap()
    requests, responses = pd.stream("Tso")
    await pd.scheduler.stop()
    requests.send(pdpb_pb2.TsoRequest(header=pd.header(), count=1))
    with pytest.raises(RpcError) as caught:
        await anext(responses)
    assert caught.value.code is StatusCode.UNAVAILABLE
    with pytest.raises(RpcError) as caught:
        await pd.raw("GetMembers", pdpb_pb2.GetMembersRequest())
    assert caught.value.code is StatusCode.UNAVAILABLE


@pytest.mark.parametrize("method", ["Tso", "QueryRegion", "RegionHeartbeat"])
async def test_a_stream_whose_requests_end_with_the_scheduler_does_not_end_in_good_order(pd: Pd, method: str) -> None:
    await pd.bootstrap()
    requests, responses = pd.stream(method)
    await pd.scheduler.stop()
    requests.end()  # as the gRPC server does when it stops
    with pytest.raises(RpcError) as caught:
        await anext(responses)
    assert caught.value.code is StatusCode.UNAVAILABLE


async def test_service_that_stops_leaves_no_reader_behind(scope: Scope) -> None:
    pd = Pd(scope.child("pd"))
    await pd.bootstrap()
    requests, responses = pd.stream("RegionHeartbeat")
    requests.send(pd.heartbeat(region(10, stores=(1, 2))))
    await anext(responses)
    await pd.scheduler.stop()
    report = await pd.scope.stop()
    assert report.ok, report.render()
    with pytest.raises(RpcError, match="stopping"):
        await anext(responses)
    _, late = pd.stream("RegionHeartbeat")
    with pytest.raises(RpcError, match="stopping"):
        await anext(late)


async def test_a_copy_of_a_store_is_refused_until_the_store_has_stopped(pd: Pd) -> None:
    await pd.bootstrap()
    one, other = (metapb_pb2.Store(id=4, address=f"h{number}:1", start_timestamp=number) for number in (1, 2))
    await pd.ok("PutStore", store=one)
    refused = await pd.call("PutStore", store=other)
    assert refused.header.error.type == ERROR.DUPLICATED_ENTRY
    assert "h1:1" in refused.header.error.message
    assert "h2:1" in refused.header.error.message
    await pd.ok("StoreHeartbeat", stats=pdpb_pb2.StoreStats(store_id=4, start_time=1, is_stopping=True))
    await pd.ok("PutStore", store=other)
    stats = pdpb_pb2.StoreStats(store_id=4, start_time=1)
    assert await pd.error("StoreHeartbeat", stats=stats) == ERROR.DUPLICATED_ENTRY


async def test_older_clients_read_the_safe_point_as_if_from_etcd(pd: Pd) -> None:
    await pd.ok("UpdateGCSafePoint", safe_point=77)
    saved = await pd.service.unary("/etcdserverpb.KV/Range", etcdpb_pb2.RangeRequest(key=SAVED_SAFE_POINT))
    assert isinstance(saved, etcdpb_pb2.RangeResponse)
    assert [(pair.key, pair.value) for pair in saved.kvs] == [(SAVED_SAFE_POINT, b"77")]
    other = await pd.service.unary("/etcdserverpb.KV/Range", etcdpb_pb2.RangeRequest(key=b"/other"))
    assert isinstance(other, etcdpb_pb2.RangeResponse)
    assert not other.kvs
