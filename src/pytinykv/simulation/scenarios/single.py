"""Stories with a fixed course: one partition, one snapshot, one that takes long to install."""

from __future__ import annotations

import asyncio

from pytinykv.model.raw_values import live_value
from pytinykv.raftstore.config import RaftStoreConfig
from pytinykv.raftstore.keys import RAW_TAGS
from pytinykv.simulation.cluster import Cluster, ClusterOptions, hosts
from pytinykv.simulation.disk import DiskTiming
from pytinykv.simulation.errors import Violation
from pytinykv.simulation.observers import applied_indexes, regions_on
from pytinykv.simulation.scenario import scenario
from pytinykv.simulation.store_node import StoreNode
from pytinykv.simulation.workloads import Session, until_done
from pytinykv.storage import ColumnFamily

CATCH_UP_S = 10.0
SNAPSHOT_LOG_KEEP = 10
SLOW_DISK_S = 4.0
"""How long a slow disk takes for a sync: longer than any election timeout."""
TINY_LOG = RaftStoreConfig(
    region_heartbeat_s=1.0, log_keep_entries=SNAPSHOT_LOG_KEEP, log_gc_bytes=1, log_gc_bytes_force=2
)


def on_disk(store: StoreNode, key: bytes) -> bytes | None:
    """Return what a store's own engine holds under a raw key, whether or not a client may read it there."""
    engine = store.disk.peek()
    assert engine is not None
    return live_value(engine.get(ColumnFamily.RAW, RAW_TAGS["default"] + key), 0)


def must_be(found: object, wanted: object, what: str) -> None:
    """Raise `Violation` unless both are equal."""
    if found != wanted:
        raise Violation("story", f"{what} is {found!r}, not {wanted!r}")


async def must_put(session: Session, key: bytes, value: bytes) -> None:
    await until_done(lambda: session.put(key, value), limit_s=20.0, what=f"put {key!r}")


async def must_get(session: Session, key: bytes, wanted: bytes | None) -> None:
    must_be(await until_done(lambda: session.get(key), limit_s=20.0, what=f"get {key!r}"), wanted, f"key {key!r}")


async def wait_on_disk(cluster: Cluster, store: StoreNode, key: bytes, value: bytes | None) -> None:
    await cluster.wait_until(
        lambda: on_disk(store, key) == value, limit_s=CATCH_UP_S, what=f"{store.host} to hold {key!r} = {value!r}"
    )


@scenario("one-partition", ClusterOptions(raftstore=RaftStoreConfig(region_heartbeat_s=1.0)), fixed=True)
async def one_partition(cluster: Cluster) -> None:
    """The leader stays in the majority, then is left in the minority; the cut-off stores catch up afterwards."""
    client = cluster.clients[0]
    await client.spawn("story", _one_partition(cluster, cluster.session(client)))


async def _one_partition(cluster: Cluster, session: Session) -> None:
    leader = await cluster.wait_for_leader()
    others = [store for store in cluster.stores if store is not leader]
    cluster.rng.shuffle(others)
    near, far = [leader, *others[:2]], others[2:]

    cluster.network.partition(hosts(near), hosts(far))
    await must_put(session, b"k1", b"v1")
    await must_get(session, b"k1", b"v1")
    for store in far:
        must_be(on_disk(store, b"k1"), None, f"k1 on {store.host}, which is cut off,")
    cluster.network.heal()

    near, far = near[:2], [*far, near[2]]
    await wait_on_disk(cluster, near[1], b"k1", b"v1")
    cluster.network.partition(hosts(near), hosts(far))
    await must_get(session, b"k1", b"v1")
    await must_put(session, b"k1", b"changed")
    for store in near:
        must_be(on_disk(store, b"k1"), b"v1", f"k1 on {store.host}, which is cut off,")
    cluster.network.heal()

    await must_put(session, b"k2", b"v2")
    await wait_on_disk(cluster, leader, b"k2", b"v2")
    must_be(on_disk(leader, b"k1"), b"changed", f"k1 on {leader.host}, which led before,")


