"""`tinykv bench --embedded`: a small run of every step, and one that is told to stop."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.cli.processes import tinykv_here

from pytinykv.cli.bench.embedded import STEPS, EmbeddedPlan, measure_embedded
from pytinykv.cli.bench.figures import Bound
from pytinykv.lifecycle import Scope

PLAN = EmbeddedPlan(rows=300, value_bytes=100, rounds=1, seconds=0.05, data_bytes=1 << 20)


@pytest.fixture
def directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Where temporary directories are made; at the end of the test there is nothing in it any more."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    yield
    assert list(tmp_path.iterdir()) == []


async def test_every_figure_of_the_table_is_measured(directory: None) -> None:
    steps: list[str] = []
    async with Scope("bench") as scope:
        figures = await measure_embedded(scope, PLAN, lambda step, _number: steps.append(step))
    assert steps == list(STEPS)
    targets = {figure.name: (figure.bound, figure.target) for figure in figures.figures if figure.bound is not None}
    assert targets == {
        "durable commits of one put, 16 threads, beside SQLite": (Bound.AT_LEAST, 2.0),
        "durable commits of one put, 1 thread, beside SQLite": (Bound.AT_LEAST, 1.0),
        "snapshot gets, 1 thread": (Bound.AT_LEAST, 100_000),
        "snapshot gets, 1 thread, beside SQLite": (Bound.AT_LEAST, 0.5),
        "scan": (Bound.AT_LEAST, 400_000),
        "open of 1 MiB": (Bound.AT_MOST, 1.0),
        "close of 1 MiB": (Bound.AT_MOST, 1.0),
        "import and open to the first commit": (Bound.AT_MOST, 0.4),
    }
    assert all(figure.value > 0 for figure in figures.figures)


async def test_told_to_stop_it_ends_within_an_operation(directory: None) -> None:
    reached = asyncio.Event()
    async with Scope("bench") as scope:
        plan = PLAN._replace(seconds=3600.0)
        work = scope.child("work")
        work.start(
            "all", measure_embedded, work.child("threads"), plan, lambda step, _: step == "commits" and reached.set()
        )
        await reached.wait()
        report = await work.stop()
    assert report.ok, report.render()


def test_it_measures_no_cluster_beside() -> None:
    done = tinykv_here("bench", "--embedded", "--stops", 1)
    assert (done.returncode, b"--embedded goes with --rounds" in done.stderr) == (2, True)
