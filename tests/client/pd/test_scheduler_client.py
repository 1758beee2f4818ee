"""The scheduler's client: following the leader, timestamps, heartbeats; and the same against our own scheduler."""

from __future__ import annotations

import asyncio
import itertools
import re
from collections.abc import AsyncIterator, Callable
from random import Random
from typing import Any

import pytest
from google.protobuf.message import Message
from tests.client.fake_cluster import CLUSTER_ID, QUICK, FakeCluster, FakeConnector
from tests.scheduler.helpers import TickingClock

from pytinykv.client import (
    AlreadyBootstrappedError,
    ClientClosedError,
    ClusterMismatchError,
    InvalidArgumentError,
    NotASchedulerError,
    NotBootstrappedError,
    RegionInfo,
    SchedulerClient,
    SchedulerError,
    SchedulerUnavailableError,
    StoreNotFoundError,
    StoreTombstoneError,
)
from pytinykv.client.pd import leader_finder
from pytinykv.lifecycle import Scope
from pytinykv.model import peer_from_pb, region_from_pb
from pytinykv.scheduler import Scheduler, SchedulerConfig
from pytinykv.server.pd.service import PdService
from pytinykv.storage import MemoryEngine
from pytinykv.wire import RpcError, StatusCode
from pytinykv.wire.pb import metapb_pb2, pdpb_pb2

ADDRESSES = [f"pd-{number}:2379" for number in (1, 2, 3)]


@pytest.fixture
async def cluster() -> FakeCluster:
    return FakeCluster(splits=[b"g", b"p"], schedulers=3)


@pytest.fixture
async def scheduler(connector: FakeConnector, scope: Scope) -> SchedulerClient:
    return SchedulerClient(ADDRESSES[0], connector=connector, rng=Random(1), scope=scope, config=QUICK)


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(5):
        while not condition():
            await asyncio.sleep(0.001)


async def test_the_leader_is_found_through_any_endpoint(cluster: FakeCluster, scheduler: SchedulerClient) -> None:
    cluster.scheduler_leader = ADDRESSES[2]
    assert await scheduler.alloc_id() > 0
    assert scheduler.leader_address == ADDRESSES[2]
    assert scheduler.cluster_id == CLUSTER_ID
    assert scheduler.endpoints == tuple(ADDRESSES)


async def test_a_new_leader_is_followed_and_timestamps_go_on(
    cluster: FakeCluster, connector: FakeConnector, scheduler: SchedulerClient
) -> None:
    before = await scheduler.timestamp()
    for leader in (ADDRESSES[1], ADDRESSES[2], ADDRESSES[0]):
        cluster.down = {scheduler.leader_address}
        connector.break_streams(scheduler.leader_address or "")
        cluster.scheduler_leader = leader
        after = await scheduler.timestamp()
        assert after > before
        assert scheduler.leader_address == leader
        assert await scheduler.get_region(b"a") is not None
        before = after


async def test_a_leader_that_abdicated_but_still_answers_is_left(
    cluster: FakeCluster, scheduler: SchedulerClient
) -> None:
    await scheduler.timestamp()
    await scheduler.alloc_id()
    cluster.scheduler_leader = ADDRESSES[1]
    await scheduler.alloc_id()
    assert scheduler.leader_address == ADDRESSES[1]
    cluster.scheduler_leader = ADDRESSES[2]
    await scheduler.timestamp()
    assert scheduler.leader_address == ADDRESSES[2]


async def test_an_election_is_waited_for(cluster: FakeCluster, scheduler: SchedulerClient) -> None:
    cluster.scheduler_leader = "none"
    asyncio.get_running_loop().call_later(0.02, setattr, cluster, "scheduler_leader", ADDRESSES[1])
    assert await scheduler.is_bootstrapped()


async def test_no_scheduler_at_all_is_an_error_that_says_whom_it_asked(
    cluster: FakeCluster, scheduler: SchedulerClient
) -> None:
    cluster.down.update(ADDRESSES)
    for call in (scheduler.alloc_id(0.03), scheduler.connect(0.03)):
        with pytest.raises(SchedulerUnavailableError, match=r"asked pd-1:2379; last: pd-1:2379: UNAVAILABLE") as raised:
            await call
        assert raised.value.retryable
    with pytest.raises(SchedulerUnavailableError, match="no timestamp in time"):
        await scheduler.timestamp(0.03)
    cluster.down.clear()
    assert await scheduler.timestamp() > 0


