"""Fault makers for whole programs: kill, stop, hold and restart them."""

from __future__ import annotations

import asyncio
from random import Random
from typing import TYPE_CHECKING

from pytinykv.simulation.faults import pause
from pytinykv.simulation.nodes import Node, ProcessDied, start_until_up

if TYPE_CHECKING:
    from pytinykv.simulation.cluster import Cluster
    from pytinykv.simulation.process import Process


async def _stopped(node: Node) -> bool:
    """Stop a program in good order; return False if none is up, or if it was killed meanwhile."""
    if not node.is_up:
        return False
    try:
        await node.stop()
    except ProcessDied:
        return False
    return True


async def _hold(cluster: Cluster, process: Process, duration_s: float, stop: asyncio.Event) -> None:
    """Let nothing of a program run for some seconds, or until `stop`."""
    cluster.world.trace.record("stall", process.host)
    process.stall()
    await pause(stop, duration_s)
    cluster.world.trace.record("resume", process.host)
    process.resume()


async def crashes(cluster: Cluster, rng: Random, stop: asyncio.Event) -> None:
    """Kill one store after the other, now and then all at once; some die again while they start."""
    while not stop.is_set():
        await pause(stop, 3.0 * rng.random())
        victims = cluster.stores if rng.random() < 0.1 else [rng.choice(cluster.stores)]
        for victim in victims:
            await victim.crash()
        await pause(stop, 2.0 * rng.random())
        for victim in victims:
            if rng.random() < 0.2:
                cluster.world.loop.call_later(0.02 * rng.random(), cluster.in_background, victim.crash())
            await start_until_up(victim)
    for store in cluster.stores:
        if not store.running:
            await start_until_up(store)


async def restarts(cluster: Cluster, rng: Random, stop: asyncio.Event) -> None:
    """Stop stores in good order, in the middle of everything, and start them again."""
    while not stop.is_set():
        await pause(stop, 4.0 * rng.random())
        victim = rng.choice(cluster.stores)
        if not await _stopped(victim):
            continue
        await pause(stop, rng.random())
        await start_until_up(victim)


async def rolling_restarts(cluster: Cluster, rng: Random, stop: asyncio.Event) -> None:
    """Stop one program after the other in good order, the scheduler too, and start each before the next."""
    while not stop.is_set():
        nodes: list[Node] = [cluster.scheduler, *cluster.stores]
        rng.shuffle(nodes)
        for node in nodes:
            if not stop.is_set() and node.is_up:
                await _stopped(node)
                if node is cluster.scheduler and rng.random() < 0.5:
                    cluster.world.trace.record("clock", node.host, -3000)
                    node.clock.step_wall(-3000)
                await pause(stop, rng.choice([0.0, 0.3]) * rng.random())
                await start_until_up(node)
            await pause(stop, rng.choice([0.0, 1.0]) * rng.random())


async def moved_stores(cluster: Cluster, rng: Random, stop: asyncio.Event) -> None:
    """Stop stores and start them at another address, with their data."""
    while not stop.is_set():
        await pause(stop, 2.0 * rng.random())
        victim = rng.choice(cluster.stores)
        if not await _stopped(victim):
            continue
        victim.move()
        await start_until_up(victim)


async def scheduler_stalls(cluster: Cluster, rng: Random, stop: asyncio.Event) -> None:
    """Hold the scheduler for a while; what it was asked meanwhile it does afterwards, for callers that have gone."""
    while not stop.is_set():
        await pause(stop, 2.0 * rng.random())
        process = cluster.scheduler.process
        if process is not None:
            await _hold(cluster, process, rng.choice([0.5, 5.0]) * rng.random(), stop)


async def blackouts(cluster: Cluster, rng: Random, stop: asyncio.Event) -> None:
    """Take the power from all stores at one moment, in the middle of everything."""
    while not stop.is_set():
        await pause(stop, 2.0 * rng.random())
        for store in cluster.stores:
            await store.crash()
        await pause(stop, 0.2 * rng.random())
        for store in cluster.stores:
            await start_until_up(store)


async def power_cuts(cluster: Cluster, rng: Random, stop: asyncio.Event) -> None:
    """Kill stores in the middle of a turn: between two writes, before a sync, between the files of a snapshot."""
    while not stop.is_set():
        victim = rng.choice(cluster.stores)
        victim.cut_power_after(rng.choice([1, 2, rng.randrange(1, 50)]))
        await pause(stop, 1.0 + rng.random())
        victim.disk.power_cut = None
        await victim.wait_ended()
        if not victim.running and rng.random() < 0.3:
            victim.cut_power_after(rng.randrange(1, 6))
        await start_until_up(victim)


async def cuts_within_turns(cluster: Cluster, rng: Random, stop: asyncio.Event) -> None:
    """Kill stores between two writes of one turn, as between two entries of one run that are applied."""
    while not stop.is_set():
        victim = rng.choice(cluster.stores)
        victim.cut_power_after(rng.randint(1, 5), within_turns=True)
        await pause(stop, 0.5 * rng.random())
        victim.disk.power_cut = None
        await victim.wait_ended()
        await start_until_up(victim)


async def stalls(cluster: Cluster, rng: Random, stop: asyncio.Event) -> None:
    """Hold single stores for a while, as SIGSTOP or a swapping machine does."""
    while not stop.is_set():
        await pause(stop, 3.0 * rng.random())
        process = rng.choice(cluster.stores).process
        if process is not None:
            await _hold(cluster, process, 3.0 * rng.random(), stop)


async def leader_stalls(cluster: Cluster, rng: Random, stop: asyncio.Event) -> None:
    """Hold the leader until another store must have taken over."""
    config = cluster.options.raftstore
    election_s = config.tick_s * config.election_ticks
    while not stop.is_set():
        await pause(stop, election_s * rng.random())
        leader = cluster.draw_leader(rng)
        process = None if leader is None else leader.process
        if process is not None:
            await _hold(cluster, process, election_s * (1 + 2 * rng.random()), stop)


async def scheduler_outages(cluster: Cluster, rng: Random, stop: asyncio.Event) -> None:
    """Kill the scheduler and leave the cluster without one for seconds."""
    while not stop.is_set():
        await pause(stop, 4.0 * rng.random())
        await cluster.scheduler.crash()
        if rng.random() < 0.5:
            by_ms = rng.choice([-60_000, -3000, 3000])
            cluster.world.trace.record("clock", "scheduler", by_ms)
            cluster.scheduler.clock.step_wall(by_ms)
        await pause(stop, 4.0 * rng.random())
        await start_until_up(cluster.scheduler)
