"""client-go v2, unmodified: raw operations and transactions of every kind, by a small program that is built here.

The first build on a machine compiles gRPC and takes a minute or two; later ones some seconds.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from tests.process.cluster import Cluster

SOURCE = Path(__file__).with_name("client_go")
README = Path(__file__).parents[2] / "README.md"
BUILD_S = 600.0
RUN_S = 60.0


def go() -> str | None:
    return shutil.which("go") or shutil.which("go", path="/usr/local/go/bin")


pytestmark = [
    pytest.mark.timeout(BUILD_S + 2 * RUN_S),
    pytest.mark.skipif(go() is None, reason="Go is not installed"),
]


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("go") / "program"
    build(SOURCE, path)
    return path


def build(source: Path, path: Path) -> None:
    command = [go() or "", "build", "-o", path, "."]
    built = subprocess.run(command, cwd=source, check=False, capture_output=True, text=True, timeout=BUILD_S)
    if built.returncode != 0 and "dial tcp" in built.stderr:
        pytest.skip("the modules of client-go can't be downloaded here")
    assert built.returncode == 0, built.stderr


def run(program: Path, cluster: Cluster, scenario: str) -> dict[str, Any]:
    ended = subprocess.run(
        [program, cluster.address, scenario], check=False, capture_output=True, text=True, timeout=RUN_S
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    shown = dict(json.loads(line) for line in ended.stdout.splitlines() if line.startswith('["'))
    assert shown.pop("done"), ended.stdout
    return shown


def test_transactions_of_every_kind_over_bounds_of_regions(cluster: Cluster, program: Path) -> None:
    assert run(program, cluster, "transactions") == {"two-phase": 10, "async": 10, "one-phase": 10, "conflict": True}


def test_pessimistic_locks_are_waited_for_and_deadlocks_are_told(cluster: Cluster, program: Path) -> None:
    assert run(program, cluster, "pessimistic") == {"counter": "40", "deadlock": True, "the other": True}


def test_raw_operations(cluster: Cluster, program: Path) -> None:
    assert run(program, cluster, "raw") == {"get": "1", "scan": 3, "scan after deletes": 0}


def test_the_program_in_the_readme_prints_what_it_says(cluster: Cluster, tmp_path: Path) -> None:
    (shown,) = re.findall(r"^```go\n(.*?)^```$", README.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    for name in ("go.mod", "go.sum"):
        shutil.copy(SOURCE / name, tmp_path)
    (tmp_path / "main.go").write_text(shown.replace("127.0.0.1:2379", cluster.address), encoding="utf-8")
    build(tmp_path, tmp_path / "program")
    ended = subprocess.run([tmp_path / "program"], check=False, capture_output=True, text=True, timeout=RUN_S)
    assert ended.returncode == 0, ended.stderr
    printed = [line for line in ended.stdout.splitlines() if not line.startswith("[")]  # but for its log
    assert printed == re.findall(r"fmt\.Println\(.*\) // (.+)$", shown, flags=re.MULTILINE)
