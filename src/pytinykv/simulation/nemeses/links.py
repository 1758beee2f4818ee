"""Fault makers for the network: cuts, clogs, slow links, and news that comes late or never."""

from __future__ import annotations

import asyncio
from random import Random
from typing import TYPE_CHECKING

from pytinykv.simulation.faults import pause, random_link_trouble, random_partitions
from pytinykv.simulation.network import LinkConditions

if TYPE_CHECKING:
    from pytinykv.simulation.cluster import Cluster


async def partitions(cluster: Cluster, rng: Random, stop: asyncio.Event) -> None:
    """Cut the stores into two groups, again and again."""
    await random_partitions(cluster.network, cluster.store_hosts, rng, stop, every_s=0.2 + 2.0 * rng.random())


async def link_trouble(cluster: Cluster, rng: Random, stop: asyncio.Event) -> None:
    """Cut, clog and slow single links, the scheduler's and the clients' too."""
    hosts = [*cluster.store_hosts, "scheduler", *(client.host for client in cluster.clients[:2])]
    await random_link_trouble(cluster.network, hosts, rng, stop, every_s=2.0)


async def swizzled_clogs(cluster: Cluster, rng: Random, stop: asyncio.Event) -> None:
    """Clog all links of some hosts, one host after the other, and free them one after the other, in another order."""
    hosts = [*cluster.store_hosts, "scheduler"]
    while not stop.is_set():
        await pause(stop, rng.random())
        chosen = rng.sample(hosts, rng.randint(2, len(hosts)))
        for act in (cluster.network.clog, cluster.network.unclog):
            rng.shuffle(chosen)
            for host in chosen:
                for other in cluster.all_hosts:
                    if other != host:
                        act(host, other)
                        act(other, host)
                await pause(stop, 0.5 * rng.random())
    cluster.network.heal()


async def split_brains(cluster: Cluster, rng: Random, stop: asyncio.Event) -> None:
    """Leave the leader alone with some clients, and the rest of the world with the others."""
    while not stop.is_set():
        await pause(stop, 1.0 + rng.random())
        leader = cluster.draw_leader(rng)
        if leader is None:
            continue
        near, far = [leader.host], ["scheduler"]
        others = [store.host for store in cluster.stores if store is not leader]
        rng.shuffle(others)
        minority = (len(cluster.stores) - 1) // 2
        near += others[: rng.randrange(minority)]
        far += [host for host in others if host not in near]
        for client in cluster.clients:
            (near if rng.random() < 0.5 else far).append(client.host)
        cluster.network.partition(near, far)
        await pause(stop, 1.0 + 3.0 * rng.random())
        cluster.network.heal()


async def slow_links(cluster: Cluster, rng: Random, stop: asyncio.Event) -> None:
    """Let half of all messages between stores take long: elections meet, and old news arrives late."""
    conditions = LinkConditions(straggle=0.5, straggle_max_s=rng.choice([0.1, 0.3, 0.5]))
    for source in cluster.store_hosts:
        for target in cluster.store_hosts:
            if source != target:
                cluster.network.set_conditions(source, target, conditions)
    await stop.wait()


async def full_buffers(cluster: Cluster, rng: Random, stop: asyncio.Event) -> None:
    """Let streams take no message, often or always."""
    while not stop.is_set():
        cluster.network.full_buffers = rng.choice([0.2, 0.9, 1.0])
        await pause(stop, 2.0 * rng.random())
        cluster.network.full_buffers = 0.0
        await pause(stop, 2.0 * rng.random())


async def lost_receipts(cluster: Cluster, rng: Random, stop: asyncio.Event) -> None:
    """Let senders of snapshots not hear that they have arrived: they send them again, over what is newer by then."""
    while not stop.is_set():
        cluster.network.lost_receipts = rng.choice([0.3, 0.8, 1.0])  # a nemesis that heals takes it back meanwhile
        await pause(stop, 0.2)
    cluster.network.lost_receipts = 0.0
