"""What is left behind is found, and shown with where it was started; what belongs to no test is excused."""

from __future__ import annotations

import asyncio
import os
import socket
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from tests.helpers import Gate, forever

from pytinykv.lifecycle import Leak, LeakKind, Scope, leaks

SOON_S = 0.05


def found(before: leaks.Baseline) -> list[Leak]:
    return leaks.find_leaks(before, settle_s=SOON_S)


def test_nothing_is_found_where_nothing_was_started() -> None:
    assert found(leaks.take_baseline()) == []


def test_task_that_a_runner_would_have_cancelled_in_silence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leaks, "SETTLE_S", SOON_S)
    before = leaks.take_baseline()

    async def main() -> None:
        asyncio.get_running_loop().create_task(forever(), name="stray")

    asyncio.run(main())
    (leak,) = found(before)
    assert (leak.kind, leak.name) == (LeakKind.TASK, "stray")
    assert leak.started_at.path == __file__
    assert leak.started_at.function == "main"
    assert "in forever" in leak.stack[0]
    assert leak.stack[-1].startswith("waits for <Future pending")
    assert "task stray\n  started at" in leaks.render_leaks([leak])
    leaks.take_baseline()


def test_task_of_a_scope_that_was_not_stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leaks, "SETTLE_S", SOON_S)
    before = leaks.take_baseline()

    async def main() -> None:
        Scope("forgotten").start("task", forever)

    asyncio.run(main())
    (leak,) = found(before)
    assert leak.name == "forgotten/task"
    assert leak.started_at.path == __file__
    leaks.take_baseline()


def test_task_that_is_just_ending_is_waited_for() -> None:
    before = leaks.take_baseline()

    async def main() -> None:
        asyncio.get_running_loop().create_task(asyncio.sleep(0.02))

    asyncio.run(main())
    assert found(before) == []


def test_thread() -> None:
    before = leaks.take_baseline()
    gate = Gate()
    thread = threading.Thread(target=gate.run, name="stray")
    thread.start()
    (leak,) = found(before)
    assert (leak.kind, leak.name, leak.started_at.path) == (LeakKind.THREAD, "stray", __file__)
    assert any("in Gate.run" in line for line in leak.stack)
    gate.open()
    thread.join()
    assert found(before) == []


def test_file(tmp_path: Path) -> None:
    before = leaks.take_baseline()
    with (tmp_path / "log").open("w"):
        (leak,) = found(before)
    assert leak.kind is LeakKind.DESCRIPTOR
    assert str(tmp_path / "log") in leak.name
    assert leak.started_at.path == __file__
    assert found(before) == []


def test_socket() -> None:
    before = leaks.take_baseline()
    with socket.socket():
        (leak,) = found(before)
    assert leak.kind is LeakKind.DESCRIPTOR
    assert leak.started_at.path == __file__
    assert found(before) == []


def test_descriptor_that_was_reused_for_something_else(tmp_path: Path) -> None:
    number = os.open(tmp_path / "old", os.O_CREAT)
    before = leaks.take_baseline()
    os.close(number)
    assert os.open(tmp_path / "new", os.O_CREAT) == number
    (leak,) = found(before)
    assert str(tmp_path / "new") in leak.name
    os.close(number)


def test_child_process() -> None:
    before = leaks.take_baseline()
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as child:
        leak = next(leak for leak in found(before) if leak.kind is LeakKind.CHILD)
        assert leak.name.startswith(f"pid {child.pid}: {sys.executable}")
        assert leak.started_at.path == __file__
        child.kill()
    assert found(before) == []


SUITE = """
import asyncio, threading
import pytest

release = threading.Event()

async def test_leaves_a_task():
    global task
    task = asyncio.get_running_loop().create_task(asyncio.Event().wait(), name="stray")

async def test_is_innocent():
    await asyncio.sleep(0)

@pytest.fixture(scope="module")
def thread_of_the_module():
    thread = threading.Thread(target=release.wait)
    thread.start()
    yield
    release.set()
    thread.join()

@pytest.fixture
async def task_of_the_fixture():
    task = asyncio.get_running_loop().create_task(asyncio.Event().wait())
    yield
    task.cancel()

async def test_uses_fixtures_that_clean_up(thread_of_the_module, task_of_the_fixture):
    pass

async def test_fails_and_leaves_a_task():
    global another
    another = asyncio.get_running_loop().create_task(asyncio.Event().wait(), name="after a failure")
    raise ValueError("the real reason")
"""


def test_the_fixture_of_this_suite_fails_the_right_tests(tmp_path: Path) -> None:
    (tmp_path / "conftest.py").write_text((Path(__file__).parents[1] / "conftest.py").read_text())
    (tmp_path / "test_suite.py").write_text(SUITE)
    (tmp_path / "pytest.ini").write_text("[pytest]\n")  # whatever lies in the directories above is not for us
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-o", "asyncio_mode=auto", "--rootdir=."],
        cwd=tmp_path,
        check=False,
        capture_output=True,
        text=True,
        timeout=60,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},  # the conftest takes helpers from the tests
    )
    assert "1 failed, 3 passed, 1 error" in done.stdout, done.stdout
    assert "ERROR test_suite.py::test_leaves_a_task" in done.stdout
    assert "task stray" in done.stdout
    assert "in test_leaves_a_task" in done.stdout
    assert "ValueError: the real reason" in done.stdout
    assert "task after a failure" in done.stdout
