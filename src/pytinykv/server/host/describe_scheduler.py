"""What the scheduler is doing, as plain data: the page `/debug/scheduler` of its status port.

Called from the status thread while the loop goes on, so it copies lists in one step, and reads single fields only.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from pytinykv.scheduler import Scheduler
    from pytinykv.scheduler.operators import Operator

ENDED_MAX: Final = 20
"""How many operators that have ended are shown."""


def describe_scheduler(scheduler: Scheduler) -> dict[str, Any]:
    """Return how many stores and regions it knows, and its operators: those that run, then the last that have ended."""
    now, operators = scheduler.now, scheduler.operators
    return {
        "cluster": scheduler.cluster_id,
        "stores": len(scheduler.state.stores),
        "regions": len(scheduler.cluster.regions),
        "running": [_describe(one, until=now, now=now) for one in operators.running()],
        "ended": [_describe(one, until=one.ended_at, now=now) for one in operators.ended()[:ENDED_MAX]],
    }


def _describe(operator: Operator, *, until: float, now: float) -> dict[str, Any]:
    steps = [str(step) for step in operator.steps]
    return {
        "region": operator.region_id,
        "what": operator.description,
        "status": operator.status.name.lower(),
        "reason": operator.reason,
        "steps": steps,
        "done_steps": operator.done_steps,
        "took_s": round(max(0.0, until - operator.started_at), 3),
        "ended_ago_s": round(max(0.0, now - until), 3),
    }
