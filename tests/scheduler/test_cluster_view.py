"""Region heartbeats and lookups on the cluster as observed (TinyKV's project 3C, processRegionHeartbeat)."""

from __future__ import annotations

import random

import msgspec
import pytest
from tests.helpers import ManualClock
from tests.scheduler.helpers import Decisions, peer, region, store_meta

from pytinykv.model import RegionEpoch, StoreId
from pytinykv.scheduler import InvalidInput, LookupIncomplete, SchedulerConfig, StaleRegion, StoreHealth
from pytinykv.scheduler.cluster_view import ClusterView
from pytinykv.scheduler.errors import StoreNotFound, StoreTombstone
from pytinykv.scheduler.records import ReportedRegion, StoreState, StoreStats
from pytinykv.scheduler.stores import StoreInfo

STORES = (1, 2, 3)


def changed(info: ReportedRegion, *, conf_ver: int = 0, version: int = 0, **fields: object) -> ReportedRegion:
    """The region with its epoch raised and other fields replaced."""
    epoch = RegionEpoch(info.meta.epoch.conf_ver + conf_ver, info.meta.epoch.version + version)
    meta = msgspec.structs.replace(info.meta, epoch=epoch, peers=fields.pop("peers", info.meta.peers))
    return msgspec.structs.replace(info, meta=meta, **fields)


class Reported:
    """Three stores and three regions side by side, every one reported once."""

    def __init__(self) -> None:
        self.cluster = ClusterView(SchedulerConfig())
        self.cluster.sync_stores({StoreId(store): store_meta(store) for store in STORES}, now=0)
        self.infos = [
            region(index + 1, bytes([index]), bytes([index + 1]), stores=[(index + hop) % 3 + 1 for hop in range(3)])
            for index in range(3)
        ]
        for index, info in enumerate(self.infos):
            self.cluster.on_region(info)
            self.check(self.infos[: index + 1])

    def check(self, expected: list[ReportedRegion] | None = None) -> None:
        """The map holds exactly what was reported, and the tallies agree."""
        expected = self.infos if expected is None else expected
        regions = self.cluster.regions
        assert list(regions) == expected
        for info in expected:
            assert regions.get(info.id) == info
            assert regions.find(info.meta.start_key) == info
        for store in STORES:
            tally = regions.tally(store)
            assert len(tally.regions) == sum(info.meta.peer_on(store) is not None for info in expected)
            assert len(tally.leaders) == sum(
                info.leader is not None and info.leader.store_id == store for info in expected
            )
            assert tally.region_size == sum(info.approximate_size for info in expected if info.meta.peer_on(store))

    def report(self, index: int, info: ReportedRegion) -> None:
        self.infos[index] = info
        self.cluster.on_region(info)
        self.check()


@pytest.fixture
def reported() -> Reported:
    return Reported()


@pytest.mark.tinykv("TestRegionNotUpdate3C")
def test_same_report_again_changes_nothing(reported: Reported) -> None:
    for info in reported.infos:
        change = reported.cluster.on_region(info)
        assert (change.put, change.removed) == (None, ())
        reported.check()


@pytest.mark.tinykv("TestRegionUpdateVersion3C")
def test_newer_version_is_taken(reported: Reported) -> None:
    for index, info in enumerate(list(reported.infos)):
        reported.report(index, changed(info, version=1))


@pytest.mark.tinykv("TestRegionWithStaleVersion3C")
@pytest.mark.tinykv("TestCheckStaleRegion")
def test_older_version_is_stale_even_with_newer_members(reported: Reported) -> None:
    for index, info in enumerate(list(reported.infos)):
        reported.report(index, changed(info, version=1))
        with pytest.raises(StaleRegion):
            reported.cluster.on_region(changed(info, conf_ver=1))
        reported.check()


@pytest.mark.tinykv("TestRegionUpdateVersionAndConfver3C")
def test_newer_version_and_members_are_taken(reported: Reported) -> None:
    for index, info in enumerate(list(reported.infos)):
        reported.report(index, changed(info, version=1, conf_ver=1))


@pytest.mark.tinykv("TestRegionWithStaleConfVer3C")
def test_older_members_are_stale(reported: Reported) -> None:
    for index, info in enumerate(list(reported.infos)):
        reported.report(index, changed(info, conf_ver=1))
        with pytest.raises(StaleRegion):
            reported.cluster.on_region(info)
        reported.check()


@pytest.mark.tinykv("TestRegionAddPendingPeer3C")
@pytest.mark.tinykv("TestRegionRemovePendingPeer3C")
def test_pending_peers_come_and_go(reported: Reported) -> None:
    rng, pending = random.Random(1), dict.fromkeys(STORES, 0)
    for index, info in enumerate(list(reported.infos)):
        behind = rng.choice(info.meta.peers)
        pending[behind.store_id] += 1
        reported.report(index, changed(info, pending_peers=(behind,)))
    assert {store: len(reported.cluster.regions.tally(store).pending) for store in STORES} == pending
    for index, info in enumerate(list(reported.infos)):
        reported.report(index, changed(info, pending_peers=()))
    assert all(not reported.cluster.regions.tally(store).pending for store in STORES)


