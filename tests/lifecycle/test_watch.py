"""The watch over a running process: stalls, SIGUSR1, growth. By hand where time plays a part, else as processes."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from tests.helpers import forever
from tests.lifecycle.test_signals import finish, start
from tests.waitgraph.planted import settle, start_two_queues

from pytinykv.lifecycle import Scope
from pytinykv.lifecycle.resource_counts import GrowthWatch
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


def test_a_stall_is_told_once_with_its_stack_and_its_end(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    bench.ticks(2, answering=True)
    bench.ticks(20, answering=False)
    bench.ticks(2, answering=True)
    assert said(caplog) == [
        "server: the event loop has not turned for 1.0 s; it is at",
        "server: the event loop turns again, after 5.2 s",
    ]
    assert "in test_a_stall_is_told_once" in caplog.records[0].getMessage()


def test_a_loop_that_computes_is_told_with_its_stack_alone(
    bench: Bench, scope: Scope, caplog: pytest.LogCaptureFixture
) -> None:
    """Of a graph of eighty lines an operator learns nothing that the stack does not say."""
    bench.watch.attach(scope)
    bench.ticks(10, answering=False)
    assert "wait-for graph of" not in caplog.text
    assert f"for the wait-for graph: kill -USR1 {os.getpid()}, or tinykv doctor" in caplog.text


def test_who_asks_is_told_for_how_long_the_loop_has_not_turned(bench: Bench, scope: Scope) -> None:
    bench.watch.attach(scope)
    bench.ticks(5, answering=True)
    assert scope.loop_blocked_s() == 0.0
    bench.ticks(3, answering=False)
    assert scope.loop_blocked_s() == 0.0  # too short to be worth a word
    bench.ticks(17, answering=False)
    assert scope.loop_blocked_s() == 5.0
    bench.ticks(1, answering=True)
    assert scope.loop_blocked_s() == 0.0


async def test_a_cycle_is_told_with_the_stall(bench: Bench, scope: Scope, caplog: pytest.LogCaptureFixture) -> None:
    bench.watch.attach(scope)
    start_two_queues(scope)
    await settle()
    bench.ticks(10, answering=False)
    assert "DEADLOCK CYCLE 1" in caplog.records[0].getMessage()
    assert "all others" not in caplog.text


def test_the_next_stall_is_told_as_well_and_in_one_line_at_the_same_place(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    for _ in range(3):
        bench.ticks(10, answering=False)
        bench.ticks(2, answering=True)
    assert [line for line in said(caplog) if "turns again" not in line] == [
        "server: the event loop has not turned for 1.0 s; it is at",
        *(
            f"server: the event loop has not turned for 1.0 s; it is in the functions of the last stall "
            f"({times} in a row): {last_line(caplog)}"
            for times in (2, 3)
        ),
    ]


def last_line(caplog: pytest.LogCaptureFixture) -> str:
    return caplog.records[0].getMessage().splitlines()[-2].strip()


def test_a_process_that_is_starved_all_the_time_says_so_now_and_then(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    for _ in range(50):
        bench.now += 1.75
        bench.ticks(1, answering=True)
    assert said(caplog) == [
        f"server: nothing of this process ran for {lost}: it was paused, or starved, or compiled code kept the interpreter"
        for lost in ("1.8 s", "52.5 s in all, 30 times")
    ]


def test_a_process_that_was_paused_is_not_a_blocked_loop(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    bench.ticks(2, answering=True)
    bench.now += 60  # SIGSTOP, SIGCONT: the thread did not run either
    bench.ticks(1, answering=False)
    bench.ticks(2, answering=True)
    assert said(caplog) == [
        "server: nothing of this process ran for 60.0 s: it was paused, or starved, or compiled code kept the interpreter"
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


def test_sigusr1_logs_the_wait_for_graph_and_the_process_goes_on() -> None:
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
    assert lines[0] == "process was asked for its wait-for graph\n"
    process.send_signal(signal.SIGTERM)
    assert finish(process)[0] == 0


def test_sigusr1_is_answered_while_the_loop_is_blocked() -> None:
    process = start("""
        def be_blocked():
            print("blocked", flush=True)
            while True:
                time.sleep(0.01)
        async def main(scope):
            asyncio.get_running_loop().call_later(0.05, be_blocked)
        serve(main, stop_deadline_s=0.1)
    """)
    assert process.stdout is not None
    assert process.stderr is not None
    assert process.stdout.readline() == "blocked\n"
    process.send_signal(signal.SIGUSR1)
    line = ""
    while "in be_blocked" not in line:
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
