from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

from pytinykv.simulation.network import LinkConditions
from pytinykv.simulation.world import World, WorldOptions, run_world


def run(history: Callable[[World], Coroutine[Any, Any, None]], **conditions: Any) -> World:
    return run_world(1, history, WorldOptions(conditions=LinkConditions(**conditions)))[1]


def test_datagrams_arrive_late_and_overtake_each_other() -> None:
    async def history(world: World) -> None:
        got: list[bytes] = []
        source = world.new_process("a")
        for number in range(100):
            world.network.post(source, "b", b"%d" % number, got.append)
        assert got == []
        await asyncio.sleep(1)
        assert sorted(map(int, got)) == list(range(100))
        assert got != sorted(got, key=int)

    run(history)


def test_loss_and_duplication_are_counted() -> None:
    async def history(world: World) -> None:
        got: list[bytes] = []
        source = world.new_process("a")
        for number in range(1000):
            world.network.post(source, "b", b"%d" % number, got.append)
        await asyncio.sleep(1)
        counters = world.network.counters
        assert 50 < counters["lost"] < 200
        assert 50 < counters["duplicated"] < 200
        assert len(got) == 1000 - counters["lost"] + counters["duplicated"]

    run(history, loss=0.1, duplicate=0.1)


def test_a_one_way_cut_leaves_the_other_way_open_and_takes_what_is_under_way() -> None:
    async def history(world: World) -> None:
        got: list[bytes] = []
        a, b = world.new_process("a"), world.new_process("b")
        world.network.post(a, "b", b"under way", got.append)
        world.network.block("a", "b")
        world.network.post(a, "b", b"cut", got.append)
        world.network.post(b, "a", b"back", got.append)
        await asyncio.sleep(1)
        assert got == [b"back"]

    run(history)


def test_a_clogged_link_delivers_everything_once_it_is_free() -> None:
    async def history(world: World) -> None:
        got: list[bytes] = []
        source = world.new_process("a")
        world.network.clog("a", "b")
        for number in range(5):
            world.network.post(source, "b", b"%d" % number, got.append)
        await asyncio.sleep(10)
        assert got == []
        world.network.unclog("a", "b")
        await asyncio.sleep(1)
        assert sorted(got) == [b"0", b"1", b"2", b"3", b"4"]

    run(history)


def test_the_dead_send_nothing() -> None:
    async def history(world: World) -> None:
        got: list[bytes] = []
        source = world.new_process("a")
        await source.crash()
        world.network.post(source, "b", b"ghost", got.append)
        await asyncio.sleep(1)
        assert got == []

    run(history)


def test_partition_cuts_between_groups_only() -> None:
    async def history(world: World) -> None:
        got: list[tuple[str, str]] = []
        hosts = ["a", "b", "c", "d"]
        processes = {host: world.new_process(host) for host in hosts}
        world.network.partition(["a", "b"], ["c"])
        for source in hosts:
            for target in hosts:
                world.network.post(
                    processes[source],
                    target,
                    b"",
                    lambda _, link=(source, target): got.append(link),
                )
        await asyncio.sleep(1)
        missing = {(x, y) for x in hosts for y in hosts} - set(got)
        assert missing == {("a", "c"), ("b", "c"), ("c", "a"), ("c", "b")}

    run(history)