async def test_another_cluster_is_refused(cluster: FakeCluster, connector: FakeConnector, scope: Scope) -> None:
    other = SchedulerClient(ADDRESSES[0], connector=connector, rng=Random(1), scope=scope, cluster_id=5)
    with pytest.raises(ClusterMismatchError, match=f"is of cluster {CLUSTER_ID}, not of cluster 5"):
        await other.connect()


async def test_an_address_that_now_leads_to_another_cluster_is_refused(
    cluster: FakeCluster, scheduler: SchedulerClient
) -> None:
    await scheduler.connect()
    cluster.schedulers[0].cluster_id = 9
    with pytest.raises(ClusterMismatchError, match="is of cluster 9, not of cluster 77"):
        await scheduler.get_region(b"k")
    cluster.schedulers[0].script.append(
        RpcError(StatusCode.FAILED_PRECONDITION, "mismatch cluster id, need 9 but got 77")
    )
    with pytest.raises(ClusterMismatchError, match="mismatch cluster id"):
        await scheduler.get_region(b"k")


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        (pdpb_pb2.NOT_BOOTSTRAPPED, NotBootstrappedError),
        (pdpb_pb2.ALREADY_BOOTSTRAPPED, AlreadyBootstrappedError),
        (pdpb_pb2.STORE_TOMBSTONE, StoreTombstoneError),
        (pdpb_pb2.UNKNOWN, SchedulerError),
    ],
)
async def test_errors_in_headers_are_raised(
    cluster: FakeCluster, scheduler: SchedulerClient, kind: Any, expected: type[SchedulerError]
) -> None:
    cluster.schedulers[0].script.append(pdpb_pb2.Error(type=kind, message="so it is"))
    with pytest.raises(expected, match="scheduler refused PutStore: so it is"):
        await scheduler.put_store(metapb_pb2.Store(id=1))


@pytest.mark.parametrize("code", [StatusCode.INVALID_ARGUMENT, StatusCode.UNIMPLEMENTED, StatusCode.ALREADY_EXISTS])
async def test_refusals_are_not_retried(cluster: FakeCluster, scheduler: SchedulerClient, code: StatusCode) -> None:
    cluster.schedulers[0].script.append(RpcError(code, "no"))
    with pytest.raises(SchedulerError, match=f"AllocID at scheduler pd-1:2379: {code.name}: no"):
        await scheduler.alloc_id()
    assert cluster.schedulers[0].seen.count("AllocID") == 1


async def test_transient_statuses_are_retried(cluster: FakeCluster, scheduler: SchedulerClient) -> None:
    cluster.schedulers[0].script.extend(
        RpcError(code, "later") for code in (StatusCode.UNAVAILABLE, StatusCode.DEADLINE_EXCEEDED, StatusCode.UNKNOWN)
    )
    assert await scheduler.alloc_id() > 0


async def test_unknown_stores_and_regions(scheduler: SchedulerClient) -> None:
    with pytest.raises(StoreNotFoundError, match="no store 99"):
        await scheduler.get_store(99)
    assert await scheduler.get_region_by_id(99999) is None
    assert await scheduler.get_prev_region(b"a") is None


async def test_timestamps_asked_for_at_the_same_time_share_requests(
    cluster: FakeCluster, scheduler: SchedulerClient
) -> None:
    results = await asyncio.gather(*(scheduler.timestamps(1 + number % 3) for number in range(60)))
    flat = [timestamp for batch in results for timestamp in batch]
    assert len(flat) == len(set(flat)) == 120
    assert all(batch == sorted(batch) for batch in results)
    assert cluster.schedulers[0].tso_counts == [120]
    with pytest.raises(InvalidArgumentError, match="count of timestamps must be positive"):
        await scheduler.timestamps(0)


