"""What the graph was once wrong about, or could be held up by: false cycles, missed ones, wrong holders, hostile objects."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import queue
import re
import threading
from collections.abc import AsyncIterator, Callable, Generator, Iterator
from typing import Any

import pytest
from tests.helpers import forever
from tests.waitgraph.planted import settle
from tests.waitgraph.test_explain import wait_of
from tests.waitgraph.test_explain_waits import look

from pytinykv.lifecycle import Scope
from pytinykv.waitgraph import OwnedLock, WaitGraph, render_graph
from pytinykv.waitgraph.blocked_on import is_library
from pytinykv.waitgraph.stacks import Step, await_chain, local_variables

THERE: asyncio.Queue[int]
BACK: asyncio.Queue[int]


def names(graph: WaitGraph) -> list[set[str]]:
    """Return the runners of each cycle."""
    nodes = graph.nodes
    return [{nodes[edge.source].name for edge in cycle if nodes[edge.source].is_runner} for cycle in graph.cycles]


async def pass_on(source: asyncio.Queue[int], target: asyncio.Queue[int]) -> None:
    target.put_nowait(await source.get())


def start_ring(scope: Scope, there: asyncio.Queue[int], back: asyncio.Queue[int]) -> None:
    scope.start("there", pass_on, there, back)
    scope.start("back", pass_on, back, there)


# ---- cycles that were missed


async def test_a_cycle_at_the_bottom_of_a_deep_chain(scope: Scope) -> None:
    async def dive(depth: int, source: asyncio.Queue[int], target: asyncio.Queue[int]) -> None:
        if depth:
            return await dive(depth - 1, source, target)
        return await pass_on(source, target)

    there, back = asyncio.Queue[int](), asyncio.Queue[int]()
    scope.start("there", dive, 300, there, back)
    scope.start("back", dive, 300, back, there)
    await settle()
    graph = scope.explain()
    assert names(graph) == [{"test/there", "test/back"}]
    assert len(render_graph(graph).splitlines()) < 40


async def test_a_cycle_over_global_queues(scope: Scope) -> None:
    global THERE, BACK
    THERE, BACK = asyncio.Queue(), asyncio.Queue()

    async def there() -> None:
        BACK.put_nowait(await THERE.get())

    async def back() -> None:
        THERE.put_nowait(await BACK.get())

    scope.start("there", there)
    scope.start("back", back)
    await settle()
    assert names(scope.explain()) == [{"test/there", "test/back"}]


@pytest.mark.parametrize("way", ["context manager", "exit stack", "acquired in a block"])
async def test_a_lock_that_is_held_in_a_roundabout_way(scope: Scope, way: str) -> None:
    lock, done = asyncio.Lock(), asyncio.Event()

    @contextlib.asynccontextmanager
    async def locked() -> AsyncIterator[None]:
        async with lock:
            yield

    async def hold() -> None:
        if way == "context manager":
            async with locked():
                await done.wait()
        elif way == "exit stack":
            async with contextlib.AsyncExitStack() as stack:
                await stack.enter_async_context(lock)
                await done.wait()
        else:
            async with lock:
                await lock.acquire()

    async def want() -> None:
        async with lock:
            done.set()

    scope.start("holder", hold)
    await settle()
    scope.start("other", want)
    await settle()
    graph = scope.explain()
    assert len(graph.cycles) == 1
    assert "which is held by task test/holder (inside its block at" in render_graph(graph)


async def test_who_is_notified_waits_for_the_lock(scope: Scope) -> None:
    condition = asyncio.Condition()

    async def wait() -> None:
        async with condition:
            await condition.wait()

    async def notify() -> None:
        async with condition:
            condition.notify_all()
            await forever()

    scope.start("notified", wait)
    await settle()
    scope.start("notifier", notify)
    await settle()
    said = wait_of(scope.explain(), "task test/notified")
    assert "waits to acquire lock condition in " in said
    assert "which is held by task test/notifier (inside its block at" in said


async def test_a_pool_whose_only_thread_waits_for_its_own_pool(scope: Scope) -> None:
    inner: list[concurrent.futures.Future[int]] = []
    with concurrent.futures.ThreadPoolExecutor(1, thread_name_prefix="pool") as pool:

        def outer() -> None:
            inner.append(pool.submit(int))
            with contextlib.suppress(concurrent.futures.CancelledError):
                inner[0].result()

        pool.submit(outer)
        graph = look(scope, lambda graph: bool(graph.cycles))
        inner[0].cancel()
    assert names(graph) == [{"pool_0"}]
    assert "thread of a pool, which may take it up when it is free" in render_graph(graph)


async def test_a_task_that_waits_for_an_executor_waits_for_its_thread(scope: Scope) -> None:
    gate = threading.Event()

    async def wait() -> None:
        await asyncio.to_thread(gate.wait)

    task = scope.start("it", wait)
    await settle()
    graph = look(scope, lambda graph: "(running)" in render_graph(graph))
    said = wait_of(graph, "task test/it")
    assert re.search(r"which would be resolved by thread asyncio_\d+ \(probably: it works on that\)", said)
    gate.set()
    await task.wait()


# ---- cycles that were none


class Protocol:
    """What a transport calls, and no task."""

    def __init__(self, inbox: asyncio.Queue[int]) -> None:
        self.inbox = inbox

    def data_received(self) -> None:
        self.inbox.put_nowait(1)


class Box:
    def __init__(self, inner: Any) -> None:
        self.inner = inner


class Hub:
    """Hands out to many."""

    def __init__(self, inbox: asyncio.Queue[int]) -> None:
        self.listeners = [inbox]

    def publish(self) -> None:
        for listener in self.listeners:
            listener.put_nowait(1)


async def rescue(box: Any) -> None:
    await forever()
    box.inner.inner.inner.inner.put_nowait(1)


OUTSIDERS: dict[str, Callable[[Scope, asyncio.Queue[int]], object]] = {
    "a timer with a method": lambda _, inbox: asyncio.get_running_loop().call_later(60, inbox.put_nowait, 1),
    "a timer with a closure": lambda _, inbox: asyncio.get_running_loop().call_later(60, lambda: inbox.put_nowait(1)),
    "a protocol": lambda _, inbox: Protocol(inbox),
    "a collection of listeners": lambda _, inbox: Hub(inbox),
    "a task with a long way": lambda scope, inbox: scope.start("rescuer", rescue, Box(Box(Box(Box(inbox))))),
}


@pytest.mark.parametrize("who", OUTSIDERS)
async def test_something_outside_could_end_it(scope: Scope, who: str) -> None:
    there, back = asyncio.Queue[int](), asyncio.Queue[int]()
    start_ring(scope, there, back)
    await settle()
    assert len(scope.explain().cycles) == 1
    kept = OUTSIDERS[who](scope, there)
    await settle()
    graph = scope.explain()
    assert graph.cycles == ()
    assert render_graph(graph).count("which would be filled by") == 3
    if isinstance(kept, asyncio.TimerHandle):
        kept.cancel()


async def test_who_merely_has_it_does_not_count(scope: Scope) -> None:
    there, back = asyncio.Queue[int](), asyncio.Queue[int]()
    start_ring(scope, there, back)
    await settle()
    kept = [Box(there), [there], {"there": there}]
    assert len(scope.explain().cycles) == 1
    assert kept


async def test_a_cycle_with_a_deadline_says_that_it_ends(scope: Scope) -> None:
    there, back = asyncio.Queue[int](), asyncio.Queue[int]()

    async def with_deadline() -> None:
        async with asyncio.timeout(50):
            await pass_on(there, back)

    scope.start("there", with_deadline)
    scope.start("back", pass_on, back, there)
    await settle()
    assert re.search(
        r"and none can go on before a deadline breaks it, in (50.0|49.\d) s$",
        render_graph(scope.explain()),
        re.MULTILINE,
    )


async def test_a_deadline_of_who_waits_for_it_ends_a_wait_too(scope: Scope) -> None:
    async def wait_for_itself() -> None:
        event = asyncio.Event()
        await event.wait()
        event.set()

    async def bounded() -> None:
        await asyncio.wait_for(wait_for_itself(), 50)

    scope.start("bounded", bounded)
    await settle()
    assert "before a deadline breaks it" in render_graph(scope.explain())


# ---- holders


def two_locks(first: Any, second: Any, met: threading.Barrier) -> None:
    with first, Meeting(met), second:
        pass  # fmt: skip


class Meeting:
    def __init__(self, met: threading.Barrier) -> None:
        self.met = met

    def __enter__(self) -> None:
        self.met.wait()

    def __exit__(self, *_: object) -> None:
        pass


async def test_threads_with_two_locks_in_one_statement(scope: Scope) -> None:
    first, second, met = threading.Lock(), threading.Lock(), threading.Barrier(2)
    up = scope.start_thread("up", two_locks, first, second, met)
    down = scope.start_thread("down", two_locks, second, first, met)
    graph = look(scope, lambda graph: bool(graph.cycles))
    assert names(graph) == [{"test/up", "test/down"}]
    assert "which is held by thread test/up (inside `with first` in two_locks)" in render_graph(graph)
    first.release()  # the way out: who wants it gets it, and gives it back
    await down.wait(5)
    first.acquire()
    await up.wait(5)


async def test_a_thread_that_waits_to_be_notified_does_not_hold_the_lock(scope: Scope) -> None:
    condition, go = threading.Condition(), threading.Event()

    def wait() -> None:
        with condition:
            condition.wait()

    def hold() -> None:
        condition.acquire()
        go.wait()
        condition.notify_all()
        condition.release()

    def want() -> None:
        with condition:
            pass

    scope.start_thread("waits", wait)
    look(scope, lambda graph: "waits to be notified" in wait_of(graph, "thread test/waits"))
    scope.start_thread("holds", hold)
    look(scope, lambda graph: "event go" in wait_of(graph, "thread test/holds"))
    scope.start_thread("wants", want)
    graph = look(scope, lambda graph: "waits to acquire" in wait_of(graph, "thread test/wants"))
    said = wait_of(graph, "thread test/wants")
    go.set()
    assert "waits to acquire lock condition in " in said
    assert re.findall("which is held by (.*)", said) == ["thread test/holds (it acquired it)"]


async def test_a_lock_whose_holder_has_ended(scope: Scope) -> None:
    lock = OwnedLock("routes")

    async def forget() -> None:
        await lock.acquire()

    async def want() -> None:
        await lock.acquire()

    await scope.start("forgetful", forget).wait()
    scope.start("it", want)
    await settle()
    said = wait_of(scope.explain(), "task test/it")
    assert "which is held by task test/forgetful, which has ended without releasing it" in said


async def test_a_barrier(scope: Scope) -> None:
    barrier = asyncio.Barrier(3)

    async def meet() -> None:
        await barrier.wait()

    for name in ("one", "two"):
        scope.start(name, meet)
    await settle()
    graph = scope.explain()
    assert "waits for the others at barrier barrier in " in wait_of(graph, "task test/one")
    assert "(2 of 3 are there)" in render_graph(graph)
    assert graph.cycles == ()


async def test_a_thread_that_computes_in_a_method_called_run_is_not_idle(scope: Scope) -> None:
    class Cruncher(threading.Thread):
        is_over = False

        def run(self) -> None:
            while not self.is_over:
                pass

    cruncher = Cruncher(name="cruncher")
    cruncher.start()
    look(scope, lambda graph: "Cruncher.run" in wait_of(graph, "thread cruncher: runs"))
    cruncher.is_over = True
    cruncher.join()


def test_a_project_with_a_directory_named_like_a_library_is_no_library() -> None:
    for path, expected in (("project/asyncio/app.py", False), ("project/queue.py", False), (asyncio.__file__, True)):
        assert is_library(Step(None, compile("1", path, "exec"), None)) is expected


# ---- hostile objects


class Hostile:
    """An object that must not be asked anything."""

    def __init__(self, asked: list[str], inbox: asyncio.Queue[int]) -> None:
        self.__dict__.update(asked=asked, inbox=inbox)

    def _asked(self, name: str) -> Any:
        object.__getattribute__(self, "__dict__")["asked"].append(name)
        raise RuntimeError(name)

    def __getattribute__(self, name: str) -> Any:
        return object.__getattribute__(self, "_asked")(name) if name != "__dict__" else super().__getattribute__(name)

    @property
    def __class__(self) -> Any:
        return self._asked("__class__")

    def __repr__(self) -> str:
        return str(self._asked("__repr__"))

    def __eq__(self, other: object) -> bool:
        return bool(self._asked("__eq__"))

    def __hash__(self) -> int:
        return int(self._asked("__hash__"))

    def __iter__(self) -> Iterator[int]:
        return iter(self._asked("__iter__"))

    def __len__(self) -> int:
        return int(self._asked("__len__"))

    def __bool__(self) -> bool:
        return bool(self._asked("__bool__"))


class Strange(dict[str, int]):
    def values(self) -> Any:
        raise RuntimeError("values")


async def test_objects_are_not_asked_anything(scope: Scope) -> None:
    asked: list[str] = []
    there, back = asyncio.Queue[int](), asyncio.Queue[int]()

    async def run(hostile: Hostile, strange: Strange, source: asyncio.Queue[int], target: asyncio.Queue[int]) -> None:
        target.put_nowait(await source.get())

    scope.start("there", run, Hostile(asked, there), Strange(), there, back)
    scope.start("back", run, Hostile(asked, back), Strange(), back, there)
    await settle()
    del asked[:]
    graph = scope.explain()
    assert (asked, graph.notes) == ([], ())
    assert len(graph.cycles) == 1


class Mute(asyncio.Queue[int]):
    """A queue that can't be hashed, compared or told."""

    def qsize(self) -> int:
        raise RuntimeError("qsize")

    def __repr__(self) -> str:
        raise RuntimeError("repr")

    def __hash__(self) -> int:
        raise RuntimeError("hash")

    def __eq__(self, other: object) -> bool:
        raise RuntimeError("eq")


