"""Frames over TCP, with owners: a listener and connections that carry byte strings, in order, until one side ends.

For traffic between our own processes where gRPC's cost per message would be the largest cost of all (measured, both ends
together: 72 µs per message for grpc.aio, 9 µs here). What it gives is less: no calls, no status, no flow control but a bound
on what is buffered.

    on the wire:   length:4 (big-endian)  frame of that many bytes     ... and again

Invariants
1. `send_nowait` never waits. Above `buffer_bytes_max` of unsent bytes, and for a frame that is too large, it refuses.
2. A connection that breaks, is closed, or receives a length above `frame_bytes_max` is over: `on_closed` is called once.
   A listener takes a smaller first frame: little is kept in memory for a peer that has not said who it is.
3. A connection whose other end has not taken anything for `silence_max_s` is over. TCP alone would try for a quarter of an
   hour, at longer and longer intervals (measured: after a cut of 40 s nothing arrived for 15 s more).
4. Listener and connections are in the books of their scope, and end at once when it stops: `abort`, never a linger.
"""

from __future__ import annotations

import asyncio
import logging
import math
import socket
from collections.abc import Callable, Sequence
from typing import Final, cast

from pytinykv.lifecycle import Leak, LeakKind, Member, Scope, ScopeStoppedError
from pytinykv.transport.address import AddressError, bind_sockets, check_may_listen, parse_address
from pytinykv.waitgraph import call_site

FRAME_BYTES_MAX: Final = 128 * 1024 * 1024
BUFFER_BYTES_MAX: Final = 64 * 1024 * 1024
SILENCE_MAX_S: Final = 3.0
_LENGTH_BYTES: Final = 4

_log = logging.getLogger(__name__)

OnFrame = Callable[["FrameConnection", bytes], None]
OnClosed = Callable[["FrameConnection"], None]


class FrameConnection(asyncio.Protocol):
    """One connection, either end. Made by `FrameListener` and `connect_frames`."""

    def __init__(
        self,
        on_frame: OnFrame,
        on_closed: OnClosed,
        *,
        on_connected: Callable[[FrameConnection], None] | None = None,
        frame_bytes_max: int = FRAME_BYTES_MAX,
        first_frame_bytes_max: int | None = None,
        buffer_bytes_max: int = BUFFER_BYTES_MAX,
        silence_max_s: float = SILENCE_MAX_S,
    ) -> None:
        """Make one end; `first_frame_bytes_max` bounds the first frame that is received, None: as all others."""
        self._on_frame: Final = on_frame
        self._on_closed: Final = on_closed
        self._on_connected: Final = on_connected
        self._frame_bytes_max: Final = frame_bytes_max
        self._receive_bytes_max = frame_bytes_max if first_frame_bytes_max is None else first_frame_bytes_max
        """Bounds the next frame."""
        self._buffer_bytes_max: Final = buffer_bytes_max
        self._silence_max_s: Final = silence_max_s
        self._transport: asyncio.Transport | None = None
        """None before the connection is made."""
        self._received = bytearray()
        """The beginning of a frame whose end has not come."""
        self.closed = False
        """Whether the connection is over, or was never made."""
        self.peer = ""
        """The other end, for logs."""

    def send_nowait(self, frame: bytes) -> bool:
        """Hand a frame over; False when the connection is over or too much is unsent already: the frame is dropped."""
        transport = self._transport
        if len(frame) > self._frame_bytes_max:
            _log.warning("a frame of %d bytes for %s is dropped: it would not be taken", len(frame), self.peer)
            return False
        if self.closed or transport is None or transport.get_write_buffer_size() > self._buffer_bytes_max:
            return False
        transport.writelines((len(frame).to_bytes(_LENGTH_BYTES, "big"), frame))
        return True

    def close(self) -> None:
        """End the connection at once; what is unsent is lost. Twice is fine."""
        self.closed = True
        if self._transport is not None:
            self._transport.abort()

    # --- asyncio.Protocol ---------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's is one in all but name
        self.peer = str(transport.get_extra_info("peername"))
        if (own := transport.get_extra_info("socket")) is not None:
            _end_in_silence(own, self._silence_max_s)
        if self.closed:
            self._transport.abort()
        elif self._on_connected is not None:
            self._on_connected(self)

    def data_received(self, data: bytes) -> None:
        received = self._received
        if not received and len(data) >= _LENGTH_BYTES:
            # The usual case, one whole frame, without a copy through the buffer.
            length = int.from_bytes(data[:_LENGTH_BYTES], "big")
            if len(data) == _LENGTH_BYTES + length and length <= self._receive_bytes_max:
                self._deliver(bytes(data[_LENGTH_BYTES:]))
                return
        received += data
        start = 0
        while len(received) - start >= _LENGTH_BYTES and not self.closed:
            begin = start + _LENGTH_BYTES
            length = int.from_bytes(received[start:begin], "big")
            if length > self._receive_bytes_max:
                _log.warning(
                    "%s sends a frame of %d bytes, at most %d are taken", self.peer, length, self._receive_bytes_max
                )
                self.close()
                return
            if len(received) - begin < length:
                break
            start = begin + length
            self._deliver(bytes(received[begin:start]))
        if start:
            del received[:start]

    def connection_lost(self, exc: Exception | None) -> None:
        self.closed = True
        if exc is not None:
            _log.debug("connection with %s broke: %s", self.peer, exc)
        self._on_closed(self)

    def _deliver(self, frame: bytes) -> None:
        if self.closed:
            return
        self._receive_bytes_max = self._frame_bytes_max
        try:
            self._on_frame(self, frame)
        except Exception:
            _log.exception("a frame from %s could not be handled; the connection is closed", self.peer)
            self.close()


