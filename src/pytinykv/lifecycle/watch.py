"""The watch over a running process: a thread that notices a loop which does not turn, and logs what it is blocked on.

```
every TICK_S      have the loop run a callback; if it has not for STALL_S: log its stack, once per stall, and deadlock cycles
every LOOK_S      note where each task and thread is, so that a graph can say for how long they have waited
every COUNT_S     count what each owner has; warn of what only ever grows, and of file descriptors that run out
SIGUSR1           log the wait-for graph
```

The thread needs nothing from the loop. SIGUSR1 is blocked everywhere and taken up by the thread itself (`sigtimedwait`), so
it is answered also while the main thread is in compiled code. Cost: a callback in the loop four times a second.

In a process that was stopped (SIGSTOP), or starved, this thread is late as well; that is told apart from a loop that
is blocked beside a thread that runs on time.

A log is for reading later, so it is kept short: most stalls are a loop that computes, of which its stack says everything. A
stall at the place of the last one takes one line; lateness is logged at once, and then at most every QUIET_S, added up.
"""

from __future__ import annotations

import asyncio
import logging
import os
import re
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

from pytinykv.lifecycle.descriptors import DescriptorWatch, count_descriptors
from pytinykv.lifecycle.resource_counts import GrowthWatch, count_resources
from pytinykv.lifecycle.scope import Scope
from pytinykv.waitgraph import WaitClock, render_cycles, render_graph
from pytinykv.waitgraph.stacks import thread_stack

TICK_S: Final = 0.25
STALL_S: Final = 1.0
LOOK_S: Final = 1.0
COUNT_S: Final = 10.0
QUIET_S: Final = 60.0
_LATE_S: Final = 0.5
"""A thread that wakes this much too late was not the only one that did not run."""
_JOIN_S: Final = 1.0
_SIGNAL: Final = signal.SIGUSR1
_LINE: Final = re.compile(r":\d+(?= in )")

_log = logging.getLogger(__name__)


