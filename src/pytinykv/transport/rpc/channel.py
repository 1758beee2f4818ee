"""A gRPC channel that a scope owns: every call has a deadline, and closing is safe at any time, and twice.

What is done here that grpc.aio leaves to its users:

* a call that dies because its channel was closed raises RpcError(UNAVAILABLE) to its caller; in grpc.aio it raises
  CancelledError, which the caller would take for its own cancellation;
* a deadline is also kept by the event loop, with a margin, in case grpc's timers do not fire;
* a stream has a bounded buffer of requests that never blocks the sender (`send_nowait`), or lets it wait with a deadline
  (`send`); broken streams say so to both sides;
* the task with which grpc sends a stream's messages ends with the stream: grpc forgets it when the peer ends the call first,
  and while it is in a write that the network does not take, it would go on until the connection is given up;
* closing waits, with a bound, for those tasks; what has not ended then is a leak of its stream, with the line that opened it.
"""

from __future__ import annotations

import asyncio
import collections
import logging
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any, Final, Generic, TypeVar

import grpc
import grpc.aio

from pytinykv.lifecycle import Leak, LeakKind, Member, Scope
from pytinykv.transport.address import parse_address
from pytinykv.transport.rpc.engine import CHANNEL_OPTIONS, Options, keep_engine, rpc_error
from pytinykv.transport.status import RpcError, StatusCode, StreamEndedError
from pytinykv.waitgraph import Aspect, CallSite, Label, Named, Wait, call_site, explains_wait
from pytinykv.waitgraph.stacks import await_chain

Request = TypeVar("Request")
Response = TypeVar("Response")

DEADLINE_MARGIN_S: Final = 1.0
CLOSE_S: Final = 1.0
STREAM_BUFFER: Final = 1024

_log = logging.getLogger(__name__)


def _answer_to_call(variables: dict[str, Any]) -> Wait:
    address = getattr(variables["self"], "address", "?")
    return Wait(Aspect.ANSWER, (Named(f"{variables.get('path', '?')} at {address}", f"the server at {address}"),))


def _message_of_stream(variables: dict[str, Any]) -> Wait:
    name = str(getattr(variables["self"], "_name", "a stream"))
    return Wait(Aspect.ANSWER, (Named(f"a message of {name}", f"the server at {name.rpartition(' at ')[2]}"),))


