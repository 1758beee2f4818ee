"""The values of the metrics, read when they are asked for: nothing is counted twice, and next to nothing on the hot path."""

from __future__ import annotations

import os
import resource
import shutil
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Final

from prometheus_client.core import Metric
from prometheus_client.registry import Collector

from pytinykv.lifecycle.resource_counts import count_resources
from pytinykv.server.host.metric_specs import durations, number

if TYPE_CHECKING:
    from pytinykv.lifecycle import Scope
    from pytinykv.raftstore import Store
    from pytinykv.scheduler import Scheduler
    from pytinykv.server.kv.service import KvService

_PAGE_BYTES: Final = os.sysconf("SC_PAGE_SIZE")
_STARTED_S: Final = time.time()


class StoreMetrics(Collector):
    """What a store is doing. Read from the status thread: plain numbers only, each right for some recent moment."""

    def __init__(self, store: Store, service: KvService, data_path: Path) -> None:
        """`data_path`: the data directory, of whose disk is told how full it is."""
        self._store = store
        self._service = service
        self._data_path = data_path

    def collect(self) -> Iterator[Metric]:
        yield from process_metrics()
        yield from self._commands()
        yield from self._service_metrics()
        yield from self._regions()
        yield from self._disk()
        counters, expiry = self._store.counters, self._store.expiry
        results = {
            "sent": counters.snapshots_sent,
            "failed": counters.snapshots_failed,
            "installed": counters.snapshots_installed,
        }
        yield number("tinykv_store_snapshots_total", results)
        yield number("tinykv_store_turns_total", counters.turns)
        yield number("tinykv_store_proposals_total", counters.proposals)
        yield number("tinykv_store_proposed_bytes_total", counters.proposed_bytes)
        yield number("tinykv_store_operations_total", counters.operations)
        yield number("tinykv_store_quorum_reads_total", counters.quorum_reads)
        yield number("tinykv_store_expiry_pairs_total", expiry.pairs_seen)
        yield number("tinykv_store_expired_deleted_total", expiry.deleted)

    def _commands(self) -> Iterator[Metric]:
        stats = self._service.budget.stats
        kinds = sorted(stats.commands.items())  # copied in one step: the loop may add one
        yield durations("tinykv_store_command_duration_seconds", [((kind,), one) for kind, one in kinds])
        yield number("tinykv_store_region_errors_total", dict(stats.region_errors))
        yield durations("tinykv_store_proposal_duration_seconds", [((), stats.proposals)])
        yield durations("tinykv_store_sync_duration_seconds", [((), self._store.syncs.durations)])
        yield number("tinykv_store_syncs_total", self._store.syncs.started)

    def _regions(self) -> Iterator[Metric]:
        peers = list(self._store.peers.values())
        yield number("tinykv_store_regions", len(peers))
        yield number("tinykv_store_leaders", sum(peer.is_leader for peer in peers))
        yield number("tinykv_store_regions_asleep", sum(peer.rest.is_asleep for peer in peers))
        yield number("tinykv_store_raft_log_bytes", sum(peer.storage.log_bytes for peer in peers))
        lag = sum(max(0, peer.node.commit_index - peer.node.applied_index) for peer in peers)
        yield number("tinykv_store_apply_lag_entries", lag)

    def _disk(self) -> Iterator[Metric]:
        usage = shutil.disk_usage(self._data_path)
        yield number("tinykv_store_data_bytes", directory_bytes(self._data_path))
        yield number("tinykv_store_disk_free_bytes", usage.free)
        yield number("tinykv_store_disk_size_bytes", usage.total)

    def _service_metrics(self) -> Iterator[Metric]:
        service = self._service
        yield number("tinykv_store_answer_bytes", service.budget.used_bytes)
        yield number("tinykv_store_long_reads", len(service.long_reads))
        yield number("tinykv_store_read_slices_total", service.long_reads.slices)
        yield number("tinykv_store_long_writes", len(service.long_writes))
        yield number("tinykv_store_write_slices_total", service.long_writes.slices)
        yield number("tinykv_store_reads_refused_total", service.budget.refused)


class SchedulerMetrics(Collector):
    """What the scheduler knows of its cluster."""

    def __init__(self, scheduler: Scheduler) -> None:
        self._scheduler = scheduler

    def collect(self) -> Iterator[Metric]:
        yield from process_metrics()
        scheduler, now = self._scheduler, self._scheduler.now
        stores = scheduler.cluster.stores()
        states = Counter(store.health(now, scheduler.config).value for store in stores)
        operators = scheduler.operators
        ended = {(kind.value, status.name.lower()): n for (kind, status), n in list(operators.ended_counts.items())}
        yield number("tinykv_scheduler_bootstrapped", int(scheduler.is_bootstrapped))
        yield number("tinykv_scheduler_stores", dict(states))
        yield number("tinykv_scheduler_regions", len(scheduler.cluster.regions))
        yield number("tinykv_scheduler_operators", dict(Counter(one.kind.value for one in operators.running())))
        yield number("tinykv_scheduler_operators_ended_total", ended)
        yield number("tinykv_scheduler_timestamps_total", scheduler.timestamps_issued)


class OwnerMetrics(Collector):
    """How many tasks, threads, calls, child processes and file descriptors there are, and whose."""

    def __init__(self, scope: Scope) -> None:
        self._scope = scope

    def collect(self) -> Iterator[Metric]:
        counts: dict[tuple[str, str], int] = {}
        for what, count in count_resources(self._scope.root).items():
            key = (str(what.kind), what.owner)
            counts[key] = counts.get(key, 0) + count
        yield number("tinykv_owned", counts)


def process_metrics() -> Iterator[Metric]:
    """Yield memory, processor time and open files of this process."""
    yield number("process_resident_memory_bytes", resident_bytes())
    yield number("process_cpu_seconds_total", time.process_time())
    yield number("process_open_fds", len(os.listdir("/proc/self/fd")))  # noqa: PTH208
    yield number("process_max_fds", resource.getrlimit(resource.RLIMIT_NOFILE)[0])
    yield number("process_start_time_seconds", _STARTED_S)


def resident_bytes() -> int:
    """Return the memory of this process that is in RAM."""
    with open("/proc/self/statm", encoding="ascii") as stream:  # noqa: PTH123 - a path would be rebuilt each time
        return int(stream.read().split()[1]) * _PAGE_BYTES


def directory_bytes(path: Path) -> int:
    """Return the size of the files below a directory; those that vanish meanwhile don't count."""
    total = 0
    for directory, _, names in os.walk(path):
        for name in names:
            try:
                total += os.stat(os.path.join(directory, name)).st_size  # noqa: PTH116, PTH118 - many files, quickly
            except OSError:
                continue
    return total
