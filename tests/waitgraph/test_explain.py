from __future__ import annotations

import asyncio
import os
import re
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
import uvloop
from tests.helpers import Gate, Stubborn, forever
from tests.lifecycle.test_virtual_time import JumpingLoop
from tests.waitgraph.planted import (
    PLANTED,
    LoopCaller,
    Outlet,
    Worker,
    settle,
    start_event_of_its_own,
    start_lock_across_send,
    start_two_queues,
)

from pytinykv.lifecycle import Scope, StageOutcome, start_child
from pytinykv.simulation.loop import SimLoop
from pytinykv.waitgraph import NodeKind, OwnedLock, Signal, WaitClock, WaitGraph, declare, render_graph, waiting_for

GOLDEN = Path(__file__).parent / "golden"
LOOPS = [asyncio.new_event_loop, uvloop.new_event_loop, JumpingLoop, SimLoop]


def wait_of(graph: WaitGraph, name: str) -> str:
    """Return what the text says about one runner."""
    blocks = re.split(r"\n  (?=task|thread|child|event)", render_graph(graph))
    return next(block for block in blocks if block.startswith(name))


def steady(graph: WaitGraph) -> str:
    """Return the cycles as text without what differs from run to run: times, lines of files."""
    text = render_graph(graph).partition("\n\n")[2].partition("\n\nall others")[0]
    text = re.sub(r"\d+\.\d s", "0.1 s", text)
    return re.sub(r"(?<=\.py:)\d+", "0", text) + "\n"


# ---- cycles


@pytest.mark.parametrize("make_loop", LOOPS, ids=["asyncio", "uvloop", "jumping", "simulated"])
@pytest.mark.parametrize("what", PLANTED)
def test_a_planted_cycle_is_found_and_got_out_of(what: str, make_loop: Callable[[], asyncio.AbstractEventLoop]) -> None:
    start, length, runners = PLANTED[what]

    async def main() -> WaitGraph:
        scope = Scope("plant")
        start(scope)
        await settle()
        graph = scope.explain()
        assert (await scope.stop(1.0)).ok
        return graph

    with asyncio.Runner(loop_factory=make_loop) as runner:
        graph = runner.run(main()) if make_loop is not SimLoop else runner.get_loop().run_until_complete(main())
    assert len(graph.cycles) == 1, render_graph(graph)
    assert len(graph.cycles[0]) == length
    assert {graph.nodes[edge.source].name for edge in graph.cycles[0]} >= runners
    assert graph.notes == ()


@pytest.mark.parametrize("what", PLANTED)
async def test_who_could_still_be_freed_is_in_no_cycle(what: str, scope: Scope) -> None:
    """The same without the one that closes the cycle."""
    start, _, names = PLANTED[what]
    plant = scope.child("plant")
    start(plant)
    await settle()
    last = max(names)
    for task, owned in list(plant.books.tasks.items()):
        if owned.name.endswith(last.rpartition("/")[2]):
            task.cancel()
    await settle()
    assert scope.explain().cycles == ()


@pytest.mark.parametrize("name", ["two_queues", "lock_across_send", "event_of_its_own"])
async def test_golden_text(name: str, scope: Scope) -> None:
    """A person reads this text on a bad day; `UPDATE_GOLDEN=1` writes it anew."""
    start = {
        "two_queues": start_two_queues,
        "lock_across_send": start_lock_across_send,
        "event_of_its_own": start_event_of_its_own,
    }[name]
    start(scope)
    await settle()
    clock = scope.wait_clock = WaitClock()
    loop = asyncio.get_running_loop()
    clock.look([loop])
    text = steady(scope.explain())
    path = GOLDEN / f"{name}.txt"
    if os.environ.get("UPDATE_GOLDEN"):
        path.parent.mkdir(exist_ok=True)
        path.write_text(text, encoding="utf-8")
    assert text == path.read_text(encoding="utf-8")


