"""A whole simulated cluster: one scheduler, some stores, some clients, and what watches over them.

    scheduler ── store-1 … store-n ── client-1 … client-m        every name is a host of the virtual network

`start` brings it up as a person would: scheduler, stores one after the other, the first region growing to all replicas.
A scenario then breaks what it likes through `network`, `crash` and the nodes. `heal` undoes everything; `check_converged`
is the liveness phase: all replicas catch up and hold the same data; `stop` ends every program and checks how it ended.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Coroutine, Sequence
from random import Random
from typing import TYPE_CHECKING, Any

import msgspec

from pytinykv.client.config import ClientConfig
from pytinykv.raftstore.config import RaftStoreConfig
from pytinykv.raftstore.records import RaftEnvelope
from pytinykv.scheduler.config import SchedulerConfig
from pytinykv.simulation.errors import Violation
from pytinykv.simulation.history import RawHistory
from pytinykv.simulation.network import LinkConditions
from pytinykv.simulation.nodes import ClientNode, Node, SchedulerNode, start_until_up
from pytinykv.simulation.observers import RaftObserver, Seen, applied_indexes, check_replicas_equal, regions_on
from pytinykv.simulation.process import Process
from pytinykv.simulation.replicas import ReplicaObserver
from pytinykv.simulation.store_node import StoreNode
from pytinykv.simulation.workloads import Session
from pytinykv.simulation.world import World
from pytinykv.storage import EngineClosedError

if TYPE_CHECKING:
    from pytinykv.raftstore.store import Store
    from pytinykv.simulation.disk import Replaced, SimEngine

REPLICATION_BOUND_S = 60.0
CONVERGENCE_BOUND_S = 40.0
ANSWER_BOUND_S = 10.0
LATE_FAULTS_S = 0.1
"""Within this, what fault makers have set off with a delay has happened."""
TASKS_MAX = 40
"""No program has more tasks at a time than this and two per client: its own, and those of the calls that it serves."""
TASKS_LOOK_S = 0.5
_POLL_S = 0.1


class ClusterOptions(msgspec.Struct, frozen=True, kw_only=True):
    """The shape of a cluster and the settings of its programs."""

    stores: int = 5
    clients: int = 1
    client: ClientConfig = ClientConfig()
    starts: bool = True
    """Whether the cluster is up when the story begins, and converges when it ends; a story about starts says no."""
    raftstore: RaftStoreConfig = RaftStoreConfig()
    scheduler: SchedulerConfig | None = None
    """Default: as many replicas as stores."""
    think_s: float = 0.02
    """Mean pause of a client between two operations."""
    attempt_timeout_s: float = 2.0
    """Deadline of a client's single call; unknown outcomes come from short ones."""
    drawn: tuple[str, ...] = ()
    """Kinds of faults and settings that the seed has drawn, for stories that draw."""
    without: frozenset[str] = frozenset()
    """Kinds that are left out this time, whatever was drawn."""
    added: tuple[str, ...] = ()
    """Kinds that are on this time, whatever was drawn."""
    length: float = 1.0
    """How much longer than usual the story takes, for stories that can."""
    success_within_s: float = 30.0
    """Within which a client that repeats an operation has to succeed."""


