from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from asyncio.subprocess import PIPE
from pathlib import Path

import pytest
import uvloop

from pytinykv.lifecycle import ChildStartError, LeakKind, Scope, ScopeStoppedError, start_child
from pytinykv.lifecycle.children import PARENT_PID_VARIABLE, running_children

ENOUGH_S = 20.0

# Each prints a line when it is ready, so that a signal meets what it is meant to meet.
OBEDIENT = "import time; print('ready', flush=True); time.sleep(60)"
STUBBORN = f"import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); {OBEDIENT}"
CHATTY = "print('ready', flush=True)\nwhile True: print('x' * 1000)"


async def started(scope: Scope, script: str, **options: float) -> tuple[int, asyncio.StreamReader]:
    child = await start_child(scope, "child", sys.executable, "-c", script, stdout=PIPE, **options)
    assert child.stdout is not None
    assert await child.stdout.readline() == b"ready\n"
    return child.pid, child.stdout


async def test_child_that_ends_by_itself(scope: Scope) -> None:
    child = await start_child(scope, "child", sys.executable, "-c", "raise SystemExit(7)")
    assert child.name == "test/child"
    assert await child.wait(ENOUGH_S) == 7
    assert child.returncode == 7
    await asyncio.sleep(0)
    assert await child.stop() == 7
    assert (await scope.stop()).ok


async def test_output_can_be_read_after_the_end(scope: Scope) -> None:
    child = await start_child(scope, "child", sys.executable, "-c", "print('hello')", stdout=PIPE)
    await child.wait(ENOUGH_S)
    assert child.stdout is not None
    assert await child.stdout.read() == b"hello\n"


async def test_waiting_has_a_deadline(scope: Scope) -> None:
    child = await start_child(scope, "child", sys.executable, "-c", OBEDIENT, stdout=PIPE)
    with pytest.raises(TimeoutError, match="test/child"):
        await child.wait(0.01)


async def test_scope_terminates_its_children(scope: Scope) -> None:
    pid, _ = await started(scope, OBEDIENT)
    assert running_children()[pid].path == __file__
    report = await scope.stop(ENOUGH_S)
    assert report.ok
    assert pid not in running_children()


async def test_child_that_ignores_sigterm_is_killed_and_that_is_an_error(scope: Scope) -> None:
    await started(scope, STUBBORN, stop_deadline_s=0.05)
    report = await scope.stop(ENOUGH_S)
    assert not report.ok
    assert report.leaks == ()
    assert "was killed" in report.render()


async def test_child_whose_output_is_not_read_can_be_stopped(scope: Scope) -> None:
    await started(scope, CHATTY)
    assert (await scope.stop(ENOUGH_S)).ok


async def test_child_can_be_killed_and_stopped_twice(scope: Scope) -> None:
    child = await start_child(scope, "child", sys.executable, "-c", OBEDIENT)
    child.kill()
    child.kill()
    assert await child.stop() == -signal.SIGKILL
    assert await child.stop() == -signal.SIGKILL
    child.terminate()


async def test_child_has_a_session_of_its_own(scope: Scope) -> None:
    pid, _ = await started(scope, OBEDIENT)
    assert os.getsid(pid) == pid


async def test_child_under_way_is_a_leak(scope: Scope) -> None:
    child = await start_child(scope, "child", sys.executable, "-c", OBEDIENT)
    (leak,) = child.leaks()
    assert (leak.kind, leak.name) == (LeakKind.CHILD, f"test/child (pid {child.pid})")
    assert leak.started_at.path == __file__


async def test_program_that_does_not_exist(scope: Scope) -> None:
    with pytest.raises(ChildStartError, match="cannot start /no/such/program"):
        await start_child(scope, "child", "/no/such/program")


async def test_no_child_in_a_stopped_scope(scope: Scope) -> None:
    await scope.stop()
    with pytest.raises(ScopeStoppedError):
        await start_child(scope, "child", sys.executable, "-c", OBEDIENT)
    assert not running_children()


async def test_scope_that_stops_while_a_child_starts_leaves_none(
    scope: Scope, caplog: pytest.LogCaptureFixture
) -> None:
    starting = asyncio.create_task(start_child(scope, "child", sys.executable, "-c", OBEDIENT))
    await asyncio.sleep(0)
    await scope.stop()
    with pytest.raises(ScopeStoppedError):
        await starting
    assert not running_children()
    assert "did not end" not in caplog.text, "it was given no time to"


@pytest.mark.parametrize("loop_factory", [asyncio.new_event_loop, uvloop.new_event_loop])
def test_on_both_loops(loop_factory: type[asyncio.AbstractEventLoop]) -> None:
    async def main() -> None:
        async with Scope("both") as scope:
            await started(scope, OBEDIENT)
            await started(scope, CHATTY)

    with asyncio.Runner(loop_factory=loop_factory) as runner:
        runner.run(main())


PARENT = """
import asyncio, sys
from asyncio.subprocess import PIPE
from pytinykv.lifecycle import Scope, start_child

async def main():
    child = await start_child(Scope("parent"), "child", sys.executable, "-c", CHILD, stdout=PIPE)
    await child.stdout.readline()
    print(child.pid, flush=True)
    await asyncio.Event().wait()

CHILD = '''
from pytinykv.lifecycle import die_with_parent
die_with_parent()
import time
print("ready", flush=True)
time.sleep(60)
'''
asyncio.run(main())
"""


def test_child_dies_with_a_parent_that_is_killed() -> None:
    parent = subprocess.Popen([sys.executable, "-c", PARENT], stdout=subprocess.PIPE, text=True)
    with parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        handle = os.pidfd_open(pid)
        try:
            parent.kill()
            signalled = _wait_for_end(handle)
        finally:
            os.close(handle)
    assert signalled


def _wait_for_end(pidfd: int) -> bool:
    import select

    return bool(select.select([pidfd], [], [], ENOUGH_S)[0])


def test_child_whose_parent_ended_before_it_could_tell_the_kernel_exits_at_once() -> None:
    script = "from pytinykv.lifecycle import die_with_parent; die_with_parent(); print('alive')"
    orphan = {**os.environ, PARENT_PID_VARIABLE: "1"}  # not the pid of this process: as if that one had ended
    done = subprocess.run([sys.executable, "-c", script], env=orphan, check=False, capture_output=True, timeout=60)
    assert (done.returncode, done.stdout) == (1, b"")


def test_program_not_started_by_the_kit_does_not_die_with_its_parent() -> None:
    script = "from pytinykv.lifecycle import die_with_parent; die_with_parent(); print('alive')"
    environment = {name: value for name, value in os.environ.items() if name != PARENT_PID_VARIABLE}
    done = subprocess.run([sys.executable, "-c", script], env=environment, check=True, capture_output=True, timeout=60)
    assert done.stdout == b"alive\n"


def test_children_of_children_do_not_inherit_the_wish() -> None:
    script = "import os; from pytinykv.lifecycle import die_with_parent; die_with_parent(); print(dict(os.environ))"
    mine = {**os.environ, PARENT_PID_VARIABLE: str(os.getpid())}
    done = subprocess.run([sys.executable, "-c", script], env=mine, check=True, capture_output=True, timeout=60)
    assert PARENT_PID_VARIABLE.encode() not in done.stdout
    assert Path("/proc/self").exists()
