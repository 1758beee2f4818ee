"""Regions that grow while the stores that join die or are cut off; see `simulation.scenarios.growth`."""

from __future__ import annotations

import pytest

from pytinykv.simulation import run_scenario


@pytest.mark.parametrize("seed", range(1, 4))
def test_a_store_that_dies_while_it_joins_costs_nothing(seed: int) -> None:
    """Before peers learnt first, the region had lost its quorum here, for ever."""
    run_scenario("joiner-dies", seed).check()


@pytest.mark.parametrize("seed", range(1, 13))
def test_the_region_serves_all_the_time_while_it_grows(seed: int) -> None:
    result = run_scenario("growth", seed)
    result.check()
    assert "one of two voters" not in result.notes[1], "the first fault must not cost a vote"
