"""What one client knows of the way: which region holds a key, which peer leads it, where that peer's store is.

    regions ◄── the scheduler; NotLeader and EpochNotMatch of stores        which peer leads which keys
    stores  ◄── the scheduler                                               connections, by store
    dropped regions, old addresses                                          for use while no scheduler answers

All of it may be wrong at any time, which costs a failed attempt: `learn` and `forget` then correct it.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator
from random import Random
from typing import Any

from pytinykv.client.commands import ABOVE_ALL_KEYS, Command, RawScan
from pytinykv.client.config import ClientConfig
from pytinykv.client.errors import SchedulerUnavailableError, StoreNotFoundError
from pytinykv.client.pd.scheduler_client import SchedulerClient
from pytinykv.client.region_cache import Region, RegionCache
from pytinykv.client.retry_policy import Retry
from pytinykv.client.store_connection import StoreConnection
from pytinykv.lifecycle import Scope
from pytinykv.wire import Connector
from pytinykv.wire import errors as wire_errors
from pytinykv.wire.errors import RegionError
from pytinykv.wire.pb import metapb_pb2

_log = logging.getLogger(__name__)

OUTAGE_PATIENCE_S = 0.5
"""How long to wait for a scheduler before going by what was known earlier."""
AVOID_STORE_S = 3.0
"""A store that did not answer is passed over for so long when there is a choice."""


class Router:
    """The routes of one client. All methods belong to the event loop's thread."""

    def __init__(
        self, scheduler: SchedulerClient, *, connector: Connector, rng: Random, scope: Scope, config: ClientConfig
    ) -> None:
        self.regions = RegionCache()
        self.stores: dict[int, StoreConnection] = {}
        """Where to send what is for a store, as far as is known."""
        self._scheduler = scheduler
        self._connector = connector
        self._rng = rng
        self._scope = scope
        self._config = config
        self._loop = asyncio.get_running_loop()
        self._dropped = RegionCache()
        """Regions that turned out wrong, for use while no scheduler answers: some peer of theirs may know better."""
        self._moved: dict[int, StoreConnection] = {}
        """Stores whose address is to be asked for again before the next use."""
        self._retired: list[StoreConnection] = []
        self._addresses: dict[int, str] = {}
        """Where all stores were when the scheduler was asked last. One that nothing was sent to yet may come to lead while
        no scheduler answers."""
        self._avoid_until: dict[int, float] = {}
        self._lookup = asyncio.Lock()
        """One caller asks the scheduler, the others see its answer in the cache."""

    def close(self) -> None:
        """Resolve every pending command and close the streams."""
        for store in [*self.stores.values(), *self._moved.values(), *self._retired]:
            store.close()

    # --- learning from failures ---------------------------------------------------------------------------------

    def learn(self, region: Region, error: RegionError) -> None:
        """Take what a store says of a region that was wrongly sent to it."""
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

    def forget(self, region: Region, retry: Retry) -> None:
        """Forget what an attempt at `region` has shown to be wrong."""
        if retry.avoid_store:
            self._avoid_until[region.store_id] = self._loop.time() + AVOID_STORE_S
        if retry.drop_store and (store := self.stores.pop(region.store_id, None)) is not None:
            self._moved[region.store_id] = store
        if retry.drop_region and self.regions.remove(region):
            self._dropped.insert(region)

    # --- finding the way ----------------------------------------------------------------------------------------

    async def find(self, command: Command[Any], deadline: float) -> tuple[Region, StoreConnection] | None:
        """Return the region and store for `command`, asking the scheduler for what is not known.

        None while the scheduler knows no region with a leader for it. Raises `NotBootstrappedError`, `StoreNotFoundError`,
        `SchedulerUnavailableError`.
        """
        region = command.locate(self.regions) or await self._find_region(command, deadline)
        return None if region is None else (region, await self._store_of(region, deadline))

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
        if (known := self.stores.get(store_id)) is not None:
            return known
        try:
            async with self._turn(deadline):
                return self.stores.get(store_id) or await self._find_store(store_id, deadline)
        except StoreNotFoundError:
            self.regions.remove(region)
            raise

    async def _find_store(self, store_id: int, deadline: float) -> StoreConnection:
        """Return the connection to a store, at the address the scheduler has for it now."""
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
        store = self._moved.pop(store_id, None)
        if store is not None and store.address != address:
            _log.info("store %d moved from %s to %s", store_id, store.address, address)
            self._retire(store)
            store = None
        if store is None:
            store = StoreConnection(
                store_id, address, connector=self._connector, config=self._config, scope=self._scope
            )
        self.stores[store_id] = store
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
