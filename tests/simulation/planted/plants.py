"""Bugs to plant: each a small patch of the real code, the scenario that has to find it, within so many seeds, and by whom.

`python tests/simulation/planted/measure.py` counts how many seeds each needs, from several first seeds.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, BinaryIO

from planted.patching import Patch
from pytinykv.client.async_client import AsyncClient
from pytinykv.client.store_connection import StoreConnection
from pytinykv.model import encode
from pytinykv.raft import HardState, election, leading
from pytinykv.raft.core import Core
from pytinykv.raft.following import _accept, follow
from pytinykv.raft.log import RaftLog
from pytinykv.raftstore import apply, keys, recovery, snapshot_files
from pytinykv.raftstore.operations import DELETE_EXPIRED
from pytinykv.raftstore.peer import RegionPeer
from pytinykv.raftstore.peer_storage import RAFT_CF, PeerStorage
from pytinykv.raftstore.pending import PendingProposals, PendingReads
from pytinykv.raftstore.stopping import StoreStop
from pytinykv.raftstore.store import Store
from pytinykv.raftstore.store_loop import StoreLoop
from pytinykv.raftstore.syncs import Syncs
from pytinykv.raftstore.turn import Turn
from pytinykv.scheduler.ids import IdAllocator
from pytinykv.scheduler.regions import RegionMap
from pytinykv.scheduler.tso import TimestampOracle
from pytinykv.server.kv.dispatcher import RegionWrites

LOST = frozenset(
    {
        "appends",
        "linearizability",
        "replica equality",
        "log matching",
        "leader append-only",
        "leader completeness",
        "state machine safety",
        "task failure",
        "AssertionError",
        "election safety",
    }
)
"""Checkers that see data lost or changed. The code's own assertions count: they are checks, too."""
ENDS = frozenset({"stop", "leaks", "Deadlock", "cancellation"})
STUCK = frozenset({"answers", "liveness", "deadline", "TimeLimitExceeded"})
DAMAGED = frozenset({"CorruptionError", "FormatError", "FileNotFoundError"})
"""A store that finds at its start that its disk makes no sense."""


@dataclass(frozen=True)
class Plant:
    """One bug."""

    name: str
    plant: Callable[[Patch], None]
    scenario: str
    seeds: int
    """Within so many it has to be found."""
    checkers: frozenset[str]
    first: int = 1
    """The seed that the test begins with: one that found the bug when it was chosen. Any change may move histories, and then
    a later one finds it, within `seeds`; how long the search is from other seeds, `measure.py` tells."""


PLANTS: list[Plant] = []
LEFT_OPEN: list[BinaryIO] = []
"""Files that a bug has left open, for the test that planted it to close."""


def planted(
    name: str, scenario: str, seeds: int, checkers: frozenset[str], *, first: int = 1
) -> Callable[[Callable[[Patch], None]], Callable[[Patch], None]]:
    def register(plant: Callable[[Patch], None]) -> Callable[[Patch], None]:
        PLANTS.append(Plant(name, plant, scenario, seeds, checkers, first))
        return plant

    return register


# --- durability -------------------------------------------------------------------------------------------------------


@planted("acknowledges before the sync", "blackouts", 10, LOST)
def acknowledges_before_the_sync(patch: Patch) -> None:
    original = Syncs.start

    def start(self: Syncs) -> None:
        if self._wanted > self._durable:
            self._durable = self._wanted
            self._on_done(None)
            return
        original(self)

    patch.setattr(Syncs, "start", start)


@planted("a follower answers before its sync", "blackouts", 10, LOST, first=4)
def follower_answers_before_its_sync(patch: Patch) -> None:
    patch.setattr(Core, "send_after_sync", lambda self, message: self.messages.append(message))


@planted("goes on when its disk has failed", "disks", 10, LOST | {"disk failure"} | STUCK)
def goes_on_when_its_disk_has_failed(patch: Patch) -> None:
    def turn(self: Store) -> None:
        try:
            self._run_turn()
        except Exception:  # noqa: BLE001 - that is the bug
            self._disk_error = None

    patch.setattr(Store, "turn", turn)


@planted("cuts the log before the data of its entries is written", "power-cuts", 20, LOST | DAMAGED, first=8)
def truncates_above_what_is_durable(patch: Patch) -> None:
    original = PeerStorage.truncate

    def truncate(self: PeerStorage, _batch: Any, index: Any, term: Any) -> None:
        at_once = self._engine.write_batch()
        original(self, at_once, index, term)
        self._engine.write(at_once)

    patch.setattr(PeerStorage, "truncate", truncate)


