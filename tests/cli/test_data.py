"""`tinykv get`, `put`, `delete`, `cas`, `ttl`, `scan`, `count`, `delete-range` as a shell uses them."""

from __future__ import annotations

import json
import shlex
import signal
import socket
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tests.cli.processes import TINYKV, Running, environment, started, tinykv, tinykv_here, wait_until

Run = Callable[..., subprocess.CompletedProcess[bytes]]


@pytest.fixture
def run(cluster: Running) -> Run:
    """Run a command against the cluster, which every test finds empty."""
    address = cluster.ready()["scheduler"]

    def run(*arguments: object, given: bytes = b"") -> subprocess.CompletedProcess[bytes]:
        return tinykv_here(*arguments, given=given, TINYKV_SCHEDULER=address)

    for key in run("scan", "--keys-only", "--hex").stdout.split():
        assert run("delete", key.decode(), "--hex").returncode == 0
    return run


def test_the_commands_as_processes(run: Run, cluster: Running) -> None:
    address = cluster.ready()["scheduler"]
    assert tinykv("put", "k", "v", TINYKV_SCHEDULER=address).returncode == 0
    done = tinykv("get", "k", "--scheduler", address)
    assert (done.returncode, done.stdout, complaints(done)) == (0, b"v\n", [])
    done = tinykv("get", "other", "--scheduler", address)
    assert (done.returncode, done.stdout, complaints(done)) == (1, b"", [b"tinykv get: no such key: other"])


def complaints(done: subprocess.CompletedProcess[bytes]) -> list[bytes]:
    """Return what a command says went wrong. (On a busy machine it may also log that it had to wait for the processor.)"""
    return [line for line in done.stderr.splitlines() if line.startswith((b"tinykv ", b"Traceback"))]


def test_put_get_delete(run: Run) -> None:
    done = run("put", "greeting", "hello wörld")
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")
    assert run("get", "greeting").stdout == "hello wörld\n".encode()
    assert run("delete", "greeting").returncode == 0
    done = run("get", "greeting")
    assert (done.returncode, done.stdout) == (1, b"")
    assert done.stderr == b"tinykv get: no such key: greeting\n"
    assert run("delete", "greeting").returncode == 0


def test_bytes_go_in_and_out_by_hex_and_by_pipe(run: Run) -> None:
    assert run("put", "00ff", "ff00fe", "--hex").returncode == 0
    assert run("get", "00ff", "--hex").stdout == b"ff00fe\n"
    assert run("get", "00ff", "--hex", "--raw").stdout == b"\xff\x00\xfe"
    assert run("put", "piped", "-", given=b"\x00\n\xff").returncode == 0
    assert run("get", "piped", "--raw").stdout == b"\x00\n\xff"
    done = run("get", "piped")
    assert done.returncode == 4
    assert b"not UTF-8 text; --hex shows it" in done.stderr
    assert run("put", "706970", "-", "--hex", given=b" 0a0b\n").returncode == 0
    assert run("get", "pip", "--raw").stdout == b"\x0a\x0b"


def test_column_families_share_nothing_and_a_ttl_is_taken(run: Run) -> None:
    assert run("put", "k", "1").returncode == 0
    assert run("put", "k", "2", "--cf", "write", "--ttl", 100).returncode == 0
    assert run("get", "k").stdout == b"1\n"
    assert run("get", "k", "--cf", "write").stdout == b"2\n"


def test_scan_in_both_directions_with_ends_prefix_and_limit(run: Run) -> None:
    for key in ("a", "b1", "b2", "c\n"):
        assert run("put", key, f"value of {key}").returncode == 0
    assert run("scan").stdout == b"a\tvalue of a\nb1\tvalue of b1\nb2\tvalue of b2\nc\\n\tvalue of c\\n\n"
    assert run("scan", "--keys-only", "--reverse", "--limit", 2).stdout == b"c\\n\nb2\n"
    assert run("scan", "b", "c", "--keys-only").stdout == b"b1\nb2\n"
    assert run("scan", "--prefix", "b", "--keys-only").stdout == b"b1\nb2\n"
    assert run("scan", "--prefix", "62", "--hex", "--limit", 1).stdout == b"6231\t76616c7565206f66206231\n"
    assert run("scan", "--limit", 0).stdout == b""
    assert run("scan", "x").stdout == b""


