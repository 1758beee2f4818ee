"""The scheduler comes back with data that is older than the cluster, as from a backup."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import msgspec
import pytest

from pytinykv.client.errors import ClusterMismatchError
from pytinykv.model import encode
from pytinykv.scheduler import StoreHealth
from pytinykv.scheduler.state import META_KEY, REGION_PREFIX, STORE_PREFIX, load_state, store_key
from pytinykv.simulation.cluster import Cluster, ClusterOptions
from pytinykv.simulation.scenario import run_world
from pytinykv.simulation.world import World
from pytinykv.storage import ColumnFamily, Engine

CF = ColumnFamily.DEFAULT


def tell(story: Callable[[Cluster], Awaitable[None]]) -> None:
    async def history(world: World) -> None:
        cluster = Cluster(world, ClusterOptions(stores=3, clients=1))
        try:
            await cluster.start()
            await cluster.wait_for_leader()
            await story(cluster)
            await cluster.stop()
        except BaseException:
            cluster.abandon()
            raise

    run_world(1, history)


async def restore(cluster: Cluster, make_older: Callable[[Engine], None]) -> None:
    """Stop the scheduler, and start it with what `make_older` leaves of its data."""
    await cluster.scheduler.stop()
    engine = cluster.scheduler.disk.peek()
    assert engine is not None
    make_older(engine)
    await cluster.scheduler.start()


def forget(engine: Engine, *prefixes: bytes) -> None:
    batch = engine.write_batch()
    for prefix in prefixes:
        for key, _ in list(engine.scan(CF, prefix, prefix + b"\xff")):
            batch.delete(CF, key)
    engine.write(batch)
    engine.sync()


def test_a_store_that_the_scheduler_has_forgotten_is_there_again_and_ids_go_on_above_all_that_are_in_use() -> None:
    async def story(cluster: Cluster) -> None:
        lost = cluster.stores[2].store_id

        def make_older(engine: Engine) -> None:
            forget(engine, store_key(lost), REGION_PREFIX)
            meta = msgspec.structs.replace(load_state(engine).meta, id_end=4)
            batch = engine.write_batch()
            batch.put(CF, META_KEY, encode(meta))
            engine.write(batch)
            engine.sync()

        await restore(cluster, make_older)
        await asyncio.sleep(15.0)
        scheduler = cluster.scheduler.scheduler
        assert scheduler is not None
        assert scheduler.cluster.health(lost, scheduler.now) is StoreHealth.UP
        used = [id_ for info in scheduler.cluster.regions for id_ in (info.id, *(peer.id for peer in info.meta.peers))]
        assert used
        assert await scheduler.allocate_ids() > max(used) + 1_000_000
        await cluster.check_converged()

    tell(story)


def test_a_cluster_is_not_bootstrapped_a_second_time() -> None:
    async def story(cluster: Cluster) -> None:
        store = cluster.stores[0]
        await store.stop()

        def make_older(engine: Engine) -> None:
            forget(engine, STORE_PREFIX, REGION_PREFIX)
            meta = msgspec.structs.replace(load_state(engine).meta, bootstrapped=False)
            batch = engine.write_batch()
            batch.put(CF, META_KEY, encode(meta))
            engine.write(batch)
            engine.sync()

        await restore(cluster, make_older)
        with pytest.raises(ClusterMismatchError, match="restore the scheduler's data directory"):
            await store.start()

    tell(story)
