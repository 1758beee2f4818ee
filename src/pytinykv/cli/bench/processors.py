"""Processor time per operation, process by process. Linux only.

Unlike a rate it hardly changes with what else the machine does, so figures of different days can be compared.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from enum import StrEnum
from typing import Final


class ProcessRole(StrEnum):
    """What a process does in a measurement."""

    CLIENT = "client"
    """The process that measures. It drives every target."""
    LEADER = "leader"
    FOLLOWERS = "followers"
    """All followers together."""


Processes = Mapping[ProcessRole, Sequence[int]]
"""The process ids of each role; roles that run on another machine are missing."""


def cpu_seconds(pid: int) -> float:
    """Return the processor time, user and system, that all threads of a process have used; steps of 10 ms."""
    with open(f"/proc/{pid}/stat", encoding="ascii") as stream:  # noqa: PTH123 - not a file worth a path
        fields = stream.read().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


class ProcessorClock:
    """Counts the processor time of processes from the moment it is made."""

    def __init__(self, processes: Processes) -> None:
        self._processes: Final = processes
        self._before: Final = self._read()

    def elapsed_s(self) -> dict[ProcessRole, float]:
        """Return the seconds of processor time that each role has used so far."""
        return {role: now - self._before[role] for role, now in self._read().items()}

    def _read(self) -> dict[ProcessRole, float]:
        return {role: sum(map(cpu_seconds, pids)) for role, pids in self._processes.items()}
