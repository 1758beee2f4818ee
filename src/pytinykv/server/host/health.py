"""The health service of every port (`grpc.health.v1.Health`).

    ""               the server as a whole: serving while every service is
    "tikvpb.Tikv"    one entry for each service the port serves

Everything starts as not serving, and is not serving again, for good, once the stop has begun: then the watchers get their
last message and their streams end, so that they don't hold up the stop. Some clients call a store dead if it does not say
SERVING here after a failed call; probes of deployments ask too.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable, Mapping
from typing import Final

from google.protobuf.message import Message

from pytinykv.wire import MethodSpec, RpcError, StatusCode, service_methods
from pytinykv.wire.pb.healthpb_pb2 import (
    HealthCheckRequest,
    HealthCheckResponse,
    HealthListRequest,
    HealthListResponse,
)

_SERVICE: Final = "grpc.health.v1.Health"
_CHECK: Final = f"/{_SERVICE}/Check"
_LIST: Final = f"/{_SERVICE}/List"
_WATCH: Final = f"/{_SERVICE}/Watch"


class HealthService:
    """A `wire.Service` that answers for the other services of its port."""

    def __init__(self, services: Iterable[str]) -> None:
        """Answer for `services` ("tikvpb.Tikv"), none of them serving yet."""
        self.methods: Final[Mapping[str, MethodSpec]] = service_methods(_SERVICE)
        self._serving: Final = dict.fromkeys(services, False)
        """By service; the names are fixed. No more changes once the stop has begun."""
        self._stopping = False
        """Set by the stop, and never unset: everything is NOT_SERVING then, and watchers end."""
        self._changed = asyncio.Event()
        """Set, and replaced by a new one, at each change: the watchers that took it before wake up."""

    def set_serving(self, service: str, serving: bool) -> None:  # noqa: FBT001 - the value that is set
        """Say whether `service` serves. Without effect once the stop has begun."""
        assert service in self._serving, f"{service} is not one of this port's services"
        if not self._stopping and self._serving[service] != serving:
            self._serving[service] = serving
            self._tell_watchers()

    def set_all_serving(self) -> None:
        """Say that the whole port serves."""
        for service in self._serving:
            self.set_serving(service, serving=True)

    def begin_stop(self) -> None:
        """Say that nothing serves any more, and end the watchers' streams. Idempotent."""
        self._stopping = True
        self._tell_watchers()

    async def unary(self, path: str, request: Message) -> Message:
        """Answer Check and List."""
        if path == _LIST:
            assert isinstance(request, HealthListRequest)
            names = ["", *self._serving]
            return HealthListResponse(statuses={name: HealthCheckResponse(status=self._status(name)) for name in names})
        assert path == _CHECK
        assert isinstance(request, HealthCheckRequest)
        status = self._status(request.service)
        if status == HealthCheckResponse.SERVICE_UNKNOWN:
            raise RpcError(StatusCode.NOT_FOUND, f"this port does not serve {request.service!r}")
        return HealthCheckResponse(status=status)

    async def stream(self, path: str, requests: AsyncIterator[Message]) -> AsyncIterator[Message]:
        """Answer Watch: the status now, then each change, until the caller goes or the stop begins."""
        assert path == _WATCH
        request = await anext(requests)
        assert isinstance(request, HealthCheckRequest)
        told: HealthCheckResponse.ServingStatus | None = None
        while True:
            # Taken together, before the yield: much can change until the caller has taken the message.
            changed, last, status = self._changed, self._stopping, self._status(request.service)
            if status != told:
                told = status
                yield HealthCheckResponse(status=status)
            if last:
                return
            await changed.wait()

    def _status(self, service: str) -> HealthCheckResponse.ServingStatus:
        if service == "":
            serving = all(self._serving.values())
        elif service in self._serving:
            serving = self._serving[service]
        else:
            return HealthCheckResponse.SERVICE_UNKNOWN
        return HealthCheckResponse.SERVING if serving and not self._stopping else HealthCheckResponse.NOT_SERVING

    def _tell_watchers(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()
