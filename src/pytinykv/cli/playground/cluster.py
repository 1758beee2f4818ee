"""The playground's processes: started in order, watched, stopped in order.

```
scheduler, stores ──scheduler ready, stores told where──► stores ready ──► region has its peers and a leader ──► serving
stop:  stores, all at once ──► scheduler
```

Every child ends with its parent, also if that one is killed (lifecycle.children).
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import signal
import sys
import time
from asyncio.subprocess import DEVNULL, PIPE
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

from pytinykv.cli.playground.home import Home, PlaygroundError
from pytinykv.cli.thresholds import SCHEDULER, STORE, as_flags
from pytinykv.lifecycle import OwnedChild, Scope, start_child
from pytinykv.lifecycle.ready_line import read_ready_line
from pytinykv.lifecycle.signals import FORCED_EXIT_S, PROCESS_STOP_DEADLINE_S

REPLICAS: Final = 3
"""Of a region, unless told otherwise; with fewer stores, as many as there are, so that nothing is wrong with the cluster."""
READY_S: Final = 20.0
"""How long a process may take to print its ready line; a loaded machine is slow, a broken one is dead at once."""
STOP_S: Final = PROCESS_STOP_DEADLINE_S + FORCED_EXIT_S + 0.5
"""How long a server may take to stop. It ends by itself before that, and says why; killed earlier it could not."""
LOG_LINES: Final = 40
"""Lines of a log that are shown of a process that has ended badly; the report of a stop has some 25."""
_ERROR_LINE: Final = re.compile(r" (ERROR|CRITICAL) |^Traceback |^tinykv \w+: ")


class ServerProcess:
    """A server of the playground."""

    def __init__(self, name: str, child: OwnedChild, log: Path, options: tuple[str, ...]) -> None:
        self.name: Final = name
        self.child: Final = child
        self.log: Final = log
        self.options = options
        """Its command line, beginning with `--addr HOST:PORT`, but for what all servers get."""
        self.facts: dict[str, str] = {}
        """What its ready line tells."""
        self.died: str = ""
        """How it ended, if it did before it was told to."""
        self.ended_at: float | None = None
        """When it was seen to end (monotonic); None while it runs."""
        self.stopped_in_s: float | None = None
        """How long it took from being told; None if it was not told, or has not ended."""

    @property
    def addr(self) -> str:
        """Where it serves."""
        return self.facts.get("addr", "")

    @property
    def is_running(self) -> bool:
        return self.child.returncode is None

    @property
    def crashed(self) -> bool:
        """Whether it ended by itself before it was to stop; one that was killed did not."""
        return bool(self.died) and (self.child.returncode or 0) > 0

    def describe_end(self) -> str:
        """Return how it ended, in words."""
        status = self.child.returncode
        if status is None:
            return "still running"
        if self.child.killed:
            return "did not stop in time and was killed"
        return f"killed by {signal.Signals(-status).name}" if status < 0 else f"exit {status}"


class LocalCluster:
    """A scheduler and stores in one directory. `start` first; the scope's stop ends them."""

    def __init__(
        self,
        scope: Scope,
        home: Home,
        *,
        config: Path | None,
        thresholds: Mapping[str, Any] | None = None,
        program: tuple[str, ...] = ("-m", "pytinykv"),
    ) -> None:
        """Make a cluster with its data in `home`.

        `thresholds` are options for the servers, by their names; `program` is what Python is to run as `tinykv`.
        """
        self._scope: Final = scope
        self._home: Final = home
        self._config: Final = config
        self._thresholds: Final = dict(thresholds or {})
        """Settings that all programs get as flags; `start` adds one replica for each store if there are few."""
        self._program: Final = program
        self._stopping = False
        """Set when the stop begins, and never unset: a program that ends now has not crashed."""
        self.processes: Final[list[ServerProcess]] = []
        """The scheduler, then the stores by number. A program that is started again takes the place of the old one."""
        self.on_death: Callable[[ServerProcess], object] = lambda _: None
        """Called when a process ends before it was told to."""
        scope.on_stop("stop the stores", self._stop_stores, STOP_S + 2)
        scope.on_stop("stop the scheduler", self._stop_scheduler, STOP_S + 2)

    @property
    def scheduler(self) -> ServerProcess:
        return self.processes[0]

    @property
    def stores(self) -> list[ServerProcess]:
        return self.processes[1:]

    async def start(self, stores: int, scheduler_addr: str) -> None:
        """Start everything; return when each process has said that it is ready. Raises PlaygroundError."""
        await self.launch(stores, scheduler_addr)
        await self.wait_ready()

    async def launch(self, stores: int, scheduler_addr: str) -> None:
        """Start every process: most of a start is loading code, which they do side by side. Raises ChildStartError."""
        if stores < REPLICAS and self._config is None and self._thresholds.get("max_replicas") is None:
            self._thresholds["max_replicas"] = stores
        await self._start("scheduler", "--addr", scheduler_addr, *as_flags(SCHEDULER, self._thresholds))
        peer = ("--peer-addr", "127.0.0.1:0", "--advertise-peer-addr", "")
        for number in range(1, stores + 1):
            sizes = as_flags(STORE, self._thresholds)
            await self._start(f"store-{number}", "--addr", "127.0.0.1:0", *peer, *sizes, "--scheduler", "-")

    async def wait_ready(self) -> None:
        """Tell the stores where the scheduler is; return when each process is ready. Raises PlaygroundError."""
        await self._wait_ready(self.scheduler)
        for process in self.stores:
            process.options = (*process.options[:-1], self.scheduler.addr)
            stdin = process.child.stdin
            assert stdin is not None
            tell(stdin, f"{self.scheduler.addr}\n")
        for process in self.stores:
            await self._wait_ready(process)

    async def restart(self, process: ServerProcess) -> None:
        """Start a server that has ended again, with its data, at its old address. Raises PlaygroundError."""
        await process.child.wait()
        index = self.processes.index(process)
        await self._start(process.name, "--addr", process.addr, *process.options[2:])
        again = self.processes.pop()
        self.processes[index] = again
        await self._wait_ready(again)

    async def _start(self, name: str, *options: str) -> None:
        command = name.partition("-")[0]
        log = self._home.log_of(name)
        own = ("--data-dir", str(self._home.path / name), "--status-addr", "127.0.0.1:0", "--advertise-addr", "")
        config = () if self._config is None else ("--config", str(self._config))
        argv = (sys.executable, *self._program, command, *own, *options, *config)
        with log.open("ab") as stream:
            child = await start_child(
                self._scope,
                name,
                *argv,
                env=_environment(),
                stdin=PIPE if options[-1] == "-" else DEVNULL,
                stdout=PIPE,
                stderr=stream,
                stop_deadline_s=STOP_S,
            )
        self.processes.append(ServerProcess(name, child, log, options))

    async def _wait_ready(self, process: ServerProcess) -> None:
        stdout = process.child.stdout
        assert stdout is not None
        try:
            async with asyncio.timeout(READY_S):
                facts = await read_ready_line(stdout)
                if facts is None:
                    await process.child.wait(READY_S)
        except TimeoutError:
            raise PlaygroundError(
                f"{process.name} was not ready within {READY_S:.0f} s; its log, {process.log}, ends with\n"
                f"{last_lines(process.log)}"
            ) from None
        if facts is None:
            raise PlaygroundError(_explain_start(process))
        process.facts = facts
        self._scope.start(f"watch-{process.name}", self._watch, process)

    async def _watch(self, process: ServerProcess) -> None:
        """Read what it prints, which is nothing, and notice when it ends before its time."""
        stdout = process.child.stdout
        assert stdout is not None
        while await stdout.read(4096):
            pass
        await process.child.wait()
        process.ended_at = time.monotonic()
        if not self._stopping:
            process.died = process.describe_end()
            self.on_death(process)

    # --- stop ---------------------------------------------------------------------------------------------------

    async def _stop_stores(self) -> None:
        self._stopping = True
        await self._stop(self.stores)

    async def _stop_scheduler(self) -> None:
        self._stopping = True
        await self._stop(self.processes[:1])

    async def _stop(self, processes: list[ServerProcess]) -> None:
        """Tell all to stop, then wait for each. `_watch` takes the time at which each has ended."""
        started = time.monotonic()
        running = [process for process in processes if process.is_running]
        for process in running:
            process.child.terminate()
        for process in running:
            try:
                await process.child.wait(max(0.0, started + STOP_S - time.monotonic()))
            except TimeoutError:
                await process.child.stop(0.0)
            process.stopped_in_s = (process.ended_at or time.monotonic()) - started


