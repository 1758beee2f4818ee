"""Every Python example in the README, docs/client.md and docs/embedded.md runs, and prints what its comments say."""

from __future__ import annotations

import os
import re
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner

from pytinykv.cli import main

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
CLIENT_PAGE = (ROOT / "docs" / "client.md").read_text(encoding="utf-8")
EMBEDDED_PAGE = (ROOT / "docs" / "embedded.md").read_text(encoding="utf-8")
IN_README, IN_CLIENT_PAGE, IN_EMBEDDED_PAGE = (
    re.findall(r"^```python\n(.*?)^```$", page, flags=re.MULTILINE | re.DOTALL)
    for page in (README, CLIENT_PAGE, EMBEDDED_PAGE)
)
EXAMPLES = [*IN_README, *IN_CLIENT_PAGE, *IN_EMBEDDED_PAGE]
ADDRESS_IN_README = "127.0.0.1:2379"
READY_LINE = re.compile(rb"^ready\b.*?\bscheduler=(\S+)", re.MULTILINE)
READY_WITHIN_S = 45.0
STOPS_WITHIN_S = 15.0


@pytest.fixture(scope="module")
def scheduler_address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Run the playground that the README starts, on a free port; it must stop cleanly on Ctrl-C."""
    data_dir = tmp_path_factory.mktemp("playground") / "data"
    tinykv = Path(sys.executable).with_name("tinykv")
    command = [tinykv, "playground", "--scheduler-addr", "127.0.0.1:0", "--data-dir", data_dir]
    process = subprocess.Popen(command, stdout=subprocess.PIPE)
    try:
        yield wait_ready(process)
        process.send_signal(signal.SIGINT)
        assert process.wait(STOPS_WITHIN_S) == 0
    finally:
        process.kill()
        process.wait(STOPS_WITHIN_S)
        process.stdout.close()


def wait_ready(process: subprocess.Popen[bytes]) -> str:
    """Return the scheduler's address from the playground's ready line."""
    printed = b""
    deadline = time.monotonic() + READY_WITHIN_S
    while True:
        ready, _, _ = select.select([process.stdout], [], [], max(0.0, deadline - time.monotonic()))
        assert ready, f"no ready line within {READY_WITHIN_S} s; printed: {printed!r}"
        chunk = os.read(process.stdout.fileno(), 65536)
        assert chunk, f"the playground ended; printed: {printed!r}"
        printed += chunk
        match = READY_LINE.search(printed)
        if match:
            return match[1].decode()


def test_the_readme_has_three_tours_and_an_example_for_each_foreign_client() -> None:
    imports = [re.findall(r"^(?:import|from) (\w+)", example, flags=re.MULTILINE) for example in IN_README]
    assert [names[-1] for names in imports] == ["pytinykv", "pytinykv", "pytinykv", "tikv_client", "tikv"]
    assert "pytinykv.open(" in IN_README[0], "what needs no server comes first"
    tour = [line for line in IN_README[1].splitlines() if line.strip()]
    assert len(tour) <= 20


@pytest.mark.parametrize("page", ["README.md", "docs/operations.md"])
def test_the_configuration_file_that_is_shown_is_one(tmp_path: Path, page: str) -> None:
    shown = (ROOT / page).read_text(encoding="utf-8")
    (text,) = re.findall(r"^```toml\n(.*?)^```$", shown, flags=re.MULTILINE | re.DOTALL)
    file = tmp_path / "tinykv.toml"
    file.write_text(text)
    for command in ("store", "scheduler", "status"):
        done = CliRunner().invoke(main, [command, "--config", str(file), "--log-level", "loud"])
        assert "'loud' is not one of" in done.output, "everything in the file was taken before"


@pytest.mark.parametrize("number", range(len(EXAMPLES)))
def test_example_runs_and_prints_what_it_says(number: int, scheduler_address: str, tmp_path: Path) -> None:
    example = EXAMPLES[number]
    if "tikv_client" in example:
        pytest.importorskip("tikv_client", reason="its last wheels are for CPython 3.11")
    done = subprocess.run(
        [sys.executable, "-W", "error::ResourceWarning", "-c", example.replace(ADDRESS_IN_README, scheduler_address)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr
    printed = done.stdout.splitlines()
    promised = re.findall(r"^\s*print\(.*?\)\s+# (.+)$", example, flags=re.MULTILINE)
    assert promised
    assert [line for line in promised if line not in printed] == [], done.stderr
