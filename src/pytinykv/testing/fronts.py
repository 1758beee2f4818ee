"""What stands before a store that is a process: its ports, as others are told them, in this process.

```
clients, snapshots ──gRPC──► front: answers on demand ──► the store's own port
Raft messages ─────frames──► front: cuts ───────────────► the store's own peer port
```

Calls between stores (to the detector of deadlocks, and of a store as a client) can't be told from a client's, and pass.

So a store that is a process can be cut off, and gives answers on demand, as one in this process does. Whose messages a
connection carries is told by the first of them. A front comes and goes with its store, so that a killed one can't be reached.
"""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncIterator, Mapping
from typing import TYPE_CHECKING, Final

from pytinykv.client.grpc_connector import GrpcConnector
from pytinykv.model import FormatError
from pytinykv.raftstore.records import decode_envelopes, decode_snapshot_header
from pytinykv.server.host.grpc_binding import bind_service
from pytinykv.server.host.health import HealthService
from pytinykv.server.host.raft_transport import CHUNK_TIMEOUT_S, CHUNKS_BUFFERED_MAX, GREETING_BYTES, SERVICE
from pytinykv.server.host.store_process import DEADLOCK, TIKV
from pytinykv.testing.answers import AnsweringService, Orders
from pytinykv.transport.address import AddressError
from pytinykv.transport.frames import FrameConnection, FrameListener, connect_frames
from pytinykv.transport.rpc import Method, MethodKind, RpcChannel, RpcServer
from pytinykv.wire import MethodSpec, RpcError, StatusCode, service_methods
from pytinykv.wire.limits import MESSAGE_BYTES_MAX

if TYPE_CHECKING:
    from google.protobuf.message import Message

    from pytinykv.lifecycle import Scope
    from pytinykv.testing.network import Cuts
    from pytinykv.transport.rpc import CallContext
    from pytinykv.wire import Connector

CALL_S: Final = 3600.0
"""How long a forwarded call may take: its caller knows better, and ends it."""
CONNECT_S: Final = 1.0
FRAMES_QUEUED_MAX: Final = 64
"""Frames that wait for the connection to the store; more are dropped, and Raft repeats the newest."""


class Front:
    """The ports of one store. Made for each of its starts; `scope` ends it."""

    def __init__(self, number: int, *, to: tuple[str, str], orders: Orders, cuts: Cuts, scope: Scope) -> None:
        """`to`: where the store itself listens, for clients and for other stores."""
        self._number: Final = number
        self._to: Final = to
        self._cuts: Final = cuts
        self._scope: Final = scope
        services = (TIKV, DEADLOCK)
        health = HealthService(services)
        health.set_all_serving()
        scope.on_stop("tell that it does not serve any more", health.begin_stop)
        self._server = RpcServer(scope, "grpc", options=[("grpc.max_receive_message_length", MESSAGE_BYTES_MAX)])
        forwarding = _Forwarding(GrpcConnector(scope), to[0], scope, services)
        bind_service(self._server, AnsweringService(forwarding, orders, scope, number))
        bind_service(self._server, health)
        snapshots = Method("Snapshot", MethodKind.STREAM_UNARY, _same, _same, self._pass_snapshot_on)
        self._server.add_service(SERVICE, [snapshots])
        self._peers = FrameListener(
            scope, "peer-port", self._on_frame, self._on_closed, first_frame_bytes_max=GREETING_BYTES
        )
        self._links: dict[FrameConnection, _Link] = {}
        """By connection of another store: the one that goes on to this store."""

    async def start(self, addresses: tuple[str, str]) -> None:
        """Listen where others are told that the store is. Raises AddressError."""
        await self._server.start(addresses[0])
        await self._peers.start(addresses[1])

    def _on_frame(self, connection: FrameConnection, frame: bytes) -> None:
        link = self._links.get(connection)
        if link is None:
            link = self._links[connection] = _Link(connection, self._to[1], self._scope)
            link.send(frame)  # the greeting
        elif not self._cuts.is_cut_between(_sender_of(frame), self._number):
            link.send(frame)

    def _on_closed(self, connection: FrameConnection) -> None:
        link = self._links.pop(connection, None)
        if link is not None:
            link.close()

    async def _pass_snapshot_on(self, chunks: AsyncIterator[bytes], _context: CallContext) -> bytes:
        chunks = aiter(chunks)
        try:
            greeting, header = await anext(chunks), await anext(chunks)
            sender = decode_snapshot_header(header).envelope.sender.store_id
        except (FormatError, StopAsyncIteration) as error:
            raise RpcError(StatusCode.INVALID_ARGUMENT, f"no snapshot header: {error}") from error
        if self._cuts.is_cut_between(sender, self._number):
            raise RpcError(StatusCode.UNAVAILABLE, "this store is cut off from the sender")
        channel = RpcChannel(self._scope, self._to[0])
        try:
            stream = channel.stream_unary(
                f"/{SERVICE}/Snapshot", serialize=_same, deserialize=_same, buffer=CHUNKS_BUFFERED_MAX
            )
            for chunk in (greeting, header):
                await stream.send(chunk, timeout_s=CHUNK_TIMEOUT_S)
            async for chunk in chunks:
                await stream.send(chunk, timeout_s=CHUNK_TIMEOUT_S)
            stream.finish_sending()
            return await stream.receive()
        finally:
            await channel.close()


