"""Child processes with an owner: started in a scope, told to stop, killed when they don't, and never orphans.

```
start_child ──► running ──terminate (SIGTERM)──► has `stop_deadline_s` ──kill (SIGKILL)──► gone
                   ▲
   parent dies ────┘ the kernel sends SIGKILL, if the child called `die_with_parent` when it started
```

A child gets a session of its own, so that Ctrl-C in a terminal reaches the parent alone: the parent decides the order in
which things stop. That a parent killed with SIGKILL leaves nothing behind takes the child's help: `start_child` puts its
own pid into the child's environment, and the child calls `die_with_parent` first thing, which asks the kernel for a
SIGKILL when the parent ends. Nothing runs between fork and exec, where only async-signal-safe code may.

Left out: children of children; each of our programs sees to its own.
"""

from __future__ import annotations

import asyncio
import ctypes
import logging
import os
import signal
import sys
from asyncio.subprocess import DEVNULL, Process, SubprocessStreamProtocol
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Any, Final

from pytinykv.lifecycle.errors import ChildStartError
from pytinykv.lifecycle.members import Member
from pytinykv.lifecycle.report import Leak, LeakKind
from pytinykv.lifecycle.scope import Scope
from pytinykv.waitgraph import Aspect, CallSite, Label, Wait, call_site, explains_wait

PARENT_PID_VARIABLE: Final = "TINYKV_PARENT_PID"
CHILD_STOP_DEADLINE_S: Final = 5.0
KILL_S: Final = 1.0
"""How long a process may take to be gone after SIGKILL: the kernel's work, and a loaded machine."""
_PR_SET_PDEATHSIG: Final = 1
_STREAM_LIMIT: Final = 1 << 16
_STATES: Final = {
    "R": "runs",
    "S": "sleeps, waiting for something that a signal can interrupt",
    "D": "waits for a device, which no signal can interrupt",
    "T": "is stopped by a signal (SIGCONT lets it go on)",
    "t": "is stopped by a debugger",
    "Z": "has ended and was not waited for",
}
"""By the letter that /proc gives for them."""

_log = logging.getLogger(__name__)
_running: Final[dict[int, CallSite]] = {}


