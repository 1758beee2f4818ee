"""`tinykv doctor` at live servers: well, stuck, stopped, gone, and at addresses that are no status ports."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.cli.processes import Running, started, tinykv_here, wait_until

from pytinykv.server.host.wiring import scheduler_wiring, store_wiring

STUCK = """
import asyncio, sys
from prometheus_client import CollectorRegistry
from pytinykv.lifecycle import run_process
from pytinykv.server.host.status import StatusServer

class Worker:
    def __init__(self, name):
        self.name = name
        self.inbox = asyncio.Queue(1)

    async def run(self):
        while True:
            await self.inbox.get()
            await self.peer.inbox.put("one")
            await self.peer.inbox.put("two")

def compute(lock):
    with lock:
        lock.acquire()

async def main(scope):
    address = StatusServer(scope, registry=CollectorRegistry(), health=lambda: "").start("127.0.0.1:0")
    left, right = Worker("left"), Worker("right")
    left.peer, right.peer = right, left
    for worker in (left, right):
        worker.inbox.put_nowait("hello")
        scope.start(worker.name, worker.run)
    await asyncio.sleep(0.1)
    if sys.argv[1] == "loop":
        import threading
        asyncio.get_running_loop().call_later(0.1, compute, threading.Lock())
    print(address, flush=True)
    await asyncio.Event().wait()

sys.exit(run_process(main, stop_deadline_s=0.2))
"""


class Stuck:
    """A process that is stuck in one of two ways."""

    def __init__(self, what: str, directory: Path) -> None:
        script = directory / "stuck.py"  # a file, so that there is source to read
        script.write_text(STUCK)
        self.process = subprocess.Popen(
            [sys.executable, script, what], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        )
        assert self.process.stdout is not None
        self.address = self.process.stdout.readline().strip()

    def end(self) -> None:
        self.process.kill()
        self.process.communicate()


@pytest.fixture
def stuck(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Stuck]:
    made = Stuck(request.param, tmp_path)
    yield made
    made.end()


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Running, Running]]:
    directory = tmp_path_factory.mktemp("doctor")
    listen = ("--addr", "127.0.0.1:0", "--status-addr", "127.0.0.1:0")
    with started(directory, "scheduler", "--data-dir", directory / "scheduler", *listen) as scheduler:
        address = scheduler.ready()["addr"]
        with started(directory, "store", "--data-dir", directory / "store", "--scheduler", address, *listen) as store:
            store.ready()
            yield scheduler, store
            assert store.stop() == 0, store.errors
        assert scheduler.stop() == 0, scheduler.errors


def test_a_server_that_is_well(servers: tuple[Running, Running]) -> None:
    for server in servers:
        done = tinykv_here("doctor", server.ready()["status"])
        lines = done.stdout.decode().splitlines()
        assert done.returncode == 0, lines
        assert len(lines) == 5
        assert [line.split()[0] for line in lines] == ["well", "deadlocks", "owned", "waits", "more"]
        text = tinykv_here("doctor", "--all", server.ready()["status"]).stdout.decode()
        assert text.startswith("well  ")
        assert "thread MainThread" in text


def test_every_task_and_thread_belongs_to_a_component_of_the_wiring(servers: tuple[Running, Running]) -> None:
    """The declaration that is checked at start is that of what runs."""
    for server, wiring in zip(servers, (scheduler_wiring(), store_wiring()), strict=True):
        facts = json.loads(tinykv_here("doctor", "--json", server.ready()["status"]).stdout)
        nodes = facts["tasks"]["nodes"]
        owned = [
            node["name"] for node in nodes if node["kind"] in ("task", "thread") and node["created_at"] is not None
        ]
        assert len(owned) >= 4
        assert wiring.undeclared(owned) == []


def test_a_store_is_found_through_the_scheduler(servers: tuple[Running, Running]) -> None:
    scheduler, store = servers
    done = tinykv_here("doctor", store.ready()["addr"], "--scheduler", scheduler.ready()["addr"])
    assert done.returncode == 0
    assert done.stdout.startswith(b"well       store (pid ")


def test_a_status_address_is_asked_even_if_the_scheduler_is_gone(servers: tuple[Running, Running]) -> None:
    """`TINYKV_SCHEDULER` is set in many shells, and on a bad day the scheduler is what does not answer."""
    done = tinykv_here("doctor", servers[1].ready()["status"], "--scheduler", "127.0.0.1:1", "--timeout", "5")
    assert (done.returncode, done.stderr) == (0, b"")


def test_a_name_that_no_machine_has() -> None:
    done = tinykv_here("doctor", "nobody.invalid:20180")
    assert done.returncode == 1
    assert b"no machine is called nobody.invalid" in done.stderr


def test_an_address_that_no_store_has(servers: tuple[Running, Running]) -> None:
    address = servers[0].ready()["addr"]
    done = tinykv_here("doctor", address, "--scheduler", address)
    assert done.returncode == 1
    assert f"knows no store at {address}, but at {servers[1].ready()['addr']}" in done.stderr.decode()


def test_an_address_that_is_no_status_port(servers: tuple[Running, Running]) -> None:
    done = tinykv_here("doctor", servers[0].ready()["addr"])
    assert done.returncode == 1
    assert b"is no status port" in done.stderr


@pytest.mark.parametrize("stuck", ["queues"], indirect=True)
def test_two_queues_that_wait_for_each_other(stuck: Stuck) -> None:
    done = tinykv_here("doctor", stuck.address)
    text = done.stdout.decode()
    assert done.returncode == 1
    assert text.startswith("trouble    process (pid ")
    assert "): there is a deadlock\nDEADLOCK CYCLE 1" in text
    assert "to do      none of them can go on by itself" in text
    assert "waits to put into queue Worker.inbox of right (full: 1 of 1)" in text
    assert "which would be emptied by task process/right (probably: Worker.run calls self.inbox.get)" in text


@pytest.mark.parametrize("stuck", ["loop"], indirect=True)
def test_an_event_loop_that_is_blocked(stuck: Stuck) -> None:
    wait_until(lambda: b"waits to acquire lock lock in compute (locked)" in tinykv_here("doctor", stuck.address).stdout)
    text = tinykv_here("doctor", "--all", stuck.address).stdout.decode()
    assert "event loop of process" in text
    assert "is turned by thread MainThread" in text


@pytest.mark.parametrize("stuck", ["queues"], indirect=True)
def test_a_process_that_is_stopped(stuck: Stuck) -> None:
    os.kill(stuck.process.pid, signal.SIGSTOP)
    done = tinykv_here("doctor", stuck.address, "--timeout", "0.3")
    assert done.returncode == 1
    assert b"takes connections and does not answer: the process is stopped" in done.stderr


def test_nothing_listens_there() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        done = tinykv_here("doctor", f"127.0.0.1:{taken.getsockname()[1]}")
    assert done.returncode == 1
    assert b"nothing listens at" in done.stderr


def test_bad_usage(tmp_path: Path) -> None:
    assert tinykv_here("doctor").returncode == 2
    assert tinykv_here("doctor", "nonsense").returncode == 2
