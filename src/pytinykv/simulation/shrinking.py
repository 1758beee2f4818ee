"""A failed history with fewer faults: told again without one kind after the other, as long as the same check fails.

Every kind of fault has its own branch of the seed, so what is left goes on as before, as far as the rest lets it.
"""

from __future__ import annotations

from collections.abc import Callable

from pytinykv.simulation.scenario import Result, run_scenario

Run = Callable[[Result, list[str]], Result]
"""Runs a history again without these kinds of faults."""


def shrink(failed: Result, run: Run | None = None) -> Result:
    """Return the failure with as few kinds of faults as can be found; `failed` itself if none can go.

    Costs one history per kind.
    """
    run = run or tell_again
    smallest = failed
    for kind in list(failed.kinds):
        if kind not in smallest.kinds:
            continue  # went with another one
        attempt = run(failed, [*smallest.without, kind])
        if attempt.checker == failed.checker:
            smallest = attempt
    return smallest


def tell_again(history: Result, without: list[str], *, keep_lines: bool = False) -> Result:
    """Run a history once more, without some kinds of faults."""
    return run_scenario(
        history.scenario,
        history.seed,
        without=without,
        added=history.added,
        is_long=history.is_long,
        keep_lines=keep_lines,
    )