async def test_a_scheduler_that_goes_back_in_time_is_not_believed(
    cluster: FakeCluster, scheduler: SchedulerClient
) -> None:
    await scheduler.timestamp()
    cluster.last_timestamp -= 100
    with pytest.raises(SchedulerError, match="went back in time"):
        await scheduler.timestamp()


async def test_closing_ends_waits(cluster: FakeCluster, scheduler: SchedulerClient, scope: Scope) -> None:
    cluster.down.update(ADDRESSES)
    outcomes: list[type[Exception]] = []

    async def call(what: Any) -> None:
        try:
            await what
        except Exception as error:  # noqa: BLE001 - it is what the test asks for
            outcomes.append(type(error))

    tasks = [scope.start("call", call, what) for what in (scheduler.timestamp(), scheduler.alloc_id())]
    await asyncio.sleep(0.005)
    scheduler.close()
    for task in tasks:
        await task.wait(1)
    assert outcomes == [ClientClosedError, ClientClosedError]
    with pytest.raises(ClientClosedError):
        await scheduler.timestamp()


async def test_region_heartbeats_come_back_after_a_change_of_leaders(
    cluster: FakeCluster, connector: FakeConnector, scheduler: SchedulerClient
) -> None:
    responses: list[int] = []
    connected: list[str | None] = []
    stream = scheduler.region_heartbeats(
        lambda response: responses.append(response.region_id), lambda: connected.append(scheduler.leader_address)
    )
    heartbeat = pdpb_pb2.RegionHeartbeatRequest(region=metapb_pb2.Region(id=7))
    assert not stream.send_nowait(heartbeat)  # nothing is up yet
    await until(lambda: stream.up)
    assert stream.send_nowait(heartbeat)
    await until(lambda: responses == [7])
    cluster.scheduler_leader = ADDRESSES[1]
    cluster.down.add(ADDRESSES[0])
    connector.break_streams(ADDRESSES[0])
    await until(lambda: len(connected) == 2)
    assert stream.send_nowait(heartbeat)
    await until(lambda: responses == [7, 7])
    assert connected == ADDRESSES[:2]
    assert cluster.schedulers[1].heartbeats[0].header.cluster_id == CLUSTER_ID
    stream.close()
    stream.close()
    assert not stream.up


async def test_what_stores_ask_for(cluster: FakeCluster, scheduler: SchedulerClient) -> None:
    cluster.schedulers[0].bootstrapped = False
    store = metapb_pb2.Store(id=1, address="store-1:20160")
    assert not await scheduler.is_bootstrapped()
    await scheduler.bootstrap(store, cluster.regions[0].meta())
    with pytest.raises(AlreadyBootstrappedError):
        await scheduler.bootstrap(store, cluster.regions[0].meta())
    await scheduler.put_store(store)
    assert [store.id for store in cluster.schedulers[0].put_stores] == [1]
    await scheduler.store_heartbeat(pdpb_pb2.StoreStats(store_id=1))
    ids = await scheduler.ask_batch_split(cluster.regions[0].meta(), 2)
    assert [len(each.new_peer_ids) for each in ids] == [3, 3]
    await scheduler.report_batch_split([cluster.regions[0].meta()])
    assert await scheduler.alloc_id() != await scheduler.alloc_id()


@pytest.mark.parametrize(
    ("addresses", "says"),
    [
        ("", "no scheduler address given"),
        ([], "no scheduler address given"),
        ("localhost:pd", re.escape("'localhost:pd' is not an address; write host:port, as in 127.0.0.1:2379")),
        ("localhost:99999", "ports end at 65535"),
        ("localhost:0", "port 0 is no port"),
        (":2379", "not an address"),
        ("https://localhost:2379", "has the scheme https://"),
        (b"a:1", "addresses must be a string"),
        ([1], "an address must be a string"),
        (7, "addresses must be a string"),
    ],
)
async def test_bad_addresses_are_refused(connector: FakeConnector, scope: Scope, addresses: Any, says: str) -> None:
    with pytest.raises(InvalidArgumentError, match=says):
        SchedulerClient(addresses, connector=connector, rng=Random(1), scope=scope)


