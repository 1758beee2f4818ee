"""A few stores in one process, moved by hand: nothing happens but what a test asks for.

Engines are in memory, messages wait in a list and may be dropped, a sync ends when its worker is told to work, and one clock
for all is moved by `ticks`. `settle` lets everything that is due happen, over and over, until nothing is.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from tests.helpers import ManualClock

from pytinykv.model import Peer, Region, RegionEpoch, RegionId, SplitIds, StoreId, encode
from pytinykv.model.raw_values import encode_raw_value, live_value
from pytinykv.raft import ConfChangeKind, InstallSnapshot, PeerId, Term
from pytinykv.raftstore import (
    MembershipChange,
    Operation,
    RaftEnvelope,
    RaftStoreConfig,
    RegionPeer,
    RegionReport,
    SnapshotDirectory,
    SnapshotHeader,
    SnapshotManifest,
    SnapshotRefusedError,
    Store,
    bootstrap,
    splits,
)
from pytinykv.raftstore.operations import RAW_CODE
from pytinykv.raftstore.records import decode_envelopes, decode_snapshot_header
from pytinykv.raftstore.snapshot_files import snapshot_chunks
from pytinykv.raftstore.turn import Turn
from pytinykv.storage import ColumnFamily, MemoryEngine
from pytinykv.storage.changes import PUT
from pytinykv.wire.errors import RegionError

REGION_ID = RegionId(1)
RAW = ColumnFamily.RAW


class ManualWorker:
    """A `Worker` that works when it is told to."""

    def __init__(self) -> None:
        self.waiting: list[tuple[Callable[[], Any], Callable[[Any], None]]] = []
        self.is_held = False

    def submit(self, work: Callable[[], Any], on_done: Callable[[Any], None]) -> None:
        self.waiting.append((work, on_done))

    def work(self) -> bool:
        """Do everything that waits; return whether there was anything."""
        did = bool(self.waiting)
        while self.waiting:
            work, on_done = self.waiting.pop(0)
            try:
                result = work()
            except Exception as error:  # noqa: BLE001 - handed over, as the thread does
                result = error
            on_done(result)
        return did


class ManualLink:
    """A `SchedulerLink` that remembers, and gives ids for splits: the next ones of all stores together."""

    next_id = 1000

    def __init__(self) -> None:
        self.reports: list[RegionReport] = []
        self.questions: list[tuple[int, Callable[[Region], None]]] = []
        self.splits: list[list[Region]] = []
        self.split_trouble = ""
        """Why no ids are given; empty if they are."""
        self.holds_ids = False
        self.waiting_ids: list[Callable[[], None]] = []

    def report_region(self, report: RegionReport) -> None:
        self.reports.append(report)

    def ask_membership(self, region_id: RegionId, on_answer: Callable[[Region], None]) -> None:
        self.questions.append((region_id, on_answer))

    def ask_split(
        self, region: Region, keys: Sequence[bytes], on_answer: Callable[[Sequence[SplitIds] | str], None]
    ) -> None:
        if self.split_trouble:
            on_answer(self.split_trouble)
            return
        count = len(keys)
        ids = range(self.next_id, self.next_id + count * (1 + len(region.peers)))
        ManualLink.next_id = ids.stop
        step = 1 + len(region.peers)
        made = [
            SplitIds(RegionId(ids[n * step]), tuple(PeerId(one) for one in ids[n * step + 1 : (n + 1) * step]))
            for n in range(count)
        ]
        self.waiting_ids.append(lambda: on_answer(made))
        if not self.holds_ids:
            self.give_ids()

    def give_ids(self) -> None:
        waiting, self.waiting_ids = self.waiting_ids, []
        for give in waiting:
            give()

    def report_split(self, regions: Sequence[Region]) -> None:
        self.splits.append(list(regions))


class ManualTransport:
    """One store's sending side; what it sends waits in the cluster."""

    def __init__(self, cluster: Cluster, store_id: int) -> None:
        self._cluster = cluster
        self._store_id = store_id

    def send(self, store_id: StoreId, envelopes: list[RaftEnvelope]) -> None:
        for envelope in envelopes:
            self._cluster.sent.append(envelope)
            if not self._cluster.drops(envelope):
                self._cluster.messages.append((store_id, encode([envelope])))

    def send_snapshot(
        self,
        envelope: RaftEnvelope,
        manifest: SnapshotManifest,
        directory: Path,
        on_done: Callable[[bool], None],
    ) -> None:
        self._cluster.sent.append(envelope)
        chunks = list(snapshot_chunks(manifest, directory))
        self._cluster.transfers.append(Transfer(SnapshotHeader(envelope, manifest), chunks, on_done))


