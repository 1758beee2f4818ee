"""Which worker runs which test: `tests/distribution.py`, by way of `conftest.py` of the repository's root."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections import defaultdict
from pathlib import Path

ROOT = Path(__file__).parents[2]
HEAVY = """
import os
import pytest

@pytest.mark.parametrize("number", range(5))
def test_that_is_heavy(number):
    with open("ran", "a") as ran:
        print(os.environ["PYTEST_XDIST_WORKER"], "heavy", file=ran)
"""
LIGHT = """
import os, pathlib, time
import pytest

@pytest.mark.parametrize("number", range(4))
def test_that_goes_on_until_all_heavy_ones_have_run(number):
    until = time.monotonic() + 30
    while pathlib.Path("ran").read_text().count("heavy") < 15 if pathlib.Path("ran").exists() else True:
        assert time.monotonic() < until
        time.sleep(0.01)
    with open("ran", "a") as ran:
        print(os.environ["PYTEST_XDIST_WORKER"], "light", file=ran)
"""
DEADLY = """
import os, signal
import pytest

@pytest.mark.parametrize("number", range({tests}))
def test_that_may_kill_its_worker(number):
    with open("ran", "a") as ran:
        print(os.environ["PYTEST_XDIST_WORKER"], __file__, file=ran)
    if number == {deadly}:
        os.kill(os.getpid(), signal.SIGKILL)
"""


def run(directory: Path, tests: dict[str, str], workers: int = 2) -> tuple[int, str, list[list[str]]]:
    """Run tests as `./dev test` does; return the status, what was said, and the words that the tests wrote, line by line."""
    (directory / "tests").mkdir()
    for name in ("conftest.py", "pyproject.toml", "tests/distribution.py"):
        shutil.copy(ROOT / name, directory / name)
    for path, text in tests.items():
        (directory / path).parent.mkdir(parents=True, exist_ok=True)
        (directory / path).write_text(text, encoding="utf-8")
    spread = ("-n", str(workers), "--dist", "loadfile")
    command = [sys.executable, "-m", "pytest", "-q", *spread, "-p", "no:cacheprovider", "tests"]
    done = subprocess.run(command, cwd=directory, capture_output=True, text=True, timeout=100, check=False)
    ran = [line.split() for line in (directory / "ran").read_text(encoding="utf-8").splitlines()]
    return done.returncode, done.stdout + done.stderr, ran


def test_all_workers_but_one_run_tests_of_processes_beside_all_others(tmp_path: Path) -> None:
    status, said, lines = run(
        tmp_path,
        {
            "tests/cli/test_a.py": HEAVY,
            "tests/process/test_b.py": HEAVY,
            "tests/process/test_c.py": HEAVY,
            "tests/raft/test_d.py": LIGHT,
        },
        workers=3,
    )
    assert status == 0, said
    ran = defaultdict(list)
    for worker, kind in lines:
        ran[kind].append(worker)
    assert len(ran["heavy"]) == 15
    assert len(set(ran["heavy"])) <= 2
    assert set(ran["light"]).isdisjoint(ran["heavy"])


def test_a_run_survives_the_death_of_its_workers(tmp_path: Path) -> None:
    """The tests in which they die fail and are not run again; each other one runs once, and the run comes to its end.

    One worker dies in the middle of a file, with others behind it that are finished; one in its last test; and what is left
    for their successors are files of a single test.
    """
    files = {
        "tests/process/test_a.py": DEADLY.format(tests=4, deadly=None),
        "tests/process/test_b.py": DEADLY.format(tests=4, deadly=2),
        "tests/process/test_c.py": DEADLY.format(tests=3, deadly=2),
        "tests/raft/test_d.py": DEADLY.format(tests=3, deadly=None),
        "tests/raft/test_e.py": DEADLY.format(tests=1, deadly=None),
        "tests/raft/test_f.py": DEADLY.format(tests=1, deadly=0),
        "tests/raft/test_g.py": DEADLY.format(tests=1, deadly=None),
    }
    status, said, lines = run(tmp_path, files)
    assert status == 1, said
    assert "3 failed, 14 passed" in said
    assert said.count("crashed while running") >= 3
    ran = defaultdict(int)
    for _, file in lines:
        ran[Path(file).relative_to(tmp_path).as_posix()] += 1
    assert ran == {"tests/process/test_a.py": 4, "tests/process/test_b.py": 4, "tests/process/test_c.py": 3} | {
        "tests/raft/test_d.py": 3,
        "tests/raft/test_e.py": 1,
        "tests/raft/test_f.py": 1,
        "tests/raft/test_g.py": 1,
    }


def test_tests_run_without_xdist(tmp_path: Path) -> None:
    for name in ("conftest.py", "pyproject.toml"):
        shutil.copy(ROOT / name, tmp_path)
    (tmp_path / "tests").mkdir()
    (tmp_path / "tests" / "test_any.py").write_text("def test_any(): pass\n", encoding="utf-8")
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:xdist", "-p", "no:cacheprovider", "tests"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
