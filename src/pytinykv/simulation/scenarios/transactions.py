"""Transactions under trouble: lists that are appended to, and a bank, on regions of which a transaction mostly needs several.

    append   read some lists at a snapshot, append to others; optimistic or pessimistic
    bank     move money between accounts; look at all accounts of one moment, whose sum never changes

A seed draws what goes wrong, and how the clients commit. After the trouble every transaction must get through, those that
wait for one key have their turns without delay, no lock stays, and the history is held against snapshot isolation
(`txn_history`).
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from random import Random
from typing import TYPE_CHECKING, Final

import msgspec

from pytinykv.client.config import ClientConfig
from pytinykv.client.errors import ClientError
from pytinykv.client.key_space import KeyRange
from pytinykv.client.txn.cluster_backend import ClusterBackend
from pytinykv.raftstore.config import RaftStoreConfig
from pytinykv.scheduler.config import SchedulerConfig
from pytinykv.simulation.cluster import Cluster, ClusterOptions
from pytinykv.simulation.errors import Violation
from pytinykv.simulation.faults import pause
from pytinykv.simulation.isolation import Append, ListRead, ListTxn, Outcome, check_isolation
from pytinykv.simulation.loop import current_process
from pytinykv.simulation.nemeses import NEMESES
from pytinykv.simulation.nodes import ClientNode, start_until_up
from pytinykv.simulation.process import Process
from pytinykv.simulation.scenario import scenario
from pytinykv.simulation.scenarios.generic import finish
from pytinykv.simulation.txn_history import (
    Elements,
    Fate,
    StoredVersion,
    TxnRecord,
    check_snapshot_isolation,
    decode_elements,
    encode_elements,
)
from pytinykv.simulation.workloads import until_done
from pytinykv.wire.keys import encode_bytes
from pytinykv.wire.timestamp import MAX_TIMESTAMP

if TYPE_CHECKING:
    from pytinykv.client import AsyncClient, AsyncTransaction

TROUBLE_S: Final = 5.0
TIMEOUT_S: Final = 3.0
LISTS: Final = tuple(b"list-%d" % number for number in range(6))
ACCOUNTS: Final = tuple(b"acct-%d" % number for number in range(6))
MONEY: Final = 100
BOUNDS: Final = (b"acct-3", b"list-", b"list-2", b"list-4")
"""Where regions begin."""
TURNS: Final = 4
"""How often each client locks the same key at the end."""
TURNS_WITHIN_S: Final = 1.0
"""How long all of these may take together; it is a tenth of that. A waiter that is not woken comes back after a second."""
TROUBLE: Final = (
    "partitions",
    "link trouble",
    "crashes",
    "restarts",
    "stalls",
    "scheduler stalls",
    "scheduler outages",
    "slow links",
    "leader stalls",
    "leader changes",
    "member changes",
    "slow disks",
    "splits under transactions",
    "client deaths",
    "late clients",
    "power cuts",
)
MOVES: Final = ("scatters", "drained stores")
"""What has regions move from store to store; there is a store more then than regions have peers."""
LATE: Final = ("late clients", "leader changes")
LATE_S: Final = 1.5
"""By how much a late client's messages are late at most: longer than the shortest locks live."""

Told = tuple[str, str]
"""How an operation ended, for the timeline: the event, and what there is to say."""
_EVENTS: Final = {Fate.COMMITTED: "complete", Fate.NOT: "fail", Fate.UNKNOWN: "unknown"}


