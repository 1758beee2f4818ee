"""Tasks and threads of scopes: handles to wait on, to cancel, to explain. `Scope.start` and `start_thread` make them."""

from __future__ import annotations

import asyncio
import concurrent.futures
import logging
import threading
from collections.abc import Callable
from typing import Any, Final, Generic, TypeVar

from pytinykv.lifecycle.errors import TaskCancelledError
from pytinykv.lifecycle.report import Leak, LeakKind
from pytinykv.waitgraph import Aspect, CallSite, Label, Wait, explains_wait
from pytinykv.waitgraph.stacks import await_chain, thread_stack

T = TypeVar("T")

_log = logging.getLogger(__name__)

THREAD_EXIT_S: Final = 0.5
"""How long the last instructions of a thread may take after its target has returned."""


class OwnedTask(Generic[T]):
    """A task of a scope. The scope holds it strongly and ends it; others may wait for it or cancel it."""

    __slots__ = ("name", "started_at", "started_s", "task")

    def __init__(self, name: str, task: asyncio.Task[T], started_at: CallSite, started_s: float) -> None:
        self.name: Final = name
        self.task: Final = task
        self.started_at: Final = started_at
        self.started_s: Final = started_s
        """In the time of its loop."""

    @property
    def done(self) -> bool:
        """Whether the task has ended, by result, error or cancellation."""
        return self.task.done()

    @property
    def error(self) -> BaseException | None:
        """What the task raised; None while it runs, after a result and after a cancellation."""
        if not self.task.done() or self.task.cancelled():
            return None
        return self.task.exception()

    def cancel(self, reason: str | None = None) -> bool:
        """Ask the task to end; returns whether there was anything to cancel. Does not wait."""
        return self.task.cancel(reason)

    async def wait(self, timeout_s: float | None = None) -> T:
        """Wait until the task ends and return its result; being cancelled here does not cancel the task.

        Raises:
            TimeoutError: it did not end in `timeout_s` seconds of loop time; it goes on.
            TaskCancelledError: it was cancelled.
            Exception: whatever the task raised.
        """
        await asyncio.wait((self.task,), timeout=timeout_s)
        if not self.task.done():
            raise TimeoutError(f"task {self.name} did not end within {timeout_s} s")
        if self.task.cancelled():
            raise TaskCancelledError(f"task {self.name} was cancelled")
        return self.task.result()

    def label(self) -> Label:
        """Describe the task for the wait-for graph."""
        return Label(self.task, self.name, self.started_at, self.started_s, handles=(self,))

    def as_leak(self) -> Leak:
        """Describe the task as something left behind."""
        return Leak(LeakKind.TASK, self.name, self.started_at, await_chain(self.task))

    def __repr__(self) -> str:
        return f"<OwnedTask {self.name} {'done' if self.done else 'running'} started at {self.started_at}>"


class OwnedThread:
    """A thread of a scope. Its target returns by itself once `wake` was called; nothing can make it."""

    __slots__ = ("_finished", "_wake", "name", "started_at", "thread")

    def __init__(
        self,
        name: str,
        target: Callable[..., object],
        args: tuple[Any, ...],
        *,
        wake: Callable[[], object] | None,
        started_at: CallSite,
        on_error: Callable[[str, BaseException], None],
    ) -> None:
        self.name: Final = name
        self.started_at: Final = started_at
        self._wake: Final = wake
        self._finished: Final = concurrent.futures.Future[None]()
        """Resolved when the target is over."""
        self._finished.set_running_or_notify_cancel()

        def run() -> None:
            try:
                target(*args)
            except BaseException as error:  # the thread ends here either way; the owner is told
                on_error(name, error)
            finally:
                _log.debug("thread %s ended", name)
                self._finished.set_result(None)

        # A daemon, so that a thread that does not return cannot keep a forced exit from happening.
        self.thread: Final = threading.Thread(target=run, name=name, daemon=True)

    @property
    def done(self) -> bool:
        """Whether the target has returned or raised."""
        return self._finished.done()

    def add_done_callback(self, callback: Callable[[OwnedThread], None]) -> None:
        """Call `callback` when the target is over, in that thread; at once if it already is."""
        self._finished.add_done_callback(lambda _: callback(self))

    def wake(self) -> None:
        """Tell the target to return; what `wake` raises is the caller's to handle. Does not wait."""
        if self._wake is not None:
            self._wake()

    @explains_wait(lambda variables: Wait(Aspect.END, (variables["self"],)))
    async def wait(self, timeout_s: float | None = None) -> bool:
        """Wait until the thread has ended, at most `timeout_s` seconds of loop time; return whether it has."""
        if not self._finished.done():
            finished = asyncio.wrap_future(self._finished)
            try:
                await asyncio.wait((finished,), timeout=timeout_s)
            finally:
                finished.cancel()  # a thread that ends much later must not call into this loop
        if not self._finished.done():
            return False
        if self.thread is not threading.current_thread():
            self.thread.join(THREAD_EXIT_S)  # the target is over: this is the microseconds of its last instructions
        return True

    def label(self) -> Label:
        """Describe the thread for the wait-for graph."""
        return Label(self.thread, self.name, self.started_at, handles=(self, self._finished))

    def as_leak(self) -> Leak:
        """Describe the thread as something left behind."""
        return Leak(LeakKind.THREAD, self.name, self.started_at, thread_stack(self.thread))

    def __repr__(self) -> str:
        return f"<OwnedThread {self.name} {'done' if self.done else 'running'} started at {self.started_at}>"
