"""Every process that is told to stop ends in time, with status 0 and nothing left behind: early, under load, told twice."""

from __future__ import annotations

import contextlib
import re
import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import grpc
import pytest
from tests.process.cluster import CLEAN, STOP_S, Cluster, Process, wait_until
from tests.process.load import Load
from tests.process.network import free_address

from pytinykv.wire.pb import pdpb_pb2

SIGNALS = [signal.SIGTERM, signal.SIGINT]
MOMENT_S = 30.0


@pytest.fixture
def alone(tmp_path: Path) -> Iterator[Callable[[str], Process]]:
    """Make a scheduler, or a store whose scheduler does not exist."""
    made: list[Process] = []

    def make(command: str) -> Process:
        options = {"scheduler": free_address()} if command == "store" else {}
        process = Cluster(tmp_path).make(command, command, **options)
        made.append(process)
        return process

    try:
        yield make
    finally:
        for process in made:
            process.kill()
            print(process.tail())  # noqa: T201 - pytest shows it beside a failure


def catches(process: Process, number: int) -> bool:
    """Whether the process has a handler for the signal already; a Python that is just booting has none."""
    status = Path(f"/proc/{process.pid}/status").read_text()
    caught = re.search(r"^SigCgt:\s*(\w+)$", status, flags=re.MULTILINE)
    return caught is not None and bool(int(caught[1], 16) >> (number - 1) & 1)


@pytest.mark.parametrize("number", SIGNALS)
@pytest.mark.parametrize("command", ["scheduler", "store"])
def test_told_to_stop_while_it_is_loading(alone: Callable[[str], Process], command: str, number: int) -> None:
    process = alone(command)
    process.start()
    wait_until(lambda: catches(process, signal.SIGTERM), within_s=MOMENT_S, what="it catches signals")
    wait_until(lambda: catches(process, number), within_s=MOMENT_S, what="it catches the signal")
    process.send(number)
    assert process.wait_exit(STOP_S) == 0, process.tail()


@pytest.mark.parametrize("number", SIGNALS)
def test_told_to_stop_while_it_looks_for_the_scheduler(alone: Callable[[str], Process], number: int) -> None:
    store = alone("store")
    store.start()
    wait_until(lambda: "waiting for a scheduler" in store.log, within_s=MOMENT_S, what="it has got as far as that")
    store.stop(number)


@pytest.mark.parametrize("number", SIGNALS)
def test_told_to_stop_at_the_moment_it_is_ready(alone: Callable[[str], Process], number: int) -> None:
    scheduler = alone("scheduler")
    scheduler.start()
    scheduler.wait_ready()
    scheduler.stop(number)
    scheduler.start()
    scheduler.wait_ready()
    scheduler.stop(number)


def test_told_twice_at_once(alone: Callable[[str], Process]) -> None:
    """As `timeout` does, which signals the process and then its group."""
    scheduler = alone("scheduler")
    scheduler.start()
    scheduler.wait_ready()
    scheduler.send(signal.SIGTERM)
    scheduler.stop(signal.SIGTERM)


def test_told_to_stop_under_load(cluster: Cluster) -> None:
    """A follower, then the leader, then the scheduler; each comes back, and no client loses a write."""
    with Load(cluster.address) as load:
        for pick, number in (
            (lambda: cluster.followers()[0], signal.SIGTERM),
            (cluster.leader, signal.SIGTERM),
            (lambda: cluster.scheduler, signal.SIGTERM),
            (cluster.leader, signal.SIGINT),
            (lambda: cluster.scheduler, signal.SIGINT),
        ):
            load.wait_progress(20)
            process = pick()
            process.stop(number)
            load.wait_progress(20)
            process.start()
            process.wait_ready()
        load.wait_progress(20)
    load.check()


def test_the_whole_cluster_is_told_at_once_under_load(cluster: Cluster) -> None:
    """No store is left to hand anything over to, and clients wait for answers that will not come."""
    with Load(cluster.address, theirs=0) as load:
        load.wait_progress(20)
        for process in cluster.processes:
            process.send(signal.SIGTERM)
        for process in cluster.processes:
            process.check_stopped()
        for process in cluster.processes:
            process.start()
        for process in cluster.processes:
            process.wait_ready()
        load.wait_progress(20)
    load.check()


def test_a_store_stops_while_its_scheduler_stands_still(cluster: Cluster) -> None:
    cluster.scheduler.pause()
    try:
        cluster.stores[0].stop()
    finally:
        cluster.scheduler.resume()


def test_a_leader_stops_while_its_followers_are_paused(cluster: Cluster) -> None:
    """It can't hand over to any other store, and what it has proposed is not committed."""
    leader, followers = cluster.leader(), cluster.followers()
    with Load(cluster.address, theirs=0) as load:
        load.wait_progress(20)
        for follower in followers:
            follower.pause()
        try:
            leader.stop()
        finally:
            for follower in followers:
                follower.resume()
        load.wait_progress(20)
    load.check()


def test_a_client_that_reads_nothing_holds_up_no_stop(cluster: Cluster) -> None:
    """Streams that are open and calls that are half sent end with the server."""
    with grpc.insecure_channel(cluster.address) as channel:
        tso = channel.stream_stream(
            "/pdpb.PD/Tso",
            request_serializer=pdpb_pb2.TsoRequest.SerializeToString,
            response_deserializer=pdpb_pb2.TsoResponse.FromString,
        )
        request = pdpb_pb2.TsoRequest(count=1, header={"cluster_id": int(cluster.scheduler.facts["cluster"])})
        over = threading.Event()

        def requests() -> Iterator[pdpb_pb2.TsoRequest]:
            yield request
            over.wait(MOMENT_S)

        answers = tso(requests(), timeout=MOMENT_S)
        assert next(answers).count == 1
        cluster.scheduler.stop()
        assert CLEAN in cluster.scheduler.log
        over.set()
        with contextlib.suppress(grpc.RpcError):
            assert list(answers) == []
