"""gRPC's engine outlives every event loop: what becomes of a loop that goes must not disturb the others."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from typing import Any

import pytest
import uvloop

from pytinykv.lifecycle import Scope
from pytinykv.transport import RpcError
from pytinykv.transport.rpc import CallContext, Method, MethodKind, RpcChannel, RpcServer, RpcStream, engine

LOOPS = [asyncio.new_event_loop, uvloop.new_event_loop]


def same(data: bytes) -> bytes:
    return data


class Handlers:
    """One method that waits, one that answers at once, one that does so without end."""

    def __init__(self) -> None:
        self.entered = asyncio.Event()
        self.go_on = asyncio.Event()
        self.closed = asyncio.Event()

    async def wait(self, request: bytes, _context: CallContext) -> bytes:
        self.entered.set()
        try:
            await self.go_on.wait()
        finally:  # also when the server has heard first that the call was cancelled
            self.closed.set()
        return request

    async def echo(self, request: bytes, _context: CallContext) -> bytes:
        return request

    async def both(self, requests: AsyncIterator[bytes], _context: CallContext) -> AsyncIterator[bytes]:
        self.entered.set()
        async for request in requests:
            yield request

    async def serve(self, scope: Scope) -> str:
        server = RpcServer(scope, "grpc")
        kinds = {"wait": MethodKind.UNARY_UNARY, "echo": MethodKind.UNARY_UNARY, "both": MethodKind.STREAM_STREAM}
        server.add_service("t.T", [Method(name, kind, same, same, getattr(self, name)) for name, kind in kinds.items()])
        return f"127.0.0.1:{await server.start('127.0.0.1:0')}"


@pytest.mark.parametrize("loop_factory", LOOPS)
async def test_an_event_for_a_loop_that_is_closed_disturbs_no_other_loop(
    scope: Scope, loop_factory: Callable[[], asyncio.AbstractEventLoop]
) -> None:
    """A call whose task was cancelled ends when gRPC's core has ended it, which may be after its loop was closed."""
    raised: list[dict[str, Any]] = []
    own_loop = asyncio.get_running_loop()
    own_loop.set_exception_handler(lambda _, context: raised.append(context))
    handlers = Handlers()
    address = await handlers.serve(scope)

    async def begin_and_leave() -> None:
        channel = RpcChannel(Scope("other"), address)
        call: Any = channel._channel.unary_unary("/t.T/wait")(b"", wait_for_ready=True)
        await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(handlers.entered.wait(), own_loop))
        call._invocation_task.cancel()
        await asyncio.sleep(0)

    def run_and_close() -> None:
        loop = loop_factory()
        loop.run_until_complete(begin_and_leave())
        loop.close()

    await asyncio.to_thread(run_and_close)  # without a spinning loop, which takes the interpreter from gRPC's thread
    handlers.go_on.set()
    await handlers.closed.wait()
    channel = RpcChannel(scope, address)
    for _ in range(100):
        await channel.unary("/t.T/echo", b"", serialize=same, deserialize=same, timeout_s=10)
    assert raised == []


@pytest.mark.parametrize("loop_factory", LOOPS)
def test_an_event_for_a_loop_that_is_just_being_closed_is_dropped(
    loop_factory: Callable[[], asyncio.AbstractEventLoop],
) -> None:
    """Closing takes a while, in which other threads hand over events."""
    loop = loop_factory()
    loop_class = type(loop)
    events: list[object] = []

    class Slow(loop_class):  # type: ignore[misc, valid-type]
        def close(self) -> None:
            super().close()
            events.append(self.call_soon_threadsafe(engine._deliver, None, True))  # as gRPC does
            with pytest.raises(RuntimeError, match="closed"):
                self.call_soon_threadsafe(print)

    loop.close()
    slow = Slow()

    async def use() -> None:
        engine.keep_engine()

    slow.run_until_complete(use())
    slow.close()
    assert events == [None]


async def flood(channel: RpcChannel, entered: asyncio.Event) -> None:
    """Send and receive until the channel is closed. A first attempt to connect may fail on a busy machine."""
    stream: RpcStream[bytes, bytes]
    while not entered.is_set():
        with suppress(RpcError):
            stream = channel.stream_stream("/t.T/both", serialize=same, deserialize=same)
            while True:
                await stream.send(b"x" * 1000, timeout_s=10)
                await stream.receive()


@pytest.mark.parametrize("loop_factory", LOOPS)
def test_loops_come_and_go_with_calls_under_way(loop_factory: Callable[[], asyncio.AbstractEventLoop]) -> None:
    """A loop that goes in the middle of everything must not hang the next."""

    async def main() -> None:
        async with Scope("round") as scope:
            handlers = Handlers()
            address = await handlers.serve(scope)
            for number in range(3):
                scope.start(f"flood {number}", flood, RpcChannel(scope, address), handlers.entered)
            await handlers.entered.wait()

    for _ in range(5):
        with asyncio.Runner(loop_factory=loop_factory) as runner:
            runner.run(main())
