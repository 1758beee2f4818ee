"""What only the in-memory engine can do: crash on command, fail on command, and forget old versions."""

from __future__ import annotations

import gc
from pathlib import Path
from random import Random

import pytest
from tests.storage.engines import everything, put

from pytinykv.storage import (
    ColumnFamily,
    CorruptionError,
    DiskFullError,
    EngineClosedError,
    EngineError,
    MemoryEngine,
    pair_file,
)
from pytinykv.storage.memory import Faults

RAW, LOCK = ColumnFamily.RAW, ColumnFamily.LOCK


def test_crash_keeps_the_synced_and_takes_from_the_end() -> None:
    """Every number of survivors comes up, and the successor holds exactly that prefix."""
    counts = set()
    for seed in range(60):
        engine = MemoryEngine()
        for number in range(6):
            put(engine, RAW, (b"k%d" % number, b"v"), (b"last", b"%d" % number))
            if number == 1:
                engine.sync()
        assert engine.unsynced_batches == 4
        successor = engine.crash(Random(seed))
        state = everything(successor)[RAW]
        last = int(state.pop(b"last"))
        assert set(state) == {b"k%d" % number for number in range(last + 1)}
        assert successor.unsynced_batches == 0
        counts.add(last)
    assert counts == {1, 2, 3, 4, 5}


def test_same_seed_same_crash() -> None:
    results = []
    for _ in range(2):
        engine = MemoryEngine()
        for number in range(50):
            put(engine, RAW, (b"k%d" % (number % 7), b"%d" % number))
        results.append(everything(engine.crash(Random(99))))
    assert results[0] == results[1]


def test_sync_under_way_covers_only_what_was_written_before_it_began() -> None:
    lost = 0
    for seed in range(20):
        engine = MemoryEngine()
        put(engine, RAW, (b"before", b"1"))
        ticket = engine.begin_sync()
        put(engine, RAW, (b"meanwhile", b"1"))
        engine.complete_sync(ticket)
        state = everything(engine.crash(Random(seed)))[RAW]
        assert b"before" in state
        lost += b"meanwhile" not in state
    assert 0 < lost < 20


def test_crash_ends_the_old_handle_and_everything_of_it() -> None:
    engine = MemoryEngine()
    put(engine, RAW, (b"a", b"1"), (b"b", b"2"))
    engine.sync()
    snapshot, iterator, batch = engine.snapshot(), engine.scan(RAW, b"", None), engine.write_batch()
    batch.put(RAW, b"late", b"of a dead store")
    successor = engine.crash(Random(1))
    for use in (
        lambda: engine.get(RAW, b"a"),
        lambda: engine.write(batch),
        engine.sync,
        lambda: next(iterator),
        lambda: snapshot.get(RAW, b"a"),
        lambda: engine.crash(Random(1)),
    ):
        with pytest.raises(EngineClosedError):
            use()
    engine.close()
    assert everything(successor)[RAW] == {b"a": b"1", b"b": b"2"}
    successor.close()


def test_old_versions_are_forgotten() -> None:
    engine = MemoryEngine()
    put(engine, RAW, *((b"k%d" % number, b"0") for number in range(20)))
    snapshots = []
    for round_number in range(10):
        snapshots.append(engine.snapshot())
        batch = engine.write_batch()
        batch.delete(RAW, b"k%d" % round_number)
        batch.put(RAW, b"k19", b"%d" % round_number)
        batch.put(RAW, b"new%d" % round_number, b"x")
        engine.write(batch)
    for snapshot in snapshots[::2] + snapshots[1::2]:
        snapshot.close()
    family = engine._families[RAW]
    assert all(isinstance(entry, bytes) for entry in family.pairs.values())
    assert len(family.pairs) == 20
    assert not engine._pins
    assert not engine._pins.dirty
    assert engine.used_bytes == sum(len(key) + len(value) for key, value in engine.scan(RAW, b"", None))


