"""Regions that hibernate: they sleep soon, and wake within a bound, whatever happens to their leader meanwhile.

Each round ends in sleep on all stores, then one thing happens: the leader's store is killed, or is cut off from the others
while clients still reach it, or a follower misses an entry just before all fall asleep.
"""

from __future__ import annotations

import asyncio

from pytinykv.raftstore.config import RaftStoreConfig
from pytinykv.simulation.cluster import Cluster, ClusterOptions, hosts
from pytinykv.simulation.nodes import start_until_up
from pytinykv.simulation.scenario import scenario
from pytinykv.simulation.scenarios.single import must_get, must_put, wait_on_disk
from pytinykv.simulation.store_node import StoreNode

SLEEPY = RaftStoreConfig(region_heartbeat_s=1.0, hibernate_after_s=0.5)
ROUNDS = 3
ASLEEP_S = 6.0
"""After the last operation everything sleeps within this: quiet, a few requests, and the scheduler's moves before that."""
FAILOVER_S = 3.0
"""So soon another store leads: an election timeout of silence, the last follower's delay, and a second for trouble."""
HICCUP_S = 0.6
"""Shorter than what counts as silence."""


@scenario("hibernation", ClusterOptions(stores=3, clients=3, raftstore=SLEEPY), fixed=True)
async def hibernation(cluster: Cluster) -> None:
    """Sleeping regions wake within a bound: their leader's store is killed or cut off, or a follower lacks an entry."""
    happenings = [_kill_leader, _cut_off_leader, _miss_an_entry]
    cluster.rng.shuffle(happenings)
    for number in range(ROUNDS):
        await _put(cluster, b"before %d" % number)
        await _get(cluster, b"before %d" % number)
        await _wait_asleep(cluster)
        await happenings[number % len(happenings)](cluster, b"after %d" % number)
        cluster.network.heal()


async def _put(cluster: Cluster, value: bytes, number: int = 0) -> None:
    """Write by a client; the first one, unless said otherwise."""
    client = cluster.clients[number]
    await client.spawn("put", must_put(cluster.session(client), b"k", value))


async def _get(cluster: Cluster, wanted: bytes) -> None:
    """Read by the second client, which asks the leader that it knows."""
    client = cluster.clients[1]
    await client.spawn("get", must_get(cluster.session(client), b"k", wanted))


async def _wait_asleep(cluster: Cluster) -> None:
    def all_sleep() -> bool:
        stores = [serving[1] for store in cluster.stores if (serving := store.serving) is not None]
        peers = [peer for store in stores for peer in store.peers.values()]
        return len(stores) == len(cluster.stores) and all(peer.rest.is_asleep for peer in peers)

    await cluster.wait_until(all_sleep, limit_s=ASLEEP_S, what="all regions to sleep")


async def _wait_for_another(cluster: Cluster, old: StoreNode) -> None:
    await cluster.wait_until(
        lambda: any(store is not old for store in cluster.leaders().values()),
        limit_s=FAILOVER_S,
        what="another store to lead a region that slept",
    )


async def _kill_leader(cluster: Cluster, value: bytes) -> None:
    leader = await cluster.wait_for_leader()
    await leader.crash()
    await _wait_for_another(cluster, leader)
    await _put(cluster, value)
    await start_until_up(leader)
    await wait_on_disk(cluster, leader, b"k", value)


async def _cut_off_leader(cluster: Cluster, value: bytes) -> None:
    """Clients reach all stores; one of them goes on asking the old leader, and must not see what was before."""
    leader = await cluster.wait_for_leader()
    others = [store for store in cluster.stores if store is not leader]
    cluster.network.partition([leader.host], hosts(others))
    await _wait_for_another(cluster, leader)
    await _put(cluster, value, number=2)  # it knows no leader yet, so it asks the scheduler
    await _get(cluster, value)
    cluster.network.heal()
    await wait_on_disk(cluster, leader, b"k", value)


async def _miss_an_entry(cluster: Cluster, value: bytes) -> None:
    """For less time than counts as silence, a follower gets nothing; it has everything soon, without a further write."""
    leader = await cluster.wait_for_leader()
    follower = cluster.rng.choice([store for store in cluster.stores if store is not leader])
    cluster.network.block(leader.host, follower.host)
    await _put(cluster, value)
    await asyncio.sleep(HICCUP_S)
    cluster.network.unblock(leader.host, follower.host)
    await wait_on_disk(cluster, follower, b"k", value)
