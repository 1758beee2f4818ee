"""tikv-client 0.0.4 (its core is Rust), unmodified: its operations over three stores."""

from __future__ import annotations

import importlib.util
import json
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import pytest
from tests.process.cluster import Cluster, wait_until

pytestmark = [
    pytest.mark.skipif(
        importlib.util.find_spec("tikv_client") is None, reason="the last wheels of tikv-client are for CPython 3.11"
    ),
]

SCRIPT = Path(__file__).with_name("tikv_client_script.py")
DEADLINE_S = 60.0


@contextmanager
def client_process(cluster: Cluster, scenario: str, output: Path) -> Iterator[subprocess.Popen[str]]:
    with output.open("w") as stream:
        process = subprocess.Popen(
            [sys.executable, SCRIPT, cluster.address, scenario],
            stdin=subprocess.PIPE,
            stdout=stream,
            stderr=subprocess.STDOUT,
            text=True,
        )
    try:
        yield process
    finally:
        process.kill()
        process.wait(DEADLINE_S)
        close(process.stdin)


def close(stream: IO[str] | None) -> None:
    assert stream is not None
    stream.close()


def results(process: subprocess.Popen[str], output: Path) -> dict[str, Any]:
    """Return what the script has shown once it has ended; it must have come to its end."""
    status = process.wait(DEADLINE_S)
    printed = output.read_text()
    assert status == 0, printed
    shown = dict(json.loads(line) for line in printed.splitlines() if line.startswith('["'))
    assert "done" in shown, printed
    return shown


def run(cluster: Cluster, scenario: str, tmp_path: Path) -> dict[str, Any]:
    output = tmp_path / scenario
    with client_process(cluster, scenario, output) as process:
        return results(process, output)


def test_every_raw_operation(cluster: Cluster, tmp_path: Path) -> None:
    empty, odd = ["rs/empty", ""], ["rs/\xff\x00", "\x00"]
    assert run(cluster, "operations", tmp_path) == {
        "missing": None,
        "get": "1",
        "batch_get": [["rs/a", "1"], ["rs/c", "3"], odd],
        "empty": "",
        "scan": [["rs/a", "1"], ["rs/b", "2"], ["rs/c", "3"], empty, odd],
        "scan limit": [["rs/a", "1"], ["rs/b", "2"]],
        "scan from beyond": [["rs/c", "3"], empty, odd],
        "scan to the end": [["rs/a", "1"], ["rs/b", "2"], ["rs/c", "3"]],
        "scan nothing": [],
        "scan_keys": ["rs/a", "rs/b", "rs/c", "rs/empty", "rs/\xff\x00"],
        "after deletes": ["rs/c", "rs/empty", "rs/\xff\x00"],
        "after delete_range": ["rs/empty", "rs/\xff\x00"],
        "other cf": [None, "in lock"],
        "done": None,
    }


def test_thousands_of_keys(cluster: Cluster, tmp_path: Path) -> None:
    assert run(cluster, "many", tmp_path) == {
        "scan": 5000,
        "batch_get": 5000,
        "after delete_range": [],
        "done": None,
    }


def test_requests_of_more_than_4_mib(cluster: Cluster, tmp_path: Path) -> None:
    shown = run(cluster, "large", tmp_path)
    assert shown["values"] == [True] * 6
    assert "too large" in shown["too long"].lower() or "toolarge" in shown["too long"].lower()


def test_refusals_say_what_is_wrong(cluster: Cluster, tmp_path: Path) -> None:
    shown = run(cluster, "refusals", tmp_path)
    assert "key is too long: 8193 bytes, at most 8192" in shown["long key"]
    assert "key is empty" in shown["empty key"]
    assert "nonsense" in shown["unknown cf"]
    assert "10240" in shown["limit"] or "10241" in shown["limit"]
    assert shown["goes on"] == "v"


def test_optimistic_transactions(cluster: Cluster, tmp_path: Path) -> None:
    assert run(cluster, "optimistic", tmp_path) == {
        "own write": "1",
        "batch_get": [["to/a", 1], ["to/b", 300]],
        "scan": ["to/a", "to/b"],
        "conflict": True,
        "after the delete": None,
        "insert of what is there": True,
        "done": None,
    }


def test_pessimistic_transactions_and_a_deadlock(cluster: Cluster, tmp_path: Path) -> None:
    assert run(cluster, "pessimistic", tmp_path) == {
        "deadlock": True,
        "the other": "",
        "get_for_update": "2",
        "done": None,
    }


@contextmanager
def steady_writer(cluster: Cluster, output: Path) -> Iterator[subprocess.Popen[str]]:
    with client_process(cluster, "steady", output) as process:
        wait_until(lambda: "started" in output.read_text(), within_s=DEADLINE_S, what="the client has connected")
        yield process


def finish(process: subprocess.Popen[str], output: Path) -> dict[str, Any]:
    assert process.stdin is not None
    process.stdin.write("stop\n")
    process.stdin.flush()
    return results(process, output)


def test_a_leader_that_is_told_to_stop_is_not_noticed(fresh_cluster: Cluster, tmp_path: Path) -> None:
    """It hands its leadership over first, and this client gives an operation a second and a half."""
    output = tmp_path / "steady"
    with steady_writer(fresh_cluster, output) as process:
        fresh_cluster.leader().stop(signal.SIGTERM)
        fresh_cluster.leader()
        shown = finish(process, output)
    assert shown["acknowledged"] > 0
    assert (shown["failures"], shown["missing"]) == ([], [])


def test_a_killed_leader_loses_no_acknowledged_write(fresh_cluster: Cluster, tmp_path: Path) -> None:
    output = tmp_path / "steady"
    with steady_writer(fresh_cluster, output) as process:
        fresh_cluster.leader().kill()
        fresh_cluster.leader()
        time.sleep(0.2)  # more puts, to the new leader
        shown = finish(process, output)
    assert shown["acknowledged"] > 0
    assert shown["missing"] == []
