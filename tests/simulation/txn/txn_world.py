"""A simulated cluster for the tests of transactions: real stores and clients on virtual time, split where they are told."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence

from pytinykv.client import AsyncClient, ClientConfig
from pytinykv.scheduler.config import SchedulerConfig
from pytinykv.simulation.cluster import Cluster, ClusterOptions
from pytinykv.simulation.scenario import run_world
from pytinykv.simulation.world import World
from pytinykv.wire.keys import encode_bytes

TWO_PHASES = ClientConfig(async_commit=False, one_phase_commit=False)
"""Settings of a client that commits as Percolator's paper does."""
Story = Callable[[Cluster, AsyncClient], Awaitable[None]]


def tell(
    story: Story,
    *,
    config: ClientConfig | None = None,
    clients: int = 2,
    stores: int = 3,
    splits: Sequence[bytes] = (b"m",),
    seed: int = 1,
    gc_life_time_s: float = 600.0,
) -> None:
    """Run `story(cluster, first client)` on a cluster whose regions were split at the keys of `splits`."""

    async def history(world: World) -> None:
        scheduler = SchedulerConfig(max_replicas=stores, gc_life_time_s=gc_life_time_s)
        options = ClusterOptions(stores=stores, clients=clients, client=config or ClientConfig(), scheduler=scheduler)
        cluster = Cluster(world, options)
        try:
            await cluster.start()
            client = client_of(cluster)
            await split(client, splits)
            await story(cluster, client)
            await cluster.stop()
        except BaseException:
            cluster.abandon()
            raise

    run_world(seed, history)


def client_of(cluster: Cluster, number: int = 0) -> AsyncClient:
    """Return one of the clients."""
    client = cluster.clients[number].client
    assert client is not None
    return client


async def split(client: AsyncClient, keys: Sequence[bytes]) -> None:
    """Split regions at keys, as transactional data is split."""
    while (
        keys and (await client.scheduler.split_regions([encode_bytes(key) for key in keys])).finished_percentage < 100
    ):
        await asyncio.sleep(0.1)


async def put_all(client: AsyncClient, **pairs: int) -> int:
    """Commit some pairs, and return the commit timestamp."""
    async with client.transaction() as txn:
        for key, value in pairs.items():
            await txn.put(key.encode(), b"%d" % value)
    assert txn.commit_ts is not None
    return txn.commit_ts


async def get_all(client: AsyncClient, ts: int | None = None) -> dict[str, int]:
    """Return all pairs, of now or of an earlier moment."""
    snapshot = await client.snapshot(ts)
    return {key.decode(): int(value) async for key, value in snapshot.scan()}


async def locks_of(client: AsyncClient) -> list[bytes]:
    """Return the keys that are locked."""
    from pytinykv.client.key_space import KeyRange

    return [lock.key async for lock in client.inspector.locks(KeyRange(b"", b""), (1 << 64) - 1)]
