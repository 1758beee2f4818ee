"""A store's region heartbeats to the scheduler's leader: a stream that is opened again whenever it breaks.

Heartbeats are soft state. While no stream is up they are dropped (`send_nowait` says so); when one comes up, the owner is
notified and reports all regions again.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from pytinykv.client.backoff import NO_DEADLINE
from pytinykv.client.errors import ClientClosedError, SchedulerUnavailableError
from pytinykv.client.pd.leader_finder import LeaderFinder
from pytinykv.lifecycle import Scope
from pytinykv.wire import BidiStream, Connector, RpcError
from pytinykv.wire.pb import pdpb_pb2

_log = logging.getLogger(__name__)

REGION_HEARTBEAT = "/pdpb.PD/RegionHeartbeat"
SEARCH_TIMEOUT_S = 5.0

OnResponse = Callable[[pdpb_pb2.RegionHeartbeatResponse], object]
OnConnected = Callable[[], object]


class HeartbeatStream:
    """See the module. One task, from the start until `close` or the scope's stop."""

    def __init__(
        self,
        finder: LeaderFinder,
        *,
        connector: Connector,
        scope: Scope,
        on_response: OnResponse,
        on_connected: OnConnected | None,
    ) -> None:
        self._finder = finder
        self._connector = connector
        self._on_response = on_response
        self._on_connected = on_connected
        self._stream: BidiStream | None = None
        """The open stream; set and dropped by the task alone, but for `close`."""
        self._closed = False
        """Set by `close`; the task ends then."""
        self._task = scope.start("region-heartbeats", self._run)

    @property
    def up(self) -> bool:
        """Whether a stream is open, as far as known here."""
        return self._stream is not None

    def send_nowait(self, heartbeat: pdpb_pb2.RegionHeartbeatRequest) -> bool:
        """Send one heartbeat (its header is filled in here); False if it was dropped."""
        if self._stream is None:
            return False
        heartbeat.header.CopyFrom(self._finder.header())
        try:
            self._stream.send_nowait(heartbeat)
        except RpcError as error:
            _log.debug("heartbeat of region %d dropped: %s", heartbeat.region.id, error)
            return False
        return True

    def close(self) -> None:
        """End the stream. Twice is fine."""
        self._closed = True
        self._drop_stream()
        self._task.cancel()

    async def _run(self) -> None:
        backoff = self._finder.backoff(NO_DEADLINE)
        address = ""
        while not self._closed:
            try:
                deadline = asyncio.get_running_loop().time() + SEARCH_TIMEOUT_S
                address = await self._finder.wait(deadline, self._finder.backoff(deadline))
                self._stream = self._connector.stream(address, REGION_HEARTBEAT)
                if self._on_connected is not None:
                    self._on_connected()
                while True:
                    response = await self._stream.receive()
                    backoff = self._finder.backoff(NO_DEADLINE)
                    assert isinstance(response, pdpb_pb2.RegionHeartbeatResponse)
                    self._on_response(response)
            except RpcError as error:
                _log.info("region heartbeats to %s broke: %s", address, error)
                self._finder.lose(address)
            except SchedulerUnavailableError as error:
                _log.info("region heartbeats find no scheduler: %s", error)
            except ClientClosedError:
                return
            finally:
                self._drop_stream()
            await backoff.pause()

    def _drop_stream(self) -> None:
        if self._stream is not None:
            self._stream.close()
            self._stream = None
