"""Time, handed in: whoever needs the time of day or a stopwatch takes a `Clock`.

Production hands in `SystemClock`; the simulator hands in one whose rate and offset it controls per store.
"""

from __future__ import annotations

import time
from typing import Protocol


class Clock(Protocol):
    """Two clocks of one machine."""

    def monotonic(self) -> float:
        """Return seconds that never go back; comparable only with readings of the same clock."""
        ...

    def wall_ms(self) -> int:
        """Return milliseconds since the Unix epoch; may step in either direction."""
        ...


class SystemClock:
    """The clocks of the operating system."""

    def monotonic(self) -> float:
        return time.monotonic()

    def wall_ms(self) -> int:
        return time.time_ns() // 1_000_000
