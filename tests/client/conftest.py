"""Virtual time for the tests of the client, and clients of a cluster in memory."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from random import Random

import pytest
from tests.client.fake_cluster import QUICK, FakeCluster, FakeConnector

from pytinykv.client import AsyncClient
from pytinykv.lifecycle import Scope
from pytinykv.simulation.loop import SimLoop

REAL_LOOP = ("test_over_grpc.py", "test_origin.py")
"""Sockets and threads need a loop on real time."""


def pytest_asyncio_loop_factories(item: pytest.Item) -> dict[str, Callable[[], asyncio.AbstractEventLoop]]:
    """Run the tests here on virtual time: deadlines and pauses take no time and depend on nothing but the code."""
    if item.path.name in REAL_LOOP:
        return {"real": asyncio.new_event_loop}
    return {"virtual": SimLoop}


@pytest.fixture
async def cluster() -> FakeCluster:
    return FakeCluster(splits=[b"g", b"p"])


@pytest.fixture
async def connector(cluster: FakeCluster, scope: Scope) -> FakeConnector:
    return cluster.connector(scope)


@pytest.fixture
async def client(cluster: FakeCluster, connector: FakeConnector, scope: Scope) -> AsyncIterator[AsyncClient]:
    client = AsyncClient(
        cluster.scheduler_address, connector=connector, rng=Random(1), scope=scope.child("client"), config=QUICK
    )
    yield client
    report = await client.close()
    assert report.ok, report.render()
