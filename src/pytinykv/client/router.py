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
from collections.abc import AsyncIterator, Iterable
from random import Random

from pytinykv.client.config import ClientConfig
from pytinykv.client.errors import SchedulerUnavailableError, StoreNotFoundError
from pytinykv.client.pd.scheduler_client import RegionInfo, SchedulerClient
from pytinykv.client.region_cache import RegionCache
from pytinykv.client.retry_policy import Retry
from pytinykv.client.route import Destination, Route
from pytinykv.client.store_connection import StoreConnection
from pytinykv.lifecycle import Scope
from pytinykv.model import InvalidRegion, Peer, Region, region_from_pb
from pytinykv.wire import Connector
from pytinykv.wire import errors as wire_errors
from pytinykv.wire.errors import RegionError
from pytinykv.wire.pb import metapb_pb2

_log = logging.getLogger(__name__)

OUTAGE_WAIT_S = 0.5
"""How long to wait for a scheduler before going by what was known earlier."""
OUTAGE_S = 2.0
"""For so long after that it is not asked where something is known: callers take turns in asking, and would all wait."""
REGIONS_PAGE = 64
"""How many regions a range or batch asks the scheduler for at a time."""
AVOID_STORE_S = 3.0
"""A store that did not answer is passed over for so long when there is a choice."""


