"""What `tinykv bench --regions` and `--embedded` found out: figures, each with its target and whether it was met."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any


class Bound(StrEnum):
    """On which side of its target a figure has to be."""

    AT_MOST = "≤"
    AT_LEAST = "≥"


@dataclass(frozen=True)
class Figure:
    """One line of the report."""

    step: str
    """What was done, a word of `STEPS`."""
    name: str
    value: float
    unit: str
    bound: Bound | None = None
    target: float = 0.0
    detail: str = ""
    """What a reader has to know beside the figure: what else was seen, or what the machine itself did."""

    @property
    def is_met(self) -> bool | None:
        """Whether the target was met; None without one."""
        match self.bound:
            case None:
                return None
            case Bound.AT_MOST:
                return self.value <= self.target
            case Bound.AT_LEAST:
                return self.value >= self.target

    @property
    def target_text(self) -> str:
        return "" if self.bound is None else f"{self.bound} {self.target:,g} {self.unit}".rstrip()

    @property
    def value_text(self) -> str:
        digits = f"{self.value:,.0f}" if abs(self.value) >= 100 else f"{self.value:,.3g}"
        return f"{digits} {self.unit}".rstrip()


def regions_title(regions: int) -> str:
    """Return the title of figures of a cluster with many regions."""
    return f"{regions:,} regions × 3 replicas"


@dataclass
class Figures:
    """All figures of a run."""

    title: str
    """What was measured."""
    figures: list[Figure] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)
    """Operations that failed, one of each kind of message, with what was done meanwhile."""

    def add(self, figure: Figure) -> None:
        self.figures.append(figure)

    def problems(self) -> Iterator[str]:
        """Yield what is not as promised, one line each."""
        for figure in self.figures:
            if figure.is_met is False:
                yield f"{figure.step}: {figure.name}: {figure.value_text}, target {figure.target_text}"
        yield from self.errors

    def lines(self) -> Iterator[str]:
        """Yield what a reader wants to know: each figure beside its target, and below it what explains it."""
        yield self.title
        for figure in self.figures:
            met = {None: "", True: "met", False: "MISSED"}[figure.is_met]
            target = f", target {figure.target_text}" if figure.target_text else ""
            yield f"{met:6} {figure.step}: {figure.name}: {figure.value_text}{target}"
            if figure.detail:
                yield f"       {figure.detail}"

    def as_json(self) -> dict[str, Any]:
        return {
            "title": self.title,
            "figures": [
                {
                    "step": figure.step,
                    "name": figure.name,
                    "value": round(figure.value, 4),
                    "unit": figure.unit,
                    "target": figure.target_text or None,
                    "met": figure.is_met,
                    "detail": figure.detail,
                }
                for figure in self.figures
            ],
            "errors": self.errors,
        }
