"""What every engine must do: each test runs over the in-memory one and over RocksDB."""

from __future__ import annotations

import gc
import threading
from collections.abc import Iterator
from pathlib import Path
from random import Random

import pytest
from tests.storage.engines import Harness, everything, make_harness, put

from pytinykv.storage import ColumnFamily, CorruptionError, EngineClosedError, EngineError, UnknownColumnFamilyError
from pytinykv.storage.engine import Engine

RAW, RAFT, DEFAULT, LOCK, WRITE = (
    ColumnFamily.RAW,
    ColumnFamily.RAFT,
    ColumnFamily.DEFAULT,
    ColumnFamily.LOCK,
    ColumnFamily.WRITE,
)


@pytest.fixture(params=["memory", "rocks"])
def harness(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Harness]:
    harness = make_harness(request.param, tmp_path)
    yield harness
    harness.close()


@pytest.fixture
def engine(harness: Harness) -> Engine:
    return harness.engine


def fill(engine: Engine, cf: ColumnFamily, count: int) -> list[tuple[bytes, bytes]]:
    pairs = [(b"k%04d" % number, b"v%d" % number) for number in range(count)]
    put(engine, cf, *pairs)
    return pairs


# -- reading and writing --------------------------------------------------------------------------------------------


@pytest.mark.tinykv("TestEngineUtil")
def test_families_are_separate_and_deletes_take_one_key(engine: Engine) -> None:
    batch = engine.write_batch()
    batch.put(DEFAULT, b"a", b"a1")
    batch.put(DEFAULT, b"b", b"b1")
    batch.put(DEFAULT, b"c", b"c1")
    batch.put(DEFAULT, b"d", b"d1")
    batch.put(WRITE, b"a", b"a2")
    batch.put(WRITE, b"b", b"b2")
    batch.put(WRITE, b"d", b"d2")
    batch.put(LOCK, b"a", b"a3")
    batch.put(LOCK, b"c", b"c3")
    batch.put(DEFAULT, b"e", b"e1")
    batch.delete(DEFAULT, b"e")
    engine.write(batch)

    with engine.snapshot() as snapshot:
        assert list(snapshot.scan(DEFAULT, b"", None)) == [(b"a", b"a1"), (b"b", b"b1"), (b"c", b"c1"), (b"d", b"d1")]
        assert list(snapshot.scan(WRITE, b"b", None)) == [(b"b", b"b2"), (b"d", b"d2")]
        assert list(snapshot.scan(LOCK, b"b", None)) == [(b"c", b"c3")]
        assert list(snapshot.scan(LOCK, b"d", None)) == []
        assert snapshot.get(DEFAULT, b"e") is None
    assert engine.get(WRITE, b"c") is None
    assert engine.get(LOCK, b"c") == b"c3"


def test_batch_applies_in_order(engine: Engine) -> None:
    batch = engine.write_batch()
    batch.put(RAW, b"a", b"1")
    batch.delete(RAW, b"a")
    batch.put(RAW, b"a", b"2")
    batch.put(RAW, b"b", b"1")
    batch.delete_range(RAW, b"b", b"c")
    batch.put(RAW, b"bb", b"after the range was deleted")
    engine.write(batch)
    assert everything(engine)[RAW] == {b"a": b"2", b"bb": b"after the range was deleted"}


def test_batch_counts_changes_and_bytes(engine: Engine) -> None:
    batch = engine.write_batch()
    assert len(batch) == 0
    batch.put(RAW, b"key", b"v" * 100)
    batch.delete(RAW, b"other")
    assert len(batch) == 2
    assert 108 <= batch.size_bytes <= 200
    engine.write(batch)
    assert len(batch) == 2, "still counted once written"


def test_empty_batch_is_no_write(engine: Engine) -> None:
    engine.write(engine.write_batch())
    assert everything(engine) == {cf: {} for cf in ColumnFamily}


