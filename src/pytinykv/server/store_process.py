"""A store as a process: data directory, RocksDB, gRPC, status port; and the order in which all of it stops.

stages        1  not serving any more (health), the store's own: refuse, finish, answer the rest, last turn and sync
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

from prometheus_client import CollectorRegistry

from pytinykv.client.grpc_connector import GrpcConnector
from pytinykv.lifecycle import SystemClock
from pytinykv.lifecycle.rpc import RpcServer
from pytinykv.raftstore import RaftStoreConfig
from pytinykv.server.address_book import AddressBook
from pytinykv.server.describe import describe_store
from pytinykv.server.gate import Gate
from pytinykv.server.grpc_binding import bind_service
from pytinykv.server.health import HealthService
from pytinykv.server.metrics import OwnerMetrics, StoreMetrics
from pytinykv.server.raft_transport import StoreTransport, serve_raft_messages, serve_snapshots
from pytinykv.server.status import StatusServer
from pytinykv.server.store_node import SCHEDULER_PATIENCE_S, StoreNode, StorePorts
from pytinykv.server.wiring import store_wiring
from pytinykv.server.workers import ThreadWorker
from pytinykv.storage import DataDirectory, DataKind, RocksEngine
from pytinykv.wire.limits import MESSAGE_BYTES_MAX

if TYPE_CHECKING:
    from pytinykv.lifecycle import Scope

_log = logging.getLogger(__name__)

TIKV = "tikvpb.Tikv"
STOP_DEADLINE_S = 4.0


@dataclass(frozen=True, kw_only=True)
class StoreProcessConfig:
    """What a store process is started with; addresses are host:port, port 0 picks a free one."""

    data_dir: Path
    addr: str
    scheduler: tuple[str, ...]
    scheduler_patience_s: float = SCHEDULER_PATIENCE_S
    """How long the start waits for a scheduler that does not answer before it gives up."""
    advertise_addr: str = ""
    """How others reach this store; empty: as `addr`, with the real port."""
    peer_addr: str = ""
    """Where other stores' Raft messages arrive; empty: the host of `addr`, any free port."""
    status_addr: str = ""
    """Where the status port listens; empty: nowhere."""
    insecure: bool = False
    """Allow addresses that other machines can reach, unencrypted and without authentication."""
    raftstore: RaftStoreConfig = field(default_factory=RaftStoreConfig)


async def run_store(config: StoreProcessConfig, scope: Scope, on_ready: Callable[[dict[str, object]], None]) -> None:
    """Bring a store up in `scope`; return when it serves, after `on_ready` got what the ready line tells.

    Raises the errors of its parts, each saying what and what to do: DataDirectoryError, EngineError, AddressError,
    ClientError (scheduler unreachable, another cluster).
    """
    store_wiring().check()
    directory = DataDirectory.open(config.data_dir, kind=DataKind.STORE)
    inner = scope.child("store")
    scope.on_stop("stop the store", lambda: inner.stop(STOP_DEADLINE_S), STOP_DEADLINE_S + 1)
    try:
        engine = RocksEngine.open(directory.engine_path)
    except BaseException:
        directory.close()
        raise
    scope.on_stop("close the engine", engine.close, 2.0)
    scope.on_stop("let go of the data directory", directory.close)

    clock = SystemClock()
    connector = GrpcConnector(inner)
    disk, background = ThreadWorker(inner, "disk"), ThreadWorker(inner, "snapshots")
    node = StoreNode(
        ports=StorePorts(
            engine=engine,
            snapshots_path=directory.snapshots_path,
            clock=clock,
            rng=random.Random(),
            disk=disk,
            background=background,
            transport=lambda scheduler: StoreTransport(AddressBook(scheduler, inner), inner),
            connector=connector,
            disk_usage=lambda: _disk_usage(directory.path),
        ),
        scheduler_addresses=config.scheduler,
        config=config.raftstore,
        scope=inner,
        claim=lambda cluster_id, store_id: directory.claim(cluster_id=cluster_id, store_id=store_id),
    )
    health, gate = HealthService([TIKV]), Gate(TIKV)
    inner.on_stop("tell that it does not serve any more", health.begin_stop)
    server = RpcServer(inner, "grpc", options=[("grpc.max_receive_message_length", MESSAGE_BYTES_MAX)])
    bind_service(server, gate)
    bind_service(server, health)
    serve_snapshots(server, node)
    port = await server.start(config.addr, insecure=config.insecure)
    host = config.addr.rpartition(":")[0]
    address = config.advertise_addr or f"{host}:{port}"
    peer_address = config.peer_addr or f"{host}:0"
    peer_port = await serve_raft_messages(inner, node).start(peer_address, insecure=config.insecure)
    advertised_host = address.rpartition(":")[0]

    registry = CollectorRegistry()
    registry.register(OwnerMetrics(scope))
    status_address = ""
    if config.status_addr:
        status = StatusServer(
            inner,
            registry=registry,
            health=lambda: _problem(node, scope),
            pages={"/debug/store": lambda: describe_store(node.store) if node.is_running else {}},
        )
        status_address = status.start(config.status_addr, insecure=config.insecure)
    service = await node.start(
        address,
        peer_address=f"{advertised_host}:{peer_port}",
        status_address=status_address,
        patience_s=config.scheduler_patience_s,
    )
    registry.register(StoreMetrics(node.store))
    gate.open(service)
    health.set_all_serving()
    on_ready({"addr": address, "status": status_address, "store": node.store.store_id, "cluster": node.cluster_id})


def _disk_usage(path: Path) -> tuple[int, int]:
    usage = shutil.disk_usage(path)
    return usage.total, usage.free


def _problem(node: StoreNode, scope: Scope) -> str:
    if scope.stopping:
        return "stopping"
    if not node.is_running:
        return "starting"
    return f"failed: {node.store.failure}" if node.store.failure is not None else ""
