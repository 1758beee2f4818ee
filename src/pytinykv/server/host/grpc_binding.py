"""Puts a service that knows no transport behind a gRPC server.

    bytes ── decode ──▶ Service.unary / Service.stream ── encode ──▶ bytes
               │                  │
               │ no message       ├─ RpcError       its code and message
               ▼                  ├─ anything else  INTERNAL, with a traceback in the log (by `RpcServer`)
        INVALID_ARGUMENT          └─ not in `methods`  UNIMPLEMENTED (by gRPC)

grpc.aio answers UNKNOWN and prints a traceback when a deserializer raises. So ours never raises: it hands over a marker,
and the call fails with a clear status, as any other call may, without harm to the connection or to the calls beside it.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, Final, Self

import msgspec
from google.protobuf.message import DecodeError, Message

from pytinykv.transport.rpc import CallContext, Method, MethodKind, RpcServer
from pytinykv.wire import MethodSpec, Response, RpcError, Service, StatusCode, encoded


class _Malformed(msgspec.Struct, frozen=True):
    """What the decoder hands over instead of a message."""

    problem: str


_Decoded = Message | _Malformed


def bind_service(server: RpcServer, service: Service) -> None:
    """Serve all methods of `service` on `server`, which has not started yet.

    Methods that stream requests but not responses can't be bound: `Service` has no form for them.
    """
    by_service: dict[str, list[Method]] = {}
    for spec in service.methods.values():
        by_service.setdefault(spec.service_name, []).append(_method(service, spec))
    for name, methods in by_service.items():
        server.add_service(name, methods)


def _method(service: Service, spec: MethodSpec) -> Method:
    assert spec.response_streaming or not spec.request_streaming, f"{spec.path} streams requests only"
    handler: Callable[[Any, CallContext], Any]
    if spec.request_streaming:
        kind, handler = MethodKind.STREAM_STREAM, _stream_handler(service, spec)
    elif spec.response_streaming:
        kind, handler = MethodKind.UNARY_STREAM, _one_to_stream_handler(service, spec)
    else:
        kind, handler = MethodKind.UNARY_UNARY, _unary_handler(service, spec)
    return Method(
        name=spec.method_name,
        kind=kind,
        deserialize=_decoder(spec),
        serialize=encoded,
        handler=handler,
    )


def _decoder(spec: MethodSpec) -> Callable[[bytes], _Decoded]:
    parse = spec.request_type.FromString
    name: Final = spec.request_type.DESCRIPTOR.full_name

    def decode(data: bytes) -> _Decoded:
        try:
            return parse(data)
        except DecodeError as error:
            return _Malformed(f"{spec.path}: the request's {len(data)} bytes are no {name}: {error}")

    return decode


def _checked(decoded: _Decoded) -> Message:
    if isinstance(decoded, _Malformed):
        raise RpcError(StatusCode.INVALID_ARGUMENT, decoded.problem)
    return decoded


def _unary_handler(service: Service, spec: MethodSpec) -> Callable[[_Decoded, CallContext], Awaitable[Response]]:
    path = spec.path

    async def handle(request: _Decoded, _: CallContext) -> Response:
        return await service.unary(path, _checked(request))

    return handle


def _stream_handler(
    service: Service, spec: MethodSpec
) -> Callable[[AsyncIterator[_Decoded], CallContext], AsyncIterator[Response]]:
    path = spec.path

    def handle(requests: AsyncIterator[_Decoded], _: CallContext) -> AsyncIterator[Response]:
        return service.stream(path, _CheckedRequests(requests))

    return handle


def _one_to_stream_handler(
    service: Service, spec: MethodSpec
) -> Callable[[_Decoded, CallContext], AsyncIterator[Response]]:
    path = spec.path

    def handle(request: _Decoded, _: CallContext) -> AsyncIterator[Response]:
        return service.stream(path, _OneRequest(request))

    return handle


# Requests come through classes and not through generators: a service may stop reading before their end, and a generator
# that is left half-read is closed later, by a task that has no owner.


class _CheckedRequests:
    """The caller's requests; the first that is no message raises `RpcError`."""

    __slots__ = ("_requests",)

    def __init__(self, requests: AsyncIterator[_Decoded]) -> None:
        self._requests: Final = aiter(requests)

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Message:
        return _checked(await anext(self._requests))


class _OneRequest:
    """The only request of a call that streams nothing but its responses."""

    __slots__ = ("_request",)

    def __init__(self, request: _Decoded) -> None:
        self._request: _Decoded | None = request
        """None once it was taken."""

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Message:
        request, self._request = self._request, None
        if request is None:
            raise StopAsyncIteration
        return _checked(request)