class RpcChannel(Member):
    """A connection to one address. Made inside a running loop; connects at the first call and again when it breaks."""

    def __init__(self, scope: Scope, address: str, *, options: Options = ()) -> None:
        """Make a channel to `host:port`; nothing is sent yet.

        Raises:
            AddressError: `address` is malformed.
            ScopeStoppedError: the scope is stopping or has stopped.
        """
        super().__init__(f"{scope.name}/channel:{address}", call_site())
        self._address: Final = str(parse_address(address))
        self._scope: Final = scope
        self._closing = False
        """Whether `close` was called; never false again."""
        self._close_task: asyncio.Task[None] | None = None
        """Closes gRPC's channel; made by the first `close`, which later ones join."""
        self._unaries: Final[dict[str, Callable[..., Any]]] = {}
        """gRPC's callables, by path: made once each."""
        self._unary_waiters: Final[dict[asyncio.Future[Any], None]] = {}
        """One for each unary call under way, resolved at its end."""
        self._streams: Final[dict[RpcStream[Any, Any], None]] = {}
        """Those that have not ended."""
        scope.adopt(self)
        keep_engine()
        arguments = {**dict(CHANNEL_OPTIONS), **dict(options)}  # of two, gRPC takes the first
        self._channel: Final = grpc.aio.insecure_channel(self._address, options=list(arguments.items()))

    @property
    def address(self) -> str:
        """Where it leads, `host:port`."""
        return self._address

    @property
    def closed(self) -> bool:
        """Whether it was closed; calls are then refused with UNAVAILABLE."""
        return self._closing

    @property
    def calls_under_way(self) -> int:
        """How many unary calls and streams are open."""
        return len(self._unary_waiters) + len(self._streams)

    @explains_wait(_answer_to_call)
    async def unary(
        self,
        path: str,
        request: Request,
        *,
        serialize: Callable[[Request], bytes],
        deserialize: Callable[[bytes], Response],
        timeout_s: float,
        wait_for_ready: bool = False,
    ) -> Response:
        """Call `/package.Service/Method` and return its response. `serialize` and `deserialize` hold for the path's life.

        Raises:
            RpcError: with the status of the call; UNAVAILABLE when the channel is or gets closed or there is no answer,
                DEADLINE_EXCEEDED after `timeout_s` seconds.
        """
        self._refuse_if_closed()
        method = self._unaries.get(path)
        if method is None:
            method = self._channel.unary_unary(path, request_serializer=serialize, response_deserializer=deserialize)
            self._unaries[path] = method
        call = method(request, timeout=timeout_s, wait_for_ready=wait_for_ready)
        waiter = asyncio.get_running_loop().create_future()
        self._unary_waiters[waiter] = None
        try:
            async with asyncio.timeout(timeout_s + DEADLINE_MARGIN_S):
                response: Response = await call
                return response
        except grpc.RpcError as error:
            raise rpc_error(error) from None
        except TimeoutError:
            call.cancel()
            raise RpcError(
                StatusCode.DEADLINE_EXCEEDED, f"{path} at {self._address}: {timeout_s} s have passed"
            ) from None
        except asyncio.CancelledError:
            if self._closing and not _is_being_cancelled():
                raise RpcError(StatusCode.UNAVAILABLE, f"the channel to {self._address} was closed") from None
            call.cancel()
            raise
        finally:
            del self._unary_waiters[waiter]
            waiter.set_result(None)

    def stream_stream(
        self,
        path: str,
        *,
        serialize: Callable[[Request], bytes],
        deserialize: Callable[[bytes], Response],
        timeout_s: float | None = None,
        buffer: int = STREAM_BUFFER,
    ) -> RpcStream[Request, Response]:
        """Open a stream both ways. It ends with `close`, with the channel, with the scope, or by the peer.

        Raises:
            RpcError: UNAVAILABLE, when the channel is closed.
        """
        self._refuse_if_closed()
        method: Any = self._channel.stream_stream(path, request_serializer=serialize, response_deserializer=deserialize)
        return self._open(path, method, timeout_s, buffer, call_site())

    def stream_unary(
        self,
        path: str,
        *,
        serialize: Callable[[Request], bytes],
        deserialize: Callable[[bytes], Response],
        timeout_s: float | None = None,
        buffer: int = STREAM_BUFFER,
    ) -> RpcStream[Request, Response]:
        """Open a stream of requests; after `finish_sending`, `receive` gives the one response."""
        self._refuse_if_closed()
        method: Any = self._channel.stream_unary(path, request_serializer=serialize, response_deserializer=deserialize)
        return self._open(path, method, timeout_s, buffer, call_site())

    async def close(self) -> None:
        """End all calls (UNAVAILABLE to their callers) and the connection. Idempotent, bounded, never raises."""
        if self._close_task is None:
            self._closing = True
            loop = asyncio.get_running_loop()
            self._close_task = loop.create_task(self._close(), name=f"{self.name}/close")
        await asyncio.shield(self._close_task)

    async def stop_member(self, deadline_s: float) -> None:
        """Close, as a part of the scope's stop; `deadline_s` is longer than that takes."""
        del deadline_s
        await self.close()

    def leaks(self) -> Sequence[Leak]:
        """Return one leak for each stream that is still open, and one for all unary calls."""
        found = [stream.as_leak() for stream in self._streams]
        if self._unary_waiters:
            found.append(Leak(LeakKind.CALL, f"{self.name} ({len(self._unary_waiters)} calls)", self.made_at))
        return found

    def labels(self) -> Sequence[Label]:
        """Return the tasks with which gRPC sends the messages of streams."""
        return [
            Label(stream.sender, f"{self.name}{stream.name.partition(' at ')[0]}: sends", stream.opened_at)
            for stream in list(self._streams)
            if stream.sender is not None
        ]

    # --- inside -------------------------------------------------------------------------------------------------

    def _open(
        self, path: str, method: Any, timeout_s: float | None, buffer: int, opened_at: CallSite
    ) -> RpcStream[Any, Any]:
        stream: RpcStream[Any, Any] = RpcStream(
            f"{path} at {self._address}", lambda requests: method(requests, timeout=timeout_s), buffer, opened_at
        )
        self._streams[stream] = None
        stream.add_done_callback(lambda ended: self._streams.pop(ended, None))
        return stream

    async def _close(self) -> None:
        for stream in list(self._streams):
            stream.close()
        loop = asyncio.get_running_loop()
        closing = loop.create_task(self._channel.close(None), name=f"{self.name}/close-grpc")
        ends = [stream.ended for stream in self._streams]
        done, pending = await asyncio.wait((closing, *self._unary_waiters, *ends), timeout=CLOSE_S)
        if pending:
            _log.error("%s: %d of its calls did not end", self.name, len(pending))
        if closing in done and not closing.cancelled() and (error := closing.exception()) is not None:
            _log.error("%s: grpc failed to close it: %r", self.name, error)
        if not self.leaks():  # otherwise the scope keeps it, for its own report
            self._scope.disown(self)

    def _refuse_if_closed(self) -> None:
        if self._closing:
            raise RpcError(StatusCode.UNAVAILABLE, f"the channel to {self._address} is closed")