def test_batch_can_be_written_once_only(engine: Engine) -> None:
    batch = engine.write_batch()
    batch.put(RAW, b"a", b"1")
    engine.write(batch)
    with pytest.raises(EngineError, match="written before"):
        engine.write(batch)
    put(engine, RAW, (b"b", b"the engine has not failed"))


def test_a_batch_that_is_dropped_changes_nothing(engine: Engine) -> None:
    batch = engine.write_batch()
    batch.put(RAW, b"a", b"1")
    del batch
    assert engine.get(RAW, b"a") is None


BINARY_KEYS = [
    b"",
    b"\x00",
    b"\x00\x00",
    b"\x00\xff",
    b"a\x00b",
    b"\x7f",
    b"\x80",
    b"\xff",
    b"\xff\xff",
    b"\xff\xff\xff\xff",
]


def test_any_bytes_are_keys_and_values(engine: Engine) -> None:
    put(engine, RAW, *((key, key[::-1]) for key in BINARY_KEYS))
    assert list(engine.scan(RAW, b"", None)) == [(key, key[::-1]) for key in sorted(BINARY_KEYS)]
    assert engine.get(RAW, b"") == b""
    assert engine.get(RAW, b"\xff\xff\xff\xff") == b"\xff\xff\xff\xff"


def test_empty_value_is_not_absence(engine: Engine) -> None:
    put(engine, RAW, (b"a", b""))
    assert engine.get(RAW, b"a") == b""
    with engine.snapshot() as snapshot:
        assert snapshot.get(RAW, b"a") == b""
        assert snapshot.get(RAW, b"b") is None


def test_large_value(engine: Engine) -> None:
    value = Random(1).randbytes(3_000_000)
    put(engine, RAW, (b"a", value))
    assert engine.get(RAW, b"a") == value


# -- scans ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("through_snapshot", [False, True])
def test_scan_bounds(engine: Engine, through_snapshot: bool) -> None:
    pairs = fill(engine, RAW, 20)
    put(engine, DEFAULT, (b"k0003", b"of another family"))
    reader = engine.snapshot() if through_snapshot else engine
    for start, end, expected in [
        (b"", None, pairs),
        (b"k0005", None, pairs[5:]),
        (b"k0005", b"k0009", pairs[5:9]),
        (b"", b"k0003", pairs[:3]),
        (b"k0005", b"k0005", []),
        (b"k0009", b"k0005", []),
        (b"k0005", b"", []),
        (b"k0004x", b"k0008x", pairs[5:9]),
        (b"z", None, []),
        (b"", b"a", []),
    ]:
        assert list(reader.scan(RAW, start, end)) == expected
        assert list(reader.scan(RAW, start, end, reverse=True)) == expected[::-1]


def test_scan_bounds_made_of_temporary_objects(engine: Engine) -> None:
    """The bound must live as long as the iterator does (rocksdict keeps a bare pointer to it)."""
    pairs = fill(engine, RAW, 500)
    iterators = [engine.scan(RAW, b"", bytes(bytearray(b"k%04d" % bound))) for bound in range(500)]
    gc.collect()
    rubbish = [bytes([65 + number % 26]) * 5 for number in range(5000)]
    for bound, iterator in enumerate(iterators):
        assert len(list(iterator)) == len(pairs[:bound])
    assert len(rubbish) == 5000


def test_iterator_keeps_its_state_while_everything_changes(engine: Engine) -> None:
    pairs = fill(engine, RAW, 50)
    forward, backward = engine.scan(RAW, b"", None), engine.scan(RAW, b"", None, reverse=True)
    seen, seen_backward = [next(forward)], [next(backward)]
    for step in range(49):
        batch = engine.write_batch()
        batch.put(RAW, b"k%04d" % ((step * 7) % 50), b"changed")
        batch.put(RAW, b"k%04dx" % step, b"new")
        batch.delete(RAW, b"k%04d" % ((step * 13) % 50))
        engine.write(batch)
        seen.append(next(forward))
        seen_backward.append(next(backward))
    assert seen == pairs
    assert seen_backward == pairs[::-1]
    assert list(forward) == list(backward) == []