class Watch:
    """Watches the loop of a root scope. Made in the thread that turns the loop; `start` and `stop` once each."""

    def __init__(
        self,
        name: str,
        loop: asyncio.AbstractEventLoop,
        *,
        now: Callable[[], float] = time.monotonic,
        growth: GrowthWatch | None = None,
    ) -> None:
        self._name: Final = name
        self._loop: Final = loop
        self._now: Final = now
        self._loop_thread: Final = threading.current_thread()
        """The thread whose stack is logged when the loop is blocked."""
        self._scope: Scope | None = None
        """The root whose work is explained; None until `attach`, and never another one."""
        self.clock: Final = WaitClock()
        """Since when each task and thread has waited."""
        self._growth: Final = growth or GrowthWatch()
        self._descriptors: Final = DescriptorWatch()
        self._asked_at: float | None = None
        """When the loop was given the callback that it has not run yet; None when it has run it."""
        self._stalled_at: float | None = None
        """Since when the loop has not turned, once that was logged."""
        self._stall_logged: tuple[str, ...] = ()
        """The functions of the stack that was logged last."""
        self._same_stalls = 0
        """How many stalls since then had the same stack."""
        self._lateness_logged_at = -QUIET_S
        """When the log last told that this thread was late."""
        self._lateness: Final[list[float]] = []
        """By how many seconds this thread was late, each time since that was logged last."""
        self._ticked_at = now()
        """When this thread last woke up."""
        self._looked_at = self._counted_at = now()
        """When waits were last looked at, and when resources were last counted."""
        self._wanted: Final = threading.Event()
        """Set when the graph is to be logged."""
        self._is_over = False
        """Whether the thread is to end. Set by `stop`."""
        self._stopped_looking = False
        """Whether no look begins any more. Set by `stop_looking`."""
        self._looking: Final = threading.Lock()
        """Held during a look."""
        self._thread: Final = threading.Thread(target=self._run, name=f"{name}/watch", daemon=True)

    def attach(self, scope: Scope) -> None:
        """Say what is owned; until then only the loop is watched."""
        self._scope = scope
        scope.wait_clock = self.clock
        scope.loop_blocked_s = self.blocked_s

    def start(self) -> None:
        """Start the thread, with SIGUSR1 blocked in it from its first instruction on: its default action is death."""
        blocked = signal.pthread_sigmask(signal.SIG_BLOCK, {_SIGNAL})
        self._thread.start()
        signal.pthread_sigmask(signal.SIG_SETMASK, blocked)

    def stop(self) -> None:
        """End the thread; before the loop is closed."""
        self._is_over = True
        self._wake()
        self._thread.join(_JOIN_S)

    def stop_looking(self) -> None:
        """Look at nothing any more, and wait until a look under way is over. The thread stays, until `stop`.

        What is left can be counted only then: a look keeps the frames alive that it describes, and what they hold.
        """
        self._stopped_looking = True
        if self._looking.acquire(timeout=_JOIN_S):
            self._looking.release()

    def request_graph(self) -> None:
        """Have the graph logged soon; for signal handlers."""
        self._wanted.set()
        self._wake()

    def blocked_s(self) -> float:
        """Return for how long the loop has not turned, 0.0 for less than `STALL_S`. Callable from any thread."""
        stalled_at = self._stalled_at
        return 0.0 if stalled_at is None else self._now() - stalled_at

    def describe(self) -> str:
        """Return the wait-for graph as text, from any thread."""
        scope = self._scope
        return "nothing is owned yet" if scope is None else render_graph(scope.explain())

    def tick(self) -> None:
        """Look at everything whose time has come. Called by the thread."""
        now = self._now()
        self._check_loop(now)
        self._ticked_at = now
        scope = self._scope
        if scope is None:
            return
        if now - self._looked_at >= LOOK_S:
            self._looked_at = now
            self.clock.look([self._loop])
        if now - self._counted_at >= COUNT_S:
            self._counted_at = now
            if (notice := self._descriptors.observe(*count_descriptors())) is not None:
                _log.log(notice.level, "%s: %s", self._name, notice.message)
            for growth in self._growth.observe(count_resources(scope)):
                _log.warning("%s: %s", self._name, growth)

    # --- inside -------------------------------------------------------------------------------------------------

    def _run(self) -> None:
        while not self._is_over:
            self._wait()
            try:
                with self._looking:
                    self._look()
            except Exception:  # the watch goes on: one look may fail, the next may be needed
                _log.exception("%s: the watch could not look", self._name)

    def _look(self) -> None:
        if self._is_over or self._stopped_looking:
            return
        if self._wanted.is_set():
            self._wanted.clear()
            _log.warning("%s was asked for its wait-for graph\n%s", self._name, self.describe())
        self.tick()

    def _wait(self) -> None:
        if hasattr(signal, "sigtimedwait"):
            taken = signal.sigtimedwait({_SIGNAL}, TICK_S)
            # CPython returns an empty siginfo, not None, when the time is up on coming back from a SIGSTOP.
            if taken is not None and taken.si_signo == _SIGNAL and not self._is_over:
                self._wanted.set()
        else:
            self._wanted.wait(TICK_S)

    def _wake(self) -> None:
        if hasattr(signal, "sigtimedwait") and self._thread.is_alive() and self._thread.ident is not None:
            signal.pthread_kill(self._thread.ident, _SIGNAL)

    def _check_loop(self, now: float) -> None:
        late = now - self._ticked_at - TICK_S
        if late > _LATE_S:
            self._lateness.append(late)
            self._asked_at = None if self._asked_at is None else now
        self._log_lateness(now)
        if self._asked_at is None:
            if self._stalled_at is not None:
                _log.warning("%s: the event loop turns again, after %.1f s", self._name, now - self._stalled_at)
                self._stalled_at = None
            self._ask(now)
        elif now - self._asked_at >= STALL_S and self._stalled_at is None:
            self._stalled_at = self._asked_at
            self._log_stall(now - self._asked_at)

    def _log_lateness(self, now: float) -> None:
        if not self._lateness or now - self._lateness_logged_at < QUIET_S:
            return
        times = len(self._lateness)
        _log.warning(
            "%s: nothing of this process ran for %s: it was paused, or starved, or compiled code kept the interpreter",
            self._name,
            f"{sum(self._lateness):.1f} s" + (f" in all, {times} times" if times > 1 else ""),
        )
        self._lateness_logged_at = now
        self._lateness.clear()

    def _ask(self, now: float) -> None:
        self._asked_at = now
        try:
            self._loop.call_soon_threadsafe(self._answer)
        except RuntimeError:  # it was closed just now, so the watch is about to end
            self._asked_at = None

    def _answer(self) -> None:
        self._asked_at = None

    def _log_stall(self, blocked_s: float) -> None:
        stack = thread_stack(self._loop_thread)
        functions = tuple(_LINE.sub("", line) for line in stack)
        self._same_stalls = self._same_stalls + 1 if stack and functions == self._stall_logged else 0
        self._stall_logged = functions
        message = f"{self._name}: the event loop has not turned for {blocked_s:.1f} s; it is"
        if self._same_stalls:
            _log.error(
                "%s in the functions of the last stall (%d in a row): %s", message, self._same_stalls + 1, stack[-1]
            )
            return
        _log.error("%s at\n%s\n%s", message, "\n".join(f"    {line}" for line in stack), self._cycles())

    def _cycles(self) -> str:
        """Return the deadlock cycles as text; without one, how to see the graph, which is no use for a loop that computes."""
        cycles = "" if self._scope is None else render_cycles(self._scope.explain())
        return cycles or f"for the wait-for graph: kill -USR1 {os.getpid()}, or tinykv doctor"


@contextmanager
def signal_for_graph(watch: Watch) -> Iterator[None]:
    """Have SIGUSR1 log the graph of `watch`, while the block lasts. In the main thread, before other threads are started."""
    # Threads started from now on inherit the mask. One that was there before would get the signal: hence the handler as well.
    previous = signal.signal(_SIGNAL, lambda _number, _frame: watch.request_graph())
    blocked = signal.pthread_sigmask(signal.SIG_BLOCK, {_SIGNAL})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
        signal.signal(_SIGNAL, previous)
