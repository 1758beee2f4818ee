"""Stories about what no story told before: removals, values that end, batches, restarts in good order, moves, replays."""

from __future__ import annotations

import pytest

from pytinykv.simulation import run_scenario
from pytinykv.simulation.nemeses import NEMESES
from pytinykv.simulation.scenarios.storm import KINDS, PAIRS, pair_for


@pytest.mark.parametrize("scenario", ["batches", "moves", "removals", "replays", "rolling", "scheduler-stalls", "ttl"])
@pytest.mark.parametrize("seed", range(1, 3))
def test_history_is_right(scenario: str, seed: int) -> None:
    run_scenario(scenario, seed).check()


def test_kinds_of_faults_can_be_put_in_and_the_command_says_so() -> None:
    result = run_scenario("storm", 3, added=["stalls", "no lease"], without=NEMESES.keys() - {"stalls"})
    result.check()
    assert {"stalls", "no lease"} <= set(result.kinds)
    assert "--with 'stalls,no lease'" in result.command


def test_every_pair_of_nemeses_has_its_turn() -> None:
    count = len(NEMESES) * (len(NEMESES) - 1) // 2
    assert len(PAIRS) == count == len({frozenset(pair_for(seed)) for seed in range(7, 7 + count)})
    assert NEMESES.keys() < KINDS
