"""Swarms of faults: each seed draws its own. `./dev soak` runs many more of these, and so does `--more N`."""

from __future__ import annotations

import pytest

from pytinykv.simulation import run_scenario
from pytinykv.simulation.nemeses import NEMESES
from pytinykv.simulation.scenarios.storm import CONDITIONS, SETTINGS


@pytest.mark.seeds(8)
def test_storm(seed: int) -> None:
    run_scenario("storm", seed).check()


@pytest.mark.seeds(2)
def test_split_brain(seed: int) -> None:
    run_scenario("split-brain", seed).check()


@pytest.mark.parametrize("scenario", ["elections", "rivals"])
@pytest.mark.seeds(2)
def test_elections(scenario: str, seed: int) -> None:
    run_scenario(scenario, seed).check()


@pytest.mark.parametrize(
    ("kind", "seed"), [("mad clocks", 1), ("small pieces", 4), ("swizzled clogs", 1), ("tiny timeouts", 1)]
)
def test_one_kind_alone(kind: str, seed: int) -> None:
    result = run_scenario("storm", seed, added=[kind], without={*NEMESES, *CONDITIONS, *SETTINGS} - {kind})
    result.check()
    assert result.kinds == [kind]


@pytest.mark.parametrize("scenario", ["blackouts", "expiry", "figure-8", "stale-reports", "stale-scheduler"])
@pytest.mark.seeds(2)
def test_one_kind_of_trouble_at_its_worst(scenario: str, seed: int) -> None:
    run_scenario(scenario, seed).check()