def test_json_has_text_where_it_is_text_and_hexadecimal_elsewhere(run: Run) -> None:
    run("put", "k", "wörld")
    run("put", "6b00ff", "ff", "--hex")
    assert json.loads(run("get", "k", "--json").stdout) == {"key": "k", "value": "wörld"}
    assert json.loads(run("get", "6b", "--json", "--hex").stdout) == {"key_hex": "6b", "value_hex": "77c3b6726c64"}
    lines = [json.loads(line) for line in run("scan", "--json").stdout.splitlines()]
    assert lines == [{"key": "k", "value": "wörld"}, {"key_hex": "6b00ff", "value_hex": "ff"}]
    assert json.loads(run("scan", "--json", "--keys-only", "--limit", 1).stdout) == {"key": "k"}
    done = run("get", "other", "--json")
    assert (done.returncode, done.stdout) == (1, b"")


def test_compare_and_swap(run: Run) -> None:
    assert run("cas", "k", "1", "--absent").returncode == 0
    done = run("cas", "k", "2", "--absent")
    assert (done.returncode, done.stderr) == (1, b"tinykv cas: not set: k has the value 1\n")
    assert run("cas", "k", "2", "--expect", "1", "--ttl", 100).returncode == 0
    assert run("get", "k").stdout == b"2\n"
    done = run("cas", "other", "2", "--expect", "1", "--json")
    assert (done.returncode, done.stdout) == (1, b'{"swapped":false}\n')
    assert run("cas", "k", "3", "--expect", "2", "--json").stdout == b'{"swapped":true,"previous":"2"}\n'
    assert run("ttl", "k").stdout == b"never\n"
    for wrong in ((), ("--absent", "--expect", "1")):
        done = run("cas", "k", "3", *wrong)
        assert done.returncode == 2
        assert b"either --expect OLD or --absent" in done.stderr


def test_how_long_a_key_lives(run: Run) -> None:
    run("put", "k", "v", "--ttl", 100)
    assert 90 < float(run("ttl", "k").stdout) <= 100
    assert 90 < json.loads(run("ttl", "k", "--json").stdout)["ttl_s"] <= 100
    run("put", "k", "v")
    assert run("ttl", "k").stdout == b"never\n"
    assert run("ttl", "k", "--json").stdout == b'{"ttl_s":null}\n'
    done = run("ttl", "other")
    assert (done.returncode, done.stdout, done.stderr) == (1, b"", b"tinykv ttl: no such key: other\n")


def test_ranges_are_counted_and_deleted(run: Run) -> None:
    for key in ("a", "b1", "b2", "c"):
        run("put", key, "v")
    assert run("count").stdout == b"4\n"
    assert run("count", "--prefix", "b", "--json").stdout == b'{"keys":2}\n'
    assert run("count", "b2", "c").stdout == b"1\n"
    assert run("delete-range", "--prefix", "b").returncode == 0
    assert run("scan", "--keys-only").stdout == b"a\nc\n"
    assert run("delete-range", "b", "x").returncode == 0
    assert run("scan", "--keys-only").stdout == b"a\n"
    for wrong in ((), ("--prefix", ""), ("a", "b", "--everything"), ("b", "a")):
        assert run("delete-range", *wrong).returncode == 2
    assert run("delete-range", "--everything").returncode == 0
    assert run("count").stdout == b"0\n"


def test_a_dash_in_front_goes_behind_two(run: Run) -> None:
    assert run("put", "--", "-x", "-5").returncode == 0
    assert run("get", "--", "-x").stdout == b"-5\n"


