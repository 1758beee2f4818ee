"""Errors of the simulator.

    SimulationError
    ├── RealIoError          simulated code reached for a socket, a thread or a signal
    ├── Deadlock             nothing is runnable and no timer is pending: a real loop would sleep for ever
    ├── Livelock             virtual time does not advance although callbacks run and run
    ├── TimeLimitExceeded    the history ran past its bound of virtual time
    └── Violation            a checker found a broken guarantee; `checker` names it

All of them end the history; none is retryable.
"""

from __future__ import annotations


class SimulationError(Exception):
    """Base of everything the simulator raises by itself."""


class RealIoError(SimulationError):
    """Simulated code asked for something that isn't simulated and would make a history unrepeatable."""


class Deadlock(SimulationError):
    """Nothing can ever happen again, and the history isn't over."""


class Livelock(SimulationError):
    """Callbacks keep scheduling callbacks without virtual time moving on."""


class TimeLimitExceeded(SimulationError):
    """The history took more virtual time than it may."""


class Violation(SimulationError):
    """A guarantee of the system was broken. `checker` names the check that found it."""

    def __init__(self, checker: str, message: str) -> None:
        super().__init__(f"{checker}: {message}")
        self.checker = checker
        self.message = message
        self.situation = ""
        """What the cluster looked like then, if something did not happen in time."""
