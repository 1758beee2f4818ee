"""Answers at a port before the real service is ready, and passes calls on to it from then on.

A process binds its port first, because others must be told the address, and only then learns what it needs to serve.
Calls that come in between are answered UNAVAILABLE, which every client takes for "try again".
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from typing import TYPE_CHECKING

from pytinykv.wire import MethodSpec, Response, RpcError, Service, StatusCode, service_methods

if TYPE_CHECKING:
    from google.protobuf.message import Message


class StartupGate:
    """Serves all methods of some gRPC services: UNAVAILABLE, until `open` puts the real service behind it."""

    def __init__(self, *names: str) -> None:
        """`names` are those of the services, the main one first."""
        self.methods: Mapping[str, MethodSpec] = {
            path: spec
            for name in names
            for path, spec in service_methods(name).items()
            if spec.response_streaming or not spec.request_streaming
        }
        self._name = names[0]
        self._service: Service | None = None
        """None until `open`; set once."""

    def open(self, service: Service) -> None:
        """Let calls through from now on."""
        self._service = service

    async def unary(self, path: str, request: Message) -> Response:
        return await self._behind(path).unary(path, request)

    def stream(self, path: str, requests: AsyncIterator[Message]) -> AsyncIterator[Response]:
        return self._behind(path).stream(path, requests)

    def _behind(self, path: str) -> Service:
        if self._service is None:
            raise RpcError(StatusCode.UNAVAILABLE, f"{self._name} is starting here; try again")
        if path not in self._service.methods:
            raise RpcError(StatusCode.UNIMPLEMENTED, f"{path} is not implemented by this version")
        return self._service
