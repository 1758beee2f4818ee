"""A peer far away, or one that is busy, takes its time to accept: it has to be waited for."""

from __future__ import annotations

import asyncio

from pytinykv.lifecycle import Scope
from pytinykv.lifecycle.rpc import CallContext, Kind, Method, RpcChannel, RpcServer, StatusError

ENOUGH_S = 10.0
FAR_S = 0.8
"""More than a connection attempt gets after the first few if each has only as long as the pause before the next."""


def same(data: bytes) -> bytes:
    return data


async def echo(request: bytes, _context: CallContext) -> bytes:
    return request


async def test_a_peer_whose_first_word_takes_long_is_reached(scope: Scope) -> None:
    server = RpcServer(scope, "server")
    server.add_service("any.Thing", [Method("Echo", Kind.UNARY_UNARY, same, same, echo)])
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


async def asked(channel: RpcChannel) -> bytes | None:
    try:
        return await channel.unary("/any.Thing/Echo", b"x", serialize=same, deserialize=same, timeout_s=ENOUGH_S)
    except StatusError:  # gRPC tells each attempt's end to who waits for it
        return None


async def pass_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
    except OSError:
        pass
    writer.close()
