"""Calls and streams over virtual connections: the simulator's `Connector` and the host of a `Service`.

Messages cross as bytes, so that two processes never share an object. One connection carries all calls from one connector
to one address, in frames:

    client to server   ("call", id, path, bytes)   ("open", id, path)   ("message", id, bytes)   ("end", id)   ("cancel", id)
    server to client   ("message", id, bytes)      ("status", id, code, text)

What a caller sees is what gRPC shows: UNAVAILABLE when the connection breaks or no server listens, DEADLINE_EXCEEDED when its
time is over (the server may still act), CANCELLED after `close`, UNKNOWN when a handler raised something else; the latter
is also kept in the loop's errors, because it is a bug.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from functools import partial
from typing import Any, Final

from google.protobuf.message import DecodeError, Message

from pytinykv.lifecycle import Leak, Member, Scope
from pytinykv.simulation.connection import Connection, End, Frame
from pytinykv.simulation.errors import Violation
from pytinykv.simulation.network import Network
from pytinykv.simulation.process import Process
from pytinykv.wire import BATCH_COMMANDS, MethodSpec, RpcError, Service, StatusCode, encoded, service_methods
from pytinykv.wire.pb import tikvpb_pb2

SERVER_GRACE_S: Final = 0.5
"""How long handlers may go on when their scope stops the server."""
BUFFER_FULL_S: Final = 0.05
METHODS: Final = {
    path: spec
    for name in ("tikvpb.Tikv", "pdpb.PD", "pytinykv.adminpb.Admin", "deadlock.Deadlock")
    for path, spec in service_methods(name).items()
}


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


class SimConnector(Member):
    """The calling end in one process (`wire.Connector`)."""

    def __init__(self, internet: Internet, process: Process) -> None:
        super().__init__("connector")
        self._internet = internet
        self._process = process
        self._channels: dict[str, _Channel] = {}
        """Address -> the channel in use; a broken one is replaced by the next call."""
        self._closed = False
        """Set by `close`, for good; every later call is refused."""

    async def unary(self, address: str, path: str, request: Message, *, timeout_s: float) -> Message:
        channel = self._channel(address)
        data = request.SerializeToString()
        answer: asyncio.Future[bytes] = self._process.loop.create_future()
        number = channel.begin(_UnaryCall(answer))
        expiry = self._process.loop.call_later(timeout_s, _expire, answer, address, path, timeout_s)
        channel.send("call", number, path, data)
        try:
            return METHODS[path].response_type.FromString(await answer)
        finally:
            expiry.cancel()
            channel.end(number)

    def stream(self, address: str, path: str) -> SimStream:
        try:
            channel = self._channel(address)
        except RpcError as error:
            return SimStream(None, METHODS[path], error)
        stream = SimStream(channel, METHODS[path], None)
        stream.number = channel.begin(stream)
        channel.send("open", stream.number, path)
        return stream

    async def stop_member(self, deadline_s: float) -> None:
        """Do what a scope wants at its stop."""
        await self.close()

    def leaks(self) -> Sequence[Leak]:
        """Nothing outlives `close`."""
        return ()

    async def close(self) -> None:
        self._closed = True
        channels, self._channels = self._channels, {}
        for channel in channels.values():
            channel.close(RpcError(StatusCode.CANCELLED, "the connector is closed"))

    def unanswered(self) -> list[str]:
        """Return, for checkers, the commands on open streams that have got no answer: "address: command ids"."""
        return [
            f"{address}: {sorted(stream.unanswered)}"
            for address, channel in self._channels.items()
            for stream in channel.streams()
            if stream.unanswered
        ]

    def surplus_streams(self) -> list[str]:
        """Return, for checkers, the addresses to which more than one stream of commands is open."""
        return [
            f"{address}: {count}"
            for address, channel in self._channels.items()
            if (count := sum(1 for stream in channel.streams() if stream.is_of_commands)) > 1
        ]

    def _channel(self, address: str) -> _Channel:
        if self._closed or not self._process.alive:
            raise RpcError(StatusCode.CANCELLED, "the connector is closed")
        channel = self._channels.get(address)
        if channel is None or channel.broken:
            channel = self._channels[address] = _Channel(self._internet, self._process, address)
        return channel


class _UnaryCall:
    def __init__(self, answer: asyncio.Future[bytes]) -> None:
        self._answer = answer

    def on_message(self, data: bytes) -> None:
        if not self._answer.done():
            self._answer.set_result(data)

    def on_status(self, error: RpcError) -> None:
        if not self._answer.done():
            self._answer.set_exception(error)


class _Channel:
    """One connection, seen from its client: dials at once, ends everything when it breaks."""

    def __init__(self, internet: Internet, process: Process, address: str) -> None:
        self.broken = False
        """Whether the connection has ended; it takes no call any more."""
        self._address = address
        self._process = process
        self._calls: dict[int, _UnaryCall | SimStream] = {}
        """Call id -> call or stream under way."""
        self._numbers: Iterator[int] = iter(range(1, 1 << 62))
        """The ids of calls to come; an id is never used again on a connection."""
        self._network = internet.network
        """Counts, and says whether buffers are full and links cut."""
        self._connection: Connection | None = None
        """None if no server was listening."""
        self._refusal: asyncio.TimerHandle | None = None
        """Fires when the refusal arrives, if no server was listening."""
        self._dial(internet)

    def _dial(self, internet: Internet) -> None:
        end = End(self._process, self._on_frame, self._on_closed)
        server = internet.find(self._address)
        if server is not None:
            self._connection = server.accept(end)
            return
        here, there = self._process.host, internet.host_of(self._address)
        conditions = self._network.conditions
        wait = 2 * self._network.delay_s(conditions)
        if self._network.is_blocked(here, there) or self._network.is_blocked(there, here):
            wait = self._network.rng.uniform(conditions.notice_min_s, conditions.notice_max_s)
        self._refusal = self._process.loop.call_later(wait, self._on_closed, "connection refused")

    def streams(self) -> list[SimStream]:
        """Return the open streams of this channel."""
        return [call for call in self._calls.values() if isinstance(call, SimStream)]

    def begin(self, call: _UnaryCall | SimStream) -> int:
        number = next(self._numbers)
        self._calls[number] = call
        return number

    def end(self, number: int) -> None:
        """Forget a call; the server hears of it when it wasn't over."""
        if self._calls.pop(number, None) is not None and not self.broken:
            self.send("cancel", number)

    def send(self, *frame: Any) -> None:
        if self._connection is not None:
            self._connection.send(self._connection.client, frame)

    def count(self, what: str) -> None:
        self._network.count(what)

    def complain(self, checker: str, message: str) -> None:
        """End the history: the other end has broken the protocol."""
        self._process.loop.abort(Violation(checker, f"{self._process} from {self._address}: {message}"))

    def is_full(self) -> bool:
        """Say at random whether the transport's buffer takes nothing at the moment."""
        chance = self._network.full_buffers
        return bool(chance) and self._network.rng.random() < chance

    def when_free(self, otherwise: Callable[[], object]) -> None:
        """Call back once the buffer takes something again."""
        self._process.loop.call_later(self._network.rng.random() * BUFFER_FULL_S, self._free, otherwise)

    def _free(self, otherwise: Callable[[], object]) -> None:
        if not self.broken:
            otherwise()

    def close(self, error: RpcError) -> None:
        self.broken = True
        if self._refusal is not None:
            self._refusal.cancel()
        if self._connection is not None:
            self._connection.close(self._connection.client, "client closed")
        calls, self._calls = self._calls, {}
        for call in calls.values():
            call.on_status(error)

    def _on_frame(self, frame: Frame) -> None:
        match frame:
            case ("message", int(number), bytes(data)):
                call = self._calls.get(number)
                if isinstance(call, _UnaryCall):
                    del self._calls[number]
                if call is not None:
                    call.on_message(data)
            case ("status", int(number), code, str(text)):
                call = self._calls.pop(number, None)
                if call is not None:
                    call.on_status(_status(StatusCode(code), text))

    def _on_closed(self, reason: str) -> None:
        self.close(RpcError(StatusCode.UNAVAILABLE, f"{self._address}: {reason}"))


