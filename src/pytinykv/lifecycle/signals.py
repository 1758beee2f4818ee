"""A process from start to exit: run an async main in a root scope, stop on a signal, and end in time whatever happens.

```
                     main returns ─┐
  SIGTERM, SIGINT, SIGHUP ─────────┼──► watchdog armed ──► scope.stop() ──► loop closed ──► exit 0, or what main returned
  something owned fails ───────────┘           │               │
                                               │               └─ something overran or is left ──► report, exit 3
  second signal ───────────────────────────────┼──────────────────────────────────────────────► what is stuck, exit 3
                                               └─ hard deadline, even if the loop is blocked ──► all stacks, exit 3
  SIGUSR1 ──► the wait-for graph, to the log; the process goes on
```

What a forced exit prints is the report, or the list of what is stuck, and the wait-for graph. All the time a `Watch` looks
for a blocked loop and for what only ever grows.

Invariants
1. From the first signal on, the process ends within `stop_deadline_s + FORCED_EXIT_S` seconds: the watchdog is a thread of
   its own, hears of signals by itself and needs nothing from the event loop, the main thread, or a reader of standard error.
2. Exit status 0 means: every stage of the stop went well and nothing was left behind.
3. Nothing here runs Python code in a signal context: CPython calls handlers between two instructions of the main thread.
   They only set flags, wake others through sockets that don't block, and write with `os.write`.

Left out: compiled code that kept the interpreter's lock before the signal came, and does not return: no thread can notice
anything then. The sender of the signal has to follow with SIGKILL, as `children` does. (If it takes the lock during the stop,
the watchdog's last resort ends the process, with status 1.)
"""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import dataclasses
import faulthandler
import gc
import logging
import os
import select
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Coroutine, Iterable
from contextlib import ExitStack
from types import FrameType
from typing import Any, Final, NoReturn

import uvloop

from pytinykv.lifecycle.census import child_pids, counted_descriptors, take_census
from pytinykv.lifecycle.children import die_with_parent
from pytinykv.lifecycle.report import Leak, LeakKind, StopReport
from pytinykv.lifecycle.resource_counts import describe_descriptor
from pytinykv.lifecycle.scope import Scope
from pytinykv.lifecycle.watch import Watch, signal_for_graph
from pytinykv.lifecycle.watchdog import Watchdog
from pytinykv.waitgraph.stacks import UNKNOWN_SITE, await_chain, thread_stack

EXIT_CLEAN: Final = 0
EXIT_ERROR: Final = 1
EXIT_FORCED: Final = 3

PROCESS_STOP_DEADLINE_S: Final = 4.0
HARD_MARGIN_S: Final = 1.0
REPEAT_S: Final = 0.25
"""A signal this soon after the first is the same request again: `timeout` signals the process and then its group."""
STRAYS_SETTLE_S: Final = 0.2
"""How long tasks of libraries may take to end after the scope has stopped."""
INTERPRETER_EXIT_S: Final = 3.0
EXPLAIN_S: Final = 1.0
"""How long drawing the wait-for graph may hold up a forced exit."""
WRITE_S: Final = 1.0
"""How long a forced exit waits for a reader of what it prints."""
FORCED_EXIT_S: Final = HARD_MARGIN_S + EXPLAIN_S + WRITE_S
"""How much longer than its deadline a stop may take at most."""
_SIGNALS: Final = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
"""What asks a process to stop; SIGHUP comes when its terminal is closed, and `nohup` has it ignored."""

Main = Callable[[Scope], Coroutine[Any, Any, int | None]]

_log = logging.getLogger(__name__)


