"""What never ends: disks that don't answer, handlers and threads that don't let go, servers that don't reply.

The cluster goes on, who asks is told what is stuck, and a stop ends in time and says where.
"""

from __future__ import annotations

import contextlib
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest
from tests.process.cluster import CLEAN, GONE_S, STOP_S, Cluster, Process, running_cluster, wait_until
from tests.process.load import Load

import pytinykv
from pytinykv.wire.pb import pdpb_pb2

INJECTED = Path(__file__).parent / "injected"
SILENCE_S = 1.0
"""How long a store waits for its disk until it says so; 2 s by default."""
MOVED_S = 10.0
"""Silence until it is noticed, by the scheduler after 2 s; an election (1 to 2 s), and what a busy machine adds."""
GIVES_UP_S = 30.0
CALL_S = 2.0
"""What was sent to a blocked store gets no answer, so each client waits for as long as this, once."""
DISK_MIB = 64
THAW_S = 60


@pytest.fixture
def cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> Iterator[Cluster]:
    """Run three stores and a scheduler whose disks can be told to stop answering.

    Parameter: a sync of less than so many seconds the event loop does itself (0.005 by default).
    """
    config = tmp_path / "store.toml"
    config.write_text(f"[store.raftstore]\ninline_sync_s = {request.param}\ndisk_silence_s = {SILENCE_S}\n")
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
    assert re.search(r"^trouble .*: the disk has not answered a sync for \d", seen.stdout, flags=re.MULTILINE), (
        seen.stdout
    )
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
    """A blocked loop sends no heartbeats, so the others elect a leader; they need no scheduler for that."""
    leader, scheduler = cluster.leader(), cluster.scheduler
    with Load(cluster.address, timeout_s=CALL_S) as load, pytinykv.connect(cluster.address) as db:
        load.wait_progress(20)
        for process in (leader, scheduler):
            switch(process).touch()
        wait_stuck(scheduler, db)
        wait_moved(cluster, leader)
        load.wait_progress(20)
        assert "Syncs.start" in told(leader)
        assert "thread scheduler/scheduler/disk" in told(scheduler)
        for process in (leader, scheduler):
            process.send(signal.SIGTERM)
        check_forced(leader)
        assert "exit forced; the stacks of all threads" in leader.log
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


@pytest.fixture
def mischievous(tmp_path: Path) -> Iterator[Process]:
    """Run a scheduler with what `MISCHIEF` gives it, and with its handler that ignores its cancellation called."""
    scheduler = Cluster(tmp_path).scheduler
    try:
        scheduler.start(PYTHONPATH=str(INJECTED), MISCHIEF="yes")
        cluster_id = int(scheduler.wait_ready()["cluster"])
        with grpc.insecure_channel(scheduler.address) as channel:
            call = channel.unary_unary(
                "/pdpb.PD/GetAllStores",
                request_serializer=pdpb_pb2.GetAllStoresRequest.SerializeToString,
                response_deserializer=pdpb_pb2.GetAllStoresResponse.FromString,
            )
            with pytest.raises(
                grpc.RpcError, match="DEADLINE_EXCEEDED"
            ):  # which cancels the handler for the first time
                call(pdpb_pb2.GetAllStoresRequest(header={"cluster_id": cluster_id}), timeout=0.5)
            yield scheduler
    finally:
        scheduler.kill()
        print(scheduler.tail(200))  # noqa: T201 - pytest shows it beside a failure


def test_a_handler_that_ignores_cancellation_a_thread_in_c_and_a_stage_that_raises(mischievous: Process) -> None:
    """The report names each with its place, and everything else was done."""
    mischievous.send(signal.SIGTERM)
    assert mischievous.wait_exit() == 3
    log = mischievous.log
    assert "STOPPED WITH" in log
    assert re.search(r"raised +a stage that raises \(RuntimeError\('raised on purpose'\)\)", log)
    assert re.search(r"LEFT remote call .*GetAllStores", log)
    assert "in _unary_or_never" in log
    assert "LEFT thread scheduler/in-c" in log
    assert "in _stand_in_c" in log
    for done in ("decide nothing any more", "close the engine", "let go of the data directory"):
        assert re.search(rf"ok +{done}", log), done


def test_ctrl_c_twice(mischievous: Process) -> None:
    """The first one begins a stop that takes its time; the second one ends it at once, and says who is stuck."""
    mischievous.send(signal.SIGINT)
    time.sleep(1.0)  # sooner is taken for the same wish
    mischievous.send(signal.SIGINT)
    assert mischievous.wait_exit(within_s=STOP_S) == 3
    log = mischievous.log
    assert "scheduler: SIGINT for the second time, exit forced" in log
    assert "STUCK thread scheduler/in-c" in log
    assert "STOPPED WITH" not in log


@pytest.fixture
def silent() -> Iterator[str]:
    """Return an address that takes connections, and says nothing."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"127.0.0.1:{server.getsockname()[1]}"


def test_a_store_whose_scheduler_accepts_and_never_replies(tmp_path: Path, silent: str) -> None:
    """It waits as long as it was told to, and names the address; told to stop, it stops."""
    store = Cluster(tmp_path).make(
        "store", "store", scheduler=silent, peer_addr="127.0.0.1:0", scheduler_patience="0.5"
    )
    try:
        store.start()
        assert store.wait_exit(GIVES_UP_S) == 1, store.tail()
        assert f"tinykv store: no scheduler answered in time (asked {silent}" in store.log
        assert CLEAN in store.log
        store.options["--scheduler-patience"] = "600"
        store.start()
        wait_until(
            lambda: "waiting for a scheduler" in store.log, within_s=GIVES_UP_S, what="it looks for its scheduler"
        )
        store.stop()
    finally:
        store.kill()
