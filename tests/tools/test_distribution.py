"""Which worker runs which test: `conftest.py` of the repository's root."""

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


def test_tests_of_processes_run_one_file_after_the_other_beside_all_others(tmp_path: Path) -> None:
    for name in ("conftest.py", "pyproject.toml"):
        shutil.copy(ROOT / name, tmp_path)
    for path, text in {
        "tests/cli/test_a.py": HEAVY,
        "tests/process/test_b.py": HEAVY,
        "tests/process/test_c.py": HEAVY,
        "tests/raft/test_d.py": LIGHT,
    }.items():
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(text, encoding="utf-8")
    command = [sys.executable, "-m", "pytest", "-q", "-n", "2", "--dist", "loadfile", "-p", "no:cacheprovider", "tests"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    ran = defaultdict(list)
    for line in (tmp_path / "ran").read_text(encoding="utf-8").splitlines():
        worker, kind = line.split()
        ran[kind].append(worker)
    assert len(ran["heavy"]) == 15
    assert len(set(ran["heavy"])) == 1
    assert set(ran["light"]).isdisjoint(ran["heavy"])