def test_a_reader_that_leaves_early_ends_it_quietly(run: Run, cluster: Running) -> None:
    for number in range(3):
        assert run("put", f"long{number}", "-", given=b"x" * 500_000).returncode == 0
    process = subprocess.Popen(
        [*TINYKV, "scan"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment(TINYKV_SCHEDULER=cluster.ready()["scheduler"]),
    )
    assert process.stdout is not None
    assert process.stdout.read(10) == b"long0\txxxx"
    process.stdout.close()
    _, errors = process.communicate(timeout=60)
    assert (process.returncode, errors) == (0, b"")


def test_output_that_cannot_be_written_is_an_error(run: Run, cluster: Running) -> None:
    run("put", "k", "v")
    with Path("/dev/full").open("wb") as full:
        done = subprocess.run(
            [*TINYKV, "scan"],
            stdout=full,
            stderr=subprocess.PIPE,
            env=environment(TINYKV_SCHEDULER=cluster.ready()["scheduler"]),
            timeout=60,
            check=False,
        )
    assert (done.returncode, done.stderr) == (4, b"tinykv scan: can't write the output: No space left on device\n")


def test_too_large_a_value_is_refused_with_its_size(run: Run) -> None:
    done = run("put", "large", "-", given=b"x" * 9_000_000)
    assert done.returncode == 4
    assert b"value is too long: 9000000 bytes" in done.stderr


def test_where_the_scheduler_is_said_to_be(tmp_path: Path) -> None:
    config = tmp_path / "tinykv.toml"
    config.write_text('[client]\nscheduler = "127.0.0.1:2"\ntimeout = 0.1\n')
    by_flag = ("--scheduler", "127.0.0.1:4")
    for arguments, variables, asked in (
        ((), {}, "127.0.0.1:2"),
        ((), {"TINYKV_SCHEDULER": "127.0.0.1:3"}, "127.0.0.1:3"),
        (by_flag, {"TINYKV_SCHEDULER": "127.0.0.1:3"}, "127.0.0.1:4"),
    ):
        done = tinykv_here("get", "k", "--config", config, *arguments, **variables)
        assert done.returncode == 4
        assert f"no scheduler answered in time (asked {asked};" in done.stderr.decode()
        assert b"--scheduler or TINYKV_SCHEDULER say where" in done.stderr


@pytest.fixture
def unanswered(request: pytest.FixtureRequest) -> Iterator[str]:
    """Return an address at which no process listens ("dead"), or where one takes connections and never replies."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"
        if request.param == "dead":
            server.close()
        yield address


UNANSWERED = pytest.mark.parametrize(
    ("unanswered", "command"), [("dead", "put k v"), ("silent", "scan")], indirect=["unanswered"]
)


@UNANSWERED
def test_an_address_that_does_not_answer_is_named_when_the_time_is_up(unanswered: str, command: str) -> None:
    done = tinykv(*command.split(), "--scheduler", unanswered, "--timeout", 0.5)
    assert done.returncode == 4
    assert f"no scheduler answered in time (asked {unanswered};" in done.stderr.decode()
    assert done.stdout == b""


@UNANSWERED
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupted_twice_while_it_waits_it_ends_at_once_with_130(
    tmp_path: Path, unanswered: str, command: str, number: int
) -> None:
    options = ("--scheduler", unanswered, "--timeout", 600, "--log-level", "debug")
    with started(tmp_path, *command.split(), *options) as running:
        wait_until(lambda: "scope client started" in running.errors)
        running.process.send_signal(number)
        assert running.stop(number) == 130
        assert f"tinykv {command.split(maxsplit=1)[0]}: interrupted\n" in running.errors


def test_a_value_from_standard_input_that_is_closed_is_refused() -> None:
    command = shlex.join([*TINYKV, "put", "k", "-"])
    done = subprocess.run(["/bin/sh", "-c", f"{command} <&-"], capture_output=True, timeout=60, check=False)
    assert done.returncode == 2
    assert b"VALUE is -, and standard input can't be read" in done.stderr


def test_the_address_of_a_store_is_refused_at_once(cluster: Running) -> None:
    store = json.loads(tinykv_here("stores", "--json", "--scheduler", cluster.ready()["scheduler"]).stdout)[0][
        "address"
    ]
    done = tinykv("get", "k", "--scheduler", store, "--timeout", 600)
    assert done.returncode == 4
    assert f"{store} is a store, or another gRPC server, and no scheduler" in done.stderr.decode()
