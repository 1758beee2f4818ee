"""Bugs to plant, continued: peers that are gone, values that end, commands that no workload used, slowness."""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec

from planted.patching import Patch
from planted.plants import DAMAGED, ENDS, LOST, STUCK, planted
from pytinykv.client.async_client import AsyncClient
from pytinykv.client.pd.timestamp_stream import TimestampStream
from pytinykv.raft import HeartbeatResponse, LogIndex
from pytinykv.raft.core import Core
from pytinykv.raft.log import RaftLog
from pytinykv.raftstore import apply
from pytinykv.raftstore.change_orders import ChangeOrders
from pytinykv.raftstore.peer_storage import PeerStorage
from pytinykv.raftstore.router import MessageRouter
from pytinykv.raftstore.store import Store
from pytinykv.raftstore.turn import Turn
from pytinykv.scheduler import state as scheduler_state
from pytinykv.scheduler.allocators import Allocators
from pytinykv.scheduler.commands import PutStore, ReleaseTimestamps
from pytinykv.scheduler.ids import IdAllocator
from pytinykv.server.host.scheduler_link import ClientSchedulerLink
from pytinykv.server.kv import raw_reads, raw_writes
from pytinykv.server.kv.service import KvService


@planted("an old message brings a removed peer back", "removals", 20, frozenset({"tombstones"}) | LOST | STUCK, first=7)
def resurrects_removed_peers(patch: Patch) -> None:
    original = MessageRouter._create

    def create(self: MessageRouter, envelope: Any, turn: Turn) -> Any:
        self._tombstones.pop(envelope.region_id, None)
        return original(self, envelope, turn)

    patch.setattr(MessageRouter, "_create", create)


@planted("shows a value after its end", "ttl", 5, LOST)
def shows_values_after_their_end(patch: Patch) -> None:
    original = raw_reads.live_value
    patch.setattr(raw_reads, "live_value", lambda stored, now_s: original(stored, now_s - 1))


@planted("a compare-and-swap finds what has expired", "ttl", 5, LOST)
def swaps_over_what_has_expired(patch: Patch) -> None:
    original = apply.live_value
    patch.setattr(apply, "live_value", lambda stored, _now_s: original(stored, 0))


@planted("tells the time left to live one second too long", "ttl", 10, LOST)
def tells_a_wrong_ttl(patch: Patch) -> None:
    original = raw_reads.remaining_ttl_s

    def remaining(stored: bytes, now_s: int) -> int:
        left = original(stored, now_s)
        return left + 1 if left else 0

    patch.setattr(raw_reads, "remaining_ttl_s", remaining)


@planted("a batch leaves out its last pair", "batches", 3, LOST)
def batches_leave_out_a_pair(patch: Patch) -> None:
    original = raw_writes.PreparedWrite

    def prepared(operations: Any, size: int, *rest: Any) -> Any:
        return original(operations[:-1] if len(operations) > 2 else operations, size, *rest)

    patch.setattr(raw_writes, "PreparedWrite", prepared)


@planted("a deleted range ends a key too early", "batches", 10, LOST)
def deletes_too_small_a_range(patch: Patch) -> None:
    original = raw_writes.raw_end
    patch.setattr(raw_writes, "raw_end", lambda tag, end: original(tag, end[:-1]))


@planted("a checksum leaves out a pair", "basic", 1, LOST)
def checksums_leave_out_a_pair(patch: Patch) -> None:
    original = raw_reads.checksum_pairs
    patch.setattr(raw_reads, "checksum_pairs", lambda pairs, *rest: original(list(pairs)[1:], *rest))


@planted("blocks of ids overlap", "scheduler-outages", 5, frozenset({"ids"}) | LOST)
def blocks_of_ids_overlap(patch: Patch) -> None:
    original = IdAllocator.allocate_nowait

    def allocate(self: IdAllocator, count: int = 1) -> int | None:
        first = original(self, count)
        if first is not None and count > 1:
            self._next = first + 1
        return first

    patch.setattr(IdAllocator, "allocate_nowait", allocate)


@planted("gives back timestamps that it has issued when it stops", "rolling", 10, frozenset({"timestamps"}))
def releases_issued_timestamps(patch: Patch) -> None:
    def release(self: Allocators) -> Any:
        return self._submit(ReleaseTimestamps(self._oracle.unused_end_ms - 2000, self._oracle.end_ms))

    patch.setattr(Allocators, "release_timestamps", release)


