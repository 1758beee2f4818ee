"""Sums over histories, and `./dev soak`, which prints them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from pytinykv.simulation import Result
from pytinykv.simulation.tally import Tally
from pytinykv.simulation.world import Stops

TOOL = Path(__file__).parents[2] / "tools" / "soak.py"


def test_only_long_histories_of_five_stores_are_full() -> None:
    tally = Tally()
    for stores, virtual_s in ((5, 15.0), (5, 14.9), (3, 20.0)):
        tally.add(Result(scenario="storm", seed=1, stores=stores, virtual_s=virtual_s, cpu_s=1.0))
    total = tally.total()
    assert (total.histories, total.full, total.failed) == (3, 1, 0)
    assert total.speed == pytest.approx(49.9 / 3)


def test_the_longest_stop_and_all_late_ones_are_kept() -> None:
    tally = Tally()
    for stops in (Stops(10, 0.5, 0), Stops(5, 9.0, 1), Stops(7, 0.1, 0)):
        tally.add(Result(scenario="basic", seed=1, stops=stops))
    assert (tally.stops.count, tally.stops.longest_s, tally.stops.late) == (22, 9.0, 1)


def test_leaks_are_told_apart_from_other_failures() -> None:
    tally = Tally()
    for checker in ("leaks", "linearizability", "leaks"):
        tally.add(Result(scenario="basic", seed=1, failure="bad", checker=checker))
    assert (tally.leaks, tally.total().failed) == (2, 3)


PLANT = """
import sys

if "pytinykv.simulation" in sys.orig_argv or "--lots" in sys.argv:
    from pytinykv.simulation.cluster import Cluster, ClusterOptions
    from pytinykv.simulation.errors import Violation
    from pytinykv.simulation.scenario import scenario

    @scenario("planted", ClusterOptions(stores=1))
    async def planted(cluster: Cluster) -> None:
        "Fails for one seed."
        if cluster.world.seed == 8:
            raise Violation("planted", "this was to be found")
"""


def soak(directory: Path, *arguments: object) -> subprocess.CompletedProcess[str]:
    (directory / "sitecustomize.py").write_text(PLANT)
    return subprocess.run(
        [sys.executable, TOOL, "--keep", directory, *map(str, arguments)],
        env={**os.environ, "PYTHONPATH": str(directory)},
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )


def test_a_soak_ends_with_its_figures(tmp_path: Path) -> None:
    soaked = soak(tmp_path, "--scenario", "basic", "--lots", 2, "--seed", 7, "--jobs", 2)
    assert soaked.returncode == 0, soaked.stdout + soaked.stderr
    summary = json.loads((tmp_path / "summary.json").read_text(encoding="utf-8"))
    assert summary["histories"] == summary["full_histories"] == 2
    assert summary["seeds"] == [7, 8]
    assert summary["violations"] == summary["leaks"] == summary["stops_past_the_bound"] == 0
    assert summary["stops"] == 2 * (1 + 5 + 3)
    assert (tmp_path / "summary.txt").read_text(encoding="utf-8") in soaked.stdout


def test_a_soak_keeps_what_failed_and_how_to_see_it_again(tmp_path: Path) -> None:
    soaked = soak(tmp_path, "--scenario", "planted", "--lots", 3, "--seed", 6, "--jobs", 1)
    assert soaked.returncode == 1
    assert "FAILED planted seed 8 (planted)" in soaked.stdout
    summary = json.loads((tmp_path / "summary.json").read_text(encoding="utf-8"))
    assert (summary["histories"], summary["violations"]) == (3, 1)
    assert summary["again"] == ["tinykv sim --scenario planted --seed 8 --long"]
    for suffix in ("txt", "html"):
        assert "this was to be found" in (tmp_path / f"planted-8.{suffix}").read_text(encoding="utf-8")
