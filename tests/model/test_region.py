"""Regions, peers and epochs: which keys a region holds, which peers it has, when an epoch is old."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytinykv.model import Peer, PeerId, PeerRole, Region, RegionEpoch, RegionId, StoreId

PEERS = tuple(Peer(PeerId(10 + role), StoreId(1 + role), role) for role in reversed(PeerRole))
REGION = Region(RegionId(2), b"a", b"b", RegionEpoch(3, 4), PEERS)


@pytest.mark.tinykv("TestCheckKeyInRegion")
@pytest.mark.parametrize(
    ("key", "start", "end", "inside"),
    [
        (b"", b"", b"", True),
        (b"", b"", b"a", True),
        (b"a", b"", b"a", False),
        (b"a", b"a", b"", True),
        (b"a", b"a", b"b", True),
        (b"b", b"a", b"b", False),
        (b"0", b"a", b"b", False),
    ],
)
def test_a_region_has_its_start_and_not_its_end(key: bytes, start: bytes, end: bytes, inside: bool) -> None:
    assert Region(RegionId(1), start, end).contains(key) is inside


@given(*[st.binary(max_size=2)] * 4)
def test_regions_overlap_when_they_share_a_key(a: bytes, b: bytes, c: bytes, d: bytes) -> None:
    one, two = Region(RegionId(1), a, b), Region(RegionId(2), c, d)
    lowest = max(a, c)
    if all(not end or start < end for start, end in ((a, b), (c, d))):
        assert one.overlaps(two) == (one.contains(lowest) and two.contains(lowest))
        assert one.overlaps(two) == two.overlaps(one)


@pytest.mark.tinykv("TestEpochStale")
@pytest.mark.parametrize(
    ("one", "other", "behind"),
    [
        (RegionEpoch(1, 1), RegionEpoch(1, 1), False),
        (RegionEpoch(1, 1), RegionEpoch(2, 1), True),
        (RegionEpoch(1, 1), RegionEpoch(1, 2), True),
        (RegionEpoch(2, 1), RegionEpoch(1, 2), True),
        (RegionEpoch(2, 2), RegionEpoch(1, 2), False),
    ],
)
def test_an_epoch_is_behind_when_either_part_is(one: RegionEpoch, other: RegionEpoch, behind: bool) -> None:
    assert one.is_behind(other) is behind


def test_peers_are_found_by_id_and_by_store() -> None:
    for peer in PEERS:
        assert REGION.peer(peer.id) is peer
        assert REGION.peer_on(peer.store_id) is peer
    assert REGION.peer(99) is None
    assert REGION.peer_on(99) is None
    assert REGION.store_ids == (4, 3, 2, 1)


def test_all_but_learners_count_for_majorities() -> None:
    assert [peer.role for peer in REGION.learners] == [PeerRole.LEARNER]
    assert {peer.role for peer in REGION.voters} == set(PeerRole) - {PeerRole.LEARNER}
