"""Calls that come before the service is ready."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest

from pytinykv.server.host.startup_gate import StartupGate
from pytinykv.wire import RpcError, StatusCode, service_methods
from pytinykv.wire.pb import kvrpcpb_pb2 as pb

GET, PUT, BATCH = "/tikvpb.Tikv/RawGet", "/tikvpb.Tikv/RawPut", "/tikvpb.Tikv/BatchCommands"


class Behind:
    """Knows two methods."""

    methods = service_methods("tikvpb.Tikv", only=["RawGet", "BatchCommands"])

    async def unary(self, path: str, request: Any) -> Any:
        return pb.RawGetResponse(value=request.key + path.encode())

    async def stream(self, path: str, requests: AsyncIterator[Any]) -> AsyncIterator[Any]:
        async for request in requests:
            yield path, request


async def nothing() -> AsyncIterator[Any]:
    yield 1


async def test_before_it_opens_everything_is_unavailable() -> None:
    gate = StartupGate("tikvpb.Tikv")
    for call in (lambda: gate.unary(GET, pb.RawGetRequest()), lambda: anext(gate.stream(BATCH, nothing()))):
        with pytest.raises(RpcError, match="starting") as caught:
            await call()
        assert caught.value.code is StatusCode.UNAVAILABLE


async def test_once_open_it_lets_through_what_is_behind_it() -> None:
    gate = StartupGate("tikvpb.Tikv")
    gate.open(Behind())
    assert (await gate.unary(GET, pb.RawGetRequest(key=b"k"))).value == b"k" + GET.encode()
    assert [answer async for answer in gate.stream(BATCH, nothing())] == [(BATCH, 1)]
    with pytest.raises(RpcError) as caught:
        await gate.unary(PUT, pb.RawPutRequest())
    assert caught.value.code is StatusCode.UNIMPLEMENTED
