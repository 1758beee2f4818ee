"""The first region of a cluster, and what a store finds when it starts."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.raftstore.harness import Cluster

from pytinykv.model import Region, RegionId, StoreId
from pytinykv.raft import HardState, LogIndex, PeerId, Term
from pytinykv.raftstore import SnapshotDirectory, StoreIdent, bootstrap, keys
from pytinykv.raftstore.records import decode_raft_state
from pytinykv.raftstore.recovery import load_regions
from pytinykv.storage import ColumnFamily, MemoryEngine

IDENT = StoreIdent(7, StoreId(1))


def prepare(engine: MemoryEngine) -> Region:
    return bootstrap.prepare_bootstrap(engine, store_id=StoreId(1), region_id=RegionId(2), peer_id=PeerId(3))


def regions(engine: MemoryEngine, path: Path) -> list[int]:
    return [state.region.id for state in load_regions(engine, SnapshotDirectory(path)).regions]


@pytest.mark.tinykv("TestBootstrapStore")
def test_a_new_store_knows_nothing_and_then_who_it_is(tmp_path: Path) -> None:
    engine = MemoryEngine()
    assert bootstrap.store_ident(engine) is None
    bootstrap.write_store_ident(engine, IDENT)
    assert bootstrap.store_ident(engine.crash(random.Random(1))) == IDENT
    assert regions(MemoryEngine(), tmp_path) == []


@pytest.mark.tinykv("TestBootstrapStore")
def test_the_first_region_is_kept_by_who_founded_the_cluster(tmp_path: Path) -> None:
    engine = MemoryEngine()
    region = prepare(engine)
    assert bootstrap.prepared_region(engine) == region
    assert (region.start_key, region.end_key, region.epoch.conf_ver, region.epoch.version) == (b"", b"", 1, 1)
    bootstrap.finish_bootstrap(engine, keep=True)
    assert bootstrap.prepared_region(engine) is None
    assert regions(engine, tmp_path) == [2]
    bootstrap.finish_bootstrap(engine, keep=False)  # nothing is prepared: nothing happens
    assert regions(engine, tmp_path) == [2]


@pytest.mark.tinykv("TestBootstrapStore")
def test_the_first_region_is_dropped_by_who_came_second(tmp_path: Path) -> None:
    engine = MemoryEngine()
    prepare(engine)
    bootstrap.finish_bootstrap(engine, keep=False)
    assert bootstrap.prepared_region(engine) is None
    assert regions(engine, tmp_path) == []
    assert not list(engine.scan(bootstrap.RAFT_CF, b"", None)), "nothing is left"


@pytest.mark.parametrize(
    ("step", "then"),
    [
        (
            lambda engine: bootstrap.write_store_ident(engine, IDENT),
            lambda engine: bootstrap.store_ident(engine) == IDENT,
        ),
        (prepare, lambda engine: bootstrap.prepared_region(engine) is not None),
        (
            lambda engine: bootstrap.finish_bootstrap(engine, keep=True),
            lambda engine: not bootstrap.prepared_region(engine),
        ),
    ],
    ids=["identity", "prepared", "finished"],
)
@pytest.mark.parametrize("seed", range(3))
def test_each_step_is_durable_when_it_returns(
    step: Callable[[MemoryEngine], object], then: Callable[[MemoryEngine], bool], seed: int
) -> None:
    engine = MemoryEngine()
    prepare(engine)
    step(engine)
    assert then(engine.crash(random.Random(seed)))


def test_a_store_that_founds_a_cluster_serves_at_once(tmp_path: Path) -> None:
    cluster = Cluster(tmp_path, stores=1)
    cluster.settle()
    assert cluster.leaders()
    call = cluster.put(1, b"k", b"v")
    cluster.settle()
    assert call.succeeded
    cluster.restart(1)
    cluster.settle()
    assert cluster.leaders(), "no other peer to wait for"
    assert cluster.nodes[1].value(b"k") == b"v"


@pytest.mark.parametrize(
    ("promised", "kept"),
    [
        (None, HardState(Term(5), PeerId(0), LogIndex(5))),
        (HardState(Term(3), PeerId(9)), HardState(Term(5), PeerId(0), LogIndex(5))),
        (HardState(Term(5), PeerId(9)), HardState(Term(5), PeerId(9), LogIndex(5))),
        (HardState(Term(8), PeerId(9)), HardState(Term(8), PeerId(9), LogIndex(5))),
    ],
    ids=["nothing", "an older term", "the initial term", "a newer term"],
)
def test_what_a_peer_promised_before_it_had_a_region_holds_on(promised: HardState | None, kept: HardState) -> None:
    """A split makes the region of a peer that was created by a vote request: one vote in a term."""
    engine = MemoryEngine()
    batch = engine.write_batch()
    region = Region(RegionId(2))
    bootstrap.write_initial_region(batch, region, PeerId(3), promised=promised)
    engine.write(batch)
    stored = engine.get(ColumnFamily.RAFT, keys.raft_state_key(2))
    assert stored is not None
    assert decode_raft_state(stored).hard_state == kept
