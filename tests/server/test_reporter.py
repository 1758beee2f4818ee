"""A store's side of the talk with the scheduler."""

from __future__ import annotations

from pytinykv.lifecycle import Scope, SystemClock
from pytinykv.raftstore import RegionId
from pytinykv.server.reporter import SchedulerReporter


async def test_a_stopping_store_asks_no_more_questions() -> None:
    scope = Scope("store")
    reporter = SchedulerReporter(None, scope=scope, clock=SystemClock(), disk_usage=lambda: (0, 0))  # type: ignore[arg-type]  # nothing is asked
    await scope.stop()
    answers: list[object] = []
    reporter.ask_membership(RegionId(2), answers.append)
    assert answers == []