class Cluster:
    """See the module. Belongs to the world's loop; its own code runs as no process."""

    def __init__(self, world: World, options: ClusterOptions, *, number: int = 0) -> None:
        self.world = world
        """Loop, network, files, trace and chance: what everything here stands in."""
        self.number = number
        """The seed as it was asked for, for stories that count through something."""
        self.options = options
        """What the scenario asked for, with what this run leaves out or adds. Never changes."""
        self.network = world.network
        """Where fault makers cut, slow and lose."""
        scheduler_config = options.scheduler or SchedulerConfig(max_replicas=options.stores)
        self.scheduler = SchedulerNode(world, "scheduler", scheduler_config)
        """The only scheduler. Nodes are never replaced; the programs on them come and go."""
        self.stores = [
            StoreNode(world, f"store-{number + 1}", options.raftstore, self) for number in range(options.stores)
        ]
        """In the order in which they first start; the first one bootstraps the cluster."""
        self.clients = [ClientNode(world, f"client-{number + 1}", options.client) for number in range(options.clients)]
        """They start after the stores."""
        self.observer = RaftObserver(self._engine_of, world.loop.time)
        """Sees every message and every write of all stores, and ends the history when one breaks a promise of Raft."""
        self.replica_observer = ReplicaObserver()
        """Sees every write of all stores, and ends the history when regions or what they hold are not as they must be."""
        for store in self.stores:
            store.disk.on_write = self._on_write
        self.history = RawHistory(self._on_operation)
        """What clients asked and were told; judged at the end."""
        self.kinds: list[str] = []
        """Kinds of faults that are or were on."""
        self.coverage: dict[str, Counter[str]] = {}
        """Kind of fault -> operations asked for while it was on."""
        self._active: list[Counter[str]] = []
        """Counters of the kinds that are on now; empty outside the safety phase."""
        self.rng = world.rng_for("scenario")
        """The chance of the story itself, apart from that of network, disks and programs."""
        self.notes: list[str] = []
        """What a story that draws lots drew."""
        self.message_hooks: list[Callable[[RaftEnvelope], None]] = []
        """Called with every message that a store sends, in its turn; for fault makers."""
        self.loses: Callable[[RaftEnvelope], bool] | None = None
        """Which messages between stores get lost, beside those that the network loses by chance; set by stories."""
        self._by_id: dict[int, StoreNode] = {}
        """Store id -> node; a node gets in here when its store knows its id."""
        self._shown = 0
        """How many operations `show` has numbered."""
        self._background: list[asyncio.Task[None]] = []
        """What `in_background` started and `heal_programs` has not waited for yet."""

    @property
    def store_hosts(self) -> list[str]:
        return [store.host for store in self.stores]

    @property
    def all_hosts(self) -> list[str]:
        return ["scheduler", *self.store_hosts, *(client.host for client in self.clients)]

    def begin_trouble(self, kinds: Sequence[str]) -> None:
        """Note which kinds of faults are on from now on."""
        self.kinds.extend(kinds)
        self._active = [self.coverage.setdefault(kind, Counter()) for kind in kinds]

    def _on_operation(self, event: str, client: str, kind: str, *rest: object) -> None:
        self.world.trace.record(event, client, kind, *rest)
        if self._active:
            what = {"invoke": kind, "unknown": "unknown", "fail": "failed"}.get(event)
            for counter in self._active if what else ():
                counter[str(what)] += 1

    def show(self, host: str, kind: str) -> Callable[[str, str], None]:
        """Put an operation of a client on the timeline that the raw history does not know; what is returned ends it.

        It takes the event that ends it, `complete`, `unknown` or `fail`, and what there is to say.
        """
        self._shown += 1
        name, record = f"{kind}#{self._shown}", self.world.trace.record
        record("invoke", host, name)
        return lambda event, text: record(event, host, name, text)

    def may(self, name: str) -> bool:
        """Say whether a kind of fault may be on."""
        return name not in self.options.without

    def session(self, client: ClientNode) -> Session:
        """Return the recording face of a client."""
        return Session(client.host, client, self.history, timeout_s=self.options.attempt_timeout_s)

    # start and stop

    async def start(self) -> None:
        """Bring everything up and wait until the first region has all its replicas."""
        await self.scheduler.start()
        for store in self.stores:
            await store.start()
        for client in self.clients:
            await client.start()
        wanted = (self.options.scheduler or SchedulerConfig(max_replicas=len(self.stores))).max_replicas
        await self.wait_until(
            lambda: self.replicas() >= wanted, limit_s=REPLICATION_BOUND_S, what=f"the first region on {wanted} stores"
        )

    def replicas(self) -> int:
        """Return how many voters each region has at least, on whose disks it is a region of so many."""
        try:
            regions = [region for _, engine in self.engines() for region in regions_on(engine)]
        except EngineClosedError:  # a store is just being stopped
            return 0
        voters: dict[int, list[int]] = {}
        for region in regions:
            voters.setdefault(region.id, []).append(len(region.voters))
        return min((min(max(counts), counts.count(max(counts))) for counts in voters.values()), default=0)

    async def watch_tasks(self) -> None:
        """Look now and then how many tasks each program has; one that leaves tasks behind ends the history."""
        limit = TASKS_MAX + 2 * len(self.clients)
        while True:
            await asyncio.sleep(TASKS_LOOK_S)
            for node in (self.scheduler, *self.stores, *self.clients):
                count = 0 if node.process is None else len(self.world.loop.pending_tasks(node.process))
                if count > limit:
                    names = Counter(task.get_name() for task in self.world.loop.pending_tasks(node.process))
                    most = ", ".join(f"{name} ({number})" for name, number in names.most_common(3))
                    self.world.loop.abort(Violation("tasks", f"{node.host} has {count} tasks, above all {most}"))

    async def stop(self) -> None:
        """Stop clients, stores and scheduler; each must end in time and leave nothing."""
        for node in (*self.clients, *self.stores, self.scheduler):
            await node.wait_ended()
            if node.running:
                await node.stop()

    def abandon(self) -> None:
        """Leave everything as it is: the history has failed, and what remains is only to be forgotten."""
        for client in self.clients:
            client.silence()

    # faults

    async def restart_all_stores(self, *, gracefully: bool, pause_s: float) -> None:
        """Take all stores down at once, by stop or by crash, and bring them up again after a pause."""
        for store in self.stores:
            await (store.stop() if gracefully else store.crash())
        await asyncio.sleep(pause_s)
        for store in self.stores:
            await store.start()

    def heal(self) -> None:
        """End the safety phase: no cut, no loss, no delay beyond the normal."""
        self._active = []
        self.network.heal()
        self.network.conditions = self.world.options.conditions

    def make_unreliable(self, conditions: LinkConditions) -> None:
        """Let the general conditions of all links be worse from now on."""
        self.network.conditions = conditions

    def in_background(self, coroutine: Coroutine[Any, Any, None]) -> None:
        """Run something that a fault maker begins and doesn't wait for; `heal_programs` waits for it."""
        self._background.append(self.world.loop.create_task(coroutine, name="background"))

    async def heal_programs(self) -> None:
        """Repair the disks, wait for what runs in the background, resume what is stalled, and start what is down."""
        await self.heal_programs_of((self.scheduler, *self.stores))

    async def heal_programs_of(self, nodes: Sequence[Node]) -> None:
        """Do what `heal_programs` does for some of them."""
        for node in nodes:
            node.disk.repair()
            node.disk.power_cut = None
        await asyncio.sleep(LATE_FAULTS_S)
        if self._background:
            await asyncio.wait(self._background)
            self._background.clear()
        for node in nodes:
            if node.process is not None:
                node.process.resume()
            await node.wait_ended()
            await start_until_up(node)
            await self.wait_until(lambda node=node: node.is_up, limit_s=60.0, what=f"{node.host} up")  # type: ignore[misc] # node is bound

    # looking

    def engines(self) -> list[tuple[str, SimEngine]]:
        """Return each store's host and engine, of those that ever started."""
        return [(store.host, engine) for store in self.stores if (engine := store.disk.peek()) is not None]

    def leaders(self) -> dict[int, StoreNode]:
        """Return region id -> the running store that leads it in the highest term."""
        best: dict[int, tuple[int, StoreNode]] = {}
        for store in self.stores:
            for term, region_id in store.led():
                if region_id not in best or term > best[region_id][0]:
                    best[region_id] = (term, store)
        return {region_id: store for region_id, (_, store) in best.items()}

    def draw_leader(self, rng: Random) -> StoreNode | None:
        """Return the leader of one of the regions that have one."""
        leaders = [store for _, store in sorted(self.leaders().items())]
        return leaders[0] if len(leaders) == 1 else rng.choice(leaders) if leaders else None

    async def wait_until(self, condition: Callable[[], bool], *, limit_s: float, what: str) -> None:
        """Look every so often until the condition holds. Raises `Violation` (liveness) after `limit_s` virtual seconds."""
        deadline = self.world.loop.time() + limit_s
        while not condition():
            if self.world.loop.time() > deadline:
                raise Violation("liveness", f"not within {limit_s} s: {what}")
            await asyncio.sleep(_POLL_S)

    async def wait_for_leader(self, limit_s: float = 20.0) -> StoreNode:
        """Wait until some region has a leader; return one of those."""
        await self.wait_until(lambda: bool(self.leaders()), limit_s=limit_s, what="a leader")
        return next(iter(self.leaders().values()))

    async def check_converged(self) -> None:
        """Liveness: heal, and wait until every replica has applied what any of them had by then, with the same data.

        A log that is cut all the time also grows all the time, by the cuts; so replicas may never stand at one index.
        """
        self.heal()
        targets: dict[int, int] = {}
        for (region_id, _), (_, index) in self._replica_states().items():
            targets[region_id] = max(targets.get(region_id, 0), index)
        seen: Seen = {}
        compared = 0

        def caught_up() -> bool:
            nonlocal compared
            compared += check_replicas_equal(self.engines(), seen)
            replicas = self._replica_states()
            members = {region_id: count for (region_id, _), (count, _) in replicas.items()}
            return (
                bool(replicas)
                and all(
                    index >= targets.get(region_id, 0) and members[region_id] == count
                    for (region_id, _), (count, index) in replicas.items()
                )
                and len(replicas) == sum(members.values())
                and compared >= len(replicas) - len(members)
            )

        await self.wait_until(
            caught_up,
            limit_s=CONVERGENCE_BOUND_S,
            what="all replicas of "
            + ", ".join(f"region {region_id} at index {index} or above" for region_id, index in targets.items())
            + ", and compared",
        )
        await self._check_answered()

    async def _check_answered(self) -> None:
        """Every command that reached a store over a connection that is still open gets an answer, be it an error."""

        def unanswered() -> list[str]:
            return [
                f"{client.host} to {text}"
                for client in self.clients
                if client.running and client.connector is not None
                for text in client.connector.unanswered()
            ]

        surplus = [
            f"{client.host} to {text}"
            for client in self.clients
            if client.running and client.connector is not None
            for text in client.connector.surplus_streams()
        ]
        if surplus:
            raise Violation("leaks", f"streams that were never closed: {'; '.join(surplus)}")
        deadline = self.world.loop.time() + self.options.raftstore.undetermined_after_s + ANSWER_BOUND_S
        while calls := unanswered():
            if self.world.loop.time() > deadline:
                raise Violation("answers", f"commands that were never answered: {'; '.join(calls)}")
            await asyncio.sleep(_POLL_S)

    def _replica_states(self) -> dict[tuple[int, str], tuple[int, int]]:
        """Return (region, host) -> (how many members its region has, applied index)."""
        return {
            (region.id, host): (len(region.peers), indexes[0])
            for host, engine in self.engines()
            for region in regions_on(engine)
            if (indexes := applied_indexes(engine, region.id)) is not None
        }

    def counters(self) -> dict[str, int]:
        """Return what happened how often: network, crashes, terms."""
        nodes, seen = (self.scheduler, *self.stores), self.world.trace.counts
        refused = sum((node.disk.refused for node in nodes), Counter[str]())
        return {
            **self.network.counters,
            "crashes": seen["crash"] + seen["power cut"],
            "power cuts": seen["power cut"],
            "batches lost": sum(store.disk.batches_lost for store in self.stores),
            "partitions": seen["partition"],
            "stalls": seen["stall"],
            "clocks changed": seen["clock"],
            "orders": seen["order"],
            "writes failed": refused["write"],
            "syncs failed": refused["sync"],
            "full disks met": refused["full"],
            "disks slowed": seen["slows"],
            "files torn": self.world.files.torn,
            "damaged reads": sum(node.disk.errors for node in nodes),
            "ends because of the disk": sum(node.disk_failures for node in nodes),
            "terms": self.observer.terms,
            "raft messages": self.observer.messages,
            "replicas compared": self.replica_observer.comparisons,
        }

    # transport.Directory

    def register_store(self, store_id: int, node: StoreNode) -> None:
        """Note which store a node turned out to be."""
        self._by_id[store_id] = node

    def node_of_store(self, store_id: int) -> StoreNode | None:
        """Return the node of a store id; None for an unknown one."""
        return self._by_id.get(store_id)

    def _engine_of(self, store_id: int) -> SimEngine | None:
        node = self._by_id.get(store_id)
        return None if node is None else node.disk.peek()

    def host_of_store(self, store_id: int) -> str | None:
        node = self._by_id.get(store_id)
        return None if node is None else node.host

    def running_store(self, host: str) -> tuple[Process, Store] | None:
        return next((store.serving for store in self.stores if store.host == host), None)

    def _on_write(self, engine: SimEngine, raft_keys: list[bytes], replaced: list[Replaced]) -> None:
        try:
            self.observer.on_write(engine, raft_keys)
            self.replica_observer.on_write(engine, raft_keys, replaced)
        except Violation as violation:
            self.world.loop.abort(violation)

    def is_disk_full(self, host: str) -> bool:
        return any(store.disk.is_full for store in self.stores if store.host == host)

    def observe(self, envelope: RaftEnvelope) -> None:
        try:
            self.observer.observe(envelope)
        except Violation as violation:
            self.world.loop.abort(violation)
        for hook in self.message_hooks:
            hook(envelope)


def hosts(nodes: Sequence[StoreNode]) -> list[str]:
    """Return the host names of some stores."""
    return [node.host for node in nodes]
