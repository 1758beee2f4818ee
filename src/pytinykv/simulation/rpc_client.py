"""The calling end of calls and streams over virtual connections: the simulator's `Connector`.

Messages cross as bytes, so that two processes never share an object. One connection carries all calls from one connector
to one address, in frames:

    client to server   ("call", id, path, bytes)   ("open", id, path)   ("message", id, bytes)   ("end", id)   ("cancel", id)
    server to client   ("message", id, bytes)      ("status", id, code, text)

What a caller sees is what gRPC shows: UNAVAILABLE when the connection breaks or no server listens, DEADLINE_EXCEEDED when its
time is over (the server may still act), CANCELLED after `close`, UNKNOWN when a handler raised something else.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final

from google.protobuf.message import Message

from pytinykv.lifecycle import Leak, Member
from pytinykv.simulation.connection import Connection, End, Frame
from pytinykv.simulation.errors import Violation
from pytinykv.simulation.process import Process
from pytinykv.simulation.rpc_server import Internet
from pytinykv.wire import BATCH_COMMANDS, MethodSpec, RpcError, StatusCode, encoded, service_methods
from pytinykv.wire.pb import tikvpb_pb2

BUFFER_FULL_S: Final = 0.05
"""How long a buffer that is full takes nothing, at most."""
METHODS: Final = {
    path: spec
    for name in ("tikvpb.Tikv", "pdpb.PD", "pytinykv.adminpb.Admin", "deadlock.Deadlock")
    for path, spec in service_methods(name).items()
}


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
