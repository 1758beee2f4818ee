"""The tool that tells what the lifecycle kit costs: it compares, and what it calls "without" is without."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest

TOOL = Path(__file__).resolve().parents[2] / "tools/kit_cost.py"
LIMIT_S = 60.0


def test_it_compares_two_clusters_round_by_round(tmp_path: Path) -> None:
    short = ("--clusters", "2", "--rounds", "2", "--seconds", "0.1", "--warm-up", "0.1", "--in-flight", "8")
    command = [sys.executable, TOOL, *short, "--save", tmp_path / "all"]
    done = subprocess.run(command, capture_output=True, timeout=LIMIT_S, check=False)
    assert (done.returncode, done.stderr) == (0, b"")
    assert b"8 puts in flight, 2 pairs of clusters" in done.stdout
    [comparison] = json.loads((tmp_path / "all").read_text())
    for side in ("kit", "bare"):
        assert [len(run) for run in comparison[side]] == [2, 2]
        samples = [sample for run in comparison[side] for sample in run]
        assert all(sample["puts_per_s"] > 0 and sample["cpu_us_per_put"] > 0 for sample in samples)


@pytest.mark.parametrize(
    ("program", "ends", "logs"), [((TOOL, "--bare"), -signal.SIGTERM, False), (("-m", "pytinykv"), 0, True)]
)
def test_a_server_without_the_kit_neither_stops_in_order_nor_logs(
    tmp_path: Path, program: tuple[str, ...], ends: int, logs: bool
) -> None:
    command = [sys.executable, *program, "scheduler", "--addr", "127.0.0.1:0", "--data-dir", tmp_path / "data"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as server:
        assert server.stdout is not None
        assert server.stdout.readline().startswith(b"ready ")
        server.send_signal(signal.SIGTERM)
        _, errors = server.communicate(timeout=LIMIT_S)
    assert (server.returncode, bool(errors)) == (ends, logs)
