from __future__ import annotations

import asyncio
import gc
import logging
import threading
import warnings

import pytest
from tests.helpers import Gate, Stubborn, forever

from pytinykv.lifecycle import (
    LeakKind,
    LifecycleError,
    Scope,
    ScopeStoppedError,
    StageOutcome,
    StopReport,
    TaskCancelledError,
)


def outcomes(report: StopReport) -> dict[str, StageOutcome]:
    return {stage.name: stage.outcome for stage in report.stages}


async def fail(*_: object) -> None:
    raise OSError("disk full")


class TestStarting:
    async def test_task_is_named_owned_and_gives_its_result(self, scope: Scope) -> None:
        async def add(a: int, b: int) -> int:
            return a + b

        task = scope.start("add", add, 1, b=2)
        assert task.name == task.task.get_name() == "test/add"
        assert task.task in scope.books.tasks
        assert await task.wait() == 3
        assert task.done
        assert not scope.books.tasks

    async def test_task_knows_where_it_was_started(self, scope: Scope) -> None:
        task = scope.start("sleeper", forever)
        assert task.started_at.path == __file__
        assert task.started_at.function == "test_task_knows_where_it_was_started"

    async def test_task_whose_waiter_is_cancelled_goes_on(self, scope: Scope) -> None:
        task = scope.start("sleeper", forever)
        waiter = scope.start("waiter", task.wait)
        await asyncio.sleep(0)
        waiter.cancel()
        with pytest.raises(TaskCancelledError):
            await waiter.wait()
        assert not task.done

    async def test_waiting_has_a_deadline(self, scope: Scope) -> None:
        task = scope.start("sleeper", forever)
        with pytest.raises(TimeoutError, match="test/sleeper"):
            await task.wait(0.01)
        assert not task.done

    async def test_waiting_for_a_cancelled_task_is_not_being_cancelled(self, scope: Scope) -> None:
        task = scope.start("sleeper", forever)
        task.cancel()
        with pytest.raises(TaskCancelledError, match="test/sleeper"):
            await task.wait()

    async def test_waiting_for_a_failed_task_raises_its_error(self, scope: Scope) -> None:
        task = scope.start("writer", fail)
        with pytest.raises(OSError, match="disk full"):
            await task.wait()
        assert isinstance(task.error, OSError)

    async def test_a_coroutine_instead_of_its_function_is_refused_and_closed(self, scope: Scope) -> None:
        with pytest.raises(TypeError, match="coroutine function"):
            scope.start("wrong", forever())

    async def test_start_after_stop_is_refused_and_the_function_not_called(self, scope: Scope) -> None:
        await scope.stop()
        with pytest.raises(ScopeStoppedError, match="scope test: it has stopped"):
            scope.start("late", forever)
        for start in (
            scope.child,
            lambda name: scope.start_thread(name, print),
            lambda name: scope.on_stop(name, print),
        ):
            with pytest.raises(ScopeStoppedError):
                start("late")

    async def test_start_while_stopping_is_refused(self, scope: Scope) -> None:
        def start_late() -> None:
            scope.start("late", forever)

        scope.on_stop("start another", start_late)
        report = await scope.stop()
        assert report.stages[0].outcome is StageOutcome.RAISED
        assert "is stopping" in report.stages[0].detail

    def test_without_a_loop_a_scope_can_be_made_but_starts_no_task(self) -> None:
        scope = Scope("early")
        with pytest.raises(LifecycleError, match="running event loop"):
            scope.start("task", forever)
        asyncio.run(scope.stop())

    def test_scope_refuses_another_loop_while_its_own_is_open(self) -> None:
        scope = Scope("mine")

        async def use() -> None:
            scope.start("task", asyncio.sleep, 0)

        with asyncio.Runner() as first, asyncio.Runner() as second:
            first.run(use())
            with pytest.raises(LifecycleError, match="another event loop"):
                second.run(use())
            first.run(scope.stop())

    async def test_start_and_stop_are_logged(self, scope: Scope, caplog: pytest.LogCaptureFixture) -> None:
        caplog.set_level(logging.DEBUG, "pytinykv.lifecycle")
        scope.child("kid").start("task", forever)
        await scope.stop()
        for line in (
            "scope test/kid started",
            "task test/kid/task started",
            "task test/kid/task cancelled",
            "scope test/kid stopped in",
            "scope test stopped in",
        ):
            assert line in caplog.text


