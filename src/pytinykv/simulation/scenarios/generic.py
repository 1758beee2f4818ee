"""The general story of TinyKV's `test_raftstore`: clients put, scan and delete through rounds of trouble.

    round:   clients work │ trouble begins ─── ends │ heal │ clients finish │ restart? │ check, delete │ log is short?

What may be on: a bad network, random partitions of the stores, all stores restarted at the end of each round, a short log
that makes stragglers take snapshots. Two clients more than TinyKV has quarrel over a few keys, so that there is something
to find for the search for linearizability.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from dataclasses import replace
from typing import Any

import msgspec

from pytinykv.raftstore.config import RaftStoreConfig
from pytinykv.simulation.cluster import Cluster, ClusterOptions
from pytinykv.simulation.errors import Violation
from pytinykv.simulation.faults import UNRELIABLE, random_partitions
from pytinykv.simulation.nemeses.members import member_changes
from pytinykv.simulation.observers import gaps, newest_regions
from pytinykv.simulation.scenario import Story, scenario
from pytinykv.simulation.scenarios.single import log_lengths
from pytinykv.simulation.workloads import AppendWorkload, RegisterWorkload, Session, until_done

RIVALS = 2
OPERATIONS_PER_S = 80
"""Of all clients together, as long as nothing goes wrong: enough to disturb each other, few enough to be quick."""
RIVAL_KEYS = 4
LOG_KEEP = 20
REGION_MAX_BYTES = 2000
REGION_SPLIT_BYTES = 1200
"""Where regions are small: some forty pairs."""
SHORT_LOG = RaftStoreConfig(region_heartbeat_s=1.0, log_keep_entries=LOG_KEEP, log_gc_bytes=1, log_gc_bytes_force=2)


class GenericStory(msgspec.Struct, frozen=True, kw_only=True):
    """What is on in one variant of the story."""

    clients: int = 1
    unreliable: bool = False
    crash: bool = False
    partitions: bool = False
    short_log: bool = False
    splits: bool = False
    """Whether regions are so small that they split all the time."""
    member_changes: bool = False
    rounds: int = 2
    round_s: float = 5.0

    async def tell(self, cluster: Cluster) -> None:
        """Run all rounds."""
        appenders = [
            AppendWorkload(
                cluster.session(client),
                cluster.world.rng_for(f"{client.host}/workload"),
                think_s=cluster.options.think_s,
                success_within_s=cluster.options.success_within_s,
            )
            for client in cluster.clients[: self.clients]
        ]
        rivals = [
            RegisterWorkload(
                cluster.session(client),
                cluster.world.rng_for(f"{client.host}/workload"),
                keys=RIVAL_KEYS,
                think_s=cluster.options.think_s,
            )
            for client in cluster.clients[self.clients :]
        ]
        for _ in range(self.rounds):
            await self._round(cluster, appenders, rivals)
        if self.splits:
            client = cluster.clients[0]
            await finish([client.spawn("fill", _fill(cluster, cluster.session(client)))])
            await check_split(cluster)

    async def _round(self, cluster: Cluster, appenders: list[AppendWorkload], rivals: list[RegisterWorkload]) -> None:
        stop = asyncio.Event()
        workloads: list[AppendWorkload | RegisterWorkload] = [*appenders, *rivals]
        work = [
            client.spawn("workload", workload.run(stop))
            for client, workload in zip(cluster.clients, workloads, strict=True)
        ]
        await asyncio.sleep(0.3)
        trouble = self._start_trouble(cluster, stop)
        await asyncio.sleep(self.round_s * cluster.options.length)
        stop.set()
        await finish(trouble)
        cluster.heal()
        await finish(work)
        if self.crash:
            await cluster.restart_all_stores(gracefully=cluster.rng.random() < 0.5, pause_s=1.0)
        await finish(
            [
                client.spawn("clean-up", appender.clean_up())
                for client, appender in zip(cluster.clients, appenders, strict=False)
            ]
        )
        if self.short_log:
            await cluster.wait_until(
                lambda: all(length <= 2 * LOG_KEEP for length in log_lengths(cluster)),
                limit_s=10.0,
                what=f"logs within {2 * LOG_KEEP} entries",
            )

    def _start_trouble(self, cluster: Cluster, stop: asyncio.Event) -> list[asyncio.Task[None]]:
        if self.unreliable:
            cluster.make_unreliable(UNRELIABLE)
        trouble: list[Coroutine[Any, Any, None]] = []
        if self.partitions:
            config = cluster.options.raftstore
            every_s = config.tick_s * config.election_ticks
            trouble.append(random_partitions(cluster.network, cluster.store_hosts, cluster.rng, stop, every_s=every_s))
        if self.member_changes:
            trouble.append(member_changes(cluster, cluster.world.rng_for("member changes"), stop))
        return [cluster.world.loop.create_task(one, name="trouble") for one in trouble]


async def _fill(cluster: Cluster, session: Session) -> None:
    """Put until a region is split, for rounds with so much trouble that few pairs were."""
    for number in range(4 * REGION_MAX_BYTES // 50):
        if len(newest_regions(cluster.engines())) > 1:
            return
        key = b"fill %04d" % number
        await until_done(lambda key=key: session.put(key, bytes(50)), limit_s=20.0, what=f"put {key!r}")  # type: ignore[misc]  # the name is bound as a default
        await asyncio.sleep(0.01)


async def check_split(cluster: Cluster) -> None:
    """Raise `Violation` unless there are several regions, and soon all stores have the same ones."""
    if len(newest_regions(cluster.engines())) < 2:
        raise Violation("story", "no region was split")
    await cluster.wait_until(
        lambda: not gaps(newest_regions(cluster.engines())),
        limit_s=40.0,
        what="regions that cover all keys and share none",
    )


async def finish(tasks: list[asyncio.Task[Any]]) -> None:
    """Wait for tasks; raise what the first of them raised, and leave none behind."""
    if not tasks:
        return
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_EXCEPTION)
        for task in tasks:
            if task.done():
                if task.cancelled():
                    raise Violation("process", f"{task.get_name()} was cancelled")
                task.result()
    finally:
        for task in tasks:
            task.cancel()


def register(name: str, summary: str, story: GenericStory) -> None:
    """Put a variant into the registry."""

    def tell(cluster: Cluster) -> Coroutine[Any, Any, None]:
        return story.tell(cluster)

    tell.__doc__ = summary
    clients = story.clients + RIVALS
    raftstore = SHORT_LOG if story.short_log else RaftStoreConfig(region_heartbeat_s=1.0)
    if story.splits:
        raftstore = replace(raftstore, region_max_bytes=REGION_MAX_BYTES, region_split_bytes=REGION_SPLIT_BYTES)
    options = ClusterOptions(
        clients=clients,
        think_s=clients / OPERATIONS_PER_S,
        raftstore=raftstore,
    )
    typed: Story = tell
    scenario(name, options)(typed)


register("basic", "One client, nothing goes wrong.", GenericStory())
register("concurrent", "Many clients, nothing goes wrong.", GenericStory(clients=5))
register("unreliable", "Many clients on a bad network.", GenericStory(clients=5, unreliable=True))
register("many-partitions-one-client", "Partitions come and go under one client.", GenericStory(partitions=True))
register(
    "many-partitions-many-clients",
    "Partitions come and go under many clients.",
    GenericStory(clients=5, partitions=True),
)
register("persist-one-client", "All stores restart between the rounds of one client.", GenericStory(crash=True))
register("persist-concurrent", "All stores restart between the rounds.", GenericStory(clients=5, crash=True))
register(
    "persist-concurrent-unreliable",
    "A bad network, and all stores restart between the rounds.",
    GenericStory(clients=5, unreliable=True, crash=True),
)
register(
    "persist-partition",
    "Partitions, and all stores restart between the rounds.",
    GenericStory(clients=5, crash=True, partitions=True),
)
register(
    "persist-partition-unreliable",
    "A bad network, partitions, and all stores restart between the rounds.",
    GenericStory(clients=5, unreliable=True, crash=True, partitions=True),
)
register(
    "snapshot-recover", "A short log; all stores restart between the rounds.", GenericStory(crash=True, short_log=True)
)
register(
    "snapshot-recover-many-clients",
    "A short log under twenty clients; all stores restart between the rounds.",
    GenericStory(clients=20, crash=True, short_log=True),
)
register(
    "snapshot-unreliable",
    "A short log under many clients on a bad network.",
    GenericStory(clients=5, unreliable=True, short_log=True),
)
register(
    "snapshot-unreliable-recover",
    "A short log, a bad network, and all stores restart between the rounds.",
    GenericStory(clients=5, unreliable=True, crash=True, short_log=True),
)
register(
    "snapshot-unreliable-recover-concurrent-partition",
    "A short log, a bad network, partitions, and all stores restart between the rounds.",
    GenericStory(clients=5, unreliable=True, crash=True, partitions=True, short_log=True),
)
