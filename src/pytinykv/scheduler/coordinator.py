"""The coordinator: what a region's leader is to do now, be it the next step of an operator or the start of a new one.

Checkers propose, the operator controller decides. What looks at the whole cluster and not at one region, the region balancer
and administrators' requests, hands its operators to the controller itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from pytinykv.scheduler.operator_controller import OperatorController
from pytinykv.scheduler.operators import Operator, Order
from pytinykv.scheduler.records import ReportedRegion


class Checker(Protocol):
    """Looks at one region and proposes an operator, or None. Changes nothing itself."""

    def check(self, region: ReportedRegion, now: float) -> Operator | None: ...


class Coordinator:
    """Joins the checkers, most important first, with the operators that run."""

    def __init__(self, operators: OperatorController, checkers: Sequence[Checker]) -> None:
        self._operators = operators
        self._checkers = tuple(checkers)

    def decide(self, region: ReportedRegion, now: float) -> Order | None:
        """Return the order for the region's leader, if any. One operator ends and the next begins in one go."""
        order = self._operators.on_region(region, now)
        if order is not None or self._operators.get(region.id) is not None:
            return order
        for checker in self._checkers:
            operator = checker.check(region, now)
            if operator is not None and self._operators.add(operator, now):
                return self._operators.on_region(region, now)
        return None
