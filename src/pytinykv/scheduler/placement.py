"""Placement: which store gets a new peer, and which of too many peers goes.

A store gets a peer only if it is up and was heard of lately, has room, is not busy, has no peer of the region yet and does
not already take part in too many operators. Among those the one with the fewest regions wins (counting peers that are
on their way), then the smallest, then the lowest id.
"""

from __future__ import annotations

from pytinykv.model import Peer, StoreId
from pytinykv.scheduler.cluster_view import ClusterView
from pytinykv.scheduler.operator_controller import OperatorController
from pytinykv.scheduler.quorum import can_remove, is_working
from pytinykv.scheduler.records import RegionInfo
from pytinykv.scheduler.stores import StoreHealth, StoreInfo

ENGINE_LABEL = "engine"
FOREIGN_ENGINES = frozenset({"tiflash", "tiflash_compute"})
"""Stores with these labels hold no ordinary peers."""


def choose_target(
    cluster: ClusterView, operators: OperatorController, region: RegionInfo, now: float
) -> StoreInfo | None:
    """Return the best store for another peer of the region, or None."""
    taken = region.meta.store_ids
    candidates = [
        store for store in cluster.stores() if store.id not in taken and _is_target(cluster, operators, store, now)
    ]
    return min(candidates, key=lambda store: _fill(cluster, operators, store.id), default=None)


def choose_surplus(cluster: ClusterView, region: RegionInfo, now: float) -> Peer | None:
    """Return the voter that a region with too many voters needs least, or None while none can be removed.

    First one that doesn't work, then one on the fullest store; the leader only if there is no other.
    """
    removable = [peer for peer in region.meta.voters if can_remove(cluster, region, peer, now)]
    candidates = [peer for peer in removable if not _is_busy(cluster, peer)]

    def dispensability(peer: Peer) -> tuple[bool, bool, int, int, int]:
        tally = cluster.regions.tally(peer.store_id)
        is_leader = region.leader is not None and region.leader.id == peer.id
        broken = not is_working(cluster, region, peer, now)
        return (broken, not is_leader, len(tally.regions), tally.region_size, peer.store_id)

    return max(candidates, key=dispensability, default=None)


def _is_target(cluster: ClusterView, operators: OperatorController, store: StoreInfo, now: float) -> bool:
    return (
        store.health(now, cluster.config) is StoreHealth.UP
        and not store.is_busy
        and store.has_space(cluster.config)
        and store.meta.label(ENGINE_LABEL) not in FOREIGN_ENGINES
        and operators.store_load(store.id) < cluster.config.store_operators_max
    )


def _is_busy(cluster: ClusterView, peer: Peer) -> bool:
    store = cluster.store(peer.store_id)
    return store is not None and store.is_busy


def _fill(cluster: ClusterView, operators: OperatorController, store_id: StoreId) -> tuple[int, int, int]:
    tally = cluster.regions.tally(store_id)
    return (len(tally.regions) + operators.pending_additions(store_id), tally.region_size, store_id)
