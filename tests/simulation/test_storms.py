"""Swarms of faults: each seed draws its own. `make soak` runs many more of these."""

from __future__ import annotations

import pytest

from pytinykv.simulation import run_scenario


@pytest.mark.parametrize("seed", range(1, 11))
def test_storm(seed: int) -> None:
    run_scenario("storm", seed).check()


@pytest.mark.parametrize("seed", range(1, 4))
def test_split_brain(seed: int) -> None:
    run_scenario("split-brain", seed).check()


@pytest.mark.parametrize("seed", range(1, 6))
def test_elections(seed: int) -> None:
    run_scenario("elections", seed).check()
