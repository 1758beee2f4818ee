"""Stores as observed: when they were last heard of, what they reported, and what follows from it.

                      heartbeat
        ┌─────────────────────────────────────────────┐
        ▼                                             │
       UP ──silent > disconnect time──► DISCONNECTED ──silent > max_store_down_time──► DOWN
        │ administrator
        ▼
     OFFLINE (draining, may be silent or not) ──no region left──► TOMBSTONE

Silence is measured on the monotonic clock, from the last heartbeat to this process, or from its start: while no scheduler ran
no store could be heard.
"""

from __future__ import annotations

from enum import StrEnum

import msgspec

from pytinykv.model import StoreId
from pytinykv.scheduler.config import SchedulerConfig
from pytinykv.scheduler.records import StoreMeta, StoreState, StoreStats


class StoreHealth(StrEnum):
    """The state of a store, from decisions about it and from its silence."""

    UP = "up"
    DISCONNECTED = "disconnected"
    DOWN = "down"
    OFFLINE = "offline"
    TOMBSTONE = "tombstone"


class StoreInfo(msgspec.Struct):
    """A store as the scheduler sees it now."""

    meta: StoreMeta
    heard_at: float
    """Monotonic seconds of the last heartbeat, or of when this process learnt of the store."""
    last_heartbeat_ms: int = 0
    """Wall clock of the last heartbeat; 0 before the first one."""
    stats: StoreStats | None = None
    address: str = ""
    """Where the process is that may serve the store: the one that has registered last. Empty once that has stopped in good
    order. Follows `meta`, but for the moment in which a registration that was accepted becomes durable."""

    restarted_at: float | None = None
    """Monotonic seconds of when a process registered last for a store that was known before; None if none has."""

    @property
    def id(self) -> StoreId:
        return self.meta.id

    def silence_s(self, now: float) -> float:
        return max(0.0, now - self.heard_at)

    def health(self, now: float, config: SchedulerConfig) -> StoreHealth:
        """Judge the store at monotonic time `now`."""
        if self.meta.state is StoreState.TOMBSTONE:
            return StoreHealth.TOMBSTONE
        if self.meta.state is StoreState.OFFLINE:
            return StoreHealth.OFFLINE
        silence = self.silence_s(now)
        if silence >= config.max_store_down_time_s:
            return StoreHealth.DOWN
        if silence >= config.disconnect_time_s:
            return StoreHealth.DISCONNECTED
        return StoreHealth.UP

    def is_lost(self, now: float, config: SchedulerConfig) -> bool:
        """Say whether the store has been silent for so long that its peers count as gone, offline or not."""
        return self.meta.is_tombstone or self.silence_s(now) >= config.max_store_down_time_s

    def is_responsive(self, now: float, config: SchedulerConfig) -> bool:
        """Say whether the store was heard of lately, whatever was decided about it."""
        return not self.meta.is_tombstone and self.silence_s(now) < config.disconnect_time_s

    def has_space(self, config: SchedulerConfig) -> bool:
        """Say whether the disk has room for another peer; assumed of a store that did not tell."""
        if self.stats is None or self.stats.capacity <= 0:
            return True
        return self.stats.capacity - self.stats.available <= config.low_space_ratio * self.stats.capacity

    def has_just_restarted(self, now: float, config: SchedulerConfig) -> bool:
        """Say whether the store's peers may not campaign yet: after a restart they keep away from elections for a while."""
        return self.restarted_at is not None and now - self.restarted_at < config.leader_rest_s

    @property
    def is_busy(self) -> bool:
        return self.stats is not None and self.stats.is_busy
