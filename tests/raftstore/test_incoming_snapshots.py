"""Snapshots that arrive: which are taken, which are refused and when, and what their sender is told."""

from __future__ import annotations

import shutil
from pathlib import Path

import msgspec
import pytest
from tests.raftstore.harness import REGION_ID, Cluster, Transfer
from tests.raftstore.lagging import SMALL_LOG, lagging, load, same_data, sent_snapshot

from pytinykv.model import FormatError, Peer, Region, RegionEpoch, RegionId, StoreId
from pytinykv.raft import AppendResponse, InstallSnapshot, LogIndex, PeerId, SnapshotMeta
from pytinykv.raftstore import SnapshotHeader, SnapshotManifest, SnapshotRefusedError
from pytinykv.raftstore.bootstrap import write_initial_region
from pytinykv.raftstore.records import SnapshotFile
from pytinykv.raftstore.snapshot_files import snapshot_name
from pytinykv.raftstore.turn import Turn


@pytest.fixture
def cluster(tmp_path: Path) -> Cluster:
    return Cluster(tmp_path, config=SMALL_LOG)


def later(header: SnapshotHeader, by: int) -> SnapshotHeader:
    """Return the header of another snapshot, of `by` entries later."""
    old, message = header.manifest, header.envelope.message
    assert isinstance(message, InstallSnapshot)
    meta = SnapshotMeta(LogIndex(old.meta.index + by), old.meta.term, old.meta.conf_state)
    envelope = msgspec.structs.replace(header.envelope, message=msgspec.structs.replace(message, meta=meta))
    return SnapshotHeader(envelope, SnapshotManifest(old.region, meta, old.files))


def with_files(header: SnapshotHeader, *files: SnapshotFile) -> SnapshotHeader:
    return SnapshotHeader(header.envelope, msgspec.structs.replace(header.manifest, files=files))


def test_no_more_snapshots_are_taken_than_allowed_and_none_twice(cluster: Cluster) -> None:
    leader, follower = lagging(cluster)
    transfer = sent_snapshot(cluster, leader)
    store = follower.running
    receiver = store.receive_snapshot(transfer.header)
    with pytest.raises(SnapshotRefusedError, match="being received"):
        store.receive_snapshot(transfer.header)
    second = store.receive_snapshot(later(transfer.header, 1))
    with pytest.raises(SnapshotRefusedError, match="already receiving 2"):
        store.receive_snapshot(later(transfer.header, 2))
    second.abort()
    receiver.abort()
    cluster.settle()
    assert Cluster.deliver(cluster, transfer)


def test_bad_headers_take_no_place_from_good_ones(cluster: Cluster) -> None:
    leader, follower = lagging(cluster)
    good = sent_snapshot(cluster, leader).header
    other_region = SnapshotHeader(msgspec.structs.replace(good.envelope, region_id=RegionId(9)), good.manifest)
    no_snapshot = SnapshotHeader(msgspec.structs.replace(good.envelope, message=None), good.manifest)
    for bad in (with_files(good, SnapshotFile("raw", "../x.sst", 1, 0)), other_region, no_snapshot):
        for _ in range(3):
            with pytest.raises(FormatError):
                follower.running.receive_snapshot(bad)
    follower.running.receive_snapshot(good).abort()
    cluster.settle()


def test_a_snapshot_that_could_not_be_begun_is_taken_later(cluster: Cluster) -> None:
    leader, follower = lagging(cluster)
    transfer = sent_snapshot(cluster, leader)
    unwritable = SnapshotFile("raw", "x" * 300 + ".sst", 1, 0)
    with pytest.raises(OSError, match="too long"):
        follower.running.receive_snapshot(with_files(transfer.header, unwritable, *transfer.header.manifest.files))
    assert Cluster.deliver(cluster, transfer)


def test_a_snapshot_given_up_in_the_middle_of_a_write_leaves_nothing_and_is_taken_again(cluster: Cluster) -> None:
    leader, follower = lagging(cluster)
    transfer = sent_snapshot(cluster, leader)
    receiver = follower.running.receive_snapshot(transfer.header)
    (directory,) = (follower.directory / "receive").iterdir()
    ends: list[BaseException | None] = []
    receiver.write(transfer.chunks[0], ends.append)
    receiver.abort()  # its sender is gone; the write is under way
    assert directory.exists(), "nothing is deleted under the writer's feet"
    with pytest.raises(SnapshotRefusedError):
        follower.running.receive_snapshot(transfer.header)
    follower.background.work()
    assert not directory.exists()
    assert ends == [], "it was given up"
    assert Cluster.deliver(cluster, transfer)


def test_a_damaged_snapshot_leaves_nothing_and_is_taken_again(cluster: Cluster) -> None:
    leader, follower = lagging(cluster)
    transfer = sent_snapshot(cluster, leader)
    chunks = [bytes(len(chunk)) for chunk in transfer.chunks]
    assert not Cluster.deliver(cluster, Transfer(transfer.header, chunks, transfer.on_done))
    cluster.settle()
    assert not any((follower.directory / "receive").iterdir())
    assert Cluster.deliver(cluster, transfer)


