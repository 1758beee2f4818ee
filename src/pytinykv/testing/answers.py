"""Answers on demand: what a store says to the next commands of a kind, instead of or besides serving them.

```
frames, calls ──► which order is for this command? ──none──► the store ──► answers
                        ├─ NotLeader, EpochNotMatch, ServerIsBusy ───────► a region error; the store never sees it
                        ├─ Lost    the store serves it ─────────────────► the answer is dropped
                        └─ Delay   … later ──► the store ───────────────► answers
```

So client code can be tested against what happens once a month. Commands are told by the names of the protocol's methods
(`RawPut`, `KvPrewrite`), whether they come alone or in a frame of `BatchCommands`.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, Self, cast

from pytinykv.server.kv.commands import COMMANDS, MEMBERS, UNARY
from pytinykv.wire import BATCH_COMMANDS, MethodSpec, Response, RpcError, Service
from pytinykv.wire.errors import EpochNotMatch as EpochNotMatchError
from pytinykv.wire.errors import NotLeader as NotLeaderError
from pytinykv.wire.errors import RegionError
from pytinykv.wire.errors import ServerIsBusy as ServerIsBusyError
from pytinykv.wire.frames import encode_commands
from pytinykv.wire.pb import tikvpb_pb2

if TYPE_CHECKING:
    from google.protobuf.message import Message

    from pytinykv.lifecycle import OwnedTask, Scope
    from pytinykv.server.kv.kinds import CommandKind

_FRAMES_QUEUED_MAX: Final = 8
"""Answer frames of one stream that wait for their client; the store's own bounds are behind them."""
_SECONDS_MAX: Final = 1e6


@dataclass(frozen=True)
class NotLeader:
    """The store says that it does not lead the region, and not who does."""

    def error(self, region_id: int) -> RegionError:
        return NotLeaderError(region_id=region_id)


@dataclass(frozen=True)
class EpochNotMatch:
    """The store says that the region has been split or moved, and not into what: the client asks the scheduler."""

    def error(self, region_id: int) -> RegionError:
        del region_id
        return EpochNotMatchError()


@dataclass(frozen=True)
class ServerIsBusy:
    """The store says that it has too much to do."""

    reason: str = "busy on demand"
    backoff_s: float = 0.0
    """After what time the client may try again, in seconds; 0: it is not told."""

    def __post_init__(self) -> None:
        _check_seconds("backoff_s", self.backoff_s)

    def error(self, region_id: int) -> RegionError:
        del region_id
        return ServerIsBusyError(reason=self.reason, backoff_ms=round(self.backoff_s * 1000))


@dataclass(frozen=True)
class Lost:
    """The store does what is asked, and its answer never comes."""


@dataclass(frozen=True)
class Delay:
    """The store takes the command up `seconds` later."""

    seconds: float

    def __post_init__(self) -> None:
        _check_seconds("seconds", self.seconds)


def _check_seconds(name: str, given: object) -> None:
    if not isinstance(given, int | float):
        raise TypeError(f"{name} must be a number of seconds, not {given!r}")
    if not 0 <= given < _SECONDS_MAX:
        raise ValueError(f"{name} must be 0 or a positive number of seconds, not {given!r}")


Answer = NotLeader | EpochNotMatch | ServerIsBusy | Lost | Delay


@dataclass(eq=False)
class Order:
    """An answer that was asked for, and how often it has been given."""

    kind: str
    """The commands' name, of a method or of a frame's member."""
    answer: Answer
    left: int
    """How many commands will still get it."""
    store: int | None
    """The number of the store that gives it; None: whichever is asked."""
    given: int = 0
    """How many commands have got it."""
    commands: frozenset[CommandKind] = field(default=frozenset(), repr=False)


