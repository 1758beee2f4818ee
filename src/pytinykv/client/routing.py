"""Brings commands to the store that leads their region, and learns from what comes back.

    execute ──region and store known──► submit ──reply──► decode                        the path of nearly every command
       │                                   │
       └── unknown ──► find region, store  └── region error, broken stream … ──► react, pause, again, until the deadline

The cheap path makes one future and awaits it once. Everything else (`recover`) may be slow, and decides by `reactions`.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Callable, Sequence
from random import Random
from typing import Any, Generic, NamedTuple, TypeVar

from pytinykv.client.attempts import AttemptFailure
from pytinykv.client.backoff import Backoff
from pytinykv.client.commands import ABOVE_ALL_KEYS, BatchCommand, Command, RawScan
from pytinykv.client.config import ClientConfig
from pytinykv.client.errors import (
    ClientClosedError,
    ClientError,
    NotBootstrappedError,
    SchedulerUnavailableError,
    StoreNotFoundError,
    UndeterminedError,
)
from pytinykv.client.reactions import Pause, Reaction, deadline_exceeded, on_failure, on_region_error
from pytinykv.client.region_cache import Region, RegionCache
from pytinykv.client.scheduler_client import SchedulerClient
from pytinykv.client.store_connection import StoreConnection
from pytinykv.lifecycle import Scope
from pytinykv.wire import Connector
from pytinykv.wire import errors as wire_errors
from pytinykv.wire.errors import RegionError
from pytinykv.wire.pb import metapb_pb2

__all__ = ["Batch", "Router"]

_log = logging.getLogger(__name__)

WRITE_RETRY_LEFT_MIN_S = 0.01
"""A write is not sent once more with less time left than this: an error that is sure beats one that is undetermined."""
OUTAGE_PATIENCE_S = 0.5
"""How long to wait for a scheduler before going by what was known earlier."""
AVOID_STORE_S = 3.0
"""A store that did not answer is passed over for so long when there is a choice."""

_T = TypeVar("_T")
_ItemT = TypeVar("_ItemT")
Trouble = AttemptFailure | RegionError
"""Why an attempt failed."""


class Batch(NamedTuple, Generic[_ItemT, _T]):
    """A batch operation before it is cut into commands."""

    items: Sequence[_ItemT]
    """Sorted by key, no key twice."""
    key_of: Callable[[_ItemT], bytes]
    size_of: Callable[[_ItemT], int]
    make: Callable[[Sequence[_ItemT]], BatchCommand[_ItemT, _T]]
    """Makes the command for items that lie in one region."""


class Router:
    """Routes of one client. All methods belong to the event loop's thread."""

    def __init__(
        self, scheduler: SchedulerClient, *, connector: Connector, rng: Random, scope: Scope, config: ClientConfig
    ) -> None:
        self.regions = RegionCache()
        self.config = config
        self._dropped = RegionCache()
        """Regions that turned out wrong, for use while no scheduler answers: some peer of theirs may know better."""
        self._scheduler = scheduler
        self._connector = connector
        self._rng = rng
        self._scope = scope
        self._loop = asyncio.get_running_loop()
        self._stores: dict[int, StoreConnection] = {}
        self._retired: list[StoreConnection] = []
        self._moved: set[int] = set()
        """Stores whose address is to be asked for again before the next use."""
        self._addresses: dict[int, str] = {}
        """Where all stores were when the scheduler was asked last. One that nothing was sent to yet may come to lead while
        no scheduler answers."""
        self._avoid_until: dict[int, float] = {}
        self._lookup = asyncio.Lock()
        """One caller asks the scheduler, the others see its answer in the cache."""
        self._closed = False
        self._closing: asyncio.Future[None] = self._loop.create_future()
        """Resolved by `close`; ends pauses."""

    def deadline(self, timeout_s: float | None) -> float:
        """Return the deadline, in loop time, of a call that begins now."""
        return self._loop.time() + (self.config.timeout_s if timeout_s is None else timeout_s)

    def close(self) -> None:
        """Resolve every pending command and close the streams."""
        self._closed = True
        if not self._closing.done():
            self._closing.set_result(None)
        for store in [*self._stores.values(), *self._retired]:
            store.close()

    # --- one command --------------------------------------------------------------------------------------------

    async def execute(self, command: Command[_T], deadline: float) -> _T:
        """Run `command` where it belongs and return its result. Raises `ClientError`."""
        future = self.submit(command, deadline)
        if future is None:
            return await self.recover(command, deadline, None)
        reply = await future
        outcome = self.outcome(command, reply)
        if outcome is None:
            return command.decode(getattr(reply, command.field))
        return await self.recover(command, deadline, outcome)

    def submit(self, command: Command[Any], deadline: float) -> asyncio.Future[Any] | None:
        """Send `command` if its route is known; otherwise None, and `recover` finds one."""
        if command.unary_path is not None or self._closed:
            return None
        region = command.locate(self.regions)
        if region is None:
            return None
        store = self._stores.get(region.store_id)
        if store is None or region.store_id in self._moved:
            return None
        return store.submit(command, region, self._attempt_deadline(command, deadline))

    def outcome(self, command: Command[Any], reply: Any) -> Trouble | None:
        """Return why `reply` is none; None if it is one, fit for `command.decode`."""
        if type(reply) is AttemptFailure:
            return reply
        if command.unary_path is None:
            if not reply.HasField(command.field):
                return wire_errors.UnknownRegionError(
                    f"the store answered {reply.WhichOneof('cmd')} to {command.field}"
                )
            reply = getattr(reply, command.field)
        return RegionError.from_pb(reply.region_error) if reply.HasField("region_error") else None

    async def recover(self, command: Command[_T], deadline: float, trouble: Trouble | None) -> _T:
        """Carry on after a first attempt that failed with `trouble` (None: there was none), until the deadline."""
        backoff = self._backoff(deadline)
        while True:
            if trouble is not None:
                await self._pause([self._judge(command, trouble, deadline)], backoff)
            self._check_time(command, deadline, trouble)
            region, store = await self._route(command, deadline, trouble)
            attempt_deadline = self._attempt_deadline(command, deadline)
            if command.unary_path is not None:
                reply = await store.call(command, region, attempt_deadline)
            else:
                reply = await store.submit(command, region, attempt_deadline)
            trouble = self.outcome(command, reply)
            if trouble is None:
                return command.decode(reply if command.unary_path is not None else getattr(reply, command.field))
            _log.debug("%s: %s", command.describe(), trouble)

    def last_word(self, command: Command[Any], trouble: Trouble | None) -> ClientError:
        """Return the error of a command that gets no further attempt because the client is closing."""
        try:
            if trouble is not None:
                self._judge(command, trouble, self._loop.time())
        except ClientError as error:
            return error
        return ClientClosedError(f"{command.describe()}: the client was closed; nothing was changed")

    def _attempt_deadline(self, command: Command[Any], deadline: float) -> float:
        if command.write:
            return deadline
        return min(deadline, self._loop.time() + self.config.read_attempt_timeout_s)

    def _check_time(self, command: Command[Any], deadline: float, trouble: object) -> None:
        if self._closed:
            raise ClientClosedError(f"{command.describe()}: the client is closed; nothing was changed")
        if self._is_late(command, deadline, trouble):
            raise deadline_exceeded(command, str(trouble or "its region was not found"))

    def _is_late(self, command: Command[Any], deadline: float, trouble: object) -> bool:
        needed_s = WRITE_RETRY_LEFT_MIN_S if command.write and trouble is not None else 0.0
        return self._loop.time() + needed_s >= deadline

    # --- many keys ----------------------------------------------------------------------------------------------

    async def execute_batch(self, batch: Batch[_ItemT, _T], deadline: float) -> list[_T]:
        """Run a batch in commands of one region each, all under way at once; return their results.

        Items of a failed attempt are grouped anew, as their region may have split. If one command fails for good, the
        others are still waited for; then the gravest error is raised. A write of which a part was executed counts as
        undetermined.
        """
        results: list[_T] = []
        backoff = self._backoff(deadline)
        pending = batch.items
        trouble: Trouble | None = None
        while pending:
            errors: list[ClientError] = []
            reactions: list[Reaction] = []
            try:
                attempts = await self._submit_batch(batch, pending, deadline, trouble)
            except ClientError as error:
                attempts = []
                errors.append(error)
            pending = []
            for command, future in attempts:
                reply = await future
                try:
                    failure = self.outcome(command, reply)
                    if failure is None:
                        results.append(command.decode(getattr(reply, command.field)))
                        continue
                    trouble = failure
                    reactions.append(self._judge(command, failure, deadline))
                    pending += command.items
                except ClientError as error:
                    errors.append(error)
            if errors:
                raise _gravest(errors, partly_done=bool(results) and batch.make(batch.items).write)
            if pending:
                await self._pause(reactions, backoff)
        return results

    async def _submit_batch(
        self, batch: Batch[_ItemT, _T], items: Sequence[_ItemT], deadline: float, trouble: Trouble | None
    ) -> list[tuple[BatchCommand[_ItemT, _T], asyncio.Future[Any]]]:
        """Send `items` in commands of one region each; all routes are found before the first is sent."""
        commands = [batch.make(chunk) for chunk in await self._chunks(batch, items, deadline, trouble)]
        routes = [await self._route(command, deadline, trouble) for command in commands]
        return [
            (command, store.submit(command, region, self._attempt_deadline(command, deadline)))
            for command, (region, store) in zip(commands, routes, strict=True)
        ]

    async def _chunks(
        self, batch: Batch[_ItemT, Any], items: Sequence[_ItemT], deadline: float, trouble: Trouble | None
    ) -> list[Sequence[_ItemT]]:
        """Cut `items` where regions end, and where a command would grow too large."""
        chunks: list[Sequence[_ItemT]] = []
        chunk: list[_ItemT] = []
        region: Region | None = None
        size = 0
        for item in items:
            key = batch.key_of(item)
            size += batch.size_of(item)
            if region is None or not region.contains(key):
                region, _ = await self._route(batch.make([item]), deadline, trouble)
                full = True
            else:
                full = len(chunk) >= self.config.batch_keys_max or size > self.config.batch_bytes_max
            if full and chunk:
                chunks.append(chunk)
                chunk = []
                size = batch.size_of(item)
            chunk.append(item)
        chunks.append(chunk)
        return chunks

    # --- learning from failures ---------------------------------------------------------------------------------

    def _judge(self, command: Command[Any], trouble: Trouble, deadline: float) -> Reaction:
        """Decide about a failure, and forget or learn what follows from it. Raises what is final."""
        region = command.region
        assert region is not None
        if isinstance(trouble, AttemptFailure):
            reaction = on_failure(command, trouble, time_left=self._loop.time() < deadline)
        else:
            reaction = on_region_error(command, trouble)
            self._learn(region, trouble)
        if reaction.avoid_store:
            self._avoid_until[region.store_id] = self._loop.time() + AVOID_STORE_S
        if reaction.drop_store:
            self._moved.add(region.store_id)
        if reaction.drop_region and self.regions.remove(region):
            self._dropped.insert(region)
        return reaction

    def _learn(self, region: Region, error: RegionError) -> None:
        match error:
            case wire_errors.NotLeader(leader=leader) if leader is not None:
                known = region.peer_on_store(leader.store_id)
                if known is None or known.id != leader.id:
                    self.regions.remove(region)  # membership has changed as well
                else:
                    self.regions.replace(region, region.with_leader(leader))
            case wire_errors.EpochNotMatch(current_regions=metas):
                self.regions.remove(region)
                self.regions.insert_all(
                    Region(meta, meta_leader)
                    for meta in metas
                    if (meta_leader := _peer_on(meta, region.store_id)) is not None
                )

    async def _pause(self, reactions: Sequence[Reaction], backoff: Backoff) -> None:
        """Pause for the longest of several reactions; "at once" is granted once per call."""
        if all(reaction.pause is Pause.NONE for reaction in reactions) and backoff.attempts == 0:
            backoff.attempts += 1
            return
        await backoff.pause(max(reaction.pause_at_least_s for reaction in reactions))

    def _backoff(self, deadline: float) -> Backoff:
        return Backoff(self.config, deadline=deadline, rng=self._rng, closing=self._closing)

    # --- finding the way ----------------------------------------------------------------------------------------

    async def _route(self, command: Command[Any], deadline: float, trouble: object) -> tuple[Region, StoreConnection]:
        """Return the region and store for `command`, asking the scheduler for what is not known."""
        backoff = self._backoff(deadline)
        while True:
            self._check_time(command, deadline, trouble)
            try:
                region = command.locate(self.regions) or await self._find_region(command, deadline)
                if region is not None:
                    return region, await self._store_of(region, deadline)
                trouble = trouble or "the scheduler knows no region with a leader for it"
            except (NotBootstrappedError, StoreNotFoundError) as error:
                trouble = error
            except SchedulerUnavailableError as error:
                raise SchedulerUnavailableError(f"{command.describe()} was not executed: {error}") from error
            await backoff.pause()

    async def _find_region(self, command: Command[Any], deadline: float) -> Region | None:
        async with self._turn(deadline):
            return command.locate(self.regions) or await self._ask_region(command, deadline)

    @contextlib.asynccontextmanager
    async def _turn(self, deadline: float) -> AsyncIterator[None]:
        """Wait for the turn to ask the scheduler."""
        try:
            async with asyncio.timeout_at(deadline):
                await self._lookup.acquire()
        except TimeoutError:
            raise SchedulerUnavailableError("the scheduler has not answered an earlier question yet") from None
        try:
            yield
        finally:
            self._lookup.release()

    async def _ask_region(self, command: Command[Any], deadline: float) -> Region | None:
        left_s = deadline - self._loop.time()
        dropped = command.locate(self._dropped)
        try:
            region = await self._ask_scheduler(command, left_s if dropped is None else min(left_s, OUTAGE_PATIENCE_S))
        except SchedulerUnavailableError:
            if dropped is None:
                raise
            region = self._with_other_leader(dropped)
        if region is None or not region.id:
            return None
        region = self._with_reachable_leader(region)
        if region is not None:
            self.regions.insert(region)
        return region

    async def _ask_scheduler(self, command: Command[Any], left_s: float) -> Region | None:
        if isinstance(command, RawScan) and command.reverse:
            return await self._ask_region_below(command.range.end or None, left_s)
        return await self._scheduler.get_region(command.key, left_s)

    async def _ask_region_below(self, upper: bytes | None, left_s: float) -> Region | None:
        region = await self._scheduler.get_region(ABOVE_ALL_KEYS if upper is None else upper, left_s)
        if region is not None and region.start == upper:
            return await self._scheduler.get_prev_region(region.start, left_s)
        return region

    def _with_reachable_leader(self, region: Region) -> Region | None:
        """Guess another leader if the one the scheduler names did not answer lately, or none is named."""
        now = self._loop.time()
        avoid_until = self._avoid_until
        if region.leader.id and avoid_until.get(region.store_id, 0.0) <= now:
            return region
        others = [peer for peer in _voters(region.meta) if avoid_until.get(peer.store_id, 0.0) <= now]
        if others:
            return region.with_leader(self._rng.choice(others))
        return region if region.leader.id else None

    def _with_other_leader(self, region: Region) -> Region:
        others = [peer for peer in _voters(region.meta) if peer.store_id != region.store_id]
        return region.with_leader(self._rng.choice(others)) if others else region

    async def _store_of(self, region: Region, deadline: float) -> StoreConnection:
        """Return the connection to the store that leads `region`; one it can't be, and the region, are forgotten."""
        store_id = region.store_id
        if store_id not in self._moved and (known := self._stores.get(store_id)) is not None:
            return known
        try:
            async with self._turn(deadline):
                if store_id not in self._moved and (known := self._stores.get(store_id)) is not None:
                    return known
                return await self._find_store(store_id, deadline)
        except StoreNotFoundError:
            self.regions.remove(region)
            raise

    async def _find_store(self, store_id: int, deadline: float) -> StoreConnection:
        """Return the connection to a store, at the address the scheduler has for it now."""
        known = self._stores.get(store_id)
        address = self._addresses.get(store_id)
        left_s = deadline - self._loop.time()
        try:
            await self._ask_addresses(left_s if address is None else min(left_s, OUTAGE_PATIENCE_S))
            address = self._addresses.get(store_id)
        except SchedulerUnavailableError:
            if address is None:
                raise
        if address is None:
            raise StoreNotFoundError(f"store {store_id} is gone")
        self._moved.discard(store_id)
        if known is not None and known.address == address:
            return known
        if known is not None:
            _log.info("store %d moved from %s to %s", store_id, known.address, address)
            self._retire(known)
        store = StoreConnection(store_id, address, connector=self._connector, config=self.config, scope=self._scope)
        self._stores[store_id] = store
        return store

    async def _ask_addresses(self, left_s: float) -> None:
        stores = await self._scheduler.get_all_stores(exclude_tombstone=True, timeout_s=left_s)
        self._addresses = {store.id: store.address for store in stores if store.address}

    def _retire(self, store: StoreConnection) -> None:
        """Keep a connection nobody sends to any more until its commands are answered."""
        self._retired.append(store)
        for old in [old for old in self._retired if not old.in_flight]:
            old.close()
            self._retired.remove(old)


def _voters(meta: metapb_pb2.Region) -> list[metapb_pb2.Peer]:
    """Return the peers that may come to lead: all but learners."""
    return [peer for peer in meta.peers if peer.role != metapb_pb2.PeerRole.Learner]


def _peer_on(meta: metapb_pb2.Region, store_id: int) -> metapb_pb2.Peer | None:
    """Return the peer on `store_id` (the store that told us led the old region), else the first, if there is any."""
    voters = _voters(meta)
    return next((peer for peer in voters if peer.store_id == store_id), next(iter(voters), None))


def _gravest(errors: Sequence[ClientError], *, partly_done: bool) -> ClientError:
    """Return the error that says most about what may have happened."""
    error = max(errors, key=lambda error: error.undetermined)
    if not partly_done or error.undetermined:
        return error
    grave = UndeterminedError(f"only a part of the batch was executed: {error}")
    grave.__cause__ = error
    return grave
