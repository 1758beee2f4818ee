"""Count what a process has: tasks, threads, file descriptors, child processes (DESIGN section 11, point 6).

The counts are process-wide, so in a process that runs several scopes side by side (a test, the simulator) they also move
for reasons that are none of a scope's business. A scope therefore judges by what it owns, and shows the census beside it.
"""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path
from typing import NamedTuple


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


def take_census() -> Census:
    """Count now. Tasks are those of the running loop that have not ended, 0 without one."""
    return Census(
        tasks=_count_tasks(),
        threads=threading.active_count(),
        file_descriptors=len(open_descriptors()),
        child_processes=len(child_pids()),
    )


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


def _count_tasks() -> int:
    try:
        return len(asyncio.all_tasks())
    except RuntimeError:  # no running loop
        return 0
