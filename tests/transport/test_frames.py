"""Frames over TCP: every border that a stream can have, and every way in which a connection can end."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Coroutine
from typing import Any

import pytest
import uvloop

from pytinykv.lifecycle import Scope
from pytinykv.lifecycle.errors import ScopeStoppedError
from pytinykv.transport.address import AddressError
from pytinykv.transport.frames import FrameConnection, FrameListener, connect_frames

Story = Callable[[], Coroutine[Any, Any, None]]
Runner = Callable[[Story], None]


@pytest.fixture(params=[asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"])
def run(request: pytest.FixtureRequest) -> Runner:
    """Run a story on each of the loops that servers use."""

    def run_story(story: Story) -> None:
        with asyncio.Runner(loop_factory=request.param) as runner:
            runner.run(asyncio.wait_for(story(), 20.0))

    return run_story


class Pipe(asyncio.Transport):
    """A transport that goes nowhere and remembers."""

    def __init__(self) -> None:
        super().__init__()
        self.sent = bytearray()
        self.aborted = False
        self.unsent_bytes = 0

    def writelines(self, parts: Any) -> None:
        self.sent += b"".join(parts)

    def abort(self) -> None:
        self.aborted = True

    def get_write_buffer_size(self) -> int:
        return self.unsent_bytes


class End:
    """One end of a connection by hand."""

    def __init__(self, **limits: int) -> None:
        self.frames: list[bytes] = []
        self.closed = 0
        self.connection = FrameConnection(self._on_frame, self._on_closed, **limits)
        self.pipe = Pipe()
        self.connection.connection_made(self.pipe)

    def _on_frame(self, _connection: FrameConnection, frame: bytes) -> None:
        self.frames.append(frame)

    def _on_closed(self, _connection: FrameConnection) -> None:
        self.closed += 1


def on_wire(*frames: bytes) -> bytes:
    return b"".join(len(frame).to_bytes(4, "big") + frame for frame in frames)


FRAMES = [b"", b"a", b"bb" * 3, b"\x00\x00\x00\x09", b""]


# --- borders


def test_what_goes_over_the_wire() -> None:
    end = End()
    assert end.connection.send_nowait(b"abc")
    assert end.connection.send_nowait(b"")
    assert bytes(end.pipe.sent) == b"\x00\x00\x00\x03abc\x00\x00\x00\x00"


def test_a_cut_at_every_byte() -> None:
    data = on_wire(*FRAMES)
    for first in range(len(data) + 1):
        for second in range(first, len(data) + 1):
            end = End()
            for piece in (data[:first], data[first:second], data[second:]):
                end.connection.data_received(piece)
            assert end.frames == FRAMES


def test_byte_by_byte() -> None:
    end = End()
    for byte in on_wire(*FRAMES):
        end.connection.data_received(bytes([byte]))
    assert end.frames == FRAMES


@pytest.mark.parametrize("pieces", [1, 2, 5])
def test_a_frame_that_is_too_large_ends_the_connection(pieces: int) -> None:
    end = End(frame_bytes_max=10)
    data = on_wire(b"x" * 10, b"y" * 11, b"z")
    step = -(-len(data) // pieces)
    for start in range(0, len(data), step):
        end.connection.data_received(data[start : start + step])
    assert end.frames == [b"x" * 10]
    assert end.connection.closed
    assert end.pipe.aborted


def test_a_single_frame_that_is_too_large_is_no_exception() -> None:
    end = End(frame_bytes_max=10)
    end.connection.data_received(on_wire(b"y" * 11))
    assert end.frames == []
    assert end.connection.closed


def test_an_unauthenticated_peer_s_first_frame_is_small_or_the_end() -> None:
    end = End(frame_bytes_max=100, first_frame_bytes_max=5)
    end.connection.data_received(on_wire(b"x" * 6)[:4])
    assert end.pipe.aborted, "by its length, before there is anything to keep"
    end = End(frame_bytes_max=100, first_frame_bytes_max=5)
    end.connection.data_received(on_wire(b"hello", b"x" * 100))
    assert end.frames == [b"hello", b"x" * 100]
    assert not end.connection.closed


def test_a_frame_that_would_not_be_taken_is_not_sent() -> None:
    end = End(frame_bytes_max=10)
    assert not end.connection.send_nowait(b"y" * 11)
    assert not end.connection.closed
    assert bytes(end.pipe.sent) == b""


def test_above_its_bound_the_buffer_refuses() -> None:
    end = End(buffer_bytes_max=100)
    end.pipe.unsent_bytes = 101
    assert not end.connection.send_nowait(b"x")
    end.pipe.unsent_bytes = 100
    assert end.connection.send_nowait(b"x")


# --- ends


def test_after_the_end_nothing_is_delivered_or_sent() -> None:
    end = End()
    end.connection.close()
    end.connection.close()
    end.connection.data_received(on_wire(b"late"))
    assert end.frames == []
    assert not end.connection.send_nowait(b"late")
    end.connection.connection_lost(None)
    assert end.closed == 1


def test_a_connection_closed_before_it_is_made_is_aborted_when_it_is() -> None:
    connection = FrameConnection(lambda _connection, _frame: None, lambda _connection: None)
    assert not connection.send_nowait(b"x")
    connection.close()
    pipe = Pipe()
    connection.connection_made(pipe)
    assert pipe.aborted


def test_who_closes_in_the_middle_of_several_frames_gets_no_more() -> None:
    frames: list[bytes] = []

    def on_frame(connection: FrameConnection, frame: bytes) -> None:
        frames.append(frame)
        connection.close()

    connection = FrameConnection(on_frame, lambda _connection: None)
    connection.connection_made(Pipe())
    connection.data_received(on_wire(b"1", b"2", b"3"))
    assert frames == [b"1"]


def test_a_handler_that_raises_ends_its_connection() -> None:
    def on_frame(_connection: FrameConnection, _frame: bytes) -> None:
        raise ValueError("garbage")

    connection = FrameConnection(on_frame, lambda _connection: None)
    pipe = Pipe()
    connection.connection_made(pipe)
    connection.data_received(on_wire(b"1"))
    assert connection.closed
    assert pipe.aborted


# --- sockets


class Server:
    """A listener that answers each frame with itself, and tells who comes and goes."""

    def __init__(self, scope: Scope) -> None:
        self.frames: list[bytes] = []
        self.gone = 0
        self.connections: list[FrameConnection] = []
        self.changed = asyncio.Event()
        self.listener = FrameListener(scope, "peer-port", self._on_frame, self._on_closed)

    def _on_frame(self, connection: FrameConnection, frame: bytes) -> None:
        self.frames.append(frame)
        if connection not in self.connections:
            self.connections.append(connection)
        connection.send_nowait(frame)
        self.changed.set()

    def _on_closed(self, _connection: FrameConnection) -> None:
        self.gone += 1
        self.changed.set()

    async def until(self, condition: Callable[[], bool]) -> None:
        while not condition():
            self.changed.clear()
            await self.changed.wait()


class Client:
    def __init__(self) -> None:
        self.frames: list[bytes] = []
        self.changed = asyncio.Event()
        self.closed = 0

    async def connect(self, port: int) -> FrameConnection:
        return await connect_frames(f"127.0.0.1:{port}", self._on_frame, self._on_closed, timeout_s=5.0)

    def _on_frame(self, _connection: FrameConnection, frame: bytes) -> None:
        self.frames.append(frame)
        self.changed.set()

    def _on_closed(self, _connection: FrameConnection) -> None:
        self.closed += 1
        self.changed.set()

    async def until(self, condition: Callable[[], bool]) -> None:
        while not condition():
            self.changed.clear()
            await self.changed.wait()


def test_large_and_small_frames_arrive_in_order(run: Runner) -> None:
    async def story() -> None:
        async with Scope("test") as scope:
            server, client = Server(scope), Client()
            connection = await client.connect(await server.listener.start("127.0.0.1:0"))
            frames = [b"small", bytes(3_000_000), b"", b"x" * 70_000]
            for frame in frames:
                assert connection.send_nowait(frame)
            await client.until(lambda: len(client.frames) == 4)
            assert client.frames == frames
            connection.close()
            await server.until(lambda: server.gone == 1)
            await client.until(lambda: client.closed == 1)

    run(story)


def test_a_connection_whose_other_end_takes_nothing_is_over(run: Runner) -> None:
    async def story() -> None:
        paused = socket.create_server(("127.0.0.1", 0))
        over = asyncio.Event()
        address = f"127.0.0.1:{paused.getsockname()[1]}"
        connection = await connect_frames(
            address, lambda _c, _f: None, lambda _c: over.set(), timeout_s=5.0, silence_max_s=0.2
        )
        with paused, paused.accept()[0]:
            connection.send_nowait(bytes(16_000_000))  # more than the system takes for a peer that does not read
            await over.wait()

    run(story)


def test_a_stop_in_the_middle_of_traffic_ends_both_sides(run: Runner) -> None:
    async def story() -> None:
        scope = Scope("test")
        server, client = Server(scope), Client()
        port = await server.listener.start("127.0.0.1:0")
        connection = await client.connect(port)
        for _ in range(50):
            connection.send_nowait(bytes(100_000))
        await server.until(lambda: bool(server.frames))
        report = await scope.stop(5.0)
        assert report.ok, report.render()
        await client.until(lambda: connection.closed)
        assert client.closed == 1
        assert server.gone == 1
        with pytest.raises(AddressError):
            await client.connect(port)

    run(story)


def test_a_connection_that_comes_during_the_stop_is_closed(run: Runner) -> None:
    async def story() -> None:
        scope = Scope("test")
        server, clients = Server(scope), [Client() for _ in range(20)]
        port = await server.listener.start("127.0.0.1:0")
        connecting = [asyncio.ensure_future(client.connect(port)) for client in clients]
        for _ in range(3):
            await asyncio.sleep(0)
        report = await scope.stop(5.0)
        assert report.ok, report.render()
        made = await asyncio.gather(*connecting, return_exceptions=True)
        for client, connection in zip(clients, made, strict=True):
            if isinstance(connection, FrameConnection):
                await client.until(lambda connection=connection: connection.closed)  # type: ignore[misc]
            else:
                assert isinstance(connection, AddressError)

    run(story)


def test_a_listener_that_never_started_stops(run: Runner) -> None:
    async def story() -> None:
        scope = Scope("test")
        server = Server(scope)
        assert (await scope.stop(5.0)).ok
        with pytest.raises(ScopeStoppedError):
            await server.listener.start("127.0.0.1:0")

    run(story)


def test_addresses_that_will_not_do(run: Runner) -> None:
    async def story() -> None:
        async with Scope("test") as scope:
            server = Server(scope)
            port = await server.listener.start("127.0.0.1:0")
            with pytest.raises(AddressError):
                await Server(scope).listener.start(f"127.0.0.1:{port}")
            with pytest.raises(AddressError, match="insecure"):
                await Server(scope).listener.start("0.0.0.0:0")
            with pytest.raises(AddressError):
                await Client().connect(1)

    run(story)
