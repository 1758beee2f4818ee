"""Commands: the only ways in which the scheduler's durable state changes.

One class per change, immutable, encodable. Today they go through `commit.Committer` straight into the local engine; a
replicated scheduler would send the same records through a Raft log and apply them with the same function
(`state.transition`). So a command carries everything its outcome depends on: no clock, no randomness inside.
"""

from __future__ import annotations

from typing import TypeAlias

import msgspec

from pytinykv.model import Region, StoreId
from pytinykv.scheduler.records import StoreMeta, StoreState


class InitCluster(msgspec.Struct, frozen=True, tag=1):
    """Give the cluster its id. The first command of every scheduler."""

    cluster_id: int


class Bootstrap(msgspec.Struct, frozen=True, tag=2):
    """Bootstrap the cluster with its first store and a first region, which covers all keys and has its only peer there."""

    store: StoreMeta
    region: Region


class PutStore(msgspec.Struct, frozen=True, tag=3):
    """Register a store, or renew what it says about itself. The state decided here (offline) is kept."""

    store: StoreMeta
    takes_from: StoreId = StoreId(0)
    """The store that may have the same address and loses it, since its process is gone; 0: none may."""


class StoreStopped(msgspec.Struct, frozen=True, tag=10):
    """Note that the process that registered for a store with this start time has stopped in good order.

    Nothing happens if another process has registered since.
    """

    store_id: StoreId
    start_timestamp: int


class SetStoreState(msgspec.Struct, frozen=True, tag=4):
    """Move a store one way: UP <-> OFFLINE -> TOMBSTONE."""

    store_id: StoreId
    state: StoreState


class ReserveIds(msgspec.Struct, frozen=True, tag=5):
    """Reserve all ids below `end`. Never goes down."""

    end: int


class ReserveTimestamps(msgspec.Struct, frozen=True, tag=6):
    """Reserve all timestamps whose physical part is below `end_ms`. Never goes down."""

    end_ms: int


class ReleaseTimestamps(msgspec.Struct, frozen=True, tag=11):
    """Give back the reserved timestamps from `end_ms` on; nothing happens unless they were reserved up to `reserved_end_ms`.

    The sender has issued none of them and never will. Another reservation would show that something else issues, too.
    """

    end_ms: int
    reserved_end_ms: int


class PutClusterConfig(msgspec.Struct, frozen=True, tag=7):
    """Set how many peers a region shall have, overriding the configuration file."""

    max_peer_count: int


class UpdateGcSafePoint(msgspec.Struct, frozen=True, tag=8):
    """Allow stores to drop versions older than this timestamp. Never goes down; the outcome is the safe point now."""

    safe_point: int


class UpdateServiceSafePoint(msgspec.Struct, frozen=True, tag=9):
    """Hold garbage collection back on behalf of a service until `expires_at_s` (0: remove the service)."""

    service_id: str
    safe_point: int
    expires_at_s: int
    """Seconds since the Unix epoch by the scheduler's clock."""
    now_s: int


class AllowTransactions(msgspec.Struct, frozen=True, tag=12):
    """Take note, for good, that the cluster holds transactions: regions are split at memcomparable keys only."""


StateCommand: TypeAlias = (
    InitCluster
    | Bootstrap
    | PutStore
    | SetStoreState
    | ReserveIds
    | ReserveTimestamps
    | ReleaseTimestamps
    | PutClusterConfig
    | UpdateGcSafePoint
    | UpdateServiceSafePoint
    | StoreStopped
    | AllowTransactions
)
