"""Real processes whose network is cut, one way and both, while clients of two kinds write, read and swap.

The tests share a cluster, which is whole again before each. Its stores notice sooner than others that a leader is gone
(0.5 s), and keep short logs, so that a store that was away for a while gets a snapshot.
"""

from __future__ import annotations

import random
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import tikv
from tests.process.cluster import ATTEMPT_S, CONVERGED_S, Cluster, Process, put_until_acknowledged, wait_until
from tests.process.load import Load
from tests.process.network import CLIENT, FINE, Cuts, Network, Weather, network_for
from tests.process.quarrel import Quarrel

import pytinykv
from pytinykv.client.errors import ClientError

SETTINGS = (
    "[store.raftstore]\nelection_ticks = 5\nlog_keep_entries = 4\nlog_gc_bytes = 100000\nlog_gc_bytes_force = 300000\n"
)
CALL_S = 30.0
SLOW = Weather(bytes_per_s=200_000)
BAD = Weather(delay_s=0.02, jitter_s=0.01, loss=0.02, bytes_per_s=500_000)


@pytest.fixture(scope="module")
def network() -> Iterator[Network]:
    with network_for(SLOW) as made:
        yield made


@pytest.fixture(scope="module")
def store_settings() -> str:
    return SETTINGS


@pytest.fixture
def cuts(cluster: Cluster) -> Iterator[Cuts]:
    made = Cuts(cluster.network)
    yield made
    made.heal()


def names(*processes: Process) -> list[str]:
    return [process.name for process in processes]


def all_but(cluster: Cluster, process: Process) -> list[str]:
    return [CLIENT, *names(*(other for other in cluster.processes if other is not process))]


@contextmanager
def slowed(cluster: Cluster, *slow: str, weather: Weather = SLOW) -> Iterator[None]:
    """Slow the way out of these nodes down."""
    for node in slow:
        cluster.network.weather(node, weather)
    try:
        yield
    finally:
        for node in slow:
            cluster.network.weather(node, FINE)


def nodes(cluster: Cluster) -> list[str]:
    return [CLIENT, *names(*cluster.processes)]


def term(store: Process) -> int:
    return int(store.regions()[0]["term"])


def test_a_leader_that_its_followers_cannot_reach_serves_nothing_old(cluster: Cluster, cuts: Cuts) -> None:
    """Clients reach it all the same, and one knows no other."""
    with (
        Quarrel(cluster.address, timeout_s=ATTEMPT_S) as quarrel,
        Load(cluster.address, timeout_s=ATTEMPT_S) as load,
        pytinykv.connect(cluster.address, timeout=CALL_S) as db,
        tikv.RawClient([cluster.address], timeout=CALL_S) as bound,
    ):
        db.raw.put(b"k", b"old")
        assert bound.get(b"k") == b"old"  # from here on it knows where the leader is
        old = cluster.leader()
        cuts.both_ways(old.name, *names(*cluster.followers()))
        cluster.leader_besides(old)
        put_until_acknowledged(db, b"k", b"new", within_s=CALL_S)
        assert bound.get(b"k") == b"new"
        wait_until(lambda: not old.leads, within_s=CONVERGED_S, what=lambda: f"it steps down\n{old.tail()}")
        load.wait_progress(10)
        quarrel.wait_progress(100)
        cuts.heal()
        load.wait_progress(10)
        quarrel.wait_progress(100)
    cluster.wait_replicated(3)
    load.check()
    assert quarrel.check() > 200


def test_a_leader_that_is_alone_acknowledges_nothing_and_reads_nothing(cluster: Cluster, cuts: Cuts) -> None:
    with pytinykv.connect(cluster.address, timeout=CALL_S) as db:
        db.raw.put(b"k", b"before")
        for store in cluster.stores:
            cuts.both_ways(store.name, *names(*(other for other in cluster.stores if other is not store)))
        with pytest.raises(ClientError) as refused:
            db.raw.put(b"k", b"during", timeout=ATTEMPT_S)
        assert refused.value.undetermined
        with pytest.raises(ClientError):
            db.raw.get(b"k", timeout=ATTEMPT_S)
        cuts.heal()
        assert db.raw.get(b"k", timeout=CALL_S) in {b"before", b"during"}
        put_until_acknowledged(db, b"k", b"after", within_s=CALL_S)
        assert db.raw.get(b"k") == b"after"


