"""Servers are killed, paused and restarted under load: nothing acknowledged is lost, and nothing stale is read."""

from __future__ import annotations

import pytest
import tikv
from tests.process.cluster import Cluster, Process, put_until_acknowledged, wait_until
from tests.process.load import Load
from tests.process.quarrel import Quarrel

import pytinykv
from pytinykv.client.errors import ClientError

CALL_S = 30.0


def restart(process: Process) -> None:
    process.start()
    process.wait_ready()


def test_a_killed_leader_loses_no_acknowledged_write(cluster: Cluster) -> None:
    with Load(cluster.address) as load:
        load.wait_progress()
        leader = cluster.leader()
        leader.kill()
        load.wait_progress()
        restart(leader)
        load.wait_progress()
    cluster.wait_replicated(3)
    load.check()


def test_each_store_is_killed_in_turn(cluster: Cluster) -> None:
    """After each round the restarted store has to be worth its vote: the next round takes away one of the others."""
    with Load(cluster.address) as load:
        for store in cluster.stores:
            load.wait_progress(30)
            store.kill()
            load.wait_progress(30)
            restart(store)
            wait_until(lambda store=store: store.regions()[:1], within_s=CALL_S, what="it has its region again")
    cluster.wait_replicated(3)
    load.check()


def test_all_stores_are_killed_at_once(cluster: Cluster) -> None:
    with Load(cluster.address) as load:
        load.wait_progress()
        for store in cluster.stores:
            store.kill()
        for store in cluster.stores:
            store.start()
        for store in cluster.stores:
            store.wait_ready()
        load.wait_progress()
    cluster.wait_replicated(3)
    load.check()


def test_everything_is_killed_at_once(cluster: Cluster) -> None:
    with Load(cluster.address, theirs=0) as load:
        load.wait_progress()
        for process in cluster.processes:
            process.kill()
        for process in cluster.processes:
            process.start()
        for process in cluster.processes:
            process.wait_ready()
        load.wait_progress()
    cluster.wait_replicated(3)
    load.check()


def test_clients_go_on_without_a_scheduler_and_timestamps_never_go_back(cluster: Cluster) -> None:
    with pytinykv.connect(cluster.address, timeout=CALL_S) as db, Load(cluster.address) as load:
        load.wait_progress()
        db.raw.get(load.writers[0].counter_key)  # from here on it knows the way
        before = timestamp(db)
        cluster.scheduler.kill()
        load.wait_progress(200)
        assert db.raw.get(load.writers[0].counter_key) is not None
        restart(cluster.scheduler)
        assert timestamp(db) > before
        cluster.scheduler.stop()
        load.wait_progress()
        restart(cluster.scheduler)
        last = timestamp(db)
        assert last > before
        load.wait_progress()
    assert [writer.failures for writer in load.writers] == [[]] * len(load.writers)
    load.check()


def timestamp(db: pytinykv.Client) -> int:
    return int(db._core.run(lambda client: client.scheduler.timestamp(CALL_S), CALL_S))


def test_a_leader_killed_without_a_scheduler_is_replaced(cluster: Cluster) -> None:
    for store in cluster.stores:
        wait_until(lambda store=store: knows_all(cluster, store), within_s=CALL_S, what="it has heard of the others")
    with Load(cluster.address, theirs=0) as load:
        load.wait_progress()
        cluster.scheduler.kill()
        cluster.leader().kill()
        load.wait_progress()
        restart(cluster.scheduler)
        load.wait_progress()
    load.check()


def knows_all(cluster: Cluster, store: Process) -> bool:
    all_stores = ", ".join(sorted((other.facts["store"] for other in cluster.stores), key=int))
    return f"knows the addresses of stores {all_stores}" in store.log


def test_a_leader_that_was_paused_serves_nothing_old(cluster: Cluster) -> None:
    """It wakes up in the belief that it leads. What it is asked then must not be answered from what it knows."""
    with pytinykv.connect(cluster.address, timeout=CALL_S) as db, tikv.RawClient([cluster.address]) as bound:
        db.raw.put(b"k", b"old")
        assert bound.get(b"k") == b"old"  # from here on it knows where the leader is
        old = cluster.leader()
        old.pause()
        put_until_acknowledged(db, b"k", b"new", within_s=CALL_S)
        old.resume()
        assert bound.get(b"k") == b"new"
        assert db.raw.get(b"k") == b"new"
        wait_until(lambda: "nothing of this process ran" in old.log, within_s=CALL_S, what="it noticed its pause")
        assert "wait-for graph" not in old.log
    cluster.wait_replicated(3)


def test_histories_are_linearizable_while_leaders_are_killed_and_paused(cluster: Cluster) -> None:
    with Quarrel(cluster.address) as quarrel:
        for _ in range(2):
            quarrel.wait_progress()
            paused = cluster.leader()
            paused.pause()
            other = cluster.leader_besides(paused, within_s=CALL_S)
            paused.resume()
            quarrel.wait_progress()
            other.kill()
            quarrel.wait_progress()
            restart(other)
        quarrel.wait_progress()
    assert quarrel.check() > 500
    cluster.wait_replicated(3)


def test_without_a_majority_nothing_is_acknowledged_and_nothing_is_read(cluster: Cluster) -> None:
    with pytinykv.connect(cluster.address) as db:
        db.raw.put(b"k", b"v")
        lost = cluster.followers()
        for store in lost:
            store.kill()
        with pytest.raises(ClientError) as refused:
            db.raw.put(b"k", b"w", timeout=2.0)
        assert refused.value.retryable or refused.value.undetermined
        with pytest.raises(ClientError):
            db.raw.get(b"k", timeout=1.0)
        for store in lost:
            restart(store)
        assert db.raw.get(b"k", timeout=CALL_S) in {b"v", b"w"}
        db.raw.put(b"k", b"x", timeout=CALL_S)
        assert db.raw.get(b"k") == b"x"