@planted("moves the applied index in a batch of its own", "power-cuts", 20, LOST | DAMAGED)
def applied_index_goes_ahead_of_the_data(patch: Patch) -> None:
    def save_applied(self: PeerStorage, _batch: Any) -> None:
        at_once = self._engine.write_batch()
        at_once.put(RAFT_CF, keys.apply_state_key(self.region.id), encode(self.apply_state))
        self._engine.write(at_once)

    patch.setattr(PeerStorage, "save_applied", save_applied)


@planted("does not sync what it receives of a snapshot", "power-cuts", 20, DAMAGED | LOST)
def received_files_are_not_synced(patch: Patch) -> None:
    original = snapshot_files.SnapshotWriter._close_file

    def close_file(self: Any, file: Any, stream: Any) -> None:
        fsync, snapshot_files.os.fsync = snapshot_files.os.fsync, lambda _file: None  # type: ignore[attr-defined]
        try:
            original(self, file, stream)
        finally:
            snapshot_files.os.fsync = fsync  # type: ignore[attr-defined]

    patch.setattr(snapshot_files.SnapshotWriter, "_close_file", close_file)


@planted("serves a region whose snapshot is half installed", "power-cuts", 60, LOST | DAMAGED | STUCK, first=37)
def serves_half_a_snapshot(patch: Patch) -> None:
    patch.setattr(recovery, "finish_restore", lambda *_: None)


# --- Raft -------------------------------------------------------------------------------------------------------------


@planted("serves reads after the lease", "split-brain", 20, LOST, first=2)
def serves_reads_after_the_lease(patch: Patch) -> None:
    patch.setattr(RegionPeer, "can_read_now", lambda self, _now: self.can_ask_reads())


@planted("forgets its vote at a restart", "rivals", 100, LOST, first=34)
def forgets_its_vote(patch: Patch) -> None:
    original = PeerStorage.initial_state

    def initial_state(self: PeerStorage) -> Any:
        hard, conf = original(self)
        return HardState(hard.term, 0, hard.commit), conf  # type: ignore[arg-type] # no vote

    patch.setattr(PeerStorage, "initial_state", initial_state)
    has_none = property(lambda _self: False, lambda _self, _value: None)
    patch.setattr(Core, "is_just_restarted", has_none)  # it would neither campaign nor vote


@planted("votes twice in a term", "elections", 30, LOST, first=13)
def votes_twice(patch: Patch) -> None:
    original = election.on_vote_request

    def on_vote_request(core: Core, message: Any) -> None:
        core.vote = 0  # type: ignore[assignment] # no vote
        original(core, message)

    patch.setattr(election, "on_vote_request", on_vote_request)


@planted("votes for those whose log is behind", "figure-8", 30, LOST)
def votes_for_those_behind(patch: Patch) -> None:
    patch.setattr(RaftLog, "is_up_to_date", lambda *_: True)


@planted("commits an older term's entry by counting", "figure-8", 100, LOST, first=15)
def commits_old_entries_by_counting(patch: Patch) -> None:
    original = leading.maybe_commit

    def maybe_commit(core: Core, role: Any) -> bool:
        start, role.term_start = role.term_start, 0
        try:
            return original(core, role)
        finally:
            role.term_start = start

    patch.setattr(leading, "maybe_commit", maybe_commit)


@planted("takes a snapshot that is older than its data", "storm", 100, LOST | STUCK | DAMAGED, first=56)
def applies_a_snapshot_over_newer_data(patch: Patch) -> None:
    from pytinykv.raft import raw_node
    from pytinykv.raft.quorum import Configuration

    def on_install_snapshot(core: Core, message: Any) -> None:
        follow(core, message.sender, message.sent_at)
        core.log.restore(message.meta)
        core.conf = Configuration(message.meta.conf_state)
        _accept(core, message, message.meta.index)

    patch.setattr(raw_node.following, "on_install_snapshot", on_install_snapshot)


@planted("ignores a membership change at a restart", "storm", 60, LOST | STUCK | DAMAGED)
def forgets_a_membership_change(patch: Patch) -> None:
    def set_region(self: RegionPeer, _turn: Turn, region: Any) -> None:
        if region is not self.region:
            self.storage.region = region
            self._take_own_role()

    patch.setattr(RegionPeer, "_set_region", set_region)