async def test_a_thread_that_waits_for_the_loop_that_waits_for_it(scope: Scope) -> None:
    caller = LoopCaller(asyncio.get_running_loop())
    thread = scope.start_thread("caller", caller.run)
    assert caller.asked.wait(5)
    seen: list[WaitGraph] = []

    def look_while_stuck() -> None:
        while not any("join" in line for line in _stack_of_main()):
            pass
        seen.append(scope.explain())
        assert caller.answer is not None
        caller.answer.cancel()

    watcher = scope.start_thread("watcher", look_while_stuck)
    thread.thread.join(5)
    await watcher.wait(5)
    await settle()
    cycle = [seen[0].nodes[edge.source] for edge in seen[0].cycles[0]]
    assert {node.name for node in cycle if node.kind is NodeKind.THREAD} == {"test/caller", "MainThread"}
    assert any(node.kind is NodeKind.LOOP for node in cycle)


def _stack_of_main() -> list[str]:
    frame = sys._current_frames()[threading.main_thread().ident or 0]
    names = []
    while frame is not None:
        names.append(frame.f_code.co_name)
        frame = frame.f_back  # type: ignore[assignment]
    return names


def test_two_threads_with_two_locks() -> None:
    over = threading.Event()

    class Pair:
        def __init__(self) -> None:
            self.first, self.second = threading.Lock(), threading.Lock()
            self.both = threading.Barrier(2)

        def up(self) -> None:
            with self.first:
                self.both.wait(5)
                if self.second.acquire(timeout=30):
                    self.second.release()

        def down(self) -> None:
            with self.second:
                self.both.wait(5)
                while not over.is_set():  # the way out
                    if self.first.acquire(timeout=0.2):  # long enough to be looked at
                        self.first.release()

    async def main() -> WaitGraph:
        scope, pair = Scope("pair"), Pair()
        scope.start_thread("up", pair.up)
        scope.start_thread("down", pair.down)
        while len((graph := scope.explain()).cycles) == 0:
            await asyncio.sleep(0)
        over.set()
        await scope.stop()
        return graph

    graph = asyncio.run(main())
    assert {graph.nodes[edge.source].name for edge in graph.cycles[0]} >= {"pair/up", "pair/down"}


# ---- what is said about a wait


async def test_a_lock_is_held_by_whom_it_is_held(scope: Scope) -> None:
    outlet = Outlet()
    scope.start("sender", outlet.send)
    scope.start("drain", outlet.drain)
    await settle()
    graph = scope.explain()
    [edge] = [edge for edge in graph.edges if edge.verb == "is held by"]
    assert edge.sure
    assert graph.nodes[edge.target].name == "test/sender"
    assert "in Outlet.send" in edge.evidence


async def test_a_lock_that_is_taken_twice(scope: Scope) -> None:
    async def twice(lock: asyncio.Lock) -> None:
        async with lock, lock:
            pass

    scope.start("greedy", twice, asyncio.Lock())
    await settle()
    assert len(scope.explain().cycles) == 1


async def test_an_owned_lock_knows_its_holder_also_without_a_block(scope: Scope) -> None:
    lock = OwnedLock("the books")

    async def hold() -> None:
        await lock.acquire()
        try:
            await forever()
        finally:
            lock.release()

    async def want() -> None:
        async with lock:
            pass

    scope.start("holder", hold)
    scope.start("other", want)
    await settle()
    said = wait_of(scope.explain(), "task test/other")
    assert "waits to acquire lock the books (locked)" in said
    assert "which is held by task test/holder (it acquired it)" in said


async def test_declared_wakers_are_named(scope: Scope) -> None:
    synced, inbox = Signal("synced", set_by=("test/dis*",)), asyncio.Queue[int]()
    declare(inbox, "inbox", woken_by=("the store at 127.0.0.1:20160",))

    async def ask() -> None:
        with waiting_for("a timestamp", woken_by=("the scheduler",)):
            await asyncio.get_running_loop().create_future()

    scope.start("a", synced.wait)
    scope.start("b", inbox.get)
    scope.start("c", ask)
    scope.start("disk", forever)
    await settle()
    graph = scope.explain()
    assert "which would be set by task test/disk (declared)" in wait_of(graph, "task test/a")
    assert "waits for an item from queue inbox (empty)" in wait_of(graph, "task test/b")
    assert "which would be filled by the store at 127.0.0.1:20160 (declared)" in wait_of(graph, "task test/b")
    assert "waits for event a timestamp" in wait_of(graph, "task test/c")
    assert "which would be ended by the scheduler (declared)" in wait_of(graph, "task test/c")


