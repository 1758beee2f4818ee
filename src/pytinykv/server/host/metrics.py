"""Metrics of a process, read when they are asked for: nothing is counted twice, and nothing on the hot path."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from pytinykv.lifecycle.resource_counts import count_resources

if TYPE_CHECKING:
    from pytinykv.lifecycle import Scope
    from pytinykv.raftstore import Store
    from pytinykv.scheduler import Scheduler
    from pytinykv.server.kv.service import KvService

_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


class StoreMetrics(Collector):
    """What a store is doing. Read from the status thread: plain numbers only, each right for some recent moment."""

    def __init__(self, store: Store, service: KvService) -> None:
        self._store = store
        self._service = service

    def collect(self) -> Iterator[Metric]:
        yield from process_metrics()
        yield from self._service_metrics()
        counters = self._store.counters
        peers = list(self._store.peers.values())
        yield GaugeMetricFamily("tinykv_store_regions", "Regions with a peer on this store.", len(peers))
        yield GaugeMetricFamily(
            "tinykv_store_leaders", "Regions led by this store.", sum(peer.is_leader for peer in peers)
        )
        yield GaugeMetricFamily(
            "tinykv_store_raft_log_bytes",
            "Raft log written since it was last cut, all regions.",
            sum(peer.storage.log_bytes for peer in peers),
        )
        yield CounterMetricFamily("tinykv_store_turns", "Turns of the store loop.", counters.turns)
        yield CounterMetricFamily("tinykv_store_syncs", "Syncs of the write-ahead log.", self._store.syncs.started)
        yield CounterMetricFamily("tinykv_store_proposals", "Proposals taken from clients.", counters.proposals)
        yield CounterMetricFamily("tinykv_store_proposed_bytes", "Bytes in them.", counters.proposed_bytes)
        yield CounterMetricFamily("tinykv_store_operations", "Changes of keys in them.", counters.operations)
        yield CounterMetricFamily(
            "tinykv_store_quorum_reads", "Batches of reads that asked a quorum.", counters.quorum_reads
        )
        expiry = self._store.expiry
        yield CounterMetricFamily(
            "tinykv_store_expiry_pairs", "Raw pairs looked at in search of expired ones.", expiry.pairs_seen
        )
        yield CounterMetricFamily(
            "tinykv_store_expired_deleted", "Expired raw values deleted in regions led here.", expiry.deleted
        )

    def _service_metrics(self) -> Iterator[Metric]:
        service = self._service
        yield GaugeMetricFamily(
            "tinykv_store_answer_bytes", "Answers that clients have not taken yet.", service.budget.used_bytes
        )
        yield GaugeMetricFamily(
            "tinykv_store_long_reads", "Reads being served in slices, beside others.", len(service.long_reads)
        )
        yield CounterMetricFamily("tinykv_store_read_slices", "Slices of such reads.", service.long_reads.slices)
        yield GaugeMetricFamily(
            "tinykv_store_long_writes", "Batches being executed in slices, beside others.", len(service.long_writes)
        )
        yield CounterMetricFamily("tinykv_store_write_slices", "Slices of such batches.", service.long_writes.slices)
        yield CounterMetricFamily(
            "tinykv_store_reads_refused", "Reads refused for lack of room or of time.", service.budget.refused
        )


class SchedulerMetrics(Collector):
    """What the scheduler knows of its cluster."""

    def __init__(self, scheduler: Scheduler) -> None:
        self._scheduler = scheduler

    def collect(self) -> Iterator[Metric]:
        yield from process_metrics()
        scheduler = self._scheduler
        yield GaugeMetricFamily("tinykv_scheduler_regions", "Regions known.", len(scheduler.cluster.regions))
        yield GaugeMetricFamily("tinykv_scheduler_stores", "Stores registered.", len(scheduler.state.stores))
        yield GaugeMetricFamily(
            "tinykv_scheduler_bootstrapped", "Whether the cluster has its first region.", int(scheduler.is_bootstrapped)
        )


class OwnerMetrics(Collector):
    """How many tasks, threads, calls, child processes and file descriptors there are, and whose."""

    def __init__(self, scope: Scope) -> None:
        self._scope = scope

    def collect(self) -> Iterator[Metric]:
        owned = GaugeMetricFamily("tinykv_owned", "Background work and descriptors.", labels=["kind", "owner"])
        counts: dict[tuple[str, str], int] = {}
        for what, number in count_resources(self._scope.root).items():
            key = (str(what.kind), what.owner)
            counts[key] = counts.get(key, 0) + number
        for key, number in sorted(counts.items()):
            owned.add_metric(key, number)
        yield owned


def process_metrics() -> Iterator[Metric]:
    """Yield memory, processor time and open files of this process."""
    yield GaugeMetricFamily("process_resident_memory_bytes", "Resident memory.", resident_bytes())
    yield CounterMetricFamily("process_cpu_seconds", "Processor time used.", time.process_time())
    yield GaugeMetricFamily("process_open_fds", "Open file descriptors.", len(os.listdir("/proc/self/fd")))  # noqa: PTH208


def resident_bytes() -> int:
    """Return the memory of this process that is in RAM."""
    with open("/proc/self/statm", encoding="ascii") as stream:  # noqa: PTH123 - a path would be rebuilt each time
        return int(stream.read().split()[1]) * _PAGE_BYTES
