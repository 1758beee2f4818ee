"""Regions on the move: balance, scatter, stores that are drained, rolling restarts of many regions, all with faults on.

What must come true here is not only that nothing is lost. Balance must be reached and come to an end; a store that is drained
becomes empty, says so and ends; a store that is told to stop hands over all that it leads first.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from functools import partial
from random import Random

import msgspec

from pytinykv.client.async_client import AsyncClient
from pytinykv.client.errors import ClientError
from pytinykv.model import Region
from pytinykv.raftstore.config import RaftStoreConfig
from pytinykv.scheduler.config import SchedulerConfig
from pytinykv.scheduler.scheduler import Scheduler
from pytinykv.simulation.cluster import Cluster, ClusterOptions
from pytinykv.simulation.errors import Violation
from pytinykv.simulation.nemeses import NEMESES
from pytinykv.simulation.nodes import start_until_up
from pytinykv.simulation.scenario import scenario
from pytinykv.simulation.scenarios.generic import REGION_MAX_BYTES, REGION_SPLIT_BYTES, finish
from pytinykv.simulation.scenarios.single import must_be, must_get, must_put
from pytinykv.simulation.scenarios.storm import weather
from pytinykv.simulation.store_node import StoreNode
from pytinykv.simulation.workloads import Session
from pytinykv.wire.pb import metapb_pb2

REGIONS = 12
BALANCE_S = 60.0
"""How long spreading so many small regions may take: an operator of three steps each, some of them at a time."""
QUIET_S = 5.0
"""Balance is over if nothing is ordered for this long."""
PUT_MAX_S = 0.5
"""No put may take longer while stores are restarted one by one, as in the table of the real thing."""
WAKE_S = 4.0
"""How long after the death of a store each region it led must take writes again."""
PLAIN = RaftStoreConfig(region_heartbeat_s=1.0)
SMALL = RaftStoreConfig(
    region_heartbeat_s=1.0, region_max_bytes=REGION_MAX_BYTES, region_split_bytes=REGION_SPLIT_BYTES
)
THREE = SchedulerConfig(max_replicas=3)
LATER = ClusterOptions(stores=5, raftstore=PLAIN, scheduler=THREE, starts=False)
TROUBLE = ("crashes", "restarts", "partitions", "slow links", "leader changes", "scheduler outages", "power cuts")


def scheduler_of(cluster: Cluster) -> Scheduler:
    """Return the running scheduler."""
    scheduler = cluster.scheduler.scheduler
    assert scheduler is not None
    return scheduler


def keys_of(count: int) -> list[bytes]:
    """Return `count` keys, one in each of as many regions that begin at all but the first of them."""
    return [b"%04d" % number for number in range(count)]


async def split_at(cluster: Cluster, keys: Sequence[bytes]) -> None:
    """Have the scheduler split regions until one begins at each of the keys."""
    client = cluster.clients[0]
    assert client.client is not None
    deadline = cluster.world.loop.time() + BALANCE_S
    while True:
        try:
            answer = await client.spawn("split", client.client.scheduler.split_regions(keys, 5.0))
        except ClientError:
            await asyncio.sleep(0.2)
        else:
            if answer.finished_percentage == 100:
                return
        if cluster.world.loop.time() > deadline:
            raise Violation("liveness", f"not within {BALANCE_S} s: a region that begins at each of {len(keys)} keys")


async def check_readable(session: Session, keys: Sequence[bytes]) -> None:
    """Every region can be written and read."""
    for key in keys:
        await must_put(session, key, key)
    for key in keys:
        await must_get(session, key, key)


# --- balance and scatter ----------------------------------------------------------------------------------------------


@scenario("balance", LATER, fixed=True)
async def balance(cluster: Cluster) -> None:
    """Three stores with many regions get two more, while stores die: peers and leaders spread evenly, and then stay."""
    await _grow(cluster)
    await check_readable(cluster.session(cluster.clients[0]), keys_of(REGIONS))
    stop = asyncio.Event()
    trouble = _trouble(cluster, stop, cluster.rng.choice(["crashes", "restarts", "scheduler outages"]))
    for store in cluster.stores[3:]:
        await start_until_up(store)
    await asyncio.sleep(5.0 * cluster.rng.random())
    stop.set()
    await finish(trouble)
    await cluster.heal_programs()
    await _wait_spread(cluster, peers_apart=2, leaders_apart=2)
    await _wait_quiet(cluster)
    await check_readable(cluster.session(cluster.clients[0]), keys_of(REGIONS))
    await cluster.check_converged()


@scenario("scatter", msgspec.structs.replace(LATER, starts=True), fixed=True)
async def scatter(cluster: Cluster) -> None:
    """One region is split into many, which an administrator scatters while leaders change: they spread evenly."""
    client = cluster.clients[0]
    keys = keys_of(REGIONS)
    await split_at(cluster, keys[1:])
    stop = asyncio.Event()
    trouble = _trouble(cluster, stop, "leader changes")
    regions = [region.id for region in cluster.replica_observer.regions]
    assert client.client is not None

    await client.spawn("scatter", _scatter(client.client, regions))
    await asyncio.sleep(3.0)
    stop.set()
    await finish(trouble)
    await _wait_spread(cluster, peers_apart=2, leaders_apart=2)
    await check_readable(cluster.session(client), keys)


async def _scatter(client: AsyncClient, chosen: Sequence[int]) -> None:
    regions = list(chosen)
    while regions:
        with suppress(ClientError):
            regions = await client.scheduler.scatter_regions(regions, 5.0)
        await asyncio.sleep(0.5)


async def _grow(cluster: Cluster) -> None:
    """Start scheduler, clients and the first three stores, and split the first region into many."""
    for node in (cluster.scheduler, *cluster.stores[:3], *cluster.clients):
        await node.start()
    await cluster.wait_until(lambda: cluster.replicas() >= 3, limit_s=BALANCE_S, what="three replicas")
    await split_at(cluster, keys_of(REGIONS)[1:])


def _trouble(cluster: Cluster, stop: asyncio.Event, *names: str) -> list[asyncio.Task[None]]:
    cluster.notes.extend(names)
    cluster.begin_trouble(names)
    return [
        cluster.world.loop.create_task(_harm(cluster, name, stop), name=f"nemesis:{name}")
        for name in names
        if cluster.may(name)
    ]


async def _harm(cluster: Cluster, name: str, stop: asyncio.Event) -> None:
    await NEMESES[name](cluster, cluster.world.rng_for(f"nemesis/{name}"), stop)


def spread(cluster: Cluster) -> tuple[Counter[int], Counter[int]]:
    """Return how many peers, and how many leaders, each store of the cluster has, by what the disks and stores say."""
    peers, leaders = Counter[int](), Counter[int]()
    for store in cluster.stores:
        if store.running:
            peers[store.store_id] = leaders[store.store_id] = 0
    for region in cluster.replica_observer.regions:
        peers.update(peer.store_id for peer in region.peers)
    leaders.update(store.store_id for store in cluster.leaders().values())
    return peers, leaders


async def _wait_spread(cluster: Cluster, *, peers_apart: int, leaders_apart: int) -> None:
    def is_even() -> bool:
        peers, leaders = spread(cluster)
        return (
            max(peers.values()) - min(peers.values()) <= peers_apart
            and max(leaders.values()) - min(leaders.values()) <= leaders_apart
            and all(len(region.voters) == len(region.peers) == 3 for region in cluster.replica_observer.regions)
        )

    await cluster.wait_until(is_even, limit_s=BALANCE_S, what="regions spread evenly over all stores")


async def _wait_quiet(cluster: Cluster) -> None:
    """Raise `Violation` unless the scheduler soon has nothing to do any more, and then does nothing for a while."""
    scheduler = scheduler_of(cluster)
    await cluster.wait_until(lambda: not scheduler.operators.running(), limit_s=BALANCE_S, what="no operator")
    await asyncio.sleep(QUIET_S)
    before = spread(cluster)
    await asyncio.sleep(QUIET_S)
    must_be(spread(cluster), before, "where peers and leaders are, with nothing wrong")


# --- draining ---------------------------------------------------------------------------------------------------------


@scenario("drain", ClusterOptions(stores=4, clients=2, raftstore=SMALL, scheduler=THREE, think_s=0.05), fixed=True)
async def drain(cluster: Cluster) -> None:
    """A store is drained while clients write and another one dies now and then: it becomes empty, and ends by itself."""
    client, asking = cluster.clients
    session = cluster.session(client)
    stop = asyncio.Event()
    for number in range(80):
        await client.spawn("put", must_put(session, b"key %03d" % number, bytes(50)))
    work = client.spawn("work", _write(session, cluster.rng, stop))
    victim = cluster.rng.choice(cluster.stores)
    others = [store for store in cluster.stores if store is not victim]
    gone = victim.store_id
    cluster.replica_observer.on_region.append(partial(_must_have_three_voters, cluster))
    trouble = cluster.world.loop.create_task(_kill_now_and_then(cluster, others, stop), name="trouble")
    await asking.spawn("remove", _remove(cluster, gone))
    stop.set()
    await finish([trouble, work])
    await cluster.heal_programs_of(others)
    await cluster.wait_until(
        lambda: not victim.running, limit_s=10.0, what=f"the end of {victim.host}, which was removed"
    )
    await victim.wait_ended()
    for region in cluster.replica_observer.regions:
        if gone in region.store_ids or len(region.voters) != 3:
            raise Violation("story", f"store {gone} was removed, and a region is {region}")
    await start_until_up(victim)  # with an empty disk, since the scheduler does not take the old one back
    if victim.store_id == gone:
        raise Violation("story", f"store {gone} came back although it had been removed")
    await client.spawn("read", check_readable(session, [b"key %03d" % number for number in range(80)]))


def _must_have_three_voters(cluster: Cluster, region: Region) -> None:
    """A replacement is there before a peer goes, so that a region is never weaker than it was.

    But a peer that is behind adds nothing, and goes first.
    """
    if len(region.voters) < 3:
        operators = scheduler_of(cluster).operators
        why = [one.description for one in (*operators.running(), *operators.ended()) if one.region_id == region.id]
        if not any("that is behind" in one for one in why):
            raise Violation("story", f"while a store was drained a region had too few voters, by {why}: {region}")


async def _remove(cluster: Cluster, store_id: int) -> None:
    client = cluster.clients[1].client
    assert client is not None
    deadline = cluster.world.loop.time() + BALANCE_S
    while True:
        try:
            removal = await client.scheduler.remove_store(store_id, 3.0)
            if removal.state == metapb_pb2.StoreState.Tombstone:
                return
            why = removal.obstacle
        except ClientError as error:
            why = str(error)
        if cluster.world.loop.time() > deadline:
            raise Violation("liveness", f"store {store_id} is not empty after {BALANCE_S} s: {why}")
        await asyncio.sleep(0.5)


async def _kill_now_and_then(cluster: Cluster, stores: Sequence[StoreNode], stop: asyncio.Event) -> None:
    while not stop.is_set():
        await asyncio.sleep(4.0 * cluster.rng.random())
        victim = cluster.rng.choice(stores)
        await victim.crash()
        await asyncio.sleep(cluster.rng.random())
        await start_until_up(victim)


async def _write(session: Session, rng: Random, stop: asyncio.Event) -> None:
    while not stop.is_set():
        key = b"key %03d" % rng.randrange(80)
        await must_put(session, key, bytes(rng.choice([20, 100])))
        await asyncio.sleep(0.05)


# --- rolling restarts, and deaths, of stores with many regions --------------------------------------------------------


@scenario("rolling-regions", ClusterOptions(stores=3, clients=3, raftstore=PLAIN, scheduler=THREE), fixed=True)
async def rolling_regions(cluster: Cluster) -> None:
    """Stores with many regions are restarted one by one: each hands over all it leads, and no put fails or takes long."""
    keys = keys_of(2 * REGIONS)
    await split_at(cluster, keys[1:])
    await _wait_spread(cluster, peers_apart=0, leaders_apart=4)
    stop = asyncio.Event()
    work = [
        client.spawn("load", _load(cluster, cluster.session(client), keys, cluster.world.rng_for(client.host), stop))
        for client in cluster.clients
    ]
    for store in cluster.stores:
        await asyncio.sleep(1.0)
        await _restart(store)
        await asyncio.sleep(1.0)
    stop.set()
    await finish(work)


async def _restart(node: StoreNode) -> None:
    assert node.serving is not None
    store = node.serving[1]
    led = sum(peer.is_leader for peer in store.peers.values())
    await node.stop()
    if kept := [region_id for region_id, peer in store.peers.items() if peer.is_leader]:
        raise Violation(
            "story", f"{node.host} led {led} regions, and {len(kept)} of them still when it stopped: {kept}"
        )
    await node.start()


async def _load(cluster: Cluster, session: Session, keys: Sequence[bytes], rng: Random, stop: asyncio.Event) -> None:
    """Put one value after the other, and want each of them to succeed in time at the first attempt that the client shows."""
    loop = cluster.world.loop
    while not stop.is_set():
        key, since = rng.choice(keys), loop.time()
        try:
            await session.put(key, b"%f" % since)
        except ClientError as error:
            raise Violation(
                "story", f"a put of {key!r} failed while stores were restarted one by one: {error!r}"
            ) from error
        if loop.time() - since > PUT_MAX_S:
            raise Violation("story", f"a put of {key!r} took {loop.time() - since:.3f} s while stores were restarted")
        await asyncio.sleep(0.02)


@scenario("sleepers", ClusterOptions(stores=3, raftstore=PLAIN, scheduler=THREE), fixed=True)
async def sleepers(cluster: Cluster) -> None:
    """Regions that were idle for long lose their leaders at once: all take writes again soon, whatever they did meanwhile."""
    client = cluster.clients[0]
    session, keys = cluster.session(client), keys_of(2 * REGIONS)
    await split_at(cluster, keys[1:])
    await client.spawn("put", check_readable(session, keys))
    await asyncio.sleep(10.0 + 20.0 * cluster.rng.random())
    victim = cluster.draw_leader(cluster.rng)
    assert victim is not None
    await victim.crash()
    since = cluster.world.loop.time()
    await cluster.wait_until(  # without a client that asks for them
        lambda: len(cluster.leaders()) == len(keys), limit_s=WAKE_S, what="a leader of each region, as one was killed"
    )
    await finish([client.spawn("put", must_put(session, key, b"again")) for key in keys])
    took_s = cluster.world.loop.time() - since
    if took_s > WAKE_S:
        raise Violation("story", f"idle regions took {took_s:.3f} s to serve again after their leader died")
    await start_until_up(victim)


# --- everything at once -----------------------------------------------------------------------------------------------


@scenario(
    "region-churn",
    ClusterOptions(stores=5, clients=5, raftstore=SMALL, scheduler=THREE, think_s=0.04, success_within_s=120.0),
)
async def region_churn(cluster: Cluster) -> None:
    """Regions split, move, are scattered and drained, while stores, links and the scheduler fail."""
    chosen = ["splits", *cluster.rng.sample(("ordered splits", "scatters", "drained stores"), 2)]
    await weather(cluster, [*chosen, *sorted(cluster.rng.sample(TROUBLE, 2))], "batch")
