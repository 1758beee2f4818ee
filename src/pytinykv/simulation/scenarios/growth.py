"""Growing from one store to three: a store that joins must not cost the region anything, whatever becomes of it.

A newcomer has no data. While it waits for its snapshot it is a learner, so the voters that are there go on without it, be it
slow, cut off or dead. A writer keeps watch: no write may take longer than `WRITE_S_MAX`.

One case is not the newcomer's fault. From one voter to three there is no way around two (one member a change), and two
voters bear no loss. That moment is short where two stores join together, and long where one joins alone. If a story takes
down one of two voters that has its data, it puts up with the stall, brings the store back at once, and says so in its notes.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from random import Random

from pytinykv.model import PeerRole, Region
from pytinykv.raft import InstallSnapshot
from pytinykv.raftstore.config import RaftStoreConfig
from pytinykv.raftstore.records import RaftEnvelope
from pytinykv.scheduler.config import SchedulerConfig
from pytinykv.simulation.cluster import Cluster, ClusterOptions
from pytinykv.simulation.errors import Violation
from pytinykv.simulation.nodes import start_until_up
from pytinykv.simulation.observers import applied_indexes, regions_on
from pytinykv.simulation.scenario import scenario
from pytinykv.simulation.store_node import StoreNode
from pytinykv.simulation.workloads import Session, until_done

WRITE_S_MAX = 3.0
"""Longer than an election; far shorter than the faults."""
GROWTH_BOUND_S = 40.0
MESSAGES_MAX = 40
"""Faults strike within the first so many messages to the store that joins: creation, snapshot, promotion."""
FAULT_S = 8.0
THINK_S = 0.02
OPTIONS = ClusterOptions(
    stores=3,
    starts=False,
    raftstore=RaftStoreConfig(region_heartbeat_s=1.0),
    scheduler=SchedulerConfig(store_disconnect_time_s=4.0),
    attempt_timeout_s=0.5,
)


@scenario("growth", OPTIONS, fixed=True)
async def growth(cluster: Cluster) -> None:
    """One store becomes three under load, while a store that joins dies or is cut off at some moment."""
    async with _Watch(cluster):
        joiners = cluster.stores[1:]
        for store in joiners:
            cluster.in_background(store.start())
        for victim in cluster.rng.choices(joiners, k=2):
            await _strike(cluster, victim, cluster.rng)
        await cluster.heal_programs()
        await _wait_for_voters(cluster, 3)


@scenario("joiner-dies", OPTIONS, fixed=True)
async def joiner_dies(cluster: Cluster) -> None:
    """The only store that joins dies when its snapshot comes, for good; the region serves, and grows with the next one."""
    async with _Watch(cluster):
        joiner, next_one = cluster.stores[1:]
        struck = asyncio.Event()

        def strike(envelope: RaftEnvelope) -> None:
            if isinstance(envelope.message, InstallSnapshot):
                struck.set()

        cluster.message_hooks.append(strike)
        await joiner.start()
        await _within(struck.wait(), "a snapshot for the store that joins")
        cluster.message_hooks.remove(strike)
        await joiner.crash()
        await asyncio.sleep(3 * WRITE_S_MAX)
        await next_one.start()
        await _wait_for_voters(cluster, 2)
        await joiner.start()
        await _wait_for_voters(cluster, 3)


class _Watch:
    """Brings up scheduler, first store and client, and writes all the time; every write must succeed within `WRITE_S_MAX`."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._stop = asyncio.Event()
        """Set at the end of the story: the writer ends after its current write."""

    async def __aenter__(self) -> None:
        cluster = self._cluster
        client = cluster.clients[0]
        for node in (cluster.scheduler, cluster.stores[0], client):
            await node.start()
        await cluster.wait_for_leader()
        self._writer = client.spawn("writer", self._write(cluster.session(client)))

    async def _write(self, session: Session) -> None:
        number = 0
        while not self._stop.is_set():
            key, value = b"key %d" % (number % 100), b"%d" % number
            try:
                await until_done(lambda k=key, v=value: session.put(k, v), limit_s=WRITE_S_MAX, what="a write")  # type: ignore[misc]  # both names are bound as defaults
            except Violation as violation:
                self._cluster.world.loop.abort(Violation("availability", str(violation)))
                return
            number += 1
            await asyncio.sleep(THINK_S)

    async def __aexit__(self, *exception: object) -> None:
        self._stop.set()
        await asyncio.wait([self._writer])
        if exception[0] is None:
            self._writer.result()
            await self._cluster.check_converged()