async def test_a_callback_that_would_set_an_event_is_named(scope: Scope) -> None:
    class Store:
        def __init__(self) -> None:
            self.wake = asyncio.Event()

        async def run(self) -> None:
            await self.wake.wait()

        def on_synced(self) -> None:
            self.wake.set()

    scope.start("loop", Store().run)
    await settle()
    graph = scope.explain()
    assert "Store.on_synced" in wait_of(graph, "task test/loop")
    assert graph.cycles == ()


async def test_a_signal_handler_that_got_the_method_is_a_waker(scope: Scope) -> None:
    async def wait_for_signal(register: Callable[[Callable[[], None]], None]) -> None:
        stop = asyncio.Event()
        register(stop.set)
        await stop.wait()

    kept: list[Callable[[], None]] = []
    scope.start("main", wait_for_signal, kept.append)
    await settle()
    graph = scope.explain()
    assert graph.cycles == ()
    assert "would be set by a callback stop.set from" in wait_of(graph, "task test/main")


async def test_who_calls_a_wrapping_method_counts(scope: Scope) -> None:
    class Mailbox:
        def __init__(self) -> None:
            self._queue: asyncio.Queue[int] = asyncio.Queue(1)

        async def take(self) -> int:
            return await self._queue.get()

        async def give(self, item: int) -> None:
            await self._queue.put(item)

    async def read(box: Mailbox) -> None:
        await forever()
        await box.take()

    async def write(box: Mailbox) -> None:
        await box.give(1)
        await box.give(2)

    box = Mailbox()
    scope.start("reader", read, box)
    scope.start("writer", write, box)
    await settle()
    assert "would be emptied by task test/reader (probably: " in wait_of(scope.explain(), "task test/writer")


async def test_a_wait_that_ends_by_itself_says_when(scope: Scope) -> None:
    async def patient() -> None:
        async with asyncio.timeout(60):
            await forever()

    async def sleeper() -> None:
        await asyncio.sleep(60)

    async def choosy() -> None:
        await asyncio.wait((asyncio.get_running_loop().create_future(),), timeout=60)

    for coro_fn in (patient, sleeper, choosy):
        scope.start(coro_fn.__name__, coro_fn)
    await settle()
    graph = scope.explain()
    for name in ("patient", "sleeper", "choosy"):
        node = next(node for node in graph.nodes.values() if node.name == f"test/{name}")
        assert node.ends_in_s is not None
        assert 50 < node.ends_in_s <= 60


async def test_any_of_several_is_enough(scope: Scope) -> None:
    """Of two things it waits for, one comes from itself; the other may come at any time."""

    async def choose(outside: asyncio.Future[int]) -> None:
        mine: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        await asyncio.wait((mine, outside), return_when=asyncio.FIRST_COMPLETED)
        mine.set_result(1)

    outside = asyncio.get_running_loop().create_future()
    scope.start("choose", choose, outside)
    await settle()
    assert scope.explain().cycles == ()


async def test_behind_a_shield_is_the_task(scope: Scope) -> None:
    inner = scope.start("inner", forever)

    async def shielded() -> None:
        await asyncio.shield(inner.task)

    scope.start("outer", shielded)
    await settle()
    assert "waits for task test/inner" in wait_of(scope.explain(), "task test/outer")


async def test_who_waits_for_a_thread_waits_for_what_it_waits_for(scope: Scope) -> None:
    gate = Gate()
    thread = scope.start_thread("gate", gate.run, wake=gate.open)
    scope.start("joiner", thread.wait)
    await settle()
    graph = scope.explain()
    assert "waits for the end of thread test/gate" in wait_of(graph, "task test/joiner")
    assert "waits for event Gate._opened (not set)" in wait_of(graph, "thread test/gate")


