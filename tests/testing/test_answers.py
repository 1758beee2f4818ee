"""Answers on demand, before a service that is made up."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping

import pytest
from google.protobuf.message import Message

from pytinykv import testing
from pytinykv.client.grpc_connector import GrpcConnector
from pytinykv.lifecycle import Scope
from pytinykv.testing.answers import AnsweringService, Orders
from pytinykv.testing.fronts import _Forwarding
from pytinykv.wire import BATCH_COMMANDS, MethodSpec, Response, RpcError, StatusCode
from pytinykv.wire.pb import kvrpcpb_pb2, tikvpb_pb2


class Echo:
    """A store that answers each frame with the ids of its commands."""

    methods: Mapping[str, MethodSpec] = {}

    async def unary(self, path: str, request: Message) -> Response:
        raise NotImplementedError

    async def stream(self, _path: str, requests: AsyncIterator[Message]) -> AsyncIterator[Response]:
        async for request in requests:
            frame = tikvpb_pb2.BatchCommandsRequest.FromString(request.SerializeToString())
            yield tikvpb_pb2.BatchCommandsResponse(
                request_ids=frame.request_ids, responses=[tikvpb_pb2.BatchCommandsResponse.Response()]
            )


async def one_put() -> AsyncIterator[Message]:
    put = kvrpcpb_pb2.RawPutRequest(key=b"k", value=b"v")
    yield tikvpb_pb2.BatchCommandsRequest(
        request_ids=[7], requests=[tikvpb_pb2.BatchCommandsRequest.Request(RawPut=put)]
    )


async def test_a_stream_that_comes_while_the_store_stops_is_answered_by_the_store() -> None:
    scope, orders = Scope("store"), Orders()
    order = orders.add("RawPut", testing.Delay(0.01), 1, None)
    service = AnsweringService(Echo(), orders, scope, 1)
    async with scope:
        pass
    frames = [frame async for frame in service.stream(BATCH_COMMANDS, one_put())]
    assert [list(frame.request_ids) for frame in frames] == [[7]]  # type: ignore[union-attr]  # as `Echo` makes them
    assert order.given == 0


async def test_a_stream_that_comes_while_a_front_ends_is_told_that_nobody_serves_it() -> None:
    async with Scope("front") as scope:
        front = _Forwarding(GrpcConnector(scope), "127.0.0.1:1", scope, ())
    with pytest.raises(RpcError) as refused:
        await anext(front.stream(BATCH_COMMANDS, one_put()))
    assert refused.value.code is StatusCode.UNAVAILABLE
