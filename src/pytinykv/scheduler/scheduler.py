"""The scheduler: durable state, the cluster as observed, and the decisions, put together behind one object.

    requests ───► Scheduler ──┬── Committer ──► engine       what must survive a restart
                              ├── Allocators                 ids and timestamps, reserved through the committer
    heartbeats ─►             ├── ClusterView                what stores and leaders report
                              └── Coordinator: checkers ─► operators ─► Order ─► the region's leader

An order travels as the answer to a heartbeat, or is pushed to the leader's store (`bind`) when a tick decides it.
Everything runs on one event loop; time comes from the clock that was handed in, waiting is loop time.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import random
from collections.abc import Callable, Sequence
from typing import Self, cast

import msgspec

from pytinykv.lifecycle import Clock, InlineWorker, Scope, Worker
from pytinykv.model import PeerId, Region, RegionId, SplitIds, StoreId
from pytinykv.scheduler import removal, splitting
from pytinykv.scheduler.allocators import Allocators
from pytinykv.scheduler.cluster_view import ClusterView
from pytinykv.scheduler.commands import (
    AllowTransactions,
    Bootstrap,
    InitCluster,
    PutClusterConfig,
    PutStore,
    SetStoreState,
    StoreStopped,
    UpdateGcSafePoint,
    UpdateServiceSafePoint,
)
from pytinykv.scheduler.commit import Committer
from pytinykv.scheduler.config import SchedulerConfig
from pytinykv.scheduler.coordinator import Coordinator
from pytinykv.scheduler.errors import (
    CannotRemove,
    CannotTransfer,
    InvalidInput,
    NotBootstrapped,
    Refusal,
    SchedulerStopped,
    UnknownRegion,
)
from pytinykv.scheduler.gc import GcAnswer, GcDriver, GcReport
from pytinykv.scheduler.leader_balancer import LeaderBalancer
from pytinykv.scheduler.operator_controller import OperatorController
from pytinykv.scheduler.operators import Operator, OperatorKind, Order, TransferLeader
from pytinykv.scheduler.quorum import why_not_leader
from pytinykv.scheduler.records import ReportedRegion, StoreMeta, StoreState, StoreStats
from pytinykv.scheduler.region_balancer import RegionBalancer
from pytinykv.scheduler.removal import Removal
from pytinykv.scheduler.replica_checker import ReplicaChecker
from pytinykv.scheduler.scatter import Scatter
from pytinykv.scheduler.state import ServiceSafePoint, State, load_regions, load_state
from pytinykv.scheduler.stores import StoreInfo
from pytinykv.scheduler.transactions import PlainSplits, plain_bound
from pytinykv.scheduler.tso import Issued
from pytinykv.storage import Engine

_log = logging.getLogger(__name__)

SPLIT_COUNT_MAX = 4096
"""Into how many new regions one request may split."""
CLOCK_STEP_S = 1.0
"""From which difference between the two clocks' progress on a step of the wall clock is reported."""
STOP_SYNC_S = 0.5
"""How long a stop waits for the disk to release unused timestamps. If it does not, timestamps run a little ahead of the clock
after the next start."""

Sink = Callable[[Order], None]


