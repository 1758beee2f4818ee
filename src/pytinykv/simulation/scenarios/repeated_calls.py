"""What clients notice of splits, and of leaders that move: how often a call has to be repeated while nothing is wrong."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from random import Random
from typing import Any, Final

from pytinykv.client import AsyncClient
from pytinykv.client.attempts import Attempts, Failure
from pytinykv.client.commands import Command
from pytinykv.client.retry_policy import Retry
from pytinykv.raftstore.config import RaftStoreConfig
from pytinykv.scheduler.config import SchedulerConfig
from pytinykv.simulation.cluster import Cluster, ClusterOptions
from pytinykv.simulation.errors import Violation
from pytinykv.simulation.nodes import ClientNode
from pytinykv.simulation.observers import newest_regions
from pytinykv.simulation.scenario import scenario
from pytinykv.simulation.scenarios.generic import REGION_MAX_BYTES, REGION_SPLIT_BYTES, finish
from pytinykv.simulation.workloads import Session

CALLS: Final = 50
VALUE: Final = bytes(50)
HAND_OVER_S: Final = 0.15
"""Pause between two rounds of moving all leaders."""
SMALL: Final = RaftStoreConfig(
    region_heartbeat_s=1.0, region_max_bytes=REGION_MAX_BYTES, region_split_bytes=REGION_SPLIT_BYTES
)
STILL: Final = SchedulerConfig(max_replicas=3, leader_operators_max=0, region_operators_max=0)
"""Leaders stay where a split leaves them: handing over leadership costs calls a repetition, too."""


class Retries:
    """What the calls of one client have to repeat, from when this is made."""

    def __init__(self, client: AsyncClient) -> None:
        self.by_call: dict[Attempts, list[str]] = {}
        """What each repetition of a call is due to, for the calls that have any."""
        executor = client.executor
        learn, pause = executor.learn, executor.pause
        learnt: dict[Attempts, list[str]] = {}

        def on_failure(command: Command[Any], failure: Failure, attempts: Attempts) -> Retry:
            learnt.setdefault(attempts, []).append(f"{command.describe()} at {command.route!r}: {failure}")
            return learn(command, failure, attempts)

        async def on_retry(retries: Sequence[Retry], attempts: Attempts) -> None:
            # Once for all parts of a batch, which are repeated together.
            self.by_call.setdefault(attempts, []).append(" and ".join(learnt.pop(attempts)))
            await pause(retries, attempts)

        executor.learn, executor.pause = on_failure, on_retry  # type: ignore[method-assign]  # watched from outside


@scenario("split-calls", ClusterOptions(stores=3, clients=6, raftstore=SMALL, scheduler=STILL), fixed=True)
async def split_calls(cluster: Cluster) -> None:
    """Regions split under raw and transactional calls, and nothing else happens: a split costs a call one repetition."""
    await _call(cluster)
    regions = len(newest_regions(cluster.engines()))
    if regions < 4:
        raise Violation("story", f"there are {regions} regions in the end: hardly any were split")


@scenario("hand-over-calls", ClusterOptions(stores=3, clients=6, scheduler=STILL), fixed=True)
async def hand_over_calls(cluster: Cluster) -> None:
    """Leadership is handed over under raw and transactional calls: each time costs a call one repetition."""
    stop = asyncio.Event()
    orders = cluster.world.loop.create_task(_hand_over(cluster, stop), name="orders")
    await _call(cluster)
    stop.set()
    await finish([orders])


async def _hand_over(cluster: Cluster, stop: asyncio.Event) -> None:
    """Move all leaders again and again, with time for each call to notice no more than one of it."""
    while not stop.is_set():
        for node in cluster.leaders().values():
            if node.serving is None:
                continue
            process, store = node.serving
            for peer in store.peers.values():
                if peer.is_leader:
                    others = [one for one in peer.region.peers if one.id != peer.peer.id]
                    process.post(store.transfer_leader, peer.region.id, cluster.rng.choice(others).id)
        await asyncio.sleep(HAND_OVER_S)


async def _call(cluster: Cluster) -> None:
    """Let all clients make their calls. Raises `Violation` if one is repeated more than once, or if none is."""
    watched: list[Retries] = []
    calls = []
    for number, node in enumerate(cluster.clients):
        assert node.client is not None
        watched.append(Retries(node.client))
        rng = cluster.world.rng_for(f"calls of {node.host}")
        story = _raw_calls(cluster.session(node), rng) if number % 2 else _txn_calls(node, node.client, rng)
        calls.append(node.spawn("calls", story))
    await finish(calls)
    repeated = [failures for one in watched for failures in one.by_call.values()]
    cluster.notes.append(f"{len(repeated)} calls were repeated")
    if not repeated:
        raise Violation("story", "no call was in the way of anything")
    for failures in repeated:
        if len(failures) > 1:
            raise Violation("story", f"a call was repeated {len(failures)} times: {'; '.join(failures)}")


async def _raw_calls(session: Session, rng: Random) -> None:
    name = session.name.encode()
    keys = [b"%s %03d" % (name, number * 37 % CALLS) for number in range(CALLS)]
    for number, key in enumerate(keys):
        await session.put(key, VALUE)
        match rng.randrange(5):
            case 0:
                await session.get(rng.choice(keys))
            case 1:
                await session.batch_get(rng.sample(keys, 5))
            case 2:
                await session.batch_put(dict.fromkeys(rng.sample(keys[: number + 1], min(number + 1, 3)), VALUE))
            case 3:
                await session.compare_and_swap(key, VALUE, VALUE)
            case _:
                await session.scan(min(keys), max(keys) + b"\0", keys)


async def _txn_calls(node: ClientNode, client: AsyncClient, rng: Random) -> None:
    name = node.host.encode()
    keys = [b"%s %03d" % (name, number * 37 % CALLS) for number in range(CALLS)]
    for number, key in enumerate(keys):
        async with client.transaction(pessimistic=rng.random() < 0.5) as txn:
            for one in (key, *rng.sample(keys[: number + 1], min(number, rng.randrange(3)))):
                await txn.put(one, VALUE)
        snapshot = await client.snapshot()
        if rng.random() < 0.5:
            found = {key: await snapshot.get(key)}
        else:
            found = {found: value async for found, value in snapshot.scan(prefix=name)}
        if found.get(key) != VALUE:
            raise Violation("story", f"{key!r} was put and is not there")
