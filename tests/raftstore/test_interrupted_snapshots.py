"""Snapshots that break off: at each chunk on the way, and at each step of being applied, by a full disk."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest
from tests.raftstore.harness import RAW, Cluster, Node, Transfer
from tests.raftstore.lagging import SMALL_LOG, lagging, same_data, sent_snapshot

from pytinykv.raftstore import SnapshotRefusedError
from pytinykv.storage import ColumnFamily, DiskFullError

PIECES = 12
"""In how many chunks the snapshot travels here."""


@pytest.fixture
def cluster(tmp_path: Path) -> Cluster:
    return Cluster(tmp_path, config=SMALL_LOG)


def in_pieces(transfer: Transfer) -> Transfer:
    """Return the same snapshot in `PIECES` chunks, whose borders are not those of files."""
    data = b"".join(transfer.chunks)
    size = -(-len(data) // PIECES)
    return Transfer(
        transfer.header, [data[start : start + size] for start in range(0, len(data), size)], transfer.on_done
    )


def receive(cluster: Cluster, follower: Node, transfer: Transfer, chunks: int) -> list[BaseException | None]:
    """Let the first chunks arrive; return how each write ended."""
    ends: list[BaseException | None] = []
    receiver = follower.running.receive_snapshot(transfer.header)
    for chunk in transfer.chunks[:chunks]:
        receiver.write(chunk, ends.append)
        follower.background.work()
    receiver.abort()
    follower.background.work()
    return ends


def received(node: Node) -> list[Path]:
    return sorted((node.directory / "receive").iterdir())


def all_data(node: Node) -> list[tuple[ColumnFamily, bytes, bytes]]:
    return [(cf, key, value) for cf in ColumnFamily for key, value in node.engine.scan(cf, b"", None)]


def test_a_snapshot_interrupted_after_any_chunk_leaves_the_region_as_it_was_and_is_taken_later(
    cluster: Cluster,
) -> None:
    leader, follower = lagging(cluster)
    transfer = in_pieces(sent_snapshot(cluster, leader))
    before, index = all_data(follower), follower.peer.node.applied_index
    for chunks in range(len(transfer.chunks) + 1):
        assert receive(cluster, follower, transfer, chunks) == [None] * chunks
        assert received(follower) == [], f"after {chunks} chunks"
        assert (all_data(follower), follower.peer.node.applied_index) == (before, index)
        assert not follower.peer.is_installing
    assert Cluster.deliver(cluster, transfer)
    cluster.settle()
    assert follower.peer.node.applied_index == transfer.header.manifest.meta.index
    assert same_data(cluster, leader, follower)


def test_a_store_that_dies_after_any_chunk_deletes_it_at_its_start_and_takes_the_snapshot_then(
    cluster: Cluster,
) -> None:
    leader, follower = lagging(cluster)
    transfer = in_pieces(sent_snapshot(cluster, leader))
    for chunks in range(len(transfer.chunks) + 1):
        receiver = follower.running.receive_snapshot(transfer.header)
        for chunk in transfer.chunks[:chunks]:
            receiver.write(chunk, lambda _error: None)
            follower.background.work()
        assert received(follower)
        if (stream := receiver._writer._stream) is not None:
            stream.close()  # as the operating system does
        cluster.restart(follower.store_id)
        assert received(follower) == [], f"after {chunks} chunks"
        assert follower.peer.is_initialized
    assert Cluster.deliver(cluster, transfer)
    cluster.settle()
    assert follower.peer.node.applied_index >= transfer.header.manifest.meta.index


def test_a_leader_whose_snapshot_breaks_off_at_every_chunk_in_turn_goes_on_to_send_it(cluster: Cluster) -> None:
    leader, follower = lagging(cluster)
    deliver, broken = cluster.deliver, 0

    def break_off(transfer: Transfer) -> bool:
        nonlocal broken
        transfer = in_pieces(transfer)
        if broken == len(transfer.chunks):
            return deliver(transfer)
        try:
            receive(cluster, follower, transfer, broken)
        except SnapshotRefusedError:
            return False
        broken += 1
        return False

    cluster.deliver = break_off  # type: ignore[method-assign]
    cluster.cut_off = set()
    for _ in range(200):
        cluster.ticks(1)
        if same_data(cluster):
            break
    assert broken == PIECES
    assert same_data(cluster)
    assert leader.running.failure is follower.running.failure is None


def test_a_disk_that_is_full_at_any_chunk_refuses_the_snapshot_and_the_store_lives(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    leader, follower = lagging(cluster)
    transfer = in_pieces(sent_snapshot(cluster, leader))
    before = all_data(follower)
    for full_from in range(len(transfer.chunks)):
        ends: list[BaseException | None] = []
        receiver = follower.running.receive_snapshot(transfer.header)
        for number, chunk in enumerate(transfer.chunks):
            if number == full_from:
                monkeypatch.setattr(receiver._writer._stream, "write", _no_space, raising=False)
            receiver.write(chunk, ends.append)
            follower.background.work()
            if ends[-1] is not None:
                break
        assert isinstance(ends[-1], OSError), f"at chunk {full_from}"
        assert received(follower) == []
        assert all_data(follower) == before
        assert follower.running.failure is None
    assert Cluster.deliver(cluster, transfer), "there is room again"
    cluster.settle()
    assert same_data(cluster, leader, follower)


def _no_space(_data: object) -> int:
    raise OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.parametrize("taken_in", range(4))
def test_a_disk_that_fills_while_a_snapshot_is_applied_ends_the_store_and_the_next_start_finishes(
    cluster: Cluster, taken_in: int
) -> None:
    """`taken_in`: how many files of the snapshot fit; then the disk is full, at the next start still, and then not."""
    leader, follower = lagging(cluster)
    batch = leader.engine.write_batch()
    for cf in (ColumnFamily.DEFAULT, ColumnFamily.LOCK, ColumnFamily.WRITE):
        batch.put(cf, b"k", b"v")
    leader.engine.write(batch)
    transfer = sent_snapshot(cluster, leader)
    assert len(transfer.header.manifest.files) == 4
    assert Cluster.deliver(cluster, transfer)
    follower.disk.work()
    for _ in range(taken_in):
        cluster.turn(follower.store_id)
    follower.engine.faults.capacity_bytes = 0
    with pytest.raises(DiskFullError):
        cluster.turn(follower.store_id)
    assert isinstance(follower.running.failure, DiskFullError)
    cluster.crash(follower.store_id)
    with pytest.raises(DiskFullError):
        cluster.start(follower.store_id)
    cluster.crash(follower.store_id)
    follower.engine.faults.capacity_bytes = None
    assert received(follower), "kept until it is installed"
    cluster.start(follower.store_id)
    assert follower.peer.node.applied_index == transfer.header.manifest.meta.index
    assert not follower.peer.is_installing
    cluster.elect()
    cluster.ticks(10)
    assert same_data(cluster)
    assert list(follower.engine.scan(RAW, b"", None)) == list(leader.engine.scan(RAW, b"", None))