async def test_a_class_without_a_module_is_a_class_like_others(scope: Scope) -> None:
    """Classes that are made at run time may have None there: the messages that protobuf makes from a description have."""
    made = type("Made", (), {"__module__": None})

    async def passes_on(inbox: asyncio.Queue[int], around: Any) -> None:
        around.inbox.put_nowait(await inbox.get())

    thing = made()
    thing.inbox = there = asyncio.Queue[int]()
    scope.start("alone", passes_on, there, thing)
    await settle()
    assert names(scope.explain()) == [{"test/alone"}]


async def test_a_thing_that_can_not_be_asked_is_still_told(scope: Scope) -> None:
    mute = Mute(1)

    async def wait() -> None:
        await mute.get()

    task = scope.start("it", wait)
    await settle()
    graph = scope.explain()
    assert graph.notes == ()
    assert "waits for an item from queue mute in " in wait_of(graph, "task test/it")
    assert await_chain(task.task)[-1] == "waits for <Future pending>"


async def test_a_queue_whose_lock_is_held_does_not_hold_up_the_drawing(scope: Scope) -> None:
    stuck: queue.Queue[int] = queue.Queue()
    stuck.mutex.acquire()

    def wait() -> None:
        stuck.get()

    scope.start_thread("it", wait)
    graph = look(scope, lambda graph: "stuck" in wait_of(graph, "thread test/it"))
    stuck.mutex.release()
    stuck.put_nowait(1)
    assert "waits for an item from queue stuck in " in render_graph(graph)


