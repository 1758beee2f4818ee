"""A gRPC server that a scope owns and that can always be stopped.

What grpc.aio's own `stop` does not give, and is done here:

* it returns before a handler that answered and went on has ended, and before one that was aborted has (grpc issue 37239):
  the tasks of all handlers are in the books, cancelled when the grace is over, and waited for;
* it waits without bound for a handler that ignores its cancellation: here every wait has a bound, and what remains is a
  leak in the report, with its stack;
* a stream of requests that its client keeps open keeps its call open, so grace would never be enough: here such a stream
  ends for the handler when the stop begins, what it has read gets its answer, and the call ends in good order;
* a stream of responses is left to the collector when its call is cancelled: here it is closed in the task of its call;
* a server that was never started cannot be stopped, and one that is dropped while it runs complains from the collector:
  here grpc's server object exists only from a successful `start` on, and is kept until it has stopped.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final, NamedTuple, NoReturn, Protocol, cast

import grpc
import grpc.aio

from pytinykv.lifecycle import Leak, LeakKind, LifecycleError, Member, Scope, ScopeStoppedError
from pytinykv.transport.address import Address, AddressError, check_can_bind, check_may_listen, parse_address
from pytinykv.transport.rpc.engine import SERVER_OPTIONS, Options, grpc_code, keep_engine
from pytinykv.transport.status import RpcError, StatusCode
from pytinykv.waitgraph import Label, call_site
from pytinykv.waitgraph.stacks import await_chain

START_DEADLINE_S: Final = 5.0
GRACE_S: Final = 1.0
CANCEL_S: Final = 1.0
"""How long cancelled handlers may clean up."""

_log = logging.getLogger(__name__)

_unstoppable: Final[list[object]] = []
"""Servers of grpc that did not stop. They must not be collected while they run: grpc's core would crash."""


class MethodKind(StrEnum):
    """Which sides of a call are streams: request, then response."""

    UNARY_UNARY = "unary_unary"
    UNARY_STREAM = "unary_stream"
    STREAM_UNARY = "stream_unary"
    STREAM_STREAM = "stream_stream"


class CallContext(Protocol):
    """What a handler may ask about its call; grpc's context satisfies it."""

    def peer(self) -> str:
        """Return the caller's address in gRPC's notation."""
        ...


Handler = Callable[[Any, CallContext], Any]


@dataclass(frozen=True, slots=True)
class Method:
    """One method of a service.

    Handlers: `async handler(request, context) -> response`, or for a stream of responses
    `handler(request, context) -> AsyncIterator[response]`; where requests are a stream, `request` is an AsyncIterator,
    which also ends when the server begins to stop.
    A handler answers with an error by raising RpcError; any other error is logged and answered with INTERNAL.
    """

    name: str
    kind: MethodKind
    deserialize: Callable[[bytes], Any]
    serialize: Callable[[Any], bytes]
    handler: Handler


class _Call(NamedTuple):
    """One call under way."""

    path: str
    running: Any
    """The handler's coroutine or stream, to show where it is."""
    requests: _Requests | None
    """The stream of requests; None where there is one request."""


class _Requests:
    """A stream of requests that can be ended from this side: the handler then sees its end, at once, even while waiting."""

    __slots__ = ("_ended", "_messages", "_reader")

    def __init__(self, messages: AsyncIterator[Any]) -> None:
        self._messages: Final = messages
        self._ended = False
        """Whether nothing more will come, by the caller's end or from this side. Never unset."""
        self._reader: asyncio.Task[Any] | None = None
        """The task that waits for the next message, while it does."""

    def __aiter__(self) -> _Requests:
        return self

    async def __anext__(self) -> Any:
        if self._ended:
            raise StopAsyncIteration
        reader = self._reader = asyncio.current_task()
        try:
            return await anext(self._messages)
        except asyncio.CancelledError:
            if self._is_ended() and reader is not None and reader.uncancel() == 0:  # it was end(), and nothing besides
                raise StopAsyncIteration from None
            raise
        finally:
            self._reader = None

    def _is_ended(self) -> bool:
        return self._ended

    def end(self) -> None:
        """Let the stream end here. A message that arrives now is not read: its sender sees the call end instead."""
        if not self._ended:
            self._ended = True
            if self._reader is not None:
                self._reader.cancel("the stream of requests ends")


