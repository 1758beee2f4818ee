"""Stores join, die for good and come back: the first region has three replicas as soon as there are three stores."""

from __future__ import annotations

from collections.abc import Callable

from tests.process.cluster import CONVERGED_S, Cluster, Process, wait_until
from tests.process.load import Load

import pytinykv

DOWN_S = "2"


def members(cluster: Cluster) -> list[str]:
    """Return the stores that hold the first region and have a vote, as its leader has it."""
    return sorted(str(store) for store in cluster.leader().regions()[0]["voters"])


def test_a_region_grows_from_one_replica_to_three_as_stores_join(new_cluster: Callable[..., Cluster]) -> None:
    cluster = new_cluster()
    cluster.start(stores=1)
    with Load(cluster.address) as load:
        load.wait_progress()
        for count in (2, 3):
            cluster.add_store().wait_ready()
            wait_until(
                lambda count=count: len(members(cluster)) >= count, within_s=CONVERGED_S, what=f"{count} replicas"
            )
            load.wait_progress()
        cluster.add_store().wait_ready()
        load.wait_progress()
        first = cluster.stores[0]
        first.kill()  # what it had, the others have got
        load.wait_progress()
        first.start()
        first.wait_ready()
    cluster.wait_replicated(3, cluster.stores[:3])
    load.check()


def test_a_store_that_stays_dead_is_replaced_by_a_spare(new_cluster: Callable[..., Cluster]) -> None:
    """And when it comes back after all, it is told that it was removed: it is a tombstone, as it holds nothing any more."""
    cluster = new_cluster(max_store_down_time=DOWN_S)
    cluster.start(stores=3)
    spare = cluster.add_store()
    spare_id = spare.wait_ready()["store"]
    with Load(cluster.address) as load:
        load.wait_progress()
        lost = cluster.leader()
        lost_id = lost.facts["store"]
        lost.kill()
        load.wait_progress()
        replaced_by(cluster, lost_id, spare_id)
        load.wait_progress()
        gone = f"store {lost_id} holds nothing any more: it is a tombstone now"
        wait_until(lambda: gone in cluster.scheduler.log, within_s=CONVERGED_S, what=cluster.scheduler.tail)
        lost.start()
        assert lost.wait_exit() == 1
        assert f"store {lost_id} is tombstone: it was removed from the cluster" in lost.log
        load.wait_progress()
    load.check()


def replaced_by(cluster: Cluster, lost_id: str, spare_id: str) -> None:
    def replaced() -> bool:
        now = members(cluster)
        return lost_id not in now and spare_id in now and len(now) == 3

    wait_until(replaced, within_s=CONVERGED_S, what=lambda: f"store {spare_id} for {lost_id}\n{cluster.tails()}")


def test_a_store_is_replaced_also_after_the_scheduler_was_restarted(new_cluster: Callable[..., Cluster]) -> None:
    cluster = new_cluster(max_store_down_time=DOWN_S)
    cluster.start(stores=3)
    lost = cluster.followers()[0]
    lost_id = lost.facts["store"]
    with pytinykv.connect(cluster.address) as db:
        db.raw.put(b"k", b"v")
        lost.kill()
        cluster.scheduler.kill()
        restart(cluster.scheduler)
        spare = cluster.add_store()
        replaced_by(cluster, lost_id, spare.wait_ready()["store"])
        assert db.raw.get(b"k") == b"v"


def restart(process: Process) -> None:
    process.start()
    process.wait_ready()


def test_a_follower_that_missed_a_lot_gets_a_snapshot(new_cluster: Callable[..., Cluster]) -> None:
    """The log it would need is cut off: the leader keeps so much and no more."""
    cluster = new_cluster()
    settings = cluster.directory / "small-logs.toml"
    settings.write_text("[store.raftstore]\nlog_keep_entries = 4\nlog_gc_bytes = 100000\nlog_gc_bytes_force = 200000\n")
    cluster.start(stores=0)
    for _ in range(3):
        cluster.add_store(config=str(settings))
    for store in cluster.stores:
        store.wait_ready()
    cluster.wait_replicated(3)
    late = cluster.followers()[0]
    late.kill()
    pairs = {b"%05d" % number: bytes([number]) * 10_000 for number in range(100)}
    with pytinykv.connect(cluster.address) as db:
        for key, value in pairs.items():
            db.raw.put(key, value)
        db.raw.delete_range(b"00000", b"00050")
        restart(late)
        cluster.wait_replicated(3)
        assert "installs the snapshot" in late.log
        others = [store for store in cluster.stores if store is not late]
        others[0].kill()  # one of those that remain has to be the late one
        assert dict(db.raw.scan(b"0", b"9", timeout=30.0)) == {k: v for k, v in pairs.items() if k >= b"00050"}
        restart(others[0])