async def test_what_locals_gave_stays_as_it_was(scope: Scope) -> None:
    kept: list[dict[str, Any]] = []

    async def run() -> int:
        answer = 42
        kept.append(locals())
        await forever()
        return answer

    scope.start("it", run)
    await settle()
    scope.explain()
    assert kept[0]["answer"] == 42


def test_variables_of_a_frame_are_not_kept_by_it() -> None:
    def frames() -> Generator[int, None, None]:
        big = Box(None)
        yield 1
        assert big

    generator = frames()
    next(generator)
    frame = generator.gi_frame
    assert set(local_variables(frame)) == {"big"}
    generator.close()


# ---- very many


async def test_of_thousands_alike_one_is_told(scope: Scope) -> None:
    class Connection:
        def __init__(self) -> None:
            self.inbox: asyncio.Queue[int] = asyncio.Queue()

        async def run(self) -> None:
            await self.inbox.get()

    for number in range(1000):
        scope.start(f"connection-{number}", Connection().run)
    await settle()
    graph = scope.explain()
    text = render_graph(graph)
    assert len(graph.nodes) > 2000
    assert len(text.splitlines()) < 30, text
    assert "task test/connection-0\n    and 999 more like it, to task test/connection-999" in text


async def test_a_very_long_cycle_is_told_in_parts(scope: Scope) -> None:
    queues = [asyncio.Queue[int]() for _ in range(500)]
    for number, inbox in enumerate(queues):
        scope.start(f"link-{number}", pass_on, inbox, queues[(number + 1) % len(queues)])
    await settle()
    graph = scope.explain()
    assert [len(cycle) for cycle in graph.cycles] == [1000]
    assert "  … 960 more steps …" in render_graph(graph)
    assert len(render_graph(graph).splitlines()) < 150


async def test_a_name_is_one_line(scope: Scope) -> None:
    scope.start("it\nDEADLOCK CYCLE 1: not true\n" + "x" * 1000, forever)
    await settle()
    text = render_graph(scope.explain())
    assert "\nDEADLOCK CYCLE" not in text
    assert max(map(len, text.splitlines())) < 250


async def test_tasks_that_come_and_go_while_it_is_drawn(scope: Scope) -> None:
    drawn: list[WaitGraph] = []

    async def short() -> None:
        await asyncio.sleep(0)

    thread = scope.start_thread("drawing", lambda: drawn.extend(scope.explain() for _ in range(20)))
    while thread.thread.is_alive():
        for number in range(50):
            scope.start(f"short-{number}", short)
        await asyncio.sleep(0)
    await thread.wait(5)
    assert len(drawn) == 20
    assert all(graph.cycles == () for graph in drawn)
