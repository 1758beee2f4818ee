"""The log of RocksDB after crashes and after damage: a prefix, or an error that names the file; nothing in between."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from random import Random

import pytest
from tests.storage.engines import SMALL, copy_image, everything, put

from pytinykv.storage import ColumnFamily, CorruptionError, RocksEngine
from pytinykv.storage.engine import Engine
from pytinykv.storage.wal import BLOCK_BYTES, find_damage, log_files, masked_crc, read_block

RAW, RAFT, LOCK = ColumnFamily.RAW, ColumnFamily.RAFT, ColumnFamily.LOCK
BATCHES = 400


def write_numbered(engine: Engine, start: int, count: int, *, value_bytes: int = 150) -> None:
    """Write batches that each leave their number in three families."""
    for number in range(start, start + count):
        batch = engine.write_batch()
        for cf in (RAW, RAFT, LOCK):
            batch.put(cf, b"last", b"%d" % number)
        batch.put(RAFT, b"entry%06d" % number, b"x" * value_bytes)
        engine.write(batch)


def survivors(path: Path) -> int:
    """Open an image and return how many batches it holds; fail if that is no prefix."""
    engine = RocksEngine.open(path, SMALL)
    state = everything(engine)
    engine.close()
    counts = {int(state[cf].get(b"last", b"-1")) + 1 for cf in (RAW, RAFT, LOCK)}
    assert len(counts) == 1, f"the families tell of different batches: {counts}"
    count = counts.pop()
    assert [key for key in state[RAFT] if key != b"last"] == [b"entry%06d" % number for number in range(count)]
    return count


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A database that was never closed: all its data are in one log, of several blocks."""
    directory = tmp_path_factory.mktemp("image")
    engine = RocksEngine.open(directory / "live")
    write_numbered(engine, 0, BATCHES)
    engine.sync()
    copy_image(directory / "live", directory / "image")
    engine.close()
    return directory / "image"


@pytest.fixture
def copy_of(image: Path, tmp_path: Path) -> Callable[[str], Path]:
    def copy(name: str) -> Path:
        return Path(shutil.copytree(image, tmp_path / name))

    return copy


def only_log(path: Path) -> Path:
    (log,) = log_files(path)
    return log


def test_format_is_what_rocksdb_writes(image: Path) -> None:
    """Golden bytes: the checksum of an empty whole record, and every block of a real log."""
    assert masked_crc(b"\x01") == 0x4328_2B05
    log = only_log(image)
    content = log.read_bytes()
    assert len(content) > 2 * BLOCK_BYTES
    for start in range(0, len(content), BLOCK_BYTES):
        block = read_block(content[start : start + BLOCK_BYTES])
        assert block.bad_offset is None
        assert block.records
    assert find_damage(image) is None


def test_a_log_cut_anywhere_is_a_prefix(copy_of: Callable[[str], Path]) -> None:
    """Invariant: whatever is cut off the end, recovery finds the batches before it, and all of them."""
    rng = Random(1)
    path = copy_of("cut")
    original = only_log(path).read_bytes()
    previous = BATCHES
    for size in sorted((rng.randrange(len(original)) for _ in range(25)), reverse=True):
        shutil.rmtree(path)
        path = copy_of("cut")
        with only_log(path).open("r+b") as file:
            file.truncate(size)
        count = survivors(path)
        assert count <= previous
        assert count >= size * BATCHES // len(original) - 2
        previous = count