def run_process(
    main: Main,
    *,
    name: str = "process",
    stop_deadline_s: float = PROCESS_STOP_DEADLINE_S,
    loop_factory: Callable[[], asyncio.AbstractEventLoop] = uvloop.new_event_loop,
    on_report: Callable[[StopReport], object] | None = None,
) -> int:
    """Run `main(scope)` until it returns, something owned fails, or a signal comes; stop the scope; return the exit status.

    To be called once, in the main thread. `main` is a task of the root scope, so at a stop it is cancelled after everything
    below the scope has been stopped.

    Args:
        main: gets the root scope; returns the exit status, None for 0. A server waits in it for ever.
        name: the root scope's name.
        stop_deadline_s: seconds for the ordered stop.
        loop_factory: makes the event loop, uvloop's by default.
        on_report: is given the report of the stop, good or bad.

    Returns:
        0 after a clean stop (or what `main` returned), 1 when `main` or something else that is owned failed, or the stop
        did. Does not return when the exit has to be forced: then the report is printed and the process ends with 3.
    """
    die_with_parent()
    with asyncio.Runner(loop_factory=loop_factory) as runner:
        process = _Process(name, runner.get_loop(), stop_deadline_s, on_report)
        try:
            with process:
                status = runner.run(process.run(main))
        except asyncio.CancelledError:  # from outside of the scope: only a stray KeyboardInterrupt does that
            status = EXIT_ERROR
    process.watchdog.disarm()
    return status


def leave_process(status: int) -> NoReturn:
    """Exit with `status`: wait for threads, run exit functions, and flush. If that hangs, print all stacks and exit with 1.

    Modules and objects are not taken apart, as the interpreter would go on to do: there is nothing in them that still has to
    happen. It takes a tenth of a second of processor time, so with twenty processes for each processor it came to the limit
    of 3 seconds, and a write that was done was told as failed.

    A signal that comes now asks for what is just being done; it must not turn the status into "killed by SIGTERM".
    """
    for number in _SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    faulthandler.dump_traceback_later(INTERPRETER_EXIT_S, exit=True)
    for module, name in ((threading, "_shutdown"), (atexit, "_run_exitfuncs")):  # what CPython begins its exit with
        step = getattr(module, name, None)
        if step is None:  # on another Python
            sys.exit(status)
        step()
    for stream in (sys.stdout, sys.stderr):
        if stream is not None and not stream.closed:
            try:
                stream.flush()
            except OSError:
                sys.exit(status)  # which says that it can't be written
    os._exit(status)


