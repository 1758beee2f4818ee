"""Placement: which store gets a new peer, and which of too many peers goes.

A store gets a peer only if it is up and was heard of lately, has room, is not busy, has no peer of the region yet and does
not already take part in too many operators, or get too many peers a minute. Among those the one that carries least wins, by
the sum of its regions' weights (counting what is on its way), then the lowest id.
"""

from __future__ import annotations

from pytinykv.model import Peer
from pytinykv.scheduler.cluster_view import ClusterView
from pytinykv.scheduler.limits import Way
from pytinykv.scheduler.operator_controller import OperatorController
from pytinykv.scheduler.quorum import can_remove, is_working
from pytinykv.scheduler.records import ReportedRegion
from pytinykv.scheduler.stores import StoreHealth, StoreInfo

ENGINE_LABEL = "engine"
FOREIGN_ENGINES = frozenset({"tiflash", "tiflash_compute"})
"""Stores with these labels hold no ordinary peers."""


def choose_target(
    cluster: ClusterView, operators: OperatorController, region: ReportedRegion, now: float
) -> StoreInfo | None:
    """Return the best store for another peer of the region, or None."""
    taken = region.meta.store_ids
    candidates = [
        store
        for store in cluster.stores()
        if store.id not in taken and is_target(cluster, operators, store, region, now)
    ]
    return min(candidates, key=lambda store: (operators.weight(store.id), store.id), default=None)


def choose_surplus(cluster: ClusterView, region: ReportedRegion, now: float) -> Peer | None:
    """Return the voter that a region with too many voters needs least, or None while none can be removed.

    First one that doesn't work, then one on the fullest store; the leader only if there is no other.
    """
    removable = [peer for peer in region.meta.voters if can_remove(cluster, region, peer, now)]
    candidates = [peer for peer in removable if not _is_busy(cluster, peer)]

    def dispensability(peer: Peer) -> tuple[bool, bool, int, int, int]:
        tally = cluster.regions.tally(peer.store_id)
        is_leader = region.leader is not None and region.leader.id == peer.id
        broken = not is_working(cluster, region, peer, now)
        return (broken, not is_leader, tally.weight, len(tally.regions), peer.store_id)

    return max(candidates, key=dispensability, default=None)


def can_hold(cluster: ClusterView, store: StoreInfo, now: float) -> bool:
    """Say whether a store is one for ordinary peers, is up, and has room."""
    return (
        store.health(now, cluster.config) is StoreHealth.UP
        and store.has_space(cluster.config)
        and store.meta.label(ENGINE_LABEL) not in FOREIGN_ENGINES
    )


def is_target(
    cluster: ClusterView, operators: OperatorController, store: StoreInfo, region: ReportedRegion, now: float
) -> bool:
    """Say whether a store may get a peer of the region now, if it has none."""
    return (
        can_hold(cluster, store, now)
        and not store.is_busy
        and operators.store_load(store.id) < cluster.config.store_operators_max
        and operators.limits.allows(store.id, Way.ADD, region, now)
    )


def _is_busy(cluster: ClusterView, peer: Peer) -> bool:
    store = cluster.store(peer.store_id)
    return store is not None and store.is_busy
