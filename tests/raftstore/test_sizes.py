"""Estimates of sizes: made anew only where something may have changed."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.raftstore.harness import Cluster, Node

from pytinykv.raftstore import sizes
from pytinykv.raftstore.sizes import SIZE_VALID_S, RegionSizes


@pytest.fixture
def leader(tmp_path: Path) -> Node:
    cluster = Cluster(tmp_path)
    leader = cluster.elect()
    cluster.put(leader.store_id, b"k", bytes(1000))
    cluster.settle()
    return leader


def test_a_region_is_estimated_anew_when_it_took_something_or_time_has_passed(
    leader: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks = []
    monkeypatch.setattr(sizes, "size_bytes", lambda _engine, region: looks.append(region.id) or 7000 + len(looks))
    known = RegionSizes(leader.engine)
    assert [known.of(leader.peer, 1.0), known.of(leader.peer, 2.0)] == [7001, 7001]
    leader.peer.storage.appended_bytes += 1
    assert known.of(leader.peer, 3.0) == 7002
    assert known.of(leader.peer, 3.0 + SIZE_VALID_S - 1) == 7002
    assert known.of(leader.peer, 3.0 + SIZE_VALID_S) == 7003


def test_the_size_is_that_of_the_engine(leader: Node) -> None:
    assert RegionSizes(leader.engine).of(leader.peer, 1.0) == sizes.size_bytes(leader.engine, leader.peer.region) > 1000
