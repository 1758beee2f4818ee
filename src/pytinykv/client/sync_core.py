"""How a blocking call gets into the asynchronous core and back: one loop thread per client, shared by all callers.

    caller's thread                                   loop thread
    command ──► calls (deque) ──wake, if none is due──► drain: submit each to its store, all of one wake in one frame
    wait on the call's lock ◄────────reply, decode───── future of the store connection

A single-key operation costs no task; only what needs a second attempt, or is no single command, runs as one.

Invariants:

1. Every call ends: the core keeps its deadline, a closing client resolves it, and a caller whose loop is blocked gives up
   by itself a little later.
2. Nothing here waits in a process that did not start the loop.
3. At the interpreter's exit, clients left open are closed, with a ResourceWarning; calls of daemon threads end with
   `ClientClosedError`.
"""

from __future__ import annotations

import asyncio
import atexit
import inspect
import logging
import threading
import warnings
import weakref
from collections import deque
from collections.abc import Callable, Coroutine, Iterable
from random import Random
from typing import Any, Generic, TypeVar, cast

from pytinykv.client.async_client import AsyncClient
from pytinykv.client.attempts import FAILURES, Failure
from pytinykv.client.commands import Command, Effect
from pytinykv.client.config import ClientConfig
from pytinykv.client.core import AsyncParts, Work
from pytinykv.client.errors import (
    ClientClosedError,
    ClientError,
    CutOffWriteError,
    DeadlineExceededError,
    UndeterminedError,
)
from pytinykv.client.origin import ProcessOrigin
from pytinykv.lifecycle import LifecycleError, LoopThread, Scope
from pytinykv.wire import Connector

_log = logging.getLogger(__name__)

_T = TypeVar("_T")
ConnectorFactory = Callable[[Scope], Connector]
_Work = Command[_T] | Work[_T]

LOOP_GRACE_S = 5.0
"""How long a caller waits past its deadline for a loop that is blocked."""
EXIT_STOP_S = 2.0


class _Call(Generic[_T]):
    """One blocking call. `done` is a lock held until the outcome is there: the cheapest thing to wait for."""

    __slots__ = ("cancelled", "done", "effect", "error", "task", "timeout_s", "value", "work")

    def __init__(self, work: _Work[_T], timeout_s: float | None, effect: Effect) -> None:
        self.work = work
        self.effect = effect
        """What is to be said of its outcome if that never becomes known."""
        self.timeout_s = timeout_s
        self.value: _T | None = None
        """The result; set by the loop before it releases `done`."""
        self.error: BaseException | None = None
        """Set in place of `value`."""
        self.task: asyncio.Task[None] | None = None
        """The task that runs it, if it needs one; set by the loop."""
        self.cancelled = False
        """Set by the caller that has given it up: the loop does not begin it then."""
        self.done = threading.Lock()
        """Held from the start; released once, by the loop, when `value` or `error` is set."""
        self.done.acquire()

    def resolve(self, value: _T) -> None:
        if self.done.locked():
            self.value = value
            self.done.release()

    def fail(self, error: BaseException) -> None:
        if self.done.locked():
            self.error = error
            self.done.release()