class FrameListener(Member):
    """A listening socket in a scope; each connection that comes in gets `on_frame`."""

    def __init__(
        self,
        scope: Scope,
        name: str,
        on_frame: OnFrame,
        on_closed: OnClosed | None = None,
        *,
        first_frame_bytes_max: int | None = None,
    ) -> None:
        super().__init__(f"{scope.name}/{name}", call_site())
        self._scope: Final = scope
        self._on_frame: Final = on_frame
        self._on_closed: Final = on_closed
        self._first_frame_bytes_max: Final = first_frame_bytes_max
        self._servers: Final[list[asyncio.Server]] = []
        """One for each address of the host; none until started."""
        self._port: int | None = None
        """Where it listens; None until it has started."""
        self._connections: Final[dict[FrameConnection, None]] = {}
        """Those that are open."""
        self._is_stopped = False
        """Set by the stop, and never unset: connections that still come in are closed."""
        scope.adopt(self)

    @property
    def port(self) -> int | None:
        """The port it listens on; None until started."""
        return self._port

    async def start(self, address: str, *, insecure: bool = False) -> int:
        """Listen on `host:port` and return the port, which port 0 leaves to the system.

        Raises:
            AddressError: malformed, reachable from outside without `insecure`, taken, or not to be had.
            ScopeStoppedError: the scope is stopping or has stopped.
        """
        self._scope.refuse_if_stopping(self.name)
        parsed = parse_address(address)
        check_may_listen(parsed, insecure=insecure)
        sockets = bind_sockets(parsed)
        port: int = sockets[0].getsockname()[1]
        loop = asyncio.get_running_loop()
        for one in sockets:
            self._servers.append(await loop.create_server(self._make_connection, sock=one))
        if self._is_stopped:
            self._close_servers()
            raise ScopeStoppedError(f"{self.name} was stopped while it started")
        self._port = port
        _log.debug("%s listens on %s", self.name, parsed.with_port(port))
        return port

    async def stop_member(self, deadline_s: float) -> None:
        """Close the socket and all connections."""
        del deadline_s
        self._is_stopped = True
        self._close_servers()
        for connection in list(self._connections):
            connection.close()
        await asyncio.sleep(0)  # aborted transports tell their protocols in the loop's next turn
        await asyncio.sleep(0)

    def _close_servers(self) -> None:
        for server in self._servers:
            server.close()

    def leaks(self) -> Sequence[Leak]:
        """Return one leak if connections are still open."""
        if not self._connections:
            return []
        return [Leak(LeakKind.SERVER, f"{self.name} ({len(self._connections)} connections)", self.made_at)]

    def _make_connection(self) -> FrameConnection:
        return FrameConnection(
            self._on_frame,
            self._forget,
            on_connected=self._remember,
            first_frame_bytes_max=self._first_frame_bytes_max,
        )

    def _remember(self, connection: FrameConnection) -> None:
        self._connections[connection] = None
        if self._is_stopped:
            connection.close()  # it was accepted just before the socket was closed

    def _forget(self, connection: FrameConnection) -> None:
        self._connections.pop(connection, None)
        if self._on_closed is not None:
            self._on_closed(connection)


def _end_in_silence(own: socket.socket, silence_max_s: float) -> None:
    """Have the system end a connection whose other end acknowledges or takes nothing for so long, also an idle one."""
    probe_s = math.ceil(silence_max_s)
    own.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    own.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, probe_s)
    own.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, probe_s)
    own.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, int(silence_max_s * 1000))


async def connect_frames(
    address: str, on_frame: OnFrame, on_closed: OnClosed, *, timeout_s: float, silence_max_s: float = SILENCE_MAX_S
) -> FrameConnection:
    """Connect to a listener at `host:port`. The caller closes the connection, in a `finally` of a task of its scope.

    Raises:
        AddressError: malformed, nothing listens there, or no answer within `timeout_s` seconds.
    """
    parsed = parse_address(address)
    loop = asyncio.get_running_loop()
    try:
        async with asyncio.timeout(timeout_s):
            _transport, connection = await loop.create_connection(
                lambda: FrameConnection(on_frame, on_closed, silence_max_s=silence_max_s), parsed.host, parsed.port
            )
    except TimeoutError:
        raise AddressError(f"cannot connect to {address}: no answer for {timeout_s} s") from None
    except OSError as error:
        raise AddressError(f"cannot connect to {address}: {error.strerror or error}") from error
    return connection
