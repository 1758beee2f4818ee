"""client-go v2, unmodified: raw operations and transactions of every kind, by a small program that is built here.

The first build on a machine compiles gRPC and takes a minute or two; later ones some seconds.
"""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from tests.process.cluster import Cluster

SOURCE = Path(__file__).with_name("client_go")
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
    command = [go() or "", "build", "-o", path, "."]
    built = subprocess.run(command, cwd=SOURCE, check=False, capture_output=True, text=True, timeout=BUILD_S)
    if built.returncode != 0 and "dial tcp" in built.stderr:
        pytest.skip("the modules of client-go can't be downloaded here")
    assert built.returncode == 0, built.stderr
    return path


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