@planted("takes the scheduler's old word on a region (no epoch check)", "stale-scheduler", 20, LOST | STUCK | DAMAGED)
def skips_the_epoch_check(patch: Patch) -> None:
    def on_membership_answer(self: Store, region: Any) -> None:
        def destroy_if_removed(turn: Turn) -> None:
            one = self.peers.get(region.id)
            if one is not None and region.peer(one.peer.id) is None:
                one.destroy(turn)
                self._touch(one)

        self.in_turn(destroy_if_removed)

    patch.setattr(Store, "on_membership_answer", on_membership_answer)


# --- callers ----------------------------------------------------------------------------------------------------------


@planted("loses the callers of an overtaken proposal", "many-partitions-many-clients", 20, STUCK, first=2)
def loses_the_callers_of_an_overtaken_proposal(patch: Patch) -> None:
    settle = PendingProposals.settle

    def settle_and_forget(self: PendingProposals, index: Any, term: Any) -> Any:
        parts, _lost = settle(self, index, term)
        return parts, []

    patch.setattr(PendingProposals, "settle", settle_and_forget)


@planted("loses the reads of a deposed leader", "storm", 60, STUCK, first=4)
def loses_reads_of_a_deposed_leader(patch: Patch) -> None:
    original = PendingReads.take_all

    def take_all(self: PendingReads) -> list[Any]:
        original(self)
        return []

    patch.setattr(PendingReads, "take_all", take_all)


@planted("answers twice", "basic", 3, STUCK)
def answers_twice(patch: Patch) -> None:
    original = RegionWrites.__call__

    def call(self: Any, error: Any, results: Any) -> None:
        original(self, error, results)
        original(self, error, results)

    patch.setattr(RegionWrites, "__call__", call)


@planted("takes two locks in two orders, across awaits", "basic", 5, STUCK)
def takes_two_locks_in_two_orders(patch: Patch) -> None:
    from pytinykv.client.raw import AsyncRawClient as RawClient

    first, second = asyncio.Lock(), asyncio.Lock()

    def locked(name: str, outer: asyncio.Lock, inner: asyncio.Lock) -> None:
        original = getattr(RawClient, name)

        async def call(self: Any, *args: Any, **options: Any) -> Any:
            async with outer:
                await asyncio.sleep(0)
                async with inner:
                    return await original(self, *args, **options)

        patch.setattr(RawClient, name, call)

    locked("get", first, second)
    locked("put", second, first)


# --- ends -------------------------------------------------------------------------------------------------------------


@planted("a task without an exit", "basic", 1, ENDS)
def starts_a_task_without_an_exit(patch: Patch) -> None:
    original = StoreLoop.start

    def start(self: StoreLoop, scope: Any) -> None:
        original(self, scope)
        self.stray = asyncio.get_running_loop().create_task(asyncio.Event().wait(), name="stray")  # type: ignore[attr-defined]

    patch.setattr(StoreLoop, "start", start)


@planted("a timer that is never cancelled", "basic", 1, ENDS)
def leaves_a_timer(patch: Patch) -> None:
    original = StoreLoop.start

    def start(self: StoreLoop, scope: Any) -> None:
        original(self, scope)
        asyncio.get_running_loop().call_later(3600, print)

    patch.setattr(StoreLoop, "start", start)


@planted("a stop that waits for what never comes", "basic", 1, ENDS)
def stop_waits_for_what_never_comes(patch: Patch) -> None:
    async def wait(self: StoreStop) -> None:
        await asyncio.Event().wait()

    patch.setattr(StoreStop, "_finish", wait)


@planted("a stop that waits for its own caller", "basic", 1, ENDS)
def stop_waits_for_its_own_caller(patch: Patch) -> None:
    original = StoreLoop.start

    def start(self: StoreLoop, scope: Any) -> None:
        original(self, scope)
        ended = asyncio.Event()

        async def run_until_ended() -> None:
            try:
                await asyncio.Event().wait()
            finally:
                ended.set()

        scope.start("worker", run_until_ended)  # ends when the stop cancels it, after its stages
        scope.on_stop("wait for the worker", ended.wait, 1.0)

    patch.setattr(StoreLoop, "start", start)


