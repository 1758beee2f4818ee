"""`tinykv playground` as a process: it serves, it stops, and it leaves nothing behind, even when it is killed."""

from __future__ import annotations

import os
import re
import shlex
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.cli.processes import (
    LIMIT_S,
    Running,
    children_of,
    environment,
    is_alive,
    started,
    tinykv,
    tinykv_here,
    wait_until,
)

ANY = ("--scheduler-addr", "127.0.0.1:0")
ADDRESS = r"127\.0\.0\.1:[1-9]\d*"


@pytest.fixture
def temporary(tmp_path: Path) -> dict[str, str]:
    """Where the playground is to make its temporary directory."""
    (tmp_path / "tmp").mkdir()
    return {"TMPDIR": str(tmp_path / "tmp")}


@pytest.fixture(scope="class")
def playground(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    directory = tmp_path_factory.mktemp("playground")
    (directory / "tmp").mkdir()
    with started(directory, "playground", *ANY, TMPDIR=str(directory / "tmp")) as running:
        running.ready()
        yield running
        children = running.children()
        assert running.stop() == 0, running.output + running.errors
        assert not any(is_alive(pid) for pid in children.values())
        assert list((directory / "tmp").iterdir()) == []
        report = running.output.splitlines()[-5:]
        names = ("store-1", "store-2", "store-3", "scheduler")
        for name, line in zip(names, report, strict=False):
            assert re.fullmatch(rf"{name} +exit 0  \d+\.\d\d s", line), report
        assert re.fullmatch(r"stopped in \d+\.\d s, nothing left behind", report[-1])
        assert running.errors == ""


class TestThreeStores:
    """What can be seen of one playground with everything in it."""

    def test_the_ready_line_has_all_addresses_and_comes_when_every_replica_is_there(self, playground: Running) -> None:
        line = playground.wait_line("ready ")
        assert re.fullmatch(rf"ready scheduler={ADDRESS} stores={ADDRESS},{ADDRESS},{ADDRESS}", line)
        done = tinykv_here("regions", "--scheduler", playground.ready()["scheduler"])
        _, region = done.stdout.decode().splitlines()
        assert (region.split()[1], region.count("@")) == ("healthy", 3 + 1), "three peers, one of them also as leader"

    def test_it_says_who_leads(self, playground: Running) -> None:
        assert re.fullmatch(r"region \d+ is led by store \d+ in term \d+", playground.wait_line("region "))

    def test_servers_have_their_own_logs(self, playground: Running) -> None:
        logs = Path(playground.wait_line("logs ").split()[1])
        assert sorted(path.name for path in logs.iterdir()) == [
            "scheduler.log",
            "store-1.log",
            "store-2.log",
            "store-3.log",
        ]
        assert "serves at" in (logs / "store-1.log").read_text()

    @pytest.mark.parametrize("client", ["pytinykv", "tikv-python", "tikv-client"])
    def test_the_line_for_each_client_works_as_it_stands(self, playground: Running, client: str) -> None:
        playground.ready()
        pytest.importorskip({"pytinykv": "pytinykv", "tikv-python": "tikv", "tikv-client": "tikv_client"}[client])
        line = playground.wait_line(f"  {client} ").split(maxsplit=1)[1]
        done = subprocess.run([sys.executable, "-c", line], capture_output=True, timeout=LIMIT_S, check=False)
        assert (done.returncode, done.stdout) == (0, b"b'v'\n"), done.stderr

    def test_the_line_for_the_shell_works_as_it_stands(self, playground: Running) -> None:
        playground.ready()
        line = playground.wait_line("  shell ").split(maxsplit=1)[1]
        first, second = (shlex.split(part) for part in line.split("&&"))
        assert (Path(first[0]).name, Path(second[0]).name) == ("tinykv", "tinykv")
        assert tinykv(*first[1:]).returncode == 0
        assert tinykv(*second[1:]).stdout == b"hello\n"


def test_killed_it_leaves_no_process_behind_and_the_next_one_cleans_up(
    tmp_path: Path, temporary: dict[str, str]
) -> None:
    with started(tmp_path, "playground", "--stores", 2, *ANY, **temporary) as running:
        running.ready()
        children = running.children()
        assert sorted(children) == ["scheduler", "store-1", "store-2"]
        running.process.kill()
        wait_until(lambda: not any(is_alive(pid) for pid in children.values()))
    (left,) = Path(temporary["TMPDIR"]).iterdir()
    subprocess.run(["/bin/touch", "-d", "10 minutes ago", left], check=True)
    with started(tmp_path, "playground", "--stores", 1, *ANY, **temporary) as running:
        running.ready()
        assert not left.exists()
        assert running.stop(signal.SIGTERM) == 0
    assert list(Path(temporary["TMPDIR"]).iterdir()) == []


def test_with_the_option_it_ends_with_the_parent_that_is_killed(tmp_path: Path, temporary: dict[str, str]) -> None:
    command = shlex.join([sys.executable, "-m", "pytinykv", "playground", *ANY, "--exit-with-parent"])
    with (tmp_path / "out").open("wb") as out:
        parent = subprocess.Popen(
            ["/bin/sh", "-c", f"{command} & wait"], stdin=subprocess.DEVNULL, stdout=out, env=environment(**temporary)
        )
    output = tmp_path / "out"
    try:
        wait_until(lambda: "\nready " in output.read_text() or parent.poll() is not None)
        assert parent.poll() is None
    finally:
        parent.kill()
        parent.wait(LIMIT_S)
    wait_until(lambda: "nothing left behind" in output.read_text())
    wait_until(lambda: not list((tmp_path / "tmp").iterdir()))


def test_a_terminal_that_is_closed_stops_it(tmp_path: Path, temporary: dict[str, str]) -> None:
    """All its programs get SIGHUP at once, and what they still print goes nowhere."""
    ours, theirs = os.openpty()
    command = shlex.join([sys.executable, "-m", "pytinykv", "playground", *ANY, "--stores", "2"])
    terminal, errors = os.ttyname(theirs), tmp_path / "errors"
    on_the_terminal = f"exec {command} < {terminal} > {terminal} 2> {shlex.quote(str(errors))}"
    process = subprocess.Popen(["/bin/sh", "-c", on_the_terminal], env=environment(**temporary), start_new_session=True)
    try:
        shown = ""
        with os.fdopen(ours, "rb", buffering=0) as screen:
            while "q quit" not in shown:
                shown += screen.read(4096).decode(errors="replace")
            children = children_of(process.pid)
            assert len(children) == 3
            os.close(theirs)
        assert process.wait(LIMIT_S) == 0
    finally:
        process.kill()
        process.wait(LIMIT_S)
    wait_until(lambda: not any(is_alive(pid) for pid in children.values()))
    assert list((tmp_path / "tmp").iterdir()) == []


def test_killed_while_it_starts_it_leaves_no_process_behind(tmp_path: Path, temporary: dict[str, str]) -> None:
    with started(tmp_path, "playground", "--stores", 2, *ANY, **temporary) as running:
        wait_until(lambda: len(running.children()) == 3)
        children = running.children()
        running.process.kill()
        wait_until(lambda: not any(is_alive(pid) for pid in children.values()))


def test_told_to_stop_while_it_starts_it_stops(tmp_path: Path, temporary: dict[str, str]) -> None:
    with started(tmp_path, "playground", *ANY, **temporary) as running:
        wait_until(lambda: len(running.children()) == 4)
        children = running.children()
        assert running.stop() == 0, running.output + running.errors
        assert not any(is_alive(pid) for pid in children.values())
        assert "nothing left behind" in running.output
    assert list(Path(temporary["TMPDIR"]).iterdir()) == []


def test_a_second_signal_ends_it_at_once(tmp_path: Path, temporary: dict[str, str]) -> None:
    with started(tmp_path, "playground", "--stores", 1, *ANY, **temporary) as running:
        running.ready()
        children = running.children()
        Path(f"/proc/{children['store-1']}/cwd").resolve()
        subprocess.run(["/bin/kill", "-STOP", str(children["store-1"])], check=True)
        running.process.send_signal(signal.SIGINT)
        with pytest.raises(subprocess.TimeoutExpired):  # it waits for the store that is paused
            running.process.wait(1.0)
        assert running.stop() == 3
        assert "SIGINT for the second time" in running.errors
        wait_until(lambda: not any(is_alive(pid) for pid in children.values()))


def test_a_store_that_does_not_stop_is_killed_and_the_status_says_so(tmp_path: Path, temporary: dict[str, str]) -> None:
    with started(tmp_path, "playground", "--stores", 1, *ANY, **temporary) as running:
        running.ready()
        children = running.children()
        subprocess.run(["/bin/kill", "-STOP", str(children["store-1"])], check=True)
        assert running.stop() == 3
        assert "store-1    did not stop in time and was killed" in running.output
        assert not any(is_alive(pid) for pid in children.values())
    assert list(Path(temporary["TMPDIR"]).iterdir()) == []


def test_a_killed_store_is_told_and_reads_and_writes_go_on(tmp_path: Path, temporary: dict[str, str]) -> None:
    with started(tmp_path, "playground", *ANY, **temporary) as running:
        address = running.ready()["scheduler"]
        assert tinykv_here("put", "k", "v", "--scheduler", address).returncode == 0
        children = running.children()
        subprocess.run(["/bin/kill", "-KILL", str(children["store-1"])], check=True)
        line = running.wait_line("store-1 (pid ")
        assert line.startswith(f"store-1 (pid {children['store-1']}) has ended: killed by SIGKILL; log: /")
        assert tinykv_here("get", "k", "--timeout", 30, "--scheduler", address).stdout == b"v\n"
        assert running.stop() == 0
        assert "store-1    ended before the stop: killed by SIGKILL" in running.output


def test_started_again_in_its_directory_it_finds_everything(tmp_path: Path) -> None:
    data = ("--data-dir", tmp_path / "data")
    with started(tmp_path, "playground", "--stores", 2, *ANY, *data) as running:
        assert tinykv_here("put", "k", "kept", "--scheduler", running.ready()["scheduler"]).returncode == 0
        assert running.stop() == 0
        assert running.output.endswith(f"nothing left behind; the data stays in {tmp_path / 'data'}\n")
    with started(tmp_path, "playground", *ANY, *data) as running:
        facts = running.ready()
        assert len(facts["stores"].split(",")) == 2
        assert tinykv_here("get", "k", "--scheduler", facts["scheduler"]).stdout == b"kept\n"
        done = tinykv("playground", *ANY, *data)
        assert done.returncode == 1
        assert f"is in use by another playground (pid {running.pid})" in done.stderr.decode()
        assert running.stop() == 0
    done = tinykv("playground", "--stores", 1, *ANY, *data)
    assert done.returncode == 1
    assert "has the data of 2 stores; leave --stores out, or give at least 2" in done.stderr.decode()


@pytest.mark.parametrize("mode", [(), ("--quick",)], ids=["processes", "quick"])
def test_a_port_in_use_is_named_and_nothing_stays(mode: tuple[str, ...], temporary: dict[str, str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        done = tinykv("playground", *mode, "--scheduler-addr", address, **temporary)
    assert done.returncode == 1
    assert done.stderr.decode() == (
        f"tinykv playground: --scheduler-addr: cannot listen on {address}: "
        "another process listens there; stop it, or choose another port (port 0 picks a free one)\n"
    )
    assert list(Path(temporary["TMPDIR"]).iterdir()) == []


def test_a_directory_of_another_program_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "letter.txt").touch()
    done = tinykv("playground", *ANY, "--data-dir", tmp_path)
    assert done.returncode == 1
    assert f"{tmp_path} has other files in it (letter.txt); choose an empty or a new directory" in done.stderr.decode()
    assert [path.name for path in tmp_path.iterdir()] == ["letter.txt"]


def test_variables_and_files_meant_for_servers(tmp_path: Path) -> None:
    """Variables are the playground's own; the file goes on to the servers, whose addresses it can't change."""
    config = tmp_path / "tinykv.toml"
    config.write_text(
        '[playground]\nstores = 1\n[store]\naddr = "127.0.0.1:1"\n[store.raftstore]\nelection_ticks = 4\n'
        '[scheduler]\nadvertise-addr = "127.0.0.1:1"\n'
    )
    variables = {"TINYKV_ADVERTISE_ADDR": "127.0.0.1:1", "TINYKV_SCHEDULER_ADDR": "127.0.0.1:0"}
    data = ("--data-dir", tmp_path / "data")
    with started(tmp_path, "playground", *data, "--config", config, **variables) as running:
        assert re.fullmatch(rf"ready scheduler={ADDRESS} stores={ADDRESS}", running.wait_line("ready "))
        assert running.stop() == 0
    config.write_text("[store.raftstore]\nelection_ticks = 1\n")
    done = tinykv("playground", *ANY, *data, "--config", config)
    assert done.returncode == 1
    told = done.stderr.decode()
    assert (
        f"store-1 could not start: {config}, line 2 (election_ticks = 1): [store.raftstore] heartbeat_ticks (2)" in told
    )


def test_output_without_a_reader_ends_nothing(tmp_path: Path, temporary: dict[str, str]) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "pytinykv", "playground", "--stores", "1", *ANY],
        stdout=subprocess.PIPE,
        env=environment(**temporary),
    )
    try:
        assert process.stdout is not None
        process.stdout.close()
        home = Path(temporary["TMPDIR"])
        wait_until(
            lambda: "leads 1 of 1 regions" in "".join(log.read_text() for log in home.glob("*/logs/store-1.log"))
        )
        process.send_signal(signal.SIGTERM)
        assert process.wait(LIMIT_S) == 0
    finally:
        process.kill()
        process.wait()
    assert list(home.iterdir()) == []
