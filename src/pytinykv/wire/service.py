"""What a service is, and how a client reaches one, without saying what carries the messages.

A `Service` is a plain object. `server.host.grpc_binding` puts it behind a socket, the simulator behind its virtual
network; a client reaches both through a `Connector`. Method paths (`/tikvpb.Tikv/RawGet`) and message classes come
from the protobuf descriptors and are listed nowhere else:

    METHODS = service_methods("tikvpb.Tikv", only=["RawGet", "RawPut", "BatchCommands"])
    METHODS["/tikvpb.Tikv/RawGet"].request_type        # kvrpcpb_pb2.GetRequest's class
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from typing import Final, Protocol

import msgspec
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass

from pytinykv.wire.frames import EncodedCommands
from pytinykv.wire.pb import POOL, adminpb_pb2, deadlock_pb2, etcdpb_pb2, healthpb_pb2, pdpb_pb2, tikvpb_pb2

BATCH_COMMANDS: Final = "/tikvpb.Tikv/BatchCommands"
"""The path of the stream of frames, each of many commands or answers."""

# A service can be found in the pool only after the module that defines it was imported.
_DEFINING_MODULES = (adminpb_pb2, deadlock_pb2, etcdpb_pb2, healthpb_pb2, pdpb_pb2, tikvpb_pb2)


_READ_AS: Final = {BATCH_COMMANDS: EncodedCommands}
"""Methods whose requests are read as another type than their definition says, of the same form on the wire."""


class MethodSpec(msgspec.Struct, frozen=True, kw_only=True):
    """One remote method: where it is, what goes in, what comes out."""

    path: str
    """`/package.Service/Method`, as it stands in HTTP/2's `:path`."""
    request_type: type[Message]
    """What the serving end reads."""
    response_type: type[Message]
    request_streaming: bool
    response_streaming: bool

    @property
    def service_name(self) -> str:
        """Return `package.Service`."""
        return self.path[1:].partition("/")[0]

    @property
    def method_name(self) -> str:
        """Return the last part of the path."""
        return self.path.rpartition("/")[2]


def service_methods(name: str, *, only: Iterable[str] | None = None) -> dict[str, MethodSpec]:
    """Return the methods of service `name` ("tikvpb.Tikv") by path, in the order of its definition.

    `only` names the methods that are really implemented; a binding answers UNIMPLEMENTED to the others. Raises
    `KeyError` for a service or method that no `.proto` file defines (a spelling mistake).
    """
    service = POOL.FindServiceByName(name)
    wanted = None if only is None else frozenset(only)
    known = {method.name for method in service.methods}
    if wanted is not None and (unknown := sorted(wanted - known)):
        raise KeyError(f"{name} defines no method {', '.join(unknown)}")
    return {
        f"/{name}/{method.name}": MethodSpec(
            path=f"/{name}/{method.name}",
            request_type=_READ_AS.get(f"/{name}/{method.name}") or GetMessageClass(method.input_type),
            response_type=GetMessageClass(method.output_type),
            request_streaming=method.client_streaming,
            response_streaming=method.server_streaming,
        )
        for method in service.methods
        if wanted is None or method.name in wanted
    }


Response = Message | bytes
"""What a service answers: a message, or its encoding."""


def encoded(message: Message | bytes) -> bytes:
    """Return a message as it travels."""
    return message if isinstance(message, bytes) else message.SerializeToString()


class Service(Protocol):
    """The serving end of some remote methods, free of any transport.

    A host calls `unary` or `stream` by the streaming flags of the `MethodSpec`; it cancels the call when the caller
    is gone or the host stops. Both may run many times at once, on the host's event loop.
    """

    @property
    def methods(self) -> Mapping[str, MethodSpec]:
        """The implemented methods by full path."""
        ...

    async def unary(self, path: str, request: Message) -> Response:
        """Answer one request with one response. Raises `RpcError`."""
        ...

    def stream(self, path: str, requests: AsyncIterator[Message]) -> AsyncIterator[Response]:
        """Answer a stream of requests with a stream of responses (Tso, RegionHeartbeat, QueryRegion, BatchCommands).

        Ends when `requests` ends and everything is answered. The iterator raises `RpcError`. `requests` raises it too, when
        the caller sends something that is no message: let it pass. A method that streams only its responses gets one request.
        """
        ...


class BidiStream(Protocol):
    """The calling end of one streaming call. One task receives; any task may send or close."""

    def send_nowait(self, message: Message | bytes) -> None:
        """Hand `message`, or its encoding, over without waiting.

        Raises `RpcError`: RESOURCE_EXHAUSTED when the bounded buffer is full (the message was not taken), the
        stream's own status when it is broken, CANCELLED after `close`.
        """
        ...

    def is_drained(self, otherwise: Callable[[], object]) -> bool:
        """Say whether the transport has taken everything that was handed over; if not, `otherwise()` is called once it has.

        A sender that waits for this, and gathers commands meanwhile, sends larger messages when the transport is slower. One
        callback is kept; it is not called if the stream ends before.
        """
        ...

    async def receive(self) -> Message:
        """Wait for the next message.

        Has no deadline of its own: the caller's scope cancels it, or `close` ends it. Raises `RpcError` with the
        status of the stream when it is over: UNAVAILABLE also when the other end closed it in good order, CANCELLED
        after `close`.
        """
        ...

    def close(self) -> None:
        """Drop the stream at once; a pending `receive` ends. May be called in any state, and twice."""
        ...


class Connector(Protocol):
    """The calling end of everything: reaches any method at any address, keeps connections open between calls."""

    async def unary(self, address: str, path: str, request: Message, *, timeout_s: float) -> Message:
        """Call `path` at `address` ("host:port", no scheme) and wait at most `timeout_s` seconds.

        Raises `RpcError`: the server's status, UNAVAILABLE when there is no connection, DEADLINE_EXCEEDED, CANCELLED
        after `close`.
        """
        ...

    def stream(self, address: str, path: str) -> BidiStream:
        """Open a stream at once; a failure to connect shows up in `send_nowait` or `receive`."""
        ...

    async def close(self) -> None:
        """End every call and stream with CANCELLED, and close all connections. Safe in any state, and twice."""
        ...
