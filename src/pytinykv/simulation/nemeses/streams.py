"""Fault makers that use a store's streams as our own client never does."""

from __future__ import annotations

import asyncio
from random import Random
from typing import TYPE_CHECKING

from pytinykv.model import peer_to_pb
from pytinykv.simulation.errors import Violation
from pytinykv.simulation.faults import pause
from pytinykv.simulation.rpc_client import SimConnector, SimStream
from pytinykv.wire import BATCH_COMMANDS, RpcError
from pytinykv.wire.pb import kvrpcpb_pb2, metapb_pb2, tikvpb_pb2

if TYPE_CHECKING:
    from pytinykv.simulation.cluster import Cluster
    from pytinykv.simulation.nodes import ClientNode
    from pytinykv.simulation.store_node import StoreNode

COMMANDS = 3
END_BOUND_S = 5.0
"""Within which a stream to a store that nothing disturbs ends after its client's half-close."""


async def half_closed_streams(cluster: Cluster, rng: Random, stop: asyncio.Event) -> None:
    """Open streams of commands, send some, and end them from this side while the answers are under way."""
    client = cluster.clients[-1]
    while not stop.is_set():
        await pause(stop, 0.5 * rng.random())
        store = rng.choice(cluster.stores)
        if client.running:
            await client.spawn("half-close", _half_close(cluster, client, store, limit_s=rng.random()))


async def check_half_closes(cluster: Cluster) -> None:
    """Every store answers what came before a half-close, and then ends the stream. Raises `Violation`."""
    client = cluster.clients[-1]
    for store in cluster.stores:
        error = await client.spawn("half-close", _half_close(cluster, client, store, limit_s=END_BOUND_S))
        if error:
            raise Violation("answers", f"half-closed stream to {store.host}: {error}")


async def _half_close(cluster: Cluster, client: ClientNode, store: StoreNode, *, limit_s: float) -> str:
    """Send commands and a half-close; return what was wrong with the answers, or nothing."""
    assert client.process is not None
    connector = SimConnector(cluster.world.internet, client.process)
    stream = connector.stream(store.address, BATCH_COMMANDS)
    try:
        async with asyncio.timeout(limit_s):
            return await _send_and_drain(stream, _commands(store))
    except TimeoutError:
        return f"not over after {limit_s:.1f} s; unanswered: {sorted(stream.unanswered)}"
    finally:
        await connector.close()


async def _send_and_drain(stream: SimStream, commands: tikvpb_pb2.BatchCommandsRequest) -> str:
    try:
        stream.send_nowait(commands)
    except RpcError as error:  # the buffer is full, or the stream is broken already
        return str(error)
    stream.end_sending()
    while True:
        try:
            await stream.receive()
        except RpcError as error:
            return f"ended with {error}; unanswered: {sorted(stream.unanswered)}" if stream.unanswered else ""


def _commands(store: StoreNode) -> tikvpb_pb2.BatchCommandsRequest:
    """Return some reads, of the region that the store has if it has one."""
    context = kvrpcpb_pb2.Context(region_id=1)
    if store.serving is not None:
        for peer in store.serving[1].peers.values():
            epoch = peer.region.epoch
            context = kvrpcpb_pb2.Context(
                region_id=peer.region.id,
                region_epoch=metapb_pb2.RegionEpoch(conf_ver=epoch.conf_ver, version=epoch.version),
                peer=peer_to_pb(peer.peer),
            )
    get = kvrpcpb_pb2.RawGetRequest(context=context, key=b"half-closed")
    request = tikvpb_pb2.BatchCommandsRequest.Request(RawGet=get)
    return tikvpb_pb2.BatchCommandsRequest(requests=[request] * COMMANDS, request_ids=range(1, COMMANDS + 1))
