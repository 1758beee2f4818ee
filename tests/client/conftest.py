"""Lets the tests here import the helper modules beside them (pytest's importlib mode does not), and makes clients."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from random import Random

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from fake_cluster import FakeCluster, FakeConnector
from pytinykv.client import AsyncClient, ClientConfig
from pytinykv.lifecycle import Scope
from pytinykv.simulation.loop import SimLoop

QUICK = ClientConfig(
    timeout_s=5.0,
    read_attempt_timeout_s=0.1,
    connect_timeout_s=0.2,
    stall_timeout_s=0.06,
    backoff_min_s=0.0005,
    backoff_max_s=0.004,
)
"""Settings for tests that wait for something to run out."""


def pytest_asyncio_loop_factories(item: pytest.Item) -> dict[str, Callable[[], asyncio.AbstractEventLoop]]:
    """Run the tests here on virtual time: deadlines and pauses take no time and depend on nothing but the code."""
    if item.path.name == "test_over_grpc.py":
        return {"real": asyncio.new_event_loop}  # sockets need one
    return {"virtual": SimLoop}


@pytest.fixture
async def scope() -> AsyncIterator[Scope]:
    scope = Scope("test")
    yield scope
    report = await scope.stop()
    assert report.ok, report.render()


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