@planted("a send that blocks until the other store takes it", "many-partitions-one-client", 10, ENDS | STUCK)
def send_blocks(patch: Patch) -> None:
    """TinyKV's hang: the loop hands what it sends to a bounded queue per store, emptied only as the other end answers."""
    started = StoreLoop.start

    def start(self: StoreLoop, scope: Any) -> None:
        under_way: dict[int, int] = {}
        self.under_way = under_way  # type: ignore[attr-defined]
        transport = self._store._transport
        original = transport.send

        def send(store_id: Any, envelopes: Any) -> None:
            original(store_id, envelopes)
            under_way[store_id] = under_way.get(store_id, 0) + 1

        transport.send = send  # type: ignore[method-assign]
        started(self, scope)

    async def run(self: StoreLoop) -> None:
        under_way: dict[int, int] = self.under_way  # type: ignore[attr-defined]
        while True:
            while not self._store.take_due():
                self._idle = asyncio.get_running_loop().create_future()
                await self._idle
            for _size_bytes, envelopes in self._store._inbox._frames:
                under_way[envelopes[0].sender.store_id] = 0
            self._store.turn()
            while max(under_way.values(), default=0) > 30:
                await asyncio.Event().wait()  # for room, which only this loop could make

    patch.setattr(StoreLoop, "start", start)
    patch.setattr(StoreLoop, "_run", run)


@planted("a file that is left open", "one-snapshot", 3, ENDS)
def leaves_a_file_open(patch: Patch) -> None:
    original = snapshot_files.SnapshotWriter.__init__

    def init(self: Any, *args: Any, **options: Any) -> None:
        original(self, *args, **options)
        LEFT_OPEN.append((self.directory / "stray").open("wb"))

    patch.setattr(snapshot_files.SnapshotWriter, "__init__", init)


@planted("a connection that is never closed", "basic", 1, ENDS)
def never_closes_its_connections(patch: Patch) -> None:
    from pytinykv.simulation.rpc_client import SimConnector

    patch.setattr(AsyncClient, "_cut_off", lambda _self: None)
    patch.setattr(SimConnector, "close", _do_nothing)


async def _do_nothing(self: Any) -> None:
    """Not even when the scope asks for it."""


@planted("a stream that is not closed before the next one", "storm", 30, ENDS | STUCK | {"tasks"}, first=25)
def never_closes_a_broken_stream(patch: Patch) -> None:
    original = StoreConnection._run

    async def run(self: StoreConnection) -> None:
        connector = self._connector

        class Keeping:
            unary = connector.unary

            def stream(self, address: str, path: str) -> Any:
                stream = connector.stream(address, path)
                stream.close = lambda: None  # type: ignore[method-assign]
                return stream

        self._connector = Keeping()  # type: ignore[assignment]
        try:
            await original(self)
        finally:
            self._connector = connector

    patch.setattr(StoreConnection, "_run", run)


# --- scheduler and expiry ---------------------------------------------------------------------------------------------


@planted("timestamps begin at the clock after a restart", "scheduler-outages", 20, frozenset({"timestamps"}), first=2)
def timestamps_go_back(patch: Patch) -> None:
    original = TimestampOracle.__init__

    def init(self: TimestampOracle, end_ms: int, **options: Any) -> None:
        original(self, end_ms, **options)
        self._physical_ms, self._reference_ms = 0, 0.0

    patch.setattr(TimestampOracle, "__init__", init)


@planted("ids are used before they are reserved", "scheduler-outages", 20, frozenset({"ids"}) | LOST)
def ids_come_twice(patch: Patch) -> None:
    original = IdAllocator.on_reserved

    def on_reserved(self: IdAllocator, end: int) -> None:
        original(self, end + 1000)

    patch.setattr(IdAllocator, "on_reserved", on_reserved)
    allocator = IdAllocator.__init__

    def init(self: IdAllocator, end: int, window: int) -> None:
        allocator(self, end, window)
        self._end += 1000

    patch.setattr(IdAllocator, "__init__", init)


@planted("a heartbeat brings an old epoch back", "stale-reports", 20, frozenset({"scheduler"}) | LOST | STUCK)
def heartbeats_resurrect_old_epochs(patch: Patch) -> None:
    patch.setattr(RegionMap, "check_not_stale", lambda _self, _info: None)


@planted("deletes what has expired without looking again", "expiry", 20, frozenset({"expiry"}))
def deletes_expired_values_without_looking(patch: Patch) -> None:
    original = apply.apply_conditional

    def apply_conditional(reader: Any, batch: Any, operations: Any) -> Any:
        if operations[0][0] != DELETE_EXPIRED:
            return original(reader, batch, operations)
        for operation in operations:
            batch.delete(apply._RAW, operation[2])
        return [True] * len(operations)

    patch.setattr(apply, "apply_conditional", apply_conditional)
