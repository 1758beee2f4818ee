"""`tinykv scheduler` and `tinykv store` as processes: ready line, exit statuses, and what they say on a bad day."""

from __future__ import annotations

import json
import re
import signal
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest
from tests.cli.processes import LIMIT_S, TINYKV, Running, environment, started, tinykv, wait_until

from pytinykv.wire.pb import pdpb_pb2

ANY = "127.0.0.1:0"
HAS_IPV6 = socket.has_ipv6 and Path("/proc/net/if_inet6").exists()


@pytest.fixture(scope="module")
def scheduler(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    directory = tmp_path_factory.mktemp("scheduler")
    with started(directory, "scheduler", "--data-dir", directory / "data", "--addr", ANY) as running:
        running.ready()
        yield running


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_scheduler_prints_one_ready_line_and_exits_0(tmp_path: Path, number: int) -> None:
    options = ("--data-dir", tmp_path / "data", "--addr", ANY, "--status-addr", ANY)
    with started(tmp_path, "scheduler", *options) as running:
        facts = running.ready()
        assert list(facts) == ["addr", "status", "cluster"]
        assert re.fullmatch(r"127\.0\.0\.1:[1-9]\d+", facts["addr"])
        assert int(facts["cluster"]) > 0
        assert urllib.request.urlopen(f"http://{facts['status']}/healthz", timeout=10).read() == b"ok\n"
        assert running.stop(number) == 0
        assert len(running.output.splitlines()) == 1
        assert "nothing left behind" in running.errors


@pytest.mark.parametrize("host", ["[::1]", "localhost"])
def test_all_ports_work_over_ipv6_and_at_a_name(tmp_path: Path, host: str) -> None:
    if not HAS_IPV6:
        pytest.skip("this machine has no IPv6")
    own = ("--addr", f"http://{host}:0", "--status-addr", f"{host}:0")
    with started(tmp_path, "scheduler", "--data-dir", tmp_path / "pd", *own) as scheduler:
        address = scheduler.ready()["addr"]
        with started(tmp_path, "store", "--data-dir", tmp_path / "store", *own, "--scheduler", address) as store:
            facts = store.ready()
            assert facts["addr"].startswith(f"{host}:")
            for page in (facts["status"], scheduler.ready()["status"]):
                assert urllib.request.urlopen(f"http://{page}/healthz", timeout=10).read() == b"ok\n"
            assert tinykv("put", "k", "v", "--scheduler", address).returncode == 0
            assert tinykv("doctor", facts["status"]).returncode == 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_store_prints_one_ready_line_tells_its_regions_and_exits_0(
    tmp_path: Path, scheduler: Running, number: int
) -> None:
    options = ("--data-dir", tmp_path / "data", "--addr", ANY, "--status-addr", ANY)
    with started(tmp_path, "store", *options, TINYKV_SCHEDULER=scheduler.ready()["addr"]) as running:
        facts = running.ready()
        assert list(facts) == ["addr", "status", "store", "cluster"]
        assert facts["cluster"] == scheduler.ready()["cluster"]
        page = json.load(urllib.request.urlopen(f"http://{facts['status']}/debug/store", timeout=10))
        assert page["store"] == int(facts["store"])
        assert running.stop(number) == 0
        assert len(running.output.splitlines()) == 1
        assert "nothing left behind" in running.errors


@pytest.mark.parametrize(
    ("options", "address", "peer_host"),
    [
        (("--peer-addr", "127.0.0.2:0"), "127.0.0.1", "127.0.0.2"),
        (("--advertise-addr", "db.example:1", "--peer-addr", "127.0.0.2:0"), "db.example", "db.example"),
        (("--advertise-addr", "db.example:2", "--advertise-peer-addr", "peer.example:7"), "db.example", "peer.example"),
    ],
)
def test_a_store_tells_others_where_to_reach_it(
    tmp_path: Path, scheduler: Running, options: tuple[str, ...], address: str, peer_host: str
) -> None:
    own = ("--data-dir", tmp_path / "data", "--addr", ANY, "--scheduler", scheduler.ready()["addr"])
    with started(tmp_path, "store", *own, *options) as running:
        facts = running.ready()
        request = pdpb_pb2.GetStoreRequest(header={"cluster_id": int(facts["cluster"])}, store_id=int(facts["store"]))
        with grpc.insecure_channel(scheduler.ready()["addr"]) as channel:
            method = channel.unary_unary("/pdpb.PD/GetStore")
            store = pdpb_pb2.GetStoreResponse.FromString(method(request.SerializeToString(), timeout=10)).store
    assert store.address == facts["addr"]
    assert store.address.startswith(f"{address}:")
    assert store.peer_address.startswith(f"{peer_host}:")


@pytest.mark.parametrize(
    ("told", "complaint"),
    [
        (b"", b"--scheduler is `-`, and standard input ended before it said where"),
        (b"nowhere:never\n", b"--scheduler is `-`, and on standard input the scheduler address 'nowhere:never' is"),
    ],
)
def test_a_store_that_is_to_be_told_where_its_scheduler_is_and_is_not(
    tmp_path: Path, told: bytes, complaint: bytes
) -> None:
    ended = tinykv("store", "--data-dir", tmp_path / "data", "--addr", ANY, "--scheduler", "-", given=told)
    assert (ended.returncode, ended.stdout) == (1, b"")
    (line,) = [line for line in ended.stderr.splitlines() if line.startswith(b"tinykv store: ")]
    assert complaint in line


def test_port_in_use(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        done = tinykv("scheduler", "--data-dir", tmp_path / "data", "--addr", address)
    assert done.returncode == 1
    assert (
        done.stderr.decode()
        .splitlines()[-1]
        .startswith(f"tinykv scheduler: --addr: cannot listen on {address}: another process listens there")
    )
    assert not (tmp_path / "data").exists()


@pytest.mark.parametrize("option", ["--peer-addr", "--status-addr"])
def test_another_port_in_use_leaves_no_new_directory_behind(tmp_path: Path, option: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        ports = ("--addr", ANY, option, f"127.0.0.1:{taken.getsockname()[1]}")
        done = tinykv("store", "--data-dir", tmp_path / "data", *ports, "--scheduler", "127.0.0.1:1")
    assert done.returncode == 1
    assert f"{option}: cannot listen on" in done.stderr.decode().splitlines()[-1]
    assert not (tmp_path / "data").exists()


@pytest.mark.parametrize(
    "redirection",
    [">&-", "<&- >&- 2>&-", ">/dev/full", "> >(exec true)"],
    ids=["closed", "all closed", "full", "unread"],
)
def test_a_server_whose_ready_line_is_not_taken_serves_and_logs_it(tmp_path: Path, redirection: str) -> None:
    options = ("--data-dir", str(tmp_path / "pd"), "--addr", ANY, "--status-addr", free_address())
    with (tmp_path / "log").open("wb") as log:
        process = subprocess.Popen(
            ["/bin/bash", "-c", f'exec "$0" "$@" {redirection}', *TINYKV, "scheduler", *options],
            stdin=subprocess.DEVNULL,
            stderr=log,
            env=environment(),
        )
    try:
        wait_until(lambda: process.poll() is not None or is_healthy(options[-1]))
        assert process.poll() is None, (tmp_path / "log").read_text()
        process.terminate()
        assert process.wait(LIMIT_S) == 0
    finally:
        process.kill()
        process.wait()
    if "2>" not in redirection and redirection != "> >(exec true)":  # its reader may be there for a moment
        assert "it serves, but standard output can't be written" in (tmp_path / "log").read_text()


def free_address() -> str:
    with socket.create_server(("127.0.0.1", 0)) as free:
        return f"127.0.0.1:{free.getsockname()[1]}"


def is_healthy(address: str) -> bool:
    try:
        return bool(urllib.request.urlopen(f"http://{address}/healthz", timeout=10).status == 200)
    except OSError:
        return False


def test_data_directory_in_use_names_the_process(tmp_path: Path) -> None:
    options = ("--data-dir", tmp_path / "data", "--addr", ANY)
    with started(tmp_path, "scheduler", *options) as running:
        running.ready()
        done = tinykv("scheduler", *options)
    assert done.returncode == 1
    assert f"in use by the process with pid {running.pid} on host " in done.stderr.decode()
    assert ": stop it, or choose another data directory" in done.stderr.decode()


def test_data_directory_of_another_kind_of_server_and_of_another_program(tmp_path: Path, scheduler: Running) -> None:
    with started(tmp_path, "scheduler", "--data-dir", tmp_path / "data", "--addr", ANY) as running:
        running.ready()
        running.stop()
    to = ("--addr", ANY, "--scheduler", scheduler.ready()["addr"])
    done = tinykv("store", "--data-dir", tmp_path / "data", *to)
    assert done.returncode == 1
    assert "holds the data of a scheduler, not of a store: choose another" in done.stderr.decode()
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "letter.txt").touch()
    done = tinykv("store", "--data-dir", tmp_path / "home", *to)
    assert done.returncode == 1
    assert "but other files (letter.txt): it is no data directory of pytinykv" in done.stderr.decode()
    assert [path.name for path in (tmp_path / "home").iterdir()] == ["letter.txt"]


def test_data_directory_of_another_cluster(tmp_path: Path, scheduler: Running) -> None:
    store = ("store", "--data-dir", tmp_path / "store", "--addr", ANY)
    with started(tmp_path, "scheduler", "--data-dir", tmp_path / "other", "--addr", ANY) as other:
        with started(tmp_path, *store, "--scheduler", other.ready()["addr"]) as running:
            running.ready()
            running.stop()
        done = tinykv(*store, "--scheduler", scheduler.ready()["addr"])
        assert done.returncode == 1
        assert other.ready()["cluster"] in done.stderr.decode()
        assert scheduler.ready()["cluster"] in done.stderr.decode()


def test_a_data_directory_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    done = tinykv("scheduler", "--data-dir", tmp_path / "file" / "data", "--addr", ANY)
    assert done.returncode == 1
    assert "is not a directory" in done.stderr.decode()


STOPPED_WHILE_IT_STARTS = """
import asyncio, os, signal, sys
from pytinykv.cli.serving import serve

async def start(scope):
    os.kill(os.getpid(), signal.SIGTERM)
    while not scope.stopping:
        await asyncio.sleep(0)
    scope.child("next part")

sys.exit(serve("store", start))
"""


def test_told_to_stop_between_two_parts_of_the_start_is_no_error() -> None:
    done = subprocess.run(
        [sys.executable, "-c", STOPPED_WHILE_IT_STARTS], capture_output=True, text=True, timeout=LIMIT_S, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "tinykv store:" not in done.stderr
    assert "nothing left behind" in done.stderr
