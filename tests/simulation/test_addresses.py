"""A store moves to another address, or seems to: a copy of its data directory is started beside it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from pytinykv.client.errors import StoreInUseError
from pytinykv.simulation.cluster import Cluster, ClusterOptions
from pytinykv.simulation.disk import _as_sim_engine
from pytinykv.simulation.errors import Violation
from pytinykv.simulation.scenario import run_world
from pytinykv.simulation.store_node import StoreNode
from pytinykv.simulation.world import World
from pytinykv.storage import MemoryEngine

Story = Callable[[Cluster, Path], Awaitable[None]]


def tell(story: Story, tmp_path: Path) -> None:
    async def history(world: World) -> None:
        cluster = Cluster(world, ClusterOptions(stores=3, clients=1))
        try:
            await cluster.start()
            await story(cluster, tmp_path)
            await cluster.check_converged()
            await cluster.stop()
        except BaseException:
            cluster.abandon()
            raise

    run_world(1, history)


def copy_of(cluster: Cluster, store: StoreNode, directory: Path) -> StoreNode:
    """Make a node that runs on a copy of a store's data."""
    engine = store.disk.peek()
    assert engine is not None
    engine.checkpoint(directory / "copy")
    copy = StoreNode(cluster.world, "copy", cluster.options.raftstore, cluster)
    copy.disk._engine = _as_sim_engine(MemoryEngine.open_checkpoint(directory / "copy"), copy.disk)
    return copy


def test_a_copy_of_a_store_that_runs_never_opens_its_data(tmp_path: Path) -> None:
    """The copy would acknowledge entries that it loses, or vote a second time."""

    async def story(cluster: Cluster, directory: Path) -> None:
        original = cluster.stores[2]
        copy = copy_of(cluster, original, directory)
        started = cluster.world.loop.time()
        with pytest.raises(StoreInUseError, match="store-3:20160.*copy:20160"):
            await copy.start()
        assert cluster.world.loop.time() - started < 5.0
        assert original.is_up
        cluster.register_store(original.store_id, original)  # messages went to the copy, where nothing took them

    tell(story, tmp_path)


def test_a_copy_of_a_store_that_only_seemed_dead_makes_the_store_end(tmp_path: Path) -> None:
    async def story(cluster: Cluster, directory: Path) -> None:
        original = cluster.stores[2]
        assert original.process is not None
        copy = copy_of(cluster, original, directory)
        original.process.stall()
        await copy.start()
        original.process.resume()
        await asyncio.sleep(60.0)

    with pytest.raises(Violation, match=r"StoreInUseError.*served by another process now, at copy:20160"):
        tell(story, tmp_path)


@pytest.mark.parametrize(("how", "bound_s"), [("stop", 1.0), ("crash", 11.0)])
def test_a_store_changes_its_address(tmp_path: Path, how: str, bound_s: float) -> None:
    async def story(cluster: Cluster, _directory: Path) -> None:
        store = cluster.stores[2]
        await (store.stop() if how == "stop" else store.crash())
        store.address = "store-3:30160"
        started = cluster.world.loop.time()
        await store.start()
        assert cluster.world.loop.time() - started < bound_s

    tell(story, tmp_path)


def test_a_store_that_could_not_say_that_it_stops_waits_as_if_it_had_been_killed(tmp_path: Path) -> None:
    async def story(cluster: Cluster, _directory: Path) -> None:
        store, loop = cluster.stores[2], cluster.world.loop
        await cluster.scheduler.crash()
        started = loop.time()
        await store.stop()
        assert loop.time() - started < 2.0
        await cluster.scheduler.start()
        store.address = "store-3:30160"
        started = loop.time()
        await store.start()
        assert 9.0 < loop.time() - started < 11.0

    tell(story, tmp_path)