def test_exhausted_iterator_stays_exhausted(engine: Engine) -> None:
    fill(engine, RAW, 2)
    iterator = engine.scan(RAW, b"", None)
    assert len(list(iterator)) == 2
    assert list(iterator) == []
    put(engine, RAW, (b"z", b"late"))
    assert list(iterator) == []


def test_abandoned_iterators_do_no_harm(engine: Engine) -> None:
    fill(engine, RAW, 10)
    for _ in range(300):
        next(engine.scan(RAW, b"", None))
    put(engine, RAW, (b"k0000", b"new"))
    assert engine.get(RAW, b"k0000") == b"new"


# -- snapshots ------------------------------------------------------------------------------------------------------


def test_snapshots_are_isolated_over_all_families(engine: Engine) -> None:
    states = []
    snapshots = []
    for number in range(10):
        batch = engine.write_batch()
        for cf in ColumnFamily:
            batch.put(cf, b"counter", b"%d" % number)
            batch.put(cf, b"k%d" % number, b"x")
            batch.delete(cf, b"k%d" % (number - 3))
        engine.write(batch)
        states.append(everything(engine))
        snapshots.append(engine.snapshot())
    order = list(range(10))
    Random(3).shuffle(order)
    for number in order:
        assert everything(snapshots[number]) == states[number]
        assert snapshots[number].get(LOCK, b"counter") == b"%d" % number
        assert list(snapshots[number].scan(RAW, b"k", b"l", reverse=True)) == [
            pair for pair in sorted(states[number][RAW].items(), reverse=True) if pair[0].startswith(b"k")
        ]
        snapshots[number].close()
    assert everything(engine) == states[-1]


def test_snapshot_survives_deletes_and_ranges(engine: Engine) -> None:
    pairs = fill(engine, RAW, 30)
    with engine.snapshot() as snapshot:
        batch = engine.write_batch()
        batch.delete_range(RAW, b"", b"\xff")
        engine.write(batch)
        put(engine, RAW, (b"k0001", b"again"))
        assert list(snapshot.scan(RAW, b"", None)) == pairs
        assert snapshot.get(RAW, b"k0001") == b"v1"
    assert everything(engine)[RAW] == {b"k0001": b"again"}


def test_snapshot_close_ends_it_and_its_iterators(engine: Engine) -> None:
    fill(engine, RAW, 5)
    snapshot = engine.snapshot()
    iterator = snapshot.scan(RAW, b"", None)
    next(iterator)
    snapshot.close()
    snapshot.close()
    with pytest.raises(EngineClosedError):
        next(iterator)
    with pytest.raises(EngineClosedError):
        snapshot.get(RAW, b"k0001")
    with pytest.raises(EngineClosedError):
        snapshot.scan(RAW, b"", None)


def test_snapshot_is_readable_in_another_thread(engine: Engine) -> None:
    pairs = fill(engine, RAW, 100)
    snapshot = engine.snapshot()
    results: list[list[tuple[bytes, bytes]]] = []
    thread = threading.Thread(target=lambda: results.append(list(snapshot.scan(RAW, b"", None))))
    thread.start()
    put(engine, RAW, (b"k0000", b"meanwhile"))
    thread.join(timeout=30)
    assert results == [pairs]


# -- range deletion -------------------------------------------------------------------------------------------------


def test_delete_range_takes_start_and_spares_end(engine: Engine) -> None:
    pairs = fill(engine, RAW, 10)
    put(engine, DEFAULT, (b"k0004", b"of another family"))
    batch = engine.write_batch()
    batch.delete_range(RAW, b"k0002", b"k0005")
    engine.write(batch)
    assert list(engine.scan(RAW, b"", None)) == pairs[:2] + pairs[5:]
    assert engine.get(RAW, b"k0002") is None
    assert engine.get(DEFAULT, b"k0004") == b"of another family"


