"""Fault makers that give needless orders: leaders hand over, members come and go, the scheduler hears of it late."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from random import Random
from typing import TYPE_CHECKING, Any

from pytinykv.client.errors import ClientError
from pytinykv.model import Peer, PeerRole, RegionId, StoreId
from pytinykv.raft import (
    ConfChangeKind,
    PeerId,
)
from pytinykv.raftstore import MembershipChange
from pytinykv.simulation.faults import pause
from pytinykv.simulation.network import LinkConditions

if TYPE_CHECKING:
    from pytinykv.simulation.cluster import Cluster
    from pytinykv.simulation.process import Process


async def leader_changes(cluster: Cluster, rng: Random, stop: asyncio.Event) -> None:
    """Order leaders to hand over to another peer."""
    while not stop.is_set():
        await pause(stop, 2.0 * rng.random())
        leader = cluster.draw_leader(rng)
        serving = None if leader is None else leader.serving
        if serving is not None:
            process, store = serving
            for peer in list(store.peers.values()):
                if peer.is_leader:
                    target = rng.choice(peer.region.peers)
                    _order(cluster, process, store.transfer_leader, peer.region.id, target.id)


async def member_changes(cluster: Cluster, rng: Random, stop: asyncio.Event) -> None:
    """Remove members behind the scheduler's back; its replica checker brings others in."""
    while not stop.is_set():
        await pause(stop, 4.0 * rng.random())
        leader = cluster.draw_leader(rng)
        serving = None if leader is None else leader.serving
        if serving is not None:
            process, store = serving
            for peer in list(store.peers.values()):
                if peer.is_leader and len(peer.region.peers) > len(cluster.stores) // 2 + 1:
                    change = MembershipChange(ConfChangeKind.REMOVE, rng.choice(peer.region.peers))
                    _order(cluster, process, store.change_membership, RegionId(peer.region.id), change)


async def stale_scheduler(cluster: Cluster, rng: Random, stop: asyncio.Event) -> None:
    """Give a store a new peer while the scheduler hears of nothing, and leave that peer alone with the scheduler."""
    while not stop.is_set():
        await pause(stop, 0.3 + rng.random())
        number = await _alloc_id(cluster)
        leader = cluster.draw_leader(rng)
        serving = None if leader is None else leader.serving
        target = rng.choice(cluster.stores)
        if number is None or serving is None or target is leader or not target.is_up:
            continue
        others = [store.host for store in cluster.stores if store is not target]
        for host in others:
            cluster.network.block(host, "scheduler")
        process, store = serving
        for peer in [peer for peer in store.peers.values() if peer.is_leader]:
            region_id = RegionId(peer.region.id)
            old = peer.region.peer_on(StoreId(target.store_id))
            if old is None or len(peer.region.voters) < len(cluster.stores):
                continue  # the scheduler is about to give this store a peer; that one's id would be older than ours
            _order(cluster, process, store.change_membership, region_id, MembershipChange(ConfChangeKind.REMOVE, old))
            await pause(stop, 0.3)
            new = Peer(PeerId(number), StoreId(target.store_id), PeerRole.LEARNER)
            _order(
                cluster, process, store.change_membership, region_id, MembershipChange(ConfChangeKind.ADD_LEARNER, new)
            )
            await pause(stop, 0.1 + 0.5 * rng.random())
        cluster.network.partition([target.host], others)
        await pause(stop, 2.5 * cluster.options.raftstore.leader_missing_s)
        cluster.network.heal()


async def stale_reports(cluster: Cluster, rng: Random, stop: asyncio.Event) -> None:
    """Let a leader's reports, and its orders, travel for seconds, while members change and others lead."""
    slow = LinkConditions(straggle=1.0, straggle_max_s=4.0)
    while not stop.is_set():
        await pause(stop, 0.5 * rng.random())
        first = cluster.draw_leader(rng)
        serving = None if first is None else first.serving
        if first is None or serving is None:
            continue
        cluster.network.set_conditions(first.host, "scheduler", slow)
        cluster.network.set_conditions("scheduler", first.host, slow)
        await pause(stop, cluster.options.raftstore.region_heartbeat_s)
        process, store = first.serving or serving
        for peer in [peer for peer in store.peers.values() if peer.is_leader]:
            _order(cluster, process, store.transfer_leader, peer.region.id, rng.choice(peer.region.peers).id)
        await pause(stop, 0.5)
        second = cluster.draw_leader(rng)
        if second is not None and second.serving is not None:
            process, store = second.serving
            for peer in [peer for peer in store.peers.values() if peer.is_leader and len(peer.region.peers) > 2]:
                change = MembershipChange(ConfChangeKind.REMOVE, rng.choice(peer.region.peers))
                _order(cluster, process, store.change_membership, RegionId(peer.region.id), change)
        await pause(stop, 3.0 * rng.random())
        cluster.network.heal()


def _order(cluster: Cluster, process: Process, order: Callable[..., object], *args: Any) -> None:
    """Have a store take a needless order."""
    cluster.world.trace.record("order", process.host, order.__name__)
    process.post(order, *args)


async def _alloc_id(cluster: Cluster) -> int | None:
    """Ask the scheduler for an id; a peer's has to be newer than those of all peers before it."""
    client = cluster.clients[0]
    assert client.client is not None
    try:
        return await client.spawn("id", client.client.scheduler.alloc_id(1.0))
    except ClientError:
        return None
