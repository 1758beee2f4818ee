"""Regions that grow while the stores that join die or are cut off; see `simulation.scenarios.growth`."""

from __future__ import annotations

import pytest

from pytinykv.simulation import run_scenario


@pytest.mark.parametrize("seed", range(1, 4))
def test_a_store_that_dies_while_it_joins_costs_nothing(seed: int) -> None:
    """Before peers learnt first, the region had lost its quorum here, for ever."""
    run_scenario("joiner-dies", seed).check()


def test_the_region_serves_all_the_time_while_it_grows() -> None:
    """Between one voter and three there is a moment of two, of which either is needed; a fault seldom meets it."""
    results = [run_scenario("growth", seed) for seed in range(1, 13)]
    for result in results:
        result.check()
    assert sum("one of two voters" in result.notes[1] for result in results) <= 3
