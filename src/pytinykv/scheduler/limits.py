"""How fast a store is given peers, and how fast they are taken from it: a token bucket for each store and way.

A new peer is a snapshot to make, send and install, a removed one data to delete; both compete with what clients want. A
bucket holds as many peers as may be on the move at a store at once. So a small change is made at once, and a large one goes
on at the rate of the configuration. Regions below 1 MiB cost a twentieth, since next to nothing has to be copied for them.
"""

from __future__ import annotations

from enum import StrEnum

import msgspec

from pytinykv.model import StoreId
from pytinykv.scheduler.config import SchedulerConfig
from pytinykv.scheduler.records import ReportedRegion

SMALL_REGION_BYTES = 1 << 20
SMALL_REGION_COST = 0.05


class Way(StrEnum):
    """Whether a store gets a peer or loses one."""

    ADD = "add"
    REMOVE = "remove"


class _Bucket(msgspec.Struct):
    tokens: float
    """Peers that may be moved at once; refilled up to the size of the bucket. Below 0 after an administrator's orders."""
    filled_at: float
    """Monotonic seconds."""


class StoreLimits:
    """The buckets of all stores. Time is handed in as monotonic seconds."""

    def __init__(self, config: SchedulerConfig) -> None:
        self._rates_per_s = {
            Way.ADD: config.store_add_peers_per_minute / 60,
            Way.REMOVE: config.store_remove_peers_per_minute / 60,
        }
        self._size = float(config.store_operators_max)
        self._buckets: dict[tuple[StoreId, Way], _Bucket] = {}
        """Those that were used; the others are full."""

    def allows(self, store_id: StoreId, way: Way, region: ReportedRegion, now: float) -> bool:
        """Say whether a peer of the region may be moved now."""
        bucket = self._bucket(store_id, way, now)
        return not self._rates_per_s[way] or bucket.tokens >= min(_cost(region), self._size)

    def take(self, store_id: StoreId, way: Way, region: ReportedRegion, now: float) -> None:
        """Note that a peer of the region is moved."""
        self._bucket(store_id, way, now).tokens -= _cost(region)

    def _bucket(self, store_id: StoreId, way: Way, now: float) -> _Bucket:
        bucket = self._buckets.setdefault((store_id, way), _Bucket(self._size, now))
        gained = max(0.0, now - bucket.filled_at) * self._rates_per_s[way]
        bucket.tokens = min(self._size, bucket.tokens + gained)
        bucket.filled_at = now
        return bucket


def _cost(region: ReportedRegion) -> float:
    return SMALL_REGION_COST if region.approximate_size < SMALL_REGION_BYTES else 1.0