@dataclass
class Transfer:
    """A snapshot on its way."""

    header: SnapshotHeader
    chunks: list[bytes]
    on_done: Callable[[bool], None]


@dataclass
class Call:
    """What became of a command or a read."""

    error: RegionError | None = None
    results: Any = None
    answers: int = 0
    seen: dict[bytes, bytes | None] = field(default_factory=dict)

    def on_done(self, error: RegionError | None, results: Any = None) -> None:
        self.answers += 1
        self.error, self.results = error, results

    @property
    def succeeded(self) -> bool:
        assert self.answers <= 1, "answered twice"
        return self.answers == 1 and self.error is None

    @property
    def failed(self) -> bool:
        assert self.answers <= 1, "answered twice"
        return self.answers == 1 and self.error is not None


@dataclass
class Node:
    """One store and what is around it."""

    store_id: int
    engine: MemoryEngine
    directory: Path
    disk: ManualWorker = field(default_factory=ManualWorker)
    background: ManualWorker = field(default_factory=ManualWorker)
    link: ManualLink = field(default_factory=ManualLink)
    store: Store | None = None

    @property
    def running(self) -> Store:
        assert self.store is not None, f"store {self.store_id} does not run"
        return self.store

    @property
    def peer(self) -> RegionPeer:
        return self.running.peers[REGION_ID]

    def value(self, key: bytes) -> bytes | None:
        """What the engine has, by local knowledge only."""
        return live_value(self.engine.get(RAW, b"d" + key), 0)


