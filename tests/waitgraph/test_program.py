"""The graph of any asyncio program: no scope, nothing of pytinykv but this package."""

from __future__ import annotations

import asyncio
import contextlib
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import uvloop
from tests.helpers import Gate, forever
from tests.waitgraph.planted import Worker, settle

from pytinykv.waitgraph import Aspect, CallSite, Label, LoopLabel, Program, Wait, explain, explains_wait, render_graph


@asynccontextmanager
async def two_that_wait_for_each_other() -> AsyncIterator[None]:
    left, right = Worker("left"), Worker("right")
    left.peer, right.peer = right, left
    tasks = []
    for worker in (left, right):
        worker.inbox.put_nowait("hello")
        tasks.append(asyncio.get_running_loop().create_task(worker.run(), name=worker.name))
    await settle()
    yield
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)


@pytest.mark.parametrize("make_loop", [asyncio.new_event_loop, uvloop.new_event_loop])
def test_plain_tasks_in_a_deadlock(make_loop: Callable[[], asyncio.AbstractEventLoop]) -> None:
    async def main() -> str:
        async with two_that_wait_for_each_other():
            return render_graph(explain(Program.of_running_loop("mine")))

    with asyncio.Runner(loop_factory=make_loop) as runner:
        text = runner.run(main())
    assert text.startswith("wait-for graph of mine (pid ")
    assert "DEADLOCK CYCLE 1: each waits for the next, and none can go on\n  task left\n" in text
    assert "waits to put into queue Worker.inbox of right (full: 1 of 1)" in text


async def test_another_thread_draws_what_blocks_the_loop() -> None:
    program, drawn = Program.of_running_loop(), list[str]()
    let_go = threading.Event()

    def draw() -> None:
        while "waits for event let_go in" not in (text := render_graph(explain(program))):
            pass
        drawn.append(text)
        let_go.set()

    thread = threading.Thread(target=draw)
    thread.start()
    assert let_go.wait(30)
    thread.join()
    # Not by its made-up name: beside a task factory, CPython 3.13.0 names such tasks "None".
    assert "(test_another_thread_draws_what_blocks_the_loop): runs now" in drawn[0]


async def test_labels_give_names_and_handles() -> None:
    """A task, a thread and a process, each known to the code that waits by another object."""
    loop, gate = asyncio.get_running_loop(), Gate()
    handle, task = object(), loop.create_task(forever())
    thread, child = threading.Thread(target=gate.run), object()

    @explains_wait(lambda variables: Wait(Aspect.END, (variables["what"],)))
    async def end_of(what: object) -> None:
        await asyncio.Event().wait()

    waiting = [loop.create_task(end_of(what), name=f"waits-{number}") for number, what in enumerate((handle, child))]
    thread.start()
    await settle()
    labels = [
        Label(task, "flusher", CallSite("src/flush.py", 3, "main"), loop.time() - 5, handles=(handle,)),
        Label(thread, "disk"),
        Label(child, "store-1", state="sleeps"),
    ]
    text = render_graph(explain(Program(name="mine", loops=[LoopLabel(loop, "of mine")], labels=labels)))
    gate.open()
    thread.join()
    for one in (task, *waiting):
        one.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await one
    assert "task flusher\n    started at src/flush.py:3 in main, 5.0 s ago" in text
    assert "thread disk" in text
    assert "child process store-1: sleeps" in text
    assert "waits for the end of task flusher" in text
    assert "waits for the end of child process store-1" in text


def test_it_runs_without_the_rest_of_the_project() -> None:
    program = "import sys, pytinykv.waitgraph; print([m for m in sys.modules if m.startswith('pytinykv.')])"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True)
    assert {name.split(".")[1] for name in eval(done.stdout)} == {"waitgraph"}  # noqa: S307 - a list of names


def test_the_example_of_the_chapter(tmp_path: Path) -> None:
    import pytinykv.waitgraph

    example = (pytinykv.waitgraph.__doc__ or "").split("```python\n")[1].split("```")[0]
    script = tmp_path / "mine.py"
    script.write_text(
        "import asyncio, os, signal\n"
        + example.replace("    ...\n", "    os.kill(os.getpid(), signal.SIGUSR1)\n    await asyncio.sleep(0)\n")
        + "asyncio.run(main())\n"
    )
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.startswith("wait-for graph of mine.py (pid ")
