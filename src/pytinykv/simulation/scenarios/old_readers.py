"""Garbage is collected under readers of old snapshots and a transaction that runs for long.

writer     a counter after the other, each commit a new version of every key
readers    look at moments of the past: they see what was there then, or are told that it is too old
runner     a pessimistic transaction that lasts longer than versions live: it sees its snapshot, and commits
"""

from __future__ import annotations

import asyncio
from bisect import bisect_right
from random import Random
from typing import TYPE_CHECKING, Final

from pytinykv.client.errors import ClientError, SnapshotTooOldError
from pytinykv.scheduler.config import SchedulerConfig
from pytinykv.simulation.cluster import Cluster, ClusterOptions
from pytinykv.simulation.errors import Violation
from pytinykv.simulation.nemeses import NEMESES
from pytinykv.simulation.scenario import scenario
from pytinykv.simulation.scenarios.generic import finish

if TYPE_CHECKING:
    from pytinykv.client import AsyncClient, AsyncTransaction

KEYS: Final = (b"a", b"m", b"z")
LIFE_S: Final = 12.0
"""How long versions live; stores report every 10 s, and collect with the report after that."""
RUN_S: Final = 45.0
PAUSE_S: Final = 1.5
CALL_S: Final = 8.0
TROUBLE: Final = ("leader changes", "restarts", "scheduler outages")


class _Story:
    def __init__(self, cluster: Cluster) -> None:
        self.cluster = cluster
        self.commits: list[int] = []
        """The commit timestamp of each count from 1 on."""
        self.too_old = 0
        """How many readers were told so."""
        self.stop = asyncio.Event()
        """Set once: the writer and the readers end."""

    async def write(self, host: str, client: AsyncClient) -> None:
        """Count on; a commit of unknown fate ends the counting, as what is there is then not known."""
        while not self.stop.is_set():

            async def put(txn: AsyncTransaction) -> AsyncTransaction:
                for key in KEYS:
                    await txn.put(key, b"%d" % (len(self.commits) + 1))
                return txn

            end = self.cluster.show(host, "count")
            try:
                txn = await client.run(put, timeout=CALL_S)
            except ClientError as error:
                end("unknown" if error.undetermined else "fail", type(error).__name__)
                if error.undetermined:
                    return
            else:
                assert txn.commit_ts is not None
                self.commits.append(txn.commit_ts)
                end("complete", f"to {len(self.commits)} at {txn.commit_ts}")
            await asyncio.sleep(PAUSE_S)

    async def read(self, host: str, client: AsyncClient, rng: Random) -> None:
        """Look at moments of the past."""
        while not self.stop.is_set():
            await asyncio.sleep(PAUSE_S * rng.random())
            if len(self.commits) < 2:
                continue
            at = rng.choice(self.commits[:-1]) + rng.randint(0, 1)
            end = self.cluster.show(host, "read")
            try:
                snapshot = await client.snapshot(at)
                seen = await snapshot.get_many(KEYS, timeout=CALL_S)
            except SnapshotTooOldError as error:
                self.too_old += 1
                end("fail", type(error).__name__)
            except ClientError as error:  # no answer in time
                end("fail", type(error).__name__)
            else:
                end("complete", f"{seen.get(KEYS[0])!r} at {at}")
                self.check(at, seen)

    def check(self, at: int, seen: dict[bytes, bytes]) -> None:
        """Compare what a snapshot showed with what was committed by then."""
        count = b"%d" % bisect_right(self.commits, at)
        if seen != dict.fromkeys(KEYS, count):
            raise Violation("snapshot isolation", f"at {at} the count was {count!r}, and a reader has seen {seen}")

    async def run_for_long(self, client: AsyncClient) -> None:
        """Hold a lock and a snapshot for longer than versions live."""
        while len(self.commits) < 3:  # noqa: ASYNC110 - virtual time
            await asyncio.sleep(PAUSE_S)
        txn = await client.transaction(pessimistic=True, timeout=RUN_S * 2)
        await txn.lock(b"own")
        for _ in range(3):
            await asyncio.sleep(RUN_S / 3)
            try:
                self.check(txn.start_ts, await txn.get_many(KEYS))
            except SnapshotTooOldError as error:
                raise Violation("story", f"garbage was collected past a running transaction: {error}") from error
        await txn.put(b"own", b"done")
        await txn.commit()


def _options(rng: Random) -> ClusterOptions:
    return ClusterOptions(
        stores=3,
        clients=3,
        scheduler=SchedulerConfig(max_replicas=3, gc_life_time_s=LIFE_S),
        drawn=tuple(rng.sample(TROUBLE, rng.randint(0, 1))),
    )


@scenario("old-readers", _options)
async def old_readers(cluster: Cluster) -> None:
    """Garbage is collected under old snapshots, and never past a running transaction."""
    story = _Story(cluster)
    writer, reader, runner = cluster.clients
    assert writer.client is not None
    assert reader.client is not None
    assert runner.client is not None
    drawn = [name for name in cluster.options.drawn if cluster.may(name)]
    cluster.notes.extend(drawn)
    work = [
        writer.spawn("write", story.write(writer.host, writer.client)),
        reader.spawn("read", story.read(reader.host, reader.client, cluster.world.rng_for("readers"))),
    ]
    await runner.spawn("run", story.run_for_long(runner.client))
    stop_trouble = asyncio.Event()
    cluster.begin_trouble(drawn)
    trouble = [
        cluster.world.loop.create_task(_run(cluster, name, stop_trouble), name=f"nemesis:{name}") for name in drawn
    ]
    await asyncio.sleep(RUN_S)
    stop_trouble.set()
    await finish(trouble)
    cluster.heal()
    await cluster.heal_programs()
    story.stop.set()
    await finish(work)
    if not story.too_old:
        raise Violation("story", f"in {cluster.world.loop.time():.0f} s nothing was collected")


async def _run(cluster: Cluster, name: str, stop: asyncio.Event) -> None:
    await NEMESES[name](cluster, cluster.world.rng_for(f"nemesis/{name}"), stop)
