"""Regions and peers to and from the messages of the wire."""

from __future__ import annotations

import pytest
from hypothesis import given
from tests.model.strategies import peers, regions

from pytinykv.model import (
    InvalidRegion,
    Peer,
    PeerRole,
    Region,
    peer_from_pb,
    peer_to_pb,
    region_from_pb,
    region_to_pb,
)
from pytinykv.wire.pb import metapb_pb2


@given(regions)
def test_a_region_comes_back_as_it_went(region: Region) -> None:
    assert region_from_pb(region_to_pb(region)) == region


@given(peers)
def test_a_peer_comes_back_as_it_went(peer: Peer) -> None:
    assert peer_from_pb(peer_to_pb(peer)) == peer


@pytest.mark.parametrize("role", PeerRole)
def test_roles_have_the_numbers_of_the_wire(role: PeerRole) -> None:
    assert metapb_pb2.PeerRole.Name(role.value).lower() == role.name.lower().replace("_", "")  # type: ignore[arg-type]  # enum


def test_an_unknown_role_is_refused() -> None:
    peer = metapb_pb2.Peer(id=7, store_id=1)
    peer.role = 9  # type: ignore[assignment]  # what a newer version may send
    with pytest.raises(InvalidRegion, match="peer 7 has unknown role 9"):
        region_from_pb(metapb_pb2.Region(id=1, peers=[peer]))
