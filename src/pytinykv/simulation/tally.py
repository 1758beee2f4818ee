"""What many histories came to, together: how much was run and checked, what went wrong in it, what was found.

A history is *full* if it has five stores and lasts at least fifteen virtual seconds; a soak needs so many of these.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Collection
from typing import Final

import msgspec

from pytinykv.simulation.scenario import Result
from pytinykv.simulation.world import Stops

FULL_STORES: Final = 5
FULL_S: Final = 15.0
FAULTS: Final = {
    "lost": "messages lost",
    "duplicated": "messages doubled",
    "blocked": "messages stopped at a cut",
    "clogged": "messages held up",
    "links cut": "links cut, one direction each",
    "links clogged": "links clogged",
    "links made worse": "links made worse",
    "partitions": "partitions",
    "broken": "connections broken",
    "refused by full buffers": "messages refused by full buffers",
    "snapshots broken": "snapshots broken off",
    "receipts lost": "receipts of snapshots lost",
    "crashes": "crashes",
    "power cuts": "of these in the middle of a turn",
    "batches lost": "batches at risk in them",
    "files torn": "files torn in them",
    "stalls": "processes held",
    "clocks changed": "clocks set wrong",
    "writes failed": "failing writes met",
    "syncs failed": "failing syncs met",
    "full disks met": "full disks met",
    "damaged reads": "damaged reads",
    "disks slowed": "disks slowed",
    "ends because of the disk": "programs that ended because of a disk",
    "orders": "needless orders to leaders",
    "terms": "terms with a leader",
    "snapshots arrived": "snapshots taken over",
}
"""Counter of a history -> how it is named in a summary."""
DURING: Final = ("get", "put", "delete", "cas", "failed", "unknown")
"""What clients asked for while a fault was on, and what of it failed or was never answered."""


class Sum(msgspec.Struct):
    """What the histories of one scenario, or of all, came to."""

    histories: int = 0
    full: int = 0
    failed: int = 0
    operations: int = 0
    unknown: int = 0
    virtual_s: float = 0.0
    cpu_s: float = 0.0

    def add(self, result: Result) -> None:
        self.histories += 1
        self.full += result.stores >= FULL_STORES and result.virtual_s >= FULL_S
        self.failed += not result.ok
        self.operations += result.operations
        self.unknown += result.unknown
        self.virtual_s += result.virtual_s
        self.cpu_s += result.cpu_s

    @property
    def speed(self) -> float:
        """Virtual seconds per second of one core."""
        return self.virtual_s / self.cpu_s if self.cpu_s else 0.0


class Tally(msgspec.Struct):
    """The sums of everything so far."""

    by_scenario: dict[str, Sum] = msgspec.field(default_factory=dict)
    found_by: Counter[str] = msgspec.field(default_factory=Counter)
    """Checker -> histories that it found wrong."""
    stops: Stops = msgspec.field(default_factory=Stops)
    counters: Counter[str] = msgspec.field(default_factory=Counter)
    drawn: Counter[str] = msgspec.field(default_factory=Counter)
    """Kind of fault -> histories in which it was on."""
    pairs: Counter[tuple[str, str]] = msgspec.field(default_factory=Counter)
    """Kinds of faults, in the order of their names -> histories in which both were on."""
    coverage: dict[str, Counter[str]] = msgspec.field(default_factory=dict)
    """Kind of fault -> operations asked for while it was on, and how many of them failed or have no known outcome."""

    def add(self, result: Result) -> None:
        """Take in one history."""
        self.by_scenario.setdefault(result.scenario, Sum()).add(result)
        if not result.ok:
            self.found_by[result.checker] += 1
        self.stops.count += result.stops.count
        self.stops.late += result.stops.late
        self.stops.longest_s = max(self.stops.longest_s, result.stops.longest_s)
        self.counters.update(result.counters)
        self.drawn.update(result.kinds)
        self.pairs.update(itertools.combinations(sorted(result.kinds), 2))
        for kind, counts in result.coverage.items():
            self.coverage.setdefault(kind, Counter()).update(counts)

    def total(self) -> Sum:
        """Return the sum of all scenarios."""
        total = Sum()
        for one in self.by_scenario.values():
            for name in Sum.__struct_fields__:
                setattr(total, name, getattr(total, name) + getattr(one, name))
        return total

    def pairs_of(self, kinds: Collection[str]) -> tuple[int, int, list[str]]:
        """Return how many pairs of these kinds there are, how many have met, and those that have met least often."""
        counts = {pair: self.pairs[pair] for pair in itertools.combinations(sorted(kinds), 2)}
        least = min(counts.values(), default=0)
        rarest = [f"{one} with {other}" for (one, other), count in counts.items() if count == least]
        return len(counts), sum(1 for count in counts.values() if count), rarest

    @property
    def leaks(self) -> int:
        """Histories that left something behind."""
        return self.found_by["leaks"]

    @property
    def faults(self) -> dict[str, int]:
        """Return what was injected and met, of what happened at all: word -> how often."""
        return {word: self.counters[name] for name, word in FAULTS.items() if self.counters[name]}
