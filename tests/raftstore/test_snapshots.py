"""Log collection and snapshots between whole stores."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from tests.raftstore.harness import REGION_ID, Cluster, Transfer
from tests.raftstore.lagging import SMALL_LOG, lagging, load, log_entries, same_data

from pytinykv.model import Peer, StoreId
from pytinykv.raft import AppendEntries, InstallSnapshot, PeerId
from pytinykv.raftstore import RaftEnvelope, SnapshotManifest
from pytinykv.raftstore.log_collection import FORCE_ALL


@pytest.fixture
def cluster(tmp_path: Path) -> Cluster:
    return Cluster(tmp_path, config=SMALL_LOG)


@pytest.mark.tinykv("TestGcRaftLog")
def test_the_log_stays_bounded_under_load(cluster: Cluster) -> None:
    leader = cluster.elect()
    load(cluster, leader.store_id, 100)
    cluster.ticks(3)
    for node in cluster.nodes.values():
        assert log_entries(node) < 30
        assert node.peer.storage.first_index() > 70
    assert cluster.snapshots_sent() == 0, "no follower was behind"
    assert same_data(cluster)


def test_a_follower_that_is_a_little_behind_is_waited_for(cluster: Cluster) -> None:
    leader = cluster.elect()
    follower = next(n for n in cluster.nodes if n != leader.store_id)
    cluster.cut_off = {follower}
    load(cluster, leader.store_id, 15)
    cluster.cut_off = set()
    cluster.ticks(30)
    assert cluster.snapshots_sent() == 0
    assert same_data(cluster)


def test_a_follower_far_behind_gets_a_snapshot_and_goes_on_from_it(cluster: Cluster) -> None:
    leader, follower = lagging(cluster)
    cluster.cut_off = set()
    cluster.ticks(30)
    assert cluster.snapshots_sent() > 0
    assert same_data(cluster)
    load(cluster, cluster.elect().store_id, 5)
    cluster.ticks(3)
    assert same_data(cluster)
    assert not any((follower.directory / "receive").iterdir()), "what is installed is cleaned up"
    assert follower.peer.is_initialized
    cluster.restart(follower.store_id)
    cluster.elect()
    cluster.ticks(5)
    assert same_data(cluster)
    assert leader.running.failure is None


def test_snapshots_without_a_receiver_are_deleted(cluster: Cluster) -> None:
    leader, _follower = lagging(cluster)
    cluster.cut_off = set()
    cluster.ticks(30)
    assert any((leader.directory / "send").iterdir())
    cluster.clock.advance(SMALL_LOG.snapshot_keep_s + 1)
    cluster.ticks(1)
    assert not any((leader.directory / "send").iterdir())


def test_a_snapshot_that_was_lost_is_sent_again(cluster: Cluster) -> None:
    _leader, follower = lagging(cluster)
    lost: list[Transfer] = []
    deliver = cluster.deliver

    def lose_two(transfer: Transfer) -> bool:
        if len(lost) < 2:
            lost.append(transfer)
            return False
        return deliver(transfer)

    cluster.deliver = lose_two  # type: ignore[method-assign]
    cluster.cut_off = set()
    cluster.ticks(60)
    assert len(lost) == 2
    assert follower.peer.storage.apply_state.truncated_index > 10
    assert same_data(cluster)


def test_a_snapshot_that_arrives_twice_or_too_late_is_not_installed_again(cluster: Cluster) -> None:
    _leader, follower = lagging(cluster)
    kept: list[Transfer] = []
    deliver = cluster.deliver

    def keep(transfer: Transfer) -> bool:
        kept.append(Transfer(transfer.header, list(transfer.chunks), transfer.on_done))
        return deliver(transfer)

    cluster.deliver = keep  # type: ignore[method-assign]
    cluster.cut_off = set()
    cluster.ticks(30)
    load(cluster, cluster.elect().store_id, 5)
    applied = follower.peer.storage.apply_state.applied_index
    for _ in range(2):
        assert not deliver(kept[0])
        cluster.settle()
    assert follower.peer.storage.apply_state.applied_index == applied
    assert not any((follower.directory / "receive").iterdir())
    cluster.ticks(3)
    assert same_data(cluster)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("rest", range(0, 40, 4))
def test_a_crash_at_any_moment_of_catching_up_costs_nothing(tmp_path: Path, rest: int, seed: int) -> None:
    cluster = Cluster(tmp_path, config=SMALL_LOG)
    cluster.rng.seed(seed)
    _leader, follower = lagging(cluster)
    cluster.cut_off = set()
    cluster.clock.advance(0.1)
    for node in cluster.nodes.values():
        node.running.tick_soon()
    for step in range(rest):
        if not cluster.step() and step % 2 == 0:
            cluster.clock.advance(0.1)
            for node in cluster.nodes.values():
                node.running.tick_soon()
    cluster.restart(follower.store_id, lose_all=False)
    cluster.elect()
    cluster.ticks(30)
    assert same_data(cluster)


def test_a_leader_that_sends_a_snapshot_goes_on_serving(cluster: Cluster) -> None:
    leader, _follower = lagging(cluster)
    leader.background.is_held = True  # a large region: making it takes long
    cluster.cut_off = set()
    load(cluster, leader.store_id, 10)
    assert cluster.snapshots_sent() == 0
    leader.background.is_held = False
    cluster.ticks(30)
    assert same_data(cluster)


def test_a_snapshot_that_takes_long_to_make_is_kept_from_when_it_is_made(tmp_path: Path) -> None:
    cluster = Cluster(tmp_path, config=replace(SMALL_LOG, snapshot_keep_s=1.0))
    leader, _follower = lagging(cluster)
    leader.background.is_held = True
    cluster.cut_off = set()
    cluster.ticks(30)  # far longer than one is kept
    assert len(leader.background.waiting) == 1
    cluster.drop = lambda _envelope: True  # so that it is not wanted at once
    leader.background.work()
    cluster.ticks(2)
    cluster.drop = lambda _envelope: False
    cluster.ticks(5)
    assert leader.background.waiting == [], "it is not made again"
    assert same_data(cluster)


def test_a_finished_snapshot_asks_for_a_turn(cluster: Cluster) -> None:
    leader, _follower = lagging(cluster)
    leader.background.is_held = True
    cluster.cut_off = set()
    cluster.ticks(3)
    assert leader.background.waiting
    leader.running.take_due()
    leader.background.work()
    assert leader.running.take_due()


def test_a_snapshot_that_could_not_be_made_is_tried_again(cluster: Cluster) -> None:
    leader, _follower = lagging(cluster)
    blocker = leader.directory / "send"
    blocker.rmdir()
    blocker.write_bytes(b"in the way")
    cluster.cut_off = set()
    cluster.ticks(10)
    assert leader.running.failure is None
    blocker.unlink()
    cluster.ticks(30)
    assert same_data(cluster)


def test_appends_are_no_substitute_for_what_is_gone(cluster: Cluster) -> None:
    leader, follower = lagging(cluster)
    last = follower.peer.node.last_index
    cluster.sent.clear()
    cluster.cut_off = set()
    cluster.ticks(30)
    prevs = [
        envelope.message.prev_index
        for envelope in cluster.entries_sent_to(follower.store_id)
        if isinstance(envelope.message, AppendEntries)
    ]
    assert all(index > last for index in prevs)
    assert leader.running.peers[REGION_ID].is_leader


def test_the_log_waits_for_a_follower_that_is_getting_a_snapshot(cluster: Cluster) -> None:
    leader, follower = lagging(cluster)
    late: list[Transfer] = []
    deliver = cluster.deliver
    cluster.deliver = lambda transfer: bool(late.append(transfer))  # type: ignore[method-assign,func-returns-value]
    cluster.cut_off = set()
    while not late:
        cluster.ticks(1)
    transfer = late[0]
    load(cluster, leader.store_id, 40)  # more than the log keeps for one that is silent
    assert leader.peer.storage.log_bytes > SMALL_LOG.log_gc_bytes_force
    cluster.deliver = deliver  # type: ignore[method-assign]
    assert deliver(transfer), "it arrives at last"
    sent = cluster.snapshots_sent()
    cluster.ticks(5)
    assert same_data(cluster)
    assert cluster.snapshots_sent() == sent, "and the rest is in the log"
    assert follower.running.failure is None


def test_the_log_does_not_wait_for_ever_for_a_follower_that_answers(cluster: Cluster) -> None:
    leader, _follower = lagging(cluster)
    cluster.deliver = lambda _transfer: False  # type: ignore[method-assign]
    cluster.cut_off = set()
    load(cluster, leader.store_id, 200)
    assert leader.peer.storage.log_bytes < (FORCE_ALL + 1) * SMALL_LOG.log_gc_bytes_force


def test_files_of_a_replaced_snapshot_stay_until_their_transfer_ends(cluster: Cluster) -> None:
    leader = cluster.elect()
    snapshots, peer = leader.running._outgoing, leader.peer
    transfers: list[tuple[Path, Callable[[bool], None]]] = []
    snapshots._transport = SlowTransport(transfers)  # type: ignore[assignment]  # only what is needed

    def make_and_send() -> Path:
        snapshots.make(peer)
        cluster.settle()
        meta = peer.storage.snapshot()
        message = InstallSnapshot(PeerId(99), peer.peer.id, peer.node.term, meta, 0.0)
        unknown = Peer(PeerId(99), StoreId(99))
        envelope = RaftEnvelope(peer.region.id, peer.peer, unknown, peer.region.epoch, message)
        snapshots.send(envelope, cluster.clock.monotonic())
        return transfers[-1][0]

    first = make_and_send()
    load(cluster, leader.store_id, 3)
    second = make_and_send()
    assert first != second
    assert first.exists(), "a transfer is still reading it"
    transfers[0][1](True)
    assert not first.exists()
    assert second.exists()


class SlowTransport:
    """Keeps every snapshot transfer under way until the test ends it."""

    def __init__(self, transfers: list[tuple[Path, Callable[[bool], None]]]) -> None:
        self._transfers = transfers

    def send(self, store_id: int, envelopes: list[RaftEnvelope]) -> None:
        """Lose them."""

    def send_snapshot(
        self, _envelope: RaftEnvelope, _manifest: SnapshotManifest, directory: Path, on_done: Callable[[bool], None]
    ) -> None:
        self._transfers.append((directory, on_done))
