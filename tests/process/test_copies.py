"""A data directory is copied (a cloned machine, a restored backup) and started beside the original; or it really moves."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.process.cluster import Cluster, Process

import pytinykv

REFUSED_S = 15.0
CALL_S = 30.0
HOLD_S = 4.0
"""For how long the address of a store that has become silent is still its own."""


@pytest.fixture
def three_stores(new_cluster: Callable[..., Cluster], tmp_path: Path) -> Cluster:
    """Run a scheduler that holds addresses for a short time, and three stores."""
    settings = tmp_path / "scheduler.toml"
    settings.write_text(f"[scheduler.settings]\ntick_interval_s = 0.1\nstore_address_hold_s = {HOLD_S}\n")
    cluster = new_cluster(config=str(settings))
    cluster.start()
    return cluster


def on_a_copy(cluster: Cluster, store: Process) -> Process:
    """Make a store, at an address of its own, on a copy of the data of one that does not run."""
    copy = cluster.make(f"copy-of-{store.name}", "store", scheduler=cluster.address)
    shutil.copytree(store.data_dir, copy.data_dir)
    return copy


def test_a_copy_is_refused_and_nothing_acknowledged_is_lost(three_stores: Cluster) -> None:
    """A and C acknowledge, C's copy comes, A goes: B and C are a majority, and it has to be C's log that counts."""
    cluster = three_stores
    a, b, c = cluster.stores
    c.stop()
    copy = on_a_copy(cluster, c)
    c.start()
    c.wait_ready()
    cluster.wait_replicated(3)
    b.stop()
    with pytinykv.connect(cluster.address, timeout=CALL_S) as db:
        for number in range(100):
            db.raw.put(b"key%03d" % number, b"acknowledged")
    copy.start()
    try:
        assert copy.wait_exit(REFUSED_S) == 1
    finally:
        copy.kill()
    assert f"is served at {c.address}" in copy.log
    assert f"can't be served at {copy.address}" in copy.log
    assert c.running
    a.stop()
    b.start()
    b.wait_ready()
    with pytinykv.connect(cluster.address, timeout=CALL_S) as db:
        assert sum(1 for _ in db.raw.scan(prefix=b"key")) == 100


@pytest.mark.parametrize("how", ["stopped", "killed"])
def test_a_store_moves_to_another_address(three_stores: Cluster, how: str) -> None:
    """At once if it stopped in good order; else when it has been silent for a while, which it says."""
    cluster = three_stores
    store = cluster.stores[2]
    if how == "stopped":
        store.stop()
    else:
        store.kill()
    gone_at = time.monotonic()
    moved = cluster.stores[2] = on_a_copy(cluster, store)
    moved.start()
    moved.wait_ready()
    took_s = time.monotonic() - gone_at
    cluster.wait_replicated(3)
    has_waited = "waiting to see whether the other process is alive" in moved.log
    if how == "stopped":
        assert not has_waited
    else:  # on a slow machine it may have been ready to register only when the silence was long enough
        assert has_waited or took_s > HOLD_S / 2
