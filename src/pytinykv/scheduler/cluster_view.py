"""The cluster as the scheduler sees it now: stores and regions, from the durable state and from heartbeats.

Decisions of the administrator come from `State` (durable); observations (heartbeats) are kept here and rebuilt after a
restart. Regions are on disk too, but written without a sync of their own: `on_region` tells the owner which records changed.
If some are lost in a crash, the next heartbeats bring them back. A region loaded from disk has no leader until one reports,
so that clients are not sent to a peer that led long ago.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import msgspec

from pytinykv.model import Region, StoreId
from pytinykv.scheduler.config import SchedulerConfig
from pytinykv.scheduler.errors import (
    DuplicateAddress,
    InvalidInput,
    LookupIncomplete,
    StaleRegion,
    StoreInUse,
    StoreNotFound,
    StoreTombstone,
)
from pytinykv.scheduler.records import ReportedRegion, StoreMeta, StoreStats
from pytinykv.scheduler.regions import RegionMap
from pytinykv.scheduler.stores import StoreHealth, StoreInfo

PREPARED_SHARE = 0.8
"""Of each store's regions, how many must have been reported before stores are compared."""
KEY_MAX = 64
"""How much of a key an error message shows, in bytes."""


class RegionChange(msgspec.Struct, frozen=True):
    """What a heartbeat changed: the record to write (None if it is as before) and the regions that it has replaced."""

    put: Region | None
    removed: tuple[Region, ...]