class TxnStory:
    """One history: its records, and the clients' work."""

    def __init__(self, cluster: Cluster, lists: tuple[bytes, ...] = LISTS) -> None:
        self.cluster = cluster
        self.lists = lists
        """The keys whose values are appended to; all begin with `list-`."""
        self.records: list[TxnRecord] = []
        """Every transaction that began, in that order."""
        self.acknowledged = 0
        """The greatest commit timestamp that a client was told."""
        self.looks = 0
        """How often a client has seen all accounts."""
        self.stop_clients = asyncio.Event()
        """Set once: each client ends with the transaction it has under way."""
        self.own_trouble: dict[str, Callable[[Random, asyncio.Event], Awaitable[None]]] = {}
        """Fault makers that a story has beside those that all have; filled by its `__init__`."""
        self._tasks: dict[str, asyncio.Task[None]] = {}
        """By host, what the newest incarnation of a client does."""

    async def append(self, client: AsyncClient, rng: Random) -> Told:
        """One transaction on the lists; whatever it ends with is written down."""
        is_pessimistic = rng.random() < 0.3
        acknowledged = self.acknowledged
        txn = client.transaction(pessimistic=is_pessimistic, timeout=TIMEOUT_S)
        try:
            await txn
        except ClientError as error:
            return "fail", type(error).__name__
        record = TxnRecord(
            element=len(self.records),
            start_ts=txn.start_ts,
            acknowledged_before=acknowledged,
            is_pessimistic=is_pessimistic,
        )
        self.records.append(record)
        try:
            await self._append(txn, record, rng)
            record.fate = Fate.COMMITTED
            record.commit_ts = txn.commit_ts or 0
            self.acknowledged = max(self.acknowledged, record.commit_ts)
        except ClientError as error:
            if not self._is_dead():
                record.fate = Fate.UNKNOWN if error.undetermined else Fate.NOT
        finally:
            if txn.is_active:
                await txn.rollback(timeout=TIMEOUT_S)
        return outcome_of(record)

    async def _append(self, txn: AsyncTransaction, record: TxnRecord, rng: Random) -> None:
        wanted = rng.sample(self.lists, rng.randint(1, 3))
        written = rng.sample(self.lists, rng.randint(0, 3))
        if rng.random() < 0.3:
            found = {key: value async for key, value in txn.scan(prefix=b"list-", reverse=rng.random() < 0.5)}
            record.reads = {key: decode_elements(found.get(key)) for key in self.lists}
        else:
            found = await txn.get_many(wanted)
            record.reads = {key: decode_elements(found.get(key)) for key in wanted}
        for key in written:
            before: Elements
            if record.is_pessimistic:
                before = decode_elements(await txn.get_for_update(key))
            else:
                before = decode_elements(await txn.get(key))
                record.reads[key] = before
            await txn.put(key, encode_elements((*before, record.element)))
            record.writes |= {key}
        await txn.commit()

    async def transfer(self, client: AsyncClient, rng: Random) -> Told:
        """Move money, or look."""
        source, target = rng.sample(ACCOUNTS, 2)
        amount = rng.randint(1, 10)

        async def move(txn: AsyncTransaction) -> None:
            read = txn.get_for_update if is_pessimistic else txn.get
            first, second = sorted((source, target))
            balances = {key: int(await read(key) or b"0") for key in (first, second)}
            await txn.put(source, b"%d" % (balances[source] - amount))
            await txn.put(target, b"%d" % (balances[target] + amount))

        is_pessimistic = rng.random() < 0.3
        try:
            if rng.random() < 0.3:
                await self.look(client)
                return "complete", "looked"
            await client.run(move, pessimistic=is_pessimistic, timeout=TIMEOUT_S)
        except ClientError as error:
            return ("unknown" if error.undetermined else "fail"), type(error).__name__
        return "complete", f"moved {amount} from {source.decode()} to {target.decode()}"

    async def look(self, client: AsyncClient) -> None:
        """See that no money was made or lost, at this moment."""
        snapshot = await client.snapshot(timeout=TIMEOUT_S)
        balances = {key: int(value) async for key, value in snapshot.scan(prefix=b"acct-")}
        self.looks += 1
        if sum(balances.values()) != MONEY * len(ACCOUNTS):
            raise Violation("bank", f"at {snapshot.ts} the accounts hold {sum(balances.values())} in all: {balances}")

    @staticmethod
    def _is_dead() -> bool:
        """Tell whether this client has been killed, and only its tasks are being swept up: it is told nothing any more."""
        process = current_process.get()
        return isinstance(process, Process) and not process.alive

    def begin(self, node: ClientNode) -> None:
        """Let a client do one transaction after the other."""
        assert node.client is not None
        assert node.process is not None
        rng = self.cluster.world.rng_for(f"{node.host}/workload/{node.process.incarnation}")
        self._tasks[node.host] = node.spawn("workload", self.work(node, node.client, rng))

    async def finish(self) -> None:
        """Let every client end what it has under way. Raises what one of them raised."""
        self.stop_clients.set()
        await finish(list(self._tasks.values()))

    async def client_deaths(self, rng: Random, stop: asyncio.Event) -> None:
        """Kill clients in the middle of everything; others have to see to what they leave. The first one lives."""
        while not stop.is_set():
            await pause(stop, 1.5 * rng.random())
            node = rng.choice(self.cluster.clients[1:])
            await node.crash()
            await start_until_up(node)
            self.begin(node)

    async def splits(self, rng: Random, stop: asyncio.Event) -> None:
        """Split regions at the keys that are fought over, until each has a region of its own."""
        keys = [key for key in (*self.lists, *ACCOUNTS) if key not in BOUNDS]
        rng.shuffle(keys)
        first = self.cluster.clients[0]
        while keys and not stop.is_set():
            await pause(stop, rng.random())
            client = first.client
            assert client is not None
            asking = client.scheduler.split_regions([encode_bytes(keys.pop())], TIMEOUT_S)
            with contextlib.suppress(ClientError):
                await first.spawn("split", asking)

    async def late_clients(self, rng: Random, stop: asyncio.Event) -> None:
        """Let what some clients send to one store come late, while their locks elsewhere run out and others go on."""
        network = self.cluster.network
        slow = msgspec.structs.replace(network.conditions, straggle=1.0, straggle_max_s=LATE_S)
        while not stop.is_set():
            store = rng.choice(self.cluster.store_hosts)
            late = rng.sample(self.cluster.clients, 2)
            for client in late:
                network.set_conditions(client.host, store, slow)
            await pause(stop, 2.0 * rng.random())
            for client in late:
                network.set_conditions(client.host, store, network.conditions)

    async def take_turns(self) -> None:
        """Let every client lock the same key a few times: each must be woken when its turn has come."""

        async def lock(client: AsyncClient) -> None:
            for _ in range(TURNS):
                async with client.transaction(pessimistic=True, timeout=10.0) as txn:
                    await txn.lock(self.lists[0])

        loop = asyncio.get_running_loop()
        began = loop.time()
        clients = [node.client for node in self.cluster.clients if node.client is not None]
        turns = [node.spawn("turns", lock(client)) for node, client in zip(self.cluster.clients, clients, strict=True)]
        await finish(turns)
        took_s = loop.time() - began
        if took_s > TURNS_WITHIN_S:
            raise Violation("liveness", f"{TURNS} turns of {len(turns)} clients at one key took {took_s:.1f} s")

    async def work(self, node: ClientNode, client: AsyncClient, rng: Random) -> None:
        """Do one transaction after the other."""
        while not self.stop_clients.is_set():
            do = self.append if rng.random() < 0.5 else self.transfer
            end = self.cluster.show(node.host, do.__name__)
            end(*await do(client, rng))
            await asyncio.sleep(rng.expovariate(1 / self.cluster.options.think_s))

    async def open_bank(self, client: AsyncClient) -> None:
        async def put(txn: AsyncTransaction) -> None:
            for account in ACCOUNTS:
                await txn.put(account, b"%d" % MONEY)

        await client.run(put)

    @property
    def has_committed(self) -> bool:
        """Whether any transaction has appended something, for all that its client knows."""
        return any(record.fate is Fate.COMMITTED and record.writes for record in self.records)

    async def append_once(self, client: AsyncClient) -> None:
        """See to it that an append is committed; bad trouble may have let none come through."""
        rng = self.cluster.world.rng_for("append once")

        async def append() -> None:
            if not self.has_committed:
                await self.append(client, rng)
            if not self.has_committed:
                raise ClientError("no append is committed yet")

        limit_s = self.cluster.options.success_within_s
        await until_done(append, limit_s=limit_s, what="to append once nothing is wrong")

    async def check(self, client: AsyncClient) -> None:
        """Hold what the clients saw against what the cluster keeps."""
        await self.look(client)
        inspector = client.inspector
        stored: dict[bytes, list[StoredVersion]] = {}
        for key in self.lists:
            history = await inspector.history(key)
            stored[key] = [
                StoredVersion(version.start_ts, version.commit_ts, decode_elements(version.value))
                for version in history.versions
                if version.kind == "put"
            ]
        check_snapshot_isolation(self.records, stored)
        newest = {
            key: max(versions, key=lambda version: version.commit_ts) for key, versions in stored.items() if versions
        }
        last = ListTxn(
            name="the last look",
            operations=tuple(ListRead(key, version.elements) for key, version in sorted(newest.items())),
            is_final=True,
        )
        if anomalies := check_isolation([*map(_as_told, self.records), last]):
            raise Violation("isolation", f"by what clients have read alone: {anomalies[0]}")
        if not self.has_committed or not self.looks:
            raise Violation("story", "no transaction was committed, or the accounts were never looked at")


