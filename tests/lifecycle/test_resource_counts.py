from __future__ import annotations

import asyncio
import socket
import sys
from pathlib import Path

from tests.helpers import Gate, forever

from pytinykv.lifecycle import LeakKind, Scope, start_child
from pytinykv.lifecycle.resource_counts import UNOWNED, Growth, GrowthWatch, Owned, count_resources
from pytinykv.transport.rpc import RpcServer

TASKS = Owned(LeakKind.TASK, "store/conn-*", "somewhere.py:1 in start")


def observe(watch: GrowthWatch, *numbers: int) -> list[Growth]:
    return [growth for number in numbers for growth in watch.observe({TASKS: number} if number else {})]


def test_what_only_ever_grows_is_told_with_owner_and_line() -> None:
    found = observe(GrowthWatch(window=5, growth_min=4), 1, 2, 3, 4, 5)
    assert found == [Growth(TASKS, 1, 5)]
    assert str(found[0]) == ("tasks of store/conn-*, started at somewhere.py:1 in start: 1 → 5, never fewer meanwhile")


def test_what_shrinks_once_begins_anew() -> None:
    assert observe(GrowthWatch(window=5, growth_min=4), 1, 2, 3, 4, 3, 4, 5, 6) == []


def test_a_burst_at_the_start_is_no_growth() -> None:
    assert observe(GrowthWatch(window=5, growth_min=4), 1, 50, 50, 50, 50, 50, 50) == []


def test_slow_growth_is_told_when_it_is_large_enough() -> None:
    assert observe(GrowthWatch(window=5, growth_min=40), *range(20)) == []


def test_it_is_told_again_only_when_it_has_doubled() -> None:
    found = observe(GrowthWatch(window=5, growth_min=4), *range(1, 25))
    assert [growth.now for growth in found] == [5, 10, 20]


def test_what_is_gone_is_forgotten() -> None:
    watch = GrowthWatch(window=5, growth_min=4)
    assert len(observe(watch, 1, 2, 3, 4, 5, 0, 1, 2, 3, 4, 5)) == 2


async def test_tasks_and_threads_are_counted_by_scope_and_line(scope: Scope) -> None:
    for number in range(3):
        scope.child(f"conn-{number}").start("reader", forever)
    gate = Gate()
    scope.start_thread("disk", gate.run, wake=gate.open)
    stray = asyncio.get_running_loop().create_task(forever(), name="stray")
    counts = count_resources(scope)
    [(tasks, number)] = [entry for entry in counts.items() if entry[0].owner == "test/conn-*"]
    assert (tasks.kind, number) == (LeakKind.TASK, 3)
    assert "test_resource_counts.py" in tasks.started_at
    assert [number for what, number in counts.items() if what.kind is LeakKind.THREAD and what.owner == "test"] == [1]
    assert any(what.owner == UNOWNED and "in forever" in what.started_at for what in counts)
    stray.cancel()


async def test_children_are_counted(scope: Scope) -> None:
    await start_child(scope, "sleeper-1", sys.executable, "-c", "import time; time.sleep(60)")
    found = [(what.owner, number) for what, number in count_resources(scope).items() if what.kind is LeakKind.CHILD]
    assert found == [("test/sleeper-*", 1)]


async def test_descriptors_belong_to_directories_listeners_and_addresses(scope: Scope, tmp_path: Path) -> None:
    server = RpcServer(scope, "grpc")
    port = await server.start("127.0.0.1:0")
    with (
        (tmp_path / "log").open("wb"),
        socket.socket() as listener,
        socket.create_connection(("127.0.0.1", port)),
    ):
        listener.bind(("127.0.0.1", 0))
        listener.listen(1)
        owners = {
            what.owner: number for what, number in count_resources(scope).items() if what.kind is LeakKind.DESCRIPTOR
        }
        assert owners[f"files in {tmp_path}"] == 1
        assert owners["test/grpc"] >= 1
        assert owners[f"port {listener.getsockname()[1]}"] == 1
        assert owners[f"connections to 127.0.0.1:{port}"] == 1
