"""Regions on the move: balance, scatter, draining, rolling restarts, and everything at once."""

from __future__ import annotations

import pytest

from pytinykv.simulation import run_scenario


@pytest.mark.parametrize(
    ("scenario", "seed"),
    [
        ("balance", 1),
        ("scatter", 1),
        ("drain", 1),
        ("drain", 2),
        ("rolling-regions", 1),
        ("sleepers", 1),
        ("region-churn", 1),
        ("region-churn", 2),
    ],
)
def test_stories_of_moves(scenario: str, seed: int) -> None:
    run_scenario(scenario, seed).check()