class TestFailing:
    async def test_failure_reaches_the_nearest_owner_that_wants_to_know(self, scope: Scope) -> None:
        told: list[tuple[str, str]] = []
        scope.on_failure(lambda name, error: told.append((name, str(error))))
        await asyncio.wait((scope.child("kid").child("grandkid").start("writer", fail).task,))
        await asyncio.sleep(0)
        assert told == [("test/kid/grandkid/writer", "disk full")]

    async def test_child_with_a_callback_of_its_own_keeps_it_to_itself(self, scope: Scope) -> None:
        told: list[str] = []
        scope.on_failure(lambda *_: told.append("parent"))
        child = scope.child("kid")
        child.on_failure(lambda *_: told.append("child"))
        await asyncio.wait((child.start("writer", fail).task,))
        await asyncio.sleep(0)
        assert told == ["child"]

    async def test_failure_of_the_callback_is_logged(self, scope: Scope, caplog: pytest.LogCaptureFixture) -> None:
        scope.on_failure(lambda *_: 1 // 0)
        await asyncio.wait((scope.start("writer", fail).task,))
        await asyncio.sleep(0)
        assert "the failure callback of scope test failed" in caplog.text

    async def test_thread_that_raises_is_told_in_the_loop(self, scope: Scope) -> None:
        told: asyncio.Future[tuple[str, BaseException, int]] = asyncio.get_running_loop().create_future()
        scope.on_failure(lambda name, error: told.set_result((name, error, threading.get_ident())))

        def break_down() -> None:
            raise OSError("disk full")

        scope.start_thread("disk", break_down)
        name, error, thread = await asyncio.wait_for(told, 10)
        assert (name, str(error), thread) == ("test/disk", "disk full", threading.get_ident())

    async def test_earlier_failures_are_in_the_report_but_no_verdict(self, scope: Scope) -> None:
        await asyncio.wait((scope.start("writer", fail).task,))
        report = await scope.stop()
        assert report.ok
        assert "test/writer: OSError('disk full')" in report.render()


class TestOrderOfStopping:
    async def test_stages_then_members_newest_first_then_tasks_then_threads_then_last_stages(
        self, scope: Scope
    ) -> None:
        order: list[str] = []
        gate = Gate()

        async def note_end(name: str) -> None:
            try:
                await forever()
            finally:
                order.append(name)

        def wake() -> None:
            order.append("thread")
            gate.open()

        for name in ("directory", "engine"):
            scope.on_stopped(f"close the {name}", lambda name=name: order.append(name))  # type: ignore[misc]
        scope.start_thread("disk", gate.run, wake=wake)
        scope.start("task", note_end, "task")
        for name in ("first child", "second child"):
            child = scope.child(name)
            child.start("task", note_end, name)
        scope.on_stop("one", lambda: order.append("stage one"))
        scope.on_stop("two", lambda: order.append("stage two"))
        await asyncio.sleep(0)
        assert (await scope.stop()).ok
        assert order == [
            *("stage one", "stage two", "second child", "first child", "task", "thread", "engine", "directory")
        ]

    async def test_last_stages_run_although_what_comes_before_does_not_end(
        self, scope: Scope, stubborn: Stubborn
    ) -> None:
        closed: list[str] = []
        scope.on_stopped("close the engine", lambda: closed.append("engine"))
        scope.child("store").start("stubborn", stubborn.run)
        await asyncio.sleep(0)
        report = await scope.stop(0.1)
        assert [leak.name for leak in report.leaks] == ["test/store/stubborn"]
        assert outcomes(report) == {"close the engine": StageOutcome.OK}
        assert closed == ["engine"]

    async def test_parents_tasks_and_threads_serve_the_stages_of_its_children(self, scope: Scope) -> None:
        requests: asyncio.Queue[asyncio.Future[str]] = asyncio.Queue(10)

        async def serve() -> None:
            while True:
                (await requests.get()).set_result("synced")

        async def last_sync() -> None:
            answer = asyncio.get_running_loop().create_future()
            requests.put_nowait(answer)
            assert await answer == "synced"

        scope.start("disk", serve)
        scope.child("store").on_stop("last sync", last_sync)
        report = await scope.stop()
        assert report.ok
        assert outcomes(report.children[0]) == {"last sync": StageOutcome.OK}

    async def test_stage_that_raises_is_recorded_and_the_rest_runs(self, scope: Scope) -> None:
        ran: list[str] = []
        scope.on_stop("plain", lambda: 1 // 0)
        scope.on_stop("async", fail)
        scope.on_stop("last", lambda: ran.append("last"))
        report = await scope.stop()
        assert ran == ["last"]
        assert not report.ok
        assert not report.forced
        assert outcomes(report) == {"plain": StageOutcome.RAISED, "async": StageOutcome.RAISED, "last": StageOutcome.OK}

    async def test_stage_that_overruns_is_cancelled_recorded_and_the_rest_runs(self, scope: Scope) -> None:
        ran: list[str] = []
        scope.on_stop("slow", forever, deadline_s=0.01)
        scope.on_stop("last", lambda: ran.append("last"))
        report = await scope.stop()
        assert ran == ["last"]
        assert report.forced
        assert outcomes(report) == {"slow": StageOutcome.OVERRAN, "last": StageOutcome.OK}
        assert "in forever" in report.stages[0].detail

    async def test_stage_that_ignores_its_cancellation_is_a_leak(self, scope: Scope, stubborn: Stubborn) -> None:
        scope.on_stop("mule", stubborn.run, deadline_s=0.01)
        report = await scope.stop()
        assert [leak.name for leak in report.leaks] == ["test/stop:mule"]

    async def test_late_stages_still_run_when_the_whole_deadline_is_used_up(self, scope: Scope) -> None:
        ran: list[str] = []

        async def close_engine() -> None:
            await asyncio.sleep(0)
            ran.append("closed")

        scope.on_stop("slow", forever, deadline_s=60)
        scope.on_stop("close engine", close_engine)
        report = await scope.stop(0.01)
        assert ran == ["closed"]
        assert outcomes(report)["close engine"] is StageOutcome.OK

    async def test_children_stopped_earlier_and_well_are_forgotten(self, scope: Scope) -> None:
        for _ in range(3):
            await scope.child("kid").stop()
        assert not scope.books.members
        assert (await scope.stop()).children == ()

    async def test_children_stopped_earlier_and_badly_are_remembered(self, scope: Scope) -> None:
        child = scope.child("kid")
        child.on_stop("plain", lambda: 1 // 0)
        await child.stop()
        report = await scope.stop()
        assert not report.ok
        assert [below.name for below in report.children] == ["test/kid"]


class TestStoppingTasks:
    async def test_clean_up_of_a_cancelled_task_is_waited_for(self, scope: Scope) -> None:
        cleaned: list[str] = []

        async def work() -> None:
            try:
                await forever()
            finally:
                await asyncio.sleep(0.02)
                cleaned.append("up")

        scope.start("work", work)
        await asyncio.sleep(0)
        assert (await scope.stop()).ok
        assert cleaned == ["up"]

    async def test_task_that_swallows_one_cancellation_is_cancelled_again(self, scope: Scope) -> None:
        async def swallow_one() -> None:
            try:
                await forever()
            except asyncio.CancelledError:
                await forever()

        scope.start("work", swallow_one)
        await asyncio.sleep(0)
        assert (await scope.stop(0.2)).ok

    async def test_task_that_ignores_cancellation_is_reported_with_its_stack(
        self, scope: Scope, stubborn: Stubborn
    ) -> None:
        async def carry() -> None:
            await stubborn.run()

        scope.start("mule", carry)
        await asyncio.sleep(0)
        report = await scope.stop(0.1)
        assert stubborn.cancellations >= 2
        assert not report.ok
        assert report.forced
        (leak,) = report.leaks
        assert (leak.kind, leak.name, leak.started_at.path) == (LeakKind.TASK, "test/mule", __file__)
        assert "in TestStoppingTasks" in leak.stack[0]
        assert "in Stubborn.run" in leak.stack[1]
        assert leak.stack[-1].startswith("waits for <Future pending")
        assert "LEFT task test/mule" in report.render()

    async def test_task_that_fails_while_it_is_stopped_is_an_error(self, scope: Scope) -> None:
        async def work() -> None:
            try:
                await forever()
            finally:
                raise OSError("cannot close")

        scope.start("work", work)
        await asyncio.sleep(0)
        report = await scope.stop()
        assert not report.ok
        assert outcomes(report) == {"tasks (1)": StageOutcome.RAISED}
        assert "cannot close" in report.stages[0].detail

    async def test_task_that_never_ran_is_just_cancelled(self, scope: Scope) -> None:
        scope.start("unborn", forever)
        assert (await scope.stop()).ok

    async def test_a_thousand_tasks_stop(self, scope: Scope) -> None:
        for number in range(1000):
            scope.start(str(number), forever)
        await asyncio.sleep(0)
        assert (await scope.stop()).ok


class TestStoppingThreads:
    async def test_thread_is_woken_and_joined(self, scope: Scope) -> None:
        gate = Gate()
        thread = scope.start_thread("disk", gate.run, wake=gate.open)
        assert thread.thread.name == "test/disk"
        assert (await scope.stop()).ok
        assert thread.done
        assert not thread.thread.is_alive()

    async def test_thread_that_does_not_return_is_reported_with_its_stack(self, scope: Scope) -> None:
        gate = Gate()
        scope.start_thread("disk", gate.run, wake=lambda: None)
        report = await scope.stop(0.05)
        (leak,) = report.leaks
        assert (leak.kind, leak.name) == (LeakKind.THREAD, "test/disk")
        assert any("helpers" in line and "in Gate.run" in line for line in leak.stack)
        gate.open()

    async def test_wake_that_raises_is_recorded_and_others_are_woken(self, scope: Scope) -> None:
        gate, other = Gate(), Gate()

        def wake() -> None:
            gate.open()
            raise OSError("cannot wake")

        scope.start_thread("disk", gate.run, wake=wake)
        scope.start_thread("other", other.run, wake=other.open)
        report = await scope.stop()
        assert outcomes(report) == {"threads (2)": StageOutcome.RAISED}
        assert report.leaks == ()

    async def test_thread_that_ended_by_itself_leaves_the_books(self, scope: Scope) -> None:
        thread = scope.start_thread("short", lambda: None)
        assert await thread.wait(10)
        assert not scope.books.threads

    def test_thread_without_a_loop(self) -> None:
        scope, gate = Scope("early"), Gate()
        scope.start_thread("disk", gate.run, wake=gate.open)
        assert asyncio.run(scope.stop()).ok


class TestCallersOfStop:
    async def test_stop_of_an_empty_scope(self, scope: Scope) -> None:
        report = await scope.stop()
        assert report.ok
        assert report.stages == ()
        assert report.before is not None

    async def test_stop_twice_gives_the_same_report(self, scope: Scope) -> None:
        assert await scope.stop() is await scope.stop()

    async def test_concurrent_callers_share_one_stop(self, scope: Scope) -> None:
        runs: list[int] = []
        scope.on_stop("slow", lambda: runs.append(1))
        scope.on_stop("yield", lambda: asyncio.sleep(0.01))
        first, second = await asyncio.gather(scope.stop(), scope.stop())
        assert first is second
        assert runs == [1]

    async def test_stop_goes_on_when_its_caller_is_cancelled(self, scope: Scope) -> None:
        release = asyncio.Event()
        scope.on_stop("wait", release.wait)
        caller = asyncio.create_task(scope.stop())
        await asyncio.sleep(0.01)
        caller.cancel()
        with pytest.raises(asyncio.CancelledError):
            await caller
        assert scope.stopping
        assert not scope.stopped
        release.set()
        assert (await scope.stop()).ok

    async def test_own_task_may_stop_its_scope_and_is_not_waited_for(self, scope: Scope) -> None:
        task = scope.start("suicidal", scope.stop)
        report = await task.wait(10)
        assert report.ok
        assert report is scope.report

    async def test_task_of_a_child_may_stop_the_parent(self, scope: Scope) -> None:
        async def stop_all() -> bool:
            return (await scope.stop()).ok

        assert await scope.child("kid").start("suicidal", stop_all).wait(10)

    async def test_own_task_that_calls_stop_once_it_is_cancelled_is_not_waited_for(self, scope: Scope) -> None:
        async def work() -> None:
            try:
                await forever()
            finally:
                await scope.stop()

        scope.start("work", work)
        await asyncio.sleep(0)
        report = await scope.stop(60)
        assert report.ok

    async def test_stage_that_waits_for_its_own_stop_is_refused(self, scope: Scope) -> None:
        scope.on_stop("cycle", scope.stop)
        report = await scope.stop()
        assert outcomes(report) == {"cycle": StageOutcome.RAISED}
        assert "cannot wait" in report.stages[0].detail

    async def test_stage_of_a_child_that_waits_for_the_parent_is_refused(self, scope: Scope) -> None:
        scope.child("kid").on_stop("cycle", scope.stop)
        report = await scope.stop()
        assert outcomes(report.children[0]) == {"cycle": StageOutcome.RAISED}

    async def test_stage_may_stop_a_child(self, scope: Scope) -> None:
        child = scope.child("kid")
        scope.on_stop("child first", child.stop)
        assert (await scope.stop()).ok
        assert child.stopped

    async def test_half_started_scope_stops(self, scope: Scope) -> None:
        async def start_up() -> None:
            scope.start("one", forever)
            await forever()
            scope.start("two", forever)

        scope.start("start up", start_up)
        await asyncio.sleep(0)
        assert (await scope.stop()).ok

    async def test_failed_scope_stops(self, scope: Scope) -> None:
        scope.start("good", forever)
        await asyncio.wait((scope.start("bad", fail).task,))
        assert (await scope.stop()).ok

    def test_stop_that_is_cancelled_with_its_loop_still_ends(self) -> None:
        scope = Scope("doomed")
        ran: list[str] = []
        scope.on_stop("long", forever, deadline_s=60)
        scope.on_stop("last", lambda: ran.append("last"))

        async def begin() -> None:
            task = asyncio.create_task(scope.stop(60))
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            assert scope._stop_task is not None
            scope._stop_task.cancel()  # as asyncio.run does with what is left
            await task

        asyncio.run(begin())
        assert ran == ["last"]
        assert scope.report is not None
        assert not scope.report.ok


async def test_block_stops_its_scope() -> None:
    async with Scope("block") as scope:
        task = scope.start("task", forever)
    assert task.done
    assert scope.stopped


async def test_block_raises_what_its_stop_found(stubborn: Stubborn) -> None:
    scope = Scope("block")
    scope.on_stop("mule", stubborn.run, deadline_s=0.01)
    with pytest.raises(LifecycleError, match="LEFT BEHIND"):
        async with scope:
            pass


async def test_block_does_not_hide_the_error_of_its_body() -> None:
    scope = Scope("block")
    scope.on_stop("bad", fail)
    with pytest.raises(ValueError, match="body"):
        async with scope:
            raise ValueError("body")


async def test_a_step_that_is_cancelled_before_it_begins_leaves_no_coroutine_behind() -> None:
    scope = Scope("killed")

    async def step() -> None:
        """Never gets here."""

    scope.on_stop("step", step)
    stop = asyncio.get_running_loop().create_task(scope.stop())
    for _ in range(20):
        begun = [task for task in asyncio.all_tasks() if task.get_name() == "killed/stop:step"]
        if begun:
            begun[0].cancel()
            break
        await asyncio.sleep(0)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        await stop
        gc.collect()
    assert begun


async def test_stages_that_are_forgotten_do_not_run_and_all_else_ends() -> None:
    scope, told = Scope("test"), []
    for one in (scope, child := scope.child("child")):
        one.on_stop("say goodbye", lambda: told.append("goodbye"))
        one.on_stopped("close", lambda: told.append("closed"))
    task = child.start("wait", forever)
    scope.forget_stages()
    assert ((await scope.stop()).ok, task.done, told) == (True, True, ["closed", "closed"])