@pytest.mark.parametrize(("start", "end"), [(b"k0005", b"k0005"), (b"k0005", b"k0002"), (b"k0005", b"")])
def test_delete_range_of_nothing(engine: Engine, start: bytes, end: bytes) -> None:
    pairs = fill(engine, RAW, 10)
    batch = engine.write_batch()
    batch.delete_range(RAW, start, end)
    engine.write(batch)
    assert list(engine.scan(RAW, b"", None)) == pairs


def test_a_queue_that_is_deleted_from_the_front(engine: Engine) -> None:
    """The raft family's life: entries enter at the back, leave by range at the front, and are read by position."""
    first = 0
    for last in range(0, 2000, 10):
        put(engine, RAFT, *((index.to_bytes(8), b"e" * 50) for index in range(last, last + 10)))
        if last - first >= 100:
            batch = engine.write_batch()
            batch.delete_range(RAFT, first.to_bytes(8), (last - 50).to_bytes(8))
            engine.write(batch)
            first = last - 50
    keys = [int.from_bytes(key) for key, _ in engine.scan(RAFT, b"", None)]
    assert keys == list(range(first, 2000))
    assert engine.get(RAFT, (first - 1).to_bytes(8)) is None


# -- files ----------------------------------------------------------------------------------------------------------


def test_sst_round_trip(engine: Engine, tmp_path: Path) -> None:
    pairs = fill(engine, RAW, 2500)
    path = tmp_path / "part.sst"
    with engine.snapshot() as snapshot:
        put(engine, RAW, (b"k0100", b"after the snapshot"))
        assert engine.export_sst(RAW, snapshot, b"k0010", b"k2000", path) == 1990
    batch = engine.write_batch()
    batch.delete_range(RAW, b"k0010", b"k2000")
    engine.write(batch)
    put(engine, RAW, (b"k0500", b"to be replaced"), (b"k0500x", b"to be kept"))
    engine.ingest_sst(RAW, path)
    assert not path.exists()
    expected = dict(pairs) | {b"k0500x": b"to be kept"}
    assert everything(engine)[RAW] == expected
    put(engine, RAW, (b"k0500", b"newer than the file"))
    assert engine.get(RAW, b"k0500") == b"newer than the file"


def test_sst_goes_to_another_engine_and_family(engine: Engine, harness: Harness, tmp_path: Path) -> None:
    pairs = fill(engine, RAW, 10)
    engine.export_sst(RAW, engine, b"", None, tmp_path / "x.sst")
    other = make_harness("memory" if type(harness).__name__ == "MemoryHarness" else "rocks", tmp_path / "other")
    other.engine.ingest_sst(WRITE, tmp_path / "x.sst")
    assert list(other.engine.scan(WRITE, b"", None)) == pairs
    other.close()


def test_ingest_is_durable_and_syncs_what_came_before(harness: Harness, tmp_path: Path) -> None:
    pairs = fill(harness.engine, RAW, 10)
    harness.engine.export_sst(RAW, harness.engine, b"", None, tmp_path / "x.sst")
    put(harness.engine, LOCK, (b"before", b"not synced"))
    harness.engine.ingest_sst(WRITE, tmp_path / "x.sst")
    harness.crash(Random(1))
    assert harness.engine.get(LOCK, b"before") == b"not synced"
    assert list(harness.engine.scan(WRITE, b"", None)) == pairs


def test_ingest_is_invisible_to_older_snapshots(engine: Engine, tmp_path: Path) -> None:
    pairs = fill(engine, RAW, 10)
    engine.export_sst(RAW, engine, b"", None, tmp_path / "x.sst")
    put(engine, RAW, (b"k0001", b"newer"))
    with engine.snapshot() as snapshot:
        engine.ingest_sst(RAW, tmp_path / "x.sst")
        assert snapshot.get(RAW, b"k0001") == b"newer"
    assert everything(engine)[RAW] == dict(pairs)


