"""Blocking work in a thread of its own."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

from pytinykv.lifecycle import Scope, ThreadWorker


async def test_work_is_done_in_order_elsewhere_and_told_here() -> None:
    async with Scope("test") as scope:
        worker = ThreadWorker(scope, "disk")
        done: list[Any] = []
        threads: set[int] = set()
        all_done = asyncio.Event()

        def work(number: int) -> int:
            threads.add(threading.get_ident())
            return number

        def on_done(result: Any) -> None:
            assert threading.current_thread() is threading.main_thread()
            done.append(result)
            if len(done) == 5:
                all_done.set()

        for number in range(5):
            worker.submit(lambda number=number: work(number), on_done)  # type: ignore[misc]
        await all_done.wait()
        assert done == [0, 1, 2, 3, 4]
        assert len(threads) == 1
        assert threading.get_ident() not in threads


async def test_an_error_is_a_result_and_the_next_piece_is_done() -> None:
    async with Scope("test") as scope:
        worker = ThreadWorker(scope, "disk")
        loop = asyncio.get_running_loop()
        first, second = loop.create_future(), loop.create_future()

        def fail() -> None:
            raise OSError("the disk is gone")

        worker.submit(fail, first.set_result)
        worker.submit(lambda: 7, second.set_result)
        assert str(await first) == "the disk is gone"
        assert await second == 7


async def test_a_stop_finishes_the_piece_under_way_and_begins_no_other() -> None:
    scope = Scope("test")
    worker = ThreadWorker(scope, "disk")
    begun, may_end = threading.Event(), threading.Event()
    done: list[str] = []

    def slow() -> None:
        begun.set()
        may_end.wait(10.0)
        done.append("first")

    worker.submit(slow, lambda _result: None)
    worker.submit(lambda: done.append("second"), lambda _result: None)
    while not begun.is_set():
        await asyncio.sleep(0)
    scope.start_thread("the disk goes on when both were told to stop", may_end.wait, 10.0, wake=may_end.set)
    report = await scope.stop()
    assert report.ok, report.render()
    assert done == ["first"]
    worker.submit(lambda: done.append("late"), lambda _result: None)
    assert done == ["first"]


def test_what_was_submitted_is_done_even_if_the_loop_is_closed_before_its_turn() -> None:
    begun, may_end, done = threading.Event(), threading.Event(), threading.Event()

    def slow() -> None:
        begun.set()
        assert may_end.wait(10.0)

    async def submit() -> Scope:
        scope = Scope("test")
        worker = ThreadWorker(scope, "disk")
        worker.submit(slow, lambda _result: None)
        worker.submit(done.set, lambda _result: None)
        return scope

    scope = asyncio.run(submit())
    assert begun.wait(10.0)
    may_end.set()
    assert done.wait(10.0)
    assert scope.name == "test", "its thread ends by itself"
