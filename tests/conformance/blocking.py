"""A blocking client that looks like an asynchronous one, so that a story is written once: each call runs in a thread."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Generator
from typing import Any, Self

import pytinykv


async def in_thread(function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """Run a function in a thread of its own: a pool could be full of calls that wait for one that has no thread."""
    loop = asyncio.get_running_loop()
    future: asyncio.Future[Any] = loop.create_future()

    def settle(set_outcome: Callable[[Any], None], outcome: Any) -> None:
        if not future.done():
            set_outcome(outcome)

    def run() -> None:
        try:
            result = function(*args, **kwargs)
        except StopIteration as error:
            loop.call_soon_threadsafe(settle, future.set_exception, RuntimeError(repr(error)))
        except BaseException as error:  # noqa: BLE001 - the awaiting task raises it
            loop.call_soon_threadsafe(settle, future.set_exception, error)
        else:
            loop.call_soon_threadsafe(settle, future.set_result, result)

    thread = threading.Thread(target=run)
    thread.start()
    try:
        return await future
    finally:
        thread.join()


class Blocking:
    """Passes calls on to a blocking object; what it returns is awaited."""

    def __init__(self, inner: Any) -> None:
        self._inner = inner

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._inner, name)
        if not callable(found):
            return found

        async def call(*args: Any, **kwargs: Any) -> Any:
            return await in_thread(found, *args, **kwargs)

        return call


class BlockingReads(Blocking):
    """A transaction or a snapshot; made by `make` when it is entered or awaited."""

    def __init__(self, make: Callable[[], Any]) -> None:
        super().__init__(None)
        self._make = make

    async def begin(self) -> Self:
        if self._inner is None:
            self._inner = await in_thread(self._make)
        return self

    def __await__(self) -> Generator[Any, None, Self]:
        return self.begin().__await__()

    async def __aenter__(self) -> Self:
        await self.begin()
        await in_thread(self._inner.__enter__)
        return self

    async def __aexit__(self, *exc: object) -> None:
        await in_thread(self._inner.__exit__, *exc)

    def scan(self, *args: Any, **kwargs: Any) -> AsyncIterator[Any]:
        return _walk(self._inner.scan(*args, **kwargs))


class BlockingRaw(Blocking):
    def scan(self, *args: Any, **kwargs: Any) -> AsyncIterator[Any]:
        return _walk(self._inner.scan(*args, **kwargs))


class BlockingClient(Blocking):
    """A `pytinykv.Client` with the face of an asynchronous one."""

    def __init__(self, client: pytinykv.Client) -> None:
        super().__init__(client)

    @property
    def raw(self) -> BlockingRaw:
        return BlockingRaw(self._inner.raw)

    def transaction(self, **options: Any) -> BlockingReads:
        return BlockingReads(lambda: self._inner.transaction(**options))

    def snapshot(self, *args: Any, **options: Any) -> BlockingReads:
        return BlockingReads(lambda: self._inner.snapshot(*args, **options))

    async def run(self, function: Callable[[Any], Awaitable[Any]], **options: Any) -> Any:
        def blocking(txn: pytinykv.Transaction) -> Any:
            async def run() -> Any:
                return await function(Inline(txn))

            return asyncio.run(run())

        return await in_thread(self._inner.run, blocking, **options)


class Inline:
    """As `Blocking`, in the thread of the caller."""

    def __init__(self, inner: Any) -> None:
        self._inner = inner

    def __getattr__(self, name: str) -> Any:
        async def call(*args: Any, **kwargs: Any) -> Any:
            return getattr(self._inner, name)(*args, **kwargs)

        return call


async def _walk(scan: Any) -> AsyncIterator[Any]:
    end = object()
    while (pair := await in_thread(next, scan, end)) is not end:
        yield pair
