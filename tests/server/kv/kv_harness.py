"""A `KvService` over a store that is moved by hand, and clients that speak to it without gRPC."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from tests.raftstore.harness import REGION_ID, Cluster

from pytinykv.lifecycle import Scope
from pytinykv.raftstore import RaftStoreConfig
from pytinykv.server.kv.service import KvService
from pytinykv.wire import BATCH_COMMANDS
from pytinykv.wire.frames import encode_commands
from pytinykv.wire.pb import kvrpcpb_pb2 as pb
from pytinykv.wire.pb import tikvpb_pb2

CLUSTER_ID = 7


class Desk:
    """One store's service, its cluster, and what a client needs to talk to it."""

    def __init__(self, path: Path, scope: Scope, **options: Any) -> None:
        self.cluster = Cluster(path, **options)
        self.scope = scope
        self.node = self.cluster.elect()
        self.cluster.ticks(2)
        self.serve_with()

    def serve_with(self, **options: Any) -> None:
        """Serve from now on with these options of the service."""
        self.service = KvService(self.node.running, cluster_id=CLUSTER_ID, scope=self.scope, **options)

    def context(self, **fields: Any) -> pb.Context:
        """Return the context that a client with a fresh view of the region sends."""
        peer = self.node.peer
        context = pb.Context(region_id=REGION_ID)
        context.region_epoch.conf_ver = peer.region.epoch.conf_ver
        context.region_epoch.version = peer.region.epoch.version
        context.peer.id, context.peer.store_id = peer.peer.id, peer.peer.store_id
        context.MergeFrom(pb.Context(**fields))
        return context

    def request(self, name: str, *, context: pb.Context | None = None, **fields: Any) -> Any:
        request_type = self.service.methods[f"/tikvpb.Tikv/{name}"].request_type
        return request_type(context=context or self.context(), **fields)

    async def call(self, name: str, *, context: pb.Context | None = None, **fields: Any) -> Any:
        """Make a unary call and let everything happen that it needs."""
        return await self.finish(self.unary(name, context=context, **fields))

    async def unary(self, name: str, *, context: pb.Context | None = None, **fields: Any) -> Any:
        """Make a unary call; the caller has to let happen what it needs."""
        path = f"/tikvpb.Tikv/{name}"
        response = await self.service.unary(path, self.request(name, context=context, **fields))
        return self.service.methods[path].response_type.FromString(response)

    async def finish(self, coroutine: Any) -> Any:
        task = self.scope.start("call", lambda: coroutine)
        for _ in range(200):
            if task.done:
                break
            await asyncio.sleep(0)
            self.cluster.settle()
        return await task.wait()

    async def batch(self, *commands: tuple[str, Any]) -> list[Any]:
        """Send a frame of (command, request); return the responses in the order of the commands."""
        frame = tikvpb_pb2.BatchCommandsRequest()
        for number, (name, request) in enumerate(commands):
            frame.request_ids.append(1000 + number)
            getattr(frame.requests.add(), name).CopyFrom(request)
        found: dict[int, Any] = {}
        for answer in await self.finish(collect(self.service.stream(BATCH_COMMANDS, feed(frame)))):
            for request_id, response in zip(answer.request_ids, answer.responses, strict=True):
                assert request_id not in found, "answered twice"
                name = response.WhichOneof("cmd")
                found[request_id] = getattr(response, name)
                assert name == commands[request_id - 1000][0]
        assert sorted(found) == [1000 + number for number in range(len(commands))], "each is answered"
        return [found[request_id] for request_id in sorted(found)]

    async def each_way(self, name: str, *, context: pb.Context | None = None, **fields: Any) -> Any:
        """Make a call both ways; return the response, which has to be the same."""
        unary = await self.call(name, context=context, **fields)
        if not hasattr(tikvpb_pb2.BatchCommandsRequest.Request, name):
            return unary
        (batched,) = await self.batch((name, self.request(name, context=context, **fields)))
        assert batched == unary
        return unary


async def feed(*frames: Any) -> AsyncIterator[Any]:
    for frame in frames:
        yield encode_commands(frame)


async def collect(stream: AsyncIterator[bytes]) -> list[tikvpb_pb2.BatchCommandsResponse]:
    return [tikvpb_pb2.BatchCommandsResponse.FromString(frame) async for frame in stream]


def config(**fields: Any) -> RaftStoreConfig:
    return RaftStoreConfig(**fields)
