"""A loop in a thread, for callers that have none: the synchronous face of an asynchronous object.

```
caller's thread                         the loop's thread, "<name>"
call(fn, …, timeout_s) ──► run fn(…) as a task of `scope` ──► result or error back to the caller
stop() ──────────────────► scope.stop(), loop closed, thread ended ──► the report
```

`ask` and `end` are the same for a caller that has a loop, of its own or another thread: they are awaited.

Any number of threads may call at once. Every call has a deadline; a caller that gives up (deadline, Ctrl-C) cancels its
task. After a fork the child has no such thread, so calls there raise at once instead of waiting for ever.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import os
import threading
from collections.abc import Callable, Coroutine
from typing import Any, Final, ParamSpec, TypeVar

import uvloop

from pytinykv.lifecycle.errors import LifecycleError, ScopeStoppedError
from pytinykv.lifecycle.report import StopReport
from pytinykv.lifecycle.scope import STOP_DEADLINE_S, Scope

T = TypeVar("T")
P = ParamSpec("P")

START_S: Final = 5.0
EXIT_S: Final = 2.0
"""How long closing the loop may take after its scope has stopped."""
UNOWNED_S: Final = 0.5
"""How long tasks that the scope did not start have to end by themselves; gRPC has one for each call."""
_GRACE_S: Final = 1.0
"""A call's own deadline is kept in the loop; the waiting thread allows this much more, for a loop that is blocked."""