def outcome_of(record: TxnRecord) -> Told:
    """Return what came of a transaction, for the timeline."""
    keys = ", ".join(key.decode() for key in sorted(record.writes)) or "nothing"
    return _EVENTS[record.fate], f"{record.element} to {keys}, begun at {record.start_ts}, {record.fate.value}"


def _as_told(record: TxnRecord) -> ListTxn:
    """Return a transaction as its client knows it; a pessimistic one without reads, as it writes on top of what is newer."""
    outcome = {Fate.COMMITTED: Outcome.COMMITTED, Fate.NOT: Outcome.ABORTED, Fate.UNKNOWN: Outcome.UNKNOWN}[record.fate]
    reads = {} if record.is_pessimistic else record.reads
    return ListTxn(
        name=str(record.element),
        outcome=outcome,
        operations=(
            *(ListRead(key, elements) for key, elements in sorted(reads.items())),
            *(Append(key, record.element) for key in sorted(record.writes)),
        ),
    )


def _options(rng: Random) -> ClusterOptions:
    config = ClientConfig(
        one_phase_commit=rng.random() < 0.5,
        async_commit=rng.random() < 0.7,
        lock_ttl_s=rng.choice([0.2, 0.5, 3.0]),
        pessimistic_lock_ttl_s=rng.choice([1.0, 5.0]),
    )
    drawn = rng.sample(TROUBLE, rng.randint(0, 3))
    if rng.random() < 0.35:
        drawn.append(rng.choice(MOVES))
    return ClusterOptions(
        stores=4 if drawn[-1:] and drawn[-1] in MOVES else 3,
        clients=4,
        client=config,
        raftstore=RaftStoreConfig(region_heartbeat_s=1.0),
        scheduler=SchedulerConfig(max_replicas=3),
        drawn=tuple(drawn),
    )