@planted("the scheduler keeps the address that a store had first", "moves", 5, STUCK)
def keeps_the_first_address(patch: Patch) -> None:
    original = scheduler_state._put_store

    def put_store(state: Any, command: Any) -> Any:
        known = state.stores.get(command.store.id)
        address = command.store.address if known is None else known.address
        return original(state, PutStore(msgspec.structs.replace(command.store, address=address)))

    patch.setattr(scheduler_state, "_put_store", put_store)


@planted("a stream that its client has half-closed never ends", "rolling", 3, STUCK)
def half_closed_streams_never_end(patch: Patch) -> None:
    original = KvService._read_frames

    async def endless(requests: Any) -> Any:
        async for request in requests:
            yield request
        await asyncio.Event().wait()

    async def read_frames(self: KvService, requests: Any, answers: Any, frames: Any) -> None:
        await original(self, endless(requests), answers, frames)

    patch.setattr(KvService, "_read_frames", read_frames)


@planted("a client whose timestamps failed once gets none any more", "scheduler-stalls", 10, STUCK, first=2)
def timestamps_fail_for_good(patch: Patch) -> None:
    original = TimestampStream._run

    async def run(self: TimestampStream) -> None:
        await original(self)
        self._running = self._stream is None

    patch.setattr(TimestampStream, "_run", run)


@planted("skips the entry after a run that is full", "storm", 30, LOST | STUCK | DAMAGED | {"protocol"}, first=6)
def skips_the_entry_after_a_full_run(patch: Patch) -> None:
    original = RaftLog.take_committed

    def take(self: RaftLog, bytes_max: int) -> Any:
        taken = original(self, bytes_max)
        is_full = sum(len(entry.data) for entry in taken) >= bytes_max
        if is_full and self.applying < self.committed:
            self.applying = LogIndex(self.applying + 1)
        return taken

    patch.setattr(RaftLog, "take_committed", take)


@planted("applies compare-and-swaps again after a crash", "replays", 20, LOST, first=12)
def replays_conditional_entries(patch: Patch) -> None:
    original = apply._apply

    def apply_(turn: Any, storage: PeerStorage, operations: Any, parts: Any) -> None:
        saved = PeerStorage.save_applied
        PeerStorage.save_applied = lambda _self, _batch: None  # type: ignore[method-assign]
        try:
            original(turn, storage, operations, parts)
        finally:
            PeerStorage.save_applied = saved  # type: ignore[method-assign]

    patch.setattr(apply, "_apply", apply_)


@planted("elections take twenty times as long", "blackouts", 3, STUCK)
def elections_are_slow(patch: Patch) -> None:
    original = Core.reset_election_timer

    def reset(self: Core) -> None:
        original(self)
        self.election_timeout *= 20

    patch.setattr(Core, "reset_election_timer", reset)


@planted("a client takes half a second to stop", "basic", 1, ENDS)
def stops_are_slow(patch: Patch) -> None:
    original = AsyncClient._cut_off

    async def cut_off(self: AsyncClient) -> None:
        await asyncio.sleep(0.5)
        original(self)

    patch.setattr(AsyncClient, "_cut_off", cut_off)


@planted("forgets an order that comes too early", "boot", 20, STUCK)
def forgets_early_orders(patch: Patch) -> None:
    patch.setattr(ChangeOrders, "retry", lambda self, _now: setattr(self, "_order", None))


@planted("a task more with each heartbeat, until the stop", "basic", 1, frozenset({"tasks"}))
def heartbeats_leave_tasks(patch: Patch) -> None:
    original = ClientSchedulerLink._stats

    def stats(self: ClientSchedulerLink, store: Store) -> Any:
        for number in range(0 if self._scope.stopping else 5):
            self._scope.start(f"stray-{number}", asyncio.Event().wait)
        return original(self, store)

    patch.setattr(ClientSchedulerLink, "_stats", stats)


@planted("answers a round of heartbeats that has not begun", "basic", 1, frozenset({"protocol"}))
def answers_rounds_that_have_not_begun(patch: Patch) -> None:
    original = Core.send
    sent = [0]

    def send(self: Core, message: Any) -> None:
        sent[0] += isinstance(message, HeartbeatResponse)
        if isinstance(message, HeartbeatResponse) and sent[0] % 20 == 0:
            message = msgspec.structs.replace(message, round=message.round + 1)
        original(self, message)

    patch.setattr(Core, "send", send)
