"""The stories of `stories` on every kind of database: embedded (blocking and not), a real cluster, the simulator's."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from tests.conformance.blocking import BlockingClient
from tests.conformance.stories import STORIES, Story
from tests.process.cluster import Cluster, running_cluster

import pytinykv
from pytinykv import aio
from pytinykv.client import ClientConfig
from pytinykv.simulation import cluster as simulated
from pytinykv.simulation.scenario import run_world
from pytinykv.simulation.world import World

NAMES = [story.__name__ for story in STORIES]


@pytest.fixture(scope="session")
def playground(
    tmp_path_factory: pytest.TempPathFactory, lasting_children: list[Callable[[], set[int]]]
) -> Iterator[Cluster]:
    with running_cluster(tmp_path_factory.mktemp("conformance"), stores=1) as made:
        lasting_children.append(made.pids)
        try:
            yield made
        finally:
            lasting_children.remove(made.pids)


@asynccontextmanager
async def opened(kind: str, tmp_path: Path) -> AsyncIterator[Any]:
    path = None if "memory" in kind else tmp_path / "data"
    if "blocking" in kind:
        with pytinykv.open(path) as client:
            yield BlockingClient(client)
    else:
        async with aio.open(path) as db:
            yield db


@pytest.mark.parametrize("story", STORIES, ids=NAMES)
@pytest.mark.parametrize("kind", ["blocking-memory", "blocking-disk", "asyncio-memory", "asyncio-disk"])
async def test_embedded(kind: str, story: Story, tmp_path: Path) -> None:
    async with opened(kind, tmp_path) as db:
        await story(db, b"p/")


@pytest.mark.parametrize("story", STORIES, ids=NAMES)
async def test_cluster(playground: Cluster, story: Story) -> None:
    async with aio.connect(playground.address) as db:
        await story(db, story.__name__.encode() + b"/")


async def test_cluster_from_threads(playground: Cluster) -> None:
    with pytinykv.connect(playground.address) as client:
        db = BlockingClient(client)
        await asyncio.gather(*(story(db, b"threads/" + story.__name__.encode()) for story in STORIES))


def test_simulator() -> None:
    async def history(world: World) -> None:
        cluster = simulated.Cluster(world, simulated.ClusterOptions(stores=3, clients=1, client=ClientConfig()))
        try:
            await cluster.start()
            client = cluster.clients[0].client
            assert client is not None
            for story in STORIES:
                await story(client, story.__name__.encode() + b"/")
            await cluster.stop()
        except BaseException:
            cluster.abandon()
            raise

    run_world(1, history)