class SyncCore:
    """The loop thread of one client and the way into it. Thread-safe, but for the methods that begin with `_on_loop`."""

    def __init__(
        self,
        addresses: str | Iterable[str],
        *,
        config: ClientConfig,
        connector: ConnectorFactory,
        timeout: float | None,
    ) -> None:
        """Start the loop and find the scheduler. Raises `SchedulerUnavailableError`; then nothing is left running."""
        config.validate()
        self.config = config
        self._origin = ProcessOrigin()
        self._calls: deque[_Call[Any]] = deque()
        """Calls on their way from callers' threads to the loop."""
        self._wake_due = False
        """Whether the loop has been asked to look at `_calls`. Set by callers, cleared by the loop before it looks."""
        self._closed = False
        """Set once, by `close`, `abandon`, or a caller that finds the loop closed."""
        self._thread = LoopThread("tinykv-client")
        self._thread.start()

        async def make() -> tuple[asyncio.AbstractEventLoop, AsyncClient]:
            scope = self._thread.scope
            client = AsyncClient(addresses, connector=connector(scope), rng=Random(), scope=scope, config=config)
            return asyncio.get_running_loop(), client

        try:
            self._loop, self.client = self._thread.call(make, config.timeout_s)
            _open_cores.add(self)
            self.run(lambda _: self.client.open(timeout), timeout)
        except BaseException:
            self.close()
            raise

    def __repr__(self) -> str:
        return repr(self.client.scheduler)

    @property
    def closed(self) -> bool:
        """Whether calls are refused."""
        return self._closed

    # --- in the caller's thread ---------------------------------------------------------------------------------

    def run_command(self, command: Command[_T], timeout_s: float | None) -> _T:
        """Run a command in the loop; return its result or raise its error."""
        return self._run(_Call(command, timeout_s, command.effect))

    def run(
        self,
        work: Work[_T],
        timeout_s: float | None,
        effect: Effect = Effect.READ,
    ) -> _T:
        """Run a coroutine, which keeps `timeout_s` itself, in the loop; return its result or raise its error."""
        return self._run(_Call(work, timeout_s, effect))

    def run_coroutine(
        self, coroutine: Coroutine[Any, Any, _T], timeout_s: float | None, effect: Effect = Effect.READ
    ) -> _T:
        """As `run`, for a coroutine that is there already; it is closed if it can't be run."""
        try:
            return self._run(_Call(lambda _: coroutine, timeout_s, effect))
        finally:
            if inspect.getcoroutinestate(coroutine) == inspect.CORO_CREATED:
                coroutine.close()

    def run_plain(self, function: Callable[[AsyncParts], _T]) -> _T:
        """Return the result of a function that does not wait, called in the loop."""

        async def work(client: AsyncParts) -> _T:
            return function(client)

        return self._run(_Call(work, None, Effect.READ))

    def _run(self, call: _Call[_T]) -> _T:
        self._refuse()
        timeout_s = call.timeout_s
        self._calls.append(call)
        if not self._wake_due:
            self._wake_due = True
            self._wake()
        if self._closed:
            self._fail_leftovers()
        try:
            limit_s = (self.config.timeout_s if timeout_s is None else timeout_s) + LOOP_GRACE_S
            if not call.done.acquire(timeout=limit_s):
                self._cancel(call)
                raise _stuck(call, limit_s)
        except BaseException:
            self._cancel(call)
            raise
        if call.error is not None:
            try:
                raise call.error
            finally:
                call.error = None  # no cycle of error, traceback, frame and call
        return cast("_T", call.value)

    def _refuse(self) -> None:
        self._origin.check()
        if self._closed:
            raise ClientClosedError("the client is closed; make a new one")

    def _wake(self) -> None:
        try:
            self._loop.call_soon_threadsafe(self._on_loop_drain)
        except RuntimeError:  # the loop is closed
            self._closed = True

    def _cancel(self, call: _Call[Any]) -> None:
        """Give a call up (Ctrl-C, or a loop that is blocked)."""
        call.cancelled = True
        if call.task is not None and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(call.task.cancel)

    def close(self) -> None:
        """Stop the loop; resolve all calls. Any number of times, from any thread; in a forked child only forget."""
        self._closed = True
        _open_cores.discard(self)
        if not self._origin.is_here:
            return
        report = self._thread.stop()
        self._fail_leftovers()
        if hasattr(self, "client"):  # it was made
            self.client.transactions.warn_left_open()
        if not report.ok:
            _log.error("the client did not stop cleanly\n%s", report.render())

    def abandon(self) -> None:
        """Begin to stop, without waiting: for finalizers, which may run in any thread."""
        self._closed = True
        _open_cores.discard(self)
        if self._origin.is_here:
            self._thread.request_stop()

    def _fail_leftovers(self) -> None:
        """Resolve calls that the loop will never see."""
        while self._calls:
            try:
                call = self._calls.popleft()
            except IndexError:  # another thread was quicker
                return
            call.fail(ClientClosedError("the client is closed; make a new one"))

    # --- in the loop's thread -----------------------------------------------------------------------------------

    def _on_loop_drain(self) -> None:
        self._wake_due = False  # before looking: a caller that appends from now on wakes again
        calls = self._calls
        while calls:
            call = calls.popleft()
            if not call.cancelled:
                self._on_loop_begin(call)

    def _on_loop_begin(self, call: _Call[Any]) -> None:
        work = call.work
        if not isinstance(work, Command):
            self._on_loop_start(call, work)
            return
        executor = self.client.executor
        deadline = executor.deadline(call.timeout_s)
        future = executor.submit(work, deadline)
        if future is None:
            self._on_loop_recover(call, work, deadline, None)
            return

        def on_reply(future: asyncio.Future[Any]) -> None:
            try:
                response = executor.response_of(work, future.result())
                if isinstance(response, FAILURES):
                    self._on_loop_recover(call, work, deadline, response)
                else:
                    call.resolve(work.decode(response))
            except Exception as error:  # noqa: BLE001 - the call raises it in its own thread
                call.fail(error)

        future.add_done_callback(on_reply)

    def _on_loop_recover(
        self, call: _Call[Any], command: Command[Any], deadline: float, failure: Failure | None
    ) -> None:
        if self._thread.scope.stopping:
            call.fail(self.client.executor.error_when_closing(command, failure))
        else:
            self._on_loop_start(call, lambda _: self.client.executor.recover(command, deadline, failure))

    def _on_loop_start(self, call: _Call[_T], work: Work[_T]) -> None:
        if self._thread.scope.stopping:
            call.fail(ClientClosedError("the client was closed; nothing was changed"))
        else:
            call.task = self._thread.scope.start("call", self._on_loop_run, call, work).task

    async def _on_loop_run(self, call: _Call[_T], work: Work[_T]) -> None:
        try:
            call.resolve(await work(self.client))
        except asyncio.CancelledError:
            kind = CutOffWriteError if call.effect is not Effect.READ else ClientClosedError
            call.fail(kind("the client was closed during the call"))
            raise
        except Exception as error:  # noqa: BLE001 - the call raises it in its own thread
            call.fail(error)


def _stuck(call: _Call[Any], limit_s: float) -> ClientError:
    kind = UndeterminedError if call.effect is not Effect.READ else DeadlineExceededError
    return kind(f"the client's event loop has not turned for {limit_s:.1f} s; the outcome of the call is unknown")


_open_cores: weakref.WeakSet[SyncCore] = weakref.WeakSet()


@atexit.register
def _close_all() -> None:
    for core in list(_open_cores):
        if not core._origin.is_here:  # noqa: SLF001 - same module
            continue
        warnings.warn(f"client of {core!r} was never closed", ResourceWarning, stacklevel=1)
        try:
            core._thread.stop(EXIT_STOP_S)  # noqa: SLF001 - same module
        except LifecycleError as error:
            _log.warning("a client left open did not stop: %s", error)
        core.abandon()
        core._fail_leftovers()  # noqa: SLF001 - same module
