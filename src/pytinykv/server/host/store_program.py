"""A store, put together: identity, bootstrap, regions, reports and the client service, over whatever carries them.

The gRPC process (`store_process`) and the simulator make the same `StoreProgram` and hand in different ports: engine, disk
worker, transport, connector, clock, randomness.

    start():  find the scheduler → identity (ask for an id, the first time) → bootstrap, if no store has → register
              → load the regions → run
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pytinykv.client.errors import (
    AlreadyBootstrappedError,
    ClusterMismatchError,
    StoreInUseError,
    StoreTombstoneError,
)
from pytinykv.client.pd.scheduler_client import SchedulerClient
from pytinykv.model import RegionId, StoreId, region_to_pb
from pytinykv.raft import PeerId
from pytinykv.raftstore import SnapshotDirectory, Store, StoreIdent, StoreLoop, bootstrap
from pytinykv.server.host.scheduler_link import ClientSchedulerLink
from pytinykv.server.kv.deadlocks import Deadlocks
from pytinykv.server.kv.garbage import Allowed
from pytinykv.server.kv.own_client import OwnClient
from pytinykv.server.kv.service import KvService
from pytinykv.wire import RpcError, StatusCode
from pytinykv.wire.pb import metapb_pb2

if TYPE_CHECKING:
    import random
    from collections.abc import Sequence
    from pathlib import Path

    from pytinykv.lifecycle import Clock, Scope, Worker
    from pytinykv.model import Region
    from pytinykv.raftstore import RaftStoreConfig, Transport
    from pytinykv.server.host.scheduler_link import DiskUsage
    from pytinykv.storage import Engine
    from pytinykv.wire import Connector

_log = logging.getLogger(__name__)

SCHEDULER_PATIENCE_S = 30.0
"""How long a starting store waits for a scheduler before it gives up."""
REGISTER_PAUSE_S = 0.5
"""How often a store asks again that the scheduler does not let register yet."""


@dataclass(frozen=True, kw_only=True)
class StorePorts:
    """What a store takes from the world."""

    engine: Engine
    snapshots_path: Path
    clock: Clock
    rng: random.Random
    disk: Worker
    """Runs the syncs."""
    background: Worker
    """Runs the making of snapshots."""
    transport: Callable[[SchedulerClient], Transport]
    """Makes the transport; the client tells where other stores are."""
    connector: Connector
    """Reaches the scheduler, and other stores."""
    disk_usage: DiskUsage


class StoreProgram:
    """One store of a cluster. `start` once; its scope stops it."""

    def __init__(
        self,
        *,
        ports: StorePorts,
        scheduler_addresses: str | Sequence[str],
        config: RaftStoreConfig,
        scope: Scope,
        claim: Callable[[int, int], None] | None = None,
    ) -> None:
        """Make a store that is not running yet.

        `claim(cluster_id, store_id)` records whose data this is, outside the engine; it raises when that is known to be
        otherwise. `store_id` is 0 while it is not decided yet.
        """
        self._ports = ports
        self._address = ""
        """Where clients reach it; empty until `start`. So the two below."""
        self._peer_address = ""
        """Where other stores send their Raft messages."""
        self._status_address = ""
        """Where others reach this store, as `start` was told; empty before."""
        self._started_s = 0
        """When this process asked to register, in seconds since the Unix epoch; tells it from others that serve the store."""
        self._config = config
        self._scope = scope
        self._claim = claim
        self._ident = bootstrap.store_ident(ports.engine)
        """Whose engine this was when the process started; None for a new store."""
        self.scheduler = SchedulerClient(
            scheduler_addresses,
            connector=ports.connector,
            rng=ports.rng,
            scope=scope,
            caller_id="pytinykv-store",
            cluster_id=self._ident.cluster_id if self._ident is not None else 0,
        )
        self._store: Store | None = None
        """Made by `start`, once; stays."""
        self._is_over = asyncio.Event()
        """Set once, when the scheduler says that this process serves the store no longer."""
        self._end: StoreTombstoneError | StoreInUseError | None = None
        """What it said."""

    @property
    def store(self) -> Store:
        """The running store. Raises RpcError (UNAVAILABLE) before `start` has made it."""
        if self._store is None:
            raise RpcError(StatusCode.UNAVAILABLE, "the store is starting; try again")
        return self._store

    @property
    def is_running(self) -> bool:
        """Return whether the store has been made; it serves from about then on."""
        return self._store is not None

    @property
    def cluster_id(self) -> int:
        return self.scheduler.cluster_id

    async def start(
        self,
        advertise_address: str,
        *,
        peer_address: str = "",
        status_address: str = "",
        patience_s: float = SCHEDULER_PATIENCE_S,
    ) -> KvService:
        """Bring the store up, reachable for clients at `advertise_address`; return what serves them.

        `peer_address` is where other stores send Raft messages; empty: the same.

        Raises ClientError (no scheduler, another cluster, StoreInUseError: another process serves this store), EngineError,
        FormatError.
        """
        self._started_s = self._ports.clock.wall_ms() // 1000
        self._address, self._peer_address, self._status_address = advertise_address, peer_address, status_address
        await self.scheduler.connect(patience_s)
        ident = await self._take_identity(patience_s)
        fresh_region = await self._bootstrap(ident, patience_s)
        await self._register(ident.store_id, patience_s)
        ports = self._ports
        link = ClientSchedulerLink(
            self.scheduler,
            scope=self._scope,
            clock=ports.clock,
            disk_usage=ports.disk_usage,
            started_s=self._started_s,
            register=lambda: self.scheduler.put_store(self._store_meta(ident.store_id)),
            on_end=self._on_end,
        )
        store = self._store = Store(
            store_id=ident.store_id,
            engine=ports.engine,
            snapshot_directory=SnapshotDirectory(ports.snapshots_path),
            clock=ports.clock,
            transport=ports.transport(self.scheduler),
            scheduler_link=link,
            disk=ports.disk,
            background=ports.background,
            rng=ports.rng,
            config=self._config,
            fresh_region_id=None if fresh_region is None else fresh_region.id,
        )
        link.warn_of_stop(store)
        StoreLoop(store).start(self._scope)
        link.attach(store)
        service = KvService(
            store,
            cluster_id=self.cluster_id,
            scope=self._scope,
            fetch_timestamp=self.scheduler.timestamp,
            allow_transactions=self.scheduler.allow_transactions,
            deadlocks=Deadlocks(
                store, self._scope, connector=ports.connector, find_first_leader=self._find_first_leader
            ),
            cluster=OwnClient(self.scheduler, connector=ports.connector, rng=ports.rng, scope=self._scope),
        )
        await service.collect_garbage(self._report_gc, patience_s)
        return service

    async def _report_gc(self, acknowledged_ts: int, oldest_lock_ts: int, timeout_s: float) -> Allowed:
        answer = await self.scheduler.report_gc(
            self.store.store_id, acknowledged_ts=acknowledged_ts, oldest_lock_ts=oldest_lock_ts, timeout_s=timeout_s
        )
        return Allowed(answer.announced_ts, answer.collect_ts, answer.resolve_ts)

    async def _find_first_leader(self, timeout_s: float) -> str:
        """Return the address of the store that leads the first region, "" while none is known. Raises ClientError."""
        info = await self.scheduler.get_region(b"", timeout_s)
        if info is None or info.leader is None:
            return ""
        return (await self.scheduler.get_store(info.leader.store_id, timeout_s)).address

    def _on_end(self, said: StoreTombstoneError | StoreInUseError) -> None:
        self._end = said
        self._is_over.set()

    async def wait_removed(self) -> None:
        """Wait until the store has been removed from the cluster. Raises StoreInUseError once another process serves it."""
        await self._is_over.wait()
        if isinstance(self._end, StoreInUseError):
            raise self._end

    async def _take_identity(self, patience_s: float) -> StoreIdent:
        """Return who this store is; a new one asks for its id."""
        claim, ident = self._claim or (lambda _cluster_id, _store_id: None), self._ident
        claim(self.scheduler.cluster_id, 0)
        if ident is None:
            ident = StoreIdent(self.scheduler.cluster_id, StoreId(await self.scheduler.alloc_id(patience_s)))
            bootstrap.write_store_ident(self._ports.engine, ident)
            _log.info("this is store %d of cluster %d from now on", ident.store_id, ident.cluster_id)
        claim(ident.cluster_id, ident.store_id)
        return ident

    async def _bootstrap(self, ident: StoreIdent, patience_s: float) -> Region | None:
        """Bootstrap the cluster if no store has; return the first region if it has just become this store's."""
        engine, scheduler = self._ports.engine, self.scheduler
        prepared = bootstrap.prepared_region(engine)
        if prepared is None:
            if await scheduler.is_bootstrapped(patience_s):
                return None
            self._refuse_to_bootstrap_twice()
            region_id = RegionId(await scheduler.alloc_id(patience_s))
            peer_id = PeerId(await scheduler.alloc_id(patience_s))
            prepared = bootstrap.prepare_bootstrap(
                engine, store_id=ident.store_id, region_id=region_id, peer_id=peer_id
            )
        try:
            await scheduler.bootstrap(self._store_meta(ident.store_id), region_to_pb(prepared), patience_s)
        except AlreadyBootstrappedError:
            # By another store: one that has bootstrapped and asks again is told yes.
            bootstrap.finish_bootstrap(engine, keep=False)
            _log.info("cluster %d was bootstrapped by another store", ident.cluster_id)
            return None
        bootstrap.finish_bootstrap(engine, keep=True)
        _log.info("bootstrapped cluster %d with region %d", ident.cluster_id, prepared.id)
        return prepared

    async def _register(self, store_id: StoreId, patience_s: float) -> None:
        """Register at this process's address; wait while the scheduler is not sure that another process has ended.

        That one serves this store somewhere else, or another store here. Raises StoreInUseError once two of its heartbeats
        have come meanwhile (one may have been on its way), or past `patience_s`.
        """
        deadline = asyncio.get_running_loop().time() + patience_s
        heard: list[int] = []
        while True:
            self._started_s = self._ports.clock.wall_ms() // 1000
            try:
                await self.scheduler.put_store(self._store_meta(store_id), patience_s)
            except StoreInUseError as error:
                last = await self._last_heartbeat(store_id, patience_s)
                if not heard:
                    _log.warning("waiting to see whether the other process is alive: %s", error)
                if last not in heard:
                    heard.append(last)
                if len(heard) > 2 or asyncio.get_running_loop().time() >= deadline:
                    raise
            else:
                return
            await asyncio.sleep(REGISTER_PAUSE_S)

    async def _last_heartbeat(self, store_id: StoreId, patience_s: float) -> int:
        """Return when this store, or another one at this address, was heard of last."""
        stores = await self.scheduler.get_all_stores(exclude_tombstone=True, timeout_s=patience_s)
        return max(
            (store.last_heartbeat for store in stores if store.id == store_id or store.address == self._address),
            default=0,
        )

    def _refuse_to_bootstrap_twice(self) -> None:
        """Raise ClusterMismatchError if this store has regions of its cluster, and the scheduler has none.

        A second first region would cover the keys of those that there are.
        """
        if bootstrap.has_regions(self._ports.engine):
            raise ClusterMismatchError(
                f"the scheduler of cluster {self.cluster_id} has lost its data, or has an older copy of it: it knows no store"
                " and no region, but this store has some; restore the scheduler's data directory"
            )

    def _store_meta(self, store_id: StoreId) -> metapb_pb2.Store:
        return metapb_pb2.Store(
            id=store_id,
            address=self._address,
            peer_address=self._peer_address,
            status_address=self._status_address,
            version="8.5.0",
            start_timestamp=self._started_s,
        )
