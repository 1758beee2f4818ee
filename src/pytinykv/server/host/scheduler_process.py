"""The scheduler as a process: its base, and the scheduler in them; stopped in the order of `store_process`."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from pytinykv.lifecycle import SystemClock, ThreadWorker
from pytinykv.scheduler import Scheduler, SchedulerConfig
from pytinykv.server.host.describe_scheduler import describe_scheduler
from pytinykv.server.host.metrics import SchedulerMetrics
from pytinykv.server.host.server_base import ServerBase, ServerConfig
from pytinykv.server.host.wiring import scheduler_wiring
from pytinykv.server.pd.admin import ADMIN
from pytinykv.server.pd.service import ETCD, PdService
from pytinykv.storage import DataKind

if TYPE_CHECKING:
    from pytinykv.lifecycle import Scope

_log = logging.getLogger(__name__)

PD = "pdpb.PD"
DISK_SILENCE_S = 2.0
"""A scheduler that has waited this long for a sync says so (`/healthz`)."""


@dataclass(frozen=True, kw_only=True)
class SchedulerProcessConfig(ServerConfig):
    """What a scheduler process is started with."""

    scheduler: SchedulerConfig = field(default_factory=SchedulerConfig)


async def run_scheduler(
    config: SchedulerProcessConfig, scope: Scope, on_ready: Callable[[dict[str, object]], None]
) -> None:
    """Bring a scheduler up in `scope`; return when it serves, after `on_ready` got what the ready line tells.

    Raises DataDirectoryError, EngineError, AddressError, each saying what and what to do.
    """
    scheduler_wiring().check()
    base = ServerBase(config, scope, kind=DataKind.SCHEDULER, services=(PD, ADMIN, ETCD))
    inner = base.scope
    disk = ThreadWorker(inner, "disk")
    address = await base.listen()
    scheduler = Scheduler.open(
        base.engine,
        SystemClock(),
        config.scheduler,
        scope=inner,
        worker=disk,
        on_failure=lambda error: scope.fail("scheduler", error),
    )
    base.directory.claim(cluster_id=scheduler.cluster_id)
    inner.on_stop("decide nothing any more", scheduler.stop)
    base.registry.register(SchedulerMetrics(scheduler))
    status_address = base.open_status(
        lambda: _problem(disk), {"/debug/scheduler": lambda: describe_scheduler(scheduler)}
    )
    base.serve(PdService(scheduler, inner, client_url=f"http://{address}"))
    _log.info(
        "the scheduler of cluster %d serves at %s; stores: %d, regions: %d, data in %s",
        scheduler.cluster_id,
        address,
        len(scheduler.state.stores),
        len(scheduler.cluster.regions),
        base.directory.path,
    )
    on_ready({"addr": address, "status": status_address, "cluster": scheduler.cluster_id})


def _problem(disk: ThreadWorker) -> str:
    return f"the disk has not answered a sync for {disk.busy_s:.1f} s" if disk.busy_s >= DISK_SILENCE_S else ""
