"""The region map: which region holds a key, and what each store carries.

Regions lie side by side in key order and never overlap. A report about a region replaces the regions it overlaps, unless it
is older than one of them (`check_not_stale`); so for moments a part of the key space may be unknown:

    before    [          1: v1          )
    heartbeat of the new half only        [ gap )[ 2: v2  )       1 is gone until its own heartbeat arrives

Invariants:
 1. No two regions in the map overlap; region ids are unique.
 2. The tallies per store equal what counting the map would give.
"""

from __future__ import annotations

from collections.abc import Iterator

import msgspec
from sortedcontainers import SortedDict

from pytinykv.model import Region, RegionId, StoreId
from pytinykv.scheduler.errors import StaleRegion
from pytinykv.scheduler.records import ReportedRegion


class StoreTally(msgspec.Struct):
    """What the map says about one store. Sizes in bytes."""

    regions: dict[RegionId, None]
    """Ids of the regions with a peer there, in the order they appeared."""
    leaders: dict[RegionId, None]
    pending: dict[RegionId, None]
    """Ids of the regions whose peer there is still behind."""
    reported: int = 0
    """How many of the regions have a known leader: a leader has reported them since the map was loaded."""
    region_size: int = 0
    weight: int = 0
    """Sum of the regions' weights (`ReportedRegion.weight`): what balance goes by."""
    leader_size: int = 0


class RegionMap:
    """All known regions, by key, by id and by store."""

    def __init__(self) -> None:
        self._by_start: SortedDict[bytes, ReportedRegion] = SortedDict()
        """By start key."""
        self._by_id: dict[RegionId, ReportedRegion] = {}
        """The same regions by id."""
        self._tallies: dict[StoreId, StoreTally] = {}
        """For each store that has, or had, a peer (invariant 2)."""

    def __len__(self) -> int:
        return len(self._by_id)

    def __iter__(self) -> Iterator[ReportedRegion]:
        """Yield all regions in key order."""
        return iter(self._by_start.values())

    def get(self, region_id: int) -> ReportedRegion | None:
        return self._by_id.get(RegionId(region_id))

    def find(self, key: bytes) -> ReportedRegion | None:
        """Return the region that holds the key, or None in a gap."""
        index = self._by_start.bisect_right(key) - 1
        if index < 0:
            return None
        region = self._by_start.peekitem(index)[1]
        return region if region.meta.contains(key) else None

    def neighbours(self, meta: Region) -> tuple[ReportedRegion | None, ReportedRegion | None]:
        """Return the regions that touch this range on the left and on the right."""
        left = None
        index = self._by_start.bisect_left(meta.start_key) - 1
        if index >= 0:
            candidate = self._by_start.peekitem(index)[1]
            left = candidate if candidate.meta.end_key == meta.start_key and meta.start_key else None
        right = self._by_start.get(meta.end_key) if meta.end_key else None
        return left, right

    def scan(self, start: bytes, end: bytes = b"", limit: int = 0) -> list[ReportedRegion]:
        """Return the regions that hold keys of [start, end) in key order; gaps are left out. `limit` 0: all."""
        found: list[ReportedRegion] = []
        index = max(self._by_start.bisect_right(start) - 1, 0)
        for region in self._from(index):
            if end and region.meta.start_key >= end:
                break
            if region.meta.end_key and region.meta.end_key <= start:
                continue
            found.append(region)
            if limit and len(found) >= limit:
                break
        return found

    def _from(self, index: int) -> Iterator[ReportedRegion]:
        for key in self._by_start.islice(index):
            yield self._by_start[key]

    def overlapping(self, meta: Region) -> list[ReportedRegion]:
        """Return the regions that share keys with this range, in key order (the region itself included)."""
        return self.scan(meta.start_key, meta.end_key)

    def is_complete(self) -> bool:
        """Say whether the regions cover all keys without a gap."""
        expected: bytes = b""
        for index, region in enumerate(self):
            if region.meta.start_key != expected or (index and not expected):
                return False
            expected = region.meta.end_key
        return bool(self._by_id) and not expected

    def check_not_stale(self, info: ReportedRegion) -> None:
        """Raise StaleRegion if the report is older than what is known of the region or of one it overlaps."""
        known = self.get(info.id)
        if known is not None:
            if info.meta.epoch.is_behind(known.meta.epoch):
                raise StaleRegion(
                    f"region {info.id} is reported with epoch {info.meta.epoch}, known {known.meta.epoch}"
                )
            if 0 < info.term < known.term:
                raise StaleRegion(f"region {info.id} is reported by a leader of term {info.term}, known {known.term}")
            if known.meta.start_key == info.meta.start_key and known.meta.end_key == info.meta.end_key:
                return
        for other in self.overlapping(info.meta):
            if other.id != info.id and info.meta.epoch.version < other.meta.epoch.version:
                raise StaleRegion(
                    f"region {info.id} of version {info.meta.epoch.version} overlaps region {other.id}"
                    f" of version {other.meta.epoch.version}"
                )

    def put(self, info: ReportedRegion) -> list[ReportedRegion]:
        """Take a region in; return the other regions that it replaces, since they overlap it."""
        known = self.get(info.id)
        if known is not None:
            self._drop(known)
        removed = self.overlapping(info.meta)
        for other in removed:
            self._drop(other)
        self._by_start[info.meta.start_key] = info
        self._by_id[info.id] = info
        self._count(info)
        return removed

    def remove(self, region_id: int) -> ReportedRegion | None:
        """Forget a region; return what was known of it."""
        known = self.get(region_id)
        if known is not None:
            self._drop(known)
        return known

    def tally(self, store_id: int) -> StoreTally:
        """Return what a store carries. The caller must not change it."""
        return self._tallies.get(StoreId(store_id)) or StoreTally({}, {}, {})

    def is_reported(self, share: float) -> bool:
        """Say whether of each store's regions at least this share has a known leader."""
        return all(tally.reported >= share * len(tally.regions) for tally in self._tallies.values())

    def _drop(self, info: ReportedRegion) -> None:
        del self._by_start[info.meta.start_key]
        del self._by_id[info.id]
        for peer in info.meta.peers:
            tally = self._tallies[peer.store_id]
            if tally.regions.pop(info.id, self) is None:
                tally.region_size -= info.approximate_size
                tally.weight -= info.weight
                tally.reported -= info.leader is not None
            tally.pending.pop(info.id, None)
        if info.leader is not None and info.id in (tally := self._tally(info.leader.store_id)).leaders:
            del tally.leaders[info.id]
            tally.leader_size -= info.approximate_size

    def _count(self, info: ReportedRegion) -> None:
        for peer in info.meta.peers:
            tally = self._tally(peer.store_id)
            if info.id not in tally.regions:
                tally.regions[info.id] = None
                tally.region_size += info.approximate_size
                tally.weight += info.weight
                tally.reported += info.leader is not None
            if info.is_pending(peer.id):
                tally.pending[info.id] = None
        if info.leader is not None:
            tally = self._tally(info.leader.store_id)
            tally.leaders[info.id] = None
            tally.leader_size += info.approximate_size

    def _tally(self, store_id: StoreId) -> StoreTally:
        tally = self._tallies.get(store_id)
        if tally is None:
            tally = self._tallies[store_id] = StoreTally({}, {}, {})
        return tally