def test_a_leader_that_only_clients_cannot_reach_goes_on_leading(cluster: Cluster, cuts: Cuts) -> None:
    """Only the stores know who leads. What was under way is undetermined, what comes fails."""
    with (
        Quarrel(cluster.address, timeout_s=ATTEMPT_S) as quarrel,
        Load(cluster.address, timeout_s=ATTEMPT_S) as load,
        pytinykv.connect(cluster.address, timeout=CALL_S) as db,
    ):
        load.wait_progress(10)
        leader = cluster.leader()
        db.raw.put(b"k", b"v")
        cuts.both_ways(CLIENT, leader.name)
        with pytest.raises(ClientError):
            db.raw.get(b"k", timeout=ATTEMPT_S)
        assert cluster.leader() is leader
        cuts.heal()
        load.wait_progress(10)
        quarrel.wait_progress(100)
        assert db.raw.get(b"k") == b"v"
    load.check()
    quarrel.check()


@pytest.mark.parametrize("hears", [True, False], ids=["mute", "deaf"])
def test_a_follower_that_is_cut_off_one_way_does_not_disturb_the_others(
    cluster: Cluster, cuts: Cuts, hears: bool
) -> None:
    """One that can't answer, and one that hears nothing and so wants to be elected: it asks first (pre-vote)."""
    with Quarrel(cluster.address, timeout_s=ATTEMPT_S) as quarrel, Load(cluster.address, timeout_s=ATTEMPT_S) as load:
        load.wait_progress(10)
        follower = cluster.followers()[0]
        others = names(*(store for store in cluster.stores if store is not follower))
        before = term(follower)
        for other in others:
            cuts.one_way(*((follower.name, other) if hears else (other, follower.name)))
        load.wait_progress(100)
        quarrel.wait_progress(100)
        if not hears:
            wait_until(
                lambda: not follower.regions()[0]["leader_store"], within_s=CONVERGED_S, what="it misses its leader"
            )
            assert term(follower) == before, "it went into a new term although no other store agreed to it"
        assert not follower.leads
        cuts.heal()
        load.wait_progress(10)
    cluster.wait_replicated(3)
    load.check()
    assert quarrel.check() > 200


def test_a_leader_without_its_scheduler_goes_on(cluster: Cluster, cuts: Cuts) -> None:
    with Load(cluster.address, timeout_s=ATTEMPT_S) as load:
        load.wait_progress(10)
        leader = cluster.leader()
        cuts.both_ways(leader.name, cluster.scheduler.name)
        load.wait_progress(100)
        assert cluster.leader() is leader
        cuts.heal()
        load.wait_progress(10)
    load.check()


def test_cuts_that_heal_in_another_order(cluster: Cluster, cuts: Cuts) -> None:
    """Links go one after the other, until all are cut, and come back in the order in which they went."""
    one, two, three = names(*cluster.stores)
    links = [(one, two), (two, three), (three, one)]
    with Quarrel(cluster.address, timeout_s=ATTEMPT_S) as quarrel, Load(cluster.address, timeout_s=ATTEMPT_S) as load:
        for link in links:
            load.wait_progress(5)
            cuts.both_ways(*link)
        wait_until(
            lambda: not any(store.leads for store in cluster.stores),
            within_s=CONVERGED_S,
            what=lambda: f"all step down\n{cluster.tails()}",
        )
        for link in links:
            cuts.heal(*link)
            load.wait_progress(5)
        quarrel.wait_progress(100)
    cluster.wait_replicated(3)
    load.check()
    quarrel.check()


