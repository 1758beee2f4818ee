"""Which region holds a key, and which store leads it: what the client remembers of the scheduler's answers.

    starts    b""      b"g"      b"p"            sorted; one entry per region
    regions  [  7  )  [  9  )  (gap)  [  12  )   half-open ranges that never overlap; gaps are keys nobody asked for yet

Invariants:

1. Regions in the cache never overlap.
2. A region gives way only to one that is not older. Splits and merges raise `version` above that of every region they
   touch, so of two overlapping regions the one with the greater version is newer, whatever their ids.
3. A `Region` never changes. A new leader makes a new object, so a failed attempt removes exactly what it had used and not
   what somebody else has learnt since.

The cache may be wrong at any time. Stores check epoch and leadership with every command, so that costs a round trip only.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator

from pytinykv.wire.pb import kvrpcpb_pb2, metapb_pb2


class Region:
    """One region as last heard of, with the peer believed to lead it."""

    __slots__ = ("conf_ver", "context", "end", "id", "leader", "meta", "start", "store_id", "version")

    def __init__(self, meta: metapb_pb2.Region, leader: metapb_pb2.Peer) -> None:
        self.meta = meta
        self.id = meta.id
        self.start = meta.start_key
        self.end = meta.end_key
        """Exclusive; empty means that the region has no upper end."""
        self.conf_ver = meta.region_epoch.conf_ver
        self.version = meta.region_epoch.version
        self.leader = leader
        self.store_id = leader.store_id
        self.context = kvrpcpb_pb2.Context(region_id=meta.id, region_epoch=meta.region_epoch, peer=leader)
        """What every command to this region carries; built once, copied into each."""

    def contains(self, key: bytes) -> bool:
        """Tell whether `key` lies in this region."""
        return self.start <= key and (not self.end or key < self.end)

    def contains_below(self, upper: bytes | None) -> bool:
        """Tell whether the greatest possible key below `upper` (None: the greatest of all) lies in this region."""
        if upper is None:
            return not self.end
        return self.start < upper and (not self.end or upper <= self.end)

    def with_leader(self, leader: metapb_pb2.Peer) -> Region:
        """Return this region led by `leader`."""
        return Region(self.meta, leader)

    def peer_on_store(self, store_id: int) -> metapb_pb2.Peer | None:
        """Return the peer on a store, if it has one."""
        return next((peer for peer in self.meta.peers if peer.store_id == store_id), None)

    def __repr__(self) -> str:
        return (
            f"region {self.id} [{self.start!r}, {self.end!r}) epoch {self.conf_ver}/{self.version} "
            f"led by peer {self.leader.id} on store {self.store_id}"
        )


class RegionCache:
    """Regions sorted by start key. See the module."""

    def __init__(self) -> None:
        self._starts: list[bytes] = []
        self._regions: list[Region] = []

    def __len__(self) -> int:
        return len(self._regions)

    def __iter__(self) -> Iterator[Region]:
        return iter(self._regions)

    def locate(self, key: bytes) -> Region | None:
        """Return the region that holds `key`, if known."""
        index = bisect_right(self._starts, key) - 1
        if index < 0:
            return None
        region = self._regions[index]
        return region if not region.end or key < region.end else None

    def locate_below(self, upper: bytes | None) -> Region | None:
        """Return the region that holds the greatest key below `upper` (None: of all), if known. For scans backwards."""
        index = (len(self._starts) if upper is None else bisect_left(self._starts, upper)) - 1
        if index < 0:
            return None
        region = self._regions[index]
        return region if region.contains_below(upper) else None

    def insert(self, region: Region) -> bool:
        """Remember a region in place of the older ones it overlaps; False (and no change) if one of them is newer."""
        low, high = self._overlap(region)
        for known in self._regions[low:high]:
            if known.version > region.version or (known.id == region.id and known.conf_ver > region.conf_ver):
                return False
        self._starts[low:high] = [region.start]
        self._regions[low:high] = [region]
        return True

    def insert_all(self, regions: Iterable[Region]) -> None:
        """Remember several regions."""
        for region in regions:
            self.insert(region)

    def remove(self, region: Region) -> bool:
        """Forget this very object; False if it is no longer (or never was) in the cache."""
        index = self._index_of(region)
        if index is None:
            return False
        del self._starts[index], self._regions[index]
        return True

    def replace(self, region: Region, by: Region) -> bool:
        """Put `by` (same range) in the place of this very object; False if it is no longer in the cache."""
        index = self._index_of(region)
        if index is None:
            return False
        self._regions[index] = by
        return True

    def _index_of(self, region: Region) -> int | None:
        index = bisect_left(self._starts, region.start)
        return index if index < len(self._regions) and self._regions[index] is region else None

    def _overlap(self, region: Region) -> tuple[int, int]:
        """Return the slice of known regions that share keys with `region`."""
        low = bisect_right(self._starts, region.start) - 1
        if low < 0 or (self._regions[low].end and self._regions[low].end <= region.start):
            low += 1
        high = bisect_left(self._starts, region.end) if region.end else len(self._starts)
        return low, max(low, high)
