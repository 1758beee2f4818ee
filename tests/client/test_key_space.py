"""Key spaces: a command of either finds its region, and asks it for keys that lie in it."""

from __future__ import annotations

import itertools

from hypothesis import given
from hypothesis import strategies as st

from pytinykv.client.key_space import ABOVE_ALL_KEYS, MEMCOMPARABLE, PLAIN, KeyRange, KeySpace, clip
from pytinykv.client.raw_commands import RawGet, RawScan
from pytinykv.client.region_cache import RegionCache
from pytinykv.client.route import Route
from pytinykv.model import Peer, PeerId, Region, RegionId, StoreId
from pytinykv.wire.keys import prefix_successor
from pytinykv.wire.limits import KEY_BYTES_MAX

LEADER = Peer(PeerId(1), StoreId(1))
KEY = st.binary(min_size=1, max_size=12)
SPACES = st.sampled_from([PLAIN, MEMCOMPARABLE])


class TxnGet(RawGet):
    """Stands for a command of a transaction."""

    __slots__ = ()
    space = MEMCOMPARABLE


class TxnScan(RawScan):
    """Stands for a command of a transaction."""

    __slots__ = ()
    space = MEMCOMPARABLE


def route(space: KeySpace, start: bytes, end: bytes) -> Route:
    region = Region(RegionId(1), space.to_bound(start) if start else b"", space.to_bound(end) if end else b"")
    return Route(region, LEADER)


@given(SPACES, KEY, KEY)
def test_bounds_sort_as_their_keys_do_and_lead_back_to_them(space: KeySpace, one: bytes, other: bytes) -> None:
    assert (space.to_bound(one) < space.to_bound(other)) == (one < other)
    assert space.from_bound(space.to_bound(one)) == one
    assert space.from_bound(b"") == b""
    assert space.to_bound(one) < space.to_bound(b"\xff" * KEY_BYTES_MAX + b"\xff") == space.to_bound(ABOVE_ALL_KEYS)


@given(SPACES, st.lists(KEY, min_size=1, max_size=4, unique=True).map(sorted), KEY, st.booleans())
def test_commands_find_the_region_of_their_key(space: KeySpace, splits: list[bytes], key: bytes, reverse: bool) -> None:
    """The region found holds the key (or the greatest key below the end of a reverse scan), and no other does."""
    cache = RegionCache()
    bounds = [b"", *splits, b""]
    regions = [route(space, start, end) for start, end in itertools.pairwise(bounds)]
    cache.insert_all(regions)
    get, scan = (RawGet, RawScan) if space is PLAIN else (TxnGet, TxnScan)
    index = sum(split <= key for split in splits)
    assert get(key, "").locate(cache) is cache.find(get(key, "").destination()) is regions[index]
    command = scan(KeyRange(b"", key), limit=1, reverse=reverse, key_only=False, cf="")
    index = sum(split < key for split in splits) if reverse else 0
    assert command.locate(cache) is regions[index]
    assert scan(KeyRange(b"", b""), limit=1, reverse=True, key_only=False, cf="").locate(cache) is regions[-1]


@given(SPACES, st.tuples(KEY, KEY), st.tuples(KEY, KEY), KEY)
def test_a_clipped_range_holds_the_keys_of_both(
    space: KeySpace, range_: tuple[bytes, bytes], bounds: tuple[bytes, bytes], key: bytes
) -> None:
    (start, end), (low, high) = sorted(range_), sorted(bounds)
    clipped = clip(KeyRange(start, end), route(space, low, high), space)
    inside = start <= key < end and low <= key < high
    assert (clipped.start <= key < clipped.end) == inside


def test_open_ends_stay_open() -> None:
    everything = KeyRange(b"", b"")
    for space in (PLAIN, MEMCOMPARABLE):
        assert clip(everything, route(space, b"", b""), space) == everything
        assert clip(everything, route(space, b"a", b""), space) == KeyRange(b"a", b"")
        assert clip(KeyRange(b"", b"c"), route(space, b"a", b""), space) == KeyRange(b"a", b"c")
        assert clip(everything, route(space, b"", b"b"), space) == KeyRange(b"", b"b")


def test_what_lies_behind_the_covered_part() -> None:
    range_ = KeyRange(b"a", b"m")
    assert range_.behind(KeyRange(b"a", b"c")) == KeyRange(b"c", b"m")
    assert range_.behind(KeyRange(b"a", b"m")) is None
    assert KeyRange(b"a", b"").behind(KeyRange(b"a", b"")) is None
    assert KeyRange(b"a", b"").behind(KeyRange(b"a", b"c")) == KeyRange(b"c", prefix_successor(b"\xff"))