class Scheduler:
    """The scheduler of one cluster. Made by `open`, inside a running event loop; ended by `stop`."""

    def __init__(
        self,
        engine: Engine,
        clock: Clock,
        config: SchedulerConfig,
        worker: Worker,
        state: State,
        rng: random.Random,
        on_failure: Callable[[BaseException], None] | None,
    ) -> None:
        self.config = config
        self._engine = engine
        self._clock = clock
        self._on_failure = on_failure
        self._committer = Committer(
            engine, worker, state, on_installed=self._on_installed, on_failure=self._on_disk_failure
        )
        self._allocators = Allocators(self._committer, clock, config, self.check_running)
        self.cluster = ClusterView(config)
        self.operators = OperatorController(self.cluster)
        replicas = ReplicaChecker(
            self.cluster,
            self.operators,
            max_replicas=lambda: self.max_replicas,
            allocate_peer_id=self._allocators.allocate_peer_id_nowait,
        )
        self._coordinator = Coordinator(self.operators, [replicas, LeaderBalancer(self.cluster, self.operators)])
        self._region_balancer = RegionBalancer(
            self.cluster,
            self.operators,
            max_replicas=lambda: self.max_replicas,
            allocate_peer_id=self._allocators.allocate_peer_id_nowait,
            rng=rng,
        )
        self._plain_splits = PlainSplits(config.plain_split_s)
        self.gc = GcDriver(life_time_s=config.gc_life_time_s)
        self._map_changed = asyncio.Event()
        """Set when a region changes its range or members, and by a stop; cleared by calls that wait for that, before they
        look at the map."""
        self._sinks: dict[StoreId, Sink] = {}
        """Where orders go that no heartbeat has asked for; set by `bind` for each store with a heartbeat stream."""
        self._patrolled: bytes | None = None
        """Start key of the region the last tick ended with."""
        self._clock_seen = (clock.monotonic(), clock.wall_ms())
        """Monotonic seconds and wall clock in milliseconds at the last tick."""
        self._is_stopped = False
        """Set once, by `stop` or a failure of the disk; requests are refused from then on."""

    @classmethod
    def open(
        cls,
        engine: Engine,
        clock: Clock,
        config: SchedulerConfig | None = None,
        *,
        scope: Scope,
        worker: Worker | None = None,
        rng: random.Random | None = None,
        on_failure: Callable[[BaseException], None] | None = None,
    ) -> Self:
        """Load the state from `engine` and start to work.

        `worker` runs the syncs (default: on the spot). `rng` makes the cluster id of a new cluster and picks regions to
        move (default: the system's randomness). `on_failure` is called once when the disk fails: the process should end. The
        tick runs as a task of `scope`. Blocks for one sync when the cluster is new.

        Raises:
            ValueError: the configuration contradicts itself.
            StateCorrupted: the stored state can't be read.
            EngineError: the disk failed.
        """
        config = config or SchedulerConfig()
        config.validate()
        state = load_state(engine)
        rng = rng or random.SystemRandom()
        scheduler = cls(engine, clock, config, worker or InlineWorker(), state, rng, on_failure)
        if not state.meta.cluster_id:
            scheduler._init_cluster(rng)
        scheduler.cluster.sync_stores(state.stores, clock.monotonic())
        scheduler.cluster.load_regions(load_regions(engine))
        scope.start("scheduler-tick", scheduler._run_ticks)
        return scheduler

    def _init_cluster(self, rng: random.Random) -> None:
        self._committer.execute_blocking(InitCluster(rng.randrange(1, 1 << 63)))
        _log.info("new cluster %d", self.cluster_id)

    async def stop(self) -> None:
        """Refuse requests from now on and end every waiting call. Idempotent. Leaves the engine open."""
        if self._is_stopped:
            return
        self._is_stopped = True
        self._map_changed.set()
        try:
            await asyncio.wait((self._allocators.release_timestamps(),), timeout=STOP_SYNC_S)
        finally:
            self._sinks.clear()
            self._committer.stop()

    # --- state --------------------------------------------------------------------------------------------------

    @property
    def cluster_id(self) -> int:
        return self._committer.state.meta.cluster_id

    @property
    def state(self) -> State:
        """The durable state."""
        return self._committer.state

    @property
    def is_bootstrapped(self) -> bool:
        return self.state.meta.bootstrapped

    @property
    def max_replicas(self) -> int:
        """How many peers each region shall have."""
        return self.state.meta.max_peer_count or self.config.max_replicas

    @property
    def now(self) -> float:
        """Monotonic seconds of the scheduler's clock."""
        return self._clock.monotonic()

    @property
    def timestamps_issued(self) -> int:
        """How many timestamps were handed out since the start of this process."""
        return self._allocators.timestamps_issued

    @property
    def wall_ms(self) -> int:
        return self._clock.wall_ms()

    def check_running(self) -> None:
        """Raise SchedulerStopped once the scheduler is stopping."""
        if self._is_stopped:
            raise SchedulerStopped

    def check_bootstrapped(self) -> None:
        """Raise SchedulerStopped or NotBootstrapped."""
        self.check_running()
        if not self.is_bootstrapped:
            raise NotBootstrapped

    # --- bootstrap, ids, timestamps -----------------------------------------------------------------------------

    async def bootstrap(self, store: StoreMeta, region: Region) -> None:
        """Bootstrap the cluster with its first store and region.

        The store that did so may repeat its request (the answer may have been lost); others get AlreadyBootstrapped. Raises
        InvalidInput.
        """
        self.check_running()
        await self._committer.execute(Bootstrap(msgspec.structs.replace(store, state=StoreState.UP), region))

    async def allocate_ids(self, count: int = 1) -> int:
        """Return the first of `count` consecutive ids that were never given before. Raises InvalidInput, SchedulerStopped."""
        return await self._allocators.allocate_ids(count)

    async def allocate_timestamps(self, count: int = 1) -> Issued:
        """Issue `count` consecutive timestamps; see `Allocators`."""
        return await self._allocators.allocate_timestamps(count)

    def _on_installed(self, state: State) -> None:
        self._allocators.on_installed(state)
        self.cluster.sync_stores(state.stores, self._clock.monotonic())
        if state.meta.bootstrapped and not len(self.cluster.regions):
            self.cluster.load_regions(load_regions(self._engine))

    def _on_disk_failure(self, error: BaseException) -> None:
        self._is_stopped = True
        self._sinks.clear()
        if self._on_failure is not None:
            self._on_failure(error)

    # --- stores -------------------------------------------------------------------------------------------------

    async def put_store(self, store: StoreMeta) -> None:
        """Register a store or renew its meta.

        An address whose store has stopped or fallen silent is taken from it: the process that asks listens there.

        Raises NotBootstrapped, InvalidInput, DuplicateAddress (the store at this address may be alive), StoreTombstone,
        StoreInUse (a process at another address may still serve it).
        """
        self.check_running()
        self.cluster.check_free(store, self.now)
        owner = self.state.store_at(store.address, other_than=store.id)
        if owner is not None:
            self.cluster.check_address(store, owner, self.now)
            _log.warning("store %d takes the address %s from store %d", store.id, store.address, owner.id)
        command = PutStore(store, takes_from=StoreId(0) if owner is None else owner.id)
        known = self.cluster.store(store.id)
        if known is None:
            await self._committer.execute(command)
            return
        # Taken before the disk is waited for: of two that ask in the same moment only one may be told yes.
        before = known.address, known.heard_at
        known.address, known.heard_at, known.restarted_at = store.address, self.now, self.now
        try:
            await self._committer.execute(command)
        except Refusal:
            known.address, known.heard_at = before
            raise

    async def store_stopped(self, store_id: int, start_timestamp: int) -> None:
        """Note that the process that registered for a store has stopped: another one may serve it at once, anywhere."""
        self.check_running()
        await self._committer.execute(StoreStopped(StoreId(store_id), start_timestamp))

    async def remove_store(self, store_id: int) -> Removal:
        """Take a store out of service: its peers move away, then it becomes a tombstone. Return how far that is.

        May be repeated. Raises StoreNotFound, CannotRemove (it is alive, and its peers have nowhere to go).
        """
        self.check_bootstrapped()
        store = self.store(store_id)
        if store.meta.state is StoreState.UP:
            why = removal.obstacle(self.cluster, store.id, self.max_replicas, self.now)
            may_be_served = bool(store.address) and store.is_responsive(self.now, self.config)
            if why and may_be_served:
                raise CannotRemove(store_id, why)
            await self.take_offline(store.id)
            self._look_over_regions(self.now)
        return removal.progress(self.cluster, store.id, self.max_replicas, self.now)

    async def take_offline(self, store_id: int) -> None:
        """Let a store be drained, whether or not the others can take over. Raises StoreNotFound, StoreTombstone."""
        self.check_running()
        await self._committer.execute(SetStoreState(StoreId(store_id), StoreState.OFFLINE))

    async def mark_tombstone(self, store_id: int) -> None:
        """Mark an offline store as removed for good. Raises StoreNotFound, InvalidInput (it is up)."""
        self.check_running()
        await self._committer.execute(SetStoreState(StoreId(store_id), StoreState.TOMBSTONE))

    async def restore_store(self, store_id: int) -> None:
        """Take an offline store back. Raises StoreNotFound, StoreTombstone."""
        self.check_running()
        await self._committer.execute(SetStoreState(StoreId(store_id), StoreState.UP))

    def store(self, store_id: int) -> StoreInfo:
        """Return a store as it is now. Raises StoreNotFound."""
        self.state.store(store_id)
        store = self.cluster.store(store_id)
        assert store is not None, "the cluster follows the durable list of stores"
        return store

    def store_heartbeat(self, stats: StoreStats) -> None:
        """Take in a store's heartbeat. Raises NotBootstrapped, StoreNotFound, StoreTombstone, StoreInUse."""
        self.check_bootstrapped()
        is_new = self.cluster.on_store_heartbeat(stats, now=self.now, wall_ms=self._clock.wall_ms())
        if is_new:
            self._look_over_regions(self.now)  # they may have waited for just this store

    # --- regions ------------------------------------------------------------------------------------------------

    def bind(self, store_id: int, sink: Sink) -> None:
        """Push orders for regions led by this store into `sink`, which must not block. Replaces an older sink."""
        self._sinks[StoreId(store_id)] = sink

    def unbind(self, sink: Sink) -> None:
        """Push nothing into `sink` any more."""
        for store_id in [store_id for store_id, bound in self._sinks.items() if bound == sink]:
            del self._sinks[store_id]

    def region_heartbeat(self, info: ReportedRegion) -> Order | None:
        """Take in a leader's report; return what that leader is to do now.

        Raises NotBootstrapped, InvalidInput, StaleRegion.
        """
        self.check_bootstrapped()
        change = self.cluster.on_region(info)
        self._allocators.note_used(max(info.id, *(max(peer.id, peer.store_id) for peer in info.meta.peers)))
        self._allocators.keep_ids_ready()
        self._committer.remember_regions(change)
        if change.put is not None:
            self._map_changed.set()
        return self._coordinator.decide(info, self.now)

    async def allow_transactions(self) -> str:
        """Let regions be split at memcomparable keys only, from now on; return why that can't be, "" if it is so."""
        self.check_bootstrapped()
        why_not = self._plain_bound()
        if why_not:
            return why_not
        if not self.state.meta.transactional:
            await self._committer.execute(AllowTransactions())
        left_s = self._plain_splits.left_s(self.now)
        if left_s:
            await asyncio.sleep(left_s)
            self.check_running()
        return self._plain_bound()

    def _plain_bound(self) -> str:
        return plain_bound(region.meta for region in self.cluster.regions)

    async def ask_split(self, meta: Region, count: int, keys: Sequence[bytes] = ()) -> list[SplitIds]:
        """Give ids for `count` new regions, which begin at `keys`, where they are told.

        Raises NotBootstrapped, LookupIncomplete, StaleRegion, InvalidInput.
        """
        self.check_bootstrapped()
        self._plain_splits.begin(keys, self.now)
        if not 1 <= count <= SPLIT_COUNT_MAX:
            raise InvalidInput(f"can't split region {meta.id} into {count} new regions: 1 to {SPLIT_COUNT_MAX}")
        self.cluster.check_epoch(meta)
        width = 1 + len(meta.peers)
        first = await self.allocate_ids(count * width)
        return [
            SplitIds(RegionId(start), tuple(PeerId(start + 1 + index) for index in range(len(meta.peers))))
            for start in range(first, first + count * width, width)
        ]

    async def split_regions(self, keys: Sequence[bytes]) -> tuple[int, list[RegionId]]:
        """Split regions at these keys; return how many of them no region starts at yet, and the regions that start at others.

        Waits for up to `split_wait_s`. Splits under way then go on, and the request may be repeated. Raises NotBootstrapped,
        InvalidInput.
        """
        self.check_bootstrapped()
        wanted = splitting.checked_keys(keys)
        deadline = asyncio.get_running_loop().time() + self.config.split_wait_s
        while True:
            self.check_running()
            self._map_changed.clear()
            left = splitting.keys_left(self.cluster, wanted)
            for region in splitting.begin_splits(self.cluster, self.operators, left, self.now):
                self._tell(region, self.now)
            left_s = deadline - asyncio.get_running_loop().time()
            if not left or left_s <= 0:
                return len(left), splitting.regions_at(self.cluster, wanted)
            try:
                async with asyncio.timeout(min(left_s, self.config.tick_interval_s)):
                    await self._map_changed.wait()
            except TimeoutError:
                pass

    def scatter(self, region_ids: Sequence[int]) -> dict[int, str]:
        """Begin to spread the peers and leaders of some regions over all stores; return why some of them can't take part.

        Raises NotBootstrapped, UnknownRegion.
        """
        self.check_bootstrapped()
        regions = {region_id: self._region(region_id) for region_id in region_ids}
        scatter = Scatter(self.cluster, self.operators, self._allocators.allocate_peer_id_nowait)
        failed: dict[int, str] = {}
        for region in sorted(regions.values(), key=lambda one: one.meta.start_key):
            if why := scatter.why_not(region, self.now):
                failed[region.id] = why
                continue
            operator = scatter.plan(region, self.now)
            if operator is not None and self.operators.add(operator, self.now):
                self._tell(region, self.now)
        return failed

    def transfer_leader(self, region_id: int, store_id: int) -> bool:
        """Begin to move a region's leader to a store; return False if it is there already.

        Raises NotBootstrapped, UnknownRegion, StoreNotFound, CannotTransfer.
        """
        self.check_bootstrapped()
        region, store = self._region(region_id), self.store(store_id)
        if region.leader is None:
            raise CannotTransfer(region_id, store_id, "the region's leader is not known at the moment")
        if region.leader.store_id == store.id:
            return False
        if why := why_not_leader(self.cluster, region, store.id, self.now):
            raise CannotTransfer(region_id, store_id, why)
        steps = (TransferLeader(region.leader.store_id, store.id),)
        operator = Operator("transfer leader", region.id, region.meta.epoch, OperatorKind.ADMIN, steps)
        if not self.operators.add(operator, self.now):
            raise CannotTransfer(
                region_id, store_id, f"another request is carried out: {self.operators.get(region_id)}"
            )
        self._tell(region, self.now)
        return True

    def _region(self, region_id: int) -> ReportedRegion:
        region = self.cluster.regions.get(region_id)
        if region is None:
            raise UnknownRegion(region_id)
        return region

    def report_split(self, metas: Sequence[Region]) -> None:
        """Note that a region was split into these, in key order; their heartbeats change the map. Raises InvalidInput."""
        self.check_bootstrapped()
        for left, right in itertools.pairwise(metas):
            if not left.end_key or left.end_key != right.start_key:
                raise InvalidInput(f"regions {left.id} and {right.id} of a split do not lie side by side")
        if len(metas) < 2:
            raise InvalidInput("a split makes at least two regions")
        _log.info("region was split into %s", ", ".join(str(meta.id) for meta in metas))

    # --- garbage collection, configuration ----------------------------------------------------------------------

    async def update_gc_safe_point(self, safe_point: int) -> int:
        """Move the safe point up, never down; return where it is now."""
        self.check_running()
        return cast("int", await self._committer.execute(UpdateGcSafePoint(safe_point)))

    async def report_gc(self, report: GcReport) -> GcAnswer:
        """Take a store's report, and say how far the store may go."""
        self.check_bootstrapped()
        now = self.now
        self.gc.on_report(report, now)
        stores = [store.meta.id for store in self.cluster.stores() if not store.meta.is_tombstone]
        announced_ts = self.gc.announce(self.state.meta, stores, now=now, wall_ms=self.wall_ms)
        reached_ts = self.gc.collectable(self.state.meta, stores, now)
        if reached_ts > self.state.meta.gc_safe_point:
            await self.update_gc_safe_point(reached_ts)
        collect_ts = self.gc.permitted(self.state.meta, stores, now)
        return GcAnswer(announced_ts, collect_ts, self.gc.wanted(self.state.meta, self.wall_ms))

    async def update_service_safe_point(self, service_id: str, safe_point: int, ttl_s: int) -> ServiceSafePoint:
        """Hold collection back for a service (`ttl_s` <= 0: no longer); return the service that holds it back most."""
        self.check_running()
        now_s = self.wall_ms // 1000
        expires_at_s = min(now_s + ttl_s, (1 << 63) - 1) if ttl_s > 0 else 0
        command = UpdateServiceSafePoint(service_id, safe_point, expires_at_s, now_s)
        return cast("ServiceSafePoint", await self._committer.execute(command))

    async def put_cluster_config(self, max_peer_count: int) -> None:
        """Set how many peers each region shall have. Raises NotBootstrapped, InvalidInput."""
        self.check_running()
        await self._committer.execute(PutClusterConfig(max_peer_count))

    # --- ticks --------------------------------------------------------------------------------------------------

    async def _run_ticks(self) -> None:
        while True:
            await asyncio.sleep(self.config.tick_interval_s)
            if self._is_stopped:
                return
            self.tick()
            await self._mark_empty_stores()

    def tick(self) -> None:
        """Check time limits, and look over the next regions whether something is to be done without waiting for them."""
        now = self.now
        self._watch_wall_clock(now)
        self._allocators.keep_ids_ready()
        self.operators.expire(now)
        self._look_over_regions(now)
        self._balance_regions(now)

    def _look_over_regions(self, now: float) -> None:
        """Tell the leaders of the next regions, in key order, what they are to do, be it again."""
        batch = self.cluster.walk(self._patrolled, self.config.patrol_regions_max)
        self._patrolled = batch[-1].meta.start_key if len(batch) == self.config.patrol_regions_max else None
        for region in batch:
            self._tell(region, now)

    def _tell(self, region: ReportedRegion, now: float) -> None:
        """Push to the leader of a region what it is to do, if anything and if its store is connected."""
        sink = None if region.leader is None else self._sinks.get(region.leader.store_id)
        order = None if sink is None else self._coordinator.decide(region, now)
        if sink is not None and order is not None:
            sink(order)

    def _balance_regions(self, now: float) -> None:
        while (operator := self._region_balancer.propose(now)) is not None:
            if not self.operators.add(operator, now):
                return
            region = self.cluster.regions.get(operator.region_id)
            assert region is not None, "an operator starts only for a region on the map"
            self._tell(region, now)

    def _watch_wall_clock(self, now: float) -> None:
        """Log when the wall clock steps: timestamps go on growing (tso.py), but the expiry of locks follows it."""
        wall_ms, (last_now, last_wall_ms) = self.wall_ms, self._clock_seen
        self._clock_seen = (now, wall_ms)
        step_s = (wall_ms - last_wall_ms) / 1000 - (now - last_now)
        if abs(step_s) > CLOCK_STEP_S:
            _log.warning("the wall clock stepped by %+.1f s; timestamps go on growing", step_s)

    async def _mark_empty_stores(self) -> None:
        """Mark stores as tombstones that hold nothing and are being drained, or have been silent for so long as to be lost.

        Only once leaders have reported regions that cover all keys: before, the map may lack regions with peers there.
        """
        going = [
            store
            for store in self.cluster.stores()
            if not store.meta.is_tombstone
            and (store.meta.state is StoreState.OFFLINE or store.is_lost(self.now, self.config))
        ]
        empty = [store for store in going if not self.cluster.regions.tally(store.id).regions]
        if not empty or not self.cluster.regions.is_complete():
            return
        if any(region.leader is None for region in self.cluster.regions):
            return
        for store in empty:
            try:
                if store.meta.state is StoreState.UP:
                    await self.take_offline(store.id)
                await self.mark_tombstone(store.id)
                _log.info("store %d holds nothing any more: it is a tombstone now", store.id)
            except Refusal as error:
                _log.warning("store %d holds nothing but can't be marked as a tombstone: %s", store.id, error)
