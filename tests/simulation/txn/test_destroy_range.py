"""UnsafeDestroyRange asked of every store, one after the other, while the leader of a region goes the other way."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any

import pytest
from tests.simulation.txn.txn_world import client_of, get_all, locks_of, put_all, tell

from pytinykv.client import AsyncClient, SchedulerError
from pytinykv.simulation.cluster import Cluster
from pytinykv.simulation.rpc_client import SimConnector
from pytinykv.wire.keys import encode_bytes
from pytinykv.wire.pb import kvrpcpb_pb2


async def destroy(cluster: Cluster, number: int, **bounds: bytes) -> Any:
    """Ask one store."""
    process = cluster.clients[0].process
    assert process is not None
    connector = SimConnector(cluster.world.internet, process)
    request = kvrpcpb_pb2.UnsafeDestroyRangeRequest(**bounds)
    try:
        address = cluster.stores[number].address
        return await connector.unary(address, "/tikvpb.Tikv/UnsafeDestroyRange", request, timeout_s=30)
    finally:
        await connector.close()


async def lead(client: AsyncClient, cluster: Cluster, key: bytes, number: int) -> None:
    """Have a store lead the region of a key."""
    store_id = cluster.stores[number].store_id
    while True:
        region = await client.scheduler.get_region(encode_bytes(key))
        assert region is not None
        if region.leader is not None and region.leader.store_id == store_id:
            return
        with contextlib.suppress(SchedulerError):  # the store may have started just now
            await client.scheduler.transfer_leader(region.region.id, store_id)
        await asyncio.sleep(0.2)


@pytest.mark.parametrize("seed", [1, 2])
def test_a_region_whose_leader_moves_to_a_store_that_was_asked_before_is_not_missed(seed: int) -> None:
    async def story(cluster: Cluster, client: AsyncClient) -> None:
        await put_all(client, a=1, b=1, y=1, z=1)
        await lead(client, cluster, b"z", 1)
        assert (await destroy(cluster, 0, start_key=b"b", end_key=b"z")).error == ""
        await lead(client, cluster, b"z", 0)
        for number in (1, 2):
            assert (await destroy(cluster, number, start_key=b"b", end_key=b"z")).error == ""
        assert await get_all(client_of(cluster, 1)) == {"a": 1, "z": 1}
        assert (await destroy(cluster, 2)).error == ""
        assert await get_all(client) == {}
        assert await locks_of(client) == []

    tell(story, seed=seed)


def test_without_a_quorum_it_is_told_and_not_called_done() -> None:
    async def story(cluster: Cluster, client: AsyncClient) -> None:
        await put_all(client, a=1)
        asked = asyncio.ensure_future(destroy(cluster, 0))
        for host in cluster.store_hosts[1:]:
            cluster.network.partition([host], [other for other in cluster.all_hosts if other != host])
        await asyncio.sleep(1)
        assert not asked.done()
        cluster.network.heal()
        assert (await asked).error == ""
        assert await get_all(client) == {}

    tell(story)
