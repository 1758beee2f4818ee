"""How long things take, counted into buckets: cheap enough for hot paths, and readable from another thread."""

from __future__ import annotations

from bisect import bisect_left
from typing import Final

BOUNDS_S: Final = (
    0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0,
)  # fmt: skip
"""Upper ends of the buckets but the last, which has none. From a sync on a fast disk to a client's deadline."""


class Histogram:
    """Counts of durations. Written by one thread; a reader sees every single number right for some recent moment."""

    __slots__ = ("counts", "sum_s")

    def __init__(self) -> None:
        self.counts: Final = [0] * (len(BOUNDS_S) + 1)
        """How many took at most `BOUNDS_S[i]`, and more than the bound before; the last: more than any. Only grow."""
        self.sum_s = 0.0
        """All durations together; only grows."""

    def observe(self, seconds: float, times: int = 1) -> None:
        """Count `times` things that took so long each."""
        self.counts[bisect_left(BOUNDS_S, seconds)] += times
        self.sum_s += seconds * times
