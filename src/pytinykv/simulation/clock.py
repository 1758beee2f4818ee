"""The clocks of one simulated machine."""

from __future__ import annotations

from pytinykv.simulation.loop import SimLoop

EPOCH_MS = 1_750_000_000_000
"""The wall clock's reading at the start of every history (June 2025)."""


class SimClock:
    """Virtual time as one machine sees it (`lifecycle.Clock`): shifted by an offset, and running a little fast or slow.

    `rate` 1.001 gains a millisecond per second. Both clocks share the rate; only the wall clock can step.
    """

    def __init__(self, loop: SimLoop, *, offset_s: float = 0.0, rate: float = 1.0) -> None:
        self._loop = loop
        self._rate = rate
        """Seconds that pass here in one of virtual time, since `_base`; moved by `set_rate` only."""
        self._started = loop.time()
        """World time at which the rate was set last."""
        self._base = offset_s + self._started
        """What `monotonic` was then."""
        self._wall_offset_ms = 0
        """Sum of all steps of the wall clock."""

    def monotonic(self) -> float:
        return self._base + (self._loop.time() - self._started) * self._rate

    def wall_ms(self) -> int:
        return EPOCH_MS + self._wall_offset_ms + int(self.monotonic() * 1000)

    def set_rate(self, rate: float) -> None:
        """Run faster or slower from now on, without a jump."""
        self._base = self.monotonic()
        self._started = self._loop.time()
        self._rate = rate

    def step_wall(self, by_ms: int) -> None:
        """Set the wall clock forward or back, as an administrator or NTP would."""
        self._wall_offset_ms += by_ms
