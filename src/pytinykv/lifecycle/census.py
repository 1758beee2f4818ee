"""Count what a process has: tasks, threads, file descriptors, child processes.

The counts are process-wide, so in a process that runs several scopes side by side (a test, the simulator) they also move
for reasons that are none of a scope's business. A scope therefore judges by what it owns, and shows the census beside it;
`run_process`, which has the process to itself, takes a difference for an error.

Not counted is what no owner could end, because it is kept for the life of the process: gRPC's poller thread and its sockets
(see `rpc.engine`), and descriptors without a meaning outside of native libraries (epoll, eventfd).
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final, NamedTuple


class Census(NamedTuple):
    """How many there are; -1 where the operating system does not tell."""

    tasks: int
    threads: int
    file_descriptors: int
    child_processes: int

    def __str__(self) -> str:
        return (
            f"{self.tasks} tasks, {self.threads} threads, {self.file_descriptors} file descriptors, "
            f"{self.child_processes} child processes"
        )


ENGINE_THREADS: Final = ("_poll_wrapper",)
"""Parts of the names of threads that live as long as the process."""
_UNCOUNTED_TARGETS: Final = ("anon_inode:", "/dev/", "/proc/", "/sys/")
_engine_descriptors: Final[set[int]] = set()


def excuse_descriptors(numbers: Iterable[int]) -> None:
    """Leave descriptors out of every census from now on: they are kept for the life of the process."""
    _engine_descriptors.update(numbers)


def take_census(*, without: asyncio.Task[Any] | None = None) -> Census:
    """Count now. Tasks are those of the running loop that have not ended, except `without`; 0 without a loop."""
    return Census(
        tasks=_count_tasks(without),
        threads=len(counted_threads()),
        file_descriptors=len(counted_descriptors()),
        child_processes=len(child_pids()),
    )


def counted_threads() -> list[threading.Thread]:
    """Return the threads that somebody is expected to end."""
    return [thread for thread in threading.enumerate() if not any(name in thread.name for name in ENGINE_THREADS)]


def counted_descriptors() -> dict[int, str]:
    """Return the open descriptors that somebody is expected to close."""
    return {
        number: target
        for number, target in open_descriptors().items()
        if number not in _engine_descriptors and not target.startswith(_UNCOUNTED_TARGETS)
    }


def open_descriptors() -> dict[int, str]:
    """Return this process's open descriptors and what each is (a path, `socket:[inode]`, …); empty without /proc."""
    try:
        links = list(Path("/proc/self/fd").iterdir())
    except OSError:
        return {}
    found: dict[int, str] = {}
    for link in links:
        try:
            found[int(link.name)] = str(link.readlink())
        except OSError:  # closed since: the descriptor of the listing itself, always
            continue
    return found


def child_pids() -> dict[int, str]:
    """Return this process's children, zombies included, each with its command line; empty without /proc."""
    found: dict[int, str] = {}
    for listing in Path("/proc/self/task").glob("*/children"):
        try:
            pids = listing.read_text().split()
        except OSError:  # the thread has ended since
            continue
        for pid in pids:
            found[int(pid)] = _command_line(int(pid))
    return found


def _command_line(pid: int) -> str:
    try:
        raw = Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return "<gone>"
    return raw.replace(b"\0", b" ").decode(errors="replace").strip() or "<zombie>"


def _count_tasks(without: asyncio.Task[Any] | None) -> int:
    try:
        return len(asyncio.all_tasks() - {without})
    except RuntimeError:  # no running loop
        return 0
