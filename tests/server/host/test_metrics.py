"""What `/metrics` shows, and that it shows exactly what the table documents."""

from __future__ import annotations

from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import Metric
from tests.raftstore.harness import Cluster

from pytinykv.lifecycle import Scope
from pytinykv.lifecycle.histogram import BOUNDS_S, Histogram
from pytinykv.server.host.metric_specs import GROUPS, MetricKind, durations, number
from pytinykv.server.host.metrics import OwnerMetrics, StoreMetrics, directory_bytes
from pytinykv.server.kv.answers import Answers
from pytinykv.server.kv.command_stats import CommandStats
from pytinykv.server.kv.commands import MEMBERS
from pytinykv.server.kv.service import KvService
from pytinykv.wire.errors import NotLeader, ServerIsBusy
from pytinykv.wire.frames import encode_commands
from pytinykv.wire.pb import kvrpcpb_pb2, tikvpb_pb2

GET, PUT = MEMBERS["RawGet"], MEMBERS["RawPut"]
COMMANDS = "tinykv_store_command_duration_seconds"


def shown(metric: Metric) -> dict[str, float]:
    """Return the samples of a metric, as the lines of the text format begin."""

    class One:
        def collect(self) -> list[Metric]:
            return [metric]

    registry = CollectorRegistry()
    registry.register(One())  # type: ignore[arg-type]  # has what a collector needs
    lines = [line for line in generate_latest(registry).decode().splitlines() if not line.startswith("#")]
    return {name: float(value) for name, value in (line.rsplit(" ", 1) for line in lines)}


def test_a_duration_counts_in_the_bucket_that_it_fits() -> None:
    histogram = Histogram()
    for seconds, times in ((0.0, 1), (0.001, 2), (0.0011, 1), (60.0, 1)):
        histogram.observe(seconds, times)
    assert sum(histogram.counts) == 5
    assert (histogram.counts[0], histogram.counts[BOUNDS_S.index(0.001)], histogram.counts[-1]) == (1, 2, 1)
    assert histogram.sum_s == pytest.approx(60.0031)
    name = "tinykv_store_sync_duration_seconds"
    samples = shown(durations(name, [((), histogram)]))
    assert samples[f'{name}_bucket{{le="0.001"}}'] == 3
    assert samples[f'{name}_bucket{{le="10.0"}}'] == 4
    assert samples[f'{name}_bucket{{le="+Inf"}}'] == samples[f"{name}_count"] == 5


def test_values_stand_under_their_labels() -> None:
    assert shown(number("tinykv_store_regions", 3)) == {"tinykv_store_regions": 3}
    samples = shown(number("tinykv_scheduler_operators_ended_total", {("leader", "success"): 2}))
    assert samples == {'tinykv_scheduler_operators_ended_total{kind="leader",result="success"}': 2}


def test_commands_of_a_batch_are_counted_by_kind() -> None:
    stats = CommandStats()
    stats.observe_all([PUT, PUT, PUT], 0.002)
    stats.observe_all([PUT, GET], 0.002)
    assert {kind: sum(one.counts) for kind, one in stats.commands.items()} == {PUT.name: 4, GET.name: 1}
    stats.refused(NotLeader(region_id=2), 3)
    stats.refused(ServerIsBusy(reason="full"))
    stats.refused(ValueError("is no region error"))
    assert stats.region_errors == {"not_leader": 3, "server_is_busy": 1}


async def test_a_store_shows_every_metric_of_the_table_and_counts_its_commands(scope: Scope, tmp_path: Path) -> None:
    cluster = Cluster(tmp_path)
    leader = cluster.elect()
    service = KvService(leader.running, cluster_id=7, scope=scope)
    region = leader.peer.region
    context = kvrpcpb_pb2.Context(region_id=region.id)
    context.region_epoch.conf_ver, context.region_epoch.version = region.epoch.conf_ver, region.epoch.version
    context.peer.id, context.peer.store_id = leader.peer.peer.id, leader.store_id
    frame = tikvpb_pb2.BatchCommandsRequest(request_ids=[1, 2, 3])
    frame.requests.add().RawPut.MergeFrom(kvrpcpb_pb2.RawPutRequest(context=context, key=b"k", value=b"v"))
    frame.requests.add().RawGet.MergeFrom(kvrpcpb_pb2.RawGetRequest(context=context, key=b"k"))
    context.region_epoch.version += 1
    frame.requests.add().RawGet.MergeFrom(kvrpcpb_pb2.RawGetRequest(context=context, key=b"k"))
    service.on_frame(encode_commands(frame), Answers(service.budget))
    cluster.settle()

    metrics = [*StoreMetrics(leader.running, service, tmp_path).collect(), *OwnerMetrics(scope).collect()]
    names = {one.name + "_total" * (one.type == "counter") for one in metrics}
    assert names == {spec.name for group in ("Every process", "A store") for spec in GROUPS[group]}
    by_name = {one.name: one for one in metrics}
    samples = shown(by_name[COMMANDS])
    assert samples[f'{COMMANDS}_count{{kind="{PUT.name}"}}'] == 1
    assert samples[f'{COMMANDS}_count{{kind="{GET.name}"}}'] == 1
    errors = shown(by_name["tinykv_store_region_errors"])
    assert errors == {'tinykv_store_region_errors_total{kind="epoch_not_match"}': 1}
    assert shown(by_name["tinykv_store_proposal_duration_seconds"])["tinykv_store_proposal_duration_seconds_count"] == 1
    assert shown(by_name["tinykv_store_sync_duration_seconds"])["tinykv_store_sync_duration_seconds_count"] > 0
    assert shown(by_name["tinykv_store_disk_free_bytes"])["tinykv_store_disk_free_bytes"] > 0


def test_names_and_units_follow_the_conventions_of_prometheus() -> None:
    for spec in (spec for group in GROUPS.values() for spec in group):
        assert (spec.kind is MetricKind.COUNTER) == spec.name.endswith("_total"), spec.name
        assert (spec.kind is MetricKind.HISTOGRAM) == spec.name.endswith("_duration_seconds"), spec.name
        assert spec.help.endswith("."), spec.name


def test_the_size_of_a_directory(tmp_path: Path) -> None:
    (tmp_path / "below").mkdir()
    (tmp_path / "a").write_bytes(b"x" * 10)
    (tmp_path / "below" / "b").write_bytes(b"x" * 5)
    assert directory_bytes(tmp_path) == 15
    assert directory_bytes(tmp_path / "none") == 0