def _late_options(rng: Random) -> ClusterOptions:
    options = _options(rng)
    client = msgspec.structs.replace(options.client, lock_ttl_s=0.2)
    return msgspec.structs.replace(options, stores=3, client=client, drawn=LATE, think_s=0.005)


@scenario("late-transactions", _late_options)
async def late_transactions(cluster: Cluster) -> None:
    """Transactions whose messages come late, in one region or several whose leaders change."""
    await tell(TxnStory(cluster), is_split=cluster.rng.random() < 0.5)


@scenario("transactions", _options)
async def transactions(cluster: Cluster) -> None:
    """Lists and a bank under transactions, while what the seed draws goes wrong."""
    await tell(TxnStory(cluster), is_split=True)


async def tell(story: TxnStory, *, is_split: bool) -> None:
    """Tell a story: its trouble, and what must hold afterwards. `is_split`: in several regions from the start."""
    cluster = story.cluster
    first = cluster.clients[0]
    assert first.client is not None
    if is_split:
        await first.spawn("split", _split(cluster, first.client))
    await first.spawn("open the bank", story.open_bank(first.client))
    drawn = [name for name in cluster.options.drawn if cluster.may(name)]
    cluster.world.trace.record("nemeses", *drawn)
    cluster.notes.extend(drawn)
    cluster.begin_trouble(drawn)
    stop_trouble = asyncio.Event()
    for client in cluster.clients:
        story.begin(client)
    own = {
        "splits under transactions": story.splits,
        "client deaths": story.client_deaths,
        "late clients": story.late_clients,
        **story.own_trouble,
    }
    trouble = [
        cluster.world.loop.create_task(_run(cluster, name, own.get(name), stop_trouble), name=f"nemesis:{name}")
        for name in drawn
    ]
    await asyncio.sleep(TROUBLE_S * cluster.options.length)
    stop_trouble.set()
    await finish(trouble)
    cluster.heal()
    await cluster.heal_programs()
    await story.finish()
    assert first.client is not None
    await first.spawn("touch", _touch(story, first.client))
    await first.spawn("append", story.append_once(first.client))
    await story.take_turns()
    await first.spawn("check", _settle(story, first.client))
    # A stop waits a moment for secondaries, and is measured here by what it takes without any.
    for node in cluster.clients:
        assert node.client is not None
        backend = node.client.transactions.backend
        assert isinstance(backend, ClusterBackend)
        await node.spawn("idle", backend.background.wait_idle(TIMEOUT_S))


