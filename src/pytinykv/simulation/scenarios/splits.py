"""Regions that split: TinyKV's stories of part 3B over small regions, and what users of such systems have met.

The general story comes in variants with small regions; the others have a course of their own.
"""

from __future__ import annotations

import asyncio
from functools import partial
from random import Random

import msgspec

from pytinykv.client.router import OUTAGE_WAIT_S
from pytinykv.model import PeerId, Region, RegionId, SplitIds
from pytinykv.raftstore.config import RaftStoreConfig
from pytinykv.raftstore.keys import REGION_STATE_START
from pytinykv.raftstore.splits import encode_split
from pytinykv.raftstore.store import Store
from pytinykv.raftstore.turn import Turn
from pytinykv.simulation.cluster import Cluster, ClusterOptions, hosts
from pytinykv.simulation.disk import DiskTiming, OnWrite, Replaced, SimEngine
from pytinykv.simulation.errors import Violation
from pytinykv.simulation.nemeses import NEMESES
from pytinykv.simulation.nemeses.regions import keys_inside
from pytinykv.simulation.nodes import start_until_up
from pytinykv.simulation.observers import Seen, check_replicas_equal, data_by_region, newest_regions
from pytinykv.simulation.scenario import scenario
from pytinykv.simulation.scenarios.generic import (
    REGION_MAX_BYTES,
    REGION_SPLIT_BYTES,
    GenericStory,
    check_split,
    finish,
    register,
)
from pytinykv.simulation.scenarios.single import must_be, must_get, must_put, wait_on_disk
from pytinykv.simulation.scenarios.storm import draw_options, weather, with_settings
from pytinykv.simulation.store_node import StoreNode
from pytinykv.simulation.workloads import Session

ONE_SPLIT = RaftStoreConfig(region_heartbeat_s=1.0, region_max_bytes=800, region_split_bytes=500)
SMALL = RaftStoreConfig(
    region_heartbeat_s=1.0, region_max_bytes=REGION_MAX_BYTES, region_split_bytes=REGION_SPLIT_BYTES
)
MISSED = RaftStoreConfig(
    region_heartbeat_s=1.0,
    region_max_bytes=800,
    region_split_bytes=500,
    log_keep_entries=1,
    log_gc_bytes=1,
    log_gc_bytes_force=2,
    peer_down_s=0.3,
)
CUT_CHANCE = 0.5
"""How often a store dies that has just written the state of a region."""
DEAF_S = 5.0
"""How long the scheduler hears of no region."""
STORM_SPLITS = 15
"""How often regions split while there is no scheduler."""
PUT_MAX_S = 0.5
"""No put may take longer while regions split and nothing else is wrong: far below an election."""
COMPARE_S = 0.01
GREATEST = b"\xff" * 20
"""A key above those of which a careless eye thinks that there is none greater."""


def region_of(cluster: Cluster, key: bytes) -> Region:
    """Return the newest region on any disk that holds a key."""
    return next(region for region in newest_regions(cluster.engines()) if region.contains(key))


@scenario("one-split", ClusterOptions(raftstore=ONE_SPLIT), fixed=True)
async def one_split(cluster: Cluster) -> None:
    """A region grows too large while one store is cut off, and that one has it all afterwards."""
    client = cluster.clients[0]
    await client.spawn("story", _one_split(cluster, cluster.session(client)))


async def _one_split(cluster: Cluster, session: Session) -> None:
    await must_put(session, b"k1", b"v1")
    await must_put(session, b"k2", b"v2")
    before = region_of(cluster, b"k1")
    must_be(region_of(cluster, b"k2"), before, "the region of k2")
    leader = await cluster.wait_for_leader()
    far = cluster.rng.choice([store for store in cluster.stores if store is not leader])
    cluster.network.partition([far.host], hosts([store for store in cluster.stores if store is not far]))
    for number in range(100, 200):
        await must_put(session, b"k%d" % number, b"v%d" % number)
    await cluster.wait_until(
        lambda: region_of(cluster, b"k1").id != region_of(cluster, b"k2").id, limit_s=20.0, what="a split"
    )
    cluster.network.heal()
    left, right = region_of(cluster, b"k1"), region_of(cluster, b"k2")
    must_be(right.id, before.id, "the id of the last part")
    must_be(right.end_key, before.end_key, "its end")
    must_be(left.start_key, before.start_key, "the start of the first part")
    await wait_on_disk(cluster, far, b"k100", b"v100")
    await wait_on_disk(cluster, far, b"k199", b"v199")
    for number in range(100, 200, 7):
        await must_get(session, b"k%d" % number, b"v%d" % number)


