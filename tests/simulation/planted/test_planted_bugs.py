"""A checker that never fails proves nothing: each bug planted here, in the real code, must be found."""

from __future__ import annotations

import textwrap

import pytest

from planted import commit_plants, hibernation_plants, more_plants, move_plants, split_plants, txn_plants
from planted.patching import Patch, StalePlantError
from planted.plants import LEFT_OPEN, PLANTS, Plant
from pytinykv.simulation import run_scenario

assert more_plants, "its import registers more"
assert split_plants, "and more"
assert move_plants, "and those of moves"
assert hibernation_plants, "and more"
assert txn_plants, "and those of transactions"
assert commit_plants, "and the rest"


@pytest.mark.parametrize("plant", PLANTS, ids=[plant.plant.__name__ for plant in PLANTS])
def test_planted_bug_is_found(plant: Plant, monkeypatch: pytest.MonkeyPatch) -> None:
    patch = Patch(monkeypatch)
    plant.plant(patch)
    seeds = range(plant.first, plant.first + plant.seeds)
    found = (result for seed in seeds if not (result := run_scenario(plant.scenario, seed)).ok)
    result = next(found, None)
    while LEFT_OPEN:
        LEFT_OPEN.pop().close()
    assert result is not None, f"not found in {plant.seeds} seeds of {plant.scenario}"
    assert result.checker in plant.checkers, result.failure
    patch.check()


class Code:
    """Stands for the code that a bug is planted into."""

    def add(self, one: int, other: int = 0, *, times: int = 1) -> int:
        return (one + other) * times

    async def later(self, one: int) -> int:
        return self.add(one)


def test_a_plant_that_runs_and_fails_elsewhere_is_in_order(monkeypatch: pytest.MonkeyPatch) -> None:
    original = textwrap.indent
    patch = Patch(monkeypatch)
    patch.setattr(textwrap, "indent", lambda text, prefix, predicate=None: original(text, prefix * 2, predicate))
    assert textwrap.indent("a", " ") == "  a"
    with pytest.raises(AttributeError):
        textwrap.indent(1, " ")  # type: ignore[arg-type] # the error comes out of the code, not of the plant
    patch.check()


def test_a_plant_that_does_not_run_is_stale(monkeypatch: pytest.MonkeyPatch) -> None:
    patch = Patch(monkeypatch)
    patch.setattr(Code, "add", lambda *_, **__: 0)
    with pytest.raises(StalePlantError, match=r"does not call Code\.add"):
        patch.check()


def test_a_plant_that_takes_other_arguments_than_the_code_gives_is_stale(monkeypatch: pytest.MonkeyPatch) -> None:
    patch = Patch(monkeypatch)
    for stale in (lambda _self: 0, lambda _self, _one, _other: 0, lambda _self, _one, _other=0, *, factor=1: factor):
        with pytest.raises(StalePlantError, match="does not fit"):
            patch.setattr(Code, "add", stale)
    assert Code().add(1) == 1


async def test_a_plant_that_fails_by_itself_is_stale(monkeypatch: pytest.MonkeyPatch) -> None:
    original = Code.later

    async def later(self: Code, one: int) -> int:
        return await original(self, one, 2)  # type: ignore[call-arg] # that is what is wrong with it

    patch = Patch(monkeypatch)
    patch.setattr(Code, "later", later)
    with pytest.raises(TypeError):
        await Code().later(1)
    with pytest.raises(StalePlantError, match="the plant itself is broken"):
        patch.check()


def test_there_are_twenty_and_each_has_its_own_name() -> None:
    assert len({plant.name for plant in PLANTS}) == len(PLANTS) >= 20
