"""A service small enough to be obviously right, to try the world with before a real store lives in it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

from pytinykv.simulation.process import Process
from pytinykv.simulation.rpc_client import SimConnector
from pytinykv.simulation.rpc_server import SimServer
from pytinykv.simulation.world import World
from pytinykv.wire import RpcError, StatusCode
from pytinykv.wire.pb import kvrpcpb_pb2, tikvpb_pb2
from pytinykv.wire.service import service_methods

ADDRESS = "toy:1"
GET, PUT, DELETE, BATCH = (f"/tikvpb.Tikv/{name}" for name in ("RawGet", "RawPut", "RawDelete", "BatchCommands"))


class ToyStore:
    """One map. `RawDelete` never answers; a key `boom` raises; `BatchCommands` echoes its request ids."""

    def __init__(self) -> None:
        self.methods = service_methods("tikvpb.Tikv", only=["RawGet", "RawPut", "RawDelete", "BatchCommands"])
        self.data: dict[bytes, bytes] = {}
        self.cancelled = 0

    async def unary(self, path: str, request: Any) -> Any:
        if path == GET:
            if request.key == b"boom":
                raise RpcError(StatusCode.NOT_FOUND, "boom")
            found = self.data.get(request.key)
            return kvrpcpb_pb2.RawGetResponse(value=found or b"", not_found=found is None)
        if path == PUT:
            self.data[request.key] = request.value
            return kvrpcpb_pb2.RawPutResponse()
        try:
            await asyncio.get_running_loop().create_future()
        finally:
            self.cancelled += 1

    async def stream(self, path: str, requests: AsyncIterator[Any]) -> AsyncIterator[Any]:
        async for request in requests:
            yield tikvpb_pb2.BatchCommandsResponse(request_ids=request.request_ids)


def serve(world: World, store: ToyStore | None = None, host: str = "toy") -> tuple[Process, SimServer, ToyStore]:
    process = world.new_process(host)
    store = store or ToyStore()
    server = SimServer(world.internet, process, f"{host}:1", [store])
    server.start()
    return process, server, store


def client(world: World, host: str = "client") -> tuple[Process, SimConnector]:
    process = world.new_process(host)
    return process, SimConnector(world.internet, process)


async def put(
    connector: SimConnector, key: bytes, value: bytes, timeout_s: float = 5.0, address: str = ADDRESS
) -> None:
    await connector.unary(address, PUT, kvrpcpb_pb2.RawPutRequest(key=key, value=value), timeout_s=timeout_s)


async def get(connector: SimConnector, key: bytes, timeout_s: float = 5.0, address: str = ADDRESS) -> bytes | None:
    answer = await connector.unary(address, GET, kvrpcpb_pb2.RawGetRequest(key=key), timeout_s=timeout_s)
    return None if answer.not_found else answer.value
