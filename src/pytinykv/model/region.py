"""A region: a range of keys, and the peers that replicate it.

    keys       b""          b"g"          b"p"          (no end)
    regions     |  region 7  |  region 9   |  region 12  |
    peers of 9: id 31 on store 1, id 32 on store 2, id 33 on store 3 (learner)

Records are stored and sent by position (see `codec`): fields are only ever added at the end, with a default.

Invariants of what stores and scheduler keep:
 1. No two peers of a region share an id or a store.
 2. A change of `peers` raises `epoch.conf_ver`; a change of the range raises `epoch.version`, above that of every region
    whose keys it takes over. So of two regions that overlap, the one with the greater version is the newer.
"""

from __future__ import annotations

from enum import IntEnum

import msgspec

from pytinykv.model.ids import PeerId, RegionId, StoreId


class PeerRole(IntEnum):
    """How a peer counts. Stored, never renumber; the numbers of metapb.PeerRole."""

    VOTER = 0
    LEARNER = 1
    """Receives the log and counts for no majority."""
    INCOMING_VOTER = 2
    """Becomes a voter when the joint membership change under way ends. Stores of this version make none."""
    DEMOTING_VOTER = 3
    """Stops being a voter when the joint membership change under way ends. Stores of this version make none."""


class Peer(msgspec.Struct, frozen=True, array_like=True):
    """One replica of a region. `id` is unique in the cluster and never used again; `store_id` says where it is."""

    id: PeerId
    store_id: StoreId
    role: PeerRole = PeerRole.VOTER


class RegionEpoch(msgspec.Struct, frozen=True, array_like=True):
    """How often a region changed: `conf_ver` counts membership changes, `version` splits and merges. Both only grow."""

    conf_ver: int = 0
    version: int = 0

    def is_behind(self, other: RegionEpoch) -> bool:
        """Say whether either part is smaller than `other`'s: what carries this epoch describes the past."""
        return self.version < other.version or self.conf_ver < other.conf_ver


class Region(msgspec.Struct, frozen=True, array_like=True):
    """A range of keys, start_key <= key < end_key (empty end: unbounded), and the peers that replicate it."""

    id: RegionId
    start_key: bytes = b""
    end_key: bytes = b""
    epoch: RegionEpoch = RegionEpoch()
    peers: tuple[Peer, ...] = ()

    def contains(self, key: bytes) -> bool:
        return self.start_key <= key and (not self.end_key or key < self.end_key)

    def overlaps(self, other: Region) -> bool:
        """Say whether some key lies in both."""
        return (not other.end_key or self.start_key < other.end_key) and (
            not self.end_key or other.start_key < self.end_key
        )

    def peer(self, peer_id: int) -> Peer | None:
        for peer in self.peers:  # a generator in its place costs three times as much, and each message asks
            if peer.id == peer_id:
                return peer
        return None

    def peer_on(self, store_id: int) -> Peer | None:
        return next((peer for peer in self.peers if peer.store_id == store_id), None)

    @property
    def voters(self) -> tuple[Peer, ...]:
        """The peers that count for majorities."""
        return tuple(peer for peer in self.peers if peer.role is not PeerRole.LEARNER)

    @property
    def learners(self) -> tuple[Peer, ...]:
        """The peers that receive the log only."""
        return tuple(peer for peer in self.peers if peer.role is PeerRole.LEARNER)

    @property
    def store_ids(self) -> tuple[StoreId, ...]:
        """The stores that hold a peer, in the order of the peers."""
        return tuple(peer.store_id for peer in self.peers)
