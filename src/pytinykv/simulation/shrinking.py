"""A failed history with fewer faults: told again without one kind after the other, as long as the same check fails.

Every kind of fault has its own branch of the seed, so what is left goes on as before, as far as the rest lets it.
"""

from __future__ import annotations

from collections.abc import Callable

from pytinykv.simulation.scenario import Result, run_scenario

__all__ = ["shrink"]

Run = Callable[[str, int, list[str]], Result]


def shrink(failed: Result, run: Run | None = None) -> Result:
    """Return the failure with as few kinds of faults as can be found; `failed` itself if none can go.

    Costs one history per kind.
    """
    run = run or _run
    smallest = failed
    for kind in list(failed.kinds):
        if kind not in smallest.kinds:
            continue  # went with another one
        attempt = run(failed.scenario, failed.seed, [*smallest.without, kind])
        if attempt.checker == failed.checker:
            smallest = attempt
    return smallest


def _run(scenario: str, seed: int, without: list[str]) -> Result:
    return run_scenario(scenario, seed, without=without)
