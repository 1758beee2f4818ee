"""The connector over gRPC: one channel for each address, made at the first call to it."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any

from google.protobuf.message import Message

from pytinykv.client.errors import ClientForkedError
from pytinykv.lifecycle import LifecycleError, Scope
from pytinykv.transport.rpc import ForkedEngineError, RpcChannel, RpcStream, refuse_forked
from pytinykv.wire import BidiStream, MethodSpec, RpcError, StatusCode, encoded, service_methods


@functools.cache
def _methods() -> Mapping[str, MethodSpec]:
    names = ("pdpb.PD", "pytinykv.adminpb.Admin", "tikvpb.Tikv", "deadlock.Deadlock")
    return {path: spec for name in names for path, spec in service_methods(name).items()}


class GrpcConnector:
    """Implements `wire.Connector` over the channels of one scope."""

    def __init__(self, scope: Scope) -> None:
        """Raises `ClientForkedError` in a child of a process that had used gRPC before it forked."""
        try:
            refuse_forked()
        except ForkedEngineError as error:
            raise ClientForkedError(str(error)) from None
        self._scope = scope
        self._channels: dict[str, RpcChannel] = {}
        """By address; one that was closed is replaced at its next use."""
        self._closed = False
        """Set by `close`, and never unset: no call begins any more."""

    async def unary(self, address: str, path: str, request: Message, *, timeout_s: float) -> Message:
        """Make one call; see `wire.Connector`."""
        spec = _methods()[path]
        try:
            response: Message = await self._channel(address).unary(
                path,
                request,
                serialize=spec.request_type.SerializeToString,
                deserialize=spec.response_type.FromString,
                timeout_s=timeout_s,
            )
        except (RpcError, LifecycleError) as error:
            raise self._rpc_error(error) from None
        return response

    def stream(self, address: str, path: str) -> BidiStream:
        """Open a stream; see `wire.Connector`."""
        spec = _methods()[path]
        try:
            stream: RpcStream[Message | bytes, Message] = self._channel(address).stream_stream(
                path, serialize=encoded, deserialize=spec.response_type.FromString
            )
        except (RpcError, LifecycleError) as error:
            return _NoStream(self._rpc_error(error))
        return _Stream(stream)

    async def close(self) -> None:
        """Close all channels; see `wire.Connector`."""
        self._closed = True
        while self._channels:
            _, channel = self._channels.popitem()
            await channel.close()

    def _channel(self, address: str) -> RpcChannel:
        if self._closed:
            raise RpcError(StatusCode.CANCELLED, "the connector is closed")
        channel = self._channels.get(address)
        if channel is None or channel.closed:
            channel = self._channels[address] = RpcChannel(self._scope, address)
        return channel

    def _rpc_error(self, error: RpcError | LifecycleError) -> RpcError:
        if self._closed:
            return RpcError(StatusCode.CANCELLED, "the connector was closed")
        return error if isinstance(error, RpcError) else RpcError(StatusCode.UNAVAILABLE, str(error))


class _Stream:
    """A `wire.BidiStream` over an `RpcStream`."""

    def __init__(self, stream: RpcStream[Any, Any]) -> None:
        self._stream = stream
        self._closed = False
        """Set by `close` on this side, to tell its own end from a broken one."""

    def send_nowait(self, message: Message | bytes) -> None:
        try:
            self._stream.send_nowait(message)
        except RpcError as error:
            raise self._error(error) from None

    def is_drained(self, otherwise: Callable[[], object]) -> bool:
        return self._stream.is_drained(otherwise)

    async def receive(self) -> Message:
        try:
            message: Message = await self._stream.receive()
        except RpcError as error:
            raise self._error(error) from None
        return message

    def close(self) -> None:
        self._closed = True
        self._stream.close()

    def _error(self, error: RpcError) -> RpcError:
        return RpcError(StatusCode.CANCELLED, "the stream was closed") if self._closed else error


class _NoStream:
    """A stream that could not be opened."""

    def __init__(self, error: RpcError) -> None:
        self._error = error

    def send_nowait(self, message: Message | bytes) -> None:
        raise self._error

    def is_drained(self, otherwise: Callable[[], object]) -> bool:
        del otherwise
        return True

    async def receive(self) -> Message:
        raise self._error

    def close(self) -> None:
        """There is nothing to close."""
