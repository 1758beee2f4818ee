"""gRPC servers and channels, stopped in the middle of everything."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, NamedTuple

import pytest
from tests.helpers import Stubborn, forever

from pytinykv.lifecycle import LeakKind, LifecycleError, Scope, ScopeStoppedError
from pytinykv.transport import RpcError, StatusCode, StreamEndedError
from pytinykv.transport.address import AddressError
from pytinykv.transport.rpc import (
    CallContext,
    Method,
    MethodKind,
    RpcChannel,
    RpcServer,
    RpcStream,
)

ENOUGH_S = 10.0
"""A deadline that no test comes near, on however slow a machine."""


def same(data: bytes) -> bytes:
    return data


class Handlers:
    """One service whose handlers tell what becomes of them."""

    def __init__(self, stubborn: Stubborn) -> None:
        self.stubborn = stubborn
        self.entered = asyncio.Event()
        self.closed = asyncio.Event()
        self.go_on = asyncio.Event()
        self.server: RpcServer | None = None

    async def echo(self, request: bytes, context: CallContext) -> bytes:
        return request

    async def hang(self, request: bytes, context: CallContext) -> bytes:
        self.entered.set()
        try:
            await forever()
        finally:
            self.closed.set()
        return b""

    async def brief(self, request: bytes, context: CallContext) -> bytes:
        self.entered.set()
        await asyncio.sleep(0.1)
        return b"done"

    async def ignore(self, request: bytes, context: CallContext) -> bytes:
        self.entered.set()
        return await self.stubborn.run()

    async def await_cancelled(self, request: bytes, context: CallContext) -> bytes:
        cancelled: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        cancelled.cancel()
        return await cancelled

    async def refuse(self, request: bytes, context: CallContext) -> bytes:
        raise RpcError(StatusCode.FAILED_PRECONDITION, "not here")

    async def crash(self, request: bytes, context: CallContext) -> bytes:
        raise KeyError("oops")

    async def abort_and_linger(self, request: bytes, context: CallContext) -> bytes:
        """Grpc takes an aborted call for over, although its handler is not (grpc issue 37239)."""
        try:
            await context.abort(_permission_denied(), "no")  # type: ignore[attr-defined]  # grpc's own, on purpose
        finally:
            self.entered.set()
            await self.go_on.wait()
            self.closed.set()
        return b""

    async def stop_server(self, request: bytes, context: CallContext) -> bytes:
        assert self.server is not None
        await self.server.stop(0.0)
        return b""

    async def pump(self, request: bytes, context: CallContext) -> AsyncIterator[bytes]:
        self.entered.set()
        try:
            while True:
                yield b"x" * 1000
        finally:
            self.closed.set()

    async def both(self, requests: AsyncIterator[bytes], context: CallContext) -> AsyncIterator[bytes]:
        self.entered.set()
        try:
            async for request in requests:
                yield request
        finally:
            self.closed.set()

    async def slowly(self, requests: AsyncIterator[bytes], context: CallContext) -> AsyncIterator[bytes]:
        async for request in requests:
            self.entered.set()
            await self.go_on.wait()
            yield request

    async def count(self, requests: AsyncIterator[bytes], context: CallContext) -> bytes:
        total = 0
        async for _ in requests:
            self.entered.set()
            total += 1
        return str(total).encode()

    def methods(self) -> list[Method]:
        kinds = {
            "pump": MethodKind.UNARY_STREAM,
            "both": MethodKind.STREAM_STREAM,
            "slowly": MethodKind.STREAM_STREAM,
            "count": MethodKind.STREAM_UNARY,
        }
        unary = [
            "echo",
            "hang",
            "brief",
            "ignore",
            "await_cancelled",
            "refuse",
            "crash",
            "abort_and_linger",
            "stop_server",
        ]
        kinds |= dict.fromkeys(unary, MethodKind.UNARY_UNARY)
        return [Method(name, kind, same, same, getattr(self, name)) for name, kind in kinds.items()]


def _permission_denied() -> Any:
    import grpc

    return grpc.StatusCode.PERMISSION_DENIED


class Both(NamedTuple):
    """A server, its handlers, and a channel to it, each in a scope of its own."""

    server_scope: Scope
    server: RpcServer
    handlers: Handlers
    channel: RpcChannel
    scope: Scope

    async def unary(self, name: str, request: bytes = b"", timeout_s: float = ENOUGH_S) -> bytes:
        return await self.channel.unary(f"/t.T/{name}", request, serialize=same, deserialize=same, timeout_s=timeout_s)

    def stream(self, name: str = "both", **options: Any) -> RpcStream[bytes, bytes]:
        return self.channel.stream_stream(f"/t.T/{name}", serialize=same, deserialize=same, **options)

    async def expect(self, what: Callable[[], Awaitable[object]]) -> RpcError:
        """Start `what`, which is to fail with a status, and return that once it has."""
        with pytest.raises(RpcError) as raised:
            await what()
        return raised.value


@pytest.fixture
async def both(scope: Scope, stubborn: Stubborn) -> AsyncIterator[Both]:
    handlers = Handlers(stubborn)
    server_scope = Scope("server")
    server = RpcServer(server_scope, "grpc")
    server.add_service("t.T", handlers.methods())
    handlers.server = server
    port = await server.start("127.0.0.1:0")
    channel = RpcChannel(scope, f"127.0.0.1:{port}")
    yield Both(server_scope, server, handlers, channel, scope)
    stubborn.released.set()
    await server_scope.stop(1.0)
    await channel.close()


class TestCalls:
    async def test_unary(self, both: Both) -> None:
        assert await both.unary("echo", b"hello") == b"hello"
        assert both.channel.calls_under_way == 0

    async def test_megabytes_pass(self, both: Both) -> None:
        assert await both.unary("echo", b"x" * 9_000_000) == b"x" * 9_000_000

    async def test_stream_both_ways(self, both: Both) -> None:
        stream = both.stream()
        for number in range(3):
            stream.send_nowait(str(number).encode())
        assert [await stream.receive() for _ in range(3)] == [b"0", b"1", b"2"]
        stream.finish_sending()
        ended = await both.expect(stream.receive)
        assert isinstance(ended, StreamEndedError)

    async def test_a_sender_is_told_when_what_it_queued_has_been_written(self, both: Both) -> None:
        stream = both.stream()
        told: list[int] = []

        def next_one() -> None:
            told.append(len(told))
            if len(told) < 3:
                stream.send_nowait(b"more")
                assert not stream.is_drained(next_one)

        assert stream.is_drained(next_one)
        stream.send_nowait(b"first")
        assert not stream.is_drained(next_one)
        assert [await stream.receive() for _ in range(3)] == [b"first", b"more", b"more"]
        stream.send_nowait(b"last")
        assert await stream.receive() == b"last"
        assert told == [0, 1, 2]

    async def test_stream_of_requests(self, both: Both) -> None:
        stream: RpcStream[bytes, bytes] = both.channel.stream_unary("/t.T/count", serialize=same, deserialize=same)
        for _ in range(5):
            stream.send_nowait(b"x")
        stream.finish_sending()
        assert await stream.receive() == b"5"

    @pytest.mark.parametrize(
        ("name", "code", "message"),
        [
            ("refuse", StatusCode.FAILED_PRECONDITION, "not here"),
            ("crash", StatusCode.INTERNAL, "/t.T/crash failed: KeyError: 'oops'"),
            ("await_cancelled", StatusCode.UNAVAILABLE, "/t.T/await_cancelled was cancelled"),
            ("unknown", StatusCode.UNIMPLEMENTED, "Method not found!"),
        ],
    )
    async def test_errors_of_handlers(self, both: Both, name: str, code: StatusCode, message: str) -> None:
        error = await both.expect(lambda: both.unary(name))
        assert (error.code, error.message) == (code, message)

    async def test_deadline(self, both: Both) -> None:
        error = await both.expect(lambda: both.unary("hang", timeout_s=0.05))
        assert error.code is StatusCode.DEADLINE_EXCEEDED
        await asyncio.wait_for(both.handlers.closed.wait(), ENOUGH_S)

    async def test_caller_that_is_cancelled_is_cancelled_and_so_is_the_handler(self, both: Both) -> None:
        call = both.scope.start("call", both.unary, "hang")
        await both.handlers.entered.wait()
        call.cancel()
        await asyncio.wait((call.task,), timeout=ENOUGH_S)
        assert call.task.cancelled()
        await asyncio.wait_for(both.handlers.closed.wait(), ENOUGH_S)

    async def test_nothing_listens_there(self, scope: Scope) -> None:
        with socket.socket() as unused:
            unused.bind(("127.0.0.1", 0))
            channel = RpcChannel(scope, f"127.0.0.1:{unused.getsockname()[1]}")
            with pytest.raises(RpcError) as raised:
                await channel.unary("/t.T/echo", b"", serialize=same, deserialize=same, timeout_s=ENOUGH_S)
        assert raised.value.code is StatusCode.UNAVAILABLE

    async def test_full_buffer_refuses_at_once_or_in_time(self, both: Both) -> None:
        stream = both.stream("pump_nothing", buffer=2)
        stream.send_nowait(b"1")
        stream.send_nowait(b"2")
        with pytest.raises(RpcError) as raised:
            stream.send_nowait(b"3")
        assert raised.value.code is StatusCode.RESOURCE_EXHAUSTED
        stream.close()

    async def test_sender_waits_for_room(self, both: Both) -> None:
        stream = both.stream(buffer=1)
        for number in range(20):
            await stream.send(str(number).encode(), timeout_s=ENOUGH_S)
            assert await stream.receive() == str(number).encode()

    async def test_context_tells_about_the_caller(self, both: Both) -> None:
        assert both.server.calls_under_way == 0
        stream = both.stream()
        stream.send_nowait(b"x")
        await stream.receive()
        assert both.server.calls_under_way == 1
        stream.close()


class TestStoppingTheServer:
    async def test_grace_lets_calls_end(self, both: Both) -> None:
        call = both.scope.start("call", both.unary, "brief")
        await both.handlers.entered.wait()
        await both.server.stop(ENOUGH_S)
        assert await call.wait(ENOUGH_S) == b"done"

    async def test_mid_call(self, both: Both) -> None:
        call = both.scope.start("call", both.expect, lambda: both.unary("hang"))
        await both.handlers.entered.wait()
        await both.server.stop(0.01)
        assert both.handlers.closed.is_set()
        assert both.server.leaks() == []
        assert (await call.wait(ENOUGH_S)).code in {StatusCode.UNAVAILABLE, StatusCode.CANCELLED}

    async def test_mid_stream_while_it_answers_without_end(self, both: Both) -> None:
        pump = both.channel._channel.unary_stream("/t.T/pump", request_serializer=same, response_deserializer=same)
        call = pump(b"")
        assert await call.read()
        await both.server.stop(0.01)
        assert both.handlers.closed.is_set()
        assert both.server.leaks() == []
        call.cancel()

    async def test_mid_stream_while_it_reads_without_end(self, both: Both) -> None:
        stream = both.stream()
        told = both.scope.start("flood", self.flood, stream)
        await both.handlers.entered.wait()
        await both.server.stop(0.01)
        assert both.handlers.closed.is_set()
        assert both.server.leaks() == []
        await told.wait(ENOUGH_S)
        assert stream.broken

    async def test_mid_stream_while_both_are_silent_it_ends_in_good_order_without_using_the_grace(
        self, both: Both
    ) -> None:
        stream = both.stream()
        stream.send_nowait(b"x")
        await stream.receive()
        waiting = both.scope.start("receive", both.expect, stream.receive)
        await asyncio.sleep(0)
        await both.server.stop(3600)  # longer than this test may take
        assert both.handlers.closed.is_set()
        assert isinstance(await waiting.wait(ENOUGH_S), StreamEndedError)

    async def test_what_a_stream_has_read_is_still_answered(self, both: Both) -> None:
        stream = both.stream("slowly")
        stream.send_nowait(b"x")
        await both.handlers.entered.wait()
        stop = both.scope.start("stop", both.server.stop, 3600)
        await asyncio.sleep(0)
        both.handlers.go_on.set()
        assert await stream.receive() == b"x"
        assert isinstance(await both.expect(stream.receive), StreamEndedError)
        await stop.wait(ENOUGH_S)

    async def test_stream_of_requests_that_ends_here_is_answered(self, both: Both) -> None:
        stream: RpcStream[bytes, bytes] = both.channel.stream_unary("/t.T/count", serialize=same, deserialize=same)
        stream.send_nowait(b"x")
        await both.handlers.entered.wait()
        await both.server.stop(3600)
        assert await stream.receive() == b"1"

    async def test_handler_cancelled_for_another_reason_while_it_reads_stays_cancelled(self, both: Both) -> None:
        stream = both.stream()
        await both.handlers.entered.wait()  # and so it reads; after an answer it might still be writing that
        (task,) = both.server._calls
        task.cancel()
        await both.server.stop(3600)
        assert both.handlers.closed.is_set()
        assert (await both.expect(stream.receive)).code is StatusCode.UNAVAILABLE

    async def test_before_it_started(self, scope: Scope) -> None:
        server = RpcServer(scope, "grpc")
        await server.stop()
        with pytest.raises(ScopeStoppedError):
            await server.start("127.0.0.1:0")
        assert (await scope.stop()).ok

    async def test_while_it_starts(self, scope: Scope, stubborn: Stubborn) -> None:
        server = RpcServer(scope, "grpc")
        starting = scope.start("start", server.start, "127.0.0.1:0")
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        await server.stop()
        port = await starting.wait(ENOUGH_S)
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(("127.0.0.1", port))

    async def test_twice_and_by_several_at_once(self, both: Both) -> None:
        stops = [both.scope.start(f"stop {number}", both.server.stop, 0.01) for number in range(3)]
        for stop in stops:
            await stop.wait(ENOUGH_S)
        await both.server.stop()

    async def test_goes_on_when_its_caller_is_cancelled(self, both: Both) -> None:
        call = both.scope.start("call", both.expect, lambda: both.unary("hang"))
        await both.handlers.entered.wait()
        stop = both.scope.start("stop", both.server.stop, 0.1)
        await asyncio.sleep(0)
        stop.cancel()
        await asyncio.wait_for(both.handlers.closed.wait(), ENOUGH_S)
        await call.wait(ENOUGH_S)

    async def test_handler_that_was_aborted_and_lingers_has_the_grace_too(self, both: Both) -> None:
        await self.abort(both)
        stop = both.scope.start("stop", both.server.stop, 3600)
        await asyncio.sleep(0.05)  # grpc's own stop is over by now, or soon
        assert not stop.done
        both.handlers.go_on.set()
        await stop.wait(ENOUGH_S)
        assert both.handlers.closed.is_set()
        assert both.server.calls_under_way == 0

    async def test_handler_that_was_aborted_and_lingers_is_cancelled_after_the_grace(self, both: Both) -> None:
        await self.abort(both)
        await both.server.stop(0.0)
        assert not both.handlers.closed.is_set()
        assert both.server.calls_under_way == 0

    @staticmethod
    async def abort(both: Both) -> None:
        assert (await both.expect(lambda: both.unary("abort_and_linger"))).code is StatusCode.PERMISSION_DENIED
        await both.handlers.entered.wait()
        assert both.server.calls_under_way == 1

    async def test_handler_that_ignores_cancellation_is_a_leak_with_its_stack(self, both: Both) -> None:
        call = both.scope.start("call", both.expect, lambda: both.unary("ignore"))
        await both.handlers.entered.wait()
        report = await both.server_scope.stop(0.5)
        assert not report.ok
        leak = next(leak for leak in report.leaks if leak.kind is LeakKind.CALL)
        assert leak.name == "server/grpc/t.T/ignore"
        assert "in Handlers.ignore" in leak.stack[0]
        assert not isinstance(await call.wait(ENOUGH_S), StreamEndedError)

    async def test_handler_may_stop_its_own_server(self, both: Both) -> None:
        await both.expect(lambda: both.unary("stop_server"))
        await both.server.stop()
        assert both.server.leaks() == []

    async def test_by_its_scope(self, both: Both) -> None:
        call = both.scope.start("call", both.expect, lambda: both.unary("hang"))
        await both.handlers.entered.wait()
        report = await both.server_scope.stop(1.0)
        assert report.ok
        assert report.stages[0].name == "server/grpc"
        await call.wait(ENOUGH_S)

    async def test_port_is_free_afterwards_and_the_channel_finds_the_next_server(self, both: Both) -> None:
        assert both.server.address is not None
        await both.server.stop(0.0)
        async with Scope("next") as scope:
            server = RpcServer(scope, "grpc")
            server.add_service("t.T", both.handlers.methods())
            await server.start(str(both.server.address))
            answer = await both.channel.unary(
                "/t.T/echo", b"again", serialize=same, deserialize=same, timeout_s=ENOUGH_S, wait_for_ready=True
            )
        assert answer == b"again"

    @staticmethod
    async def flood(stream: RpcStream[bytes, bytes]) -> RpcError:
        while True:
            try:
                await stream.send(b"x" * 1000, timeout_s=ENOUGH_S)
                await stream.receive()
            except RpcError as error:
                return error


class TestClosingTheChannel:
    async def test_mid_call_the_caller_gets_a_status(self, both: Both) -> None:
        call = both.scope.start("call", both.expect, lambda: both.unary("hang"))
        await both.handlers.entered.wait()
        await both.channel.close()
        assert (await call.wait(ENOUGH_S)).code is StatusCode.UNAVAILABLE
        assert both.channel.leaks() == []
        await asyncio.wait_for(both.handlers.closed.wait(), ENOUGH_S)

    async def test_mid_stream_receiver_and_sender_get_a_status(self, both: Both) -> None:
        stream = both.stream(buffer=1)
        stream.send_nowait(b"x")
        await stream.receive()
        receiving = both.scope.start("receive", both.expect, stream.receive)
        await asyncio.sleep(0)
        await both.channel.close()
        assert (await receiving.wait(ENOUGH_S)).code is StatusCode.UNAVAILABLE
        with pytest.raises(RpcError) as raised:
            stream.send_nowait(b"y")
        assert raised.value.code is StatusCode.UNAVAILABLE
        await asyncio.wait_for(both.handlers.closed.wait(), ENOUGH_S)

    async def test_mid_flood(self, both: Both) -> None:
        told = both.scope.start("flood", TestStoppingTheServer.flood, both.stream())
        await both.handlers.entered.wait()
        await both.channel.close()
        assert (await told.wait(ENOUGH_S)).code is StatusCode.UNAVAILABLE

    async def test_before_any_call_twice_and_at_once(self, scope: Scope) -> None:
        channel = RpcChannel(scope, "127.0.0.1:1")
        first, second = (scope.start(name, channel.close) for name in ("one", "two"))
        await first.wait(ENOUGH_S)
        await second.wait(ENOUGH_S)
        await channel.close()
        assert channel.closed
        with pytest.raises(RpcError, match="UNAVAILABLE"):
            await channel.unary("/t.T/echo", b"", serialize=same, deserialize=same, timeout_s=1)
        with pytest.raises(RpcError, match="UNAVAILABLE"):
            channel.stream_stream("/t.T/both", serialize=same, deserialize=same)

    async def test_an_open_stream_is_a_leak_of_its_own_with_the_line_that_opened_it(self, both: Both) -> None:
        stream = both.channel.stream_stream("/t.T/both", serialize=same, deserialize=same)
        stream.send_nowait(b"x")
        await stream.receive()
        [leak] = both.channel.leaks()
        assert leak.name == f"/t.T/both at {both.channel.address}"
        assert leak.started_at.function == "test_an_open_stream_is_a_leak_of_its_own_with_the_line_that_opened_it"
        assert "_consume_request_iterator" in leak.stack[0]
        [label] = both.channel.labels()
        assert label.started_at == leak.started_at
        await both.channel.close()
        assert both.channel.leaks() == []

    async def test_stream_closed_twice_and_before_anything_was_sent(self, both: Both) -> None:
        stream = both.stream()
        stream.close()
        stream.close()
        assert (await both.expect(stream.receive)).code is StatusCode.UNAVAILABLE

    async def test_by_its_scope(self, both: Both) -> None:
        child = both.scope.child("client")
        channel = RpcChannel(child, both.channel.address)
        call = both.scope.start(
            "call",
            both.expect,
            lambda: channel.unary("/t.T/hang", b"", serialize=same, deserialize=same, timeout_s=ENOUGH_S),
        )
        await both.handlers.entered.wait()
        assert (await child.stop()).ok
        assert (await call.wait(ENOUGH_S)).code is StatusCode.UNAVAILABLE

    async def test_peer_that_never_answers_the_handshake(self, scope: Scope) -> None:
        with socket.socket() as silent:
            silent.bind(("127.0.0.1", 0))
            silent.listen()
            channel = RpcChannel(scope, f"127.0.0.1:{silent.getsockname()[1]}")
            call = scope.start(
                "call", channel.unary, "/t.T/echo", b"", serialize=same, deserialize=same, timeout_s=ENOUGH_S
            )
            await asyncio.sleep(0.05)
            await channel.close()
            with pytest.raises(RpcError, match="UNAVAILABLE"):
                await call.wait(ENOUGH_S)


class TestAddresses:
    @pytest.mark.parametrize("text", ["0.0.0.0:0", "192.0.2.1:0", "[::]:0", "example.org:0"])
    async def test_others_could_reach_it(self, scope: Scope, text: str) -> None:
        with pytest.raises(AddressError, match="say --insecure"):
            await RpcServer(scope, "grpc").start(text)

    async def test_insecure_on_purpose(self, scope: Scope) -> None:
        server = RpcServer(scope, "grpc")
        assert await server.start("0.0.0.0:0", insecure=True) > 0
        await server.stop()

    async def test_port_in_use(self, both: Both, scope: Scope) -> None:
        address = str(both.server.address)
        with pytest.raises(AddressError, match=f"cannot listen on {address}: another process listens there"):
            await RpcServer(scope, "grpc").start(address)

    async def test_port_taken_behind_the_back_of_the_check(
        self, both: Both, scope: Scope, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("pytinykv.transport.rpc.server.check_can_bind", print)
        server = RpcServer(scope, "grpc")
        with pytest.raises(AddressError, match="another process took it"):
            await server.start(str(both.server.address))
        await server.stop()

    async def test_address_of_another_machine(self, scope: Scope) -> None:
        with pytest.raises(AddressError, match="not one of this machine's"):
            await RpcServer(scope, "grpc").start("192.0.2.1:0", insecure=True)

    async def test_started_twice(self, both: Both) -> None:
        with pytest.raises(LifecycleError, match="twice"):
            await both.server.start("127.0.0.1:0")
        with pytest.raises(LifecycleError, match="before the server starts"):
            both.server.add_service("t.U", [])