@scenario("one-snapshot", ClusterOptions(stores=3, raftstore=TINY_LOG), fixed=True)
async def one_snapshot(cluster: Cluster) -> None:
    """A store misses more than the log keeps, gets a snapshot, and still has it after a restart."""
    client = cluster.clients[0]
    await client.spawn("story", _one_snapshot(cluster, cluster.session(client)))


async def _one_snapshot(cluster: Cluster, session: Session) -> None:
    straggler = cluster.rng.choice(cluster.stores)
    others = [store for store in cluster.stores if store is not straggler]
    await must_put(session, b"k1", b"v1")
    await must_put(session, b"k2", b"v2")
    await wait_on_disk(cluster, straggler, b"k2", b"v2")
    snapshots_before = cluster.network.counters["snapshots arrived"]

    cluster.network.partition([straggler.host], hosts(others))
    for number in range(100, 100 + 3 * SNAPSHOT_LOG_KEEP):
        await must_put(session, b"k%d" % number, b"v%d" % number)
    await until_done(lambda: session.delete(b"k2"), limit_s=20.0, what="delete k2")
    await asyncio.sleep(0.5)
    must_be(on_disk(straggler, b"k100"), None, f"k100 on {straggler.host}, which is cut off,")
    cluster.network.heal()

    await wait_on_disk(cluster, straggler, b"k100", b"v100")
    await _check_straggler(cluster, straggler)
    if cluster.network.counters["snapshots arrived"] == snapshots_before:
        raise Violation("story", f"{straggler.host} caught up without a snapshot")
    await (straggler.stop() if cluster.rng.random() < 0.5 else straggler.crash())
    await straggler.start()
    await _check_straggler(cluster, straggler)
    await cluster.wait_until(
        lambda: all(length <= 2 * SNAPSHOT_LOG_KEEP for length in log_lengths(cluster)), limit_s=10.0, what="short logs"
    )


@scenario("slow-install", ClusterOptions(stores=3, raftstore=TINY_LOG), fixed=True)
async def slow_install(cluster: Cluster) -> None:
    """A store installs a snapshot on a slow disk, and hears of no leader for longer than an election timeout meanwhile."""
    client = cluster.clients[0]
    await client.spawn("story", _slow_install(cluster, cluster.session(client)))


async def _slow_install(cluster: Cluster, session: Session) -> None:
    leader = await cluster.wait_for_leader()
    straggler = cluster.rng.choice([store for store in cluster.stores if store is not leader])
    others = [store for store in cluster.stores if store is not straggler]
    cluster.network.partition([straggler.host], hosts(others))
    for number in range(100, 100 + 3 * SNAPSHOT_LOG_KEEP):
        await must_put(session, b"k%d" % number, b"v%d" % number)
    await asyncio.sleep(0.5)
    straggler.disk.timing = DiskTiming(work_min_s=SLOW_DISK_S)
    cluster.network.heal()
    await cluster.wait_until(
        lambda: (
            straggler.serving is not None and any(peer.is_installing for peer in straggler.serving[1].peers.values())
        ),
        limit_s=4 * SLOW_DISK_S,
        what=f"{straggler.host} to install a snapshot",
    )
    cluster.network.partition([straggler.host], hosts(others))
    await asyncio.sleep(2 * SLOW_DISK_S)
    straggler.disk.timing = DiskTiming()
    cluster.network.heal()
    await _check_caught_up(cluster, straggler)


async def _check_straggler(cluster: Cluster, straggler: StoreNode) -> None:
    await wait_on_disk(cluster, straggler, b"k1", b"v1")
    await _check_caught_up(cluster, straggler)
    await wait_on_disk(cluster, straggler, b"k2", None)


async def _check_caught_up(cluster: Cluster, straggler: StoreNode) -> None:
    last = 99 + 3 * SNAPSHOT_LOG_KEEP
    await wait_on_disk(cluster, straggler, b"k%d" % last, b"v%d" % last)


def log_lengths(cluster: Cluster) -> list[int]:
    """Return how many applied entries each replica still has in its log."""
    return [
        indexes[0] - indexes[1]
        for _, engine in cluster.engines()
        for region in regions_on(engine)
        if (indexes := applied_indexes(engine, region.id)) is not None
    ]
