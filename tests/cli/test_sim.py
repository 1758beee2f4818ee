"""`tinykv sim`, with a scenario of its own that fails when it is told to."""

from __future__ import annotations

import importlib.util
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from tests.cli.processes import environment, started, tinykv, tinykv_here, wait_until

from pytinykv.simulation import SCENARIOS

PLANT = """
import asyncio, os, sys, time

if sys.argv[1:2] == ["sim"] or "pytinykv.simulation" in sys.orig_argv:
    from pytinykv.simulation.cluster import Cluster, ClusterOptions
    from pytinykv.simulation.errors import Violation
    from pytinykv.simulation.scenario import scenario

    @scenario("planted", ClusterOptions(stores=1, starts=False))
    async def planted(cluster: Cluster) -> None:
        "Fails for seeds that 3 divides, dies with seed 100, hangs with seed 200."
        await asyncio.sleep(1.0)
        if cluster.world.seed == 100:
            sys.stderr.write("no such luck\\n")
            sys.stderr.flush()
            os._exit(77)
        if cluster.world.seed == 200:
            time.sleep(60)
        if cluster.world.seed % 3 == 0:
            cluster.world.trace.record("planted", "the last thing seen")
            raise Violation("planted", "this was to be found")
"""


@pytest.fixture
def planted(tmp_path: Path) -> str:
    """A PYTHONPATH with which every Python knows one scenario more."""
    (tmp_path / "sitecustomize.py").write_text(PLANT)
    return str(tmp_path)


def test_what_to_leave_out_or_put_in_must_be_a_kind_of_fault() -> None:
    for option in ("--without", "--with"):
        ended = tinykv_here("sim", option, "partitons")
        assert ended.returncode == 2
        assert "there is no kind of fault 'partitons'; there are partitions" in text(ended)


def text(ended: subprocess.CompletedProcess[bytes]) -> str:
    return (ended.stdout + ended.stderr).decode()


def test_one_history_is_told_with_its_digest_and_is_the_same_again() -> None:
    first = tinykv("sim", "--scenario", "one-partition", "--seed", 4)
    assert first.returncode == 0, text(first)
    lines = first.stdout.decode().splitlines()
    assert lines[0].startswith("ok one-partition seed 4, digest ")
    assert lines[1].split()[:2] == ["SCENARIO", "HISTORIES"]
    assert "virtual s in" in lines[-1]
    again = tinykv("sim", "--scenario", "one-partition", "--seed", 4)
    assert again.stdout.decode().splitlines()[0] == lines[0]


def test_a_failure_prints_the_one_command_that_shows_it_again(planted: str) -> None:
    found = tinykv("sim", "--scenario", "planted", "--count", 4, "--jobs", 2, PYTHONPATH=planted)
    assert found.returncode == 1, text(found)
    lines = found.stdout.decode().splitlines()
    failure = next(line for line in lines if line.startswith("FAILED "))
    assert failure.startswith("FAILED planted seed 3 (planted), digest ")
    assert any("this was to be found" in line for line in lines)
    (command,) = [line.removeprefix("again: ") for line in lines if line.startswith("again: ")]
    words = command.split()
    assert words[0] == "tinykv"
    script = Path(sys.executable).with_name("tinykv")
    again = subprocess.run(
        [script, *words[1:]], capture_output=True, env=environment(PYTHONPATH=planted), timeout=60, check=False
    )
    assert again.returncode == 1, text(again)
    assert failure in again.stdout.decode().splitlines(), "the same history, to the last event"
    assert next(line for line in lines if line.startswith("planted ")).split()[1:3] == ["4", "1"]


def test_every_history_is_run_once_however_many_workers_share_them(planted: str) -> None:
    ended = tinykv("sim", "--scenario", "planted", "--seed", 1, "--count", 7, "--jobs", 3, PYTHONPATH=planted)
    failures = sorted(line.split()[3] for line in ended.stdout.decode().splitlines() if line.startswith("FAILED"))
    assert failures == ["3", "6"]
    assert "planted           7       2" in ended.stdout.decode()