class Orders:
    """The answers that are asked for, by all stores of a cluster. Safe in all threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        """Held to change `_open` and what is left of an order."""
        self._open: list[Order] = []
        """Those that have something left, in the order in which they were asked for. Replaced, never changed."""

    def add(self, kind: str, answer: Answer, times: int, store: int | None) -> Order:
        """Have the next `times` commands of a kind get an answer. Raises ValueError, TypeError for what can't be."""
        commands = frozenset(command for command in COMMANDS if kind in (command.method, command.member))
        if not commands:
            raise ValueError(f"{kind!r} is no command of a store; those are {', '.join(known_kinds())}")
        if not isinstance(answer, Answer):
            raise TypeError(
                "an answer is NotLeader(), EpochNotMatch(), ServerIsBusy(), Lost() or Delay(seconds) of pytinykv.testing, "
                f"not {answer!r}"
            )
        if not isinstance(times, int):
            raise TypeError(f"times must be a whole number, not {times!r}")
        if times < 1:
            raise ValueError(f"times must be at least 1, not {times}")
        order = Order(kind, answer, times, store, commands=commands)
        with self._lock:
            self._open = [*self._open, order]
        return order

    def clear(self) -> None:
        """Take back what has not been given yet."""
        with self._lock:
            self._open = []

    def take(self, command: CommandKind | None, store: int) -> Answer | None:
        """Return what a command that has reached a store is to get; None: what the store says."""
        if not self._open or command is None:
            return None
        with self._lock:
            for order in self._open:
                if command in order.commands and order.store in (None, store):
                    order.left -= 1
                    order.given += 1
                    if not order.left:
                        self._open = [other for other in self._open if other is not order]
                    return order.answer
        return None


def known_kinds() -> list[str]:
    """Return the names by which commands can be told."""
    return sorted({name for command in COMMANDS for name in (command.method, command.member) if name})


class AnsweringService:
    """A store's service that gives the answers that are asked for. A `wire.Service`."""

    def __init__(self, inner: Service, orders: Orders, scope: Scope, number: int) -> None:
        self.methods: Mapping[str, MethodSpec] = inner.methods
        self._inner = inner
        self._orders = orders
        self._scope = scope
        self._number = number
        self.is_dead = False
        """Set when the store is killed: nothing is answered any more."""

    async def unary(self, path: str, request: Message) -> Response:
        command = UNARY.get(path)
        answer = self._orders.take(command, self._number)
        if isinstance(answer, Delay):
            await asyncio.sleep(answer.seconds)
        elif answer is not None and not isinstance(answer, Lost):
            assert command is not None
            return command.region_error(answer.error(_region_of(request)).to_pb())
        response = await self._inner.unary(path, request)
        if self.is_dead or isinstance(answer, Lost):
            await asyncio.Event().wait()  # until the caller gives up, or the server ends
        return response

    def stream(self, path: str, requests: AsyncIterator[Message]) -> AsyncIterator[Response]:
        if path != BATCH_COMMANDS:
            return self._inner.stream(path, requests)
        return self._batches(path, requests)

    async def _batches(self, path: str, requests: AsyncIterator[Message]) -> AsyncIterator[Response]:
        if self._scope.stopping:  # no task starts any more
            if self.is_dead:
                await asyncio.Event().wait()
            async for frame in self._inner.stream(path, requests):  # which says by itself that it stops
                yield frame
            return
        answers: asyncio.Queue[Response | RpcError | None] = asyncio.Queue(_FRAMES_QUEUED_MAX)
        stream = _Sorter(self, requests, answers)
        server = self._scope.start("serve-batches", self._serve, path, stream, answers)
        try:
            while (item := await answers.get()) is not None:
                if self.is_dead:
                    await asyncio.Event().wait()
                if isinstance(item, RpcError):
                    raise item
                yield item
        finally:
            server.cancel()
            for task in stream.aside:
                task.cancel()

    async def _serve(self, path: str, requests: _Sorter, answers: asyncio.Queue[Response | RpcError | None]) -> None:
        end: RpcError | None = None
        try:
            async with aclosing(cast("AsyncGenerator[Response]", self._inner.stream(path, requests))) as frames:
                async for frame in frames:
                    if (rest := requests.without_lost(frame)) is not None:
                        await answers.put(rest)
            for task in requests.aside:
                await task.wait()
        except RpcError as error:
            end = error
        await answers.put(end)

    def take(self, member: str | None) -> tuple[CommandKind | None, Answer | None]:
        """Return what is to be answered to a command of a frame; None as well when the store stops: no task starts then."""
        command = MEMBERS.get(member or "")
        return command, None if self._scope.stopping else self._orders.take(command, self._number)

    def aside(self, requests: _Sorter, frame: tikvpb_pb2.BatchCommandsRequest, delay_s: float) -> OwnedTask[None]:
        """Serve a frame later, beside its stream."""
        return self._scope.start("serve-later", self._serve_later, requests, frame, delay_s)

    def answer(
        self, answers: asyncio.Queue[Response | RpcError | None], frame: tikvpb_pb2.BatchCommandsResponse
    ) -> OwnedTask[None]:
        """Give an answer of our own when there is room for it."""
        return self._scope.start("answer", answers.put, frame)

    async def _serve_later(self, requests: _Sorter, frame: tikvpb_pb2.BatchCommandsRequest, delay_s: float) -> None:
        await asyncio.sleep(delay_s)
        answered = asyncio.Event()
        stream = self._inner.stream(BATCH_COMMANDS, _frames(frame, answered))
        try:
            async with aclosing(cast("AsyncGenerator[Response]", stream)) as answers:
                async for answer in answers:
                    await requests.answers.put(answer)
                    answered.set()
        except RpcError as error:
            await requests.answers.put(error)


