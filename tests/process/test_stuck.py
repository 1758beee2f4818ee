"""Disks that never answer: the cluster goes on, who asks is told what is stuck, and a stop ends in time and says where."""

from __future__ import annotations

import contextlib
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.process.cluster import GONE_S, Cluster, Process, running_cluster, wait_until
from tests.process.load import Load

import pytinykv

pytestmark = pytest.mark.xdist_group("processes")

INJECTED = Path(__file__).parent / "injected"
MOVED_S = 10.0
"""Silence until it is noticed (2 s), an election (1 to 2 s), and what a busy machine adds."""
CALL_S = 3.0
"""What was sent to a store that stands still gets no answer, so each client waits for as long as this, once."""
DISK_MIB = 64
THAW_S = 60


@pytest.fixture
def cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> Iterator[Cluster]:
    """Run three stores and a scheduler whose disks can be told to stop answering.

    Parameter: a sync of less than so many seconds the event loop does itself (0.005 by default).
    """
    config = tmp_path / "store.toml"
    config.write_text(f"[store.raftstore]\ninline_sync_s = {request.param}\n")
    start = Process.start

    def start_injected(process: Process) -> None:
        stuck = {"PYTHONPATH": str(INJECTED), "STUCK_DISK": str(switch(process))}
        start(process, TINYKV_CONFIG=str(config), **stuck)

    monkeypatch.setattr(Process, "start", start_injected)
    with running_cluster(tmp_path) as made:
        yield made


def switch(process: Process) -> Path:
    """Return the file that makes a server's disk stop answering; see injected/sitecustomize.py."""
    return process.data_dir.with_suffix(".stuck")


def doctor(process: Process) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "pytinykv", "doctor", process.options["--status-addr"]],
        capture_output=True,
        text=True,
        timeout=GONE_S,
        check=False,
    )


def told(process: Process) -> str:
    """Return what the doctor sees in a server whose disk does not answer."""
    seen = doctor(process)
    assert seen.returncode == 1, seen
    assert re.search(r"^health +the disk has not answered a sync for \d", seen.stdout, flags=re.MULTILINE), seen.stdout
    assert "flush_or_hang" in seen.stdout, seen.stdout
    return seen.stdout


def check_forced(process: Process) -> None:
    """Check that a server that was told to stop ends in time, with 3 and the place where it stands."""
    assert process.wait_exit() == 3, process.tail()
    assert "flush_or_hang" in process.log, process.tail(200)


def come_back(cluster: Cluster, *processes: Process) -> None:
    for process in processes:
        switch(process).unlink()
        process.start()
    for process in processes:
        process.wait_ready()
    cluster.wait_replicated(3)


def wait_moved(cluster: Cluster, old: Process) -> None:
    others = [store for store in cluster.stores if store is not old]
    wait_until(
        lambda: any(region["is_leader"] for store in others for region in store.regions()[:1]),
        within_s=MOVED_S,
        what=lambda: f"another store leads than {old.name}\n{cluster.tails()}",
    )


def wait_stuck(scheduler: Process, db: pytinykv.Client) -> None:
    """Ask for timestamps: every few seconds they need a sync."""

    def is_stuck() -> bool:
        with contextlib.suppress(pytinykv.ClientError):
            db.timestamp(timeout=0.5)
        return scheduler.page("/healthz") is None

    wait_until(is_stuck, within_s=MOVED_S, what="the scheduler says that its disk does not answer")


@pytest.mark.parametrize("cluster", [60.0], indirect=True)
def test_a_leader_whose_event_loop_waits_for_the_disk_and_a_scheduler(cluster: Cluster) -> None:
    """A loop that stands still sends no heartbeats, so the others elect a leader; they need no scheduler for that."""
    leader, scheduler = cluster.leader(), cluster.scheduler
    with Load(cluster.address, timeout_s=CALL_S) as load, pytinykv.connect(cluster.address) as db:
        load.wait_progress(20)
        for process in (leader, scheduler):
            switch(process).touch()
        wait_moved(cluster, leader)
        wait_stuck(scheduler, db)
        load.wait_progress(20)
        assert "Syncs.start" in told(leader)
        assert "thread scheduler/scheduler/disk" in told(scheduler)
        for process in (leader, scheduler):
            process.send(signal.SIGTERM)
        check_forced(leader)
        assert "exit forced; the event loop stands still" in leader.log
        check_forced(scheduler)
        assert "LEFT thread scheduler/scheduler/disk" in scheduler.log
        come_back(cluster, leader, scheduler)
    load.check()


@pytest.mark.parametrize("cluster", [0.0], indirect=True)
def test_a_leader_whose_disk_thread_waits_for_the_disk(cluster: Cluster) -> None:
    """Its loop turns and two others are a quorum: it has to give up leadership by itself."""
    leader = cluster.leader()
    with Load(cluster.address, timeout_s=CALL_S) as load:
        load.wait_progress(20)
        switch(leader).touch()
        wait_moved(cluster, leader)
        load.wait_progress(20)
        assert "thread store/store/disk" in told(leader)
        leader.send(signal.SIGTERM)
        check_forced(leader)
        assert "LEFT thread store/store/disk" in leader.log
        assert "a sync is under way that the disk does not answer" in leader.log
        come_back(cluster, leader)
    load.check()
