"""Stops at every moment: a stop that begins at the n-th step of a short history, whatever is going on then.

    step 0        scheduler starts, stores start, first region, replicas, clients at work        step STEPS_MAX
                                     ▲ somewhere here: stop one, stop all, stop twice, stop and be cancelled

A seed is a step and a way to stop. Whatever it hits (a start half done, a snapshot on its way, a change of members, a
command under way), every program has to end within the bound, with nothing left.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from random import Random
from typing import Final

from pytinykv.client.errors import ClientError
from pytinykv.raftstore.config import RaftStoreConfig
from pytinykv.simulation.cluster import Cluster, ClusterOptions
from pytinykv.simulation.errors import Violation
from pytinykv.simulation.nodes import STOP_BOUND_S, Node, ProcessDied
from pytinykv.simulation.scenario import scenario
from pytinykv.simulation.side_workloads import cancel_at
from pytinykv.simulation.workloads import RegisterWorkload

STEPS_MAX = 6000
QUICK = RaftStoreConfig(region_heartbeat_s=0.2, tick_s=0.02, log_keep_entries=5, log_gc_bytes=1, log_gc_bytes_force=2)


@scenario("stop-at-step", ClusterOptions(stores=3, clients=2, raftstore=QUICK, starts=False), fixed=True)
async def stop_at_step(cluster: Cluster) -> None:
    """A short life of a cluster, in which a stop begins at some step."""
    rng = cluster.rng
    await _stop_at(cluster, rng.randrange(STEPS_MAX), rng.choice(sorted(WAYS)))


@scenario(
    "stop-at-every-step",
    ClusterOptions(stores=3, clients=2, raftstore=QUICK, starts=False),
    fixed=True,
    world_seed=lambda seed: seed // (STEPS_MAX * len(WAYS)),
)
async def stop_at_every_step(cluster: Cluster) -> None:
    """One short life, told again and again: seed n stops it at step n, in one way; the next ways from 6,000 on."""
    way, step = divmod(cluster.number % (STEPS_MAX * len(WAYS)), STEPS_MAX)
    await _stop_at(cluster, step, sorted(WAYS)[way])


async def _stop_at(cluster: Cluster, step: int, way: str) -> None:
    rng = cluster.rng
    stop = asyncio.Event()
    life = cluster.world.loop.create_task(_live(cluster, stop), name="life")
    await cluster.world.loop.at_step(step)
    cluster.notes.extend([f"step {step}", way])
    cluster.world.trace.record("stopping", step, way)
    await WAYS[way](cluster, rng)
    stop.set()
    life.cancel()
    await asyncio.wait([life])
    if not life.cancelled() and (error := life.exception()) is not None:
        raise error


async def _live(cluster: Cluster, stop: asyncio.Event) -> None:
    """Bring the cluster up and let clients work; errors of programs that were stopped meanwhile do not count."""
    try:
        await cluster.start()
    except (ProcessDied, ClientError):
        return
    workloads = [
        RegisterWorkload(cluster.session(client), cluster.world.rng_for(f"{client.host}/work"), keys=3, think_s=0.005)
        for client in cluster.clients
    ]
    work = [
        client.spawn("workload", workload.run(stop))
        for client, workload in zip(cluster.clients, workloads, strict=True)
        if client.is_up
    ]
    if work:  # all clients may have been stopped by now
        await asyncio.wait(work)


def _running(cluster: Cluster) -> list[Node]:
    return [node for node in (*cluster.clients, *cluster.stores, cluster.scheduler) if node.running]


async def _all(stops: list[asyncio.Task[None]]) -> None:
    if stops:
        await asyncio.wait(stops)
    for task in stops:
        task.result()


async def stop_one(cluster: Cluster, rng: Random) -> None:
    """Stop one program; the others go on for a while."""
    running = _running(cluster)
    if running:
        await rng.choice(running).stop()
        await asyncio.sleep(rng.random())


async def stop_everything(cluster: Cluster, rng: Random) -> None:
    """Stop all programs at the same moment."""
    running = _running(cluster)
    rng.shuffle(running)
    await _all([cluster.world.loop.create_task(_stop(node), name=f"stop {node.host}") for node in running])


async def _stop(node: Node) -> None:
    await node.stop()


async def stop_twice(cluster: Cluster, rng: Random) -> None:
    """Ask for two stops of everything, the second a little later, and cancel the caller of the first."""
    running = _running(cluster)
    first = []
    for node in running:
        assert node.process is not None
        assert node.scope is not None
        first.append(node.process.spawn("first stop", node.scope.stop()))
    await asyncio.sleep(rng.choice([0.0, 0.001, 0.1]))
    for task in first:
        task.cancel()
    await stop_everything(cluster, rng)
    for task in first:
        if not task.done():
            raise Violation("stop", f"{task.get_name()} was cancelled and goes on")


async def stop_cancelled(cluster: Cluster, rng: Random) -> None:
    """Cancel each stop at one of its awaits, and then stop for good."""
    running = _running(cluster)
    cancelled = []
    for node in running:
        assert node.process is not None
        assert node.scope is not None
        cancelled.append(node.process.spawn("cancelled stop", cancel_at(node.scope.stop(), rng.randint(1, 8))))
    await asyncio.sleep(rng.choice([0.0, 0.01, 0.5]))
    await stop_everything(cluster, rng)
    for task in cancelled:
        if not task.done():
            raise Violation("stop", f"{task.get_name()} goes on after the stop")


async def stop_cut_off(cluster: Cluster, rng: Random) -> None:
    """Stop all stores while none of them reaches another program."""
    for store in cluster.stores:
        cluster.network.partition([store.host], [host for host in cluster.all_hosts if host != store.host])
    started = cluster.world.loop.time()
    await stop_everything(cluster, rng)
    if cluster.world.loop.time() - started > STOP_BOUND_S:
        raise Violation("stop", "everything together took longer than each may")
    cluster.heal()


WAYS: Final[dict[str, Callable[[Cluster, Random], Awaitable[None]]]] = {
    "cancelled": stop_cancelled,
    "cut off": stop_cut_off,
    "everything": stop_everything,
    "one": stop_one,
    "twice": stop_twice,
}
