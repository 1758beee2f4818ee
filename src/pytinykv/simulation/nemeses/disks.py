"""Fault makers for disks: writes, syncs and reads that fail, no room, no speed; and the check that programs end over it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from random import Random
from typing import TYPE_CHECKING, Any, Final

from pytinykv.simulation.disk import DiskTiming, SimDisk
from pytinykv.simulation.errors import Violation
from pytinykv.simulation.faults import pause
from pytinykv.simulation.nodes import STOP_BOUND_S, Node, start_until_up
from pytinykv.storage import EngineError, Faults

if TYPE_CHECKING:
    from pytinykv.simulation.cluster import Cluster

FAILURE_STOP_BOUND_S: Final = STOP_BOUND_S + 2.0
"""Virtual seconds within which a program whose disk has failed is gone."""


async def failing_writes(cluster: Cluster, rng: Random, stop: asyncio.Event) -> None:
    """Let writes of a store's disk, or the scheduler's, fail."""
    await _hurt_disks(cluster, rng, stop, lambda _disk: {"faults": Faults(write_error=EngineError("I/O error"))})


async def failing_syncs(cluster: Cluster, rng: Random, stop: asyncio.Event) -> None:
    """Let syncs of a disk fail: what they should have covered is lost."""
    await _hurt_disks(cluster, rng, stop, lambda _disk: {"faults": Faults(sync_error=EngineError("fsync: I/O error"))})


async def full_disks(cluster: Cluster, rng: Random, stop: asyncio.Event) -> None:
    """Let disks run full."""

    def fill(disk: SimDisk) -> dict[str, Any]:
        return {"faults": Faults(capacity_bytes=disk.used_bytes + rng.randrange(5000))}

    await _hurt_disks(cluster, rng, stop, fill)


async def corrupted_reads(cluster: Cluster, rng: Random, stop: asyncio.Event) -> None:
    """Let reads of a disk find damage, some or all of them."""
    await _hurt_disks(cluster, rng, stop, lambda _disk: {"bad_reads": rng.choice([0.01, 0.1, 1.0])})


async def slow_disks(cluster: Cluster, rng: Random, stop: asyncio.Event) -> None:
    """Let disks take long for everything, or stall for seconds, and then be quick again."""
    before = {node.host: node.disk.timing for node in cluster.stores}
    while not stop.is_set():
        victims = rng.sample(cluster.stores, rng.randint(1, len(cluster.stores)))
        for victim in victims:
            cluster.world.trace.record("slows", victim.host)
            victim.disk.timing = DiskTiming(work_min_s=rng.choice([0.05, 0.3, 2.0]), stall=0.1, stall_max_s=3.0)
        await pause(stop, 3.0 * rng.random())
        for victim in victims:
            victim.disk.timing = before[victim.host]
        await pause(stop, 2.0 * rng.random())


async def _hurt_disks(
    cluster: Cluster, rng: Random, stop: asyncio.Event, fault: Callable[[SimDisk], dict[str, Any]]
) -> None:
    """Hurt one disk after the other, watch that a store whose write failed ends, repair, start again."""
    while not stop.is_set():
        await pause(stop, 3.0 * rng.random())
        victim = cluster.scheduler if rng.random() < 0.2 else rng.choice(cluster.stores)
        cluster.world.trace.record("hurts", victim.host)
        victim.disk.hurt_by(**fault(victim.disk))
        await pause(stop, 4.0 * rng.random())
        await _expect_end(cluster, victim)
        victim.disk.repair()
        await victim.wait_ended()
        await start_until_up(victim)


async def _expect_end(cluster: Cluster, victim: Node) -> None:
    """A program whose disk has refused a write or a sync ends within the bound. Raises `Violation`."""
    process, engine = victim.process, victim.disk.peek()
    if process is None or engine is None or engine.failure is None:
        return
    deadline = cluster.world.loop.time() + FAILURE_STOP_BOUND_S
    while process.alive:
        if cluster.world.loop.time() > deadline and not process.stalled:
            raise Violation("disk failure", f"{process} goes on {FAILURE_STOP_BOUND_S} s after: {engine.failure}")
        await asyncio.sleep(0.1)
