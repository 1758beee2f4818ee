"""Records of the scheduler: stores, and what a leader reports about its region.

Immutable; `StoreMeta` is kept on disk too. Stored fields are only ever added at the end, with a default (docs/formats.md).
"""

from __future__ import annotations

from enum import IntEnum

import msgspec

from pytinykv.model import Peer, Region, RegionId, StoreId

REGION_WEIGHT_MIN = 1 << 20
"""What a region weighs at least, in bytes: an empty one costs its store something, too."""


class StoreState(IntEnum):
    """What an administrator has decided about a store. Stored, never renumber; the numbers of metapb.StoreState."""

    UP = 0
    OFFLINE = 1
    """Is being drained: its peers move away, then it becomes TOMBSTONE."""
    TOMBSTONE = 2
    """Gone for ever. Its id is never used again, its address may be."""


class StoreLabel(msgspec.Struct, frozen=True, array_like=True):
    """One word about where or what a store is (zone=z1, engine=tiflash)."""

    key: str
    value: str


class StoreMeta(msgspec.Struct, frozen=True, array_like=True):
    """What a store says about itself when it registers."""

    id: StoreId
    address: str
    """Where clients and other stores dial it. Empty once another store has taken the address (`commands.PutStore`)."""
    state: StoreState = StoreState.UP
    labels: tuple[StoreLabel, ...] = ()
    version: str = ""
    peer_address: str = ""
    status_address: str = ""
    git_hash: str = ""
    start_timestamp: int = 0
    """When the process that serves the store started, in seconds since the Unix epoch by its clock; tells it from others that
    have served the store or try to. 0 once it has stopped in good order (`commands.StoreStopped`)."""
    deploy_path: str = ""

    @property
    def is_tombstone(self) -> bool:
        return self.state is StoreState.TOMBSTONE

    def label(self, key: str) -> str:
        """Return the value of a label, or the empty string."""
        return next((label.value for label in self.labels if label.key == key), "")


class DownPeer(msgspec.Struct, frozen=True):
    """A peer that has not answered its leader for `down_seconds`."""

    peer: Peer
    down_seconds: int


class ReportedRegion(msgspec.Struct, frozen=True):
    """A region as its leader last described it.

    `leader` is None for a region that was loaded from disk and not reported since: clients are not told of its peers then.
    """

    meta: Region
    leader: Peer | None = None
    term: int = 0
    """Raft term of the leader; 0 when the store does not tell."""
    down_peers: tuple[DownPeer, ...] = ()
    pending_peers: tuple[Peer, ...] = ()
    """Peers that still wait for a snapshot or for much of the log."""
    approximate_size: int = 0
    """Bytes."""

    @property
    def id(self) -> RegionId:
        return self.meta.id

    @property
    def weight(self) -> int:
        """What each of its peers counts for when stores are compared, in bytes."""
        return max(self.approximate_size, REGION_WEIGHT_MIN)

    def is_pending(self, peer_id: int) -> bool:
        return any(peer.id == peer_id for peer in self.pending_peers)

    def is_down(self, peer_id: int) -> bool:
        return any(down.peer.id == peer_id for down in self.down_peers)

    @property
    def followers(self) -> tuple[Peer, ...]:
        """The peers other than the leader; all peers while no leader is known."""
        return tuple(peer for peer in self.meta.peers if self.leader is None or peer.id != self.leader.id)


class StoreStats(msgspec.Struct, frozen=True):
    """What a store measures about itself and sends with every heartbeat. Sizes in bytes."""

    store_id: StoreId
    capacity: int = 0
    """0: not told."""
    available: int = 0
    used_size: int = 0
    region_count: int = 0
    sending_snapshots: int = 0
    receiving_snapshots: int = 0
    applying_snapshots: int = 0
    is_busy: bool = False
    start_time: int = 0
    """Seconds since the Unix epoch."""
