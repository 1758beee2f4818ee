"""A store as a process: its base, and the store in them; and the order in which all of it stops.

stages        1  not serving any more (health), the store's own (`raftstore.stopping`), a last heartbeat that says so
members       2  gRPC server, peer port, links to other stores, connections
tasks         3  loop, timers, heartbeats
threads       4  disk, snapshots, status port
then          5  the engine is closed, the data directory let go
"""

from __future__ import annotations

import logging
import random
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from pytinykv.client.grpc_connector import GrpcConnector
from pytinykv.lifecycle import SystemClock, ThreadWorker
from pytinykv.raftstore import RaftStoreConfig
from pytinykv.server.host.address_book import AddressBook
from pytinykv.server.host.describe import describe_store
from pytinykv.server.host.joined_services import JoinedServices
from pytinykv.server.host.leadership_log import tell_leaderships
from pytinykv.server.host.metrics import StoreMetrics
from pytinykv.server.host.raft_transport import StoreTransport, serve_raft_messages, serve_snapshots
from pytinykv.server.host.server_base import ServerBase, ServerConfig
from pytinykv.server.host.store_program import SCHEDULER_PATIENCE_S, StorePorts, StoreProgram
from pytinykv.server.host.wiring import store_wiring
from pytinykv.storage import DataKind
from pytinykv.transport.address import Address, parse_address

if TYPE_CHECKING:
    from pytinykv.lifecycle import Scope

_log = logging.getLogger(__name__)

TIKV = "tikvpb.Tikv"
DEADLOCK = "deadlock.Deadlock"


@dataclass(frozen=True, kw_only=True)
class StoreProcessConfig(ServerConfig):
    """What a store process is started with."""

    scheduler: tuple[str, ...]
    scheduler_patience_s: float = SCHEDULER_PATIENCE_S
    """How long the start waits for a scheduler that does not answer before it gives up."""
    peer_addr: str = ""
    """Where other stores' Raft messages arrive; empty: the host of `addr`, any free port."""
    advertise_peer_addr: str = ""
    """Where other stores find it; empty: the peer port, at the host by which the store is reached."""
    raftstore: RaftStoreConfig = field(default_factory=RaftStoreConfig)

    @property
    def listening(self) -> tuple[str, ...]:
        """All addresses at which the process will listen."""
        return (*super().listening, *((self.peer_addr,) if self.peer_addr else ()))


async def run_store(config: StoreProcessConfig, scope: Scope, on_ready: Callable[[dict[str, object]], None]) -> None:
    """Bring a store up in `scope` and serve; return when it was removed from the cluster, so that the process may end.

    `on_ready` gets what the ready line tells. Raises the errors of its parts, each saying what and what to do:
    DataDirectoryError, EngineError, AddressError, ClientError (scheduler unreachable, another cluster, StoreInUseError:
    another process serves this store now).
    """
    store_wiring().check()
    base = ServerBase(config, scope, kind=DataKind.STORE, services=(TIKV, DEADLOCK))
    program = _make_program(config, base)
    serve_snapshots(base.grpc, program)
    address = await base.listen()
    listen_at = config.peer_addr or str(parse_address(config.addr).with_port(0))
    peer_port = await serve_raft_messages(base.scope, program).start(listen_at, insecure=config.insecure)
    peer_address = config.advertise_peer_addr or str(_peer_address(config, address).with_port(peer_port))
    status_address = base.open_status(
        lambda: _problem(program),
        {"/debug/store": lambda: describe_store(program.store) if program.is_running else {}},
    )
    service = await program.start(
        address,
        peer_address=peer_address,
        status_address=status_address,
        patience_s=config.scheduler_patience_s,
    )
    base.registry.register(StoreMetrics(program.store, service, base.directory.path))
    base.serve(JoinedServices(service, service.deadlocks))
    _log.info(
        "store %d of cluster %d serves at %s, other stores at %s; regions: %d, data in %s, scheduler at %s",
        program.store.store_id,
        program.cluster_id,
        address,
        peer_address,
        len(program.store.peers),
        base.directory.path,
        ", ".join(config.scheduler),
    )
    base.scope.start("tell-leaderships", tell_leaderships, program.store)
    on_ready(
        {"addr": address, "status": status_address, "store": program.store.store_id, "cluster": program.cluster_id}
    )
    await program.wait_removed()
    _log.info(
        "store %d was removed from the cluster and holds nothing any more: this process ends; %s may be deleted",
        program.store.store_id,
        config.data_dir,
    )


def _make_program(config: StoreProcessConfig, base: ServerBase) -> StoreProgram:
    directory, scope = base.directory, base.scope
    ports = StorePorts(
        engine=base.engine,
        snapshots_path=directory.snapshots_path,
        clock=SystemClock(),
        rng=random.Random(),
        disk=ThreadWorker(scope, "disk"),
        background=ThreadWorker(scope, "snapshots"),
        transport=lambda scheduler: StoreTransport(AddressBook(scheduler, scope), scope),
        connector=GrpcConnector(scope),
        disk_usage=lambda: _disk_usage(directory.path),
    )
    return StoreProgram(
        ports=ports,
        scheduler_addresses=config.scheduler,
        config=config.raftstore,
        scope=scope,
        claim=lambda cluster_id, store_id: directory.claim(cluster_id=cluster_id, store_id=store_id),
    )


def _peer_address(config: StoreProcessConfig, address: str) -> Address:
    """Return the address whose host is that of the peer port for others: its own only if nothing else was configured."""
    if config.advertise_addr or not config.peer_addr or parse_address(config.peer_addr).is_wildcard:
        return parse_address(address)
    return parse_address(config.peer_addr)


def _disk_usage(path: Path) -> tuple[int, int]:
    usage = shutil.disk_usage(path)
    return usage.total, usage.free


def _problem(program: StoreProgram) -> str:
    if not program.is_running:
        return "starting"
    store = program.store
    if store.failure is not None:
        return f"failed: {store.failure}"
    silent_s = store.syncs.silent_s
    return f"the disk has not answered a sync for {silent_s:.1f} s" if store.is_disk_silent else ""
