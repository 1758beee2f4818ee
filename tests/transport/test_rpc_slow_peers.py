"""A peer that is far away or busy has to be waited for; one that is gone has to be noticed, by pings that it permits."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable

import pytest

from pytinykv.lifecycle import Scope
from pytinykv.transport import RpcError, StatusCode
from pytinykv.transport.rpc import CallContext, Method, MethodKind, RpcChannel, RpcServer
from pytinykv.transport.rpc.channel import RpcStream
from pytinykv.transport.rpc.engine import CHANNEL_OPTIONS, SERVER_OPTIONS
from pytinykv.waitgraph import call_site

ENOUGH_S = 10.0
FAR_S = 0.8
"""More than a connection attempt gets after the first few if each has only as long as the pause before the next."""


def same(data: bytes) -> bytes:
    return data


async def echo(request: bytes, _context: CallContext) -> bytes:
    return request


async def test_a_peer_whose_first_word_takes_long_is_reached(scope: Scope) -> None:
    server = RpcServer(scope, "server")
    server.add_service("any.Thing", [Method("Echo", MethodKind.UNARY_UNARY, same, same, echo)])
    port = await server.start("127.0.0.1:0")

    async def relay(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await asyncio.sleep(FAR_S)
        far_reader, far_writer = await asyncio.open_connection("127.0.0.1", port)
        try:
            await asyncio.gather(pass_on(reader, far_writer), pass_on(far_reader, writer))
        finally:
            far_writer.transport.abort()
            writer.transport.abort()

    async with await asyncio.start_server(relay, "127.0.0.1", 0) as far:
        channel = RpcChannel(scope, f"127.0.0.1:{far.sockets[0].getsockname()[1]}")
        async with asyncio.timeout(ENOUGH_S):
            while (answer := await asked(channel)) is None:
                pass
        assert answer == b"x"
        await channel.close()


SHORT_KEEPALIVE = (("grpc.keepalive_time_ms", 300), ("grpc.http2.ping_timeout_ms", 1_000))
"""Instead of 10 s each. The relay runs on this loop, and has to pass an answer on in time while it still does."""


async def test_a_silent_peer_is_given_up_at_both_ends(scope: Scope) -> None:
    """Nothing tells a server that its client was stopped or a cable pulled, nor the client: they have to ask."""
    silent, ended = asyncio.Event(), asyncio.Event()

    async def watch(_requests: AsyncIterator[bytes], _context: CallContext) -> AsyncIterator[bytes]:
        silent.set()
        try:
            await asyncio.Event().wait()
            yield b""
        finally:
            ended.set()

    assert dict(SHORT_KEEPALIVE).keys() < dict(SERVER_OPTIONS).keys() & dict(CHANNEL_OPTIONS).keys()
    server = RpcServer(scope, "server", options=SHORT_KEEPALIVE)
    server.add_service("any.Thing", [Method("Watch", MethodKind.STREAM_STREAM, same, same, watch)])
    port = await server.start("127.0.0.1:0")

    async def relay(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        far_reader, far_writer = await asyncio.open_connection("127.0.0.1", port)
        try:
            await asyncio.gather(pass_on(reader, far_writer, silent), pass_on(far_reader, writer, silent))
        finally:
            far_writer.transport.abort()
            writer.transport.abort()

    async with await asyncio.start_server(relay, "127.0.0.1", 0) as between:
        channel = RpcChannel(scope, f"127.0.0.1:{between.sockets[0].getsockname()[1]}", options=SHORT_KEEPALIVE)
        stream = channel.stream_stream("/any.Thing/Watch", serialize=same, deserialize=same)
        stream.send_nowait(b"x")
        async with asyncio.timeout(ENOUGH_S):
            with pytest.raises(RpcError) as told:
                await stream.receive()
            await ended.wait()
        assert told.value.code is StatusCode.UNAVAILABLE
        await channel.close()


async def test_a_client_without_calls_does_not_ping(scope: Scope) -> None:
    """Servers in Go, PD and etcd among them, end such a connection after the third ping. Ours ping it all the same."""
    options = [*SHORT_KEEPALIVE, ("grpc.http2.bdp_probe", 0)]  # no pings but those that look whether the peer is there
    server = RpcServer(scope, "server", options=options)
    server.add_service("any.Thing", [Method("Echo", MethodKind.UNARY_UNARY, same, same, echo)])
    port = await server.start("127.0.0.1:0")
    pings: list[str] = []
    enough = asyncio.Event()

    def on_ping(sender: str) -> None:
        pings.append(sender)
        if pings.count("server") == 5:
            enough.set()

    async def relay(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        far_reader, far_writer = await asyncio.open_connection("127.0.0.1", port)
        try:
            await asyncio.gather(
                pass_on_frames(reader, far_writer, lambda: on_ping("client"), preface=CLIENT_PREFACE_BYTES),
                pass_on_frames(far_reader, writer, lambda: on_ping("server")),
            )
        finally:
            far_writer.transport.abort()
            writer.transport.abort()

    async with await asyncio.start_server(relay, "127.0.0.1", 0) as between:
        channel = RpcChannel(scope, f"127.0.0.1:{between.sockets[0].getsockname()[1]}", options=options)
        assert await asked(channel) == b"x"
        pings.clear()
        async with asyncio.timeout(ENOUGH_S):
            await enough.wait()
        assert pings == ["server"] * 5
        await channel.close()


async def test_a_stream_that_the_peer_ended_takes_the_write_under_way_with_it(scope: Scope) -> None:
    """The network takes nothing more from the sender, and brings the end of the call: grpc goes on writing by itself."""
    arrived, held, answer = asyncio.Event(), asyncio.Event(), asyncio.Event()

    async def take(requests: AsyncIterator[bytes], _context: CallContext) -> bytes:
        await anext(requests)
        arrived.set()
        await answer.wait()
        return b"enough"

    wide = [
        ("grpc.http2.lookahead_bytes", 1 << 26),
        ("grpc.http2.bdp_probe", 0),
    ]  # flow control is not what holds it up
    server = RpcServer(scope, "server", options=wide)
    server.add_service("any.Thing", [Method("Take", MethodKind.STREAM_UNARY, same, same, take)])
    port = await server.start("127.0.0.1:0")

    async def hold(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while not arrived.is_set() and (data := await reader.read(65536)):
            writer.write(data)
        while len(await reader.read(65536)) < 65536:  # the beginning of what is large
            pass
        held.set()
        await asyncio.Event().wait()

    async def relay(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        far_reader, far_writer = await asyncio.open_connection("127.0.0.1", port)
        try:
            await asyncio.gather(hold(reader, far_writer), pass_on(far_reader, writer))
        finally:
            far_writer.transport.abort()
            writer.transport.abort()

    relays = scope.child("relays")

    def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        relays.start("relay", relay, reader, writer)

    async with await asyncio.start_server(accept, "127.0.0.1", 0) as between:
        channel = RpcChannel(scope, f"127.0.0.1:{between.sockets[0].getsockname()[1]}")
        stream = channel.stream_unary("/any.Thing/Take", serialize=same, deserialize=same)
        stream.send_nowait(b"x")
        await arrived.wait()
        stream.send_nowait(b"x" * (1 << 25))
        async with asyncio.timeout(ENOUGH_S):
            await held.wait()
            answer.set()
            assert await stream.receive() == b"enough"
            await stream.ended
        assert not [task for task in asyncio.all_tasks() if "_consume_request_iterator" in repr(task.get_coro())]
        await channel.close()
        await relays.stop()


class HeldCall:
    """A call of gRPC whose sending task is in a write that goes on after the call's end, as some versions of gRPC let it."""

    def __init__(self, scope: Scope, requests: AsyncIterator[bytes]) -> None:
        self.is_writing = asyncio.Event()
        self.done_callbacks: list[Callable[[object], object]] = []
        self.sender = scope.start("sender", self._send, requests)

    async def _send(self, requests: AsyncIterator[bytes]) -> None:
        async for _ in requests:
            self.is_writing.set()
            await asyncio.Event().wait()

    def add_done_callback(self, callback: Callable[[object], object]) -> None:
        self.done_callbacks.append(callback)


