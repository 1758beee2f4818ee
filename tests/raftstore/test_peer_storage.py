"""A region's log and state: in memory and in the engine, before and after a crash."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import msgspec
import pytest

from pytinykv.model import Peer, Region, RegionEpoch, RegionId, StoreId
from pytinykv.raft import (
    Compacted,
    Entry,
    EntryKind,
    HardState,
    LogIndex,
    PeerId,
    SnapshotMeta,
    SnapshotTemporarilyUnavailable,
    Term,
    Unavailable,
)
from pytinykv.raftstore import SnapshotManifest, keys
from pytinykv.raftstore.membership import conf_state
from pytinykv.raftstore.peer_storage import PeerStorage, SnapshotNeed
from pytinykv.storage import ColumnFamily, CorruptionError, Engine, MemoryEngine, RocksEngine

REGION = Region(RegionId(1), b"", b"", RegionEpoch(1, 1), (Peer(PeerId(101), StoreId(1)),))
RAFT = ColumnFamily.RAFT


def entry(index: int, term: int, data: bytes = b"") -> Entry:
    return Entry(LogIndex(index), Term(term), EntryKind.NORMAL, data)


def pairs(entries: Sequence[Entry]) -> list[tuple[int, int]]:
    return [(one.index, one.term) for one in entries]


@pytest.fixture(params=["memory", "rocks"])
def engine(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Engine]:
    engine: Engine = MemoryEngine() if request.param == "memory" else RocksEngine.open(tmp_path / "engine")
    yield engine
    engine.close()


Made = Callable[..., PeerStorage]


@pytest.fixture(params=[1 << 20, 0], ids=["cached", "from the engine"])
def make(engine: Engine, request: pytest.FixtureRequest) -> Made:
    """Return a storage that begins behind (3, 3), with these entries."""

    def made(*entries: Entry) -> PeerStorage:
        storage = PeerStorage(engine, REGION, cache_bytes_max=request.param)
        batch = engine.write_batch()
        meta = SnapshotMeta(LogIndex(3), Term(3), conf_state(REGION))
        storage.restore(batch, REGION, meta, HardState(Term(3), PeerId(0), LogIndex(3)))
        engine.write(batch)
        if entries:
            append(engine, storage, *entries)
        return storage

    return made


def append(engine: Engine, storage: PeerStorage, *entries: Entry) -> None:
    batch = engine.write_batch()
    storage.append(batch, entries)
    storage.save_hard_state(batch, None)
    engine.write(batch)


def apply(engine: Engine, storage: PeerStorage, index: int, term: int) -> None:
    batch = engine.write_batch()
    storage.set_applied(LogIndex(index), Term(term))
    storage.save_applied(batch)
    engine.write(batch)


def truncate(engine: Engine, storage: PeerStorage, index: int, term: int) -> None:
    batch = engine.write_batch()
    storage.truncate(batch, LogIndex(index), Term(term))
    engine.write(batch)


def everything(storage: PeerStorage) -> list[tuple[int, int]]:
    first, last = storage.first_index(), storage.last_index()
    return pairs(storage.entries(first, LogIndex(last + 1), 1 << 30)) if last >= first else []


@pytest.mark.tinykv("TestPeerStorageTerm")
def test_terms(make: Made) -> None:
    storage = make(entry(4, 4), entry(5, 5))
    with pytest.raises(Compacted):
        storage.term(LogIndex(2))
    assert [storage.term(LogIndex(index)) for index in (3, 4, 5)] == [3, 4, 5]
    with pytest.raises(Unavailable):
        storage.term(LogIndex(6))


@pytest.mark.tinykv("TestPeerStorageEntries")
def test_entries_stop_at_the_limit_but_never_before_the_first(make: Made) -> None:
    storage = make(*(entry(index, index, bytes(10)) for index in (4, 5, 6)))
    with pytest.raises(Compacted):
        storage.entries(LogIndex(3), LogIndex(5), 100)
    with pytest.raises(Unavailable):
        storage.entries(LogIndex(4), LogIndex(8), 100)
    read = [pairs(storage.entries(LogIndex(4), LogIndex(7), limit)) for limit in (0, 10, 29, 30, 1000)]
    assert read == [[(4, 4)], [(4, 4)], [(4, 4), (5, 5)], [(4, 4), (5, 5), (6, 6)], [(4, 4), (5, 5), (6, 6)]]
    assert pairs(storage.entries(LogIndex(5), LogIndex(6), 1000)) == [(5, 5)]


@pytest.mark.tinykv("TestPeerStorageAppend")
@pytest.mark.parametrize(
    ("appended", "left"),
    [
        ([(4, 6), (5, 6)], [(4, 6), (5, 6)]),
        ([(4, 4), (5, 5), (6, 5)], [(4, 4), (5, 5), (6, 5)]),
        ([(4, 6)], [(4, 6)]),
        ([(5, 6)], [(4, 4), (5, 6)]),
        ([(6, 5)], [(4, 4), (5, 5), (6, 5)]),
    ],
)
def test_an_append_replaces_what_is_at_its_place_and_behind(
    engine: Engine, make: Made, appended: list[tuple[int, int]], left: list[tuple[int, int]]
) -> None:
    storage = make(entry(4, 4), entry(5, 5))
    append(engine, storage, *(entry(index, term) for index, term in appended))
    assert everything(storage) == left
    assert storage.last_index() == left[-1][0]
    reloaded = PeerStorage(engine, REGION, cache_bytes_max=0)
    assert everything(reloaded) == left
    stored = list(engine.scan(RAFT, keys.entry_prefix(1), keys.entry_prefix(2)))
    assert len(stored) == len(left), "nothing of the old tail is left behind"


def test_an_applied_entry_is_never_overwritten(engine: Engine, make: Made) -> None:
    storage = make(entry(4, 4), entry(5, 4))
    apply(engine, storage, 4, 4)
    with pytest.raises(AssertionError, match="overwrites applied"):
        append(engine, storage, entry(4, 5))


def test_the_front_is_cut_where_it_is_applied(engine: Engine, make: Made) -> None:
    storage = make(*(entry(index, 4) for index in range(4, 10)))
    with pytest.raises(AssertionError, match="cuts the log"):
        truncate(engine, storage, 5, 4)
    apply(engine, storage, 7, 4)
    truncate(engine, storage, 6, 4)
    assert everything(storage) == [(7, 4), (8, 4), (9, 4)]
    assert storage.term(LogIndex(6)) == 4
    with pytest.raises(Compacted):
        storage.term(LogIndex(5))
    truncate(engine, storage, 5, 4)  # an old order
    assert storage.first_index() == 7
    assert everything(PeerStorage(engine, REGION, cache_bytes_max=0)) == [(7, 4), (8, 4), (9, 4)]
    stored = list(engine.scan(RAFT, keys.entry_prefix(1), keys.entry_prefix(2)))
    assert len(stored) == 3


def test_the_size_of_the_log_follows_what_is_cut_not_what_is_cached(engine: Engine) -> None:
    """A slow follower holds the cut back: what stays must go on counting, or the log grows without a bound."""
    storage = PeerStorage(engine, REGION, cache_bytes_max=1000)
    append(engine, storage, *(entry(index, 1, bytes(100)) for index in range(1, 101)))
    apply(engine, storage, 100, 1)
    before = storage.log_bytes
    truncate(engine, storage, 10, 1)
    assert storage.log_bytes == pytest.approx(before * 0.9, rel=0.01)


@pytest.mark.tinykv("TestPeerStorageClearMeta")
def test_a_snapshot_replaces_everything(engine: Engine, make: Made) -> None:
    storage = make(*(entry(index, 4) for index in range(4, 10)))
    region = Region(RegionId(1), b"a", b"z", RegionEpoch(4, 2), (Peer(PeerId(101), StoreId(1)),))
    meta = SnapshotMeta(LogIndex(20), Term(7), conf_state(region))
    batch = engine.write_batch()
    storage.restore(batch, region, meta, HardState(Term(8), PeerId(0), LogIndex(20)))
    engine.write(batch)
    for one in (storage, PeerStorage(engine, region, cache_bytes_max=0)):
        assert (one.first_index(), one.last_index(), one.term(LogIndex(20))) == (21, 20, 7)
        assert one.initial_state() == (HardState(Term(8), PeerId(0), LogIndex(20)), conf_state(region))
        assert one.apply_state.applied_index == 20
    assert not list(engine.scan(RAFT, keys.entry_prefix(1), keys.entry_prefix(2)))


def test_the_state_of_a_neighbour_is_left_alone(engine: Engine) -> None:
    regions = [Region(RegionId(number), b"", b"", RegionEpoch(1, 1), REGION.peers) for number in (1, 2, 256)]
    storages = [PeerStorage(engine, region, cache_bytes_max=0) for region in regions]
    for storage in storages:
        append(engine, storage, entry(1, 1), entry(2, 1))
    batch = engine.write_batch()
    storages[1].clear_log(batch)
    engine.write(batch)
    assert [len(list(engine.scan(RAFT, keys.entry_prefix(r.id), keys.entry_prefix(r.id + 1)))) for r in regions] == [
        2,
        0,
        2,
    ]


@pytest.mark.parametrize("missing", [4, 5, 6])
def test_a_gap_in_the_log_is_corruption(engine: Engine, make: Made, missing: int) -> None:
    make(entry(4, 4), entry(5, 4), entry(6, 4))
    batch = engine.write_batch()
    batch.delete(RAFT, keys.entry_key(1, missing))
    engine.write(batch)
    with pytest.raises(CorruptionError, match="region 1"):
        PeerStorage(engine, REGION, cache_bytes_max=1000)


def test_a_missing_log_state_is_corruption(engine: Engine, make: Made) -> None:
    storage = make(entry(4, 4))
    apply(engine, storage, 4, 4)
    batch = engine.write_batch()
    batch.delete(RAFT, keys.raft_state_key(1))
    engine.write(batch)
    with pytest.raises(CorruptionError, match="out of order"):
        PeerStorage(engine, REGION, cache_bytes_max=1000)


@pytest.mark.parametrize("seed", range(30))
def test_whatever_prefix_of_the_writes_survives_is_a_sound_state(seed: int) -> None:
    """Random appends, overwrites, applies and cuts; a crash loses the end; what is loaded is what was written by then."""
    rng = random.Random(seed)
    engine = MemoryEngine()
    storage = PeerStorage(engine, REGION, cache_bytes_max=200)
    seen = {_state(storage)}
    term = 1
    for _ in range(30):
        applied, last = storage.apply_state.applied_index, storage.last_index()
        what = rng.randrange(4)
        if what == 0 or last == 0:
            append(engine, storage, *(entry(last + n, term, bytes(rng.randrange(50))) for n in range(1, 4)))
        elif what == 1 and last > applied:
            term += 1
            append(engine, storage, entry(rng.randint(applied + 1, last), term, b"new"))
        elif what == 2 and last > applied:
            index = LogIndex(rng.randint(applied + 1, last))
            apply(engine, storage, index, storage.term(index))
        elif applied > storage.first_index():
            truncate(engine, storage, applied - 1, storage.term(LogIndex(applied - 1)))
        if rng.random() < 0.2:
            engine.sync()
        seen.add(_state(storage))
    assert _state(PeerStorage(engine.crash(rng), REGION, cache_bytes_max=100)) in seen


def _state(storage: PeerStorage) -> tuple[object, ...]:
    return (storage.apply_state, *everything(storage))


def test_snapshots_are_asked_for_and_offered(make: Made) -> None:
    storage = make(entry(4, 4))
    with pytest.raises(SnapshotTemporarilyUnavailable):
        storage.snapshot()
    assert storage.snapshot_need is SnapshotNeed.WANTED
    storage.offer_snapshot(snapshot(REGION))
    assert storage.snapshot() == snapshot(REGION).meta
    storage.offer_snapshot(None)
    with pytest.raises(SnapshotTemporarilyUnavailable):
        storage.snapshot()


@pytest.mark.parametrize("later", [RegionEpoch(1, 2), RegionEpoch(2, 1)], ids=["split", "membership"])
def test_a_snapshot_of_an_older_epoch_is_not_offered(make: Made, later: RegionEpoch) -> None:
    storage = make(entry(4, 4))
    storage.offer_snapshot(snapshot(REGION))
    storage.region = msgspec.structs.replace(REGION, epoch=later)
    with pytest.raises(SnapshotTemporarilyUnavailable):
        storage.snapshot()
    assert storage.snapshot_need is SnapshotNeed.WANTED, "a newer one is made"


def snapshot(region: Region) -> SnapshotManifest:
    return SnapshotManifest(region, SnapshotMeta(LogIndex(3), Term(3), conf_state(region)), ())


def test_a_snapshot_older_than_the_log_is_not_offered(engine: Engine, make: Made) -> None:
    storage = make(*(entry(index, 4) for index in range(4, 10)))
    storage.offer_snapshot(snapshot(REGION))
    apply(engine, storage, 8, 4)
    truncate(engine, storage, 7, 4)
    with pytest.raises(SnapshotTemporarilyUnavailable):
        storage.snapshot()
