"""Clients that take long between any two steps of a commit, send some steps twice, and some after the end.

    slow     a commit step by step, with pauses in which its locks run out, readers push or remove them, and leaders change:
             prewrites one by one, some of them once more later; the primary; the other keys, or none; after a failure a
             rollback, or nothing
    quick    lists that are read and appended to, as in `transactions`

What a client sends late or twice is what a network, a retry or a client that was held may make of what any client sends. So a
command that does not look at what became of its transaction meanwhile is noticed here.
"""

from __future__ import annotations

import asyncio
import contextlib
from itertools import permutations
from random import Random
from typing import TYPE_CHECKING, Final

import msgspec

from pytinykv.client.config import ClientConfig
from pytinykv.client.errors import ClientError, TransactionError
from pytinykv.client.txn.commit_commands import (
    CommitKeys,
    CommitPrimary,
    PrewritePlan,
    Prewritten,
    TxnPrewrite,
    TxnRollback,
)
from pytinykv.client.txn.key_errors import CommitTsExpiredError
from pytinykv.client.txn.records import PUT, BufferedWrite, SnapshotView, Txn
from pytinykv.client.txn.resolver import run_keys
from pytinykv.raftstore.config import RaftStoreConfig
from pytinykv.simulation.cluster import Cluster, ClusterOptions
from pytinykv.simulation.faults import pause
from pytinykv.simulation.scenario import scenario
from pytinykv.simulation.scenarios.generic import finish
from pytinykv.simulation.scenarios.transactions import TIMEOUT_S, TxnStory, outcome_of, tell
from pytinykv.simulation.txn_history import Elements, Fate, TxnRecord, decode_elements, encode_elements

if TYPE_CHECKING:
    from pytinykv.client import AsyncClient, AsyncSnapshot
    from pytinykv.simulation.nodes import ClientNode