class Router:
    """The routes of one client. All methods belong to the event loop's thread."""

    def __init__(
        self, scheduler: SchedulerClient, *, connector: Connector, rng: Random, scope: Scope, config: ClientConfig
    ) -> None:
        self.regions = RegionCache()
        """Which peer leads which keys. Filled by the scheduler's answers and by what stores say of regions."""
        self.stores: dict[int, StoreConnection] = {}
        """Where to send what is for a store, as far as is known."""
        self._scheduler = scheduler
        self._connector = connector
        self._rng = rng
        self._scope = scope
        self._config = config
        self._loop = asyncio.get_running_loop()
        self._dropped = RegionCache()
        """Regions that turned out wrong, for use while no scheduler answers: another peer of theirs may know the leader."""
        self._moved: dict[int, StoreConnection] = {}
        """Stores whose address is to be asked for again before the next use."""
        self._retired: list[StoreConnection] = []
        """Connections to former addresses, and to stores that have left, for `close`. They end by themselves when their
        commands are answered, and leave this list when the next one comes."""
        self._addresses: dict[int, str] = {}
        """Where all stores were when the scheduler was asked last. One that nothing was sent to yet may come to lead while
        no scheduler answers."""
        self._avoid_until: dict[int, float] = {}
        """Loop time until which a store that did not answer is passed over."""
        self._outage_until = 0.0
        """Loop time until which the scheduler is not asked for what is known from earlier, since it did not answer."""
        self._lookup = asyncio.Lock()
        """One caller asks the scheduler, the others see its answer in the cache."""

    def close(self) -> None:
        """Resolve every pending command and close the streams."""
        for store in [*self.stores.values(), *self._moved.values(), *self._retired]:
            store.close()

    # --- learning from failures ---------------------------------------------------------------------------------

    def learn(self, route: Route, error: RegionError) -> None:
        """Take what a store says of a region that was wrongly sent to it."""
        match error:
            case wire_errors.NotLeader(leader=leader) if leader is not None:
                known = route.region.peer_on(leader.store_id)
                if known is None or known.id != leader.id:
                    self._drop(route)  # membership has changed as well
                else:
                    self.regions.replace(route, route.led_by(known))
            case wire_errors.EpochNotMatch(current_regions=current):
                self._drop(route)
                # Neighbours may be told as well. They are not taken: one could replace an older and wider region of which the
                # rest is not told, and leave a gap.
                self.regions.insert_all(
                    new for new in _routes_to(current, route.store_id) if new.region.overlaps(route.region)
                )

    def forget(self, route: Route, retry: Retry) -> None:
        """Forget what an attempt at `route` has shown to be wrong."""
        if retry.avoid_store:
            self._avoid_until[route.store_id] = self._loop.time() + AVOID_STORE_S
        if retry.drop_store and (store := self.stores.pop(route.store_id, None)) is not None:
            self._moved[route.store_id] = store
        if retry.drop_region:
            self._drop(route)

    def _drop(self, route: Route) -> None:
        if self.regions.remove(route):
            self._dropped.insert(route)

    # --- finding the way ----------------------------------------------------------------------------------------

    async def find(self, destination: Destination, deadline: float) -> tuple[Route, StoreConnection] | None:
        """Return the route to a destination and its store, asking the scheduler for what is not known.

        None while the scheduler knows no region with a leader for it. Raises `NotBootstrappedError`, `StoreNotFoundError`,
        `SchedulerUnavailableError`.
        """
        route = self.regions.find(destination)
        if route is None:
            async with self._turn(deadline):
                route = self.regions.find(destination) or await self._ask_route(destination, deadline)
        return None if route is None else (route, await self._store_of(route, deadline))

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

    async def _ask_route(self, destination: Destination, deadline: float) -> Route | None:
        left_s = deadline - self._loop.time()
        dropped = self._dropped.find(destination)
        try:
            known = await self._ask_regions(destination, self._patience_s(left_s, has_other=dropped is not None))
        except SchedulerUnavailableError:
            self._note_outage()
            if dropped is None:
                raise
            routes = [self._with_other_leader(dropped)]
        else:
            routes = [route for info in known if (route := self._route_to(info)) is not None]
        # The leaders of other regions may have been learnt since from stores, which know better.
        self.regions.insert_all(
            route for route in routes if route.serves(destination) or not self.regions.knows(route.region)
        )
        # One that is older than what is cached was not taken, and is used all the same: its store names the newer ones.
        return self.regions.find(destination) or next((route for route in routes if route.serves(destination)), None)

    def _patience_s(self, left_s: float, *, has_other: bool) -> float:
        """Return how long to wait for the scheduler; `has_other`: there is something to go by without it.

        Raises `SchedulerUnavailableError` if it is not to be asked at all.
        """
        if not has_other:
            return left_s
        if self._loop.time() < self._outage_until:
            raise SchedulerUnavailableError("the scheduler has not answered a moment ago")
        return min(left_s, OUTAGE_WAIT_S)

    def _note_outage(self) -> None:
        if self._loop.time() >= self._outage_until:
            self._outage_until = self._loop.time() + OUTAGE_S

    async def _ask_regions(self, destination: Destination, left_s: float) -> list[RegionInfo]:
        """Return the region that `destination` means, if the scheduler knows it, and those that are needed with it."""
        bound, below, needed_to = destination
        if needed_to is not None:
            page = await self._scheduler.scan_regions(bound, needed_to, limit=REGIONS_PAGE, timeout_s=left_s)
            if page and page[0].region.contains(bound):
                return page
        info = await self._scheduler.get_region(bound, left_s)
        if info is not None and below and info.region.start_key == bound:
            info = await self._scheduler.get_prev_region(bound, left_s)
        return [] if info is None else [info]

    def _route_to(self, info: RegionInfo) -> Route | None:
        """Return the route to a region; with a guess if its leader did not answer lately, or none is named."""
        now = self._loop.time()
        leader, avoid_until = info.leader, self._avoid_until
        if leader is not None and avoid_until.get(leader.store_id, 0.0) <= now:
            return Route(info.region, leader)
        others = [peer for peer in info.region.voters if avoid_until.get(peer.store_id, 0.0) <= now]
        if others:
            leader = self._rng.choice(others)
        return None if leader is None else Route(info.region, leader)

    def _with_other_leader(self, route: Route) -> Route:
        others = [peer for peer in route.region.voters if peer.store_id != route.store_id]
        return route.led_by(self._rng.choice(others)) if others else route

    async def _store_of(self, route: Route, deadline: float) -> StoreConnection:
        """Return the connection to the store at the end of `route`. If that store is gone, the route is forgotten."""
        store_id = route.store_id
        if (known := self.stores.get(store_id)) is not None:
            return known
        try:
            async with self._turn(deadline):
                return self.stores.get(store_id) or await self._find_store(store_id, deadline)
        except StoreNotFoundError:
            self.regions.remove(route)
            raise

    async def _find_store(self, store_id: int, deadline: float) -> StoreConnection:
        """Return the connection to a store, at the address the scheduler has for it now."""
        address = self._addresses.get(store_id)
        left_s = deadline - self._loop.time()
        try:
            await self._ask_addresses(self._patience_s(left_s, has_other=address is not None))
            address = self._addresses.get(store_id)
        except SchedulerUnavailableError:
            self._note_outage()
            if address is None:
                raise
        if address is None:
            raise StoreNotFoundError(f"store {store_id} is gone")
        store = self._moved.pop(store_id, None)
        if store is None:
            store = StoreConnection(
                store_id, address, connector=self._connector, config=self._config, scope=self._scope
            )
        self.stores[store_id] = store
        return store

    async def _ask_addresses(self, left_s: float) -> None:
        stores = await self._scheduler.get_all_stores(exclude_tombstone=True, timeout_s=left_s)
        self._addresses = {store.id: store.address for store in stores if store.address}
        for connections in (self.stores, self._moved):
            for store in list(connections.values()):
                if (address := self._addresses.get(store.store_id)) != store.address:
                    # Another store may be there by now: a store that has left is never asked for again, and its host may
                    # serve a new one.
                    _log.info(
                        "store %d is not at %s any more, but %s", store.store_id, store.address, address or "gone"
                    )
                    del connections[store.store_id]
                    self._retire(store)

    def _retire(self, store: StoreConnection) -> None:
        """Let a connection end as soon as the commands that it has are answered."""
        store.retire()
        self._retired = [old for old in (*self._retired, store) if not old.is_idle]


def _routes_to(regions: Iterable[metapb_pb2.Region], store_id: int) -> list[Route]:
    """Return routes to regions that store `store_id` has named; none if they can't be understood."""
    try:
        known = [region_from_pb(region) for region in regions]
    except InvalidRegion as error:
        _log.warning("store %d: %s", store_id, error)
        return []
    return [Route(region, leader) for region in known if (leader := _likely_leader(region, store_id)) is not None]


def _likely_leader(region: Region, store_id: int) -> Peer | None:
    """Return the voter on `store_id`, else the first, if there is any."""
    at_hand = region.peer_on(store_id)
    if at_hand is not None and at_hand in region.voters:
        return at_hand
    return next(iter(region.voters), None)
