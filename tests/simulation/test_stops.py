"""It always stops: a stop that begins at a random step of a cluster's short life, in each of several ways."""

from __future__ import annotations

import pytest

from pytinykv.simulation import run_scenario

STEPS = (0, 1, 2, 3, *range(50, 1000, 100), 1500, 2200, 3000, 4000, 5000, 5999)
"""Each is stopped at in two of the five ways."""


@pytest.mark.seeds(12)
def test_every_program_stops_whatever_goes_on(seed: int) -> None:
    run_scenario("stop-at-step", seed).check()


@pytest.mark.parametrize(
    ("step", "way"), [(step, (place + more) % 5) for place, step in enumerate(STEPS) for more in (0, 2)]
)
def test_steps_can_be_gone_through_one_by_one(step: int, way: int) -> None:
    """`tinykv sim --scenario stop-at-every-step --seed 0 --count 30000` goes through all of them."""
    result = run_scenario("stop-at-every-step", way * 6000 + step)
    result.check()
    assert result.notes[0] == f"step {step}"


@pytest.mark.parametrize("seed", [6587, 12586, 24591])
def test_clients_may_be_stopped_before_they_work(seed: int) -> None:
    """The story itself failed when every client was gone before it had given one its work."""
    run_scenario("stop-at-every-step", seed).check()
