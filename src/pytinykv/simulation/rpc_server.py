"""The serving end of calls and streams over virtual connections: the host of a `Service`. The frames: `rpc_client`.

A handler that raises something else than an `RpcError` ends its call as UNKNOWN, as with gRPC; that is also kept in the
loop's errors, because it is a bug.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from functools import partial
from typing import Any, Final

from google.protobuf.message import DecodeError, Message

from pytinykv.lifecycle import Leak, Member, Scope
from pytinykv.simulation.connection import Connection, End, Frame
from pytinykv.simulation.network import Network
from pytinykv.simulation.process import Process
from pytinykv.wire import MethodSpec, RpcError, Service, StatusCode, encoded

SERVER_GRACE_S: Final = 0.5
"""How long handlers may go on when their scope stops the server."""


class Internet:
    """The address book of a world: which server listens at which address."""

    def __init__(self, network: Network) -> None:
        self.network = network
        self._servers: dict[str, SimServer] = {}
        """Address -> the server that bound it last, listening or not."""

    def bind(self, server: SimServer) -> None:
        """Take the address. Raises `OSError` when a living server has it."""
        holder = self._servers.get(server.address)
        if holder is not None and holder.listening:
            raise OSError(f"address already in use: {server.address}")
        self._servers[server.address] = server

    def find(self, address: str) -> SimServer | None:
        """Return the server that listens at an address now."""
        server = self._servers.get(address)
        return server if server is not None and server.listening else None

    def host_of(self, address: str) -> str:
        """Return the host an address belongs to, listening or not."""
        return address.partition(":")[0]


class SimServer(Member):
    """Listens at one address in one process and runs the services' handlers as tasks of that process."""

    def __init__(self, internet: Internet, process: Process, address: str, services: list[Service]) -> None:
        super().__init__(f"server {address}")
        self.process = process
        """Whose tasks the handlers are; when it dies, the server no longer listens."""
        self.address = address
        """"host:port"; never changes."""
        self._methods: dict[str, tuple[MethodSpec, Service]] = {
            path: (spec, service) for service in services for path, spec in service.methods.items()
        }
        """Path -> what is served there; never changes."""
        self._internet = internet
        self._accepting = False
        """True from `start` to `stop`."""
        self._sessions: dict[int, _Session] = {}
        """Connection number -> session; closed ones are dropped at the next `accept`."""

    @property
    def listening(self) -> bool:
        return self._accepting and self.process.alive

    def start(self, scope: Scope | None = None) -> None:
        """Begin to listen; with a scope, its stop ends the server."""
        if scope is not None:
            scope.adopt(self)
        self._internet.bind(self)
        self._accepting = True

    async def stop_member(self, deadline_s: float) -> None:
        """Do what a scope wants at its stop."""
        await self.stop(grace_s=min(SERVER_GRACE_S, deadline_s / 2))

    def leaks(self) -> Sequence[Leak]:
        """Nothing outlives `stop`."""
        return ()

    def accept(self, client: End) -> Connection:
        """Open a connection to this server."""
        session = _Session(self._methods, self.process)
        connection = Connection(self._internet.network, client, End(self.process, session.on_frame, session.on_closed))
        session.connection = connection
        self._sessions = {number: old for number, old in self._sessions.items() if old.connection.server.is_open}
        self._sessions[connection.number] = session
        return connection

    async def stop(self, *, grace_s: float = 0.0) -> None:
        """Stop listening, give the calls under way `grace_s` seconds, then cancel them and close all connections.

        Streams are read no further, as by the real server, so that their handlers can end them, and say how far they came.
        """
        self._accepting = False
        for session in self._sessions.values():
            session.end_requests()
        await self._wait_for_handlers(grace_s)
        for session in self._sessions.values():
            session.cancel_all()
        await self._wait_for_handlers(1.0)
        for session in self._sessions.values():
            session.connection.close(session.connection.server, "server stopped")
        self._sessions.clear()

    async def _wait_for_handlers(self, timeout_s: float) -> None:
        tasks = [task for session in self._sessions.values() for task in session.tasks.values()]
        if tasks:
            await asyncio.wait(tasks, timeout=timeout_s)


