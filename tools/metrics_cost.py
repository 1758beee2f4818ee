#!/usr/bin/env python3
"""Measure what counting commands costs a store: processor time a frame of puts, and a sync.

python tools/metrics_cost.py [REPEATS]
"""

from __future__ import annotations

import sys
import time
import timeit
from collections.abc import Callable

from pytinykv.lifecycle import SystemClock
from pytinykv.lifecycle.histogram import Histogram
from pytinykv.server.kv.command_stats import CommandStats
from pytinykv.server.kv.commands import MEMBERS

CALLS = 20_000


def least_us(work: Callable[[], object], repeats: int) -> float:
    """Return the processor time of one call in µs, the least of all repeats."""
    return min(timeit.repeat(work, number=CALLS, repeat=repeats, timer=time.process_time)) / CALLS * 1e6


def main(repeats: int) -> None:
    """Print the figures."""
    clock, stats, put = SystemClock(), CommandStats(), MEMBERS["RawPut"]
    for count in (1, 64, 256):
        kinds = [put] * count

        def frame(kinds: list = kinds) -> None:  # type: ignore[type-arg]  # of kinds of commands
            asked_at, proposed_at, now = clock.monotonic(), clock.monotonic(), clock.monotonic()
            stats.observe_all(kinds, now - asked_at)
            stats.proposals.observe(now - proposed_at)

        each = least_us(frame, repeats)
        print(f"{count:4} puts in a frame: {each:.2f} µs a frame, {each / count:.4f} µs a put")
    histogram = Histogram()
    print(f"a sync: {least_us(lambda: histogram.observe(0.0002), repeats):.2f} µs")


if __name__ == "__main__":
    main(int(sys.argv[1]) if sys.argv[1:] else 7)
