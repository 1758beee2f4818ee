"""Regions made by Hypothesis."""

from __future__ import annotations

from hypothesis import strategies as st

from pytinykv.model import Peer, PeerId, PeerRole, Region, RegionEpoch, RegionId, StoreId

ids = st.integers(1, (1 << 62) - 1)
counts = st.integers(0, 1 << 40)
peers = st.builds(Peer, ids.map(PeerId), ids.map(StoreId), st.sampled_from(PeerRole))
regions = st.builds(
    Region,
    ids.map(RegionId),
    st.binary(max_size=3),
    st.just(b"") | st.binary(max_size=3).map(lambda tail: b"\xff\xff" + tail),
    st.builds(RegionEpoch, counts, counts),
    st.lists(peers, max_size=4).map(tuple),
)
"""Regions that are not empty: the start is below FF FF, the end above or open."""
