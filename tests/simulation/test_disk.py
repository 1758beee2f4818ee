from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from random import Random
from typing import Any

from pytinykv.simulation.disk import SimDisk, SimEngine, SimWorker
from pytinykv.simulation.process import Process
from pytinykv.simulation.world import World, run_world
from pytinykv.storage import ColumnFamily, DiskFullError

CF = ColumnFamily.RAW


def write(engine: SimEngine, key: bytes) -> None:
    batch = engine.write_batch()
    batch.put(CF, key, b"v")
    engine.write(batch)


def opened(world: World, disk: SimDisk) -> tuple[Process, SimEngine, SimWorker]:
    process = world.new_process("s1")
    engine = disk.open(process)
    return process, engine, SimWorker(process, disk, engine)


def run(history: Callable[[World], Coroutine[Any, Any, None]]) -> None:
    run_world(1, history)


def test_what_was_synced_survives_and_the_rest_is_lost_from_the_end() -> None:
    async def history(world: World) -> None:
        kept = set()
        for seed in range(30):
            disk = SimDisk(Random(seed))
            process, engine, worker = opened(world, disk)
            write(engine, b"synced")
            done: list[object] = []
            worker.submit(engine.sync, done.append)
            await asyncio.sleep(1)
            assert done == [None]
            for number in range(5):
                write(engine, b"%d" % number)
            await process.crash()
            process, engine, _ = opened(world, disk)
            keys = [key for key, _ in engine.scan(CF, b"", None)]
            assert keys == [b"%d" % number for number in range(len(keys) - 1)] + [b"synced"]
            kept.add(len(keys))
            process.exit()
        assert kept == {1, 2, 3, 4, 5, 6}

    run(history)


def test_a_sync_covers_what_was_written_before_it_began() -> None:
    async def history(world: World) -> None:
        process, engine, worker = opened(world, SimDisk(Random(1)))
        write(engine, b"before")
        worker.submit(engine.sync, lambda _: None)
        write(engine, b"after")
        assert engine.unsynced_batches == 2
        await asyncio.sleep(1)
        assert engine.unsynced_batches == 1
        process.exit()

    run(history)


def test_after_a_crash_during_a_sync_no_callback_runs() -> None:
    async def history(world: World) -> None:
        process, engine, worker = opened(world, SimDisk(Random(1)))
        write(engine, b"k")
        done: list[object] = []
        worker.submit(engine.sync, done.append)
        await process.crash()
        await asyncio.sleep(1)
        assert done == []

    run(history)


def test_work_is_done_in_order_and_its_errors_are_handed_over() -> None:
    async def history(world: World) -> None:
        process, engine, worker = opened(world, SimDisk(Random(1)))
        results: list[object] = []
        for number in range(5):
            worker.submit(lambda number=number: number, results.append)
        engine.faults.sync_error = DiskFullError("full")
        worker.submit(engine.sync, results.append)
        await asyncio.sleep(1)
        assert results[:5] == [0, 1, 2, 3, 4]
        assert isinstance(results[5], DiskFullError)
        process.exit()

    run(history)


def test_a_clean_close_loses_nothing() -> None:
    async def history(world: World) -> None:
        disk = SimDisk(Random(1))
        process, engine, _ = opened(world, disk)
        write(engine, b"k")
        engine.close()
        process.exit()
        process, engine, _ = opened(world, disk)
        assert engine.get(CF, b"k") == b"v"
        process.exit()
        assert disk.batches_lost == 0

    run(history)
