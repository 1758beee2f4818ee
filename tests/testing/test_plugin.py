"""The pytest plugin, as its users have it: in a pytest of its own, over a file of tests."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from pytinykv.testing.backend import PREFIX

USERS = """
import pytest
from pytinykv import testing


def test_first(tikv_cluster):
    assert len(tikv_cluster.stores) == 1
    db = tikv_cluster.client()
    db.raw.put(b"k", b"v")
    db.raw.put(b"k", b"v", cf="write")
    with db.transaction() as txn:
        txn.put(b"k", b"v")
    tikv_cluster.answer("RawGet", testing.Lost())


def test_second_finds_nothing_of_the_first(tikv_cluster, no_leaks):
    db = tikv_cluster.client()
    assert db.raw.get(b"k") is None
    assert db.raw.get(b"k", cf="write") is None
    with db.snapshot() as snapshot:
        assert snapshot.get(b"k") is None


@pytest.mark.tikv(stores=3)
def test_harm(tikv_cluster):
    tikv_cluster.stores[0].kill()
    tikv_cluster.stores[1].pause()
    tikv_cluster.cut(2, 3)


@pytest.mark.tikv(stores=3)
def test_after_harm(tikv_cluster, no_leaks):
    assert all(store.is_running for store in tikv_cluster.stores)
    db = tikv_cluster.client()
    db.raw.put(b"k", b"v")
    assert [region.stores for region in tikv_cluster.regions()] == [(1, 2, 3)]
"""

FAILING = """
import threading
import pytest

event = threading.Event()


def test_fails(tikv_cluster):
    assert False, "of the test"


def test_leaks(no_leaks):
    threading.Thread(target=event.wait, name="forgotten", daemon=True).start()


@pytest.mark.tikv(stores=30)
def test_wrong_marker(tikv_cluster):
    pass


@pytest.mark.tikv(store=3)
def test_misspelt_marker(tikv_cluster):
    pass


@pytest.mark.tikv(3)
def test_marker_without_a_name(tikv_cluster):
    pass


def test_nothing_is_shown_that_was_not_before(tikv_cluster, caplog):
    tikv_cluster.client().raw.put(b"k", b"v")
    tikv_cluster.stores[0].restart()
    assert [record for record in caplog.records if record.levelname == "INFO"] == []
"""

PROCESSES = """
import pathlib, time


def test_waits(tikv_processes):
    tikv_processes.client().raw.put(b"k", b"v")
    print("serving", flush=True)
    time.sleep(60)
"""


def environment(tmp_path: Path) -> dict[str, str]:
    temporary = tmp_path / "tmp"
    temporary.mkdir(exist_ok=True)
    return {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")} | {
        "TMPDIR": str(temporary)
    }


def command(*options: str) -> list[str]:
    return [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "--assert=plain", "-q", *options]


def left(tmp_path: Path) -> list[Path]:
    return list((tmp_path / "tmp").glob(f"{PREFIX}*"))


def processes_of(directory: Path) -> list[int]:
    """Return the pids of the processes whose command line names a directory."""
    name = str(directory).encode()
    return [int(path.parent.name) for path in Path("/proc").glob("[0-9]*/cmdline") if name in content(path)]


def content(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:  # it has just ended
        return b""


def test_each_test_gets_its_cluster_empty_and_in_order(tmp_path: Path) -> None:
    (tmp_path / "test_users.py").write_text(USERS)
    run = subprocess.run(
        command("-n", "2"),
        cwd=tmp_path,
        env=environment(tmp_path),
        capture_output=True,
        text=True,
        timeout=90,
        check=False,
    )
    assert run.returncode == 0, run.stdout + run.stderr
    assert "4 passed" in run.stdout
    assert left(tmp_path) == []


def test_a_failure_shows_the_log_and_a_leak_what_it_waits_for(tmp_path: Path) -> None:
    (tmp_path / "test_users.py").write_text(FAILING)
    run = subprocess.run(
        command(), cwd=tmp_path, env=environment(tmp_path), capture_output=True, text=True, timeout=90, check=False
    )
    assert "1 failed, 2 passed, 4 errors" in run.stdout, run.stdout + run.stderr
    assert "log of <Cluster of 1 stores, at 127.0.0.1:" in run.stdout
    assert "bootstrapped cluster" in run.stdout
    assert "thread forgotten" in run.stdout
    assert "wait-for graph of the test's process" in run.stdout
    assert "@pytest.mark.tikv: a cluster for tests has 1 to 9 stores, not 30" in run.stdout
    assert "@pytest.mark.tikv knows no 'store'; it takes stores, replicas, settings" in run.stdout
    assert "as in @pytest.mark.tikv(stores=3)" in run.stdout
    assert "in lend" not in run.stdout, "a marker that is wrong needs no stack"
    assert left(tmp_path) == []


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_a_session_that_is_ended_leaves_no_process(tmp_path: Path, number: signal.Signals) -> None:
    (tmp_path / "test_users.py").write_text(PROCESSES)
    with subprocess.Popen(
        command("-s"), cwd=tmp_path, env=environment(tmp_path), stdout=subprocess.PIPE, start_new_session=True
    ) as run:
        assert run.stdout is not None
        while b"serving" not in (line := run.stdout.readline()):
            assert line, "it ended before"
        (directory,) = left(tmp_path)
        servers = processes_of(directory)
        assert len(servers) == 2
        pidfds = [os.pidfd_open(pid) for pid in servers]
        run.send_signal(number)
        run.wait(30)
    for pidfd in pidfds:
        assert select.select([pidfd], [], [], 20)[0], "a server outlives its session"
        os.close(pidfd)
    if number is signal.SIGINT:
        assert left(tmp_path) == []
        return
    os.utime(directory, (0, 0))  # as if it had been a while ago
    (tmp_path / "test_users.py").write_text("def test_next(tikv_cluster): pass\n")
    subprocess.run(command(), cwd=tmp_path, env=environment(tmp_path), capture_output=True, timeout=60, check=True)
    assert left(tmp_path) == []
