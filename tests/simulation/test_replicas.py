"""What is checked at every write: regions cover all keys once, data belongs to one of them, replicas hold the same."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from random import Random

import pytest

from pytinykv.model import Peer, Region, RegionEpoch, RegionId, StoreId, encode
from pytinykv.raft import LogIndex, PeerId, Term
from pytinykv.raftstore import keys
from pytinykv.raftstore.records import ApplyState, PeerState, RegionLocalState
from pytinykv.simulation import run_scenario
from pytinykv.simulation.disk import SimDisk, SimEngine
from pytinykv.simulation.errors import Violation
from pytinykv.simulation.loop import SimLoop
from pytinykv.simulation.process import Process
from pytinykv.simulation.replicas import ReplicaObserver
from pytinykv.storage import ColumnFamily, WriteBatch

RAFT, RAW, WRITE = ColumnFamily.RAFT, ColumnFamily.RAW, ColumnFamily.WRITE
PEER = Peer(PeerId(101), StoreId(1))


def region(start: bytes, end: bytes, *, region_id: int = 1, version: int = 1, conf_ver: int = 2) -> Region:
    return Region(RegionId(region_id), start, end, RegionEpoch(conf_ver, version), (PEER,))


class Disks:
    """Disks of several stores that one observer watches."""

    def __init__(self) -> None:
        self.observer = ReplicaObserver()
        self.loop = SimLoop()

    def add(self, host: str) -> Disk:
        return Disk(self, host)


class Disk:
    def __init__(self, disks: Disks, host: str) -> None:
        disk = SimDisk(Random(1), host=host)
        disk.on_write = disks.observer.on_write
        self.engine: SimEngine = disk.open(Process(disks.loop, host, 1))

    def write(self, *changes: Callable[[WriteBatch], None]) -> None:
        batch = self.engine.write_batch()
        for change in changes:
            change(batch)
        self.engine.write(batch)


def has(one: Region, state: PeerState = PeerState.NORMAL) -> Callable[[WriteBatch], None]:
    return lambda batch: batch.put(RAFT, keys.region_state_key(one.id), encode(RegionLocalState(state, one, PEER.id)))


def applied(index: int, region_id: int = 1) -> Callable[[WriteBatch], None]:
    state = ApplyState(LogIndex(index), Term(6), LogIndex(5), Term(5))
    return lambda batch: batch.put(RAFT, keys.apply_state_key(region_id), encode(state))


def put(key: bytes, value: bytes = b"v", cf: ColumnFamily = RAW) -> Callable[[WriteBatch], None]:
    return lambda batch: batch.put(cf, key, value)


def delete_range(start: bytes, end: bytes) -> Callable[[WriteBatch], None]:
    return lambda batch: batch.delete_range(RAW, start, end)


@pytest.fixture
def disks() -> Iterator[Disks]:
    made = Disks()
    yield made
    made.loop.close()


def test_stores_that_hold_the_same_at_each_index_are_compared(disks: Disks) -> None:
    for host in ("store-1", "store-2"):
        disk = disks.add(host)
        disk.write(has(region(b"", b"")), applied(6))
        disk.write(put(b"da"), put(b"db"), applied(7))
        disk.write(put(b"da", b"w"), put(b"da", b"x"), delete_range(b"db", b"dc"), applied(8))
    assert disks.observer.comparisons == 3


@pytest.mark.parametrize("other", [put(b"da", b"w"), put(b"db"), put(b"\xff" * 9000, cf=WRITE), put(b"da", cf=WRITE)])
def test_a_difference_in_any_pair_is_seen_in_the_write_that_makes_it(
    disks: Disks, other: Callable[[WriteBatch], None]
) -> None:
    one, two = disks.add("store-1"), disks.add("store-2")
    for disk in (one, two):
        disk.write(has(region(b"", b"")), applied(6))
    one.write(put(b"da"), applied(7))
    with pytest.raises(Violation, match="region 1 at index 7: store-2 holds other data than store-1 did"):
        two.write(other, applied(7))


def test_a_store_is_compared_with_itself(disks: Disks) -> None:
    disk = disks.add("store-1")
    disk.write(has(region(b"", b"")), put(b"da"), applied(6))
    with pytest.raises(Violation, match="replica equality"):
        disk.write(put(b"da", b"w"), applied(6))


def test_what_a_split_leaves_to_the_parent_is_compared_as_well(disks: Disks) -> None:
    one, two = disks.add("store-1"), disks.add("store-2")
    for disk in (one, two):
        disk.write(has(region(b"", b"")), put(b"da"), put(b"dz"), applied(6))
    halves = has(region(b"", b"m", region_id=2, version=2)), has(region(b"m", b"", version=2))
    one.write(*halves, applied(7), applied(5, region_id=2))
    two.write(*halves, applied(7), applied(5, region_id=2))
    with pytest.raises(Violation, match="region 2 at index 5"):
        two.write(put(b"db"), applied(5, region_id=2))


def test_data_on_its_way_in_is_not_compared(disks: Disks) -> None:
    one, two = disks.add("store-1"), disks.add("store-2")
    one.write(has(region(b"", b"")), put(b"da"), applied(6))
    two.write(has(region(b"", b""), PeerState.APPLYING), applied(6))
    with pytest.raises(Violation, match="replica equality"):
        two.write(has(region(b"", b"")), applied(6))


@pytest.mark.parametrize("change", [put(b"dz"), put(b"\xff" * 9000, cf=WRITE), has(region(b"", b"c"))])
def test_data_outside_of_all_regions_is_seen_in_the_write_that_leaves_it(
    disks: Disks, change: Callable[[WriteBatch], None]
) -> None:
    disk = disks.add("store-1")
    disk.write(has(region(b"", b"m", conf_ver=1)), put(b"dg"), applied(6))
    with pytest.raises(Violation, match="belongs to no region"):
        disk.write(change)


def test_regions_that_leave_a_gap_or_share_keys_are_seen(disks: Disks) -> None:
    disk = disks.add("store-1")
    disk.write(has(region(b"", b"")))
    disk.write(has(region(b"", b"m", region_id=2, version=2)), has(region(b"m", b"", version=2)))
    with pytest.raises(Violation, match="partition"):
        disk.write(has(region(b"p", b"", version=3)))


def test_a_store_that_lags_behind_is_no_gap(disks: Disks) -> None:
    one, two = disks.add("store-1"), disks.add("store-2")
    one.write(has(region(b"", b"")))
    one.write(has(region(b"", b"m", region_id=2, version=2)), has(region(b"m", b"", version=2)))
    two.write(has(region(b"", b"")))
    assert [one.id for one in disks.observer.regions] == [2, 1]


def test_a_region_that_a_store_would_like_to_begin_with_does_not_count(disks: Disks) -> None:
    disks.add("store-1").write(has(region(b"", b"", region_id=7, conf_ver=1)))
    disks.add("store-2").write(has(region(b"", b"")))
    assert [one.id for one in disks.observer.regions] == [1]


def test_in_a_history_replicas_are_compared_all_the_time() -> None:
    assert run_scenario("one-split", 1).counters["replicas compared"] > 300
