"""`tinykv` as processes: started with a clean environment, waited for by what they print, ended whatever a test does."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from click.testing import CliRunner

from pytinykv.cli import main

LIMIT_S = 60.0
TINYKV = (sys.executable, "-m", "pytinykv")


def environment(**variables: str) -> dict[str, str]:
    """Return this process's environment without our own variables, but with `variables`."""
    return {name: value for name, value in os.environ.items() if not name.startswith("TINYKV_")} | variables


def tinykv(*arguments: object, given: bytes = b"", **variables: str) -> subprocess.CompletedProcess[bytes]:
    """Run a command to its end."""
    return subprocess.run(
        [*TINYKV, *map(str, arguments)],
        input=given,
        capture_output=True,
        env=environment(**variables),
        timeout=LIMIT_S,
        check=False,
    )


def tinykv_here(*arguments: object, given: bytes = b"", **variables: str) -> subprocess.CompletedProcess[bytes]:
    """As `tinykv`, but in this process, which has everything loaded."""
    runner = CliRunner(env=dict.fromkeys((name for name in os.environ if name.startswith("TINYKV_")), "") | variables)
    result = runner.invoke(main, [str(argument) for argument in arguments], input=given)
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return subprocess.CompletedProcess(arguments, result.exit_code, result.stdout_bytes, result.stderr_bytes)


class Running:
    """A `tinykv` process that goes on until it is told to stop. What it prints is collected."""

    def __init__(self, process: subprocess.Popen[bytes], output: Path, errors: Path) -> None:
        self.process = process
        self._output = output
        self._errors = errors

    @property
    def pid(self) -> int:
        return self.process.pid

    @property
    def output(self) -> str:
        return self._output.read_text(encoding="utf-8")

    @property
    def errors(self) -> str:
        return self._errors.read_text(encoding="utf-8")

    def wait_line(self, start: str) -> str:
        """Return the first line of its output that begins with `start`."""

        def find() -> str:
            return next((line for line in self.output.splitlines() if line.startswith(start)), "")

        wait_until(lambda: bool(find()) or self.process.poll() is not None)
        line = find()
        assert line, f"it ended with {self.process.poll()} and never printed {start!r}: {self.output}{self.errors}"
        return line

    def ready(self) -> dict[str, str]:
        """Wait for the ready line and return what it tells."""
        return dict(word.split("=", 1) for word in self.wait_line("ready ").split()[1:])

    def stop(self, number: int = signal.SIGINT) -> int:
        """Send a signal and return the exit status."""
        self.process.send_signal(number)
        return self.process.wait(LIMIT_S)

    def children(self) -> dict[str, int]:
        """As `children_of` its own pid."""
        return children_of(self.pid)


def children_of(parent: int) -> dict[str, int]:
    """Return the pids of the child processes of a playground by what they are: `scheduler`, `store-1`, …"""
    found = {}
    for listing in Path(f"/proc/{parent}/task").glob("*/children"):
        for pid in map(int, listing.read_text().split()):
            words = Path(f"/proc/{pid}/cmdline").read_bytes().decode().split("\0")
            if "--data-dir" not in words:  # between fork and exec
                continue
            found[Path(words[words.index("--data-dir") + 1]).name] = pid
    return found


@contextmanager
def started(directory: Path, *arguments: object, **variables: str) -> Iterator[Running]:
    """Start a command; at the end of the block it is gone."""
    number = len(list(directory.glob("*.out")))
    output, errors = directory / f"{number}.out", directory / f"{number}.err"
    with output.open("wb") as out, errors.open("wb") as err:
        process = subprocess.Popen(
            [*TINYKV, *map(str, arguments)],
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=err,
            env=environment(**variables),
        )
    try:
        yield Running(process, output, errors)
    finally:
        process.kill()
        process.wait(LIMIT_S)


def wait_until(condition: Callable[[], bool]) -> None:
    """Wait for something that happens soon."""
    deadline = time.monotonic() + LIMIT_S
    while not condition():
        assert time.monotonic() < deadline, f"not within {LIMIT_S} s"
        time.sleep(0.02)


def is_alive(pid: int) -> bool:
    """Return whether a process runs; one that has ended and was not reaped yet does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in {"Z", "X"}
    except OSError:
        return False
