"""A service without a transport, behind a real gRPC server on loopback."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Mapping
from typing import Any

import pytest
from google.protobuf.message import Message

from pytinykv.lifecycle import Scope
from pytinykv.server.host.grpc_binding import bind_service
from pytinykv.server.host.startup_gate import StartupGate
from pytinykv.transport import StreamEndedError
from pytinykv.transport.rpc import RpcChannel, RpcServer
from pytinykv.wire import MethodSpec, RpcError, StatusCode, service_methods
from pytinykv.wire.pb.kvrpcpb_pb2 import RawGetRequest, RawGetResponse
from pytinykv.wire.pb.pdpb_pb2 import TsoRequest, TsoResponse

RAW_GET = "/tikvpb.Tikv/RawGet"
TSO = "/pdpb.PD/Tso"
GARBAGE = b"\xff\xff\xff"
TIMEOUT_S = 5.0


class EchoService:
    """RawGet answers with its key; keys and counts with a meaning of their own fail. Tso answers with the count."""

    def __init__(self) -> None:
        self.methods: Mapping[str, MethodSpec] = {
            **service_methods("tikvpb.Tikv", only=["RawGet"]),
            **service_methods("pdpb.PD", only=["Tso"]),
        }
        self.streams_closed = 0
        self.waiting = asyncio.Event()

    async def unary(self, path: str, request: Message) -> Message:
        assert path == RAW_GET
        assert isinstance(request, RawGetRequest)
        if request.key == b"refuse":
            raise RpcError(StatusCode.FAILED_PRECONDITION, "mismatch cluster id: need 7 but got 8")
        if request.key == b"bug":
            raise ZeroDivisionError("one divided by none")
        if request.key == b"wait":
            self.waiting.set()
            await asyncio.Event().wait()
        return RawGetResponse(value=request.key)

    async def stream(self, path: str, requests: AsyncIterator[Message]) -> AsyncIterator[Message]:
        assert path == TSO
        try:
            async for request in requests:
                assert isinstance(request, TsoRequest)
                if request.count == 99:
                    raise RpcError(StatusCode.UNAVAILABLE, "not leader")
                if request.count == 98:
                    return
                yield TsoResponse(count=request.count)
        finally:
            self.streams_closed += 1


class Rig:
    def __init__(self, scope: Scope) -> None:
        self.scope = scope
        self.service = EchoService()
        self.server = RpcServer(scope, "echo")
        bind_service(self.server, self.service)

    async def start(self) -> None:
        port = await self.server.start("127.0.0.1:0")
        self.channel = RpcChannel(self.scope, f"127.0.0.1:{port}")

    async def raw_get(self, key: bytes) -> RawGetResponse:
        return RawGetResponse.FromString(await self.call(RAW_GET, RawGetRequest(key=key).SerializeToString()))

    async def call(self, path: str, data: bytes) -> bytes:
        return await self.channel.unary(path, data, serialize=bytes, deserialize=bytes, timeout_s=TIMEOUT_S)

    def tso(self) -> Any:
        return self.channel.stream_stream(TSO, serialize=bytes, deserialize=TsoResponse.FromString, timeout_s=TIMEOUT_S)


@pytest.fixture
async def rig() -> AsyncIterator[Rig]:
    scope = Scope("test")
    rig = Rig(scope)
    await rig.start()
    yield rig
    report = await scope.stop()
    assert report.ok, report.render()


def ask(count: int) -> bytes:
    return TsoRequest(count=count).SerializeToString()


async def test_a_call_gets_its_answer(rig: Rig) -> None:
    assert (await rig.raw_get(b"k")).value == b"k"


async def test_an_error_of_the_service_reaches_the_caller_with_code_and_message(rig: Rig) -> None:
    with pytest.raises(RpcError, match="mismatch cluster id: need 7 but got 8") as raised:
        await rig.raw_get(b"refuse")
    assert raised.value.code == StatusCode.FAILED_PRECONDITION


async def test_garbage_is_an_invalid_argument_and_the_connection_goes_on(rig: Rig) -> None:
    with pytest.raises(RpcError, match=r"3 bytes are no kvrpcpb.RawGetRequest") as raised:
        await rig.call(RAW_GET, GARBAGE)
    assert raised.value.code == StatusCode.INVALID_ARGUMENT
    assert (await rig.raw_get(b"k")).value == b"k"


async def test_an_unexpected_exception_is_internal_and_logged_with_its_traceback(
    rig: Rig, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.ERROR), pytest.raises(RpcError) as raised:
        await rig.raw_get(b"bug")
    assert raised.value.code == StatusCode.INTERNAL
    assert [record.exc_info[0] for record in caplog.records if record.exc_info] == [ZeroDivisionError]
    assert (await rig.raw_get(b"k")).value == b"k"


@pytest.mark.parametrize("path", ["/tikvpb.Tikv/RawPut", "/tikvpb.Tikv/NoSuchMethod", "/no.Such/Service"])
async def test_what_the_service_does_not_list_is_unimplemented(rig: Rig, path: str) -> None:
    with pytest.raises(RpcError) as raised:
        await rig.call(path, b"")
    assert raised.value.code == StatusCode.UNIMPLEMENTED


async def test_a_stream_answers_each_request_in_order_and_ends_when_the_requests_do(rig: Rig) -> None:
    stream = rig.tso()
    for count in (3, 1, 2):
        stream.send_nowait(ask(count))
    assert [(await stream.receive()).count for _ in range(3)] == [3, 1, 2]
    stream.finish_sending()
    with pytest.raises(StreamEndedError):
        await stream.receive()
    assert rig.service.streams_closed == 1


async def test_an_error_ends_the_stream_after_the_answers_before_it(rig: Rig) -> None:
    stream = rig.tso()
    stream.send_nowait(ask(1))
    stream.send_nowait(ask(99))
    assert (await stream.receive()).count == 1
    with pytest.raises(RpcError, match="not leader") as raised:
        await stream.receive()
    assert raised.value.code == StatusCode.UNAVAILABLE


async def test_garbage_ends_its_stream_and_nothing_else(rig: Rig) -> None:
    bystander, stream = rig.tso(), rig.tso()
    stream.send_nowait(ask(1))
    stream.send_nowait(GARBAGE)
    assert (await stream.receive()).count == 1
    with pytest.raises(RpcError, match=r"no pdpb.TsoRequest") as raised:
        await stream.receive()
    assert raised.value.code == StatusCode.INVALID_ARGUMENT
    bystander.send_nowait(ask(2))
    assert (await bystander.receive()).count == 2
    bystander.close()


async def test_a_stream_that_can_t_even_be_opened_says_why() -> None:
    """A gate that is still closed refuses at once, before there is a stream to fail."""
    scope = Scope("gate")
    server = RpcServer(scope, "server")
    bind_service(server, StartupGate("pdpb.PD"))
    channel = RpcChannel(scope, f"127.0.0.1:{await server.start('127.0.0.1:0')}")
    stream = channel.stream_stream(TSO, serialize=bytes, deserialize=TsoResponse.FromString, timeout_s=TIMEOUT_S)
    with pytest.raises(RpcError, match="is starting here; try again") as raised:
        await stream.receive()
    assert raised.value.code == StatusCode.UNAVAILABLE
    report = await scope.stop()
    assert report.ok, report.render()


async def test_a_service_may_end_a_stream_with_requests_unread(rig: Rig) -> None:
    stream = rig.tso()
    for count in (98, 1, 1):
        stream.send_nowait(ask(count))
    with pytest.raises(RpcError) as raised:
        await stream.receive()
    # grpc.aio's client says INTERNAL if the end of the stream came while it was sending.
    assert isinstance(raised.value, StreamEndedError) or raised.value.code is StatusCode.INTERNAL
    assert rig.service.streams_closed == 1
    assert (await rig.raw_get(b"k")).value == b"k"


async def test_a_stop_in_the_middle_of_a_call_and_a_stream_leaves_nothing(rig: Rig) -> None:
    stream = rig.tso()
    stream.send_nowait(ask(1))
    await stream.receive()
    call = rig.scope.start("caller", rig.raw_get, b"wait")
    await rig.service.waiting.wait()
    await rig.server.stop(grace_s=0.05)
    with pytest.raises(RpcError):
        await stream.receive()
    with pytest.raises(RpcError):
        await call.wait()
    assert rig.server.calls_under_way == 0
    assert rig.service.streams_closed == 1


def test_a_method_that_streams_requests_only_cannot_be_bound() -> None:
    class Uploads(EchoService):
        def __init__(self) -> None:
            self.methods = service_methods("tikvpb.Tikv", only=["Snapshot"])

    with pytest.raises(AssertionError, match="streams requests only"):
        bind_service(RpcServer(Scope("test"), "uploads"), Uploads())