def test_a_damaged_byte_anywhere_is_an_error_that_names_the_log(copy_of: Callable[[str], Path]) -> None:
    """Invariant: no single damaged byte of the log makes a batch vanish without a word."""
    path = copy_of("flip")
    size = only_log(path).stat().st_size
    last_record = _last_record_offset(only_log(path))
    offsets = [*range(3, size, size // 20), *range(last_record, last_record + 12), size - 1]
    for offset in offsets:
        shutil.rmtree(path)
        path = copy_of("flip")
        log = only_log(path)
        _flip(log, offset)
        with pytest.raises(CorruptionError, match=log.name) as caught:
            survivors(path)
        assert caught.value.file == log, f"damage at {offset}"


def _last_record_offset(log: Path) -> int:
    content = log.read_bytes()
    start = (len(content) - 1) // BLOCK_BYTES * BLOCK_BYTES
    return start + read_block(content[start:]).records[-1].offset


def _flip(file: Path, offset: int, mask: int = 0x5A) -> None:
    content = bytearray(file.read_bytes())
    content[offset] ^= mask
    file.write_bytes(content)


def test_damaged_length_in_the_last_block_does_not_hide_the_records_behind(copy_of: Callable[[str], Path]) -> None:
    """Without our own check RocksDB takes it for a torn record, and drops the rest of the block."""
    path = copy_of("length")
    log = only_log(path)
    content = log.read_bytes()
    start = (len(content) - 1) // BLOCK_BYTES * BLOCK_BYTES
    third = read_block(content[start:]).records[2]
    _flip(log, start + third.offset + 5, 0x7F)
    with pytest.raises(CorruptionError, match=log.name):
        RocksEngine.open(path)


def test_zeros_behind_the_end_are_no_damage(copy_of: Callable[[str], Path]) -> None:
    path = copy_of("zeros")
    with only_log(path).open("ab") as file:
        file.write(bytes(10_000))
    assert survivors(path) == BATCHES


@pytest.mark.parametrize("lost", ["*.log", "CURRENT", "MANIFEST-*"])
def test_a_missing_file_is_an_error(copy_of: Callable[[str], Path], lost: str) -> None:
    path = copy_of("missing")
    for file in path.glob(lost):
        file.unlink()
    with pytest.raises(CorruptionError, match="missing"):
        RocksEngine.open(path)


def test_a_creation_that_was_cut_short_is_no_damage(tmp_path: Path) -> None:
    """Killed in its very first open, a store must come up at the second."""
    RocksEngine.open(tmp_path / "db").close()
    for file in [*(tmp_path / "db").glob("*.log"), tmp_path / "db" / "CURRENT"]:
        file.unlink()
    RocksEngine.open(tmp_path / "db").close()


def two_logs(tmp_path: Path) -> Path:
    """Make an image with two logs that both hold data that no SST file has.

    Written with huge buffers; the switch of logs is forced by an ingest into a family that has data in its memtable.
    The other families keep the old log alive.
    """
    live = tmp_path / "live"
    engine = RocksEngine.open(live)
    write_numbered(engine, 0, 50)
    put(engine, ColumnFamily.WRITE, (b"a", b"b"))
    engine.export_sst(ColumnFamily.WRITE, engine, b"", None, tmp_path / "a.sst")
    engine.ingest_sst(ColumnFamily.WRITE, tmp_path / "a.sst")
    write_numbered(engine, 50, 50)
    engine.sync()
    copy_image(live, tmp_path / "image")
    engine.close()
    assert [log.stat().st_size > 0 for log in log_files(tmp_path / "image")] == [True, True]
    return tmp_path / "image"


def test_two_whole_logs_are_fine(tmp_path: Path) -> None:
    assert survivors(two_logs(tmp_path)) == 100


def test_a_hole_between_two_logs_is_an_error(tmp_path: Path) -> None:
    """An older log that lost its end while a younger one goes on: RocksDB alone would lose batches in the middle."""
    path = two_logs(tmp_path)
    older = log_files(path)[0]
    with older.open("r+b") as file:
        file.truncate(older.stat().st_size - 500)
    with pytest.raises(CorruptionError, match="lost its end") as caught:
        RocksEngine.open(path, SMALL)
    assert caught.value.file == older


@pytest.mark.parametrize("seed", range(6))
def test_power_cuts_under_flushes_leave_a_prefix(tmp_path: Path, seed: int) -> None:
    """Invariant: families flush at different times, yet after a cut of the unsynced end all tell of the same batch."""
    rng = Random(seed)
    path = tmp_path / "0"
    total = 0
    for generation in range(3):
        engine = RocksEngine.open(path, SMALL)
        synced = total
        count = rng.randrange(50, 250)
        safe: dict[str, int] = {}
        for number in range(total, total + count):
            write_numbered(engine, number, 1, value_bytes=rng.choice([20, 1500, 6000]))
            if rng.random() < 0.05:
                engine.sync()
                synced = number + 1
                safe = {log.name: log.stat().st_size for log in log_files(path)[-1:]}
        crashed = tmp_path / str(generation + 1)
        copy_image(path, crashed)
        engine.close()
        newest = log_files(crashed)[-1]
        with newest.open("r+b") as file:
            file.truncate(rng.randint(safe.get(newest.name, 0), newest.stat().st_size))
        total = survivors(crashed)
        assert total >= synced
        path = crashed