async def test_a_child_that_ignores_sigterm(scope: Scope) -> None:
    script = (
        "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('deaf', flush=True); time.sleep(60)"
    )
    child = await start_child(scope, "deaf", sys.executable, "-c", script, stdout=asyncio.subprocess.PIPE)
    assert child.stdout is not None
    await child.stdout.readline()
    scope.start("stopper", child.stop, 30.0)
    await settle()
    graph = scope.explain()
    assert f"waits for the end of child process test/deaf (pid {child.pid})" in wait_of(graph, "task test/deaf/stop")
    assert re.search(r"was sent SIGTERM \d+\.\d s ago; ", wait_of(graph, "child process test/deaf"))
    child.kill()
    await child.wait(5)


async def test_for_how_long_a_task_has_waited(scope: Scope) -> None:
    scope.start("waiter", forever)
    await settle()
    clock = scope.wait_clock = WaitClock()
    loop = asyncio.get_running_loop()
    task = next(iter(scope.books.tasks))
    assert clock.waited_s(task) is None
    clock.look([loop])
    first = clock.waited_s(task)
    clock.look([loop])
    second = clock.waited_s(task)
    assert first is not None
    assert second is not None
    assert 0 <= first <= second
    assert re.search(r", for \d+\.\d s\n", wait_of(scope.explain(), "task test/waiter"))


async def test_looking_keeps_nothing_alive(scope: Scope) -> None:
    """Before Python 3.13 a frame that was asked for its variables remembers their values of that moment."""
    taken = asyncio.Event()

    class Thing:
        pass

    async def hold() -> None:
        thing = Thing()
        alive.append(id(thing))
        await taken.wait()
        del thing
        await forever()

    import gc

    alive: list[int] = []
    scope.start("holder", hold)
    await settle()
    scope.explain()
    taken.set()
    await settle()
    gc.collect()
    assert not any(isinstance(thing, Thing) for thing in gc.get_objects())


# ---- printed by a stop


async def test_a_stage_that_overruns_shows_who_waits_for_whom(scope: Scope) -> None:
    async def flush() -> None:
        await asyncio.get_running_loop().create_task(worker.inbox.join())

    worker = Worker("left")
    worker.inbox.put_nowait("never taken")
    root = Scope("server")
    root.on_stop("flush", flush, 0.05)
    report = await root.stop(0.5)
    assert report.stages[0].outcome is StageOutcome.OVERRAN
    assert report.graph is not None
    text = report.render()
    assert "when the first deadline had passed:" in text
    assert "waits until all is done of queue" in text


async def test_a_task_that_does_not_end_shows_the_wait_for_graph(stubborn: Stubborn) -> None:
    root = Scope("server")
    kid = root.child("kid")
    kid.start("mule", stubborn.run)
    await settle()
    report = await root.stop(0.2)
    assert report.graph is None, "the child has drawn it"
    assert report.children[0].graph is not None
    assert report.render().count("when the first deadline had passed:") == 1
    assert "waits for event Stubborn.released (not set)" in report.render()


async def test_tasks_that_can_not_be_cancelled_because_they_await_each_other() -> None:
    """A cancellation is passed on to what is awaited, so here it goes round for ever. The stop goes on."""
    root = Scope("server")
    let_go: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    tasks: dict[str, asyncio.Task[None]] = {}

    async def wait_for(name: str) -> None:
        await asyncio.sleep(0)
        await asyncio.gather(tasks[name], asyncio.shield(let_go))

    tasks["a"] = root.start("a", wait_for, "b").task
    tasks["b"] = root.start("b", wait_for, "a").task
    await settle()
    report = await root.stop(0.2)
    assert [leak.name for leak in report.leaks] == ["server/a", "server/b"]
    assert report.graph is not None
    assert len(report.graph.cycles) == 1
    let_go.set_exception(OSError("the way out"))
    await asyncio.wait(tasks.values())


async def test_a_clean_stop_draws_nothing() -> None:
    root = Scope("server")
    root.start("task", forever)
    report = await root.stop()
    assert report.graph is None
    assert "waits for" not in report.render()
