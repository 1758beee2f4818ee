"""Logs of many regions, each below its own bound, together above the store's: what is cut, and what memory lets go of."""

from __future__ import annotations

from pathlib import Path

from tests.raftstore.harness import Cluster
from tests.raftstore.test_hibernation import fall_asleep

from pytinykv.raftstore import RaftStoreConfig

VALUE = bytes(20_000)
PUTS = 20


def filled(path: Path, config: RaftStoreConfig) -> Cluster:
    """Make a cluster with a log of 400 kB, far below the bound of a region."""
    cluster = Cluster(path, config=config)
    cluster.elect(1)
    for number in range(PUTS):
        cluster.put(1, b"k%d" % number, VALUE)
        cluster.settle()
    cluster.ticks(3)
    return cluster


def log_bytes(cluster: Cluster) -> list[int]:
    return [node.peer.storage.log_bytes for node in cluster.nodes.values()]


def test_logs_stay_while_the_store_has_room(tmp_path: Path) -> None:
    cluster = filled(tmp_path, RaftStoreConfig())
    cluster.ticks(40)
    assert min(log_bytes(cluster)) > PUTS * len(VALUE)


def test_the_longest_logs_are_cut_where_all_together_take_too_much(tmp_path: Path) -> None:
    cluster = filled(tmp_path, RaftStoreConfig(log_budget_bytes=100_000))
    cluster.ticks(40)
    assert max(log_bytes(cluster)) < 100_000
    assert [node.value(b"k3") for node in cluster.nodes.values()] == [VALUE] * 3


def test_what_a_follower_that_answers_needs_is_not_cut(tmp_path: Path) -> None:
    config = RaftStoreConfig(log_budget_bytes=100_000, peer_down_s=1000.0)
    cluster = Cluster(tmp_path, config=config)
    cluster.elect(1)
    cluster.cut_off.add(3)
    for number in range(PUTS):
        cluster.put(1, b"k%d" % number, VALUE)
        cluster.settle()
    cluster.ticks(30)
    assert log_bytes(cluster)[0] > 300_000
    cluster.cut_off.clear()
    cluster.ticks(40)
    assert cluster.nodes[3].value(b"k3") == VALUE
    assert cluster.snapshots_sent() == 0
    assert max(log_bytes(cluster)) < 100_000


def test_a_silent_follower_gets_a_snapshot_where_its_leader_has_no_room(tmp_path: Path) -> None:
    config = RaftStoreConfig(log_budget_bytes=100_000, peer_down_s=1.0)
    cluster = Cluster(tmp_path, config=config)
    cluster.elect(1)
    cluster.cut_off.add(3)
    for number in range(PUTS):
        cluster.put(1, b"k%d" % number, VALUE)
        cluster.settle()
    cluster.ticks(40)
    assert log_bytes(cluster)[0] < 100_000
    cluster.cut_off.clear()
    cluster.ticks(40)
    assert cluster.nodes[3].value(b"k3") == VALUE


def test_a_region_that_sleeps_is_cut_too(tmp_path: Path) -> None:
    cluster = filled(tmp_path, RaftStoreConfig(hibernate_after_s=0.1, log_budget_bytes=100_000_000))
    fall_asleep(cluster)
    for node in cluster.nodes.values():
        object.__setattr__(node.running.config, "log_budget_bytes", 100_000)
    cluster.ticks(30)
    assert max(log_bytes(cluster)) < 100_000
    fall_asleep(cluster)


def test_entries_in_memory_have_a_bound_for_all_regions_and_what_sleeps_has_none(tmp_path: Path) -> None:
    cluster = filled(tmp_path, RaftStoreConfig(hibernate_after_s=0.1, log_cache_budget_bytes=100_000))
    cluster.ticks(12)
    assert max(node.peer.storage.cache_bytes for node in cluster.nodes.values()) <= 100_000
    cluster.put(1, b"k", VALUE)
    cluster.settle()
    assert cluster.nodes[1].peer.storage.cache_bytes > 0
    fall_asleep(cluster)
    assert [node.peer.storage.cache_bytes for node in cluster.nodes.values()] == [0, 0, 0]
    cluster.put(1, b"k", b"after")
    cluster.settle()
    cluster.ticks(3)
    assert [node.value(b"k") for node in cluster.nodes.values()] == [b"after"] * 3


def test_a_start_keeps_no_entry_in_memory_and_serves_them_from_disk(tmp_path: Path) -> None:
    cluster = filled(tmp_path, RaftStoreConfig())
    before = log_bytes(cluster)[0]
    cluster.restart(1)
    storage = cluster.nodes[1].peer.storage
    assert storage.cache_bytes == 0
    assert storage.log_bytes == before
    last = storage.last_index()
    [entry] = storage.entries(last, last + 1, 1 << 20)
    assert (entry.index, entry.term) == (last, storage.term(last))
