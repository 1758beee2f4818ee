"""The scheduler as a process: data directory, RocksDB, gRPC, status port; stopped in the order of `store_process`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry

from pytinykv.lifecycle import SystemClock
from pytinykv.lifecycle.rpc import RpcServer
from pytinykv.scheduler import Scheduler, SchedulerConfig
from pytinykv.server.gate import Gate
from pytinykv.server.grpc_binding import bind_service
from pytinykv.server.health import HealthService
from pytinykv.server.metrics import OwnerMetrics, SchedulerMetrics
from pytinykv.server.pd_service import PdService
from pytinykv.server.status import StatusServer
from pytinykv.server.wiring import scheduler_wiring
from pytinykv.server.workers import ThreadWorker
from pytinykv.storage import DataDirectory, DataKind, RocksEngine
from pytinykv.wire.limits import MESSAGE_BYTES_MAX

if TYPE_CHECKING:
    from pytinykv.lifecycle import Scope

PD = "pdpb.PD"
STOP_DEADLINE_S = 3.0


@dataclass(frozen=True, kw_only=True)
class SchedulerProcessConfig:
    """What a scheduler process is started with; addresses are host:port, port 0 picks a free one."""

    data_dir: Path
    addr: str
    advertise_addr: str = ""
    """How others reach it; empty: as `addr`, with the real port."""
    status_addr: str = ""
    """Where the status port listens; empty: nowhere."""
    insecure: bool = False
    """Allow addresses that other machines can reach, unencrypted and without authentication."""
    scheduler: SchedulerConfig = field(default_factory=SchedulerConfig)


async def run_scheduler(
    config: SchedulerProcessConfig, scope: Scope, on_ready: Callable[[dict[str, object]], None]
) -> None:
    """Bring a scheduler up in `scope`; return when it serves, after `on_ready` got what the ready line tells.

    Raises DataDirectoryError, EngineError, AddressError, each saying what and what to do.
    """
    scheduler_wiring().check()
    directory = DataDirectory.open(config.data_dir, kind=DataKind.SCHEDULER)
    inner = scope.child("scheduler")
    scope.on_stop("stop the scheduler", lambda: inner.stop(STOP_DEADLINE_S), STOP_DEADLINE_S + 1)
    try:
        engine = RocksEngine.open(directory.engine_path)
    except BaseException:
        directory.close()
        raise
    scope.on_stop("close the engine", engine.close, 2.0)
    scope.on_stop("let go of the data directory", directory.close)

    health, gate = HealthService([PD]), Gate(PD)
    inner.on_stop("tell that it does not serve any more", health.begin_stop)
    server = RpcServer(inner, "grpc", options=[("grpc.max_receive_message_length", MESSAGE_BYTES_MAX)])
    bind_service(server, gate)
    bind_service(server, health)
    port = await server.start(config.addr, insecure=config.insecure)
    address = config.advertise_addr or f"{config.addr.rpartition(':')[0]}:{port}"

    scheduler = Scheduler.open(
        engine,
        SystemClock(),
        config.scheduler,
        scope=inner,
        worker=ThreadWorker(inner, "disk"),
        on_failure=lambda error: scope.fail("scheduler", error),
    )
    directory.claim(cluster_id=scheduler.cluster_id)
    inner.on_stop("decide nothing any more", scheduler.stop)
    registry = CollectorRegistry()
    registry.register(OwnerMetrics(scope))
    registry.register(SchedulerMetrics(scheduler))
    status_address = ""
    if config.status_addr:
        status = StatusServer(inner, registry=registry, health=lambda: "stopping" if scope.stopping else "")
        status_address = status.start(config.status_addr, insecure=config.insecure)
    gate.open(PdService(scheduler, inner, client_url=f"http://{address}"))
    health.set_all_serving()
    on_ready({"addr": address, "status": status_address, "cluster": scheduler.cluster_id})
