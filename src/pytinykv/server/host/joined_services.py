"""Several services behind one port, as one: each call goes to the one that has its method."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from typing import TYPE_CHECKING

from pytinykv.wire import MethodSpec, Response, Service

if TYPE_CHECKING:
    from google.protobuf.message import Message


class JoinedServices:
    """A `wire.Service` of others, which have no method in common."""

    def __init__(self, *services: Service) -> None:
        self._by_path = {path: service for service in services for path in service.methods}
        self.methods: Mapping[str, MethodSpec] = {
            path: spec for service in services for path, spec in service.methods.items()
        }

    async def unary(self, path: str, request: Message) -> Response:
        return await self._by_path[path].unary(path, request)

    def stream(self, path: str, requests: AsyncIterator[Message]) -> AsyncIterator[Response]:
        return self._by_path[path].stream(path, requests)