class _Process:
    """One run: the scope, the reasons to stop, and the two ways to be forced. Context manager for the signal handlers."""

    def __init__(
        self,
        name: str,
        loop: asyncio.AbstractEventLoop,
        stop_deadline_s: float,
        on_report: Callable[[StopReport], object] | None,
    ) -> None:
        self._name: Final = name
        self._loop: Final = loop
        self._stop_deadline_s: Final = stop_deadline_s
        self._on_report: Final = on_report
        self._scope: Scope | None = None
        """The scope that the main function runs in; None until it begins."""
        self._stop_wanted: Final = asyncio.Event()
        """Set by the first signal, or when something owned has failed."""
        self._signal: signal.Signals | None = None
        """The first signal that asked for the stop."""
        self._first_signal_at: float | None = None
        """When the first signal came, by the monotonic clock; later ones are the same request or force the end."""
        self._failed = False
        """Whether something owned has failed: the exit status is 1 then, however clean the stop is."""
        self._previous_handlers: Final[dict[int, Any]] = {}
        """By signal number, what `__exit__` puts back."""
        self._exit_stack: Final = ExitStack()
        self.watchdog: Final = Watchdog(stop_deadline_s + HARD_MARGIN_S, _SIGNALS, REPEAT_S, self._force_hard)
        self.watch: Final = Watch(name, loop)

    def __enter__(self) -> None:
        self._exit_stack.enter_context(signal_for_graph(self.watch))
        self.watchdog.start()
        self.watch.start()
        for number in _SIGNALS:
            if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN:
                self._previous_handlers[number] = signal.signal(number, self._on_signal)

    def __exit__(self, *_: object) -> None:
        for number, handler in self._previous_handlers.items():
            signal.signal(number, handler)
        self.watch.stop()
        self._exit_stack.close()

    async def run(self, main: Main) -> int:
        """Start, wait for a reason to stop, stop, and judge."""
        with self.watchdog.hearing_signals():
            return await self._run(main)

    async def _run(self, main: Main) -> int:
        me = asyncio.current_task()
        if me is not None:
            me.set_name(f"{self._name}/run")
        opened = counted_descriptors()
        scope = self._scope = Scope(self._name)
        self.watch.attach(scope)
        scope.on_failure(self._on_failure)
        inherited = frozenset(child_pids())  # of the program that this one replaced by exec
        main_task = scope.start("main", main, scope)
        wanted = self._loop.create_task(self._stop_wanted.wait(), name=f"{self._name}/wait-for-reason-to-stop")
        await asyncio.wait((main_task.task, wanted), return_when=asyncio.FIRST_COMPLETED)
        wanted.cancel()
        if self._signal is not None:
            _log.info("%s stops: %s", self._name, self._signal.name)
        self.watchdog.arm()
        report = await scope.stop(self._stop_deadline_s)
        strays: list[Leak] = []
        if not report.forced:
            self.watch.stop_looking()
            strays = await _strays(inherited, opened)
            report = dataclasses.replace(report, after=take_census())
        if self._on_report is not None:
            self._on_report(report)
        if report.forced:
            _force(f"{report.render()}\n")
        for stray in strays:
            _write_error(f"{self._name}: left behind without an owner: {stray.render()}\n")
        if self._failed or not report.ok or strays:
            return EXIT_ERROR
        task = main_task.task
        result = task.result() if task.done() and not task.cancelled() else None
        return EXIT_CLEAN if result is None else result

    # --- reasons to stop ----------------------------------------------------------------------------------------

    def _on_failure(self, name: str, error: BaseException) -> None:
        _log.critical("%s stops because %s failed: %r", self._name, name, error)
        self._failed = True
        self._stop_wanted.set()

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        del frame
        now = time.monotonic()
        if self._first_signal_at is None:
            self._first_signal_at = now
            self._signal = signal.Signals(number)
            self.watchdog.arm()
            if not self._loop.is_closed():
                self._loop.call_soon_threadsafe(self._stop_wanted.set)
        elif now - self._first_signal_at >= REPEAT_S:
            _force(
                f"{self._name}: {signal.Signals(number).name} for the second time, exit forced\n{self._describe_stuck()}"
            )

    # --- being forced -------------------------------------------------------------------------------------------

    def _force_hard(self, why: str) -> NoReturn:
        """The stop did not end in time although it bounds itself: the main thread is blocked. Called by the watchdog."""
        _force(f"{self._name}: {why}, exit forced; the stacks of all threads:\n{_stacks()}{self._describe_stuck()}")

    def _describe_stuck(self) -> str:
        """Return what is still there, with where it is. Reads only, and may be called from any thread."""
        try:
            leaks = [] if self._scope is None else self._scope.leaks()
        except RuntimeError as error:  # the loop goes on in another thread and changed a table meanwhile
            return f"cannot list what is left: {error}\n"
        graph = _within(EXPLAIN_S, self.watch.describe) if self._scope is not None else ""
        return "".join(f"STUCK {leak.render()}\n" for leak in leaks) + f"{graph}\n"


