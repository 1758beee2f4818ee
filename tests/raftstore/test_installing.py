"""A snapshot that takes a region's place, step by step, between turns that go on for the others."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest
from tests.raftstore.harness import RAW, REGION_ID, Cluster, ManualWorker, Node, Transfer
from tests.raftstore.lagging import SMALL_LOG, lagging, same_data, sent_snapshot

from pytinykv.model import Peer, RegionEpoch, StoreId, encode
from pytinykv.raft import AppendResponse, Heartbeat, LogIndex, PeerId, PreVoteRequest, SnapshotMeta
from pytinykv.raftstore import RaftEnvelope, SnapshotHeader, SnapshotRefusedError, keys
from pytinykv.raftstore.incoming_snapshots import IncomingSnapshots
from pytinykv.raftstore.membership import conf_state
from pytinykv.raftstore.records import PeerState, decode_region_state
from pytinykv.raftstore.snapshot_files import make_snapshot, snapshot_chunks
from pytinykv.storage import ColumnFamily


@pytest.fixture
def cluster(tmp_path: Path) -> Cluster:
    return Cluster(tmp_path, config=SMALL_LOG)


def state_on_disk(node: Node) -> PeerState:
    stored = node.engine.get(ColumnFamily.RAFT, keys.region_state_key(REGION_ID))
    assert stored is not None
    return decode_region_state(stored).state


def begun(cluster: Cluster) -> tuple[Node, Node, Transfer]:
    """Return leader, follower and snapshot: the follower has taken it, and its disk is still busy with the note of that."""
    leader, follower = lagging(cluster)
    transfer = sent_snapshot(cluster, leader)
    follower.disk.is_held = True
    assert Cluster.deliver(cluster, transfer)
    assert follower.peer.is_installing
    return leader, follower, transfer


def test_files_are_taken_in_only_once_it_is_durable_that_the_region_is_being_replaced(cluster: Cluster) -> None:
    _leader, follower, transfer = begun(cluster)
    cluster.sent.clear()
    for _ in range(3):
        cluster.turn(follower.store_id)
    assert state_on_disk(follower) is PeerState.APPLYING
    assert follower.value(b"load-1") is None, "the old data is gone, the new is not there"
    assert not any(isinstance(envelope.message, AppendResponse) for envelope in cluster.sent)
    follower.disk.is_held = False
    cluster.settle()
    assert state_on_disk(follower) is PeerState.NORMAL
    assert follower.value(b"load-1") is not None
    assert any(isinstance(envelope.message, AppendResponse) for envelope in cluster.sent)
    assert follower.peer.node.applied_index == transfer.header.manifest.meta.index
    assert not any((follower.directory / "receive").iterdir())


def test_a_turn_takes_in_one_file(cluster: Cluster) -> None:
    leader, follower = lagging(cluster)
    batch = leader.engine.write_batch()
    for cf in (ColumnFamily.DEFAULT, ColumnFamily.LOCK, ColumnFamily.WRITE):
        batch.put(cf, b"k", b"v")
    leader.engine.write(batch)
    transfer = sent_snapshot(cluster, leader)
    assert len(transfer.header.manifest.files) == 4
    assert Cluster.deliver(cluster, transfer)
    follower.disk.work()
    there = []
    for _ in range(5):
        assert follower.running.take_due(), "there is more to do"
        cluster.turn(follower.store_id)
        there.append(sum(follower.engine.get(cf, b"k") is not None for cf in ColumnFamily))
    assert there == [1, 2, 3, 3, 3]
    assert follower.peer.is_installing is False


@pytest.mark.parametrize("turns", range(4))
def test_a_power_cut_in_between_starts_it_over(cluster: Cluster, turns: int) -> None:
    _leader, follower, transfer = begun(cluster)
    follower.disk.is_held = False
    follower.disk.work()
    for _ in range(turns):
        cluster.turn(follower.store_id)
    cluster.restart(follower.store_id)
    assert state_on_disk(follower) is PeerState.NORMAL
    assert follower.peer.node.applied_index == transfer.header.manifest.meta.index
    cluster.elect()
    cluster.ticks(10)
    assert same_data(cluster)


def test_no_other_snapshot_is_taken_meanwhile(cluster: Cluster) -> None:
    _leader, follower, transfer = begun(cluster)
    header = transfer.header
    meta = SnapshotMeta(
        LogIndex(header.manifest.meta.index + 1), header.manifest.meta.term, header.manifest.meta.conf_state
    )
    newer = SnapshotHeader(header.envelope, msgspec.structs.replace(header.manifest, meta=meta))
    with pytest.raises(SnapshotRefusedError, match="is being installed"):
        follower.running.receive_snapshot(newer)


def test_entries_that_follow_the_snapshot_wait_until_it_is_installed(cluster: Cluster) -> None:
    leader, follower, transfer = begun(cluster)
    transfer.on_done(True)
    cluster.put(leader.store_id, b"after", b"v")
    cluster.ticks(3)
    assert follower.value(b"after") is None
    follower.disk.is_held = False
    cluster.ticks(5)
    assert follower.value(b"after") == b"v"
    assert same_data(cluster)


@pytest.mark.parametrize("how", ["tombstone", "later peer"])
def test_a_peer_that_is_destroyed_meanwhile_leaves_nothing(cluster: Cluster, how: str) -> None:
    leader, follower, _transfer = begun(cluster)
    sender, epoch = leader.peer.peer, RegionEpoch(9, 1)
    if how == "tombstone":
        envelope = RaftEnvelope(REGION_ID, sender, follower.peer.peer, epoch, None, is_tombstone=True)
    else:
        to = Peer(PeerId(203), StoreId(follower.store_id))
        heartbeat = Heartbeat(to.id, sender.id, leader.peer.term, LogIndex(0), 0, 0.0)
        envelope = RaftEnvelope(REGION_ID, sender, to, epoch, heartbeat)
    follower.running.receive(encode([envelope]))
    cluster.turn(follower.store_id)
    assert any((follower.directory / "receive").iterdir()), "until it is durable that they are not needed"
    follower.disk.is_held = False
    cluster.settle()
    assert list(follower.engine.scan(RAW, b"", None)) == []
    assert not any((follower.directory / "receive").iterdir())
    assert follower.running.failure is None
    cluster.restart(follower.store_id)
    assert list(follower.engine.scan(RAW, b"", None)) == []


def test_what_the_region_had_beyond_its_new_range_goes(cluster: Cluster) -> None:
    """The peer missed a split: it jumps from all keys to those below `m`."""
    leader, follower = lagging(cluster)
    old = follower.peer.region
    for number in range(20):
        key = b"load-%d" % number
        assert (follower.value(key) is None) or key > b"load-1"
    shrunk = msgspec.structs.replace(old, end_key=b"load-5", epoch=RegionEpoch(1, 2))
    held = [key for key, _value in follower.engine.scan(RAW, b"dload-5", b"e")]
    batch = follower.engine.write_batch()
    batch.put(RAW, b"dm", b"\x00old")
    batch.put(ColumnFamily.WRITE, b"m", b"old")
    follower.engine.write(batch)
    leader.peer.storage.region = shrunk
    meta = SnapshotMeta(
        leader.peer.storage.apply_state.applied_index, leader.peer.storage.apply_state.applied_term, conf_state(shrunk)
    )
    assert held is not None
    with leader.engine.snapshot() as reader:
        manifest = make_snapshot(leader.engine, reader, shrunk, meta, cluster.path / "made")
    transfer = sent_snapshot(cluster, leader)
    message = msgspec.structs.replace(transfer.header.envelope.message, meta=meta)  # type: ignore[type-var]
    header = SnapshotHeader(msgspec.structs.replace(transfer.header.envelope, message=message), manifest)
    chunks = list(snapshot_chunks(manifest, cluster.path / "made"))
    assert Cluster.deliver(cluster, Transfer(header, chunks, transfer.on_done))
    cluster.settle()
    assert follower.peer.region == shrunk
    assert [key for key, _value in follower.engine.scan(RAW, b"", None)] == [
        key for key, _value in leader.engine.scan(RAW, b"", b"dload-5")
    ]
    assert list(follower.engine.scan(ColumnFamily.WRITE, b"", None)) == []


def test_a_peer_that_is_being_replaced_asks_for_no_votes(cluster: Cluster) -> None:
    leader, follower, _transfer = begun(cluster)
    cluster.cut_off = {leader.store_id}
    cluster.sent.clear()
    cluster.ticks(40)
    asked = [
        e for e in cluster.sent if isinstance(e.message, PreVoteRequest) and e.sender.store_id == follower.store_id
    ]
    assert asked == []
    assert follower.running.failure is None
    follower.disk.is_held = False
    cluster.ticks(40)
    assert cluster.leaders()


def test_files_go_also_when_the_turn_that_ends_with_them_is_durable_at_once(tmp_path: Path) -> None:
    """The loop has synced it by itself before it heard which files are needed no longer."""
    worker = ManualWorker()
    incoming = IncomingSnapshots(tmp_path, worker, SMALL_LOG, lambda _header, _directory, _on_end: None)
    early, late = tmp_path / "1_6_9", tmp_path / "2_6_9"
    for directory in (early, late):
        directory.mkdir()
    incoming.on_durable(5)
    incoming.discard_after(5, early)
    incoming.discard_after(6, late)
    worker.work()
    assert [path.name for path in tmp_path.iterdir()] == [late.name]
    incoming.on_durable(6)
    worker.work()
    assert not any(tmp_path.iterdir())