def test_a_leader_that_dies_out_of_reach_is_missed_although_no_connection_breaks(cluster: Cluster, cuts: Cuts) -> None:
    """As when a machine loses its power: no peer hears of the end of its connections."""
    with Quarrel(cluster.address, timeout_s=ATTEMPT_S) as quarrel, Load(cluster.address, timeout_s=ATTEMPT_S) as load:
        load.wait_progress(10)
        leader = cluster.leader()
        cuts.both_ways(leader.name, *all_but(cluster, leader))
        leader.kill()
        cluster.leader_besides(leader)
        load.wait_progress(10)
        quarrel.wait_progress(100)
        cuts.heal()
        leader.start()
        leader.wait_ready()
        load.wait_progress(10)
    cluster.wait_replicated(3)
    load.check()
    quarrel.check()


def test_a_program_cut_off_from_all_others_stops_as_ever(cluster: Cluster, cuts: Cuts) -> None:
    with Load(cluster.address, timeout_s=ATTEMPT_S) as load:
        for process in (cluster.leader(), cluster.scheduler):
            load.wait_progress(10)
            cuts.both_ways(process.name, *all_but(cluster, process))
            process.stop()
            cuts.heal()
            process.start()
            process.wait_ready()
        load.wait_progress(10)
    cluster.wait_replicated(3)
    load.check()


def test_on_slow_links_the_load_goes_on(cluster: Cluster) -> None:
    with Quarrel(cluster.address, timeout_s=CALL_S) as quarrel, Load(cluster.address, timeout_s=CALL_S) as load:
        with slowed(cluster, *nodes(cluster)):
            load.wait_progress(10)
            quarrel.wait_progress(100)
        load.wait_progress(10)
    cluster.wait_replicated(3)
    load.check()
    assert quarrel.check() > 100
    assert [writer.failures for writer in load.writers] == [[]] * len(load.writers)


def test_a_snapshot_is_cut_in_the_middle_and_all_are_told_to_stop(cluster: Cluster, cuts: Cuts) -> None:
    """One end waits for bytes that don't come, the other for room that is never made."""
    late = cluster.followers()[0]
    others = [store for store in cluster.stores if store is not late]
    late.kill()
    # more than the log keeps
    pairs = {b"large/%02d" % number: random.Random(number).randbytes(100_000) for number in range(60)}
    with pytinykv.connect(cluster.address, timeout=CALL_S) as db:
        for key, value in pairs.items():
            db.raw.put(key, value)
        wait_until(
            lambda: cluster.leader().regions()[0]["log_bytes"] < 1_000_000, within_s=CALL_S, what="the log is cut"
        )
        with slowed(cluster, *names(*others)):
            late.start()
            late.wait_ready()
            wait_until(lambda: is_arriving(late), within_s=CALL_S, what=lambda: f"a snapshot comes\n{late.tail()}")
            cuts.both_ways(late.name, *names(*others))
            for process in cluster.stores:
                process.send(signal.SIGTERM)
            for process in cluster.stores:
                process.check_stopped()
            assert "installs the snapshot" not in late.log
        cuts.heal()
        for process in cluster.stores:
            process.start()
        for process in cluster.stores:
            process.wait_ready()
        cluster.wait_replicated(3)
        assert dict(db.raw.scan(prefix=b"large/")) == pairs


def is_arriving(store: Process) -> bool:
    received = (store.data_dir / "snapshots" / "receive").rglob("*")
    return any(file.is_file() and file.stat().st_size for file in received)


def test_on_a_bad_network_a_whole_cluster_stops_as_ever(tmp_path: Path) -> None:
    """What is said at the end is late, or lost and repeated; no caller waits for it longer than for anything else."""
    with network_for(BAD) as network:
        cluster = Cluster(tmp_path, network)
        try:
            cluster.start()
            with Load(cluster.address, ours=8, timeout_s=ATTEMPT_S) as load:
                with slowed(cluster, *nodes(cluster), weather=BAD):
                    load.wait_progress(10)
                    for process in cluster.processes:
                        process.send(signal.SIGTERM)
                    for process in cluster.processes:
                        process.check_stopped()
                for process in cluster.processes:
                    process.start()
                for process in cluster.processes:
                    process.wait_ready()
                load.wait_progress(10)
            load.check()
            cluster.stop()
        finally:
            cluster.close()
            print(cluster.tails())  # noqa: T201 - pytest shows it beside a failure