class _Protocol(SubprocessStreamProtocol):
    """Streams for the pipes, and two events. asyncio's own `wait` also waits for pipes that are not read to the end."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(limit=_STREAM_LIMIT, loop=loop)
        self.exited: Final[asyncio.Future[None]] = loop.create_future()
        self.closed: Final[asyncio.Future[None]] = loop.create_future()
        """The process has ended and every pipe has been read to its end, or the transport was closed."""

    def process_exited(self) -> None:
        super().process_exited()
        if not self.exited.done():
            self.exited.set_result(None)

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        if not self.closed.done():
            self.closed.set_result(None)


def _end_of_self(variables: dict[str, Any]) -> Wait:
    return Wait(Aspect.END, (variables["self"],))


class OwnedChild(Member):
    """A running or ended child process of a scope. Made by `start_child`."""

    def __init__(
        self,
        scope: Scope,
        name: str,
        transport: asyncio.SubprocessTransport,
        protocol: _Protocol,
        *,
        made_at: CallSite,
        stop_deadline_s: float,
    ) -> None:
        super().__init__(f"{scope.name}/{name}", made_at)
        self._scope: Final = scope
        self._transport: Final = transport
        self._process: Final = Process(transport, protocol, asyncio.get_running_loop())
        self._stop_deadline_s: Final = stop_deadline_s
        self._ended: Final = protocol.exited
        """Resolved when the child has exited."""
        self._pidfd: int | None = _open_pidfd(self.pid)
        """Signals go through it, so none reaches another process that got the pid later; None once the child has ended."""
        self._loop: Final = asyncio.get_running_loop()
        self._stop_task: asyncio.Task[int | None] | None = None
        """The stop under way, shared by all that ask for one."""
        _running[self.pid] = made_at
        protocol.exited.add_done_callback(self._on_exited)
        protocol.closed.add_done_callback(self._on_closed)
        self.asked_to_end_s: float | None = None
        """When it was first sent SIGTERM, in the loop's time."""
        self.killed = False
        """Whether it had to be killed at a stop, because it did not end in time by itself."""

    @property
    def pid(self) -> int:
        """The process id; may be another process's once the child has ended."""
        return self._process.pid

    @property
    def returncode(self) -> int | None:
        """The exit status, negative for a signal; None while it runs."""
        return self._process.returncode

    @property
    def stdout(self) -> asyncio.StreamReader | None:
        """What it prints, if started with `stdout=PIPE`. Read it, or the child blocks when the pipe is full."""
        return self._process.stdout

    @property
    def stderr(self) -> asyncio.StreamReader | None:
        """As `stdout`, for its errors."""
        return self._process.stderr

    @property
    def stdin(self) -> asyncio.StreamWriter | None:
        """What it reads, if started with `stdin=PIPE`."""
        return self._process.stdin

    @explains_wait(_end_of_self)
    async def wait(self, timeout_s: float | None = None) -> int:
        """Wait until the process has ended; return its exit status.

        Raises:
            TimeoutError: it did not end in `timeout_s` seconds; it goes on.
        """
        await asyncio.wait((self._ended,), timeout=timeout_s)
        if not self._ended.done():
            raise TimeoutError(f"{self.name} (pid {self.pid}) did not end within {timeout_s} s")
        returncode = self.returncode
        assert returncode is not None
        return returncode

    def terminate(self) -> None:
        """Ask it to stop (SIGTERM); nothing if it has ended."""
        if self.asked_to_end_s is None:
            self.asked_to_end_s = self._loop.time()
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """End it at once (SIGKILL); nothing if it has ended."""
        self.send_signal(signal.SIGKILL)

    def send_signal(self, number: int) -> None:
        """Send a signal; nothing if it has ended.

        Through a pidfd where there is one: asyncio's own way first asks whether the process has ended, and if so, takes
        its exit status away from the task that waits for it.
        """
        if self.returncode is not None:
            return
        try:
            if self._pidfd is not None:
                signal.pidfd_send_signal(self._pidfd, number)
            else:
                self._process.send_signal(number)
        except ProcessLookupError:
            _log.debug("%s has just ended; signal %d was not sent", self.name, number)

    async def stop(self, deadline_s: float | None = None) -> int | None:
        """Terminate it, kill it after `deadline_s` seconds (default: as given at the start), and return its exit status.

        Idempotent, shared by concurrent callers, and goes on when its caller is cancelled. None if it survives SIGKILL,
        which the kernel allows to processes that wait for a broken device.
        """
        if self._stop_task is None:
            limit_s = self._stop_deadline_s if deadline_s is None else deadline_s
            loop = asyncio.get_running_loop()
            self._stop_task = loop.create_task(self._stop(limit_s), name=f"{self.name}/stop")
        return await asyncio.shield(self._stop_task)

    async def stop_member(self, deadline_s: float) -> None:
        """Stop as a part of the scope's stop; a child that had to be killed is an error in its report."""
        await self.stop(min(self._stop_deadline_s, deadline_s - min(KILL_S, deadline_s / 2)))
        if self.killed:
            raise TimeoutError(f"pid {self.pid} did not end after SIGTERM and was killed")

    def leaks(self) -> Sequence[Leak]:
        """Return one leak while the process exists."""
        if self._ended.done():
            return []
        return [Leak(LeakKind.CHILD, f"{self.name} (pid {self.pid})", self.made_at)]

    def labels(self) -> Sequence[Label]:
        """Return one label for the process."""
        return [Label(self, f"{self.name} (pid {self.pid})", self.made_at, state=self._describe_state())]

    def _describe_state(self) -> str:
        """Return in words what the process does: whether it runs, and since when it should not."""
        if self._ended.done():
            return f"has ended with {self.returncode}"
        state = _STATES.get(_state_letter(self.pid), "runs")
        if self.asked_to_end_s is None:
            return state
        asked = f"was sent SIGTERM {self._loop.time() - self.asked_to_end_s:.1f} s ago"
        return f"{asked}, then SIGKILL; {state}" if self.killed else f"{asked}; {state}"

    # --- inside -------------------------------------------------------------------------------------------------

    @explains_wait(_end_of_self)
    async def _stop(self, limit_s: float) -> int | None:
        self.terminate()
        await asyncio.wait((self._ended,), timeout=limit_s)
        if not self._ended.done():
            _log.error("%s (pid %d) did not end within %.1f s after SIGTERM; killing it", self.name, self.pid, limit_s)
            self.killed = True
            self.kill()
            await asyncio.wait((self._ended,), timeout=KILL_S)
        if self._ended.done():
            self._transport.close()  # what it printed and was not read is dropped
            self._scope.disown(self)
        return self.returncode

    def _on_exited(self, _: asyncio.Future[None]) -> None:
        _running.pop(self.pid, None)
        if self._pidfd is not None:
            os.close(self._pidfd)
            self._pidfd = None
        _log.info("%s (pid %d) ended with %s", self.name, self.pid, self.returncode)

    def _on_closed(self, _: asyncio.Future[None]) -> None:
        if self._ended.done():
            self._scope.disown(self)

    def __repr__(self) -> str:
        return f"<OwnedChild {self.name} pid {self.pid} returncode {self.returncode}>"