class ClusterView:
    """Stores and regions as last heard of. Time is handed in as monotonic seconds."""

    def __init__(self, config: SchedulerConfig) -> None:
        self._config = config
        self.regions = RegionMap()
        self._stores: dict[StoreId, StoreInfo] = {}
        """All registered stores, tombstones included; their metas are those of the durable state."""
        self._is_prepared = False
        """Set by `is_prepared`, and never unset."""

    @property
    def config(self) -> SchedulerConfig:
        return self._config

    def load_regions(self, metas: Iterable[Region]) -> None:
        """Take in the regions that were known before a restart, without leaders. Of two that overlap the newer wins."""
        for meta in metas:
            info = ReportedRegion(meta)
            try:
                self.regions.check_not_stale(info)
            except StaleRegion:
                continue
            self.regions.put(info)

    def is_prepared(self) -> bool:
        """Say whether enough regions were reported, since this process started, for comparing stores. Stays true."""
        self._is_prepared = self._is_prepared or self.regions.is_reported(PREPARED_SHARE)
        return self._is_prepared

    # --- stores -------------------------------------------------------------------------------------------------

    def sync_stores(self, metas: Mapping[StoreId, StoreMeta], now: float) -> None:
        """Follow the durable list of stores. One that is new counts as heard of now."""
        for store_id in sorted(metas):
            known = self._stores.get(store_id)
            if known is None:
                self._stores[store_id] = StoreInfo(metas[store_id], now, address=_address_in_use(metas[store_id]))
            elif known.meta is not metas[store_id]:
                if known.meta.state is metas[store_id].state and metas[store_id].address:
                    # It registered again, or stopped. Neither a decision of the administrator nor the loss of its address
                    # would mean that it was heard.
                    known.heard_at = now
                known.meta = metas[store_id]
                known.address = _address_in_use(known.meta)

    def stores(self) -> list[StoreInfo]:
        """Return all stores by id."""
        return [self._stores[store_id] for store_id in sorted(self._stores)]

    def store(self, store_id: int) -> StoreInfo | None:
        return self._stores.get(StoreId(store_id))

    def health(self, store_id: int, now: float) -> StoreHealth | None:
        """Judge a store; None for one that never registered."""
        store = self.store(store_id)
        return None if store is None else store.health(now, self._config)

    def check_free(self, store: StoreMeta, now: float) -> None:
        """Raise StoreInUse while the store may still be served by a process at another address.

        The process that asks has the store's data, or an older copy. If it served while the other one does, it would vote and
        acknowledge in the same name, and entries that only one of them has would count as being on the disks of a majority.
        """
        known = self.store(store.id)
        if known is None or known.address in ("", store.address):
            return
        silence_s = known.silence_s(now)
        if silence_s < self._config.store_address_hold_s:
            raise StoreInUse(
                f"store {store.id} is served at {known.address}, heard of {silence_s:.1f} s ago, so it can't be served at "
                f"{store.address}: if this is a copy of its data directory, start with an empty one; if the store has moved, "
                f"stop the process at {known.address}, or wait until that has been silent for "
                f"{self._config.store_address_hold_s:g} s"
            )

    def check_address(self, store: StoreMeta, owner: StoreMeta, now: float) -> None:
        """Raise DuplicateAddress while a store may still be served at an address that another one wants.

        The process that asks listens there, so none of `owner` can. But a wrong `--advertise-addr` must not cut off a store
        that is alive.
        """
        known = self.store(owner.id)
        if known is None or not known.address:
            return
        silence_s, hold_s = known.silence_s(now), self._config.store_address_hold_s
        if silence_s < hold_s:
            silence = f" (heard of {silence_s:.1f} s ago; the address is free after {hold_s:g} s of silence)"
            raise DuplicateAddress(store.address, store.id, owner.id, silence=silence)

    def on_store_heartbeat(self, stats: StoreStats, *, now: float, wall_ms: int) -> bool:
        """Take in what a store says about itself; return whether this is its first heartbeat here.

        Raises StoreNotFound, StoreTombstone, StoreInUse.
        """
        store = self.store(stats.store_id)
        if store is None:
            raise StoreNotFound(stats.store_id, (one.id for one in self.stores() if not one.meta.is_tombstone))
        if store.meta.is_tombstone:
            raise StoreTombstone(stats.store_id)
        if not store.meta.address:
            raise StoreInUse(
                f"store {stats.store_id} has lost its address to another store while it was silent, so others can't reach it:"
                " start it again, at an address of its own"
            )
        if 0 not in (stats.start_time, store.meta.start_timestamp) and stats.start_time != store.meta.start_timestamp:
            raise StoreInUse(
                f"store {stats.store_id} is served by another process now, at {store.meta.address}; the one that was started "
                f"at second {stats.start_time} must end: only one may act in the store's name"
            )
        is_first = store.stats is None
        store.stats = stats
        store.heard_at = now
        store.last_heartbeat_ms = wall_ms
        return is_first

    # --- regions ------------------------------------------------------------------------------------------------

    def on_region(self, info: ReportedRegion) -> RegionChange:
        """Take in what a leader says about its region. Raises InvalidInput, StaleRegion; then nothing has changed."""
        check_region(info)
        self.regions.check_not_stale(info)
        known = self.regions.get(info.id)
        removed = self.regions.put(info)
        changed = known is None or known.meta != info.meta
        return RegionChange(info.meta if changed else None, tuple(region.meta for region in removed))

    def lookup(self, key: bytes) -> ReportedRegion:
        """Return the region that holds a key. Raises LookupIncomplete in a gap or while no leader is known."""
        region = self.regions.find(key)
        if region is None:
            raise LookupIncomplete(f"no region is known for key {_shorten(key)} at the moment, try again")
        return require_leader(region)

    def lookup_previous(self, key: bytes) -> ReportedRegion | None:
        """Return the region before the one that holds `key`; None if that is the first. Raises LookupIncomplete."""
        region = self.regions.find(key)
        if region is None:
            raise LookupIncomplete(f"no region is known for key {_shorten(key)} at the moment, try again")
        if not region.meta.start_key:
            return None
        previous = self.regions.neighbours(region.meta)[0]
        if previous is None:
            raise LookupIncomplete(f"the region before region {region.id} is not known at the moment, try again")
        return require_leader(previous)

    def lookup_range(self, start: bytes, end: bytes, limit: int) -> list[ReportedRegion]:
        """Return the regions of [start, end), at most `limit` (0: all), without gaps.

        The first one has a leader; later ones may have none, and clients then ask again for those. A range that is
        unknown in part raises LookupIncomplete: clients take a short list for the end.
        """
        if end and start >= end:
            return []
        found = self.regions.scan(start, end, limit)
        expected = start
        for index, region in enumerate(found):
            if not region.meta.contains(expected) or (index and region.meta.start_key != expected):
                raise LookupIncomplete(f"no region is known for key {_shorten(expected)} at the moment, try again")
            expected = region.meta.end_key
        is_short = not limit or len(found) < limit
        if not found or (is_short and expected and (not end or expected < end)):
            raise LookupIncomplete(f"no region is known for key {_shorten(expected)} at the moment, try again")
        require_leader(found[0])
        return found

    def check_epoch(self, meta: Region) -> ReportedRegion:
        """Return the known region for a request about it. Raises LookupIncomplete or StaleRegion."""
        known = self.regions.get(meta.id)
        if known is None:
            raise LookupIncomplete(f"region {meta.id} is not known yet, try again after its first heartbeat")
        if meta.epoch.is_behind(known.meta.epoch):
            raise StaleRegion(f"request for region {meta.id} with epoch {meta.epoch}, known {known.meta.epoch}")
        return known

    def walk(self, after: bytes | None, count: int) -> list[ReportedRegion]:
        """Return up to `count` regions that start after `after` in key order (None: from the first)."""
        if after is None:
            return self.regions.scan(b"", limit=count)
        found = self.regions.scan(after + b"\x00", limit=count + 1)
        return [region for region in found if region.meta.start_key > after][:count]


def check_region(info: ReportedRegion) -> None:
    """Raise InvalidInput unless the report makes sense in itself."""
    meta = info.meta
    if meta.id < 0 or not meta.peers:
        raise InvalidInput(f"region {meta.id} is reported without peers")
    if meta.end_key and meta.start_key >= meta.end_key:
        raise InvalidInput(f"region {meta.id} has an empty range")
    if len({peer.id for peer in meta.peers}) != len(meta.peers):
        raise InvalidInput(f"region {meta.id} has two peers with one id")
    if info.leader is not None and meta.peer(info.leader.id) is None:
        raise InvalidInput(f"leader {info.leader.id} of region {meta.id} is not one of its peers")


def require_leader(region: ReportedRegion) -> ReportedRegion:
    """Return the region. Raises LookupIncomplete while its leader is unknown."""
    if region.leader is None:
        raise LookupIncomplete(f"leader of region {region.id} is not known yet, try again")
    return region


def _shorten(key: bytes) -> str:
    return key.hex() if len(key) <= KEY_MAX else f"{key[:KEY_MAX].hex()}… ({len(key)} bytes)"


def _address_in_use(meta: StoreMeta) -> str:
    return meta.address if meta.start_timestamp else ""