class RpcStream(Generic[Request, Response]):
    """An open stream: sends without blocking, receives one at a time, closes at any time and twice.

    One receiver at a time; any number of senders.
    """

    def __init__(
        self,
        name: str,
        open_call: Callable[[AsyncIterator[Request]], Any],
        buffer: int,
        opened_at: CallSite,
    ) -> None:
        """Use `RpcChannel.stream_stream` or `stream_unary`."""
        self._name: Final = name
        self._opened_at: Final = opened_at
        self._buffer: Final[collections.deque[Request]] = collections.deque()
        """Messages that gRPC has not taken yet."""
        self._buffer_max: Final = buffer
        self._sending_finished = False
        """Whether `finish_sending` was called."""
        self._is_writing = False
        """Whether gRPC has taken a message and not asked for the next."""
        self._when_drained: Callable[[], object] | None = None
        """What to call when nothing waits to be written any more."""
        self._closed = False
        """Whether `close` was called."""
        self._is_over = False
        """Whether the call has its status."""
        self._sender: asyncio.Task[Any] | None = None
        """grpc's task that takes the messages and writes them; None before its first step."""
        self._more: asyncio.Future[None] | None = None
        """What grpc's sending task waits for while the buffer is empty."""
        self._room: Final[collections.deque[asyncio.Future[None]]] = collections.deque()
        """What senders that found the buffer full wait for."""
        loop = asyncio.get_running_loop()
        self.ended: Final[asyncio.Future[None]] = loop.create_future()
        """Resolved when the call is over and grpc's sending task has ended."""
        self._call: Final = open_call(self._requests())
        self._responses: AsyncIterator[Response] | None = None
        """gRPC's iterator over the responses; made by the first `receive`."""
        self._call.add_done_callback(self._on_call_done)

    @property
    def broken(self) -> bool:
        """Whether the call is over: closed here, ended by the peer, or failed."""
        return self._closed or self._is_over

    def send_nowait(self, message: Request) -> None:
        """Queue a message for sending.

        Raises:
            RpcError: RESOURCE_EXHAUSTED when the buffer is full, UNAVAILABLE when the stream is over; not queued.
        """
        self._refuse_if_over()
        if len(self._buffer) >= self._buffer_max:
            raise RpcError(
                StatusCode.RESOURCE_EXHAUSTED, f"{self._name}: {self._buffer_max} messages are waiting already"
            )
        self._buffer.append(message)
        if self._more is not None and not self._more.done():
            self._more.set_result(None)

    async def send(self, message: Request, *, timeout_s: float) -> None:
        """Queue a message, waiting for room in the buffer for at most `timeout_s` seconds.

        Raises:
            RpcError: DEADLINE_EXCEEDED when there was no room in time, UNAVAILABLE when the stream is over.
        """
        loop = asyncio.get_running_loop()
        until = loop.time() + timeout_s
        while len(self._buffer) >= self._buffer_max:
            self._refuse_if_over()
            room: asyncio.Future[None] = loop.create_future()
            self._room.append(room)
            try:
                await asyncio.wait((room,), timeout=max(0.0, until - loop.time()))
            finally:
                if not room.done():
                    self._room.remove(room)
            if not room.done():
                raise RpcError(StatusCode.DEADLINE_EXCEEDED, f"{self._name}: no room to send for {timeout_s} s")
        self.send_nowait(message)

    def is_drained(self, otherwise: Callable[[], object]) -> bool:
        """Tell whether nothing waits to be written; if something does, `otherwise()` is called when it has been.

        For senders that gather what comes in meanwhile into one message. One callback is kept: the newest. It is not
        called when the stream ends before.
        """
        if not self._buffer and not self._is_writing:
            return True
        self._when_drained = otherwise
        return False

    def finish_sending(self) -> None:
        """Tell the peer that no more messages come, once those queued are sent; it may go on answering."""
        self._sending_finished = True
        if self._more is not None and not self._more.done():
            self._more.set_result(None)

    @explains_wait(_message_of_stream)
    async def receive(self) -> Response:
        """Wait for the next message. Bound it from outside (`asyncio.timeout`) or with the stream's own timeout.

        Raises:
            RpcError: the status the stream ended with; StreamEndedError when the peer ended it in good order.
        """
        try:
            if not hasattr(self._call, "__aiter__"):
                response: Response = await self._call
                return response
            if self._responses is None:
                self._responses = aiter(self._call)
            return await anext(self._responses)
        except StopAsyncIteration:
            raise StreamEndedError(f"{self._name}: the peer has ended the stream") from None
        except grpc.RpcError as error:
            raise rpc_error(error) from None
        except asyncio.CancelledError:
            if self.broken and not _is_being_cancelled():
                raise RpcError(StatusCode.UNAVAILABLE, f"{self._name} was closed") from None
            raise

    def close(self) -> None:
        """End the stream at once, both ways; what is queued is not sent. A wait in `receive` or `send` ends with an error."""
        self._closed = True
        self._buffer.clear()
        self._call.cancel()
        self._wake_all()

    @property
    def name(self) -> str:
        """The path of the call, and where it leads."""
        return self._name

    @property
    def opened_at(self) -> CallSite:
        """The line that opened it."""
        return self._opened_at

    @property
    def sender(self) -> asyncio.Task[Any] | None:
        """The task with which gRPC sends the messages; None before its first step."""
        return self._sender

    def as_leak(self) -> Leak:
        """Describe the stream as something left behind."""
        stack = () if self._sender is None or self._sender.done() else await_chain(self._sender)
        return Leak(LeakKind.CALL, self._name, self._opened_at, stack)

    def add_done_callback(self, callback: Callable[[RpcStream[Request, Response]], object]) -> None:
        """Call `callback(self)` when the stream has ended (see `ended`)."""
        self.ended.add_done_callback(lambda _: callback(self))

    # --- inside -------------------------------------------------------------------------------------------------

    async def _requests(self) -> AsyncIterator[Request]:
        """What grpc's sending task takes its messages from."""
        self._sender = asyncio.current_task()
        while True:
            while self._buffer:
                message = self._buffer.popleft()
                if self._room and not (room := self._room.popleft()).done():
                    room.set_result(None)
                self._is_writing = True
                yield message
                self._is_writing = False
            if self._sending_finished or self.broken:
                return
            if (when_drained := self._when_drained) is not None:
                self._when_drained = None
                when_drained()
                continue
            self._more = asyncio.get_running_loop().create_future()
            await self._more
            self._more = None

    def _on_call_done(self, _: object) -> None:
        self._is_over = True
        self._wake_all()
        if self._sender is None or self._sender.done():
            self._end()
        else:
            self._sender.add_done_callback(self._end)
            self._sender.cancel(f"{self._name} is over")

    def _end(self, _: object = None) -> None:
        if not self.ended.done():
            self.ended.set_result(None)

    def _wake_all(self) -> None:
        for waiter in [*self._room, *([self._more] if self._more is not None else [])]:
            if not waiter.done():
                waiter.set_result(None)
        self._room.clear()

    def _refuse_if_over(self) -> None:
        if self.broken or self._sending_finished:
            raise RpcError(StatusCode.UNAVAILABLE, f"{self._name} is over")


def _is_being_cancelled() -> bool:
    """Whether the running task itself was cancelled, as opposed to what it awaits."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0