class RpcServer(Member):
    """A server in a scope: add services, start, stop. Each of these at most once counts; stop may be called at any time."""

    def __init__(
        self,
        scope: Scope,
        name: str,
        *,
        options: Options = (),
    ) -> None:
        """Make a server that is not yet listening.

        Args:
            scope: stops the server with itself, if it was not stopped before.
            name: for logs and reports.
            options: gRPC channel arguments, in addition to `SERVER_OPTIONS`; later ones win.
        """
        super().__init__(f"{scope.name}/{name}", call_site())
        self._scope: Final = scope
        self._options: Final = tuple({**dict(SERVER_OPTIONS), **dict(options)}.items())  # of two, gRPC takes the first
        self._handlers: Final[list[grpc.GenericRpcHandler[Any, Any]]] = []
        """Of the services that were added, all of them before the start."""
        self._calls: Final[dict[asyncio.Task[Any], _Call]] = {}
        """Calls under way, by the task that gRPC made for each: from a handler's first line to the end of the task."""
        self._server: grpc.aio.Server | None = None
        """gRPC's server, from the moment it has its port."""
        self._starting: asyncio.Task[int] | None = None
        """The start, once it was begun."""
        self._stop_task: asyncio.Task[None] | None = None
        """The stop, once it was begun."""
        self._idle: asyncio.Future[None] | None = None
        """Resolved when no call is left; exists while the stop waits for that."""
        self._stuck_server = False
        """Whether gRPC's own stop failed or did not end."""
        self.address: Address | None = None
        """Where it listens, with the real port; None until started."""
        scope.adopt(self)

    @property
    def port(self) -> int | None:
        """The port it listens on; None until started."""
        return None if self.address is None else self.address.port

    @property
    def calls_under_way(self) -> int:
        """How many handlers have not ended."""
        return len(self._calls)

    @property
    def stopping(self) -> bool:
        """Whether a stop has begun; new calls are then refused with UNAVAILABLE."""
        return self._stop_task is not None

    def add_service(self, service: str, methods: Sequence[Method]) -> None:
        """Serve `methods` under `/service/<name>`. Only before `start`."""
        if self._starting is not None:
            raise LifecycleError(f"{self.name}: services are added before the server starts")
        handlers = {method.name: self._wrap(f"/{service}/{method.name}", method) for method in methods}
        self._handlers.append(grpc.method_handlers_generic_handler(service, handlers))

    async def start(self, address: str, *, insecure: bool = False) -> int:
        """Listen on `host:port` and serve; returns the port, which port 0 leaves to the system.

        Args:
            address: `host:port`.
            insecure: allows an address that other machines can reach.

        Raises:
            AddressError: malformed, reachable from outside without `insecure`, taken, or not to be had.
            ScopeStoppedError: the server has been stopped, before or meanwhile.
            LifecycleError: started twice, or grpc did not start in time.
        """
        if self.stopping:
            raise ScopeStoppedError(f"{self.name} was stopped before it started")
        if self._starting is not None:
            raise LifecycleError(f"{self.name} was started twice")
        parsed = parse_address(address)
        check_may_listen(parsed, insecure=insecure)
        check_can_bind(parsed)
        loop = asyncio.get_running_loop()
        self._starting = loop.create_task(self._start(parsed), name=f"{self.name}/start")
        self._starting.add_done_callback(
            _retrieve
        )  # its error goes to the caller, which may have been cancelled meanwhile
        try:
            return await asyncio.wait_for(asyncio.shield(self._starting), START_DEADLINE_S)
        except TimeoutError:
            raise LifecycleError(f"{self.name}: grpc did not start within {START_DEADLINE_S} s") from None

    async def stop(self, grace_s: float = GRACE_S) -> None:
        """Refuse new calls, let those under way end for `grace_s` seconds, cancel the rest, and let go of the port.

        Idempotent, callable at any time, shared by concurrent callers, and goes on when its caller is cancelled. Takes at
        most about `grace_s` + 2 × `CANCEL_S`; what is left then is in `leaks()`. The caller may be one of the handlers.
        """
        caller = asyncio.current_task()
        if self._stop_task is None:
            loop = asyncio.get_running_loop()
            self._stop_task = loop.create_task(self._stop(grace_s), name=f"{self.name}/stop")
        if caller is not None and self._calls.pop(caller, None) is not None:
            self._check_idle()  # a handler that stops its own server is not waited for
        await asyncio.shield(self._stop_task)

    async def stop_member(self, deadline_s: float) -> None:
        """Stop within `deadline_s` seconds, as a part of the scope's stop."""
        await self.stop(max(0.0, min(GRACE_S, deadline_s - 2 * CANCEL_S)))

    def leaks(self) -> Sequence[Leak]:
        """Return the handlers that have not ended, and the server itself if grpc did not stop it."""
        found = [
            Leak(LeakKind.CALL, f"{self.name}{call.path}", self.made_at, await_chain(task, call.running))
            for task, call in self._calls.items()
            if not task.done()
        ]
        if self._stuck_server:
            found.append(Leak(LeakKind.SERVER, self.name, self.made_at))
        return found

    def labels(self) -> Sequence[Label]:
        """Return the tasks of the calls under way."""
        return [
            Label(task, f"{self.name}{call.path}", coroutine=call.running) for task, call in list(self._calls.items())
        ]

    # --- start and stop -----------------------------------------------------------------------------------------

    async def _start(self, address: Address) -> int:
        keep_engine()
        server = grpc.aio.server(handlers=self._handlers, options=list(self._options))
        try:
            port = server.add_insecure_port(str(address))
        except RuntimeError as error:
            await _discard(server)
            raise AddressError(f"cannot listen on {address}: another process took it just now ({error})") from error
        self._server = server
        await server.start()
        self.address = Address(address.host, port)
        _log.debug("%s listens on %s", self.name, self.address)
        return port

    async def _stop(self, grace_s: float) -> None:
        loop = asyncio.get_running_loop()
        if self._starting is not None:
            await asyncio.wait((self._starting,), timeout=START_DEADLINE_S)
        grace_until = loop.time() + grace_s
        for call in self._calls.values():
            if call.requests is not None:
                call.requests.end()
        if self._server is not None:
            await self._stop_grpc(self._server, grace_s)
        await self._wait_idle(
            grace_until - loop.time()
        )  # grpc takes a handler that has answered for ended; it may not be
        for task in self._calls:
            task.cancel(f"{self.name} is stopping")
        await self._wait_idle(CANCEL_S)
        if self.leaks():
            _log.error("%s stopped, but not everything of it has ended", self.name)
        else:  # otherwise the scope keeps it, for its own report
            self._scope.disown(self)
            _log.debug("%s stopped", self.name)

    async def _stop_grpc(self, server: grpc.aio.Server, grace_s: float) -> None:
        """Run grpc's own stop, with a bound. It also tells clients to go away, and frees the port."""
        loop = asyncio.get_running_loop()
        stopping = loop.create_task(server.stop(grace_s), name=f"{self.name}/stop-grpc")
        await asyncio.wait((stopping,), timeout=grace_s + CANCEL_S)
        if not stopping.done():
            # A handler that ignores grpc's cancellation holds it up. Ours is the second and last.
            for task in self._calls:
                task.cancel(f"{self.name} is stopping")
            await asyncio.wait((stopping,), timeout=CANCEL_S)
        if not stopping.done():
            self._stuck_server = True
            _unstoppable.append((server, stopping))
            _log.error(
                "%s: grpc did not stop in %.1f s; handlers left: %s", self.name, grace_s + 2 * CANCEL_S, self._calls
            )
        elif not stopping.cancelled() and (error := stopping.exception()) is not None:
            self._stuck_server = True
            _unstoppable.append((server, stopping))
            _log.error("%s: grpc failed to stop: %r", self.name, error)

    async def _wait_idle(self, limit_s: float) -> None:
        if not self._calls or limit_s <= 0:
            return
        self._idle = asyncio.get_running_loop().create_future()
        await asyncio.wait((self._idle,), timeout=limit_s)

    def _check_idle(self) -> None:
        if self._idle is not None and not self._calls and not self._idle.done():
            self._idle.set_result(None)

    # --- calls --------------------------------------------------------------------------------------------------

    def _enter(self, path: str, running: Any, requests: _Requests | None) -> None:
        """Put the running call into the books; it leaves them when its task ends, which is later than its answer."""
        task = asyncio.current_task()
        assert task is not None
        self._calls[task] = _Call(path, running, requests)
        task.add_done_callback(self._leave)

    def _leave(self, task: asyncio.Task[Any]) -> None:
        self._calls.pop(task, None)
        self._check_idle()

    def _wrap(self, path: str, method: Method) -> grpc.RpcMethodHandler[Any, Any]:
        kind = method.kind
        streams_in = kind in (MethodKind.STREAM_UNARY, MethodKind.STREAM_STREAM)
        streams_out = kind in (MethodKind.UNARY_STREAM, MethodKind.STREAM_STREAM)
        make_behaviour = self._stream_behaviour if streams_out else self._unary_behaviour
        behaviour = make_behaviour(path, method.handler, streams_in=streams_in)
        make = {
            MethodKind.UNARY_UNARY: grpc.unary_unary_rpc_method_handler,
            MethodKind.UNARY_STREAM: grpc.unary_stream_rpc_method_handler,
            MethodKind.STREAM_UNARY: grpc.stream_unary_rpc_method_handler,
            MethodKind.STREAM_STREAM: grpc.stream_stream_rpc_method_handler,
        }[kind]
        return make(
            cast("Any", behaviour), request_deserializer=method.deserialize, response_serializer=method.serialize
        )

    def _unary_behaviour(
        self, path: str, handler: Handler, *, streams_in: bool
    ) -> Callable[[Any, Any], Awaitable[Any]]:
        async def answer(request: Any, context: grpc.aio.ServicerContext[Any, Any]) -> Any:
            if self.stopping:
                await self._refuse(context)
            requests = _Requests(request) if streams_in else None
            running = handler(request if requests is None else requests, cast("CallContext", context))
            self._enter(path, running, requests)
            try:
                return await running
            except (Exception, asyncio.CancelledError) as error:
                await self._abort(path, context, error)

        return answer

    def _stream_behaviour(
        self, path: str, handler: Handler, *, streams_in: bool
    ) -> Callable[[Any, Any], Awaitable[None]]:
        async def answer(request: Any, context: grpc.aio.ServicerContext[Any, Any]) -> None:
            if self.stopping:
                await self._refuse(context)
            requests = _Requests(request) if streams_in else None
            try:
                responses: AsyncIterator[Any] = handler(
                    request if requests is None else requests, cast("CallContext", context)
                )
            except Exception as error:
                await self._abort(path, context, error)
            self._enter(path, responses, requests)
            try:
                async for response in responses:
                    await context.write(response)
            except (Exception, asyncio.CancelledError) as error:
                await self._abort(path, context, error)
            finally:
                if (close := getattr(responses, "aclose", None)) is not None:
                    await close()

        return answer

    async def _refuse(self, context: grpc.aio.ServicerContext[Any, Any]) -> NoReturn:
        await context.abort(grpc.StatusCode.UNAVAILABLE, f"{self.name} is stopping")

    async def _abort(self, path: str, context: grpc.aio.ServicerContext[Any, Any], error: BaseException) -> NoReturn:
        if isinstance(error, grpc.aio.AbortError):
            raise error
        if isinstance(error, asyncio.CancelledError):
            if context.done():  # by grpc: the caller has gone, or the server is cancelling all calls
                raise error
            # By us at a stop, or by an await of something that was cancelled: grpc would leave the caller without an answer.
            why = f"{self.name} is stopping" if self.stopping else f"{path} was cancelled"
            await context.abort(grpc.StatusCode.UNAVAILABLE, why)
        if isinstance(error, RpcError):
            await context.abort(grpc_code(error.code), error.message)
        if context.done():  # the caller has gone, or grpc's server has stopped: nothing to answer
            _log.debug("%s%s ended after its caller had gone: %r", self.name, path, error)
            raise asyncio.CancelledError
        _log.error("%s%s failed", self.name, path, exc_info=error)
        await context.abort(grpc_code(StatusCode.INTERNAL), f"{path} failed: {type(error).__name__}: {error}")


def _retrieve(task: asyncio.Task[Any]) -> None:
    if not task.cancelled() and (error := task.exception()) is not None:
        _log.debug("%s: %r", task.get_name(), error)


async def _discard(server: grpc.aio.Server) -> None:
    """Bring a server that could not bind into the state that grpc allows to be collected."""
    await server.start()
    await server.stop(None)
