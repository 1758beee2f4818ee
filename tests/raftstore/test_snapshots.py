"""Log collection and snapshots between whole stores."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from tests.raftstore.harness import REGION_ID, Cluster, Node, Transfer

from pytinykv.model import FormatError, Peer, StoreId
from pytinykv.raft import AppendEntries, InstallSnapshot, LogIndex, PeerId, SnapshotMeta
from pytinykv.raftstore import RaftEnvelope, RaftStoreConfig, SnapshotHeader, SnapshotManifest, SnapshotRefusedError
from pytinykv.raftstore.peer import FORCE_ALL
from pytinykv.raftstore.records import SnapshotFile

SMALL_LOG = RaftStoreConfig(log_gc_bytes=2_000, log_gc_bytes_force=6_000, log_keep_entries=3, log_cache_bytes=1_000)


@pytest.fixture
def cluster(tmp_path: Path) -> Cluster:
    return Cluster(tmp_path, config=SMALL_LOG)


def load(cluster: Cluster, store_id: int, count: int, size: int = 200) -> None:
    for n in range(count):
        call = cluster.put(store_id, b"load-%d" % (n % 20), b"%d" % n + bytes(size))
        cluster.settle()
        assert call.succeeded
        cluster.ticks(1)


def log_entries(node: Node) -> int:
    return node.peer.storage.last_index() + 1 - node.peer.storage.first_index()


def same_data(cluster: Cluster, *nodes: Node) -> bool:
    values = [[node.value(b"load-%d" % n) for n in range(20)] for node in nodes or cluster.nodes.values()]
    return all(one == values[0] for one in values)


@pytest.mark.tinykv("TestGcRaftLog")
def test_the_log_stays_bounded_under_load(cluster: Cluster) -> None:
    leader = cluster.elect()
    load(cluster, leader.store_id, 100)
    cluster.ticks(3)
    for node in cluster.nodes.values():
        assert log_entries(node) < 30
        assert node.peer.storage.first_index() > 70
    assert cluster.snapshots_sent() == 0, "nobody was behind"
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


def lagging(cluster: Cluster) -> tuple[Node, Node]:
    """Return a leader and a follower that misses more than the log has."""
    leader = cluster.elect()
    follower = next(n for n in cluster.nodes if n != leader.store_id)
    cluster.cut_off = {follower}
    load(cluster, leader.store_id, 60)
    assert log_entries(leader) < 40, "its log does not wait for ever"
    return leader, cluster.nodes[follower]


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


def test_snapshots_that_nobody_wants_any_more_are_deleted(cluster: Cluster) -> None:
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
        assert deliver(kept[0])
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


def header(cluster: Cluster, leader: Node) -> tuple[SnapshotHeader, Transfer]:
    kept: list[Transfer] = []
    cluster.deliver = lambda transfer: bool(kept.append(transfer))  # type: ignore[method-assign,func-returns-value]
    cluster.cut_off = set()
    for _ in range(30):
        cluster.ticks(1)
        if kept:
            return kept[0].header, kept[0]
    raise AssertionError(f"store {leader.store_id} sends no snapshot")


def test_no_more_snapshots_are_taken_than_allowed_and_none_twice(cluster: Cluster) -> None:
    leader, follower = lagging(cluster)
    first, transfer = header(cluster, leader)
    store = follower.running
    receiver = store.receive_snapshot(first)
    with pytest.raises(SnapshotRefusedError, match="being received"):
        store.receive_snapshot(first)
    other = SnapshotHeader(
        first.envelope,
        SnapshotManifest(first.manifest.region, _later(first, 1), first.manifest.files),
    )
    second = store.receive_snapshot(other)
    with pytest.raises(SnapshotRefusedError, match="already receiving 2"):
        store.receive_snapshot(
            SnapshotHeader(
                first.envelope, SnapshotManifest(first.manifest.region, _later(first, 2), first.manifest.files)
            )
        )
    second.abort()
    cluster.settle()
    for chunk in transfer.chunks:
        receiver.write(chunk)
    receiver.finish()
    cluster.settle()
    assert follower.peer.storage.apply_state.applied_index >= first.manifest.meta.index


def _later(header: SnapshotHeader, by: int) -> SnapshotMeta:
    meta = header.manifest.meta
    return SnapshotMeta(LogIndex(meta.index + by), meta.term, meta.conf_state)


def test_bad_headers_take_no_place_from_good_ones(cluster: Cluster) -> None:
    leader, follower = lagging(cluster)
    good, _transfer = header(cluster, leader)
    bad = SnapshotHeader(
        good.envelope,
        SnapshotManifest(good.manifest.region, good.manifest.meta, (SnapshotFile("raw", "../x.sst", 1, 0),)),
    )
    for _ in range(5):
        with pytest.raises(FormatError):
            follower.running.receive_snapshot(bad)
    follower.running.receive_snapshot(good).abort()
    cluster.settle()


def test_a_snapshot_that_could_not_be_begun_is_taken_later(cluster: Cluster) -> None:
    leader, follower = lagging(cluster)
    good, transfer = header(cluster, leader)
    unwritable = SnapshotFile("raw", "x" * 300 + ".sst", 1, 0)
    bad = SnapshotHeader(
        good.envelope, SnapshotManifest(good.manifest.region, good.manifest.meta, (unwritable, *good.manifest.files))
    )
    with pytest.raises(OSError, match="too long"):
        follower.running.receive_snapshot(bad)
    assert Cluster.deliver(cluster, transfer)


def test_a_snapshot_given_up_in_the_middle_of_a_write_leaves_nothing_and_is_taken_again(cluster: Cluster) -> None:
    leader, follower = lagging(cluster)
    first, transfer = header(cluster, leader)
    receiver = follower.running.receive_snapshot(first)
    (directory,) = (follower.directory / "receive").iterdir()
    follower.background.submit(lambda: receiver.write(transfer.chunks[0]), lambda _result: None)
    receiver.abort()  # its sender is gone; the write is under way
    assert directory.exists(), "nobody deletes under the writer's feet"
    with pytest.raises(SnapshotRefusedError):
        follower.running.receive_snapshot(first)
    follower.background.work()
    assert not directory.exists()
    assert Cluster.deliver(cluster, transfer)


def test_a_leader_that_sends_a_snapshot_goes_on_serving(cluster: Cluster) -> None:
    leader, _follower = lagging(cluster)
    leader.background.is_held = True  # a large region: making it takes long
    cluster.cut_off = set()
    load(cluster, leader.store_id, 10)
    assert cluster.snapshots_sent() == 0
    leader.background.is_held = False
    cluster.ticks(30)
    assert same_data(cluster)


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
    snapshots, peer = leader.running._snapshots, leader.peer
    transfers: list[tuple[Path, Callable[[bool], None]]] = []
    snapshots._transport = SlowTransport(transfers)  # type: ignore[assignment]  # only what is needed

    def make_and_send() -> Path:
        snapshots.make(peer, cluster.clock.monotonic())
        cluster.settle()
        meta = peer.storage.snapshot()
        message = InstallSnapshot(PeerId(99), peer.peer.id, peer.node.term, meta, 0.0)
        stranger = Peer(PeerId(99), StoreId(99))
        envelope = RaftEnvelope(peer.region.id, peer.peer, stranger, peer.region.epoch, message)
        snapshots.send(envelope, cluster.clock.monotonic())
        return transfers[-1][0]

    first = make_and_send()
    load(cluster, leader.store_id, 3)
    second = make_and_send()
    assert first != second
    assert first.exists(), "somebody is still reading it"
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
