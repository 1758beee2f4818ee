"""tikv-python in a history that is judged: its own repetitions are part of what happened.

Our client never repeats a write whose fate it doesn't know. tikv-python (0.1, `_client.py`, `_send`) does: a `put` or
`delete` whose call failed, or was answered with `undetermined_result` or `stale_command`, is sent again until one is
answered or time is up. So one `put` may take effect several times, and the earlier sendings may do so at any later time, also
long after the call has returned and others have written: with `put(a)` sent twice, `a, b, a` is a legal order.

The model: an operation is recorded as its caller sees it, from its call to its return, and stands for the one sending that
was answered. Each sending *without* a certain answer is an operation of its own, which begins when it is sent and has no
outcome: it may take effect at any time after that, or never. That needs the sendings to be counted, not guessed, and so
they are recorded where they go out, at the client's transport. A guess of one too many would excuse a stale read; of one
too few, it would blame a store that did what it was told.

| a sending ended with                                   | it is                                       |
| ------------------------------------------------------ | ------------------------------------------- |
| a response                                             | the operation itself                        |
| a region error, but for those below                    | nothing: a store that says so did not do it |
| `undetermined_result`, `stale_command`, an unknown one | an operation without an outcome             |
| a gRPC error, but for those below                      | an operation without an outcome             |
| UNAVAILABLE since no connection could be made          | nothing: it was never sent                  |
| INVALID_ARGUMENT and the like                          | nothing: it was refused                     |

A call that raises did nothing beyond its sendings. `compare_and_swap` is sent again only after errors that certainly did
nothing, and raises `UndeterminedError` after others; the table holds for it, too. Reads have no effects, whatever becomes of
their sendings.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Final

import grpc
import tikv

from pytinykv.client.errors import StoreError
from pytinykv.simulation.checkers import CompareAndSwap
from pytinykv.simulation.history import RawHistory

_REFUSED: Final = frozenset(
    {
        grpc.StatusCode.INVALID_ARGUMENT,
        grpc.StatusCode.UNIMPLEMENTED,
        grpc.StatusCode.UNAUTHENTICATED,
        grpc.StatusCode.PERMISSION_DENIED,
    }
)
_NO_CONNECTION: Final = "failed to connect to all addresses"
_DOUBTFUL: Final = frozenset({"undetermined_result", "stale_command"})


class TheirPort:
    """The raw operations of one tikv-python client, which must not be used for anything else; a `RawPort`."""

    def __init__(self, name: str, client: tikv.AsyncRawClient, history: RawHistory) -> None:
        self._name = name
        self._client = client
        self._history = history
        self._write: tuple[str, tuple[Any, ...]] | None = None
        """The write that is going on; a client here does one thing at a time."""
        transport: Any = client._transport
        self._send = transport.call
        transport.call = self._call

    async def get(self, key: bytes, *, timeout_s: float) -> bytes | None:
        async with self._recorded(None):
            return await self._client.get(key)

    async def put(self, key: bytes, value: bytes, *, timeout_s: float, ttl: int = 0) -> None:
        assert ttl == 0, "values here stay"
        async with self._recorded(("put", (key, value))):
            await self._client.put(key, value)

    async def delete(self, key: bytes, *, timeout_s: float) -> None:
        async with self._recorded(("delete", (key,))):
            await self._client.delete(key)

    async def compare_and_swap(
        self, key: bytes, expected: bytes | None, value: bytes, *, timeout_s: float, ttl: int = 0
    ) -> CompareAndSwap:
        assert ttl == 0, "values here stay"
        async with self._recorded(("cas", (key, expected, value))):
            answer = await self._client.compare_and_swap(key, expected, value)
        return CompareAndSwap(succeeded=answer.swapped, previous=answer.previous)

    async def scan(self, start: bytes, end: bytes, *, timeout_s: float) -> list[tuple[bytes, bytes]]:
        async with self._recorded(None):
            return [pair async for pair in self._client.scan(start, end)]

    @asynccontextmanager
    async def _recorded(self, write: tuple[str, tuple[Any, ...]] | None) -> AsyncIterator[None]:
        """Record the sendings of a write. Raises StoreError, which says "no effect", for whatever else was raised."""
        assert self._write is None, "one thing at a time"
        self._write = write
        try:
            yield
        except tikv.TiKVError as error:
            raise StoreError(f"{error!r}; whatever it did is recorded with its sendings") from error
        finally:
            self._write = None

    async def _call(self, address: str, method: Any, request: Any, timeout: float) -> Any:
        """Take the place of the transport's `call`."""
        if self._write is None or not method.path.startswith("/tikvpb.Tikv/"):
            return await self._send(address, method, request, timeout)
        kind, arguments = self._write
        sending = self._history.invoke(self._name, kind, [arguments])
        may_have_happened = True
        try:
            response = await self._send(address, method, request, timeout)
            may_have_happened = response.HasField("region_error") and is_doubtful(response.region_error)
        except grpc.RpcError as error:
            may_have_happened = not was_not_done(error)
            raise
        finally:
            (self._history.lose if may_have_happened else self._history.fail)(sending)
        return response


def is_doubtful(error: Any) -> bool:
    """Return whether a store that answers with this region error may have executed the command, or may still do so."""
    kinds = {field.name for field, _ in error.ListFields()} - {"message"}
    return not kinds or not _DOUBTFUL.isdisjoint(kinds)


def was_not_done(error: Any) -> bool:
    """Return whether a call that ended with this gRPC error certainly had no effect."""
    if error.code() is grpc.StatusCode.UNAVAILABLE:
        return (error.details() or "").startswith(_NO_CONNECTION)
    return error.code() in _REFUSED
