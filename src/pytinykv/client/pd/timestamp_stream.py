"""Timestamps over one `Tso` stream: callers that come while a request is under way share the next one.

    get(1) ─┐                       ┌► [t1]
    get(3) ─┼─► one TsoRequest(5) ──┼► [t2 t3 t4]      the answer names the last of the batch: t5
    get(1) ─┘                       └► [t5]

One request is under way at a time, so an answer always belongs to the batch at hand, and a broken stream loses only
timestamps that no caller has seen: the batch is asked for again. One timer keeps the deadlines of all callers.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque

from pytinykv.client.backoff import NO_DEADLINE, Backoff
from pytinykv.client.deadlines import DeadlineTimer
from pytinykv.client.errors import ClientClosedError, ClientError, SchedulerError, SchedulerUnavailableError
from pytinykv.client.pd.leader_finder import LeaderFinder
from pytinykv.lifecycle import Scope
from pytinykv.wire import BidiStream, Connector, RpcError, StatusCode
from pytinykv.wire.pb import pdpb_pb2
from pytinykv.wire.timestamp import LOGICAL_MAX, Timestamp, compose

_log = logging.getLogger(__name__)

TSO = "/pdpb.PD/Tso"
BATCH_COUNT_MAX = 10_000
ANSWER_TIMEOUT_S = 3.0
SEARCH_TIMEOUT_S = 5.0
"""Deadline of a search for the leader; the callers have deadlines of their own."""

_Waiter = tuple[int, "asyncio.Future[list[Timestamp]]", float]
"""How many timestamps, who gets them, and until when (loop time)."""


class TimestampStream:
    """See the module. Runs one task while a caller waits, none otherwise."""

    def __init__(self, finder: LeaderFinder, *, connector: Connector, scope: Scope) -> None:
        self._finder = finder
        self._connector = connector
        self._scope = scope
        self._waiting: deque[_Waiter] = deque()
        """Callers that no request has been sent for."""
        self._batch: list[_Waiter] = []
        """Callers that the request under way is for."""
        self._stream: BidiStream | None = None
        """The stream to the scheduler's leader; None before the first request and after each failure. The task opens it;
        it and `close` end it."""
        self._stream_address = ""
        """The endpoint that `_stream` leads to."""
        self._running = False
        """Whether the task runs."""
        self._closed = False
        """Set by `close`, and never unset: callers are refused, and the task ends."""
        self._last = 0
        """The greatest timestamp received, packed; every later one must be greater."""
        self._loop = asyncio.get_running_loop()
        self._deadlines = DeadlineTimer(self._loop, self._expire)

    def get(self, count: int, deadline: float) -> asyncio.Future[list[Timestamp]]:
        """Return a future of `count` ascending timestamps; it raises `SchedulerUnavailableError` at `deadline` (loop time).

        Raises `SchedulerError` for a count that is too large, `ClientClosedError` once it is closed.
        """
        if count > LOGICAL_MAX:
            raise SchedulerError(f"{count} timestamps at once are too many; at most {LOGICAL_MAX}")
        if self._closed:
            raise ClientClosedError("the client is closed; make a new one")
        future: asyncio.Future[list[Timestamp]] = self._loop.create_future()
        self._waiting.append((count, future, deadline))
        if not self._running and not self._scope.stopping:
            self._running = True
            self._scope.start("timestamps", self._run)
        self._deadlines.watch(deadline)
        return future

    def close(self) -> None:
        """Fail all waiting calls."""
        self._closed = True
        self._deadlines.stop()
        self._drop_stream()
        self._fail_all(ClientClosedError("the client was closed"))

    def _expire(self, due: float) -> float | None:
        """Fail the callers whose time is up; return the earliest deadline of the others."""
        callers = [waiter for waiter in (*self._batch, *self._waiting) if not waiter[1].done()]
        late = [waiter for waiter in callers if waiter[2] <= due]
        if late:
            text = f"no timestamp in time from {self._finder!r}; check that a scheduler runs there"
            for _, future, _ in late:
                future.set_exception(SchedulerUnavailableError(text))
        return min((deadline for _, _, deadline in callers if deadline > due), default=None)

    async def _run(self) -> None:
        try:
            while not self._closed and (batch := self._next_batch()):
                self._batch = batch
                await self._serve(batch)
        finally:
            self._running = False
            if self._scope.stopping:
                self.close()

    def _next_batch(self) -> list[_Waiter]:
        batch: list[_Waiter] = []
        total = 0
        while self._waiting and (not batch or total + self._waiting[0][0] <= BATCH_COUNT_MAX):
            waiter = self._waiting.popleft()
            if not waiter[1].done():
                batch.append(waiter)
                total += waiter[0]
        return batch

    async def _serve(self, batch: list[_Waiter]) -> None:
        backoff = self._finder.backoff(NO_DEADLINE)
        count = sum(waiter[0] for waiter in batch)
        while batch and not self._closed:
            try:
                timestamps = await self._request(count, backoff)
            except (RpcError, TimeoutError) as error:
                _log.info("timestamps from %s failed: %s", self._stream_address, error)
                self._drop_stream()
                self._finder.lose(self._stream_address)
                await backoff.pause()
            except SchedulerUnavailableError as error:
                _log.info("%s", error)
            except ClientError as error:
                _fail(batch, error)
                return
            else:
                _hand_out(batch, timestamps)
                return
            batch = [waiter for waiter in batch if not waiter[1].done()]
        _fail(batch, ClientClosedError("the client was closed"))

    async def _request(self, count: int, backoff: Backoff) -> range:
        """Ask for `count` timestamps and return them as packed integers."""
        loop = asyncio.get_running_loop()
        address = await self._finder.wait(loop.time() + SEARCH_TIMEOUT_S, backoff)
        if self._stream is None or address != self._stream_address:
            self._drop_stream()
            self._stream_address = address
            self._stream = self._connector.stream(address, TSO)
        async with asyncio.timeout(ANSWER_TIMEOUT_S):
            self._stream.send_nowait(pdpb_pb2.TsoRequest(header=self._finder.header(), count=count))
            reply = await self._stream.receive()
        assert isinstance(reply, pdpb_pb2.TsoResponse)
        if reply.header.HasField("error") and reply.header.error.type != pdpb_pb2.OK:
            raise RpcError(StatusCode.UNAVAILABLE, reply.header.error.message)
        return self._unpack(reply, count)

    def _unpack(self, reply: pdpb_pb2.TsoResponse, count: int) -> range:
        if reply.count != count:
            raise RpcError(StatusCode.INTERNAL, f"asked for {count} timestamps, got {reply.count}")
        last = compose(reply.timestamp.physical, reply.timestamp.logical)
        first = last - count + 1
        if first <= self._last:
            raise SchedulerError(
                f"the scheduler at {self._stream_address} went back in time: timestamp {first} after {self._last}"
            )
        self._last = last
        return range(first, last + 1)

    def _drop_stream(self) -> None:
        if self._stream is not None:
            self._stream.close()
            self._stream = None

    def _fail_all(self, error: ClientError) -> None:
        _fail(self._batch, error)
        _fail(self._waiting, error)
        self._waiting.clear()


def _hand_out(batch: list[_Waiter], timestamps: range) -> None:
    at = 0
    for count, future, _ in batch:
        if not future.done():
            future.set_result([Timestamp(value) for value in timestamps[at : at + count]])
        at += count


def _fail(waiters: list[_Waiter] | deque[_Waiter], error: ClientError) -> None:
    for _, future, _ in waiters:
        if not future.done():
            future.set_exception(error)