class _Sorter:
    """The requests of one stream without the commands that get another answer: those leave here, or are lost later."""

    def __init__(
        self,
        service: AnsweringService,
        requests: AsyncIterator[Message],
        answers: asyncio.Queue[Response | RpcError | None],
    ) -> None:
        self._service = service
        self._requests = requests
        self.answers = answers
        self._lost: set[int] = set()
        """Ids of commands whose answers are to be dropped, until they have been."""
        self.aside: list[OwnedTask[None]] = []
        """What answers beside the store's stream. Grows with each answer given, which are few."""

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Message:
        while True:
            encoded = await anext(self._requests)
            frame = tikvpb_pb2.BatchCommandsRequest.FromString(encoded.SerializeToString())
            taken = [self._service.take(request.WhichOneof("cmd")) for request in frame.requests]
            if not any(answer for _, answer in taken):
                return encoded
            if (rest := self._sort(frame, taken)).requests:
                return cast("Message", encode_commands(rest))

    def _sort(
        self, frame: tikvpb_pb2.BatchCommandsRequest, taken: list[tuple[CommandKind | None, Answer | None]]
    ) -> tikvpb_pb2.BatchCommandsRequest:
        """Return the commands that the store is to serve now; see to the others."""
        rest = tikvpb_pb2.BatchCommandsRequest()
        refused = tikvpb_pb2.BatchCommandsResponse()
        for request_id, request, (command, answer) in zip(frame.request_ids, frame.requests, taken, strict=True):
            if isinstance(answer, Delay):
                late = tikvpb_pb2.BatchCommandsRequest(request_ids=[request_id], requests=[request])
                self.aside.append(self._service.aside(self, late, answer.seconds))
            elif answer is None or isinstance(answer, Lost):
                if answer is not None:
                    self._lost.add(request_id)
                rest.request_ids.append(request_id)
                rest.requests.append(request)
            else:
                assert command is not None
                assert command.member is not None
                error = answer.error(_region_of(getattr(request, command.member))).to_pb()
                response = refused.responses.add()
                getattr(response, command.member).MergeFromString(command.region_error(error))
                refused.request_ids.append(request_id)
        if refused.responses:
            self.aside.append(self._service.answer(self.answers, refused))
        return rest

    def without_lost(self, frame: Response) -> Response | None:
        """Return a frame of the store without the answers that are to be lost; None if none is left."""
        if not self._lost:
            return frame
        whole = (
            tikvpb_pb2.BatchCommandsResponse.FromString(frame)
            if isinstance(frame, bytes)
            else cast("tikvpb_pb2.BatchCommandsResponse", frame)
        )
        if self._lost.isdisjoint(whole.request_ids):
            return frame
        rest = tikvpb_pb2.BatchCommandsResponse(
            transport_layer_load=whole.transport_layer_load, health_feedback=whole.health_feedback
        )
        for request_id, response in zip(whole.request_ids, whole.responses, strict=True):
            if request_id in self._lost:
                self._lost.discard(request_id)
            else:
                rest.request_ids.append(request_id)
                rest.responses.append(response)
        return rest if rest.responses else None


async def _frames(frame: tikvpb_pb2.BatchCommandsRequest, answered: asyncio.Event) -> AsyncIterator[Message]:
    """Send one frame, and end when its answer is there: a front drops a stream at the end of its requests."""
    yield encode_commands(frame)
    await answered.wait()


def _region_of(request: Any) -> int:
    return int(request.context.region_id)