def test_until_failure_goes_on_until_there_is_one_and_no_further(planted: str) -> None:
    ended = tinykv("sim", "--scenario", "planted", "--seed", 4, "--jobs", 1, "--until-failure", PYTHONPATH=planted)
    assert ended.returncode == 1, text(ended)
    lines = ended.stdout.decode().splitlines()
    assert [line.split()[3] for line in lines if line.startswith("FAILED")] == ["6"]
    assert any(line.split()[:3] == ["planted", "3", "1"] for line in lines)


def test_a_trace_shows_what_happened_before_the_failure(planted: str) -> None:
    ended = tinykv("sim", "--scenario", "planted", "--seed", 3, "--trace", PYTHONPATH=planted)
    assert "planted the last thing seen" in ended.stdout.decode()


def test_a_worker_that_dies_is_a_failure_of_the_history_it_was_at(planted: str) -> None:
    ended = tinykv("sim", "--scenario", "planted", "--seed", 100, PYTHONPATH=planted)
    assert ended.returncode == 1
    assert "FAILED planted seed 100: worker ended with 77\nno such luck" in ended.stdout.decode(), text(ended)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupted_it_tells_what_it_knows_and_leaves_no_worker(
    planted: str, tmp_path: Path, number: signal.Signals
) -> None:
    with started(
        tmp_path, "sim", "--scenario", "planted", "--count", 10**6, "--jobs", 1, PYTHONPATH=planted
    ) as running:
        running.wait_line("FAILED planted seed 3 ")
        assert running.stop(number) == 1, "the failure that was found still counts"
        assert "planted " in running.output.rpartition("again:")[2], "the table"
    workers = [
        path
        for path in Path("/proc").glob("[0-9]*/environ")
        if str(tmp_path).encode() in _read(path) and path.parent.name != str(os.getpid())
    ]
    assert workers == []


def test_interrupted_in_the_middle_of_a_history_it_reports_no_failure(planted: str, tmp_path: Path) -> None:
    """The worker was stopped with it, and was taken for one that had died."""
    with started(tmp_path, "sim", "--scenario", "planted", "--seed", 200, "--jobs", 1, PYTHONPATH=planted) as running:
        worker = Path(f"/proc/{running.pid}/task/{running.pid}/children")
        wait_until(lambda: bool(worker.read_text().strip()))
        assert running.stop(signal.SIGINT) == 130
        assert "FAILED" not in running.output
        assert "tinykv sim: interrupted" in running.errors


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:  # it has ended, or belongs to another user
        return b""


def test_the_list_has_every_scenario_with_what_happens_in_it() -> None:
    listed = tinykv_here("sim", "--list")
    assert listed.returncode == 0
    for name, scenario in SCENARIOS.items():
        assert any(
            line.split()[0] == name and line.endswith(scenario.summary) for line in listed.stdout.decode().splitlines()
        )


def test_an_unknown_scenario_is_named_with_what_is_near_it() -> None:
    ended = tinykv_here("sim", "--scenario", "strom")
    assert ended.returncode == 2
    assert "there is no scenario 'strom'; did you mean storm or split-storm" in text(ended)


def test_without_the_extra_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *rest: None if name == "detangle" else find(name, *rest)
    )
    ended = tinykv_here("sim")
    assert ended.returncode == 1
    assert ended.stderr.decode() == "tinykv sim: the checkers need a library more: pip install 'pytinykv[sim]'\n"


def test_faults_can_be_left_out_counted_and_drawn(tmp_path: Path) -> None:
    page = tmp_path / "history.html"
    ended = tinykv(
        "sim", "--scenario", "disks", "--seed", 1, "--without", "crashes", "--without", "slow disks", "--timeline", page
    )
    assert ended.returncode == 0, text(ended)
    table = ended.stdout.decode().splitlines()
    kinds = table[next(n for n, line in enumerate(table) if line.startswith("FAULT")) + 1 : -1]
    assert kinds
    assert not any(line.startswith(("crashes", "slow disks")) for line in kinds)
    assert page.read_text(encoding="utf-8").startswith("<!doctype html>")
