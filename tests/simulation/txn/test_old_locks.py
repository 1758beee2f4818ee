"""Garbage collection and the locks of transactions whose owners are gone, over two regions that different stores may lead."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest
from tests.simulation.txn.test_bad_days import prewrite_only
from tests.simulation.txn.txn_world import TWO_PHASES, client_of, end_background, get_all, locks_of, put_all, tell

from pytinykv.client import AsyncClient, ClientConfig
from pytinykv.client.txn.records import Phase
from pytinykv.simulation.cluster import Cluster

LIFE_S = 15.0
"""How old what is collected has to be: longer than locks live, for speed not much."""
ROUNDS_S = 60.0
"""Time for several rounds of reports: to resolve, to announce, to acknowledge, to collect."""
ASYNC_COMMIT = ClientConfig(one_phase_commit=False)


async def safe_point_of(client: AsyncClient) -> int:
    return await client.inspector.safe_point()


async def values_of(client: AsyncClient, key: bytes) -> list[bytes | None]:
    """Return the values of all versions that are left, the newest first."""
    versions = (await client.inspector.history(key)).versions
    return [version.value for version in versions if version.kind == "put"]


async def left_by(cluster: Cluster, work: Callable[[AsyncClient], Awaitable[int]]) -> int:
    """Let the second client do something and die; return what it returned."""
    found: list[int] = []

    async def run() -> None:
        found.append(await work(client_of(cluster, 1)))

    await cluster.clients[1].spawn("work", run())
    await cluster.clients[1].crash()
    return found[0]


async def prewritten(client: AsyncClient, keys: set[bytes] | None = None) -> int:
    txn = await client.transaction()
    await txn.put(b"a", b"2")
    await txn.put(b"z", b"2")
    await prewrite_only(client, txn, keys)
    return txn.start_ts


async def committed_primary(client: AsyncClient) -> int:
    end_background(client)
    return await put_all(client, a=2, z=2)


async def locked(client: AsyncClient) -> int:
    txn = await client.transaction(pessimistic=True)
    await txn.lock(b"a", b"z")
    txn._progress.phase = Phase.UNDETERMINED  # a killed process gives no warning
    return txn.start_ts


@pytest.mark.parametrize(
    ("config", "work", "value"),
    [
        (TWO_PHASES, prewritten, 1),
        (TWO_PHASES, lambda client: prewritten(client, {b"z"}), 1),
        (TWO_PHASES, committed_primary, 2),
        (ASYNC_COMMIT, prewritten, 2),
        (ASYNC_COMMIT, lambda client: prewritten(client, {b"a"}), 1),
        (ASYNC_COMMIT, committed_primary, 2),
        (ClientConfig(pessimistic_lock_ttl_s=3.0), locked, 1),
    ],
    ids=[
        "two phases, prewritten",
        "two phases, only the secondary",
        "two phases, primary committed",
        "async commit, all prewritten",
        "async commit, only the primary",
        "async commit, committed",
        "pessimistic",
    ],
)
def test_locks_of_a_dead_owner_are_resolved_and_collection_goes_on(
    config: ClientConfig, work: Callable[[AsyncClient], Awaitable[int]], value: int
) -> None:
    """Nobody meets the locks: no reader and no writer comes by before garbage is collected."""

    async def story(cluster: Cluster, client: AsyncClient) -> None:
        await put_all(client, a=0, z=0)
        await put_all(client, a=1, z=1)
        begun = await left_by(cluster, work)
        assert await locks_of(client)
        await asyncio.sleep(LIFE_S + ROUNDS_S)
        assert await locks_of(client) == []
        assert await safe_point_of(client) > begun, "the lock held it back"
        assert [await values_of(client, key) for key in (b"a", b"z")] == [[b"%d" % value]] * 2, (
            "older ones are collected"
        )
        assert await get_all(client) == {"a": value, "z": value}

    tell(story, config=config, gc_life_time_s=LIFE_S)


def test_a_running_transaction_keeps_its_locks_and_holds_collection_back() -> None:
    async def story(cluster: Cluster, client: AsyncClient) -> None:
        await put_all(client, a=1, z=1)
        async with client.transaction(pessimistic=True) as txn:
            await txn.put(b"a", b"2")
            await txn.put(b"z", b"2")
            await asyncio.sleep(LIFE_S + ROUNDS_S)
            assert set(await locks_of(client)) == {b"a", b"z"}
            assert await safe_point_of(client_of(cluster, 1)) <= txn.start_ts
            assert await txn.get(b"a") == b"2"
        assert await get_all(client) == {"a": 2, "z": 2}
        await asyncio.sleep(LIFE_S + ROUNDS_S)
        assert txn.commit_ts is not None
        assert await safe_point_of(client) > txn.commit_ts

    tell(story, config=ClientConfig(pessimistic_lock_ttl_s=3.0), gc_life_time_s=LIFE_S)


def test_a_primary_out_of_reach_holds_collection_back_until_it_is_there() -> None:
    """Two of three stores are cut off, each from all: the transaction can't be asked about, and its locks stay."""

    async def story(cluster: Cluster, client: AsyncClient) -> None:
        await put_all(client, a=1, z=1)
        begun = await left_by(cluster, committed_primary)
        hosts = cluster.store_hosts
        for host in hosts[1:]:
            cluster.network.partition([host], [other for other in cluster.all_hosts if other != host])
        await asyncio.sleep(LIFE_S + ROUNDS_S)
        assert await safe_point_of(client) < begun
        cluster.network.heal()
        await asyncio.sleep(LIFE_S + ROUNDS_S)
        assert await safe_point_of(client) > begun
        assert await locks_of(client) == []
        assert await get_all(client) == {"a": 2, "z": 2}

    tell(story, config=TWO_PHASES, gc_life_time_s=LIFE_S)