def tell(stdin: asyncio.StreamWriter, line: str) -> None:
    """Write a process the only line it gets. If it has ended already, `_wait_ready` says why."""
    with contextlib.suppress(RuntimeError, OSError):  # uvloop raises RuntimeError where asyncio warns
        stdin.write(line.encode())
        stdin.close()


def _environment() -> dict[str, str]:
    """Return this process's environment without our own variables: they are meant for the playground, not its servers."""
    return {name: value for name, value in os.environ.items() if not name.startswith("TINYKV_")}


def _explain_start(process: ServerProcess) -> str:
    """Say why a process did not start: in its own words if it explained itself."""
    prefix = f"tinykv {process.name.partition('-')[0]}: "
    told = [line for line in _tail(process.log, 2 * LOG_LINES) if line.startswith((prefix, "Error: "))]
    if told and process.child.returncode in {1, 2}:
        return f"{process.name} could not start: {told[-1].removeprefix(prefix).removeprefix('Error: ')}"
    return (
        f"{process.name} ended before it was ready ({process.describe_end()}); its log, {process.log}, ends with\n"
        f"{last_lines(process.log)}"
    )


def last_lines(log: Path) -> str:
    """Return what a log says at its end, indented: errors and what follows them, or the last lines if there are none."""
    lines = _tail(log, 20 * LOG_LINES)
    errors = [index for index, line in enumerate(lines) if _ERROR_LINE.search(line)]
    begin = errors[0] if errors else -LOG_LINES
    return "\n".join(f"    {line}" for line in lines[begin:][:LOG_LINES])


def last_critical(log: Path) -> str:
    """Return the message of the last CRITICAL line of a log, by which a server says why it gives up; empty without one."""
    for line in reversed(_tail(log, 20 * LOG_LINES)):
        if " CRITICAL " in line:
            return line.partition(" CRITICAL ")[2].partition(": ")[2]
    return ""


def _tail(log: Path, count: int) -> list[str]:
    with log.open("rb") as stream:
        stream.seek(0, os.SEEK_END)
        stream.seek(max(0, stream.tell() - count * 400))
        return stream.read().decode(errors="replace").splitlines()[-count:]
