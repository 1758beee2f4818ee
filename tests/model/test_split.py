"""What a split makes of a region."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.model.strategies import regions

from pytinykv.model import Peer, PeerId, PeerRole, Region, RegionEpoch, RegionId, SplitIds, StoreId, split_region

LEARNER = PeerRole.LEARNER
OLD = Region(
    RegionId(7),
    b"a",
    b"z",
    RegionEpoch(3, 4),
    (Peer(PeerId(71), StoreId(1)), Peer(PeerId(72), StoreId(2), LEARNER)),
)


def ids(region_id: int, peers: int = 2) -> SplitIds:
    return SplitIds(RegionId(region_id), tuple(PeerId(region_id * 10 + index) for index in range(1, peers + 1)))


def test_new_regions_take_the_front_and_the_old_one_keeps_the_end() -> None:
    epoch = RegionEpoch(3, 6)
    assert split_region(OLD, [b"g", b"p"], [ids(20), ids(21)]) == (
        Region(
            RegionId(20), b"a", b"g", epoch, (Peer(PeerId(201), StoreId(1)), Peer(PeerId(202), StoreId(2), LEARNER))
        ),
        Region(
            RegionId(21), b"g", b"p", epoch, (Peer(PeerId(211), StoreId(1)), Peer(PeerId(212), StoreId(2), LEARNER))
        ),
        Region(RegionId(7), b"p", b"z", epoch, OLD.peers),
    )


@pytest.mark.parametrize(
    ("keys", "new_ids"),
    [
        ([], []),
        ([b"g"], []),
        ([b"g"], [ids(20), ids(21)]),
        ([b"g"], [ids(20, peers=1)]),
        ([b"a"], [ids(20)]),
        ([b"z"], [ids(20)]),
        ([b"0"], [ids(20)]),
        ([b"p", b"g"], [ids(20), ids(21)]),
        ([b"g", b"g"], [ids(20), ids(21)]),
    ],
    ids=["no keys", "no ids", "too many ids", "too few peers", "at start", "at end", "outside", "unsorted", "twice"],
)
def test_a_split_that_makes_no_sense_is_refused(keys: list[bytes], new_ids: list[SplitIds]) -> None:
    with pytest.raises(ValueError, match="region"):
        split_region(OLD, keys, new_ids)


@given(regions, st.sets(st.binary(min_size=1, max_size=3), min_size=1, max_size=5))
def test_the_parts_cover_the_old_range_without_gap_or_overlap(region: Region, keys: set[bytes]) -> None:
    """Every key of the old region is in exactly one part, each part is newer than the old one, and members stay."""
    inside = [key for key in sorted(keys) if region.contains(key) and key != region.start_key]
    if not inside:
        return
    parts = split_region(region, inside, [ids(100 + index, len(region.peers)) for index in range(len(inside))])
    assert (parts[0].start_key, parts[-1].end_key) == (region.start_key, region.end_key)
    assert all(left.end_key == right.start_key for left, right in itertools.pairwise(parts))
    assert not any(one.overlaps(other) for one, other in itertools.combinations(parts, 2))
    for part in parts:
        assert region.epoch.is_behind(part.epoch)
        assert part.epoch.conf_ver == region.epoch.conf_ver
        assert [(peer.store_id, peer.role) for peer in part.peers] == [(p.store_id, p.role) for p in region.peers]
    assert parts[-1].id == region.id
    assert parts[-1].peers == region.peers
