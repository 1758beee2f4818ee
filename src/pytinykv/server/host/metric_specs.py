"""Every metric that `/metrics` shows: name, kind, labels, and what it means. docs/metrics.md is written from this table.

Names follow Prometheus's conventions: `tinykv_`, whose it is, what, the unit last; counters end in `_total`. `metrics.py`
gives the values, and can't give one that is not here.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from enum import StrEnum
from typing import Final, NamedTuple

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric

from pytinykv.lifecycle.histogram import BOUNDS_S, Histogram

Sample = float | Mapping[str, float] | Mapping[tuple[str, str], float]
"""A value; or values by the label's, or the labels', values."""


class MetricKind(StrEnum):
    """How the numbers move."""

    COUNTER = "counter"
    """Grows from 0 at the start of the process."""
    GAUGE = "gauge"
    """Goes up and down."""
    HISTOGRAM = "histogram"
    """Durations in seconds, counted in buckets."""


class MetricSpec(NamedTuple):
    """A metric as it is documented."""

    name: str
    """As Prometheus stores it, but for a histogram's `_bucket`, `_sum` and `_count`."""
    kind: MetricKind
    help: str
    labels: tuple[str, ...] = ()


COUNTER, GAUGE, HISTOGRAM = MetricKind.COUNTER, MetricKind.GAUGE, MetricKind.HISTOGRAM

PROCESS: Final = (
    MetricSpec("process_resident_memory_bytes", GAUGE, "Resident memory."),
    MetricSpec("process_cpu_seconds_total", COUNTER, "Processor time used."),
    MetricSpec("process_open_fds", GAUGE, "Open file descriptors."),
    MetricSpec("process_max_fds", GAUGE, "How many file descriptors it may open."),
    MetricSpec("process_start_time_seconds", GAUGE, "When the process started, in seconds since the Unix epoch."),
    MetricSpec("tinykv_owned", GAUGE, "Background work and descriptors, and whose they are.", ("kind", "owner")),
)
STORE: Final = (
    MetricSpec(
        "tinykv_store_command_duration_seconds",
        HISTOGRAM,
        "Clients' commands, from the frame that brought them to the answer; its count is their number.",
        ("kind",),
    ),
    MetricSpec(
        "tinykv_store_region_errors_total",
        COUNTER,
        "Commands refused with a region error, by its name in the protocol. Some are normal while leaders and regions move.",
        ("kind",),
    ),
    MetricSpec(
        "tinykv_store_proposal_duration_seconds",
        HISTOGRAM,
        "Proposals, from handing the writes of a frame to Raft until they are applied.",
    ),
    MetricSpec("tinykv_store_sync_duration_seconds", HISTOGRAM, "Syncs of the write-ahead log."),
    MetricSpec("tinykv_store_regions", GAUGE, "Regions with a peer on this store."),
    MetricSpec("tinykv_store_leaders", GAUGE, "Regions led by this store."),
    MetricSpec("tinykv_store_regions_asleep", GAUGE, "Regions here that hibernate, because nothing happens in them."),
    MetricSpec("tinykv_store_raft_log_bytes", GAUGE, "Raft log written since it was last cut, all regions."),
    MetricSpec("tinykv_store_apply_lag_entries", GAUGE, "Committed entries that are not applied yet, all regions."),
    MetricSpec("tinykv_store_data_bytes", GAUGE, "Files in the data directory."),
    MetricSpec("tinykv_store_disk_free_bytes", GAUGE, "Free space of the disk that has the data directory."),
    MetricSpec("tinykv_store_disk_size_bytes", GAUGE, "Size of that disk."),
    MetricSpec(
        "tinykv_store_snapshots_total",
        COUNTER,
        "Snapshots of regions: sent and taken, sent in vain, received and installed.",
        ("result",),
    ),
    MetricSpec("tinykv_store_turns_total", COUNTER, "Turns of the store loop."),
    MetricSpec("tinykv_store_syncs_total", COUNTER, "Syncs of the write-ahead log that were started."),
    MetricSpec("tinykv_store_proposals_total", COUNTER, "Proposals taken from clients."),
    MetricSpec("tinykv_store_proposed_bytes_total", COUNTER, "Bytes in them."),
    MetricSpec("tinykv_store_operations_total", COUNTER, "Changes of keys in them."),
    MetricSpec("tinykv_store_quorum_reads_total", COUNTER, "Batches of reads that asked a quorum."),
    MetricSpec("tinykv_store_answer_bytes", GAUGE, "Answers that clients have not taken yet."),
    MetricSpec("tinykv_store_long_reads", GAUGE, "Reads being served in slices, beside others."),
    MetricSpec("tinykv_store_read_slices_total", COUNTER, "Slices of such reads."),
    MetricSpec("tinykv_store_long_writes", GAUGE, "Batches being executed in slices, beside others."),
    MetricSpec("tinykv_store_write_slices_total", COUNTER, "Slices of such batches."),
    MetricSpec("tinykv_store_reads_refused_total", COUNTER, "Reads refused for lack of room or of time."),
    MetricSpec("tinykv_store_expiry_pairs_total", COUNTER, "Raw pairs looked at in search of expired ones."),
    MetricSpec("tinykv_store_expired_deleted_total", COUNTER, "Expired raw values deleted in regions led here."),
)
SCHEDULER: Final = (
    MetricSpec("tinykv_scheduler_bootstrapped", GAUGE, "Whether the cluster has its first region: 1 or 0."),
    MetricSpec(
        "tinykv_scheduler_stores",
        GAUGE,
        "Stores: up, disconnected (silent for 20 s), down (for 30 min), offline (being removed), tombstone (removed).",
        ("state",),
    ),
    MetricSpec("tinykv_scheduler_regions", GAUGE, "Regions known."),
    MetricSpec("tinykv_scheduler_operators", GAUGE, "Operators that run, by why they do.", ("kind",)),
    MetricSpec(
        "tinykv_scheduler_operators_ended_total", COUNTER, "Operators that have ended, and how.", ("kind", "result")
    ),
    MetricSpec("tinykv_scheduler_timestamps_total", COUNTER, "Timestamps handed out."),
)
GROUPS: Final = {"Every process": PROCESS, "A store": STORE, "The scheduler": SCHEDULER}
_BY_NAME: Final = {spec.name: spec for group in GROUPS.values() for spec in group}


