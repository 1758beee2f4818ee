from __future__ import annotations

from itertools import pairwise

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.scheduler.helpers import peer, region

from pytinykv.scheduler import StaleRegion
from pytinykv.scheduler.records import ReportedRegion
from pytinykv.scheduler.regions import RegionMap


def found_ids(regions: RegionMap, key: bytes) -> int | None:
    found = regions.find(key)
    return None if found is None else found.id


@pytest.mark.tinykv("TestRegionItem")
def test_range_holds_its_start_and_not_its_end() -> None:
    bounded = region(1, b"b", b"d").meta
    assert [bounded.contains(key) for key in (b"a", b"b", b"c", b"d")] == [False, True, True, False]
    unbounded = region(1, b"b").meta
    assert [unbounded.contains(key) for key in (b"a", b"b", b"zzz")] == [False, True, True]


@pytest.mark.tinykv("TestRegionInfo")
def test_region_tells_its_peers_by_id_store_and_role() -> None:
    info = region(1, pending=(2,), down=(3,))
    assert info.meta.peer(peer(1, 2).id) == peer(1, 2)
    assert info.meta.peer(99) is None
    assert info.meta.peer_on(3) == peer(1, 3)
    assert info.meta.peer_on(4) is None
    assert info.meta.store_ids == (1, 2, 3)
    assert info.followers == (peer(1, 2), peer(1, 3))
    assert [info.is_pending(peer(1, store).id) for store in (1, 2, 3)] == [False, True, False]
    assert [info.is_down(peer(1, store).id) for store in (1, 2, 3)] == [False, False, True]


@pytest.mark.tinykv("TestRegionMap")
def test_regions_by_id_can_be_put_replaced_and_removed() -> None:
    regions = RegionMap()
    assert len(regions) == 0
    assert regions.get(1) is None
    for index in (1, 2, 3, 3):
        regions.put(region(index, b"%d" % index, b"%d" % (index + 1), size=index))
    assert regions.remove(4) is None
    assert [one.id for one in regions] == [1, 2, 3]
    assert regions.tally(1).region_size == 6
    regions.remove(3)
    regions.remove(1)
    assert [one.id for one in regions] == [2]
    assert regions.tally(1).region_size == 2
    assert regions.tally(2).leader_size == 0


@pytest.mark.tinykv("TestRegionTree")
def test_lookup_by_key_with_gaps_neighbours_and_overlaps() -> None:
    regions = RegionMap()
    assert regions.find(b"a") is None
    a, b, c, d = (
        region(1, b"a", b"b"),
        region(2, b"b", b"c"),
        region(3, b"c", b"d"),
        region(4, b"d"),
    )
    regions.put(a)
    regions.put(c)
    assert [found_ids(regions, key) for key in (b"", b"a", b"b", b"c", b"d")] == [None, 1, None, 3, None]
    assert regions.neighbours(a.meta) == (None, None)
    assert regions.neighbours(c.meta) == (None, None)

    regions.put(b)
    assert regions.neighbours(c.meta) == (b, None)
    assert regions.neighbours(b.meta) == (a, c)
    regions.remove(c.id)
    regions.put(d)
    assert [found_ids(regions, key) for key in (b"", b"a", b"b", b"c", b"d")] == [None, 1, 2, None, 4]
    assert regions.neighbours(a.meta) == (None, b)
    assert regions.neighbours(b.meta) == (a, None)
    assert regions.neighbours(c.meta) == (b, d)
    assert regions.neighbours(d.meta) == (None, None)

    wide = region(5, b"", b"d")
    assert regions.put(wide) == [a, b]
    assert [found_ids(regions, key) for key in (b"", b"a", b"c", b"d")] == [5, 5, 5, 4]
    late = region(6, b"e")
    assert regions.put(late) == [d]
    assert [found_ids(regions, key) for key in (b"c", b"d", b"e", b"zz")] == [5, None, 6, 6]


