"""A scheduler behind its service, without a socket, for tests."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable
from typing import Any

import pytest
from google.protobuf.message import Message
from tests.helpers import ManualClock

from pytinykv.lifecycle import Scope
from pytinykv.scheduler import Scheduler, SchedulerConfig
from pytinykv.server.pd.service import PdService
from pytinykv.storage import MemoryEngine
from pytinykv.wire import RpcError
from pytinykv.wire.pb import metapb_pb2, pdpb_pb2

ERROR = pdpb_pb2.ErrorType
STORES = (1, 2, 3)


class Requests:
    """The requests of one stream, sent one by one."""

    def __init__(self) -> None:
        self._queue: asyncio.Queue[Message | None] = asyncio.Queue()

    def send(self, message: Message) -> None:
        self._queue.put_nowait(message)

    def end(self) -> None:
        self._queue.put_nowait(None)

    def __aiter__(self) -> AsyncIterator[Message]:
        return self

    async def __anext__(self) -> Message:
        message = await self._queue.get()
        if message is None:
            raise StopAsyncIteration
        return message


class Pd:
    """One scheduler and its service, with calls that fill in the header."""

    def __init__(self, scope: Scope, engine: MemoryEngine | None = None) -> None:
        self.clock = ManualClock()
        self.engine = engine or MemoryEngine()
        self.scope = scope
        self.scheduler = Scheduler.open(self.engine, self.clock, SchedulerConfig(split_wait_s=0.05), scope=scope)
        self.service = PdService(self.scheduler, scope, client_url="http://127.0.0.1:2379")

    def header(self) -> pdpb_pb2.RequestHeader:
        return pdpb_pb2.RequestHeader(cluster_id=self.scheduler.cluster_id)

    async def raw(self, method: str, request: Message) -> Any:
        return await self.service.unary(f"/pdpb.PD/{method}", request)

    async def call(self, method: str, **fields: Any) -> Any:
        spec = self.service.methods[f"/pdpb.PD/{method}"]
        response = await self.raw(method, spec.request_type(header=self.header(), **fields))
        assert isinstance(response, spec.response_type)
        assert response.header.cluster_id == self.scheduler.cluster_id
        return response

    async def ok(self, method: str, **fields: Any) -> Any:
        response = await self.call(method, **fields)
        assert not response.header.HasField("error")
        return response

    async def error(self, method: str, **fields: Any) -> ERROR:
        return (await self.call(method, **fields)).header.error.type

    async def refused(self, method: str, **fields: Any) -> RpcError:
        with pytest.raises(RpcError) as caught:
            await self.call(method, **fields)
        return caught.value

    async def admin(self, method: str, **fields: Any) -> Any:
        """Call a method of our own."""
        path = f"/pytinykv.adminpb.Admin/{method}"
        spec = self.service.methods[path]
        return await self.service.unary(path, spec.request_type(header=self.header(), **fields))

    async def admin_refused(self, method: str, **fields: Any) -> RpcError:
        with pytest.raises(RpcError) as caught:
            await self.admin(method, **fields)
        return caught.value

    async def bootstrap(self, stores: Iterable[int] = STORES) -> None:
        first, *others = stores
        await self.ok("Bootstrap", store=store(first), region=region(10, stores=(first,)))
        for store_id in others:
            await self.ok("PutStore", store=store(store_id))

    def stream(self, method: str) -> tuple[Requests, AsyncIterator[Any]]:
        requests = Requests()
        return requests, self.service.stream(f"/pdpb.PD/{method}", requests)

    def heartbeat(self, meta: metapb_pb2.Region, **fields: Any) -> pdpb_pb2.RegionHeartbeatRequest:
        return pdpb_pb2.RegionHeartbeatRequest(header=self.header(), region=meta, leader=meta.peers[0], **fields)

    async def report(self, *metas: metapb_pb2.Region) -> None:
        """Report regions led by their first peers, over a stream of their own."""
        requests, responses = self.stream("RegionHeartbeat")
        for meta in metas:
            requests.send(self.heartbeat(meta))
        requests.end()
        async for response in responses:
            assert not response.header.HasField("error"), response


def peer(region_id: int, store_id: int) -> metapb_pb2.Peer:
    return metapb_pb2.Peer(id=region_id * 1000 + store_id, store_id=store_id)


def region(
    region_id: int,
    start: bytes = b"",
    end: bytes = b"",
    *,
    stores: Iterable[int] = STORES,
    version: int = 1,
    conf_ver: int = 1,
) -> metapb_pb2.Region:
    return metapb_pb2.Region(
        id=region_id,
        start_key=start,
        end_key=end,
        region_epoch=metapb_pb2.RegionEpoch(version=version, conf_ver=conf_ver),
        peers=[peer(region_id, store_id) for store_id in stores],
    )


def store(store_id: int, address: str = "") -> metapb_pb2.Store:
    return metapb_pb2.Store(id=store_id, address=address or f"127.0.0.1:{20000 + store_id}")