def test_exporting_nothing_makes_no_file(engine: Engine, tmp_path: Path) -> None:
    fill(engine, RAW, 10)
    assert engine.export_sst(RAW, engine, b"x", None, tmp_path / "x.sst") == 0
    assert not (tmp_path / "x.sst").exists()


def test_an_export_that_fails_half_way_leaves_no_file(engine: Engine, tmp_path: Path) -> None:
    class Damaged:
        def scan(self, *_range: object) -> Iterator[tuple[bytes, bytes]]:
            yield b"a", b"1"
            raise CorruptionError("block checksum mismatch")

    with pytest.raises(CorruptionError):
        engine.export_sst(RAW, Damaged(), b"", None, tmp_path / "x.sst")  # type: ignore[arg-type]
    assert not (tmp_path / "x.sst").exists()


def test_ingesting_a_damaged_file_is_refused(engine: Engine, tmp_path: Path) -> None:
    fill(engine, RAW, 100)
    path = tmp_path / "x.sst"
    engine.export_sst(RAW, engine, b"", None, path)
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(EngineError, match=r"x\.sst"):
        engine.ingest_sst(DEFAULT, path)
    assert everything(engine)[DEFAULT] == {}
    put(engine, DEFAULT, (b"a", b"the engine goes on"))


def test_ingesting_a_missing_file_is_refused(engine: Engine, tmp_path: Path) -> None:
    with pytest.raises(EngineError, match=r"absent\.sst"):
        engine.ingest_sst(DEFAULT, tmp_path / "absent.sst")


def test_checkpoint_is_an_engine_of_its_own(harness: Harness, tmp_path: Path) -> None:
    fill(harness.engine, RAW, 100)
    put(harness.engine, LOCK, (b"not synced", b"but copied"))
    before = everything(harness.engine)
    harness.engine.checkpoint(tmp_path / "copy")
    put(harness.engine, RAW, (b"k0000", b"later"))
    copy = harness.open_checkpoint(tmp_path / "copy")
    assert everything(copy) == before
    put(copy, RAW, (b"k0001", b"in the copy only"))
    assert harness.engine.get(RAW, b"k0001") == b"v1"
    copy.close()


def test_checkpoint_needs_a_new_directory(engine: Engine, tmp_path: Path) -> None:
    (tmp_path / "copy").mkdir()
    with pytest.raises(EngineError, match="copy"):
        engine.checkpoint(tmp_path / "copy")


def test_approximate_size(engine: Engine) -> None:
    rng = Random(5)
    assert engine.approximate_size_bytes(RAW, b"", None) < 10_000
    for start in range(0, 5000, 500):
        put(engine, RAW, *((b"k%06d" % number, rng.randbytes(200)) for number in range(start, start + 500)))
    total = 5000 * 207
    assert 0.6 * total < engine.approximate_size_bytes(RAW, b"", None) < 1.6 * total
    half = engine.approximate_size_bytes(RAW, b"k002500", None)
    assert 0.2 * total < half < 0.9 * total
    assert engine.approximate_size_bytes(RAW, b"x", None) < 0.1 * total
    assert engine.approximate_size_bytes(DEFAULT, b"", None) < 0.1 * total
    assert engine.approximate_size_bytes(RAW, b"k3", b"k1") == 0


# -- crashes --------------------------------------------------------------------------------------------------------


def test_what_was_synced_survives_a_crash(harness: Harness) -> None:
    pairs = fill(harness.engine, RAW, 100)
    harness.engine.sync()
    put(harness.engine, RAW, (b"later", b"may be lost"))
    harness.crash(Random(7))
    survived = everything(harness.engine)[RAW]
    assert survived.items() >= dict(pairs).items()
    assert set(survived) - dict(pairs).keys() <= {b"later"}


