"""Which peers of a region work, and what may be done without losing the majority.

A membership change needs a majority of the voters before it, and the region needs one of the voters after it (thesis
4.1). So a working voter is only removed when those that still work afterwards are a majority of what is left; a voter
that doesn't work may always go, since that only makes the majority smaller. Learners count for nothing and may always go.
"""

from __future__ import annotations

from collections.abc import Callable

from pytinykv.model import Peer, PeerRole, StoreId
from pytinykv.scheduler.cluster_view import ClusterView
from pytinykv.scheduler.operators import has_caught_up
from pytinykv.scheduler.records import ReportedRegion


def is_working(cluster: ClusterView, region: ReportedRegion, peer: Peer, now: float) -> bool:
    """Say whether a peer takes part: caught up, answering its leader, on a store that was heard of lately."""
    store = cluster.store(peer.store_id)
    if store is None or not store.is_responsive(now, cluster.config):
        return False
    return has_caught_up(region, peer.id)


def can_lead(cluster: ClusterView, region: ReportedRegion, peer: Peer, now: float) -> bool:
    """Say whether a peer may be made the leader; see `why_not_leader`."""
    return not why_not_leader(cluster, region, peer.store_id, now)


def why_not_leader(cluster: ClusterView, region: ReportedRegion, store_id: StoreId, now: float) -> str:
    """Say why a store can't lead a region; empty if it can.

    It can if it has a working voter, neither is busy nor has just restarted. A store that is about to stop says that it is
    busy.
    """
    peer, store = region.meta.peer_on(store_id), cluster.store(store_id)
    if peer is None:
        return f"the region has no peer there, but on stores {', '.join(map(str, sorted(region.meta.store_ids)))}"
    if peer.role is not PeerRole.VOTER:
        return "its peer there is a learner"
    if store is None:
        return "the store is not registered"
    if not store.is_responsive(now, cluster.config):
        return f"the store has been silent for {store.silence_s(now):.0f} s"
    if store.is_busy:
        return "the store is busy, or is about to stop"
    if store.has_just_restarted(now, cluster.config):
        return "the store has just been restarted; try again in a moment"
    return "" if is_working(cluster, region, peer, now) else "its peer there is behind or does not answer"


def can_remove(cluster: ClusterView, region: ReportedRegion, peer: Peer, now: float) -> bool:
    """Say whether the region keeps a working majority without this peer."""
    if peer.role is PeerRole.LEARNER:
        return True
    if len(region.meta.voters) <= 1:
        return False
    if not is_working(cluster, region, peer, now):
        return True
    others = [other for other in region.meta.voters if other.id != peer.id]
    working = sum(is_working(cluster, region, other, now) for other in others)
    return working >= len(others) // 2 + 1


def next_leader(
    cluster: ClusterView,
    region: ReportedRegion,
    now: float,
    *,
    count: Callable[[int], int] | None = None,
    unless: Callable[[Peer], bool] = lambda _: False,
) -> Peer | None:
    """Return the working follower on the store with the fewest leaders, or None. See `can_lead`.

    `count` says how many leaders a store has (default: as reported), `unless` leaves peers out.
    """
    leaders = count or (lambda store_id: len(cluster.regions.tally(store_id).leaders))
    candidates = [peer for peer in region.followers if can_lead(cluster, region, peer, now) and not unless(peer)]
    return min(
        candidates,
        key=lambda peer: (leaders(peer.store_id), peer.store_id),
        default=None,
    )