register(
    "split-recover",
    "Small regions; all stores restart between the rounds of one client.",
    GenericStory(crash=True, splits=True),
)
register(
    "split-recover-many-clients",
    "Small regions under twenty clients; all stores restart between the rounds.",
    GenericStory(clients=20, crash=True, splits=True),
)
register(
    "split-unreliable",
    "Small regions under many clients on a bad network.",
    GenericStory(clients=5, unreliable=True, splits=True),
)
register(
    "split-unreliable-recover",
    "Small regions, a bad network, and all stores restart between the rounds.",
    GenericStory(clients=5, unreliable=True, crash=True, splits=True),
)
register(
    "split-members-snapshot-unreliable-recover",
    "Small regions whose members change, a short log, a bad network, and restarts.",
    GenericStory(clients=5, unreliable=True, crash=True, short_log=True, splits=True, member_changes=True),
)
register(
    "split-members-snapshot-unreliable-recover-concurrent-partition",
    "Small regions whose members change, a short log, a bad network, partitions, and restarts.",
    GenericStory(
        clients=5, unreliable=True, crash=True, partitions=True, short_log=True, splits=True, member_changes=True
    ),
)


# --- the scheduler hears of it late -----------------------------------------------------------------------------------


@scenario("deaf-scheduler", ClusterOptions(stores=3, raftstore=RaftStoreConfig(region_heartbeat_s=1.0)), fixed=True)
async def deaf_scheduler(cluster: Cluster) -> None:
    """One region becomes five and the scheduler hears of it seconds later; clients go by what stores say, at once."""
    client = cluster.clients[0]
    await client.spawn("story", _deaf_scheduler(cluster, cluster.session(client)))


async def _deaf_scheduler(cluster: Cluster, session: Session) -> None:
    keys = [b"a", b"d", b"h", b"q", b"x"]
    for key in keys:
        await must_put(session, key, key)
    leader = await cluster.wait_for_leader()
    serving = leader.serving
    assert serving is not None
    process, store = serving
    region = region_of(cluster, b"a")
    ids = [await split_ids(cluster, len(region.peers)) for _ in range(4)]
    for host in cluster.store_hosts:  # from now on the scheduler knows one region, and hears of nothing
        cluster.network.block(host, "scheduler")
    ended: list[object] = []

    def propose(turn: Turn) -> None:
        data = encode_split(region.epoch, [b"c", b"g", b"p", b"t"], ids)
        store.peers[region.id].calls.propose_admin(turn, data, lambda error, _regions: ended.append(error))

    process.post(store.in_turn, propose)
    await cluster.wait_until(lambda: bool(ended), limit_s=5.0, what="a split")
    must_be(ended, [None], "what came of the split")
    loop = asyncio.get_running_loop()
    client = cluster.clients[0].client
    assert client is not None
    must_be(await client.raw.batch_get(keys, timeout=PUT_MAX_S), {key: key for key in keys}, "what is in all five")
    for key in cluster.rng.sample(keys, len(keys)):
        since = loop.time()
        await must_put(session, key, key + b"!")
        await must_get(session, key, key + b"!")
        if loop.time() - since > PUT_MAX_S:
            raise Violation(
                "story", f"key {key!r} took {loop.time() - since:.3f} s while the scheduler heard of nothing"
            )
    await asyncio.sleep(DEAF_S)
    cluster.network.heal()
    await check_split(cluster)


async def split_ids(cluster: Cluster, peers: int) -> SplitIds:
    """Have the scheduler give ids for a new region with so many peers."""
    client = cluster.clients[0].client
    assert client is not None
    numbers = [await client.scheduler.alloc_id(1.0) for _ in range(1 + peers)]
    return SplitIds(RegionId(numbers[0]), tuple(PeerId(number) for number in numbers[1:]))


