"""The programs of a new cluster start in any order, and soon afterwards the cluster serves from three copies.

    scheduler, store, store, store, client      each begins within START_SPREAD_S, on machines of some speed
        └─ last one begins ─┬──── bound_s ────┐
                            writes succeed,   three voters

Nothing on the way may wait for a timer that has nothing to do with it: the next tick, the next heartbeat of a region. Where
such a wait is needed because something was lost or refused, this story sees that it is.
"""

from __future__ import annotations

import asyncio

from pytinykv.raftstore.config import RaftStoreConfig
from pytinykv.simulation.cluster import Cluster, ClusterOptions
from pytinykv.simulation.disk import DiskTiming
from pytinykv.simulation.errors import Violation
from pytinykv.simulation.network import LinkConditions
from pytinykv.simulation.nodes import Node, start_until_up
from pytinykv.simulation.scenario import scenario
from pytinykv.simulation.workloads import until_done

START_SPREAD_S = 1.0
LATENCIES_S = (0.0005, 0.01, 0.03)
SYNCS_S = (0.0003, 0.01, 0.1)


def bound_s(latency_s: float, sync_s: float) -> float:
    """Return how long the last program's start may be ago when the region has three voters.

    The longest chain has some twenty messages and, being unlucky, as many syncs of three times the mean; the constant is for
    the pauses between attempts to reach a scheduler that is not there yet.
    """
    return 0.6 + 50 * latency_s + 40 * sync_s


@scenario("boot", ClusterOptions(stores=3, starts=False, raftstore=RaftStoreConfig()), fixed=True)
async def boot(cluster: Cluster) -> None:
    """Scheduler, stores and a client start in any order: soon the region has three voters and serves."""
    rng, loop = cluster.rng, cluster.world.loop
    latency_s, sync_s = rng.choice(LATENCIES_S), rng.choice(SYNCS_S)
    limit_s = bound_s(latency_s, sync_s)
    cluster.make_unreliable(LinkConditions(latency_extra_mean_s=latency_s))
    for node in (cluster.scheduler, *cluster.stores):
        node.disk.timing = DiskTiming(work_extra_mean_s=sync_s)

    async def begin(node: Node, after_s: float) -> None:
        await asyncio.sleep(after_s)
        await start_until_up(node)

    delays_s = {node: START_SPREAD_S * rng.random() for node in (cluster.scheduler, *cluster.stores, *cluster.clients)}
    starts = [loop.create_task(begin(node, after_s), name=f"start {node.host}") for node, after_s in delays_s.items()]
    deadline = max(delays_s.values()) + limit_s
    _, late = await asyncio.wait(starts, timeout=deadline - loop.time())
    if late:
        raise Violation(
            "liveness", f"not up {limit_s:.1f} s after the last start: {[task.get_name() for task in late]}"
        )
    client = cluster.clients[0]
    session = cluster.session(client)
    left_s = deadline - loop.time()
    await client.spawn("put", until_done(lambda: session.put(b"key", b"value"), limit_s=left_s, what="the first put"))
    await cluster.wait_until(lambda: cluster.replicas() >= 3, limit_s=deadline - loop.time(), what="three voters")
    cluster.notes.append(f"{loop.time() - max(delays_s.values()):.2f} s of {limit_s:.2f} s")
    await cluster.check_converged()
