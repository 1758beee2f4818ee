"""On a Python that is newer than this code, the graph shows less: nothing wrong, and never an error."""

from __future__ import annotations

import asyncio
import dis
import threading
from collections.abc import Callable
from typing import Any

import pytest
import uvloop
from tests.waitgraph.planted import PLANTED, Outlet, settle, start_tasks_that_await_each_other, start_two_queues
from tests.waitgraph.test_explain import wait_of

from pytinykv.lifecycle import Scope
from pytinykv.waitgraph import OwnedLock, Wait, WaitGraph, blocked_on, render_graph, stacks
from pytinykv.waitgraph.wait import Aspect

SURE = {"tasks that await each other"}
"""Of the planted cycles, those of which no edge is read off code."""


@pytest.fixture(autouse=True)
def _newer_python(monkeypatch: pytest.MonkeyPatch) -> None:
    """No version is known, and whoever asks for bytecode gets an error."""

    def refuse(*_: object, **__: object) -> Any:
        raise AssertionError("bytecode that is not known was read")

    monkeypatch.setattr(stacks, "BYTECODE_KNOWN", ((3, 1),))
    monkeypatch.setattr(dis, "get_instructions", refuse)
    monkeypatch.setattr(dis, "Bytecode", refuse)


@pytest.mark.parametrize("make_loop", [asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"])
@pytest.mark.parametrize("what", PLANTED)
def test_only_what_is_certain_without_code_is_a_cycle(
    what: str, make_loop: Callable[[], asyncio.AbstractEventLoop]
) -> None:
    start, length, runners = PLANTED[what]

    async def main() -> WaitGraph:
        scope = Scope("plant")
        start(scope)
        await settle()
        graph = scope.explain()
        assert (await scope.stop(1.0)).ok
        return graph

    with asyncio.Runner(loop_factory=make_loop) as runner:
        graph = runner.run(main())
    assert [len(cycle) for cycle in graph.cycles] == ([length] if what in SURE else []), render_graph(graph)
    assert all(edge.sure for cycle in graph.cycles for edge in cycle)
    assert runners <= {node.name for node in graph.runners()}
    (note,) = graph.notes
    assert "only the bytecode of CPython 3.1 is known here" in note


async def test_who_waits_for_what_is_still_told(scope: Scope) -> None:
    start_two_queues(scope)
    await settle()
    text = wait_of(scope.explain(), "task test/left")
    assert "waits to put into queue Worker.inbox of right (full: 1 of 1)" in text
    assert "which would be emptied by code that is not read on this Python (probably)" in text
    assert "tests/waitgraph/planted.py" in text


async def test_a_lock_that_is_still_being_entered_is_not_taken_for_held(scope: Scope) -> None:
    outlet = Outlet()
    scope.start("sender", outlet.send)
    scope.start("drain", outlet.drain)
    await settle()
    text = render_graph(scope.explain())
    assert "which is held by code that is not read on this Python (probably)" in text
    assert "is held by task" not in text


async def test_what_a_lock_says_of_itself_is_known(scope: Scope) -> None:
    lock, other = OwnedLock("one"), OwnedLock("other")

    async def take(first: OwnedLock, second: OwnedLock) -> None:
        async with first:
            await asyncio.sleep(0)
            async with second:
                pass

    scope.start("upwards", take, lock, other)
    scope.start("downwards", take, other, lock)
    await settle()
    assert [len(cycle) for cycle in scope.explain().cycles] == [4]


async def test_a_waker_in_code_keeps_what_is_probable_from_being_a_cycle(scope: Scope) -> None:
    """The end of `resolver` would resolve the future; so would `rescuer`, of which only its code tells."""
    future: asyncio.Future[int] = asyncio.get_running_loop().create_future()

    async def wait() -> None:
        await future

    waiter = scope.start("waiter", wait)

    async def resolve() -> None:
        await waiter.wait()

    async def rescue(gate: asyncio.Event) -> None:
        await gate.wait()
        future.set_result(1)

    resolver = scope.start("resolver", resolve)
    resolver.task.add_done_callback(lambda _: future.done() or future.set_result(2))
    gate = asyncio.Event()
    scope.start("rescuer", rescue, gate)
    await settle()
    graph = scope.explain()
    assert "its end resolves it" in render_graph(graph)
    assert graph.cycles == ()


async def test_a_library_that_names_its_variables_otherwise(scope: Scope, monkeypatch: pytest.MonkeyPatch) -> None:
    def read(variables: dict[str, Any]) -> Wait:
        return Wait(Aspect.ITEM, (variables["no such name"],))

    monkeypatch.setitem(blocked_on._TASK_READERS, ("asyncio/queues.py", "get"), read)
    queue: asyncio.Queue[int] = asyncio.Queue()

    async def wait() -> None:
        await queue.get()

    scope.start("it", wait)
    await settle()
    graph = scope.explain()
    assert len(graph.notes) == 1
    assert "waits for" in wait_of(graph, "task test/it")


async def test_threads_are_told_with_what_their_source_says(scope: Scope) -> None:
    inner, let_go = threading.Lock(), threading.Event()
    inner.acquire()

    def wait_for_lock() -> None:
        with inner:
            pass

    def wait_for_event() -> None:
        let_go.wait()

    scope.start_thread("locked", wait_for_lock)
    scope.start_thread("waits", wait_for_event)
    try:
        graph = scope.explain()
    finally:
        inner.release()
        let_go.set()
    assert len(graph.notes) == 1
    assert "waits for event let_go" in wait_of(graph, "thread test/waits")
    assert "waits for" in wait_of(graph, "thread test/locked")


async def test_tasks_that_await_each_other_need_no_code(scope: Scope) -> None:
    start_tasks_that_await_each_other(scope)
    await settle()
    assert "DEADLOCK CYCLE 1" in render_graph(scope.explain())