@scenario("absent-scheduler", ClusterOptions(stores=3, clients=3, raftstore=SMALL), fixed=True)
async def absent_scheduler(cluster: Cluster) -> None:
    """The scheduler dies and regions split all the time until it is back: it learns all of them, and gives no id twice."""
    keys = [b"%03d" % number for number in range(STORM_SPLITS * 3)]
    session, asker = cluster.session(cluster.clients[0]), cluster.clients[0]
    for client in cluster.clients:  # each knows where the region is before the scheduler dies
        await client.spawn("fill", _put_all(cluster.session(client), keys))
    ids = [await asker.spawn("ids", split_ids(cluster, 3)) for _ in range(STORM_SPLITS)]
    await cluster.scheduler.crash()
    stop = asyncio.Event()
    loads = [
        client.spawn("load", _rewrite(cluster.session(client), keys, cluster.world.rng_for(client.host), stop))
        for client in cluster.clients
    ]
    for one in ids:
        await _split_somewhere(cluster, one)
    await asyncio.sleep(DEAF_S)
    if len(newest_regions(cluster.engines())) != 1 + STORM_SPLITS:
        raise Violation("story", "regions did not split, or by themselves, without a scheduler")
    await start_until_up(cluster.scheduler)
    await cluster.wait_until(lambda: _knows_all(cluster), limit_s=DEAF_S, what="the scheduler to know all regions")
    fresh = await asker.spawn("ids", split_ids(cluster, 3))
    await asker.spawn("more", _put_all(session, [b"000 x %03d" % number for number in range(200)]))
    await cluster.wait_until(
        lambda: len(newest_regions(cluster.engines())) > 1 + STORM_SPLITS and _knows_all(cluster),
        limit_s=20.0,
        what="regions that are too large to split again",
    )
    stop.set()
    await finish(loads)
    used = [number for one in (*ids, fresh) for number in (one.region_id, *one.peer_ids)]
    regions = newest_regions(cluster.engines())
    given = [number for region in regions for number in (region.id, *(peer.id for peer in region.peers))]
    later = [number for number in given if number not in used and number > min(used)]
    if len(set(given)) != len(given) or len(set(used)) != len(used) or not later or min(later) <= max(used):
        raise Violation("ids", f"of {sorted(given)} and {sorted(used)} one was given twice")
    await check_split(cluster)
    await cluster.check_converged()


async def _put_all(session: Session, keys: list[bytes]) -> None:
    for key in keys:
        await must_put(session, key, bytes(20))


async def _rewrite(session: Session, keys: list[bytes], rng: Random, stop: asyncio.Event) -> None:
    """Put keys that are there while their regions split; without the scheduler none may take long."""
    loop = asyncio.get_running_loop()
    while not stop.is_set():
        key, since = rng.choice(keys), loop.time()
        await must_put(session, key, bytes(20))
        if loop.time() - since > OUTAGE_WAIT_S + PUT_MAX_S:  # asked about a leader that has moved, it does not answer
            raise Violation("story", f"putting {key!r} took {loop.time() - since:.3f} s without a scheduler")
        await asyncio.sleep(0.02)


async def _split_somewhere(cluster: Cluster, ids: SplitIds) -> None:
    """Have one of the regions that hold several pairs split in two, with ids that were given before."""
    ended: list[object] = []

    def propose(store: Store, region: Region, key: bytes, turn: Turn) -> None:
        data = encode_split(region.epoch, [key], [ids])
        store.peers[region.id].calls.propose_admin(turn, data, lambda error, _regions: ended.append(error))

    while ended != [None]:
        ended.clear()
        region = cluster.rng.choice(newest_regions(cluster.engines()))
        leader = cluster.leaders().get(region.id)
        inside = [] if leader is None else keys_inside(leader, region)
        if leader is None or leader.serving is None or not inside:
            await asyncio.sleep(COMPARE_S)
            continue
        process, store = leader.serving
        process.post(store.in_turn, partial(propose, store, region, cluster.rng.choice(inside)))
        await cluster.wait_until(lambda: bool(ended), limit_s=5.0, what="the end of a split")


def _knows_all(cluster: Cluster) -> bool:
    scheduler = cluster.scheduler.scheduler
    assert scheduler is not None
    known = {region.id: (region.meta.epoch, region.leader is not None) for region in scheduler.cluster.regions}
    return known == {region.id: (region.epoch, True) for region in newest_regions(cluster.engines())}


# --- everything at once -----------------------------------------------------------------------------------------------

CHURN = ("leader changes", "member changes", "crashes", "partitions", "power cuts", "slow links", "restarts")


def _draw_small(rng: Random) -> ClusterOptions:
    options = draw_options(rng)
    small = {"region_max_bytes": rng.choice([600, 2000]), "region_split_bytes": rng.choice([300, 600])}
    raftstore = RaftStoreConfig(**{**vars(options.raftstore), **small})
    return msgspec.structs.replace(options, raftstore=raftstore)


@scenario("split-storm", _draw_small, prepare=with_settings)
async def split_storm(cluster: Cluster) -> None:
    """A random part of all faults, with random settings, over small regions."""
    await weather(cluster, [name for name in cluster.options.drawn if name in NEMESES])