@pytest.mark.tinykv("TestRegionRemovePeers3C")
@pytest.mark.tinykv("TestRegionAddBackPeers3C")
def test_peers_go_and_come_back(reported: Reported) -> None:
    for index, info in enumerate(list(reported.infos)):
        reported.report(index, changed(info, peers=info.meta.peers[:1]))
        reported.report(index, info)


@pytest.mark.tinykv("TestRegionChangeLeader3C")
def test_leader_moves(reported: Reported) -> None:
    for index, info in enumerate(list(reported.infos)):
        reported.report(index, changed(info, leader=info.meta.peers[1]))


@pytest.mark.tinykv("TestRegionChangeApproximateSize3C")
def test_size_changes(reported: Reported) -> None:
    for index, info in enumerate(list(reported.infos)):
        reported.report(index, changed(info, approximate_size=144))


@pytest.mark.tinykv("TestRegionCounts3C")
@pytest.mark.tinykv("TestRegionGetStoresInfo3C")
def test_each_store_knows_what_it_carries(reported: Reported) -> None:
    for store in STORES:
        tally = reported.cluster.regions.tally(store)
        assert (len(tally.regions), len(tally.leaders)) == (3, 1)
        assert (tally.region_size, tally.leader_size) == (30, 10)


@pytest.mark.tinykv("TestRegionGetRegions3C")
@pytest.mark.tinykv("TestRegionGetStores3C")
def test_regions_name_their_stores_and_followers(reported: Reported) -> None:
    for info in reported.cluster.regions:
        assert info == reported.infos[info.id - 1]
        assert sorted(info.meta.store_ids) == [1, 2, 3]
        assert len(info.followers) == 2
        assert info.leader not in info.followers


@pytest.mark.tinykv("TestHeartbeatSplit3C")
def test_halves_of_a_split_may_be_reported_in_any_order() -> None:
    cluster = ClusterView(SchedulerConfig())
    cluster.on_region(region(1))
    assert cluster.lookup(b"foo").id == 1
    # 1 becomes 2: [, m) and 1: [m, ). The new half is reported first.
    cluster.on_region(region(2, b"", b"m"))
    assert cluster.lookup(b"a").id == 2
    with pytest.raises(LookupIncomplete, match="no region is known for key"):
        cluster.lookup(b"z")
    cluster.on_region(region(1, b"m", version=2))
    assert cluster.lookup(b"z").id == 1
    # 1 becomes 3: [m, q) and 1: [q, ). The old half is reported first.
    cluster.on_region(region(1, b"q", version=3))
    assert cluster.lookup(b"z").id == 1
    assert cluster.lookup(b"a").id == 2
    with pytest.raises(LookupIncomplete):
        cluster.lookup(b"n")
    cluster.on_region(region(3, b"m", b"q"))
    assert cluster.lookup(b"n").id == 3


@pytest.mark.parametrize(
    "nonsense",
    [
        msgspec.structs.replace(region(1), meta=msgspec.structs.replace(region(1).meta, peers=())),
        region(1, b"b", b"b"),
        region(1, b"b", b"a"),
        msgspec.structs.replace(region(1), leader=peer(2, 1)),
        msgspec.structs.replace(region(1), meta=msgspec.structs.replace(region(1).meta, peers=(peer(1, 1),) * 2)),
    ],
)
def test_report_that_makes_no_sense_is_refused(reported: Reported, nonsense: ReportedRegion) -> None:
    with pytest.raises(InvalidInput):
        reported.cluster.on_region(nonsense)
    reported.check()


def test_region_without_known_leader_is_not_handed_out() -> None:
    cluster = ClusterView(SchedulerConfig())
    cluster.load_regions([region(1, b"", b"m").meta, region(2, b"m").meta])
    with pytest.raises(LookupIncomplete, match="leader of region 1 is not known"):
        cluster.lookup(b"a")
    with pytest.raises(LookupIncomplete, match="leader of region 1"):
        cluster.lookup_range(b"", b"", 0)
    cluster.on_region(region(1, b"", b"m"))
    assert cluster.lookup(b"a").leader == peer(1, 1)
    found = cluster.lookup_range(b"", b"", 0)
    assert [one.leader for one in found] == [peer(1, 1), None]


def test_previous_region_is_the_one_before_that_of_the_key() -> None:
    cluster = ClusterView(SchedulerConfig())
    for info in (region(1, b"", b"g"), region(2, b"g", b"p"), region(3, b"p")):
        cluster.on_region(info)
    assert cluster.lookup_previous(b"a") is None
    assert [cluster.lookup_previous(key).id for key in (b"g", b"k", b"p", b"z")] == [1, 1, 2, 2]
    cluster.regions.remove(1)
    for key in (b"a", b"g"):
        with pytest.raises(LookupIncomplete):
            cluster.lookup_previous(key)


