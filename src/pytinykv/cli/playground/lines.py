"""What the playground says in plain lines: how to reach it, what happens, and how it ended."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Final

from pytinykv.cli.output import drop_output
from pytinykv.cli.playground.cluster import last_critical
from pytinykv.lifecycle.ready_line import ready_line

if TYPE_CHECKING:
    from collections.abc import Iterable

    from pytinykv.cli.playground.cluster import LocalCluster, ServerProcess
    from pytinykv.cli.playground.home import Home
    from pytinykv.lifecycle import StopReport

_DEFAULT: Final = "127.0.0.1:2379"


def program(name: str) -> str:
    """Return how to call a program of this installation from where the user stands: bare, if the shell finds it."""
    installed = Path(sys.executable).parent / name
    found = shutil.which(name)
    if found is not None and Path(found).resolve() == installed.resolve():
        return name
    here = Path.cwd()
    return str(installed.relative_to(here)) if installed.is_relative_to(here) else str(installed)


def pastes(address: str) -> list[tuple[str, str]]:
    """Return a line for each client that writes and reads a key; the shell's for a shell, the others for Python.

    That of tikv-client makes the interpreter end without its usual end, in which a thread of this client may call into it and
    so abort the process.
    """
    flag = "" if address == _DEFAULT else f" --scheduler {address}"
    own = f'db = pytinykv.connect("{address}"); db.raw.put(b"k", b"v"); print(db.raw.get(b"k")); db.close()'
    pure = f'db = tikv.RawClient("{address}"); db.put(b"k", b"v"); print(db.get(b"k")); db.close()'
    rust = f'db = tikv_client.RawClient.connect(["{address}"]); db.put(b"k", b"v"); print(db.get(b"k"), flush=True)'
    tinykv = program("tinykv")
    return [
        ("shell", f"{tinykv} put{flag} greeting hello && {tinykv} get{flag} greeting"),
        ("pytinykv", f"import pytinykv; {own}"),
        ("tikv-python", f"import tikv; {pure}"),
        ("tikv-client", f"import atexit, os, tikv_client; atexit.register(os._exit, 0); {rust}"),
    ]


def say(line: str) -> None:
    """Print a line; an output or terminal that was closed ends nothing."""
    try:
        print(line, flush=True)
    except OSError:
        drop_output()


def cluster_ready_line(scheduler: str, stores: Iterable[str]) -> str:
    """Return the line that scripts wait for: the addresses of the scheduler and the stores."""
    return ready_line({"scheduler": scheduler, "stores": ",".join(stores)})


def intro(cluster: LocalCluster, home: Home) -> list[str]:
    """Return what a newcomer needs to know."""
    kept = "deleted at the end" if home.is_temporary else "kept, start again with the same --data-dir"
    width = max(len(name) for name, _ in pastes(""))
    return [
        f"scheduler  {cluster.scheduler.addr}",
        f"stores     {', '.join(process.addr for process in cluster.stores)}",
        f"data       {home.path} ({kept})",
        f"logs       {home.path / 'logs'}",
        "",
        f"One line to paste for each client (into {program('python')}, but for the first):",
        *(f"  {name:{width}}  {line}" for name, line in pastes(cluster.scheduler.addr)),
        "",
        "Kill a store and see what happens: its number and k on a terminal, or kill -9 PID. Ctrl-C stops everything.",
    ]


def death_line(process: ServerProcess) -> str:
    """Return what to say when a process has ended before its time."""
    reason = last_critical(process.log)
    ending = f"{process.died} ({reason})" if reason else process.died
    return f"{process.name} (pid {process.child.pid}) has ended: {ending}; log: {process.log}"


def report_lines(cluster: LocalCluster, home: Home, report: StopReport, orphans: dict[int, str]) -> list[str]:
    """Return how each process ended, and whether anything is left."""
    width = max((len(process.name) for process in cluster.processes), default=0)
    lines = [_end_line(process, width) for process in (*cluster.stores, *cluster.processes[:1])]
    left = [f"process {pid} is still there: {command}" for pid, command in sorted(orphans.items())]
    if not home.is_gone:
        left.append(f"could not delete all of {home.path}")
    if not report.ok:
        left.extend(report.render().splitlines())
    if left:
        return [*lines, *left]
    where = "" if home.is_temporary else f"; the data stays in {home.path}"
    return [*lines, f"stopped in {report.took_s:.1f} s, nothing left behind{where}"]


def _end_line(process: ServerProcess, width: int) -> str:
    if process.died:
        return f"{process.name:{width}}  ended before the stop: {process.died}"
    if process.stopped_in_s is None:
        return f"{process.name:{width}}  {process.describe_end()}"
    return f"{process.name:{width}}  {process.describe_end()}  {process.stopped_in_s:.2f} s"
