"""Where a large region is split, and when."""

from __future__ import annotations

import itertools
import random
from pathlib import Path

import pytest
from tests.raftstore.harness import REGION_ID, Cluster, ManualLink

from pytinykv.model import Region, RegionId
from pytinykv.raftstore import RaftStoreConfig
from pytinykv.raftstore.split_keys import find_split_keys, holds_transactional_data, size_bytes
from pytinykv.storage import ColumnFamily, MemoryEngine
from pytinykv.wire.keys import encode_bytes, encode_key_with_ts
from pytinykv.wire.timestamp import Timestamp

REGION = Region(RegionId(1))


def engine_with(cf: ColumnFamily, pairs: dict[bytes, int]) -> MemoryEngine:
    engine = MemoryEngine()
    batch = engine.write_batch()
    for key, size in pairs.items():
        batch.put(cf, key, bytes(size))
    engine.write(batch)
    return engine


def part_sizes(engine: MemoryEngine, at: list[bytes]) -> list[int]:
    bounds = [b"", *at, b""]
    return [size_bytes(engine, Region(RegionId(1), *ends)) for ends in itertools.pairwise(bounds)]


@pytest.mark.tinykv("TestSplitCheck")
@pytest.mark.parametrize("seed", range(20))
def test_parts_have_about_the_same_size_whatever_the_keys_look_like(seed: int) -> None:
    rng = random.Random(seed)
    shape = rng.choice(["random", "counter", "long prefix", "skewed"])
    keys = {
        "random": lambda _number: rng.randbytes(rng.randint(1, 20)),
        "counter": lambda number: b"user%08d" % number,
        "long prefix": lambda number: b"p" * 100 + b"%06d" % number,
        "skewed": lambda number: b"a" * (number % 50) + bytes([number % 251]) + b"%d" % number,
    }[shape]
    engine = engine_with(ColumnFamily.RAW, {b"d" + keys(number): rng.randint(50, 150) for number in range(1000)})
    total = size_bytes(engine, REGION)
    at = find_split_keys(engine, REGION, total // 4)
    assert at == sorted(set(at))
    sizes = part_sizes(engine, at)
    assert sum(sizes) == total
    assert len(sizes) in (4, 5)
    assert max(sizes) <= total // 4 * 1.2


def test_nothing_to_split() -> None:
    assert find_split_keys(MemoryEngine(), REGION, 10) == []
    assert find_split_keys(engine_with(ColumnFamily.RAW, {b"dk": 1000}), REGION, 10) == []


def test_two_keys_are_parted() -> None:
    engine = engine_with(ColumnFamily.RAW, {b"da": 1000, b"db": 1000})
    assert find_split_keys(engine, REGION, 1500) == [b"b"]


def test_a_boundary_of_transactional_data_never_lies_between_the_versions_of_a_key() -> None:
    versions = {encode_key_with_ts(b"hot", Timestamp(ts)): 100 for ts in range(1, 200)}
    others = {encode_key_with_ts(b"k%02d" % number, Timestamp(5)): 100 for number in range(50)}
    engine = engine_with(ColumnFamily.WRITE, versions | others)
    at = find_split_keys(engine, REGION, 4000)
    assert at
    assert set(at) <= {encode_bytes(b"hot"), *(encode_bytes(b"k%02d" % number) for number in range(50))}


def test_a_hot_key_alone_is_not_split() -> None:
    engine = engine_with(ColumnFamily.WRITE, {encode_key_with_ts(b"hot", Timestamp(ts)): 100 for ts in range(1, 200)})
    region = Region(RegionId(1), encode_bytes(b"hot"))
    assert find_split_keys(engine, region, 4000) == []


def test_raw_data_beside_transactional_data_is_split_at_memcomparable_keys() -> None:
    engine = engine_with(ColumnFamily.RAW, {b"d%04d" % number: 100 for number in range(100)})
    assert not holds_transactional_data(engine)
    batch = engine.write_batch()
    batch.put(ColumnFamily.LOCK, encode_bytes(b"x"), b"")
    engine.write(batch)
    assert holds_transactional_data(engine)
    (at,) = find_split_keys(engine, REGION, 6000)
    assert at in {encode_bytes(b"%04d" % number) for number in range(100)}


# --- when ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def cluster(tmp_path: Path) -> Cluster:
    ManualLink.next_id = 1000
    made = Cluster(tmp_path, config=RaftStoreConfig(region_max_bytes=3000, region_split_bytes=2000))
    made.elect(1)
    return made


def fill(cluster: Cluster, count: int) -> None:
    for number in range(count):
        store = cluster.nodes[1].running
        key = b"%04d" % number
        region = next(one for one in store.table.by_start() if one.contains(key))
        assert not cluster.put(1, key, bytes(100), region_id=region.id).failed
        cluster.settle()


def test_a_region_that_grows_too_large_is_split_by_its_leader(cluster: Cluster) -> None:
    fill(cluster, 20)
    cluster.ticks(2)
    assert len(cluster.nodes[1].running.table.by_start()) == 1
    fill(cluster, 60)
    cluster.ticks(10)
    tables = [node.running.table.by_start() for node in cluster.nodes.values()]
    assert tables[0] == tables[1] == tables[2]
    assert len(tables[0]) >= 3
    engine = cluster.nodes[1].engine
    assert all(size_bytes(engine, region) <= 3000 for region in tables[0])


def test_a_split_that_fails_for_lack_of_ids_is_tried_again(cluster: Cluster) -> None:
    cluster.nodes[1].link.split_trouble = "it is away"
    fill(cluster, 60)
    cluster.ticks(10)
    assert len(cluster.nodes[1].running.table.by_start()) == 1
    cluster.nodes[1].link.split_trouble = ""
    cluster.ticks(60)
    assert len(cluster.nodes[1].running.table.by_start()) > 1


def test_a_new_leader_looks_at_what_it_takes_over(cluster: Cluster) -> None:
    cluster.nodes[1].link.split_trouble = "it is away"
    fill(cluster, 60)
    cluster.elect(2)
    cluster.ticks(5)
    assert len(cluster.nodes[2].running.table.by_start()) > 1
    assert cluster.nodes[2].running.peers[REGION_ID].is_leader