class LoopThread:
    """An event loop in a thread of its own, with a root scope. Use `start` before anything else, `stop` at the end."""

    def __init__(
        self, name: str, *, loop_factory: Callable[[], asyncio.AbstractEventLoop] = uvloop.new_event_loop
    ) -> None:
        self.name: Final = name
        self._loop_factory: Final = loop_factory
        self._pid: Final = os.getpid()
        self._loop: asyncio.AbstractEventLoop | None = None
        """Set by the thread before `_ready`."""
        self._scope: Final = Scope(name)
        self._ready: Final = concurrent.futures.Future[None]()
        """Resolved when the loop takes calls; failed when it could not start."""
        self._stop_wanted: Final = concurrent.futures.Future[float]()
        """Resolved once, with the deadline of the stop."""
        self._report: Final = concurrent.futures.Future[StopReport]()
        """Resolved when the loop is closed."""
        self._report.set_running_or_notify_cancel()  # so that one that waits for it and is cancelled does not cancel it
        self._lock: Final = threading.Lock()
        """Held to resolve `_stop_wanted`, which several threads may want to."""
        # A daemon: one that was never stopped must not hang the interpreter's exit.
        self._thread: Final = threading.Thread(target=self._run, name=name, daemon=True)

    @property
    def scope(self) -> Scope:
        """The root scope of what runs in the loop. To be used inside the loop only."""
        return self._scope

    @property
    def running(self) -> bool:
        """Whether calls are taken: started, not stopped, and in the process that started it."""
        return self._ready.done() and not self._stop_wanted.done() and os.getpid() == self._pid

    def start(self) -> None:
        """Start the thread and its loop; returns when it takes calls.

        Raises:
            LifecycleError: the loop did not start.
        """
        self._thread.start()
        try:
            self._ready.result(START_S)
        except Exception as error:
            raise LifecycleError(f"the loop of {self.name} did not start: {error!r}") from error

    def call(
        self,
        coro_fn: Callable[P, Coroutine[Any, Any, T]],
        /,
        timeout_s: float | None,
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> T:
        """Run `coro_fn(*args, **kwargs)` in the loop and return its result, or raise its error, in the calling thread.

        Args:
            coro_fn: the coroutine function.
            timeout_s: seconds until the task is cancelled; None when `coro_fn` is known to keep a deadline of its own.
            args: for `coro_fn`.
            kwargs: for `coro_fn`.

        Raises:
            TimeoutError: `timeout_s` seconds have passed.
            ScopeStoppedError: stopped, before or meanwhile.
            LifecycleError: called in a forked child, or in the loop's own thread, which would wait for itself.
        """
        result, give_up = self._begin(lambda: coro_fn(*args, **kwargs), timeout_s)
        try:
            return result.result(None if timeout_s is None else timeout_s + _GRACE_S)
        except BaseException:
            give_up()
            raise

    async def ask(
        self,
        coro_fn: Callable[P, Coroutine[Any, Any, T]],
        /,
        timeout_s: float | None,
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> T:
        """As `call`, awaited in another loop, which goes on meanwhile."""
        result, give_up = self._begin(lambda: coro_fn(*args, **kwargs), timeout_s)
        try:
            async with asyncio.timeout(None if timeout_s is None else timeout_s + _GRACE_S):
                return await asyncio.wrap_future(result)
        except BaseException:
            give_up()
            raise

    def _begin(
        self, start: Callable[[], Coroutine[Any, Any, T]], timeout_s: float | None
    ) -> tuple[concurrent.futures.Future[T], Callable[[], None]]:
        """Start a call; return its outcome, and what its caller is to call that does not wait for it any more."""
        self._refuse_misuse()
        result: concurrent.futures.Future[T] = concurrent.futures.Future()
        result.set_running_or_notify_cancel()
        tasks: list[asyncio.Task[None]] = []
        loop = self._loop
        assert loop is not None

        def begin() -> None:
            try:
                tasks.append(self._scope.start("call", self._resolve, result, start, timeout_s).task)
            except LifecycleError as error:
                _settle(result, error)

        def give_up() -> None:
            if not result.done() and not loop.is_closed():
                loop.call_soon_threadsafe(lambda: [task.cancel() for task in tasks])

        try:
            loop.call_soon_threadsafe(begin)
        except RuntimeError:  # the loop was closed just now
            raise ScopeStoppedError(f"{self.name} is stopped") from None
        return result, give_up

    async def _resolve(
        self,
        result: concurrent.futures.Future[T],
        start: Callable[[], Coroutine[Any, Any, T]],
        timeout_s: float | None,
    ) -> None:
        """Run a coroutine within `timeout_s` seconds and give its outcome to `result`, whatever it is."""
        try:
            async with asyncio.timeout(timeout_s):
                value = await start()
        except asyncio.CancelledError:
            _settle(result, ScopeStoppedError(f"{self.name} was stopped during the call"))
            raise
        except BaseException as error:
            _settle(result, error)
            if not isinstance(error, Exception):
                raise
        else:
            result.set_result(value)

    def stop(self, deadline_s: float = STOP_DEADLINE_S) -> StopReport:
        """Stop the scope, close the loop, end the thread. Idempotent; callable from any thread but the loop's.

        Raises:
            LifecycleError: called in a forked child or in the loop's own thread, or the loop is blocked.
        """
        if os.getpid() != self._pid or self._thread is threading.current_thread():
            self._refuse_misuse()
        if self._thread.ident is None:
            return StopReport(self.name, 0.0, ())
        self.request_stop(deadline_s)
        try:
            report = self._report.result(deadline_s + EXIT_S)
        except TimeoutError:
            raise LifecycleError(f"the loop of {self.name} is blocked; it could not be stopped") from None
        self._thread.join(EXIT_S)
        return report

    async def end(self, deadline_s: float = STOP_DEADLINE_S) -> StopReport:
        """As `stop`, awaited in another loop, which goes on meanwhile.

        Raises:
            LifecycleError: as `stop`.
        """
        if os.getpid() != self._pid or self._thread is threading.current_thread():
            self._refuse_misuse()
        if self._thread.ident is None:
            return StopReport(self.name, 0.0, ())
        self.request_stop(deadline_s)
        try:
            async with asyncio.timeout(deadline_s + EXIT_S):
                report = await asyncio.wrap_future(self._report)
        except TimeoutError:
            raise LifecycleError(f"the loop of {self.name} is blocked; it could not be stopped") from None
        self._thread.join(EXIT_S)  # it has nothing left to do
        return report

    def request_stop(self, deadline_s: float = STOP_DEADLINE_S) -> None:
        """Begin to stop without waiting for it; callable any number of times, from any thread (a finalizer runs in any)."""
        with self._lock:
            if not self._stop_wanted.done():
                self._stop_wanted.set_result(deadline_s)

    def _refuse_misuse(self) -> None:
        if os.getpid() != self._pid:
            raise LifecycleError(f"{self.name} belongs to process {self._pid}; a forked child has to make its own")
        if threading.current_thread() is self._thread:
            raise LifecycleError(
                f"{self.name} was called from its own loop, which would wait for itself; await instead"
            )
        if not self.running:
            raise ScopeStoppedError(f"{self.name} is stopped, or was not started")

    def _run(self) -> None:
        try:
            with asyncio.Runner(loop_factory=self._loop_factory) as runner:
                report = runner.run(self._main())
        except BaseException as error:
            _settle(self._ready, error)
            _settle(self._report, error)
        else:
            self._report.set_result(report)

    async def _main(self) -> StopReport:
        self._loop = asyncio.get_running_loop()
        self._ready.set_result(None)
        deadline_s = await asyncio.wrap_future(self._stop_wanted)
        report = await self._scope.stop(deadline_s)
        if unowned := asyncio.all_tasks() - {asyncio.current_task()}:
            await asyncio.wait(unowned, timeout=UNOWNED_S)
        return report


def _settle(future: concurrent.futures.Future[Any], error: BaseException) -> None:
    """Give the waiting thread an error unless it has something already."""
    if not future.done():
        future.set_exception(error)