async def start_child(
    scope: Scope,
    name: str,
    *argv: str,
    env: Mapping[str, str] | None = None,
    stdin: int | IO[bytes] = DEVNULL,
    stdout: int | IO[bytes] | None = None,
    stderr: int | IO[bytes] | None = None,
    stop_deadline_s: float = CHILD_STOP_DEADLINE_S,
) -> OwnedChild:
    """Start a program as a child that `scope` owns.

    Args:
        scope: stops the child with itself.
        name: for logs and reports.
        argv: the program and its arguments.
        env: the whole environment of the child, by default this process's; `TINYKV_PARENT_PID` is added.
        stdin: a stream of `asyncio.subprocess`, by default nothing to read.
        stdout: as `stdin`; None for this process's.
        stderr: as `stdout`.
        stop_deadline_s: how long it may take to end after SIGTERM before it is killed.

    Raises:
        ChildStartError: the program could not be started.
        ScopeStoppedError: the scope is stopping or has stopped; nothing was started, or what was is gone again.
    """
    scope.refuse_if_stopping(f"child process {name!r}")
    made_at = call_site()
    loop = asyncio.get_running_loop()
    environment = {**(os.environ if env is None else env), PARENT_PID_VARIABLE: str(os.getpid())}
    try:
        transport, protocol = await loop.subprocess_exec(
            lambda: _Protocol(loop),
            *argv,
            stdin=stdin,
            stdout=stdout,
            stderr=stderr,
            env=environment,
            start_new_session=True,
        )
    except OSError as error:
        raise ChildStartError(f"cannot start {' '.join(argv)}: {error}") from error
    child = OwnedChild(scope, name, transport, protocol, made_at=made_at, stop_deadline_s=stop_deadline_s)
    _log.info("%s started as pid %d: %s", child.name, child.pid, " ".join(argv))
    try:
        scope.adopt(child)
    except Exception:
        child.kill()  # the scope began to stop meanwhile; the program has done nothing yet that it would have to end well
        await child.stop(KILL_S)
        raise
    return child


def _open_pidfd(pid: int) -> int | None:
    """Return a handle that means this process and never a later one with its number; None where there are no such handles."""
    if sys.platform != "linux":
        return None
    try:
        return os.pidfd_open(pid)
    except OSError:  # it has ended and been waited for already, or the kernel is older than 5.3
        return None


def _state_letter(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()[0]
    except (OSError, IndexError):  # it is gone, or there is no /proc
        return ""


def running_children() -> dict[int, CallSite]:
    """Return the pids of the children started here that have not ended, and where each was started."""
    return dict(_running)


def die_with_parent() -> None:
    """Be killed when the process that started this one with `start_child` ends. First thing in a program's main.

    Does nothing in a process that was not started by `start_child`, and outside Linux. Exits at once if the parent has
    ended before this call. The kernel watches the parent's *thread* that started the child, so children are to be started
    from a thread that lives as long as the process, as the main thread does.
    """
    parent = os.environ.pop(PARENT_PID_VARIABLE, None)
    if parent is None or sys.platform != "linux":
        return
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0) != 0:
        _log.warning("prctl(PR_SET_PDEATHSIG) failed: %s", os.strerror(ctypes.get_errno()))
    if os.getppid() != int(parent):  # it ended before the kernel was told: the signal will never come
        os._exit(1)
