"""It always stops: a stop that begins at a random step of a cluster's short life, in each of several ways."""

from __future__ import annotations

import pytest

from pytinykv.simulation import run_scenario


@pytest.mark.parametrize("seed", range(1, 41))
def test_every_program_stops_whatever_goes_on(seed: int) -> None:
    run_scenario("stop-at-step", seed).check()
