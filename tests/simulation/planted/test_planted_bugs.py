"""A checker that never fails proves nothing: each bug planted here, in the real code, must be found."""

from __future__ import annotations

import pytest

from planted import hibernation_plants, more_plants, move_plants, split_plants
from planted.plants import LEFT_OPEN, PLANTS, Plant
from pytinykv.simulation import run_scenario

assert more_plants, "its import registers more"
assert split_plants, "and more"
assert move_plants, "and those of moves"
assert hibernation_plants, "and the rest"


@pytest.mark.parametrize("plant", PLANTS, ids=[plant.plant.__name__ for plant in PLANTS])
def test_planted_bug_is_found(plant: Plant, monkeypatch: pytest.MonkeyPatch) -> None:
    plant.plant(monkeypatch)
    seeds = range(plant.first, plant.first + plant.seeds)
    found = (result for seed in seeds if not (result := run_scenario(plant.scenario, seed)).ok)
    result = next(found, None)
    while LEFT_OPEN:
        LEFT_OPEN.pop().close()
    assert result is not None, f"not found in {plant.seeds} seeds of {plant.scenario}"
    assert result.checker in plant.checkers, result.failure


def test_there_are_twenty_and_each_has_its_own_name() -> None:
    assert len({plant.name for plant in PLANTS}) == len(PLANTS) >= 20