# --- refused by the header


def test_keys_of_another_region_here_are_refused_before_the_bytes_travel(cluster: Cluster) -> None:
    """The snapshot is from before a split; the other half is here already."""
    leader, follower = lagging(cluster)
    transfer = sent_snapshot(cluster, leader)
    half = Region(RegionId(2), b"m", b"", RegionEpoch(1, 2), (Peer(PeerId(202), StoreId(follower.store_id)),))
    batch = follower.engine.write_batch()
    write_initial_region(batch, half, PeerId(202))
    follower.engine.write(batch)
    follower.running._make_peer(half.peers[0], half)
    old = transfer.header.manifest.region
    follower.peer.storage.region = msgspec.structs.replace(old, end_key=b"m")
    with pytest.raises(SnapshotRefusedError, match="keys of region 2"):
        follower.running.receive_snapshot(transfer.header)
    assert not any((follower.directory / "receive").iterdir())


def test_a_snapshot_for_a_removed_peer_is_refused(cluster: Cluster) -> None:
    leader, follower = lagging(cluster)
    transfer = sent_snapshot(cluster, leader)
    region = follower.peer.region
    without = tuple(peer for peer in region.peers if peer.store_id != follower.store_id)
    follower.running.on_membership_answer(Region(REGION_ID, b"", b"", RegionEpoch(9, 1), without))
    cluster.settle()
    with pytest.raises(SnapshotRefusedError, match="removed"):
        follower.running.receive_snapshot(transfer.header)


def test_a_leader_whose_snapshot_is_there_already_hears_so_without_sending_it(cluster: Cluster) -> None:
    leader, follower = lagging(cluster)
    transfer = sent_snapshot(cluster, leader)
    assert Cluster.deliver(cluster, transfer)
    cluster.settle()
    cluster.sent.clear()
    with pytest.raises(SnapshotRefusedError, match="has the log up to"):
        follower.running.receive_snapshot(transfer.header)
    cluster.settle()
    answers = [e.message for e in cluster.sent if e.sender.store_id == follower.store_id]
    matches = [answer.match for answer in answers if isinstance(answer, AppendResponse)]
    assert matches
    assert min(matches) >= transfer.header.manifest.meta.index


# --- what the sender is told


def test_a_snapshot_has_arrived_only_once_its_region_has_taken_it(cluster: Cluster) -> None:
    """Between header and last byte the region became one that does not want it."""
    leader, follower = lagging(cluster)
    transfer = sent_snapshot(cluster, leader)
    receiver = follower.running.receive_snapshot(transfer.header)
    ends: list[BaseException | None] = []
    for chunk in transfer.chunks:
        receiver.write(chunk, ends.append)
        follower.background.work()
    receiver.finish(ends.append)
    follower.background.work()
    assert ends == [None] * len(transfer.chunks), "it is sealed, and not taken yet"

    def destroy(turn: Turn) -> None:
        follower.peer.destroy(turn)

    follower.running._actions.insert(0, destroy)
    cluster.settle()
    assert isinstance(ends[-1], SnapshotRefusedError)
    assert not any((follower.directory / "receive").iterdir())


def test_a_leader_hears_how_far_a_peer_is_that_caught_up_while_its_snapshot_travelled(cluster: Cluster) -> None:
    leader, follower = lagging(cluster)
    transfer = sent_snapshot(cluster, leader)
    receiver = follower.running.receive_snapshot(transfer.header)
    for chunk in transfer.chunks:
        receiver.write(chunk, lambda _error: None)
    ends: list[BaseException | None] = []
    receiver.finish(ends.append)
    follower.background.waiting, arriving = [], follower.background.waiting
    directory = follower.directory / "receive" / "by-another-way"
    shutil.copytree(leader.directory / "send" / directory_of(transfer.header), directory)
    follower.running._offers._on_sealed(transfer.header, directory, lambda _error: None)
    cluster.settle()
    assert not follower.peer.is_installing
    cluster.sent.clear()
    follower.background.waiting = arriving
    cluster.settle()
    assert isinstance(ends[0], SnapshotRefusedError)
    matches = [e.message.match for e in cluster.sent if isinstance(e.message, AppendResponse)]
    assert matches
    assert min(matches) >= transfer.header.manifest.meta.index


def directory_of(header: SnapshotHeader) -> str:
    return snapshot_name(header.manifest.region.id, header.manifest.meta)


def test_a_refused_snapshot_is_made_and_sent_anew(cluster: Cluster) -> None:
    leader, follower = lagging(cluster)
    deliver, refused = cluster.deliver, 0

    def refuse_twice(transfer: Transfer) -> bool:
        nonlocal refused
        if refused < 2:
            refused += 1
            return False
        return deliver(transfer)

    cluster.deliver = refuse_twice  # type: ignore[method-assign]
    cluster.cut_off = set()
    load(cluster, leader.store_id, 3)
    cluster.ticks(40)
    assert refused == 2
    assert same_data(cluster)
    assert follower.running.failure is None
