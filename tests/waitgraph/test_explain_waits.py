"""What the graph says of each way to wait, one by one: tasks, threads, calls."""

from __future__ import annotations

import asyncio
import contextlib
import queue
import re
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from tests.helpers import forever
from tests.waitgraph.planted import settle
from tests.waitgraph.test_explain import wait_of

from pytinykv.lifecycle import Scope
from pytinykv.transport import RpcError
from pytinykv.transport.rpc import Method, MethodKind, RpcChannel, RpcServer
from pytinykv.waitgraph import WaitGraph, render_graph


async def said_of(scope: Scope, coro_fn: Callable[[], Any]) -> str:
    """Run `coro_fn` as a task until it is blocked; return what the graph says of it."""
    scope.start("it", coro_fn)
    await settle()
    return wait_of(scope.explain(), "task test/it")


async def test_join_of_a_queue(scope: Scope) -> None:
    async def join() -> None:
        todo: asyncio.Queue[int] = asyncio.Queue()
        todo.put_nowait(1)
        await todo.join()

    assert "waits until all is done of queue todo in " in await said_of(scope, join)


async def test_gather_and_task_group_and_wait_for(scope: Scope) -> None:
    async def gather() -> None:
        await asyncio.gather(forever(), asyncio.sleep(0))

    async def group() -> None:
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(forever(), name="in the group")

    async def bounded() -> None:
        await asyncio.wait_for(forever(), 60)

    scope.start("gather", gather)
    scope.start("group", group)
    scope.start("bounded", bounded)
    await settle()
    graph = scope.explain()
    assert "(forever)" in wait_of(graph, "task test/gather")
    assert "waits for the end of task in the group" in wait_of(graph, "task test/group")
    assert "at most " in wait_of(graph, "task test/bounded")


async def test_an_async_generator_is_looked_into(scope: Scope) -> None:
    async def items() -> AsyncIterator[int]:
        inbox: asyncio.Queue[int] = asyncio.Queue()
        yield 1
        yield await inbox.get()

    async def consume() -> None:
        async for _ in items():
            pass

    said = await said_of(scope, consume)
    assert "items" in said
    assert "waits for an item from queue inbox in " in said


async def test_a_stream_without_a_writer(scope: Scope) -> None:
    async def accept(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(asyncio.CancelledError):
            await forever()
        writer.close()

    server = await asyncio.start_server(accept, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]

    async def read() -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        connected.set()
        try:
            await reader.read(1)
        finally:
            writer.close()

    connected = asyncio.Event()
    task = scope.start("it", read)
    await connected.wait()
    await settle()
    assert f"waits for bytes from ('127.0.0.1', {port})" in wait_of(scope.explain(), "task test/it")
    task.cancel()
    server.close()
    for handler in [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]:
        handler.cancel()
    await settle()


async def test_a_call_to_a_server_that_accepts_and_never_answers(scope: Scope) -> None:
    """Both ends are in this process: the caller waits for the server, whose handler is shown where it is."""

    async def never(_request: bytes, _context: object) -> bytes:
        entered.set()
        await forever()
        return b""

    def same(data: bytes) -> bytes:
        return data

    entered = asyncio.Event()
    server = RpcServer(scope, "grpc")
    server.add_service("test.Test", [Method("Never", MethodKind.UNARY_UNARY, same, same, never)])
    port = await server.start("127.0.0.1:0")
    channel = RpcChannel(scope, f"127.0.0.1:{port}")

    async def call() -> None:
        with contextlib.suppress(RpcError):
            await channel.unary("/test.Test/Never", b"", serialize=same, deserialize=same, timeout_s=60)

    scope.start("it", call)
    await asyncio.wait_for(entered.wait(), 10)
    await settle()
    graph = scope.explain()
    said = wait_of(graph, "task test/it")
    assert f"waits for remote call /test.Test/Never at 127.0.0.1:{port}, at most " in said
    assert f"which would be answered by the server at 127.0.0.1:{port}" in said
    assert "in forever" in wait_of(graph, "task test/grpc/test.Test/Never")
    assert graph.cycles == ()


# ---- threads


def look(scope: Scope, until: Callable[[WaitGraph], bool]) -> WaitGraph:
    """Draw until the threads stand where they are going to."""
    limit = time.monotonic() + 10
    while not until(graph := scope.explain()):
        assert time.monotonic() < limit, render_graph(graph)
    return graph


async def test_two_threads_with_two_queues(scope: Scope) -> None:
    class Worker:
        def __init__(self, name: str) -> None:
            self.name = name
            self.inbox: queue.Queue[str] = queue.Queue(1)
            self.other = self
            self.is_over = False

        def run(self) -> None:
            while not self.is_over:
                self.inbox.get()
                self.other.inbox.put("one")
                self.other.inbox.put("two")

        def let_go(self) -> None:
            self.is_over = True
            with self.inbox.mutex:
                self.inbox.maxsize = 9
                self.inbox.not_full.notify_all()

    left, right = Worker("left"), Worker("right")
    left.other, right.other = right, left
    for worker in (left, right):
        worker.inbox.put("hello")
    for worker in (left, right):
        scope.start_thread(worker.name, worker.run)
    graph = look(scope, lambda graph: len(graph.cycles) == 1 and "waits to put into" in render_graph(graph))
    for worker in (left, right):
        worker.let_go()
    assert {graph.nodes[edge.source].name for edge in graph.cycles[0]} >= {"test/left", "test/right"}
    assert re.search(r"waits to put into queue .*Worker\.inbox of (left|right) \(full: 1 of 1\)", render_graph(graph))


@pytest.mark.parametrize("way", ["lock", "condition", "process", "simple queue", "thread"])
async def test_what_a_thread_waits_for(scope: Scope, way: str) -> None:
    lock, condition, items = threading.Lock(), threading.Condition(), queue.SimpleQueue[int]()
    child = subprocess.Popen(  # noqa: ASYNC220 - it is what a thread waits for
        [sys.executable, "-c", "input()"], stdin=subprocess.PIPE
    )
    over = threading.Event()
    other = scope.start_thread("other", over.wait, wake=over.set)

    def take_lock() -> None:
        with lock:
            pass

    def await_condition() -> None:
        with condition:
            condition.wait()

    def await_process() -> None:
        child.wait()

    def await_item() -> None:
        items.get()

    def await_thread() -> None:
        other.thread.join()

    run, said = {
        "lock": (take_lock, "waits to acquire lock lock in "),
        "condition": (await_condition, "waits to be notified of condition condition in "),
        "process": (await_process, "waits for the end of future child in "),
        "simple queue": (await_item, "waits for an item from queue items in "),
        "thread": (await_thread, "waits for the end of thread test/other"),
    }[way]
    with lock:
        scope.start_thread("it", run)
        look(scope, lambda graph: said in wait_of(graph, "thread test/it"))
    with condition:
        condition.notify_all()
    items.put(1)
    over.set()
    child.communicate(b"\n")