class _Link:
    """The way of one connection's frames on to the store."""

    def __init__(self, connection: FrameConnection, address: str, scope: Scope) -> None:
        self._near: Final = connection
        self._queue: deque[bytes] = deque()
        """Frames for the time until there is a connection; the greeting is the first."""
        self._far: FrameConnection | None = None
        """The connection to the store, once there is one."""
        scope.start("pass-on", self._connect, address)

    def send(self, frame: bytes) -> None:
        if self._far is not None:
            self._far.send_nowait(frame)
        elif len(self._queue) < FRAMES_QUEUED_MAX:
            self._queue.append(frame)

    def close(self) -> None:
        if self._far is not None:
            self._far.close()

    async def _connect(self, address: str) -> None:
        try:
            far = await connect_frames(address, _no_frames, lambda _: self._near.close(), timeout_s=CONNECT_S)
        except AddressError:
            self._near.close()
            return
        if self._near.closed:
            far.close()
            return
        while self._queue:
            far.send_nowait(self._queue.popleft())
        self._far = far


class _Forwarding:
    """A `wire.Service` that is served elsewhere."""

    def __init__(self, connector: Connector, address: str, scope: Scope, services: tuple[str, ...]) -> None:
        self._connector = connector
        self._address = address
        self._scope = scope
        self.methods: Mapping[str, MethodSpec] = {
            path: spec
            for name in services
            for path, spec in service_methods(name).items()
            if spec.request_streaming == spec.response_streaming
        }

    async def unary(self, path: str, request: Message) -> Message:
        return await self._connector.unary(self._address, path, request, timeout_s=CALL_S)

    async def stream(self, path: str, requests: AsyncIterator[Message]) -> AsyncIterator[Message]:
        if self._scope.stopping:  # no task starts any more
            raise RpcError(StatusCode.UNAVAILABLE, f"the store at {self._address} is stopping")
        stream = self._connector.stream(self._address, path)

        async def pass_on() -> None:
            try:
                async for request in requests:
                    stream.send_nowait(request)
            except RpcError:
                pass  # the stream has ended, which shows below
            stream.close()

        sender = self._scope.start("forward", pass_on)
        try:
            while True:
                try:
                    answer = await stream.receive()
                except RpcError as error:
                    if error.code is StatusCode.CANCELLED:  # its caller has said all that it will
                        return
                    raise
                yield answer
        finally:
            sender.cancel()
            stream.close()


def _sender_of(frame: bytes) -> int:
    """Return the id of the store whose messages a frame carries; 0 if it can't be read."""
    try:
        envelopes = decode_envelopes(frame)
    except FormatError:
        return 0
    return envelopes[0].sender.store_id if envelopes else 0


def _no_frames(connection: FrameConnection, _frame: bytes) -> None:
    raise FormatError(f"{connection.peer} answers on a connection that is for sending only")


def _same(data: bytes) -> bytes:
    return data