@pytest.mark.parametrize("seed", range(12))
def test_a_crash_loses_whole_batches_from_the_end_over_all_families(harness: Harness, seed: int) -> None:
    """State after a crash = state after some prefix of the batches, which holds all the synced ones."""
    rng = Random(seed)
    states = [everything(harness.engine)]
    for _ in range(3):
        synced = 0
        for number in range(rng.randrange(1, 60)):
            batch = harness.engine.write_batch()
            for cf in rng.sample(list(ColumnFamily), 3):
                batch.put(cf, b"last", b"%d" % number)
                batch.put(cf, b"k%d" % rng.randrange(20), rng.randbytes(rng.choice([10, 3000])))
                batch.delete(cf, b"k%d" % rng.randrange(20))
                low, high = sorted((rng.randrange(20), rng.randrange(20)))
                batch.delete_range(cf, b"k%d" % low, b"k%d" % high)
            harness.engine.write(batch)
            states.append(everything(harness.engine))
            if rng.random() < 0.1:
                harness.engine.sync()
                synced = len(states) - 1
        harness.crash(rng)
        survived = everything(harness.engine)
        assert survived in states[synced:]
        states = [survived]


def test_clean_close_keeps_everything(harness: Harness) -> None:
    fill(harness.engine, RAW, 100)
    before = everything(harness.engine)
    harness.reopen()
    assert everything(harness.engine) == before
    harness.crash(Random(1))
    assert everything(harness.engine) == before


def test_many_crashes_in_a_row(harness: Harness) -> None:
    rng = Random(11)
    for generation in range(8):
        put(harness.engine, RAFT, (b"g%d" % generation, b"x"))
        harness.engine.sync()
        harness.crash(rng)
    assert len(everything(harness.engine)[RAFT]) == 8


# -- the end --------------------------------------------------------------------------------------------------------


def test_close_is_idempotent_and_use_after_close_is_an_error(engine: Engine, tmp_path: Path) -> None:
    fill(engine, RAW, 10)
    iterator, fresh, snapshot, batch = engine.scan(RAW, b"", None), engine.scan(RAW, b"", None), engine.snapshot(), None
    inner = snapshot.scan(RAW, b"", None)
    batch = engine.write_batch()
    batch.put(RAW, b"x", b"y")
    next(iterator)
    engine.close()
    engine.close()
    for use in [
        lambda: engine.get(RAW, b"k0001"),
        lambda: engine.scan(RAW, b"", None),
        engine.snapshot,
        lambda: engine.write(batch),
        lambda: engine.write_batch().put(RAW, b"a", b"b"),
        engine.sync,
        lambda: engine.checkpoint(tmp_path / "c"),
        lambda: engine.ingest_sst(RAW, tmp_path / "x"),
        lambda: engine.export_sst(RAW, engine, b"", None, tmp_path / "y"),
        lambda: engine.approximate_size_bytes(RAW, b"", None),
        lambda: batch.put(RAW, b"a", b"b"),
        lambda: batch.delete(RAW, b"a"),
        lambda: next(iterator),
        lambda: next(fresh),
        lambda: next(inner),
        lambda: snapshot.get(RAW, b"k0001"),
    ]:
        with pytest.raises(EngineClosedError):
            use()
    snapshot.close()


def test_unknown_family_is_an_error(engine: Engine) -> None:
    unknown: ColumnFamily = "nonsense"  # type: ignore[assignment] - that is the point
    with pytest.raises(UnknownColumnFamilyError, match="nonsense"):
        engine.get(unknown, b"a")
    with pytest.raises(UnknownColumnFamilyError, match="nonsense"):
        engine.write_batch().put(unknown, b"a", b"b")


def test_sync_in_another_thread(engine: Engine) -> None:
    errors: list[BaseException] = []

    def sync_often() -> None:
        try:
            for _ in range(30):
                engine.sync()
        except BaseException as error:  # noqa: BLE001 - handed to the test
            errors.append(error)

    thread = threading.Thread(target=sync_often)
    thread.start()
    for number in range(300):
        put(engine, RAFT, (b"%d" % number, b"x" * 100))
    thread.join(timeout=60)
    assert not errors
    assert len(everything(engine)[RAFT]) == 300