def split(regions: list[ReportedRegion], next_id: int) -> list[ReportedRegion]:
    """Halve every region at the middle of its first byte."""
    halves: list[ReportedRegion] = []
    for info in regions:
        low, high = (info.meta.start_key or b"\x00")[0], info.meta.end_key[0] if info.meta.end_key else 256
        middle = bytes([(low + high) // 2])
        version = info.meta.epoch.version + 1
        halves.append(region(info.id, info.meta.start_key, middle, version=version))
        halves.append(region(next_id, middle, info.meta.end_key, version=version))
        next_id += 1
    return halves


def merge(regions: list[ReportedRegion]) -> list[ReportedRegion]:
    """Join every pair of neighbours under the id of the left one."""
    return [
        region(
            left.id,
            left.meta.start_key,
            right.meta.end_key,
            version=max(left.meta.epoch.version, right.meta.epoch.version) + 1,
        )
        for left, right in zip(regions[::2], regions[1::2], strict=True)
    ]


@pytest.mark.tinykv("TestRegionTreeSplitAndMerge")
@pytest.mark.tinykv("TestRegionSplitAndMerge3C")
def test_map_follows_repeated_splits_and_merges() -> None:
    current, tree, next_id = [region(1)], RegionMap(), 2
    for action in "sssssss" + "mmmmmmm" + "ssm" * 7:
        if action == "s":
            current, next_id = split(current, next_id), next_id + len(current)
        else:
            current = merge(current)
        for info in current:
            tree.check_not_stale(info)
            tree.put(info)
            assert tree.find(info.meta.start_key) is info
        assert list(tree) == current
        assert tree.is_complete()


def test_map_is_complete_only_without_gaps() -> None:
    regions = RegionMap()
    assert not regions.is_complete()
    regions.put(region(1, b"", b"m"))
    assert not regions.is_complete()
    regions.put(region(2, b"n"))
    assert not regions.is_complete()
    regions.put(region(2, b"m", version=2))
    assert regions.is_complete()


def test_scan_is_in_key_order_and_limited() -> None:
    regions = RegionMap()
    for index, start in enumerate(b"aceg"):
        regions.put(region(index + 1, bytes([start]), bytes([start + 2])))
    assert [one.id for one in regions.scan(b"")] == [1, 2, 3, 4]
    assert [one.id for one in regions.scan(b"d", b"f")] == [2, 3]
    assert [one.id for one in regions.scan(b"c", b"e")] == [2]
    assert [one.id for one in regions.scan(b"b", limit=2)] == [1, 2]
    assert regions.scan(b"x") == []


def test_news_older_than_known_is_stale_also_across_ids() -> None:
    regions = RegionMap()
    regions.put(region(1, b"", b"m", version=5, conf_ver=5, term=7))
    with pytest.raises(StaleRegion, match="region 1"):
        regions.check_not_stale(region(1, b"", b"m", version=4, conf_ver=9))
    with pytest.raises(StaleRegion, match="region 1"):
        regions.check_not_stale(region(1, b"", b"m", version=5, conf_ver=4))
    with pytest.raises(StaleRegion, match="term 6"):
        regions.check_not_stale(region(1, b"", b"m", version=5, conf_ver=5, term=6))
    with pytest.raises(StaleRegion, match="overlaps region 1"):
        regions.check_not_stale(region(2, b"a", b"z", version=4))
    regions.check_not_stale(region(2, b"m", version=1))
    regions.check_not_stale(region(1, b"", b"m", version=5, conf_ver=5, term=0))


@given(
    st.lists(
        st.tuples(
            st.integers(1, 6),
            st.binary(max_size=1),
            st.binary(max_size=1),
            st.lists(st.integers(1, 4), min_size=1, unique=True),
            st.integers(0, 4),
            st.booleans(),
        ),
        max_size=30,
    )
)
def test_map_invariants_hold_after_any_sequence(
    puts: list[tuple[int, bytes, bytes, list[int], int, bool]],
) -> None:
    """Regions never overlap, and the tallies equal a recount."""
    regions = RegionMap()
    for region_id, start, end, stores, leader, keep in puts:
        if end and start >= end:
            continue
        if keep:
            regions.put(
                region(region_id, start, end, stores=stores, leader=leader, pending=stores[1:2], size=region_id)
            )
        else:
            regions.remove(region_id)
        listed = list(regions)
        for left, right in pairwise(listed):
            assert left.meta.end_key
            assert left.meta.end_key <= right.meta.start_key
        for store_id in range(1, 5):
            tally = regions.tally(store_id)
            here = [one for one in listed if one.meta.peer_on(store_id)]
            leads = [one for one in listed if one.leader and one.leader.store_id == store_id]
            behind = [one for one in here if any(p.store_id == store_id for p in one.pending_peers)]
            assert sorted(tally.regions) == sorted(one.id for one in here)
            assert sorted(tally.leaders) == sorted(one.id for one in leads)
            assert sorted(tally.pending) == sorted(one.id for one in behind)
            assert tally.region_size == sum(one.approximate_size for one in here)
            assert tally.leader_size == sum(one.approximate_size for one in leads)


def test_records_are_immutable() -> None:
    with pytest.raises(AttributeError):
        region(1).meta.peers = ()
    assert msgspec.structs.replace(region(1), term=3) != region(1)
