"""Swarms of faults: each seed draws its own. `make soak` runs many more of these."""

from __future__ import annotations

import pytest

from pytinykv.simulation import run_scenario


@pytest.mark.parametrize("seed", range(1, 13))
def test_storm(seed: int) -> None:
    run_scenario("storm", seed).check()


@pytest.mark.parametrize("seed", range(1, 4))
def test_split_brain(seed: int) -> None:
    run_scenario("split-brain", seed).check()


@pytest.mark.parametrize("seed", range(1, 6))
def test_elections(seed: int) -> None:
    run_scenario("elections", seed).check()


@pytest.mark.parametrize("scenario", ["blackouts", "expiry", "figure-8", "stale-reports", "stale-scheduler"])
@pytest.mark.parametrize("seed", range(1, 3))
def test_one_kind_of_trouble_at_its_worst(scenario: str, seed: int) -> None:
    run_scenario(scenario, seed).check()
