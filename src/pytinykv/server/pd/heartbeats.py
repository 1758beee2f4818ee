"""The region heartbeat stream: reports come in, orders go out, each when it is ready.

    leader's store ──reports──► reader task ──► Scheduler ──order──┐
                                                                   ├──► Outbox ──► responses
                                             tick ──pushed order───┘

An outbox holds at most one response per region: a newer one replaces an older one that was not sent yet. So it is bounded
by the number of regions, and `push` never waits.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable

from google.protobuf.message import Message

from pytinykv.lifecycle import Scope, ScopeStoppedError
from pytinykv.scheduler.operators import Order
from pytinykv.wire import RpcError, StatusCode
from pytinykv.wire.pb import pdpb_pb2


class Outbox:
    """Responses that wait to be sent on one stream, in the order in which their regions got one."""

    def __init__(self, make_response: Callable[[Order], pdpb_pb2.RegionHeartbeatResponse]) -> None:
        self._make_response = make_response
        self._waiting: dict[int, pdpb_pb2.RegionHeartbeatResponse] = {}
        """By region; at most one each."""
        self._changed = asyncio.Event()
        """Set when something was queued or the stream was closed; cleared by `next`, the only one that waits for it."""
        self._is_closed = False
        """Set by `close`, and never unset: what is put into it then is dropped."""
        self._error: Exception | None = None
        """How the stream ends once `_waiting` is empty; None: in good order."""

    def push_order(self, order: Order) -> None:
        """Queue an order."""
        self.push(self._make_response(order))

    def push(self, response: pdpb_pb2.RegionHeartbeatResponse) -> None:
        """Queue a response, in place of an older one for the same region."""
        self._waiting[response.region_id] = response
        self._changed.set()

    def close(self, error: Exception | None = None) -> None:
        """End the stream after what is queued, with an error or in good order."""
        self._is_closed = True
        self._error = error
        self._changed.set()

    async def next(self) -> pdpb_pb2.RegionHeartbeatResponse | None:
        """Wait for a response; None at the end. Ends with the stream's caller, by cancellation. Raises the stream's error."""
        while not self._waiting:
            if self._error is not None:
                raise self._error
            if self._is_closed:
                return None
            self._changed.clear()
            await self._changed.wait()
        return self._waiting.pop(next(iter(self._waiting)))


async def serve_heartbeats(
    scope: Scope,
    requests: AsyncIterator[Message],
    outbox: Outbox,
    handle: Callable[[Message, Outbox], None],
    on_end: Callable[[], None],
) -> AsyncIterator[Message]:
    """Yield responses while a task of `scope` feeds each request to `handle`. `on_end` is called however it ends."""

    async def read() -> None:
        error: Exception | None = None
        try:
            async for request in requests:
                handle(request, outbox)
        except asyncio.CancelledError:
            # The task that serves the responses belongs to the transport: without this it would wait for ever.
            outbox.close(RpcError(StatusCode.UNAVAILABLE, "scheduler is stopping"))
            raise
        except Exception as raised:  # noqa: BLE001  raised again where the stream is served
            error = raised
        outbox.close(error)

    try:
        reader = scope.start("region-heartbeats", read)
    except ScopeStoppedError as error:
        raise RpcError(StatusCode.UNAVAILABLE, "scheduler is stopping") from error
    try:
        while (response := await outbox.next()) is not None:
            yield response
    finally:
        reader.cancel()
        on_end()
