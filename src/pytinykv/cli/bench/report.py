"""What a bench prints and keeps: a table with ratios, the figures as JSON, a plot."""

from __future__ import annotations

import json
import platform
import statistics
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.table import Table

from pytinykv.cli.bench.bench_table import bench_table
from pytinykv.cli.bench.processors import ProcessRole
from pytinykv.cli.bench.workload import Latencies, OperationKind, Round

if TYPE_CHECKING:
    from pytinykv.cli.bench.figures import Figures
    from pytinykv.cli.bench.large_rows import LargeRowFigures
    from pytinykv.cli.bench.stops import StopFigures
    from pytinykv.cli.bench.workload import Workload


@dataclass
class Cell:
    """All rounds of one workload at one target."""

    workload: Workload
    target: str
    rounds: list[Round] = field(default_factory=list)
    latencies: Latencies = field(default_factory=Latencies, repr=False)
    """Of all rounds."""

    def add(self, measured: Round) -> None:
        self.rounds.append(measured)
        self.latencies.update(measured.latencies)

    @property
    def rate(self) -> float:
        """Operations per second, the median of the rounds."""
        return statistics.median(each.rate for each in self.rounds) if self.rounds else 0.0

    @property
    def processor_us(self) -> dict[ProcessRole, float]:
        """Processor time per operation in µs, the median of the rounds, of each role whose processes are known."""
        roles = self.rounds[0].processor_s if self.rounds else {}
        return {role: statistics.median(each.processor_us(role) for each in self.rounds) for role in roles}

    @property
    def cores_busy(self) -> float:
        """How many cores the known processes used, the median of the rounds."""
        return statistics.median(each.cores_busy for each in self.rounds) if self.rounds else 0.0


class Results:
    """Everything a bench has measured."""

    def __init__(self) -> None:
        self.cells: dict[tuple[OperationKind, int, str], Cell] = {}
        """By kind of operation, how many in flight, and target. Repeated measurements join their cell."""
        self.facts: dict[str, float] = {}
        """Single figures, with their unit in the name."""
        self.stops: StopFigures | None = None
        """None unless stops were measured; so the two below."""
        self.large_rows: LargeRowFigures | None = None
        """None unless reads of large rows were measured."""
        self.regions: Figures | None = None
        """None unless a cluster with many regions was measured."""

    def add(self, measured: Round) -> None:
        workload = measured.workload
        key = (workload.operation, workload.in_flight, measured.target)
        self.cells.setdefault(key, Cell(workload, measured.target)).add(measured)

    @property
    def targets(self) -> list[str]:
        """What was measured, in the order in which it was first."""
        return list(dict.fromkeys(cell.target for cell in self.cells.values()))

    def ratio(self, cell: Cell, baseline: str) -> float | None:
        """Return how many times the baseline's rate this is, round by round and then the median; None without one."""
        other = self.cells.get((cell.workload.operation, cell.workload.in_flight, baseline))
        if other is None or other is cell:
            return None
        pairs = zip(cell.rounds, other.rounds, strict=False)
        ratios = [ours.rate / theirs.rate for ours, theirs in pairs if theirs.rate]
        return statistics.median(ratios) if ratios else None

    def table(self, baseline: str) -> Table:
        latencies = ("p50 ms", "p99 ms", "max ms")
        title = "operations per second, median of the rounds"
        table = bench_table(title, "operation", "in flight", "target", "ops/s", f"× {baseline}", *latencies)
        for cell in self.cells.values():
            ratio = self.ratio(cell, baseline)
            table.add_row(
                cell.workload.operation.value,
                str(cell.workload.in_flight),
                cell.target,
                f"{cell.rate:,.0f}",
                "" if ratio is None else f"{ratio:.2f}",
                *(f"{value:.2f}" for value in cell.latencies.percentiles_ms(0.5, 0.99, 1.0)),
            )
        return table

    def processor_table(self) -> Table:
        title = "processor time per operation in µs, and cores busy, median of the rounds"
        table = bench_table(title, "operation", "in flight", "target", *ProcessRole, "all", "cores")
        for cell in self.cells.values():
            used = cell.processor_us
            table.add_row(
                cell.workload.operation.value,
                str(cell.workload.in_flight),
                cell.target,
                *(_short(used[role]) if role in used else "" for role in ProcessRole),
                _short(sum(used.values())),
                f"{cell.cores_busy:.2f}",
            )
        return table

    def as_json(self, baseline: str) -> dict[str, Any]:
        return {
            "when": datetime.now(UTC).isoformat(timespec="seconds"),
            "machine": {"python": platform.python_version(), "system": platform.platform()},
            "facts": self.facts,
            "stops": None if self.stops is None else self.stops.as_json(),
            "large_rows": None if self.large_rows is None else self.large_rows.as_json(),
            "regions": None if self.regions is None else self.regions.as_json(),
            "cells": [
                {
                    "operation": cell.workload.operation.value,
                    "in_flight": cell.workload.in_flight,
                    "value_bytes": cell.workload.value_bytes,
                    "target": cell.target,
                    "rates": [round(each.rate, 1) for each in cell.rounds],
                    "ratio": self.ratio(cell, baseline),
                    "processor_us": {role.value: round(used, 2) for role, used in cell.processor_us.items()},
                    "cores_busy": round(cell.cores_busy, 2),
                    "latency_ms": dict(
                        zip(("p50", "p99", "max"), cell.latencies.percentiles_ms(0.5, 0.99, 1.0), strict=True)
                    ),
                }
                for cell in self.cells.values()
            ],
        }

    def save(self, path: Path, baseline: str) -> None:
        path.write_text(json.dumps(self.as_json(baseline), indent=2) + "\n", encoding="utf-8")


def _short(number: float) -> str:
    """Return a number with as many digits as it deserves."""
    return f"{number:,.0f}" if number >= 100 else f"{number:.1f}"
