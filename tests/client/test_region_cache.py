"""The region cache: never two regions for one key, never an older one over a newer one."""

from __future__ import annotations

import itertools

from hypothesis import given
from hypothesis import strategies as st

from pytinykv.client.key_space import ABOVE_ALL_KEYS
from pytinykv.client.region_cache import RegionCache
from pytinykv.client.route import Route
from pytinykv.model import Peer, PeerId, Region, RegionEpoch, RegionId, StoreId

BOUND = st.binary(max_size=2)


def route(number: int, start: bytes, end: bytes, version: int = 1, conf_ver: int = 1, leader: int = 1) -> Route:
    peers = tuple(Peer(PeerId(number * 10 + store), StoreId(store)) for store in (1, 2))
    return Route(Region(RegionId(number), start, end, RegionEpoch(conf_ver, version), peers), peers[leader - 1])


def cache_of(*routes: Route) -> RegionCache:
    cache = RegionCache()
    cache.insert_all(routes)
    return cache


def test_lookup_both_ways() -> None:
    left, right = route(1, b"", b"g"), route(3, b"p", b"")
    cache = cache_of(right, left)
    assert cache.locate(b"a") is left
    assert cache.locate(b"g") is None
    assert cache.locate(b"p") is right
    assert cache.locate_below(b"g") is left
    assert cache.locate_below(b"g\x00") is None
    assert cache.locate_below(b"p") is None
    assert cache.locate_below(b"p\x00") is right
    assert cache.locate_below(ABOVE_ALL_KEYS) is right
    assert RegionCache().locate(b"a") is None
    assert RegionCache().locate_below(ABOVE_ALL_KEYS) is None


def test_a_split_replaces_its_parent_piece_by_piece() -> None:
    cache = cache_of(route(1, b"a", b"z"))
    left = route(1, b"a", b"m", version=2)
    assert cache.insert(left)
    assert cache.locate(b"b") is left
    assert cache.locate(b"n") is None


def test_a_merge_replaces_its_parts() -> None:
    cache = cache_of(route(1, b"a", b"m", version=2), route(2, b"m", b"z", version=2))
    merged = route(1, b"a", b"z", version=3)
    assert cache.insert(merged)
    assert list(cache) == [merged]


def test_what_is_older_does_not_come_back() -> None:
    left, right = route(1, b"a", b"m", version=2), route(2, b"m", b"z", version=2)
    cache = cache_of(left, right)
    assert not cache.insert(route(1, b"a", b"z", version=1))
    assert not cache.insert(route(1, b"a", b"m", version=2, conf_ver=0))
    assert list(cache) == [left, right]


def test_removing_and_replacing_are_about_the_very_object() -> None:
    old = route(1, b"a", b"m")
    cache = cache_of(old)
    new = old.led_by(old.region.peers[1])
    assert cache.replace(old, new)
    assert new.store_id == new.context.peer.store_id == 2
    assert not cache.replace(old, old.led_by(old.region.peers[0]))
    assert not cache.remove(old)
    assert cache.locate(b"b") is new
    assert cache.remove(new)
    assert len(cache) == 0


@given(
    st.lists(
        st.tuples(st.integers(1, 4), BOUND, BOUND, st.integers(1, 5)).filter(lambda r: not r[2] or r[1] < r[2]),
        max_size=12,
    ),
    st.lists(BOUND, max_size=6),
)
def test_regions_never_overlap_and_lookups_agree_with_a_search(
    inserts: list[tuple[int, bytes, bytes, int]], keys: list[bytes]
) -> None:
    """Whatever is inserted in whatever order, regions stay sorted and apart, and `locate` finds the one with the key."""
    cache = RegionCache()
    for number, start, end, version in inserts:
        cache.insert(route(number, start, end, version))
    regions = list(cache)
    for left, right in itertools.pairwise(regions):
        assert left.end
        assert left.end <= right.start
    for key in keys:
        assert cache.locate(key) is next((each for each in regions if each.contains(key)), None)
        assert cache.locate_below(key) is next((each for each in regions if each.contains_below(key)), None)
    assert cache.locate_below(ABOVE_ALL_KEYS) is next(
        (each for each in regions if each.contains_below(ABOVE_ALL_KEYS)), None
    )
