"""The watch over a running process: stalls, SIGUSR1, growth. By hand where time plays a part, else as processes."""

from __future__ import annotations

import asyncio
import logging
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from tests.lifecycle.helpers import forever
from tests.lifecycle.test_signals import finish, start

from pytinykv.lifecycle import Scope
from pytinykv.lifecycle.owners import GrowthWatch
from pytinykv.lifecycle.watch import COUNT_S, TICK_S, Watch


class Loop(asyncio.SelectorEventLoop):
    """A loop that answers when it is told to."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[Callable[[], object]] = []

    def call_soon_threadsafe(self, callback: Any, *args: Any, context: Any = None) -> asyncio.Handle:
        self.asked.append(callback)
        return super().call_soon(callback, *args, context=context)

    def answer(self) -> None:
        for callback in self.asked:
            callback()
        self.asked.clear()


class Bench:
    """A watch whose time is in the test's hands."""

    def __init__(self) -> None:
        self.now = 100.0
        self.loop = Loop()
        self.watch = Watch("server", self.loop, now=lambda: self.now)

    def ticks(self, number: int, *, answering: bool) -> None:
        for _ in range(number):
            self.now += TICK_S
            if answering:
                self.loop.answer()
            self.watch.tick()


@pytest.fixture
def bench(caplog: pytest.LogCaptureFixture) -> Iterator[Bench]:
    caplog.set_level(logging.WARNING)
    made = Bench()
    yield made
    made.loop.close()


def said(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage().partition("\n")[0] for record in caplog.records]


def test_a_loop_that_turns_is_no_news(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    bench.ticks(100, answering=True)
    assert said(caplog) == []


def test_a_stall_is_told_once_with_the_stack_and_the_graph_and_its_end(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    bench.ticks(2, answering=True)
    bench.ticks(20, answering=False)
    bench.ticks(2, answering=True)
    assert said(caplog) == [
        "server: the event loop has not turned for 1.0 s; it stands at",
        "server: nothing is owned yet",
        "server: the event loop turns again",
    ]
    assert "in test_a_stall_is_told_once" in caplog.records[0].getMessage()


def test_the_next_stall_is_told_as_well(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    for _ in range(2):
        bench.ticks(10, answering=False)
        bench.ticks(2, answering=True)
    assert sum("has not turned" in line for line in said(caplog)) == 2


def test_a_process_that_was_paused_is_not_a_loop_that_stands(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    bench.ticks(2, answering=True)
    bench.now += 60  # SIGSTOP, SIGCONT: the thread did not run either
    bench.ticks(1, answering=False)
    bench.ticks(2, answering=True)
    assert said(caplog) == [
        "server: nothing of this process ran for 60.0 s: it was paused, or starved, or compiled code did not let go"
    ]


async def test_what_only_ever_grows_is_warned_of(caplog: pytest.LogCaptureFixture, scope: Scope) -> None:
    now = 0.0
    growth = GrowthWatch(window=5, growth_min=4)
    watch = Watch("server", asyncio.get_running_loop(), now=lambda: now, growth=growth)
    watch.attach(scope)
    for _ in range(6):
        scope.start("forgotten", forever)
        for _ in range(int(COUNT_S / TICK_S)):
            now += TICK_S
            watch.tick()
            await asyncio.sleep(0)
    warnings = said(caplog)
    assert len(warnings) == 1
    assert warnings[0].startswith("server: tasks of test, started at ")
    assert "test_watch.py" in warnings[0]


# ---- processes


def test_a_stuck_loop_dumps_its_stack_once_and_goes_on() -> None:
    process = start("""
        def compute():
            time.sleep(2.5)
        async def main(scope):
            asyncio.get_running_loop().call_later(0.1, compute)
        serve(main)
    """)
    line = ""
    assert process.stderr is not None
    while "turns again" not in line:
        line = process.stderr.readline()
        assert line, "it ended"
    process.terminate()
    status, _, errors = finish(process)
    assert (status, errors) == (0, "")


def test_sigusr1_logs_who_waits_for_whom_and_the_process_goes_on() -> None:
    process = start("""
        async def main(scope):
            scope.child("store").start("loop", forever)
        serve(main)
    """)
    process.send_signal(signal.SIGUSR1)
    assert process.stderr is not None
    lines = [process.stderr.readline()]
    while "task process/store/loop" not in lines[-1]:
        lines.append(process.stderr.readline())
        assert lines[-1], "it ended"
    assert lines[0] == "process was asked who waits for whom\n"
    process.send_signal(signal.SIGTERM)
    assert finish(process)[0] == 0


def test_sigusr1_is_answered_while_the_loop_stands_still() -> None:
    process = start("""
        def stand_still():
            print("standing", flush=True)
            while True:
                time.sleep(0.01)
        async def main(scope):
            asyncio.get_running_loop().call_later(0.05, stand_still)
        serve(main, stop_deadline_s=0.1)
    """)
    assert process.stdout is not None
    assert process.stderr is not None
    assert process.stdout.readline() == "standing\n"
    process.send_signal(signal.SIGUSR1)
    line = ""
    while "in stand_still" not in line:
        line = process.stderr.readline()
        assert line, "it ended"
    process.send_signal(signal.SIGTERM)
    assert finish(process)[0] == 3


def test_the_signal_mask_is_restored() -> None:
    script = """
import signal
from pytinykv.lifecycle import run_process
async def main(scope):
    assert signal.SIGUSR1 in signal.pthread_sigmask(signal.SIG_BLOCK, ())
before = signal.getsignal(signal.SIGUSR1)
assert run_process(main) == 0
assert signal.getsignal(signal.SIGUSR1) == before
assert signal.SIGUSR1 not in signal.pthread_sigmask(signal.SIG_BLOCK, ())
"""
    assert subprocess.run([sys.executable, "-c", script], check=False, timeout=30).returncode == 0