async def _strays(inherited: frozenset[int], opened: dict[int, str]) -> list[Leak]:
    """Return what has no owner and is left after the scope has stopped: tasks, threads, children, descriptors.

    `inherited`, `opened`: pids of children and descriptors that were there before anything was started.
    """
    me = asyncio.current_task()
    tasks = [task for task in asyncio.all_tasks() if task is not me]
    if tasks:
        _, pending = await asyncio.wait(tasks, timeout=STRAYS_SETTLE_S)
        tasks = sorted(pending, key=lambda task: task.get_name())
    strays = [Leak(LeakKind.TASK, task.get_name(), UNKNOWN_SITE, await_chain(task)) for task in tasks]
    strays += [
        Leak(LeakKind.THREAD, thread.name, UNKNOWN_SITE, thread_stack(thread))
        for thread in threading.enumerate()
        if not thread.daemon and thread is not threading.current_thread()
    ]
    strays += [
        Leak(LeakKind.CHILD, f"pid {pid}: {command}", UNKNOWN_SITE)
        for pid, command in sorted(child_pids().items())
        if pid not in inherited
    ]
    return strays + await _stray_descriptors(opened)


async def _stray_descriptors(opened: dict[int, str]) -> list[Leak]:
    """Return descriptors that were opened and not closed; transports and collected objects get a moment to close theirs."""
    left = await _settled_descriptors(opened)
    described = {number: describe_descriptor(target) for number, target in left.items()}
    if left:
        _hang_up(number for number, target in left.items() if target.startswith("socket:"))
        left = await _settled_descriptors(opened)
    return [
        Leak(LeakKind.DESCRIPTOR, f"{number}: {described.get(number, target)}", UNKNOWN_SITE)
        for number, target in sorted(left.items())
    ]


async def _settled_descriptors(opened: dict[int, str]) -> dict[int, str]:
    loop = asyncio.get_running_loop()
    until = loop.time() + STRAYS_SETTLE_S
    while True:
        left = {number: target for number, target in counted_descriptors().items() if number not in opened}
        if not left or loop.time() >= until:
            return left
        gc.collect()
        await asyncio.sleep(STRAYS_SETTLE_S / 10)


def _hang_up(sockets: Iterable[int]) -> None:
    """Shut down the connections that are left, which does not close them.

    gRPC keeps the socket of a closed channel until the other end has taken what was being written, which one that is out
    of reach does not (its keepalive would give up after 13 s). When the connection is shut down, gRPC closes it at once.
    What Python code has forgotten stays open, and is an error.
    """
    for number in sockets:
        with contextlib.suppress(OSError), socket.socket(fileno=os.dup(number)) as connection:
            connection.shutdown(socket.SHUT_RDWR)


def _within(limit_s: float, describe: Callable[[], str]) -> str:
    """Return what `describe` returns, or why there is nothing: it may take `limit_s` seconds and must not keep the exit."""
    texts: list[str] = []

    def run() -> None:
        try:
            texts.append(describe())
        except Exception as error:
            texts.append(f"the wait-for graph could not be drawn: {error!r}")

    thread = threading.Thread(target=run, name="explain", daemon=True)
    thread.start()
    thread.join(limit_s)
    return texts[0] if texts else f"the wait-for graph could not be drawn within {limit_s} s"


def _stacks() -> str:
    """Return the stacks of all threads, as `faulthandler` writes it: into memory, since a pipe may have no reader."""
    with os.fdopen(os.memfd_create("stacks"), "w+b") as memory:
        faulthandler.dump_traceback(memory, all_threads=True)
        memory.seek(0)
        return memory.read().decode(errors="replace")


def _force(text: str) -> NoReturn:
    """Print `text`, and end the process with status 3, without anything that could wait for long."""
    _write_error(text)
    os._exit(EXIT_FORCED)


def _write_error(text: str) -> None:
    """Write to standard error; leave off what is not taken within `WRITE_S` seconds (a full pipe, a terminal on hold)."""
    data = text.encode(errors="replace")
    poll = select.poll()
    poll.register(2, select.POLLOUT)
    until = time.monotonic() + WRITE_S
    while data:
        try:
            if not poll.poll(max(0.0, until - time.monotonic()) * 1000):
                return
            data = data[os.write(2, data[: select.PIPE_BUF]) :]  # for so much there is room, says poll(2)
        except OSError:  # it has no reader any more
            return