@scenario("split-churn", ClusterOptions(stores=5, clients=4, raftstore=SMALL, think_s=0.04))
async def split_churn(cluster: Cluster) -> None:
    """Regions split while leaders, members and stores come and go."""
    await weather(cluster, sorted(cluster.rng.sample(CHURN, 3)), "batch")


@scenario("split-cuts", ClusterOptions(stores=3, clients=6, raftstore=ONE_SPLIT, think_s=0.02))
async def split_cuts(cluster: Cluster) -> None:
    """Stores die in the turns in which they split a region, before that is durable: all of a split is there, or nothing."""
    rng, stop = cluster.world.rng_for("split cuts"), asyncio.Event()
    condemned: list[StoreNode] = []

    def on_write(
        store: StoreNode, before: OnWrite | None, engine: SimEngine, raft_keys: list[bytes], replaced: list[Replaced]
    ) -> None:
        if before is not None:
            before(engine, raft_keys, replaced)
        if not condemned and any(key[:1] == REGION_STATE_START for key in raft_keys) and rng.random() < CUT_CHANCE:
            condemned.append(store)

    for store in cluster.stores:
        store.disk.timing = DiskTiming(work_extra_mean_s=0.02)
        store.disk.on_write = partial(on_write, store, store.disk.on_write)
    killer = cluster.world.loop.create_task(_kill(condemned, rng, stop), name="killer")
    await weather(cluster, [], "batch")
    stop.set()
    await finish([killer])
    await cluster.heal_programs()


async def _kill(condemned: list[StoreNode], rng: Random, stop: asyncio.Event) -> None:
    while not stop.is_set():
        await asyncio.sleep(0.001)
        if condemned:
            victim = condemned[0]
            await victim.crash()
            if (left := victim.disk.peek()) is not None:
                data_by_region(victim.host, left)  # of each pair the region is there, too
            await asyncio.sleep(rng.random())
            await start_until_up(victim)
            condemned.clear()


@scenario("missed-split", ClusterOptions(stores=3, raftstore=MISSED), fixed=True)
async def missed_split(cluster: Cluster) -> None:
    """A store is cut off while regions split and their logs are cut; it gets every part by snapshot, in whatever order."""
    client = cluster.clients[0]
    await client.spawn("story", _missed_split(cluster, cluster.session(client)))


async def _missed_split(cluster: Cluster, session: Session) -> None:
    for number in range(20):
        await must_put(session, b"%03d" % (number * 10), b"first")
    leader = await cluster.wait_for_leader()
    far = cluster.rng.choice([store for store in cluster.stores if store is not leader])
    for _ in range(2):
        cluster.network.partition([far.host], hosts([store for store in cluster.stores if store is not far]))
        for number in cluster.rng.sample(range(200), 100):
            await must_put(session, b"%03d" % number, bytes(30))
        await must_put(session, GREATEST, b"the last region has no end")
        await cluster.wait_until(lambda: len(newest_regions(cluster.engines())) > 3, limit_s=20.0, what="a few regions")
        await asyncio.sleep(1.0)
        cluster.network.heal()
        await asyncio.sleep(cluster.rng.random())
    await check_split(cluster)
    await cluster.check_converged()


@scenario("split-load", ClusterOptions(stores=3, clients=3, raftstore=SMALL, think_s=0.0), fixed=True)
async def split_load(cluster: Cluster) -> None:
    """Regions split under clients that put as fast as they can, and nothing else is wrong: no put takes long."""
    stop = asyncio.Event()
    watch = cluster.world.loop.create_task(_compare(cluster, stop), name="compare")
    await finish(
        [client.spawn("load", _load(cluster.session(client), client.host.encode())) for client in cluster.clients]
    )
    stop.set()
    await finish([watch])
    if len(newest_regions(cluster.engines())) < 4:
        raise Violation("story", "the regions did not split")


async def _compare(cluster: Cluster, stop: asyncio.Event) -> None:
    """Compare the data of regions at equal applied index all the time: what a region holds depends on its own log alone."""
    seen: Seen = {}
    while not stop.is_set():
        check_replicas_equal(cluster.engines(), seen)
        await asyncio.sleep(COMPARE_S)


async def _load(session: Session, name: bytes) -> None:
    loop = asyncio.get_running_loop()
    for number in range(120):
        key, since = b"%s %03d" % (name, number * 37 % 120), loop.time()
        await must_put(session, key, bytes(50))
        if loop.time() - since > PUT_MAX_S:
            raise Violation("story", f"putting {key!r} took {loop.time() - since:.3f} s while regions split")