async def _split(cluster: Cluster, client: AsyncClient) -> None:
    """Make several regions, whose leaders are on several stores: all parts of one are led by the same store at first."""
    keys = [encode_bytes(key) for key in BOUNDS]
    while (await client.scheduler.split_regions(keys)).finished_percentage < 100:  # noqa: ASYNC110 - it is asked
        await asyncio.sleep(0.1)
    regions = sorted(cluster.replica_observer.regions, key=lambda region: region.start_key)
    for number, region in enumerate(regions):
        with contextlib.suppress(ClientError):
            await client.scheduler.transfer_leader(region.id, cluster.stores[number % len(cluster.stores)].store_id)
    await asyncio.sleep(0.5)


async def _run(
    cluster: Cluster, name: str, own: Callable[[Random, asyncio.Event], Awaitable[None]] | None, stop: asyncio.Event
) -> None:
    rng = cluster.world.rng_for(f"nemesis/{name}")
    await (NEMESES[name](cluster, rng, stop) if own is None else own(rng, stop))


async def _touch(story: TxnStory, client: AsyncClient) -> None:
    """Let a client write every key, which resolves all locks."""

    async def touch() -> None:
        async def lock_all(txn: AsyncTransaction) -> None:
            await txn.lock(*story.lists, *ACCOUNTS)

        await client.run(lock_all, pessimistic=True, timeout=10.0)

    await until_done(
        touch, limit_s=story.cluster.options.success_within_s, what="to lock all keys once nothing is wrong"
    )


async def _settle(story: TxnStory, client: AsyncClient) -> None:
    await story.check(client)
    await until_done(lambda: _no_locks(client), limit_s=10.0, what="all locks gone")


async def _no_locks(client: AsyncClient) -> None:
    left = [lock async for lock in client.inspector.locks(KeyRange(b"", b""), MAX_TIMESTAMP)]
    if left:
        raise ClientError(f"locked: {[lock.key for lock in left]}")