async def _strike(cluster: Cluster, victim: StoreNode, rng: Random) -> None:
    """Wait for some message to the victim (or for some time), then take it down for a while."""
    left, reached = [rng.randint(1, MESSAGES_MAX)], asyncio.Event()

    def count(envelope: RaftEnvelope) -> None:
        if cluster.host_of_store(envelope.receiver.store_id) == victim.host:
            left[0] -= 1
            if left[0] <= 0:
                reached.set()

    cluster.message_hooks.append(count)
    try:
        async with asyncio.timeout(1.0 + rng.random()):
            await reached.wait()
    except TimeoutError:
        pass
    cluster.message_hooks.remove(count)
    way = rng.choice(["dies", "is cut off from stores", "is cut off"])
    cluster.notes.append(f"{victim.host} {way} {_role_of(cluster, victim)}")
    if way == "dies":
        await victim.crash()
    else:
        others = ["store-1", "store-2", "store-3"] if way.endswith("stores") else [*cluster.store_hosts, "scheduler"]
        cluster.network.partition([victim.host], [host for host in others if host != victim.host])
    await _sit_it_out(cluster, victim, FAULT_S * rng.random())
    cluster.network.heal()
    await start_until_up(victim)


async def _sit_it_out(cluster: Cluster, victim: StoreNode, seconds: float) -> None:
    """Wait, but not while the region needs the victim and the victim has what it needs."""
    deadline = cluster.world.loop.time() + seconds
    while cluster.world.loop.time() < deadline:
        if _is_one_of_two_voters(cluster, victim) and _has_data(victim):
            cluster.notes.append(f"{victim.host} was one of two voters")
            return
        await asyncio.sleep(0.05)


def _first_region(cluster: Cluster) -> Region | None:
    """Return the region in its newest epoch on any disk."""
    regions = [region for _, engine in cluster.engines() for region in regions_on(engine)]
    return max(regions, key=lambda region: (region.epoch.version, region.epoch.conf_ver), default=None)


def _role_of(cluster: Cluster, victim: StoreNode) -> str:
    region = _first_region(cluster)
    for peer in () if region is None else region.peers:
        if cluster.host_of_store(peer.store_id) == victim.host:
            return f"as a {peer.role.name.lower()}"
    return "before it is a member"


def _is_one_of_two_voters(cluster: Cluster, victim: StoreNode) -> bool:
    region = _first_region(cluster)
    voters = [] if region is None else [peer for peer in region.peers if peer.role is PeerRole.VOTER]
    return len(voters) == 2 and victim.host in [cluster.host_of_store(peer.store_id) for peer in voters]


def _has_data(victim: StoreNode) -> bool:
    engine = victim.disk.peek()
    regions = [] if engine is None else regions_on(engine)
    return any(engine is not None and applied_indexes(engine, region.id) is not None for region in regions)


async def _wait_for_voters(cluster: Cluster, count: int) -> None:
    def is_whole() -> bool:
        region = _first_region(cluster)
        return region is not None and len(region.voters) == count

    await cluster.wait_until(is_whole, limit_s=GROWTH_BOUND_S, what=f"{count} voters")


async def _within(waiting: Awaitable[object], what: str) -> None:
    try:
        async with asyncio.timeout(GROWTH_BOUND_S):
            await waiting
    except TimeoutError:
        raise Violation("liveness", f"not within {GROWTH_BOUND_S} s: {what}") from None
