"""Fault makers that keep the regions moving: they split, scatter and drain without need, in the middle of everything."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Sequence
from functools import partial
from random import Random
from typing import TYPE_CHECKING, Any, Final

from pytinykv.client.errors import ClientError
from pytinykv.model import Region, RegionId
from pytinykv.raftstore.splits import SplitRefusedError
from pytinykv.simulation.errors import Violation
from pytinykv.simulation.faults import pause
from pytinykv.storage import ColumnFamily
from pytinykv.wire.errors import RegionError
from pytinykv.wire.pb import metapb_pb2

if TYPE_CHECKING:
    from pytinykv.simulation.cluster import Cluster
    from pytinykv.simulation.store_node import StoreNode

REGIONS_MAX: Final = 12
"""From so many regions on nothing is split any more: each costs a history time, and shows little that few do not."""
ASK_S: Final = 3.0
"""How long the scheduler has for an answer."""
DRAIN_S: Final = 20.0
"""How long a store is given to become empty before its removal is taken back."""


async def splits(cluster: Cluster, rng: Random, stop: asyncio.Event) -> None:
    """Have leaders split regions at one key or several, at keys that don't suit, and twice at once."""
    while not stop.is_set():
        await pause(stop, 1.5 * rng.random())
        leader = cluster.draw_leader(rng)
        serving = None if leader is None else leader.serving
        if leader is None or serving is None or len(cluster.replica_observer.regions) >= REGIONS_MAX:
            continue
        process, store = serving
        led = [peer.region for peer in store.peers.values() if peer.is_leader]
        for region in rng.sample(led, min(len(led), rng.randint(1, 2))):
            for _ in range(rng.choice([1, 1, 2])):
                keys = _draw_keys(leader, region, rng)
                cluster.world.trace.record("order", process.host, "split", region.id, len(keys))
                process.post(store.splits.split, RegionId(region.id), keys, partial(_check_answer, cluster))


def _check_answer(cluster: Cluster, error: Exception | None, regions: Sequence[Region]) -> None:
    if error is None and len(regions) < 2:
        cluster.world.loop.abort(Violation("story", "a split made one region"))
    if error is not None and not isinstance(error, RegionError | SplitRefusedError):
        cluster.world.loop.abort(Violation("story", f"a split ended with {error!r}"))


def _draw_keys(leader: StoreNode, region: Region, rng: Random) -> list[bytes]:
    """Draw keys to split at: mostly of pairs that are there, in order; else any."""
    there = keys_inside(leader, region)
    if there and rng.random() < 0.8:
        return sorted(rng.sample(there, min(len(there), rng.choice([1, 1, 2, 4]))))
    return [rng.choice([b"", region.start_key, region.end_key, b"client-1", rng.randbytes(3)]) for _ in range(2)]


def keys_inside(node: StoreNode, region: Region) -> list[bytes]:
    """Return the raw keys on a store's disk at which a region can be split."""
    engine = node.disk.peek()
    end = None if not region.end_key else b"d" + region.end_key
    stored = [] if engine is None else engine.peek_range(ColumnFamily.RAW, b"d" + region.start_key, end)
    return [key[1:] for key, _ in stored if key[1:] != region.start_key]


async def ordered_splits(cluster: Cluster, rng: Random, stop: asyncio.Event) -> None:
    """Have the scheduler split regions at keys that are there; the orders get lost, come late and come twice."""
    while not stop.is_set():
        await pause(stop, 3.0 * rng.random())
        leader = cluster.draw_leader(rng)
        regions = cluster.replica_observer.regions
        if leader is None or not regions or len(regions) >= REGIONS_MAX:
            continue
        keys = _draw_keys(leader, rng.choice(regions), rng)
        cluster.world.trace.record("order", "scheduler", "split", len(keys))
        await _ask(cluster, lambda scheduler, keys=keys: scheduler.split_regions(keys, ASK_S))


async def scatters(cluster: Cluster, rng: Random, stop: asyncio.Event) -> None:
    """Have the scheduler scatter some of the regions."""
    while not stop.is_set():
        await pause(stop, 3.0 * rng.random())
        regions = [region.id for region in cluster.replica_observer.regions]
        if regions:
            chosen = rng.sample(regions, rng.randint(1, len(regions)))
            cluster.world.trace.record("order", "scheduler", "scatter", *chosen)
            await _ask(cluster, lambda scheduler, chosen=chosen: scheduler.scatter_regions(chosen, ASK_S))


async def drained_stores(cluster: Cluster, rng: Random, stop: asyncio.Event) -> None:
    """Take stores out of service; some come back before they are empty, the others by another id and with an empty disk."""
    while not stop.is_set():
        await pause(stop, 2.0 * rng.random())
        node = rng.choice(cluster.stores)
        if not node.is_up:
            continue
        store_id, until = node.store_id, cluster.world.loop.time() + rng.choice([0.5, DRAIN_S, DRAIN_S]) * rng.random()
        while not stop.is_set() and cluster.world.loop.time() < until:
            cluster.world.trace.record("order", "scheduler", "remove_store", store_id)
            removal = await _ask(cluster, lambda scheduler, store_id=store_id: scheduler.remove_store(store_id, ASK_S))
            if removal is not None and removal.state == metapb_pb2.StoreState.Tombstone:
                break
            await pause(stop, 0.5)
        await _ask(cluster, lambda scheduler, store_id=store_id: scheduler.restore_store(store_id, ASK_S))
    await take_all_back(cluster)


async def take_all_back(cluster: Cluster) -> None:
    """Let no store be on its way out, and let each one that has been removed be there again as a new one."""
    deadline = cluster.world.loop.time() + DRAIN_S
    while cluster.world.loop.time() < deadline:
        stores = await _ask(
            cluster, lambda scheduler: scheduler.get_all_stores(exclude_tombstone=True, timeout_s=ASK_S)
        )
        going = [store.id for store in stores or () if store.state == metapb_pb2.StoreState.Offline]
        if stores is not None and not going:
            return
        for store_id in going:
            await _ask(cluster, lambda scheduler, store_id=store_id: scheduler.restore_store(store_id, ASK_S))
        await asyncio.sleep(0.2)


async def _ask(cluster: Cluster, call: Any) -> Any:
    """Ask the scheduler as a client does; None if there is no answer, or one that refuses."""
    client = cluster.clients[0]
    assert client.client is not None
    asking: Coroutine[Any, Any, Any] = call(client.client.scheduler)
    try:
        return await client.spawn("order", asking)
    except ClientError:
        return None
