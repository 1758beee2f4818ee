"""Workers: what runs blocking work, such as a sync of a disk, outside the event loop."""

from __future__ import annotations

import asyncio
import queue
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Protocol, TypeVar

from pytinykv.lifecycle.scope import Scope

T = TypeVar("T")


class Worker(Protocol):
    """Runs blocking work outside the event loop, one piece after the other, in order."""

    def submit(self, work: Callable[[], T], on_done: Callable[[T | BaseException], None]) -> None:
        """Run `work` soon and call `on_done` on the event loop with its result or its exception.

        After the worker was stopped nothing is called any more.
        """
        ...


async def result_of(worker: Worker, work: Callable[[], T]) -> T:
    """Run `work` in the worker and return its result, or raise its exception.

    A caller that is cancelled does not stop the work; a worker that was stopped never answers, so the caller must be
    cancelled with it.
    """
    future: asyncio.Future[T] = asyncio.get_running_loop().create_future()

    def on_done(result: T | BaseException) -> None:
        if future.done():
            return
        if isinstance(result, BaseException):
            future.set_exception(result)
        else:
            future.set_result(result)

    worker.submit(work, on_done)
    return await future


class ThreadWorker:
    """A `Worker` with a thread of a scope.

    The queue needs no bound of its own: a caller waits for the result before submitting more of the same. When the
    scope stops, the piece under way is finished and its result delivered while the loop lives; the rest is not begun, and
    not kept, as it may hold files open. When the loop is closed without a stop, what was submitted before is done.
    """

    def __init__(self, scope: Scope, name: str) -> None:
        self._loop = asyncio.get_running_loop()
        self._queue: queue.SimpleQueue[tuple[Callable[[], Any], Callable[[Any], None]] | None] = queue.SimpleQueue()
        """Work and what to call with its result; None ends the thread."""
        self._is_stopped = False
        """Set by the stop, and never unset: what is still in the queue is not done."""
        self._began_at: float | None = None
        """When the piece of work under way began."""
        scope.start_thread(name, self._run, wake=self._stop)

    def submit(self, work: Callable[[], T], on_done: Callable[[T | BaseException], None]) -> None:
        """See `Worker`."""
        if not self._is_stopped:
            self._queue.put((work, on_done))

    def finish(self) -> None:
        """End the thread behind what was submitted so far. From any thread, at any point of it."""
        self._queue.put(None)

    @property
    def busy_s(self) -> float:
        """Return how long the piece of work under way has taken so far, 0.0 without one. Callable from any thread."""
        began_at = self._began_at
        return 0.0 if began_at is None else time.monotonic() - began_at

    def _stop(self) -> None:
        self._is_stopped = True
        self._queue.put(None)

    def _run(self) -> None:
        while (item := self._queue.get()) is not None and not self._is_stopped:
            work, on_done = item
            result: Any
            self._began_at = time.monotonic()
            try:
                result = work()
            except Exception as error:  # handed to the caller
                result = error
            self._began_at = None
            try:
                self._loop.call_soon_threadsafe(on_done, result)
            except RuntimeError:
                # The loop is closed: nothing waits any more, but what was submitted may let go of files.
                self.finish()
        with suppress(queue.Empty):
            while True:
                self._queue.get_nowait()


class InlineWorker:
    """A `Worker` that does the work on the spot: for tests, and for engines whose sync costs nothing."""

    def submit(self, work: Callable[[], T], on_done: Callable[[T | BaseException], None]) -> None:
        """See `Worker`."""
        try:
            result: T | BaseException = work()
        except Exception as error:  # handed to the caller
            result = error
        on_done(result)
