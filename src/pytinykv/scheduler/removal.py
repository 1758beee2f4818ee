"""Taking a store out of service: whether the others can take over, and how far it is.

    UP ──remove──► OFFLINE: peers move away, one operator each ──nothing left──► TOMBSTONE
     ◄──restore──┘

A store that was heard of lately is not removed where its peers would have nowhere to go: the regions would stay on it for
ever. One that has stopped or is silent may be removed at any time: what it has is as good as lost, and its regions get new
peers as soon as a store can take them, without waiting for `max_store_down_time_s`.
"""

from __future__ import annotations

import msgspec

from pytinykv.model import StoreId
from pytinykv.scheduler.cluster_view import ClusterView
from pytinykv.scheduler.placement import can_hold
from pytinykv.scheduler.records import StoreState


class Removal(msgspec.Struct, frozen=True):
    """How far the removal of a store is."""

    state: StoreState
    regions_left: int
    """Regions that have a peer on the store still, as far as is known."""
    bytes_left: int
    obstacle: str
    """Why it does not go on; empty if it does or is over."""


def obstacle(cluster: ClusterView, store_id: StoreId, max_replicas: int, now: float) -> str:
    """Say why the peers on a store can't go elsewhere; empty if they can, or there are none that need it."""
    others = [store.id for store in cluster.stores() if store.id != store_id and can_hold(cluster, store, now)]
    if len(others) >= max_replicas:
        return ""
    names = f" ({', '.join(map(str, others))})" if others else ""
    return (
        f"each region needs {max_replicas} replicas on different stores, and without store {store_id} there are only"
        f" {len(others)} that can hold one{names}: start another store first"
    )


def progress(cluster: ClusterView, store_id: StoreId, max_replicas: int, now: float) -> Removal:
    """Describe a registered store's removal."""
    store = cluster.store(store_id)
    assert store is not None, "only for registered stores"
    tally = cluster.regions.tally(store_id)
    is_blocked = store.meta.state is StoreState.OFFLINE and bool(tally.regions)
    why = obstacle(cluster, store_id, max_replicas, now) if is_blocked else ""
    return Removal(store.meta.state, len(tally.regions), tally.region_size, why)