def test_range_with_a_gap_is_not_answered_in_part() -> None:
    cluster = ClusterView(SchedulerConfig())
    for info in (region(1, b"", b"c"), region(2, b"c", b"f"), region(4, b"m")):
        cluster.on_region(info)
    assert [one.id for one in cluster.lookup_range(b"a", b"e", 0)] == [1, 2]
    assert [one.id for one in cluster.lookup_range(b"a", b"", 2)] == [1, 2]
    assert [one.id for one in cluster.lookup_range(b"n", b"", 9)] == [4]
    assert cluster.lookup_range(b"e", b"e", 9) == []
    for start, end, limit in [(b"", b"", 0), (b"a", b"g", 0), (b"g", b"h", 0), (b"a", b"", 3), (b"f", b"z", 1)]:
        with pytest.raises(LookupIncomplete):
            cluster.lookup_range(start, end, limit)


@pytest.mark.tinykv("TestValidRequestRegion")
def test_request_about_a_region_must_be_up_to_date() -> None:
    cluster = ClusterView(SchedulerConfig())
    cluster.on_region(region(1, b"", b"a", version=2, conf_ver=2))
    with pytest.raises(LookupIncomplete):
        cluster.check_epoch(region(2, b"a", b"b").meta)
    for version, conf_ver in [(2, 1), (1, 2)]:
        with pytest.raises(StaleRegion):
            cluster.check_epoch(region(1, b"", b"a", version=version, conf_ver=conf_ver).meta)
    assert cluster.check_epoch(region(1, b"", b"a", version=2, conf_ver=2).meta).id == 1


@pytest.mark.tinykv("TestStores")
@pytest.mark.tinykv("TestLoadStores")
def test_stores_are_listed_by_id() -> None:
    decisions = Decisions()
    for store_id in (3, 1, 2):
        assert decisions.cluster.store(store_id) is None
        decisions.add_store(store_id)
        assert decisions.cluster.store(store_id) is not None
    assert [store.meta for store in decisions.cluster.stores()] == [store_meta(1), store_meta(2), store_meta(3)]


@pytest.mark.tinykv("TestStoreHeartbeat")
def test_store_heartbeat_needs_a_registered_store() -> None:
    decisions = Decisions()
    stats = StoreStats(StoreId(1), capacity=100, available=50, region_count=1)
    with pytest.raises(StoreNotFound):
        decisions.cluster.on_store_heartbeat(stats, now=0, wall_ms=5)
    decisions.add_store(1)
    decisions.cluster.on_store_heartbeat(stats, now=7, wall_ms=5)
    store = decisions.cluster.store(1)
    assert store is not None
    assert (store.stats, store.heard_at, store.last_heartbeat_ms) == (stats, 7, 5)
    decisions.set_state(1, StoreState.TOMBSTONE)
    with pytest.raises(StoreTombstone):
        decisions.cluster.on_store_heartbeat(stats, now=8, wall_ms=6)


def test_store_goes_from_up_to_disconnected_to_down_by_its_silence() -> None:
    config = SchedulerConfig(store_disconnect_time_s=20, max_store_down_time_s=60)
    clock = ManualClock()
    store = StoreInfo(store_meta(1), heard_at=clock.now)
    seen = []
    for _ in range(7):
        seen.append((store.health(clock.now, config), store.is_lost(clock.now, config)))
        clock.wall -= 3_600_000  # the wall clock has no say in this
        clock.advance(10)
    up, disconnected, down = StoreHealth.UP, StoreHealth.DISCONNECTED, StoreHealth.DOWN
    assert seen == [(up, False)] * 2 + [(disconnected, False)] * 4 + [(down, True)]
    for state, health in [(StoreState.OFFLINE, StoreHealth.OFFLINE), (StoreState.TOMBSTONE, StoreHealth.TOMBSTONE)]:
        store.meta = msgspec.structs.replace(store.meta, state=state)
        assert store.health(clock.now, config) is health


def test_store_that_is_lost_soon_is_not_counted_on_for_longer() -> None:
    config = SchedulerConfig(store_disconnect_time_s=20, max_store_down_time_s=5)
    store = StoreInfo(store_meta(1), heard_at=0)
    assert store.is_responsive(4.9, config)
    assert not store.is_responsive(5, config)
    assert store.health(5, config) is StoreHealth.DOWN


def test_decision_about_a_silent_store_does_not_make_it_look_alive() -> None:
    decisions = Decisions(stores=(1,))
    decisions.clock.advance(10_000)
    decisions.set_state(1, StoreState.OFFLINE)
    store = decisions.cluster.store(1)
    assert store is not None
    assert store.is_lost(decisions.now, decisions.cluster.config)
