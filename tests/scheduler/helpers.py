"""Builders for the scheduler's tests: a clock that is set by hand, regions by a few words, a cluster without a disk."""

from __future__ import annotations

import random
from collections.abc import Iterable

import msgspec
from tests.helpers import ManualClock

from pytinykv.lifecycle import Scope
from pytinykv.model import Peer, PeerId, PeerRole, Region, RegionEpoch, RegionId, StoreId
from pytinykv.scheduler import Scheduler, SchedulerConfig
from pytinykv.scheduler.cluster_view import ClusterView
from pytinykv.scheduler.coordinator import Coordinator
from pytinykv.scheduler.operator_controller import OperatorController
from pytinykv.scheduler.operators import ChangeKind, ChangePeer, MoveLeader, Operator, Order
from pytinykv.scheduler.records import DownPeer, ReportedRegion, StoreMeta, StoreState, StoreStats
from pytinykv.scheduler.replica_checker import ReplicaChecker
from pytinykv.storage import Engine


class TickingClock(ManualClock):
    """Moves by a little with every reading, so that a wait for it ends."""

    def monotonic(self) -> float:
        self.advance(0.001)
        return self.now


def peer(region_id: int, store_id: int, role: PeerRole = PeerRole.VOTER) -> Peer:
    """The peer that `region` puts on a store."""
    return Peer(PeerId(region_id * 1000 + store_id), StoreId(store_id), role)


def region(
    region_id: int,
    start: bytes = b"",
    end: bytes = b"",
    *,
    stores: Iterable[int] = (1, 2, 3),
    leader: int | None = None,
    version: int = 1,
    conf_ver: int = 1,
    term: int = 0,
    pending: Iterable[int] = (),
    down: Iterable[int] = (),
    learners: Iterable[int] = (),
    size: int = 10,
) -> ReportedRegion:
    """A region with one peer on each of `stores`; the leader is on the first one, or on `leader` (0: unknown)."""
    peers = tuple(
        peer(region_id, store_id, PeerRole.LEARNER if store_id in learners else PeerRole.VOTER) for store_id in stores
    )
    leads = peers[0].store_id if leader is None else leader
    return ReportedRegion(
        meta=Region(RegionId(region_id), start, end, RegionEpoch(conf_ver, version), peers),
        leader=next((one for one in peers if one.store_id == leads), None),
        term=term,
        pending_peers=tuple(one for one in peers if one.store_id in tuple(pending)),
        down_peers=tuple(DownPeer(one, 60) for one in peers if one.store_id in tuple(down)),
        approximate_size=size,
    )


def growth(*stores: int) -> list[str]:
    """The steps, in words, that give the region a voter on each of these stores, one after the other."""
    return [step for store in stores for step in (f"add learner on store {store}", f"promote learner on store {store}")]


def apply_order(info: ReportedRegion, order: Order) -> ReportedRegion:
    """The region after its leader has done what it was told."""
    meta = info.meta
    epoch = RegionEpoch(meta.epoch.conf_ver + 1, meta.epoch.version)
    match order.instruction:
        case ChangePeer(ChangeKind.ADD | ChangeKind.ADD_LEARNER, added):
            others = tuple(one for one in meta.peers if one.id != added.id)
            meta = msgspec.structs.replace(meta, peers=(*others, added), epoch=epoch)
        case ChangePeer(_, removed):
            meta = msgspec.structs.replace(meta, peers=tuple(p for p in meta.peers if p != removed), epoch=epoch)
        case MoveLeader(target):
            return msgspec.structs.replace(info, leader=target)
    return msgspec.structs.replace(info, meta=meta)


def store_meta(store_id: int, address: str = "") -> StoreMeta:
    """A store that has registered and was not stopped."""
    return StoreMeta(StoreId(store_id), address or f"127.0.0.1:{20000 + store_id}", start_timestamp=100)


class Decisions:
    """ClusterView, operators and replica checker without scheduler, disk or event loop."""

    def __init__(self, stores: Iterable[int] = (), **config: object) -> None:
        self.clock = ManualClock()
        self.cluster = ClusterView(SchedulerConfig(**config))
        self.operators = OperatorController(self.cluster)
        self.max_replicas = 3
        self._next_id = 10_000
        self.checker = ReplicaChecker(
            self.cluster,
            self.operators,
            max_replicas=lambda: self.max_replicas,
            allocate_peer_id=self._allocate,
        )
        self.coordinator = Coordinator(self.operators, [self.checker])
        self.metas: dict[StoreId, StoreMeta] = {}
        for store_id in stores:
            self.add_store(store_id)

    def _allocate(self) -> PeerId:
        self._next_id += 1
        return PeerId(self._next_id)

    @property
    def now(self) -> float:
        return self.clock.monotonic()

    def add_store(self, store_id: int, *, regions: int = 0) -> None:
        """Register a store that holds `regions` regions of its own, far away from those of the test."""
        meta = store_meta(store_id)
        self.metas[meta.id] = meta
        self._sync()
        for index in range(regions):
            key = b"\xff%05d-%05d" % (store_id, index)
            self.cluster.on_region(region(100_000 + store_id * 1000 + index, key, key + b"\x00", stores=(store_id,)))

    def set_state(self, store_id: int, state: StoreState) -> None:
        self.metas[StoreId(store_id)] = msgspec.structs.replace(self.metas[StoreId(store_id)], state=state)
        self._sync()

    def _sync(self) -> None:
        self.cluster.sync_stores(dict(self.metas), self.now)

    def heartbeat(self, *store_ids: int, busy: bool = False) -> None:
        for store_id in store_ids:
            stats = StoreStats(StoreId(store_id), capacity=1000, available=900, is_busy=busy)
            self.cluster.on_store_heartbeat(stats, now=self.now, wall_ms=self.clock.wall_ms())

    def silence(self, *dead: int, seconds: float) -> None:
        """Let time pass in which all stores but the dead ones are heard of."""
        self.clock.advance(seconds)
        self.heartbeat(*(store_id for store_id in self.metas if store_id not in dead))

    def check(self, info: ReportedRegion) -> Operator | None:
        self.cluster.regions.put(info)
        return self.checker.check(info, self.now)

    def report(self, info: ReportedRegion) -> Order | None:
        """What the scheduler does with a heartbeat: follow the operator, or look for a new one."""
        self.cluster.on_region(info)
        return self.coordinator.decide(info, self.now)


def steps(operator: Operator | None) -> list[str]:
    """The steps in words, ids of new peers left out."""
    assert operator is not None
    return [str(step).replace(f"learner {getattr(step, 'peer_id', '')} on", "learner on") for step in operator.steps]


def open_scheduler(engine: Engine, clock: ManualClock, scope: Scope, **config: object) -> Scheduler:
    return Scheduler.open(
        engine,
        clock,
        SchedulerConfig(**config),
        scope=scope,
        rng=random.Random(7),
    )


async def bootstrapped(scheduler: Scheduler, stores: Iterable[int] = (1, 2, 3)) -> ReportedRegion:
    """Bootstrap with the first store, register the others; return the first region, which no leader has reported."""
    first, *others = stores
    info = region(10, stores=(first,))
    await scheduler.bootstrap(store_meta(first), info.meta)
    for store_id in others:
        await scheduler.put_store(store_meta(store_id))
    return info
