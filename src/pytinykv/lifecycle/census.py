"""Count what a process has: tasks, threads, file descriptors, child processes.

The counts are process-wide, so in a process that runs several scopes side by side (a test, the simulator) they also move
for reasons outside of a scope. A scope therefore judges by what it owns, and shows the census beside it; `run_process`,
which has the process to itself, takes a difference for an error.

Not counted is what is kept for the life of the process: what a library was excused for (`excuse_threads`,
`excuse_descriptors`), and descriptors without a meaning outside of native libraries (epoll, eventfd).
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


_UNCOUNTED_TARGETS: Final = ("anon_inode:", "/dev/", "/proc/", "/sys/")
_excused_threads: Final[set[str]] = set()
_excused_descriptors: Final[set[int]] = set()


def excuse_threads(part_of_name: str) -> None:
    """Leave the threads with `part_of_name` in their names out of every census: they are kept for the life of the process."""
    _excused_threads.add(part_of_name)


def excuse_descriptors(numbers: Iterable[int]) -> None:
    """Leave descriptors out of every census from now on: they are kept for the life of the process."""
    _excused_descriptors.update(numbers)


def excused_descriptors() -> frozenset[int]:
    """Return the descriptors that are left out."""
    return frozenset(_excused_descriptors)


def take_census(*, without: asyncio.Task[Any] | None = None) -> Census:
    """Count now. Tasks are those of the running loop that have not ended, except `without`; 0 without a loop."""
    return Census(
        tasks=_count_tasks(without),
        threads=len(counted_threads()),
        file_descriptors=len(counted_descriptors()),
        child_processes=len(child_pids()),
    )


def counted_threads() -> list[threading.Thread]:
    """Return the threads that have to end before the process does."""
    return [thread for thread in threading.enumerate() if not any(part in thread.name for part in _excused_threads)]


def counted_descriptors() -> dict[int, str]:
    """Return the open descriptors that have to be closed before the process ends."""
    return {
        number: target
        for number, target in open_descriptors().items()
        if number not in _excused_descriptors and not target.startswith(_UNCOUNTED_TARGETS)
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