LISTS: Final = tuple(b"list-%d%d" % (number // 5, number % 5) for number in range(20))
"""More than in `transactions`: what is written to a key after a rollback would refuse the prewrite that the rollback must."""
FEW_LISTS: Final = LISTS[:3]
SLOW_CLIENTS: Final = 2
AT_ONCE: Final = 4
"""Slow transactions that a client has under way at a time."""
PAUSE_S: Final = 0.4
"""The longest pause between two steps."""
LOOK_S: Final = 0.02
"""How long a look at a list may take; one that is locked is left out."""


class _Slow:
    """One transaction, step by step."""

    def __init__(self, story: TxnStory, node: ClientNode, client: AsyncClient, rng: Random) -> None:
        self._story = story
        self._node = node
        self._client = client
        self._executor = client.executor
        self._rng = rng
        self._echoes: list[asyncio.Task[None]] = []
        """Prewrites that are sent once more."""
        self.record: TxnRecord | None = None
        """None until it has begun."""

    async def run(self) -> None:
        """Read, lock, commit; write down what came of it. Raises `ClientError`."""
        try:
            await self._run()
        finally:
            for echo in self._echoes:
                await echo

    async def _run(self) -> None:
        rng = self._rng
        acknowledged = self._story.acknowledged
        snapshot = await self._client.snapshot(timeout=TIMEOUT_S)
        record = TxnRecord(element=len(self._story.records), start_ts=snapshot.ts, acknowledged_before=acknowledged)
        self.record = record
        self._story.records.append(record)
        keys = rng.sample(self._story.lists, rng.choice([1, 2, 2, 3]))
        found = await snapshot.get_many(keys)
        record.reads = {key: decode_elements(found.get(key)) for key in keys}
        record.writes = frozenset(keys)
        await self._commit(
            record, [BufferedWrite(key, PUT, encode_elements((*record.reads[key], record.element))) for key in keys]
        )

    async def _commit(self, record: TxnRecord, writes: list[BufferedWrite]) -> None:
        rng, keys = self._rng, [write.key for write in writes]
        loop = asyncio.get_running_loop()
        txn = Txn(SnapshotView(record.start_ts), begun_at=loop.time(), is_pessimistic=False)
        plan = PrewritePlan(txn, keys[0], len(writes), int(rng.choice([0.1, 0.3, 3.0]) * 1000))
        plan.min_commit_ts = record.start_ts + 1
        if rng.random() < 0.6:
            plan.use_async_commit = True
            plan.secondaries = keys[1:]
            plan.min_commit_ts = await self._client.timestamp() + 1
        prewrites = [self._node.spawn("prewrite", self._prewrite(write, plan)) for write in writes]
        done = [each for task in prewrites if (each := await task) is not None and not each.locks and not each.error]
        if len(done) < len(writes):
            await self._give_up(record, keys, is_decided=not plan.use_async_commit)
            return
        if all(each.min_commit_ts for each in done):
            self._committed(record, max(each.min_commit_ts for each in done))
        elif not await self._commit_primary(record, keys):
            return
        if rng.random() < 0.5:
            await self._pause()
            await run_keys(
                self._executor,
                sorted(keys),
                lambda items: CommitKeys(items, record.start_ts, record.commit_ts),
                self._deadline(),
            )

    async def _prewrite(self, write: BufferedWrite, plan: PrewritePlan) -> Prewritten | None:
        """Lock a key, perhaps twice; return what came of the first time, None if that is not known."""
        await self._pause()
        if self._rng.random() < 0.3:
            self._echoes.append(self._node.spawn("again", self._again(TxnPrewrite([write], plan))))
        with contextlib.suppress(ClientError):
            return await self._executor.execute(TxnPrewrite([write], plan), self._deadline())
        return None

    async def _again(self, command: TxnPrewrite) -> None:
        """Send a prewrite once more, later; what is answered does not matter."""
        await asyncio.sleep(2 * PAUSE_S * self._rng.random())
        with contextlib.suppress(ClientError):
            await self._executor.execute(command, self._deadline())

    async def _commit_primary(self, record: TxnRecord, keys: list[bytes]) -> bool:
        """Commit a transaction whose locks stand, or stood; return whether it is committed for all that is known."""
        await self._pause()
        while True:
            commit_ts = await self._client.timestamp()
            await self._pause()
            command = CommitPrimary(keys[0], keys[1:], record.start_ts, commit_ts)
            try:
                commit_ts = await self._executor.execute(command, self._deadline())
            except CommitTsExpiredError:
                continue
            except TransactionError as error:
                record.fate = Fate.UNKNOWN if error.undetermined else Fate.NOT
                await self._give_up(record, keys, is_decided=not error.undetermined)
                return False
            self._committed(record, commit_ts)
            return True

    def _committed(self, record: TxnRecord, commit_ts: int) -> None:
        record.fate, record.commit_ts = Fate.COMMITTED, commit_ts
        self._story.acknowledged = max(self._story.acknowledged, commit_ts)

    async def _give_up(self, record: TxnRecord, keys: list[bytes], *, is_decided: bool) -> None:
        """Roll back, or leave that to others. `is_decided`: it is not committed, whatever comes of the prewrites."""
        if is_decided:
            record.fate = Fate.NOT
        if self._rng.random() < 0.5:
            return
        await self._pause()
        await run_keys(
            self._executor, sorted(keys), lambda items: TxnRollback(items, record.start_ts), self._deadline()
        )
        record.fate = Fate.NOT

    async def _pause(self) -> None:
        await asyncio.sleep(PAUSE_S * self._rng.random() ** 2)

    def _deadline(self) -> float:
        return self._executor.deadline(TIMEOUT_S)


class SlowStory(TxnStory):
    """One history: the last clients are slow, the others quick, or there is one sort only."""

    def __init__(self, cluster: Cluster, lists: tuple[bytes, ...], *, slow: bool = True, quick: bool = True) -> None:
        super().__init__(cluster, lists)
        self._slow_clients = cluster.clients[-SLOW_CLIENTS:] if slow else []
        self._quick_clients = [node for node in cluster.clients if quick and node not in self._slow_clients]
        self.own_trouble = {"hand-overs": self.hand_overs, "slow stores": self.slow_stores}

    async def work(self, node: ClientNode, client: AsyncClient, rng: Random) -> None:
        """Do one transaction after the other, or several at once."""
        if node in self._slow_clients:
            await finish([node.spawn("slow", self._slow(node, client, rng)) for _ in range(AT_ONCE)])
        elif node in self._quick_clients:
            await super().work(node, client, rng)

    async def _slow(self, node: ClientNode, client: AsyncClient, rng: Random) -> None:
        while not self.stop_clients.is_set():
            end, slow = self.cluster.show(node.host, "slow_commit"), _Slow(self, node, client, rng)
            with contextlib.suppress(ClientError):
                await slow.run()
            end(*(("fail", "not begun") if slow.record is None else outcome_of(slow.record)))

    async def hand_overs(self, rng: Random, stop: asyncio.Event) -> None:
        """Let one store after the other lead, several times a second; the last thing that each does is a read."""
        first = self.cluster.clients[0]
        while not stop.is_set():
            await pause(stop, 0.05 + 0.3 * rng.random())
            assert first.client is not None
            if not self._quick_clients:
                with contextlib.suppress(ClientError):
                    await self._look_at_lists(first, first.client)
            for region_id, leader in sorted(self.cluster.leaders().items()):
                if leader.serving is not None:
                    process, store = leader.serving
                    peer = store.peers[region_id]
                    target = rng.choice([one.id for one in peer.region.voters if one.id != peer.peer.id])
                    self.cluster.world.trace.record("order", process.host, "transfer_leader")
                    process.post(store.transfer_leader, region_id, target)

    async def slow_stores(self, _rng: Random, stop: asyncio.Event) -> None:
        """Let what stores send each other take long: what is committed is applied late, above all by a new leader."""
        network = self.cluster.network
        hosts = self.cluster.store_hosts
        slow = msgspec.structs.replace(network.conditions, straggle=0.7, straggle_max_s=0.15)
        for source, target in permutations(hosts, 2):
            network.set_conditions(source, target, slow)
        await stop.wait()

    async def _look_at_lists(self, first: ClientNode, client: AsyncClient) -> None:
        acknowledged = self.acknowledged
        snapshot = await first.spawn("snapshot", _snapshot(client))
        reads: dict[bytes, Elements] = {}

        async def look(key: bytes) -> None:
            with contextlib.suppress(ClientError):
                reads[key] = decode_elements(await snapshot.get(key, timeout=LOOK_S))

        await finish([first.spawn("look", look(key)) for key in self.lists])
        record = TxnRecord(
            element=len(self.records), start_ts=snapshot.ts, acknowledged_before=acknowledged, reads=reads
        )
        self.records.append(record)


async def _snapshot(client: AsyncClient) -> AsyncSnapshot:
    return await client.snapshot(timeout=TIMEOUT_S)


def _options(rng: Random) -> ClusterOptions:
    client = ClientConfig(
        one_phase_commit=rng.random() < 0.5, async_commit=rng.random() < 0.7, lock_ttl_s=rng.choice([0.2, 0.5, 3.0])
    )
    trouble = ("leader changes", "slow links", "splits under transactions", "scheduler stalls")
    return ClusterOptions(
        stores=3,
        clients=4,
        client=client,
        raftstore=RaftStoreConfig(region_heartbeat_s=1.0),
        drawn=tuple(rng.sample(trouble, rng.choice([0, 0, 1, 2]))),
        think_s=0.02,
    )


@scenario("slow-commits", _options)
async def slow_commits(cluster: Cluster) -> None:
    """Commits with long pauses between their steps, some of which are sent twice or after the end."""
    await tell(SlowStory(cluster, LISTS), is_split=cluster.rng.random() < 0.5)


# --- new leaders --------------------------------------------------------------------------------------------------


def _leader_options(rng: Random) -> ClusterOptions:
    return ClusterOptions(
        stores=3,
        clients=3,
        client=ClientConfig(one_phase_commit=rng.random() < 0.5, lock_ttl_s=rng.choice([0.5, 3.0])),
        raftstore=RaftStoreConfig(region_heartbeat_s=1.0),
        drawn=("hand-overs",),
    )


def _slow_leader_options(rng: Random) -> ClusterOptions:
    return msgspec.structs.replace(_leader_options(rng), clients=4, drawn=("hand-overs", "slow stores"), think_s=0.005)


@scenario("new-leaders", _leader_options)
async def new_leaders(cluster: Cluster) -> None:
    """One store after the other leads, and the last thing that each does is a read, while slow commits go on."""
    await tell(SlowStory(cluster, LISTS, quick=False), is_split=False)


@scenario("unapplied-entries", _slow_leader_options)
async def unapplied_entries(cluster: Cluster) -> None:
    """One store after the other leads, and applies late what the one before it has committed to the few keys there are."""
    await tell(SlowStory(cluster, FEW_LISTS, slow=False), is_split=False)


def _split_options(rng: Random) -> ClusterOptions:
    return msgspec.structs.replace(_slow_leader_options(rng), drawn=("slow stores", "splits under transactions"))


@scenario("split-waits", _split_options)
async def split_waits(cluster: Cluster) -> None:
    """The few keys there are get regions of their own, while commands on them wait for those before them."""
    await tell(SlowStory(cluster, FEW_LISTS, slow=False), is_split=False)