class Cluster:
    """Stores 1, 2, … with peers 101, 102, … of region 1 on the first `members` of them."""

    def __init__(
        self,
        path: Path,
        *,
        stores: int = 3,
        members: int | None = None,
        config: RaftStoreConfig | None = None,
        key_range: tuple[bytes, bytes] = (b"", b""),
    ) -> None:
        self.path = path
        self.config = replace(config or RaftStoreConfig(), inline_sync_s=0)  # syncs end when the test says so
        self.clock = ManualClock()
        self.rng = random.Random(7)
        self.messages: list[tuple[int, bytes]] = []
        self.transfers: list[Transfer] = []
        self.sent: list[RaftEnvelope] = []
        """Everything that was ever sent, dropped or not."""
        self.cut_off: set[int] = set()
        """Stores that are cut off from all others."""
        self.drop: Callable[[RaftEnvelope], bool] = lambda _envelope: False
        self.holds: Callable[[RaftEnvelope], bool] = lambda _envelope: False
        """Messages that wait until `release`."""
        self.held: list[tuple[int, bytes]] = []
        self.holds_transfers = False
        """Whether snapshots wait on their way."""
        self.nodes: dict[int, Node] = {}
        peers = tuple(Peer(PeerId(100 + n), StoreId(n)) for n in range(1, (members or stores) + 1))
        region = Region(REGION_ID, *key_range, RegionEpoch(1, 1), peers)
        for store_id in range(1, stores + 1):
            self.nodes[store_id] = node = Node(store_id, MemoryEngine(), path / f"store-{store_id}")
            batch = node.engine.write_batch()
            member = region.peer_on(store_id)
            if member is not None:
                bootstrap.write_initial_region(batch, region, member.id)
            node.engine.write(batch)
            node.engine.sync()
        for store_id in self.nodes:
            self.start(store_id, fresh=True)

    # --- stores

    def start(self, store_id: int, *, fresh: bool = False) -> Store:
        node = self.nodes[store_id]
        node.disk, node.background = ManualWorker(), ManualWorker()
        node.store = Store(
            store_id=StoreId(store_id),
            engine=node.engine,
            snapshot_directory=SnapshotDirectory(node.directory),
            clock=self.clock,
            transport=ManualTransport(self, store_id),
            scheduler_link=node.link,
            disk=node.disk,
            background=node.background,
            rng=self.rng,
            config=self.config,
            fresh_region_id=REGION_ID if fresh else None,
        )
        return node.store

    def crash(self, store_id: int, *, lose_all: bool = True) -> None:
        """Cut the power of a store; what was not synced is lost, or a random part of it."""
        node = self.nodes[store_id]
        node.store = None
        node.engine = node.engine.crash(_LoseAll() if lose_all else self.rng)

    def restart(self, store_id: int, *, lose_all: bool = True) -> None:
        self.crash(store_id, lose_all=lose_all)
        self.start(store_id)

    # --- time and messages

    def drops(self, envelope: RaftEnvelope) -> bool:
        ends = {envelope.sender.store_id, envelope.receiver.store_id}
        return bool(ends & self.cut_off) or self.drop(envelope)

    def turn(self, store_id: int) -> None:
        """Run one turn of a store, due or not."""
        self.nodes[store_id].running.turn()

    def step(self) -> bool:
        """Let each thing that is due happen once; return whether there was any."""
        did = False
        for node in self.nodes.values():
            if node.store is not None and node.store.take_due():
                node.store.turn()
                did = True
            for worker in (node.disk, node.background):
                if not worker.is_held and node.store is not None:
                    did |= worker.work()
        messages, self.messages = self.messages, []
        held = [one for one in messages if any(map(self.holds, decode_envelopes(one[1])))]
        self.held += held
        for store_id, frame in [one for one in messages if one not in held]:
            did = True
            store = self.nodes[store_id].store
            if store is not None:
                store.receive(frame)
        if self.holds_transfers:
            return did
        transfers, self.transfers = self.transfers, []
        for transfer in transfers:
            did = True
            transfer.on_done(self.deliver(transfer))
        return did

    def deliver(self, transfer: Transfer) -> bool:
        """Bring a snapshot to its receiver; return whether its region took it."""
        envelope = transfer.header.envelope
        store = self.nodes[envelope.receiver.store_id].store
        if store is None or self.drops(envelope):
            return False
        try:
            receiver = store.receive_snapshot(decode_snapshot_header(encode(transfer.header)))
        except SnapshotRefusedError:
            return False
        node, ends = self.nodes[store.store_id], list[BaseException | None]()
        for chunk in transfer.chunks:
            receiver.write(chunk, ends.append)
            node.background.work()
            if ends.pop() is not None:
                return False
        receiver.finish(ends.append)
        node.background.work()
        store.turn()
        return ends.pop() is None

    def hold(self, holds: Callable[[RaftEnvelope], bool]) -> None:
        """Let these messages wait."""
        self.holds = holds

    def release(self, which: Callable[[RaftEnvelope], bool] = lambda _envelope: True) -> None:
        """Deliver what waits, or some of it; without a choice, hold nothing any more."""
        chosen = [one for one in self.held if all(map(which, decode_envelopes(one[1])))]
        self.held = [one for one in self.held if one not in chosen]
        if not self.held:
            self.holds = lambda _envelope: False
        for store_id, frame in chosen:
            if (store := self.nodes[store_id].store) is not None:
                store.receive(frame)

    def settle(self) -> None:
        for _ in range(1000):
            if not self.step():
                return
        raise AssertionError("the cluster does not come to rest")

    def ticks(self, count: int = 1) -> None:
        for _ in range(count):
            self.clock.advance(self.config.tick_s)
            for node in self.nodes.values():
                if node.store is not None:
                    node.store.tick_soon()
            self.settle()

    # --- leading

    def leaders(self) -> list[Node]:
        return [
            node
            for node in self.nodes.values()
            if node.store is not None and REGION_ID in node.store.peers and node.peer.is_leader
        ]

    def leader_of(self, region_id: RegionId) -> Node:
        """Return the store that leads a region in the newest term."""
        leading = [
            (peer.node.term, node.store_id)
            for node in self.nodes.values()
            if node.store is not None and (peer := node.store.peers.get(region_id)) is not None and peer.is_leader
        ]
        assert leading, f"region {region_id} has no leader"
        return self.nodes[max(leading)[1]]

    def elect(self, store_id: int | None = None) -> Node:
        """Tick until there is a leader; with `store_id` until it is that one."""
        for _ in range(40):
            for leader in self.leaders():
                if store_id in {None, leader.store_id} and leader.store_id not in self.cut_off:
                    return leader
            if store_id is not None and (others := self.leaders()):
                others[0].running.transfer_leader(REGION_ID, PeerId(100 + store_id))
            self.ticks(2)
        raise AssertionError("no leader was elected")

    # --- commands

    def propose(
        self,
        store_id: int,
        *operations: Operation,
        version: int | None = None,
        term: int | None = None,
        region_id: RegionId = REGION_ID,
    ) -> Call:
        """Propose a command that was checked just now, or at another version and term."""
        call = Call()
        peer = self.nodes[store_id].running.peers[region_id]
        size = sum(len(part) for operation in operations for part in operation if isinstance(part, bytes))
        self.nodes[store_id].running.propose(
            peer,
            list(operations),
            size,
            call.on_done,
            version=peer.region.epoch.version if version is None else version,
            term=peer.term if term is None else Term(term),
        )
        return call

    def put(self, store_id: int, key: bytes, value: bytes, *, region_id: RegionId = REGION_ID) -> Call:
        return self.propose(store_id, put(key, value), region_id=region_id)

    def propose_split(self, store_id: int, at: Sequence[bytes], new_ids: Sequence[SplitIds]) -> Call:
        """Propose a split as no leader does that has checked it."""
        call, node = Call(), self.nodes[store_id]

        def propose(turn: Turn) -> None:
            data = splits.encode_split(node.peer.region.epoch, at, new_ids)
            node.peer.calls.propose_admin(turn, data, call.on_done)

        node.running.in_turn(propose)
        node.running.tick_soon()
        return call

    def read(self, store_id: int, key: bytes) -> Call:
        """Read by asking the quorum."""
        call = Call()
        node = self.nodes[store_id]

        def on_ready(error: RegionError | None) -> None:
            if error is None:
                call.seen[key] = node.value(key)
            call.on_done(error)

        node.running.read(node.peer, on_ready)
        return call

    def change(
        self, store_id: int, kind: ConfChangeKind, peer_id: int, on_store: int, *, region_id: RegionId = REGION_ID
    ) -> None:
        change = MembershipChange(kind, Peer(PeerId(peer_id), StoreId(on_store)))
        self.nodes[store_id].running.change_membership(region_id, change)

    def entries_sent_to(self, store_id: int) -> list[RaftEnvelope]:
        return [e for e in self.sent if e.receiver.store_id == store_id and getattr(e.message, "entries", ())]

    def snapshots_sent(self) -> int:
        return sum(isinstance(envelope.message, InstallSnapshot) for envelope in self.sent)


def put(key: bytes, value: bytes) -> Operation:
    return (PUT, RAW_CODE, b"d" + key, encode_raw_value(value))


class _LoseAll(random.Random):
    """The worst disk: a crash takes everything that was not synced."""

    def randint(self, a: int, b: int) -> int:
        del b
        return a
