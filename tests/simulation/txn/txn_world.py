"""A simulated cluster for the tests of transactions: real stores and clients on virtual time, split where they are told."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Sequence

from pytinykv.client import AsyncClient, AsyncTransaction, ClientConfig, SchedulerError
from pytinykv.client.txn.cluster_backend import ClusterBackend
from pytinykv.client.txn.committer import _Commit
from pytinykv.client.txn.records import Phase
from pytinykv.scheduler.config import SchedulerConfig
from pytinykv.simulation.cluster import Cluster, ClusterOptions
from pytinykv.simulation.scenario import run_world
from pytinykv.simulation.world import World
from pytinykv.wire.keys import encode_bytes

TWO_PHASES = ClientConfig(async_commit=False, one_phase_commit=False)
"""Settings of a client that commits as Percolator's paper does."""
ASYNC_COMMIT = ClientConfig(one_phase_commit=False)
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


def end_background(client: AsyncClient) -> None:
    """Let a client leave to others from now on what no caller of its own waits for, as if it had died before that."""
    backend = client.transactions.backend
    assert isinstance(backend, ClusterBackend)
    backend.background._tasks_max = 0
    backend.background.start = lambda *_, **__: True  # type: ignore[method-assign]


async def split(client: AsyncClient, keys: Sequence[bytes]) -> None:
    """Split regions at keys, as transactional data is split."""
    while (
        keys and (await client.scheduler.split_regions([encode_bytes(key) for key in keys])).finished_percentage < 100
    ):
        await asyncio.sleep(0.1)


async def lead_one_each(cluster: Cluster, client: AsyncClient) -> None:
    """Have each store lead one of three regions."""
    regions = sorted(cluster.replica_observer.regions, key=lambda region: region.start_key)
    wanted = {region.id: store for region, store in zip(regions, cluster.stores, strict=True)}

    def led_otherwise() -> list[int]:
        leaders = cluster.leaders()
        return [region_id for region_id, store in wanted.items() if leaders.get(region_id) is not store]

    for _ in range(50):
        for region_id in led_otherwise():
            with contextlib.suppress(SchedulerError):
                await client.scheduler.transfer_leader(region_id, wanted[region_id].store_id)
        await asyncio.sleep(0.2)
    assert led_otherwise() == []


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


def backend_of(client: AsyncClient) -> ClusterBackend:
    """Return what a client's transactions run on."""
    backend = client.transactions.backend
    assert isinstance(backend, ClusterBackend)
    return backend


async def prewrite_only(client: AsyncClient, txn: AsyncTransaction, keys: set[bytes] | None = None) -> None:
    """Do what a commit does first, and nothing after that; of all keys, or of some. The client takes it for committing."""
    backend = backend_of(client)
    writes = txn.buffered.freeze(str)
    commit = _Commit(backend._parts, txn._begun(), writes, backend.deadline(5))
    await commit._choose_phases()
    commit._writes = [write for write in writes if keys is None or write.key in keys]
    await commit._prewrite_all()
    txn._progress.phase = Phase.UNDETERMINED


async def prewrite_and_roll_back(client: AsyncClient, **pairs: int) -> None:
    """Do what a commit does that fails after its prewrites."""
    txn = await client.transaction()
    for key, value in pairs.items():
        await txn.put(key.encode(), b"%d" % value)
    await prewrite_only(client, txn)
    backend = backend_of(client)
    await _Commit(backend._parts, txn._begun(), txn.buffered.freeze(str), backend.deadline(5))._rollback()
