from __future__ import annotations

import asyncio
import concurrent.futures
import os
import subprocess
import sys
import threading
from collections.abc import Iterator

import pytest
from tests.helpers import forever

from pytinykv.lifecycle import LifecycleError, LoopThread, ScopeStoppedError

ENOUGH_S = 10.0


@pytest.fixture
def bridge() -> Iterator[LoopThread]:
    made = LoopThread("bridge")
    made.start()
    yield made
    made.stop()


async def add(a: int, b: int) -> int:
    await asyncio.sleep(0)
    return a + b


async def fail() -> None:
    raise OSError("disk full")


def test_call_returns_the_result(bridge: LoopThread) -> None:
    assert bridge.call(add, ENOUGH_S, 1, b=2) == 3
    assert bridge.call(add, None, 1, 2) == 3


def test_call_raises_the_error_and_the_loop_goes_on(bridge: LoopThread, caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(OSError, match="disk full"):
        bridge.call(fail, ENOUGH_S)
    assert bridge.call(add, ENOUGH_S, 1, 2) == 3
    assert "failed" not in caplog.text


def test_call_has_a_deadline(bridge: LoopThread) -> None:
    with pytest.raises(TimeoutError):
        bridge.call(forever, 0.01)


def test_many_threads_call_at_once(bridge: LoopThread) -> None:
    with concurrent.futures.ThreadPoolExecutor(8) as threads:
        results = list(threads.map(lambda number: bridge.call(add, ENOUGH_S, number, 1), range(100)))
    assert results == list(range(1, 101))


def test_stop_fails_calls_under_way(bridge: LoopThread) -> None:
    entered = threading.Event()

    async def hang() -> None:
        entered.set()
        await forever()

    with concurrent.futures.ThreadPoolExecutor(1) as threads:
        call = threads.submit(bridge.call, hang, ENOUGH_S)
        assert entered.wait(ENOUGH_S)
        assert bridge.stop().ok
        with pytest.raises(ScopeStoppedError):
            call.result(ENOUGH_S)


def test_stop_twice_and_calls_afterwards(bridge: LoopThread) -> None:
    assert bridge.stop() is bridge.stop()
    assert not bridge.running
    with pytest.raises(ScopeStoppedError):
        bridge.call(add, ENOUGH_S, 1, 2)


def test_stop_before_start() -> None:
    assert LoopThread("unborn").stop().ok
    with pytest.raises(ScopeStoppedError):
        LoopThread("unborn").call(add, 1.0, 1, 2)


def test_call_from_its_own_loop_is_refused(bridge: LoopThread) -> None:
    async def call_back() -> None:
        bridge.call(add, ENOUGH_S, 1, 2)

    with pytest.raises(LifecycleError, match="own loop"):
        bridge.call(call_back, ENOUGH_S)


def test_forked_child_gets_an_error_instead_of_hanging(bridge: LoopThread, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(os, "getpid", lambda: -1)  # what a forked child sees, without forking a process full of threads
        with pytest.raises(LifecycleError, match="forked child"):
            bridge.call(add, ENOUGH_S, 1, 2)
        with pytest.raises(LifecycleError, match="forked child"):
            bridge.stop()


def test_loop_that_cannot_be_made() -> None:
    def no_loop() -> asyncio.AbstractEventLoop:
        raise OSError("no descriptors left")

    with pytest.raises(LifecycleError, match="no descriptors left"):
        LoopThread("broken", loop_factory=no_loop).start()


FOREIGN_TASK = """
import asyncio
from pytinykv.lifecycle import LoopThread

async def foreign_task():
    try:
        await asyncio.sleep(0.2)
        print("ended by itself")
    except asyncio.CancelledError:
        print("cancelled")
        raise

async def start():
    asyncio.get_running_loop().create_task(foreign_task())

bridge = LoopThread("bridge")
bridge.start()
bridge.call(start, 10.0)
bridge.stop()
"""


def test_tasks_that_the_scope_did_not_start_may_end_before_the_loop_is_closed() -> None:
    """As gRPC's do, which has a task for each call: cancelled too early, it trips over the closed loop.

    In a program of its own, since the check for leaks in this one waits for such tasks as well.
    """
    done = subprocess.run([sys.executable, "-c", FOREIGN_TASK], capture_output=True, text=True, check=True)
    assert done.stdout == "ended by itself\n"


async def test_ask_is_awaited_while_the_own_loop_goes_on(bridge: LoopThread) -> None:
    assert await bridge.ask(add, ENOUGH_S, 1, b=2) == 3
    with pytest.raises(OSError, match="disk full"):
        await bridge.ask(fail, ENOUGH_S)
    with pytest.raises(TimeoutError):
        await bridge.ask(forever, 0.01)


async def test_ask_that_is_cancelled_cancels_what_was_asked(bridge: LoopThread) -> None:
    entered, left = threading.Event(), threading.Event()

    async def stay() -> None:
        entered.set()
        try:
            await forever()
        finally:
            left.set()

    asking = asyncio.create_task(bridge.ask(stay, None))
    while not entered.is_set():
        await asyncio.sleep(0.001)
    asking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asking
    assert left.wait(ENOUGH_S)


async def test_end_is_awaited_by_any_number_also_when_one_is_cancelled(bridge: LoopThread) -> None:
    given_up = asyncio.create_task(bridge.end())
    await asyncio.sleep(0)
    given_up.cancel()
    with pytest.raises(asyncio.CancelledError):
        await given_up
    assert (await bridge.end()).ok
    assert (await bridge.end()).ok
    with pytest.raises(ScopeStoppedError):
        await bridge.ask(add, ENOUGH_S, 1, 2)