class SimStream:
    """The calling end of one streaming call (`wire.BidiStream`)."""

    def __init__(self, channel: _Channel | None, spec: MethodSpec, error: RpcError | None) -> None:
        self.number = 0
        """Its call id on the channel; 0 for a stream that never got one."""
        self._channel = channel
        """None for a stream that could not be opened."""
        self._spec = spec
        self._error = error
        """Why it has ended, once it has; raised when all answers that came before are taken."""
        self._messages: deque[bytes] = deque()
        """Answers that were not received yet."""
        self._news = asyncio.Event()
        """Set when there is an answer or the end."""
        self.unanswered: set[int] = set()
        """Ids of the commands sent on this stream without an answer yet; only of streams whose messages have ids."""
        self._has_ids = spec.path == BATCH_COMMANDS
        """Whether its messages are frames of commands, which carry ids."""

    @property
    def is_of_commands(self) -> bool:
        return self._has_ids

    def send_nowait(self, message: Message | bytes) -> None:
        if self._error is not None:
            raise self._error
        assert self._channel is not None
        if self._channel.is_full():
            self._channel.count("refused by full buffers")
            raise RpcError(StatusCode.RESOURCE_EXHAUSTED, "the stream's buffer is full")
        data = encoded(message)
        if self._has_ids:
            self.unanswered.update(tikvpb_pb2.BatchCommandsRequest.FromString(data).request_ids)
        self._channel.send("message", self.number, data)

    def end_sending(self) -> None:
        """Say that nothing more comes from here; what is under way is still answered (a half-close)."""
        if self._channel is not None and self._error is None:
            self._channel.send("end", self.number)

    def is_drained(self, otherwise: Callable[[], object]) -> bool:
        if self._channel is None or not self._channel.is_full():
            return True
        self._channel.when_free(otherwise)
        return False

    async def receive(self) -> Message:
        while not self._messages:
            if self._error is not None:
                raise self._error
            self._news.clear()
            await self._news.wait()
        message = self._spec.response_type.FromString(self._messages.popleft())
        if self._has_ids:
            self._note_answers(message.request_ids)  # type: ignore[attr-defined] # that stream's type
        return message

    def _note_answers(self, ids: Sequence[int]) -> None:
        """Every command is answered once; only the probe, whose id is 0, goes out again and again."""
        for number in ids:
            if number and number not in self.unanswered and self._channel is not None:
                self._channel.complain("answers", f"command {number} was answered twice")
            self.unanswered.discard(number)

    def close(self) -> None:
        if self._channel is not None and self._error is None:
            self._channel.end(self.number)
        self.on_status(RpcError(StatusCode.CANCELLED, "the stream was closed here"))

    def on_message(self, data: bytes) -> None:
        self._messages.append(data)
        self._news.set()

    def on_status(self, error: RpcError) -> None:
        if self._error is None:
            self._error = error
        self._news.set()


def _status(code: StatusCode, text: str) -> RpcError:
    if code is StatusCode.OK:
        return RpcError(StatusCode.UNAVAILABLE, "the server closed the stream")
    return RpcError(code, text)


def _expire(answer: asyncio.Future[bytes], address: str, path: str, timeout_s: float) -> None:
    if not answer.done():
        answer.set_exception(RpcError(StatusCode.DEADLINE_EXCEEDED, f"{path} at {address}: no answer in {timeout_s} s"))
