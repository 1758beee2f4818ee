"""`tinykv playground --quick`, as a test in another language starts it."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

import pytinykv
from pytinykv.client import EntryTooLargeError

TINYKV = (sys.executable, "-m", "pytinykv")
END_S = 20


@contextmanager
def quick(*options: str) -> Iterator[tuple[subprocess.Popen[bytes], dict[str, str]]]:
    """Run one; give the process and what its ready line tells."""
    with subprocess.Popen((*TINYKV, "playground", "--quick", *options), stdout=subprocess.PIPE) as process:
        try:
            assert process.stdout is not None
            line = process.stdout.readline().decode()
            assert line.startswith("ready "), line
            yield process, dict(word.split("=", 1) for word in line.split()[1:])
        finally:
            process.kill()


def test_it_serves_and_ends_when_it_is_told_to() -> None:
    with quick("--stores", "3") as (process, facts):
        assert len(facts["stores"].split(",")) == 3
        with pytinykv.connect(facts["scheduler"]) as db, db.transaction() as txn:
            txn.put(b"k", b"v")
        process.send_signal(signal.SIGTERM)
        assert process.wait(END_S) == 0


def test_it_ends_with_the_process_that_started_it() -> None:
    argv = ",".join(map(repr, (*TINYKV, "playground", "--quick")))
    script = f"import subprocess, time; p = subprocess.Popen(({argv})); print(p.pid, flush=True); time.sleep(60)"
    with subprocess.Popen((sys.executable, "-c", script), stdout=subprocess.PIPE) as parent:
        assert parent.stdout is not None
        pidfd = os.pidfd_open(int(parent.stdout.readline()))
        assert parent.stdout.readline().startswith(b"ready ")
        parent.kill()
    try:
        assert select.select([pidfd], [], [], END_S)[0], "it outlives its parent"
    finally:
        os.close(pidfd)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--data-dir", "data"), "--quick keeps all data in memory"),
        (("--stores", "10"), "1 to 9 stores, not 10"),
        (("--scheduler-addr", "[::1]:0"), "--quick serves at 127.0.0.1 only"),
    ],
)
def test_what_it_cannot_do_is_said(options: tuple[str, ...], said: str) -> None:
    run = subprocess.run(
        (*TINYKV, "playground", "--quick", *options), capture_output=True, text=True, timeout=END_S, check=False
    )
    assert run.returncode == 2
    assert said in run.stderr


def test_a_file_of_settings_holds_for_its_servers(tmp_path: Path) -> None:
    file = tmp_path / "settings.toml"
    file.write_text("[store.raftstore]\nentry_bytes_max = 1000\n")
    with (
        quick("--config", str(file)) as (_, facts),
        pytinykv.connect(facts["scheduler"]) as db,
        pytest.raises(EntryTooLargeError),
    ):
        db.raw.put(b"k", bytes(2000))