class _Session:
    """The serving side of one connection: its calls by id."""

    def __init__(self, methods: dict[str, tuple[MethodSpec, Service]], process: Process) -> None:
        self.connection: Connection
        """Set by `SimServer.accept`, before any frame can arrive."""
        self.tasks: dict[int, asyncio.Task[None]] = {}
        """Call id -> its handler; removed when that is done."""
        self._methods = methods
        self._process = process
        self._requests: dict[int, _Requests] = {}
        """Call id -> the messages of the client, for streams."""

    def on_frame(self, frame: Frame) -> None:
        match frame:
            case ("call", int(number), str(path), bytes(data)):
                self._start(number, path, data)
            case ("open", int(number), str(path)):
                self._start(number, path, None)
            case ("message", int(number), bytes(data)):
                if (requests := self._requests.get(number)) is not None:
                    requests.feed(data)
            case ("end", int(number)):
                if (requests := self._requests.get(number)) is not None:
                    requests.end()
            case ("cancel", int(number)):
                if (task := self.tasks.get(number)) is not None:
                    task.cancel()

    def on_closed(self, _reason: str) -> None:
        self.cancel_all()

    def end_requests(self) -> None:
        for requests in self._requests.values():
            requests.end()

    def cancel_all(self) -> None:
        for task in self.tasks.values():
            task.cancel()

    def _start(self, number: int, path: str, data: bytes | None) -> None:
        known = self._methods.get(path)
        if known is None:
            self._send("status", number, StatusCode.UNIMPLEMENTED, f"{path} is not served here")
            return
        spec, service = known
        if data is None:
            self._requests[number] = requests = _Requests(spec.request_type)
            handler = partial(self._serve_stream, number, spec, service, requests)
        else:
            handler = partial(self._serve_unary, number, spec, service, data)
        task = self._process.spawn(path.rpartition("/")[2], self._serve(number, handler))
        self.tasks[number] = task
        task.add_done_callback(lambda _task: self._forget(number))

    def _forget(self, number: int) -> None:
        self.tasks.pop(number, None)
        self._requests.pop(number, None)

    async def _serve(self, number: int, handler: Callable[[], Awaitable[None]]) -> None:
        try:
            await handler()
        except RpcError as error:
            self._send("status", number, error.code, error.message)
        except asyncio.CancelledError:
            self._send("status", number, StatusCode.UNAVAILABLE, "the server cancelled the call")
            raise
        except Exception as error:  # noqa: BLE001 - as gRPC does: the caller gets UNKNOWN; the history fails by it
            self._process.loop.call_exception_handler({"message": f"handler of {self._process}", "exception": error})
            self._send("status", number, StatusCode.UNKNOWN, f"{type(error).__name__}: {error}")

    async def _serve_unary(self, number: int, spec: MethodSpec, service: Service, data: bytes) -> None:
        try:
            request = spec.request_type.FromString(data)
        except DecodeError as error:
            raise RpcError(StatusCode.INTERNAL, f"undecodable request: {error}") from error
        response = await service.unary(spec.path, request)
        self._send("message", number, encoded(response))

    async def _serve_stream(self, number: int, spec: MethodSpec, service: Service, requests: _Requests) -> None:
        async for response in service.stream(spec.path, requests):
            self._send("message", number, encoded(response))
        self._send("status", number, StatusCode.OK, "")

    def _send(self, kind: str, *rest: Any) -> None:
        self.connection.send(self.connection.server, (kind, *rest))


class _Requests:
    """The messages that a client streams to a handler."""

    def __init__(self, message_type: type[Message]) -> None:
        self._type = message_type
        self._waiting: deque[bytes] = deque()
        """Messages that the handler has not taken."""
        self._news = asyncio.Event()
        """Set when there is a message or the end."""
        self._has_ended = False
        """Whether the client has said that nothing more comes, or the server takes nothing more. Set once."""

    def feed(self, data: bytes) -> None:
        if self._has_ended:
            return
        self._waiting.append(data)
        self._news.set()

    def end(self) -> None:
        self._has_ended = True
        self._news.set()

    def __aiter__(self) -> AsyncIterator[Message]:
        return self

    async def __anext__(self) -> Message:
        while not self._waiting:
            if self._has_ended:
                raise StopAsyncIteration
            self._news.clear()
            await self._news.wait()
        return self._type.FromString(self._waiting.popleft())