def number(name: str, sample: Sample) -> Metric:
    """Return a counter or gauge of the table with its value, or its values by label."""
    spec = _BY_NAME[name]
    family: CounterMetricFamily | GaugeMetricFamily
    if spec.kind is COUNTER:
        family = CounterMetricFamily(name.removesuffix("_total"), spec.help, labels=spec.labels)
    else:
        family = GaugeMetricFamily(name, spec.help, labels=spec.labels)
    if not isinstance(sample, Mapping):
        family.add_metric((), sample)
        return family
    by_labels = {(key,) if isinstance(key, str) else key: value for key, value in sample.items()}
    for labels, value in sorted(by_labels.items()):
        family.add_metric(labels, value)
    return family


def durations(name: str, histograms: Iterable[tuple[tuple[str, ...], Histogram]]) -> Metric:
    """Return a histogram of the table, each with the values of its labels."""
    spec = _BY_NAME[name]
    assert spec.kind is HISTOGRAM, name
    family = HistogramMetricFamily(name, spec.help, labels=spec.labels)
    for labels, histogram in histograms:
        buckets: list[tuple[str, float]] = []
        total = 0
        for bound, count in zip((*BOUNDS_S, float("inf")), list(histogram.counts), strict=True):
            total += count
            buckets.append(("+Inf" if bound == float("inf") else repr(bound), total))
        family.add_metric(labels, buckets, sum_value=histogram.sum_s)
    return family