def test_dropped_iterators_and_snapshots_release_their_state() -> None:
    engine = MemoryEngine()
    put(engine, RAW, (b"a", b"1"), (b"b", b"1"))
    iterator, snapshot = engine.scan(RAW, b"", None), engine.snapshot()
    next(iterator)
    del iterator, snapshot
    gc.collect()
    assert not engine._pins


def test_full_disk_refuses_the_batch_and_poisons_the_engine() -> None:
    engine = MemoryEngine(Faults(capacity_bytes=1000))
    put(engine, RAW, (b"a", b"x" * 500))
    engine.sync()
    with pytest.raises(DiskFullError) as first:
        put(engine, RAW, (b"b", b"x" * 600), (b"c", b""))
    assert engine.get(RAW, b"c") is None
    engine.faults.capacity_bytes = None
    with pytest.raises(DiskFullError) as later:
        put(engine, RAW, (b"d", b"x"))
    assert later.value is first.value is engine.failure
    successor = engine.crash(Random(1))
    assert set(everything(successor)[RAW]) == {b"a"}
    put(successor, RAW, (b"d", b"the disk has space again"))


def test_failed_sync_leaves_the_batches_at_risk() -> None:
    lost = 0
    for seed in range(20):
        engine = MemoryEngine()
        put(engine, RAW, (b"a", b"1"))
        engine.faults.sync_error = EngineError("the simulated disk failed")
        with pytest.raises(EngineError, match="simulated"):
            engine.sync()
        engine.faults.sync_error = None
        with pytest.raises(EngineError, match="simulated"):
            engine.sync()
        lost += engine.crash(Random(seed)).get(RAW, b"a") is None
    assert 0 < lost < 20


def test_failed_write_applies_nothing() -> None:
    engine = MemoryEngine()
    engine.faults.write_error = EngineError("the simulated disk failed")
    with pytest.raises(EngineError, match="simulated"):
        put(engine, RAW, (b"a", b"1"))
    assert engine.get(RAW, b"a") is None
    engine.close()
    engine.faults.write_error = None
    assert everything(engine.reopen())[RAW] == {}


def test_reopening_after_a_failure_brings_back_the_synced_only() -> None:
    engine = MemoryEngine()
    put(engine, RAW, (b"a", b"1"))
    engine.sync()
    put(engine, RAW, (b"b", b"1"))
    engine.faults.sync_error = EngineError("the simulated disk failed")
    with pytest.raises(EngineError):
        engine.sync()
    engine.close()
    engine.faults.sync_error = None
    assert everything(engine.reopen())[RAW] == {b"a": b"1"}


def test_reopening_twice_is_refused() -> None:
    engine = MemoryEngine()
    with pytest.raises(EngineError, match="closed engine"):
        engine.reopen()
    engine.close()
    engine.reopen()
    with pytest.raises(EngineError, match="only once"):
        engine.reopen()


GOLDEN = bytes.fromhex("544b56500101000000020000006b7676ffffffff0100000000000000")


def test_pair_file_golden_bytes(tmp_path: Path) -> None:
    path = tmp_path / "f"
    assert pair_file.write(path, [(b"k", b"vv")]) == 1
    content = path.read_bytes()
    assert content[:-4] == GOLDEN
    assert pair_file.read(path) == [(b"k", b"vv")]


def test_damaged_pair_file_is_refused_wherever_the_damage_is(tmp_path: Path) -> None:
    """Fed garbage, the decoder raises CorruptionError only."""
    path = tmp_path / "f"
    pair_file.write(path, [(b"a", b"1"), (b"b", b""), (b"", b"x" * 50)])
    content = path.read_bytes()
    damaged = [content[:size] for size in range(len(content))]
    damaged += [content[:at] + bytes([content[at] ^ 0x41]) + content[at + 1 :] for at in range(len(content))]
    damaged += [Random(seed).randbytes(seed) for seed in range(60)]
    for garbage in damaged:
        path.write_bytes(garbage)
        with pytest.raises(CorruptionError) as caught:
            pair_file.read(path)
        assert caught.value.file == path
