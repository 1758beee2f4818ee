"""Time, handed in: what needs the time of day or a stopwatch takes a `Clock`.

Production hands in `SystemClock`; the simulator hands in one whose rate and offset it controls per store.
"""

from __future__ import annotations

import time
from typing import Final, Protocol


class Clock(Protocol):
    """Two clocks of one machine."""

    def monotonic(self) -> float:
        """Return seconds that never go back and count on while the machine is suspended.

        Comparable only with readings of the same clock; an event loop's time is another one.
        """
        ...

    def wall_ms(self) -> int:
        """Return milliseconds since the Unix epoch; may step in either direction."""
        ...


class SystemClock:
    """The clocks of the operating system."""

    _MONOTONIC: Final = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)
    """Linux's CLOCK_MONOTONIC stops while the machine is suspended: a lease measured by it would outlive the suspension, in
    which the other stores have elected a leader (thesis 6.4.1: a lease holds if clocks drift by no more than a bound)."""

    def monotonic(self) -> float:
        return time.clock_gettime(self._MONOTONIC)

    def wall_ms(self) -> int:
        return time.time_ns() // 1_000_000
