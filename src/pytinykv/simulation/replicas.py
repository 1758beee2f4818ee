"""What the regions of a cluster hold, checked at every write of every store, whole column families at a time.

* *partition*: the regions, each in its newest epoch that any disk ever had, cover all keys, each key once. What a store has
  applied is never taken back, so this holds after every single write, also while stores lag behind or die.
* *no data outside a region*: each pair on a disk belongs to a region that lives there.
* *replica equality*: whenever a store has applied a region up to an index, it holds the same data of it as every other store
  that ever was at this index, and as it did itself.

Comparing all data at every write would take a history hours. So a disk's region has a *sum*: the exclusive or of a hash of
every pair (column family, key, value). A write changes it by the pairs it replaces; only where regions change is a disk read
anew.
"""

from __future__ import annotations

import weakref
from bisect import bisect_right
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Final

from pytinykv.model import Region
from pytinykv.raftstore import keys
from pytinykv.raftstore.records import PeerState, decode_apply_state, decode_region_state
from pytinykv.simulation.errors import Violation
from pytinykv.simulation.observers import gaps
from pytinykv.storage import ColumnFamily

if TYPE_CHECKING:
    from pytinykv.simulation.disk import Replaced, SimEngine

_RAFT: Final = ColumnFamily.RAFT
_DATA_FAMILIES: Final = tuple(cf for cf in ColumnFamily if cf is not _RAFT)
_APPLY_STATE: Final = keys.apply_state_key(0)[:1]
_REGION_STATE: Final = keys.REGION_STATE_START
_KEY_BYTES: Final = len(keys.apply_state_key(0))
INITIAL_EPOCH: Final = (1, 1)
"""That of the region a store would like to begin with. Only one store's is taken, so such regions don't count."""


class _Disk:
    """What is known of one engine."""

    __slots__ = ("installing", "regions", "starts", "sums")

    def __init__(self, regions: list[Region], installing: set[int]) -> None:
        self.regions = sorted(regions, key=lambda region: region.start_key)
        """Those that live there, by start key."""
        self.starts = [region.start_key for region in self.regions]
        self.installing = installing
        """Those of them whose data is on its way in."""
        self.sums: dict[int, int] = {region.id: 0 for region in regions}
        """By region, the sum of its data."""

    def owner(self, cf: ColumnFamily, key: bytes) -> int | None:
        """Return the region to which an engine key belongs."""
        user_key = key[1:] if cf is ColumnFamily.RAW else key
        index = bisect_right(self.starts, user_key) - 1
        return self.regions[index].id if index >= 0 and self.regions[index].contains(user_key) else None


class ReplicaObserver:
    """Sees every batch that any store writes, right after it was written."""

    def __init__(self) -> None:
        self._disks: weakref.WeakKeyDictionary[SimEngine, _Disk] = weakref.WeakKeyDictionary()
        """What is known of each engine that was written to, for as long as it is open."""
        self._held: dict[tuple[int, int], tuple[int, str]] = {}
        """(region, applied index) -> the sum of its data then, and the host where it was seen first."""
        self._newest: dict[int, Region] = {}
        """Every region in the newest epoch that any disk ever had."""
        self.on_region: list[Callable[[Region], None]] = []
        """Called with each region that some disk has in a newer epoch than any before; for stories that look."""
        self.comparisons = 0
        """How often two stores, or two moments, were compared."""

    @property
    def regions(self) -> list[Region]:
        """Every region in its newest epoch, by start key; empty before the first one has its second peer."""
        return sorted(self._newest.values(), key=lambda region: region.start_key)

    def on_write(self, engine: SimEngine, raft_keys: Iterable[bytes], replaced: Iterable[Replaced]) -> None:
        """Look at what a batch has changed. Raises `Violation`."""
        states = [key for key in raft_keys if len(key) == _KEY_BYTES and key[:1] in (_REGION_STATE, _APPLY_STATE)]
        disk = self._disks.get(engine)
        if disk is None or any(key[:1] == _REGION_STATE for key in states):
            disk = self._read(engine)
        else:
            self._update(engine, disk, replaced)
        for key in states:
            if key[:1] == _APPLY_STATE:
                self._compare(engine, disk, int.from_bytes(key[1:], "big"))

    def _read(self, engine: SimEngine) -> _Disk:
        stored = engine.peek_range(_RAFT, keys.REGION_STATE_START, keys.REGION_STATE_END)
        states = [decode_region_state(value) for _, value in stored]
        living = [state for state in states if state.state is not PeerState.TOMBSTONE and state.region.peers]
        installing = {int(state.region.id) for state in living if state.state is not PeerState.NORMAL}
        disk = self._disks[engine] = _Disk([state.region for state in living], installing)
        for cf in _DATA_FAMILIES:
            for key, value in engine.peek_range(cf, b"", None):
                self._add(engine, disk, cf, key, value)
        self._check_partition(disk.regions)
        return disk

    def _update(self, engine: SimEngine, disk: _Disk, replaced: Iterable[Replaced]) -> None:
        seen: set[tuple[ColumnFamily, bytes]] = set()
        for cf, key, before in replaced:
            if (cf, key) in seen:  # the first of several changes has what was there before the batch
                continue
            seen.add((cf, key))
            after = engine.peek(key, cf)
            if before is not None:
                self._add(engine, disk, cf, key, before)
            if after is not None:
                self._add(engine, disk, cf, key, after)

    @staticmethod
    def _add(engine: SimEngine, disk: _Disk, cf: ColumnFamily, key: bytes, value: bytes) -> None:
        """Put a pair into the sum of its region, or take it out again."""
        owner = disk.owner(cf, key)
        if owner is None:
            raise Violation(
                "no data outside a region", f"{engine.disk.host} has {cf} {key!r}, which belongs to no region there"
            )
        disk.sums[owner] ^= hash((cf, key, value))

    def _compare(self, engine: SimEngine, disk: _Disk, region_id: int) -> None:
        data = engine.peek(keys.apply_state_key(region_id))
        if data is None or region_id not in disk.sums or region_id in disk.installing:
            return
        index, host = decode_apply_state(data).applied_index, engine.disk.host
        known = self._held.setdefault((region_id, index), (disk.sums[region_id], host))
        self.comparisons += known[1] != host
        if known[0] != disk.sums[region_id]:
            raise Violation(
                "replica equality",
                f"region {region_id} at index {index}: {host} holds other data than {known[1]} did at this index",
            )

    def _check_partition(self, regions: Iterable[Region]) -> None:
        changed = False
        for region in regions:
            known, epoch = self._newest.get(region.id), region.epoch
            if (epoch.conf_ver, epoch.version) != INITIAL_EPOCH and (known is None or known.epoch.is_behind(epoch)):
                self._newest[region.id] = region
                for look in self.on_region:
                    look(region)
                changed = changed or known is None or known.epoch.version != epoch.version
        if changed and (wrong := gaps(self.regions)):
            raise Violation("partition", "; ".join(wrong))
