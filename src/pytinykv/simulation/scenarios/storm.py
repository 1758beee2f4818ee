"""Swarm testing: each seed draws which faults are on, and settings small enough to make rare paths common.

A run with everything on at once hides as much as it shows (the crash that would have needed a quiet minute never gets
it), so each seed takes a part of the faults (Groce et al., "Swarm testing", 2012).
"""

from __future__ import annotations

import asyncio
from random import Random

from pytinykv.raftstore.config import RaftStoreConfig
from pytinykv.simulation.cluster import Cluster, ClusterOptions
from pytinykv.simulation.disk import DiskTiming
from pytinykv.simulation.faults import UNRELIABLE
from pytinykv.simulation.nemesis import NEMESES
from pytinykv.simulation.scenario import scenario
from pytinykv.simulation.scenarios.generic import finish
from pytinykv.simulation.workloads import AppendWorkload, RegisterWorkload

__all__ = ["disks", "elections", "power_cuts", "split_brain", "storm"]

STORM_S = 10.0
APPENDERS = 2
CLIENTS = 6
CALM = RaftStoreConfig(region_heartbeat_s=1.0)
SHORT_LOG = RaftStoreConfig(region_heartbeat_s=1.0, log_keep_entries=5, log_gc_bytes=1, log_gc_bytes_force=2)
NERVOUS = RaftStoreConfig(region_heartbeat_s=1.0, tick_s=0.03)
CLOCK_RATE_ERROR_MAX = 0.02
"""Well within `RaftStoreConfig.clock_drift_max`, which both ends of a lease share."""


def draw_options(rng: Random) -> ClusterOptions:
    """Draw the shape of a cluster."""
    short = rng.random() < 0.5
    raftstore = RaftStoreConfig(
        region_heartbeat_s=1.0,
        lease_reads=rng.random() < 0.8,
        append_bytes_max=rng.choice([200, 1 << 20]),
        inflight_appends_max=rng.choice([1, 4, 64]),
        log_cache_bytes=rng.choice([0, 500, 4 << 20]),
        log_keep_entries=rng.choice([5, 20, 64]) if short else 64,
        log_gc_bytes=1 if short else 8 << 20,
        log_gc_bytes_force=2 if short else 64 << 20,
        undetermined_after_s=rng.choice([1.0, 10.0]),
        leader_missing_s=3.0,
    )
    return ClusterOptions(
        stores=rng.choice([3, 5, 5]),
        clients=CLIENTS,
        raftstore=raftstore,
        think_s=rng.choice([0.02, 0.05, 0.1]),
        attempt_timeout_s=rng.choice([0.3, 1.0, 2.0]),
        patience_s=120.0,
    )


@scenario("storm", draw_options)
async def storm(cluster: Cluster) -> None:
    """A random part of all faults, with random settings; then everything has to come to rest."""
    rng = cluster.rng
    if rng.random() < 0.4:
        cluster.make_unreliable(UNRELIABLE)
    set_up_machines(cluster, rng)
    await weather(cluster, sorted(rng.sample(sorted(NEMESES), rng.randint(1, 4))))


@scenario("split-brain", ClusterOptions(clients=CLIENTS, raftstore=CALM, think_s=0.02, attempt_timeout_s=0.3))
async def split_brain(cluster: Cluster) -> None:
    """The leader is left alone with some of the clients, again and again."""
    await weather(cluster, ["split brains"])


@scenario(
    "elections", ClusterOptions(clients=3, raftstore=NERVOUS, think_s=0.1, attempt_timeout_s=0.3, patience_s=120.0)
)
async def elections(cluster: Cluster) -> None:
    """Elections that meet each other on slow links, while voters die."""
    await weather(cluster, ["deaths of voters", "leader stalls", "slow links"])


@scenario("disks", ClusterOptions(stores=3, clients=4, raftstore=SHORT_LOG, think_s=0.05, patience_s=120.0))
async def disks(cluster: Cluster) -> None:
    """Disks fail in every way while stores die: who meets that ends in time, saying so, and nothing acknowledged is lost."""
    kinds = ["failing writes", "failing syncs", "full disks", "corrupted reads", "slow disks"]
    await weather(cluster, [*sorted(cluster.rng.sample(kinds, 2)), "crashes"])


@scenario("power-cuts", ClusterOptions(stores=5, clients=4, raftstore=SHORT_LOG, think_s=0.05, patience_s=120.0))
async def power_cuts(cluster: Cluster) -> None:
    """Stores die between two steps on their disks, in the middle of turns and of snapshots, on bad links."""
    await weather(cluster, ["link trouble", "power cuts"])


async def weather(cluster: Cluster, chosen: list[str]) -> None:
    """Let clients work under the chosen nemeses, heal, and check."""
    cluster.world.trace.record("nemeses", *chosen)
    cluster.notes.extend(chosen)
    stop_clients, stop_trouble = asyncio.Event(), asyncio.Event()
    appenders, work = start_clients(cluster, stop_clients)
    trouble = [
        cluster.world.loop.create_task(_run(cluster, name, stop_trouble), name=f"nemesis:{name}") for name in chosen
    ]
    await asyncio.sleep(STORM_S)
    stop_trouble.set()
    await finish(trouble)
    cluster.heal()
    await cluster.heal_programs()
    stop_clients.set()
    await finish(work)
    await finish(
        [
            client.spawn("clean-up", appender.clean_up())
            for client, appender in zip(cluster.clients, appenders, strict=False)
        ]
    )


async def _run(cluster: Cluster, name: str, stop: asyncio.Event) -> None:
    await NEMESES[name](cluster, cluster.world.rng_for(f"nemesis/{name}"), stop)


def set_up_machines(cluster: Cluster, rng: Random) -> None:
    """Give machines clocks that run wrong, within the bound, and slow disks."""
    for store in cluster.stores:
        if rng.random() < 0.5:
            store.clock.set_rate(1 + CLOCK_RATE_ERROR_MAX * (2 * rng.random() - 1))
        if rng.random() < 0.3:
            store.disk.timing = DiskTiming(work_extra_mean_s=0.01, stall=0.05)


def start_clients(cluster: Cluster, stop: asyncio.Event) -> tuple[list[AppendWorkload], list[asyncio.Task[None]]]:
    """Start all clients' work; return the appenders, who have something to check later, and the tasks."""
    options = cluster.options
    appenders: list[AppendWorkload] = []
    work: list[asyncio.Task[None]] = []
    for number, client in enumerate(cluster.clients):
        rng = cluster.world.rng_for(f"{client.host}/workload")
        session = cluster.session(client)
        if number < APPENDERS:
            appender = AppendWorkload(session, rng, think_s=options.think_s, patience_s=options.patience_s)
            appenders.append(appender)
            work.append(client.spawn("workload", appender.run(stop)))
        else:
            rival = RegisterWorkload(session, rng, keys=3, think_s=options.think_s)
            work.append(client.spawn("workload", rival.run(stop)))
    return appenders, work