async def test_a_write_that_would_outlive_its_call_is_cancelled_and_waited_for(scope: Scope) -> None:
    calls: list[HeldCall] = []

    def open_call(requests: AsyncIterator[bytes]) -> HeldCall:
        calls.append(HeldCall(scope, requests))
        return calls[0]

    stream: RpcStream[bytes, bytes] = RpcStream("/any.Thing/Take", open_call, 8, call_site())
    (call,) = calls
    stream.send_nowait(b"x")
    await call.is_writing.wait()
    for callback in call.done_callbacks:
        callback(call)
    assert not stream.ended.done(), "its sending task is still there"
    async with asyncio.timeout(ENOUGH_S):
        await stream.ended
    assert call.sender.done


async def asked(channel: RpcChannel) -> bytes | None:
    try:
        return await channel.unary("/any.Thing/Echo", b"x", serialize=same, deserialize=same, timeout_s=ENOUGH_S)
    except RpcError:  # gRPC tells each attempt's end to who waits for it
        return None


async def pass_on(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, silent: asyncio.Event | None = None
) -> None:
    """Hand over what is said, and the end; once `silent`, take it and say nothing."""
    try:
        while data := await reader.read(65536):
            if silent is None or not silent.is_set():
                writer.write(data)
                await writer.drain()
    except OSError:
        pass
    if silent is None or not silent.is_set():
        writer.close()


CLIENT_PREFACE_BYTES = 24
HEADER_BYTES = 9
PING, ACK = 6, 1


async def pass_on_frames(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, on_ping: Callable[[], None], *, preface: int = 0
) -> None:
    """Hand over HTTP/2 frames (RFC 9113, 4.1: length, type, flags, stream; payload), and tell which of them are pings."""
    try:
        writer.write(await reader.readexactly(preface))
        while True:
            header = await reader.readexactly(HEADER_BYTES)
            writer.write(header + await reader.readexactly(int.from_bytes(header[:3])))
            if header[3] == PING and not header[4] & ACK:
                on_ping()
    except (OSError, asyncio.IncompleteReadError):
        writer.close()