class NotAScheduler(FakeConnector):
    """Something else than a scheduler answers everywhere."""

    async def unary(self, address: str, path: str, request: Message, *, timeout_s: float) -> Message:
        raise RpcError(StatusCode.UNIMPLEMENTED, "Method not found!")


async def test_what_is_no_scheduler_is_refused_at_once(cluster: FakeCluster, scope: Scope) -> None:
    client = SchedulerClient("a:1,b:2", connector=NotAScheduler(cluster, scope), rng=Random(1), scope=scope)
    with pytest.raises(NotASchedulerError, match="a:1, b:2 is a store, or another gRPC server, and no scheduler"):
        await client.connect(timeout_s=float("inf"))


class Leaderless(FakeConnector):
    """A scheduler that knows no leader answers everywhere."""

    async def unary(self, address: str, path: str, request: Message, *, timeout_s: float) -> Message:
        await asyncio.sleep(0)
        return pdpb_pb2.GetMembersResponse(header={"cluster_id": CLUSTER_ID})


async def test_waiting_for_a_scheduler_is_told_once(
    cluster: FakeCluster, scope: Scope, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(leader_finder, "SAY_AFTER_S", 0.0)
    scheduler = SchedulerClient(ADDRESSES[0], connector=Leaderless(cluster, scope), rng=Random(1), scope=scope)
    for _ in range(2):
        with pytest.raises(SchedulerUnavailableError, match="no scheduler was ready in time .*knows no leader"):
            await scheduler.connect(timeout_s=0.05)
    told = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert [line.partition(";")[0] for line in told] == [f"waiting for a scheduler at {ADDRESSES[0]}"]


class Bewildered(FakeConnector):
    """A scheduler leads, and does not know yet what it is asked for."""

    async def unary(self, address: str, path: str, request: Message, *, timeout_s: float) -> Message:
        if path.endswith("GetRegion"):
            await asyncio.sleep(0)
            raise RpcError(StatusCode.UNAVAILABLE, "leader of region 2 is not known yet, try again")
        return await super().unary(address, path, request, timeout_s=timeout_s)


async def test_a_scheduler_that_answered_is_not_said_to_be_missing(cluster: FakeCluster, scope: Scope) -> None:
    scheduler = SchedulerClient(ADDRESSES[0], connector=Bewildered(cluster, scope), rng=Random(1), scope=scope)
    with pytest.raises(
        SchedulerUnavailableError, match="no scheduler was ready in time .*not known yet, .*; try again later"
    ):
        await scheduler.get_region(b"k", timeout_s=0.05)


async def test_addresses_in_many_forms(connector: FakeConnector, scope: Scope) -> None:
    client = SchedulerClient(
        "http://a:1, b:2,http://a:1/,[::1]:3,c,[::1]", connector=connector, rng=Random(1), scope=scope
    )
    assert client.endpoints == ("a:1", "b:2", "[::1]:3", "c:2379", "[::1]:2379")


# ── against our own scheduler ─────────────────────────────────────────────────────────────────────────────────────────


def region(number: int, start: bytes = b"", end: bytes = b"") -> metapb_pb2.Region:
    return metapb_pb2.Region(
        id=number,
        start_key=start,
        end_key=end,
        region_epoch=metapb_pb2.RegionEpoch(conf_ver=1, version=1),
        peers=[metapb_pb2.Peer(id=1000 * number + store, store_id=store) for store in (1, 2, 3)],
    )


def info(region: metapb_pb2.Region) -> RegionInfo:
    return RegionInfo(region_from_pb(region), peer_from_pb(region.peers[0]))


REGIONS = [region(number + 10, bytes([number]) if number else b"", bytes([number + 1])) for number in range(9)] + [
    region(19, bytes([9]), b"")
]


@pytest.fixture
async def real(cluster: FakeCluster, scope: Scope) -> AsyncIterator[Scheduler]:
    """Our own scheduler, in the place of the first fake one, with ten regions on three stores."""
    scheduler = Scheduler.open(MemoryEngine(), TickingClock(), SchedulerConfig(), scope=scope)
    cluster.hosted[ADDRESSES[0]] = PdService(scheduler, scope, client_url=f"http://{ADDRESSES[0]}")
    yield scheduler
    await scheduler.stop()


@pytest.fixture
async def loaded(real: Scheduler, scheduler: SchedulerClient) -> SchedulerClient:
    first = region(10)
    del first.peers[1:]
    await scheduler.bootstrap(metapb_pb2.Store(id=1, address="store-1:20160"), first)
    for number in (2, 3):
        await scheduler.put_store(metapb_pb2.Store(id=number, address=f"store-{number}:20160"))
    stream = scheduler.region_heartbeats(lambda _: None)
    await until(lambda: stream.up)
    for each in REGIONS:
        each.region_epoch.version = 2
        each.region_epoch.conf_ver = 3
        assert stream.send_nowait(pdpb_pb2.RegionHeartbeatRequest(region=each, leader=each.peers[0], term=1))
    while len(await scheduler.scan_regions()) < len(REGIONS):
        await asyncio.sleep(0.001)
    return scheduler


@pytest.mark.tinykv("TestTSO")
async def test_timestamps_of_our_scheduler_ascend(loaded: SchedulerClient) -> None:
    timestamps = [await loaded.timestamp() for _ in range(100)]
    assert all(before < after for before, after in itertools.pairwise(timestamps))


@pytest.mark.tinykv("TestTSORace")
async def test_callers_race_for_timestamps(loaded: SchedulerClient) -> None:
    async def racer() -> list[int]:
        return [await loaded.timestamp() for _ in range(100)]

    results = await asyncio.gather(*(racer() for _ in range(10)))
    assert all(result == sorted(result) for result in results)
    assert len({timestamp for result in results for timestamp in result}) == 1000


@pytest.mark.tinykv("TestGetRegion")
@pytest.mark.tinykv("TestGetRegionByID")
async def test_regions_reported_by_heartbeats_are_found(loaded: SchedulerClient) -> None:
    for each in REGIONS:
        for found in (
            await loaded.get_region(each.start_key),
            await loaded.get_region(each.start_key + b"\x00"),
            await loaded.get_region_by_id(each.id),
        ):
            assert found is not None
            assert found == info(each)


@pytest.mark.tinykv("TestGetPrevRegion")
async def test_the_region_before(loaded: SchedulerClient) -> None:
    assert await loaded.get_prev_region(b"\x00") is None
    for index in range(1, 10):
        found = await loaded.get_prev_region(bytes([index]))
        assert found is not None
        assert found == info(REGIONS[index - 1])


@pytest.mark.tinykv("TestScanRegions")
async def test_scans_of_regions(loaded: SchedulerClient) -> None:
    async def ids(start: bytes, end: bytes, limit: int) -> list[int]:
        return [found.region.id for found in await loaded.scan_regions(start, end, limit=limit)]

    assert await ids(b"", b"", 10) == list(range(10, 20))
    assert await ids(b"\x01", b"", 5) == [11, 12, 13, 14, 15]
    assert await ids(b"\x64", b"", 1) == [19]
    assert await ids(b"\x01", b"\x06", 0) == [11, 12, 13, 14, 15]
    assert await ids(b"\x01", b"\x06", 2) == [11, 12]


@pytest.mark.tinykv("TestGetStore")
async def test_stores_of_all_states(loaded: SchedulerClient, real: Scheduler) -> None:
    store = await loaded.get_store(1)
    assert (store.address, store.state) == ("store-1:20160", metapb_pb2.Up)
    await real.take_offline(1)
    assert (await loaded.get_store(1)).state == metapb_pb2.Offline
    assert [each.id for each in await loaded.get_all_stores()] == [1, 2, 3]
    with pytest.raises(StoreNotFoundError):
        await loaded.get_store(99)


@pytest.mark.tinykv("TestUpdateGCSafePoint")
async def test_the_safe_point_never_goes_back(loaded: SchedulerClient) -> None:
    for safe_point in (0, 1, 2, 3, 233, 23333, 233333333333, (1 << 64) - 1):
        assert await loaded.update_gc_safe_point(safe_point) == safe_point
        assert await loaded.get_gc_safe_point() == safe_point
    assert await loaded.update_gc_safe_point(1) == (1 << 64) - 1
