from __future__ import annotations

import shlex
import subprocess
import sys
from pathlib import Path

import click
import pytest
from click.testing import CliRunner
from tests.cli.processes import LIMIT_S, TINYKV

from pytinykv import __version__
from pytinykv.cli import main
from pytinykv.cli.catalog import COMMANDS


def run_python(code: str) -> str:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60).stdout


def test_help_lists_every_command_with_its_summary() -> None:
    result = CliRunner().invoke(main, ["--help"])
    assert result.exit_code == 0
    for name, entry in COMMANDS.items():
        assert name in result.output
        assert entry.summary in result.output


CTL = ("store remove", "store restore", "transfer-leader", "split", "scatter", "operators")


@pytest.mark.parametrize("name", [*(name for name in COMMANDS if name != "ctl"), *(f"ctl {name}" for name in CTL)])
def test_every_command_loads_and_explains_itself(name: str) -> None:
    result = CliRunner().invoke(main, [*name.split(), "--help"])
    assert result.exit_code == 0, result.output
    assert "--config" in result.output
    assert "Exit status: 0 " in result.output
    assert max(map(len, result.output.splitlines())) <= 80
    command: click.Command = main
    for part in name.split():
        assert isinstance(command, click.Group)
        found = command.get_command(click.Context(command), part)
        assert found is not None
        command = found
    assert [each.name for each in command.params if isinstance(each, click.Option) and not each.help] == []


def test_version() -> None:
    result = CliRunner().invoke(main, ["--version"])
    assert result.output == f"tinykv, version {__version__}\n"


def test_unknown_command_is_named() -> None:
    result = CliRunner().invoke(main, ["gte"])
    assert result.exit_code == 2
    assert "no such command: 'gte'; did you mean get?" in result.output
    assert "did you mean scatter?" in CliRunner().invoke(main, ["ctl", "scater"]).output
    assert "there are playground, scheduler" in CliRunner().invoke(main, ["xyzzy"]).output


def test_help_and_a_client_command_load_no_server_and_nothing_heavy() -> None:
    loaded = run_python(
        "import sys; from pytinykv.cli import main; main.get_command(None, 'get'); print(*sys.modules, sep='\\n')"
    ).split()
    heavy = ("grpc", "uvloop", "rich", "rocksdict", "prometheus_client", "pytinykv.server", "pytinykv.raftstore")
    assert [name for name in loaded if name.startswith(heavy)] == []


def test_a_store_loads_no_scheduler_and_a_scheduler_no_store() -> None:
    store = run_python("import sys, pytinykv.server.host.store_process; print(*sys.modules, sep='\\n')").split()
    assert [name for name in store if name.startswith(("pytinykv.scheduler", "pytinykv.simulation", "rich"))] == []
    scheduler = run_python("import sys, pytinykv.server.host.scheduler_process; print(*sys.modules, sep='\\n')").split()
    assert [name for name in scheduler if name.startswith(("pytinykv.raft", "pytinykv.client", "rich"))] == []


def test_standard_streams_may_be_closed() -> None:
    command = shlex.join([*TINYKV, "get", "k", "--scheduler", "127.0.0.1:1", "--timeout", "0.2"])
    for closed in ("<&-", ">&-", "<&- >&-"):
        done = subprocess.run(
            ["/bin/sh", "-c", f"{command} {closed}"], capture_output=True, timeout=LIMIT_S, check=False
        )
        assert done.returncode == 4, (closed, done)
        assert b"no scheduler answered" in done.stderr
    done = subprocess.run(
        ["/bin/sh", "-c", f"{command} <&- >&- 2>&-"], capture_output=True, timeout=LIMIT_S, check=False
    )
    assert done.returncode == 4, done


def test_help_that_cannot_be_written_is_told_without_a_traceback() -> None:
    with Path("/dev/full").open("wb") as full:
        done = subprocess.run([*TINYKV, "--help"], stdout=full, stderr=subprocess.PIPE, timeout=LIMIT_S, check=False)
    assert (done.returncode, done.stderr) == (1, b"tinykv: can't write the output: No space left on device\n")
