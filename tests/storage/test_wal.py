"""The log of RocksDB after crashes and after damage: a prefix, or an error that names the file; nothing in between."""

from __future__ import annotations

import gc
import shutil
from collections.abc import Callable
from pathlib import Path
from random import Random

import pytest
from tests.storage.engines import SMALL, copy_image, everything, log_ends, lose_power, put

from pytinykv.storage import ColumnFamily, CorruptionError, EngineError, RocksEngine
from pytinykv.storage.engine import Engine
from pytinykv.storage.rocks_log import MARK_NAME, ROOM_BYTES, RocksLog, mark_of, read_mark
from pytinykv.storage.wal import BLOCK_BYTES, find_damage, log_files, masked_crc, read_block, read_part

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
    part = read_part(content)
    assert part == (1, 4 * BATCHES, part.end, False)
    assert part.end > 2 * BLOCK_BYTES
    for start in range(0, part.end, BLOCK_BYTES):
        block = read_block(content[start : start + BLOCK_BYTES])
        assert block.bad_offset is None
        assert block.records
    assert find_damage(image) is None


def test_a_log_cut_anywhere_is_a_prefix(copy_of: Callable[[str], Path]) -> None:
    """Invariant: whatever is cut off what was not synced, recovery finds the batches before it, and all of them."""
    rng = Random(1)
    path = copy_of("cut")
    end = read_part(only_log(path).read_bytes()).end
    previous = BATCHES
    for size in sorted((rng.randrange(end) for _ in range(25)), reverse=True):
        shutil.rmtree(path)
        path = copy_of("cut")
        set_synced(path, 0)
        with only_log(path).open("r+b") as file:
            file.truncate(size)
        count = survivors(path)
        assert count <= previous
        assert count >= size * BATCHES // end - 2
        previous = count


def set_synced(path: Path, batches: int) -> None:
    """Pretend that only so many batches were synced when the power was cut."""
    (path / MARK_NAME).write_bytes(mark_of(4 * batches))


@pytest.mark.parametrize("lost_bytes", [1, 500, 50_000])
def test_a_log_that_lost_what_was_synced_is_an_error(copy_of: Callable[[str], Path], lost_bytes: int) -> None:
    """Also where it is cut between two batches, which looks like its end."""
    path = copy_of("lost")
    log = only_log(path)
    end = read_part(log.read_bytes()).end
    for size in (end - lost_bytes, read_part(log.read_bytes()[: end - lost_bytes]).end):
        with log.open("r+b") as file:
            file.truncate(size)
        for _ in range(2):
            with pytest.raises(CorruptionError, match="is damaged at byte|lost its end"):
                RocksEngine.open(path)


@pytest.mark.parametrize("hole_bytes", [1, 512, 4096, 2 * BLOCK_BYTES])
def test_a_hole_in_what_was_not_synced_ends_the_log(copy_of: Callable[[str], Path], hole_bytes: int) -> None:
    """A power cut may lose any part of it. RocksDB alone refuses such a log, or goes on behind the hole."""
    synced = 150
    for at_record_start in (True, False):
        path = copy_of("hole")
        set_synced(path, synced)
        log = only_log(path)
        content = bytearray(log.read_bytes())
        start = _end_of(content, synced + 20) + (0 if at_record_start else 30)
        content[start : start + hole_bytes] = bytes(hole_bytes)
        log.write_bytes(content)
        assert survivors(path) == synced + 20
        assert survivors(path) == synced + 20
        shutil.rmtree(path)


def test_a_hole_in_what_was_synced_is_an_error(copy_of: Callable[[str], Path]) -> None:
    path = copy_of("hole")
    set_synced(path, 150)
    log = only_log(path)
    content = bytearray(log.read_bytes())
    start = _end_of(content, 149)
    content[start : start + 4096] = bytes(4096)
    log.write_bytes(content)
    for _ in range(2):
        with pytest.raises(CorruptionError, match=rf"{log.name} is damaged at byte {start}:"):
            RocksEngine.open(path)


def _end_of(content: bytes, batches: int) -> int:
    """Return where so many batches end."""
    low, high = 0, len(content)
    while low < high:
        middle = (low + high) // 2
        if (read_part(content[:middle]).last_sequence or 0) >= 4 * batches:
            high = middle
        else:
            low = middle + 1
    return low


def test_a_damaged_byte_anywhere_is_an_error_that_names_the_log(copy_of: Callable[[str], Path]) -> None:
    """Invariant: no single damaged byte of the log makes a batch vanish without a word."""
    path = copy_of("flip")
    size = read_part(only_log(path).read_bytes()).end
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
    start = read_part(content).end // BLOCK_BYTES * BLOCK_BYTES
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
    start = read_part(content).end // BLOCK_BYTES * BLOCK_BYTES
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


@pytest.mark.parametrize("zeros", [0, 5, 20_000, ROOM_BYTES])
def test_two_whole_logs_are_fine(tmp_path: Path, zeros: int) -> None:
    """Also if the older one was given room just when RocksDB had closed it."""
    path = two_logs(tmp_path)
    with log_files(path)[0].open("ab") as file:
        file.write(bytes(zeros))
    assert survivors(path) == 100


def test_a_hole_between_two_logs_is_an_error_if_the_younger_was_synced(tmp_path: Path) -> None:
    """RocksDB alone would lose batches in the middle."""
    path = two_logs(tmp_path)
    older = log_files(path)[0]
    size = _cut_older(older, "within a batch")
    for _ in range(2):
        with pytest.raises(CorruptionError, match=rf"{older.name} is damaged at byte \d+:") as caught:
            RocksEngine.open(path, SMALL)
        assert caught.value.file == older
    assert older.stat().st_size == size


@pytest.mark.parametrize("where", ["within a batch", "between two batches"])
def test_a_hole_between_two_logs_that_were_not_synced_ends_them(tmp_path: Path, where: str) -> None:
    """The power was cut when the younger one had reached the disk in part, and the older one not yet."""
    path = two_logs(tmp_path)
    older, younger = log_files(path)
    (path / MARK_NAME).write_bytes(mark_of(4 * 20))
    _cut_older(older, where)
    assert survivors(path) == 45
    assert not younger.exists()


def _cut_older(log: Path, where: str) -> int:
    """Take the last five of 50 batches, or a little less."""
    content = log.read_bytes()
    size = read_part(content[: read_part(content).end - 900]).end
    with log.open("r+b") as file:
        return file.truncate(size if where == "between two batches" else size + 20)


def test_an_ingested_file_between_two_logs_is_no_hole(tmp_path: Path) -> None:
    """It may take a number that no log has; the mark tells so, whatever of it was still to be written."""
    path = two_logs(tmp_path)
    older, younger = log_files(path)
    last, first = read_part(older.read_bytes()).last_sequence, read_part(younger.read_bytes()).first_sequence
    assert last is not None
    assert first == last + 2
    (path / MARK_NAME).write_bytes(mark_of(last + 1))
    assert survivors(path) == 100


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
        safe = log_ends(path)
        for number in range(total, total + count):
            write_numbered(engine, number, 1, value_bytes=rng.choice([20, 1500, 6000, 40_000]))
            if rng.random() < 0.05:
                engine.sync()
                synced = number + 1
                safe = log_ends(path)
        crashed = tmp_path / str(generation + 1)
        copy_image(path, crashed)
        engine.close()
        lose_power(crashed, safe, rng)
        total = survivors(crashed)
        assert total >= synced
        path = crashed


# --- room ahead of the end of the log, and the mark -------------------------------------------------------------------


def test_the_log_is_longer_than_what_is_in_it_until_it_is_closed(tmp_path: Path) -> None:
    """Only then does a sync not have to write a new size of the file; recovery takes the zeros for the end."""
    path = tmp_path / "db"
    engine = RocksEngine.open(path)
    for number in range(3):  # more than twice the room
        write_numbered(engine, 20 * number, 20, value_bytes=ROOM_BYTES // 16)
        engine.sync()
        log = log_files(path)[-1]
        assert log.stat().st_size > read_part(log.read_bytes()).end + ROOM_BYTES // 4
    copy_image(path, tmp_path / "killed")
    engine.close()
    assert log.stat().st_size == read_part(log.read_bytes()).end
    assert survivors(tmp_path / "killed") == survivors(path) == 60


def test_a_database_that_is_hardly_written_gets_no_room(tmp_path: Path) -> None:
    engine = RocksEngine.open(tmp_path / "db")
    write_numbered(engine, 0, 3)
    engine.sync()
    assert log_files(tmp_path / "db")[-1].stat().st_size < ROOM_BYTES // 4
    engine.close()


def test_without_room_everything_works(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file system that can't allocate, a full disk: the log grows as RocksDB makes it."""

    def refuse(*_arguments: int) -> int:
        return -1

    monkeypatch.setattr("pytinykv.storage.rocks_log._fallocate", refuse)
    path = tmp_path / "db"
    engine = RocksEngine.open(path)
    write_numbered(engine, 0, BATCHES)
    engine.sync()
    log = log_files(path)[-1]
    assert log.stat().st_size == read_part(log.read_bytes()).end
    engine.close()
    assert survivors(path) == BATCHES


def test_the_mark_follows_each_sync_and_close(tmp_path: Path) -> None:
    path = tmp_path / "db"
    engine = RocksEngine.open(path)
    assert read_mark(path) == 0
    write_numbered(engine, 0, 10)
    assert read_mark(path) == 0
    engine.sync()
    assert read_mark(path) == 40
    engine.sync()
    write_numbered(engine, 10, 10)
    assert read_mark(path) == 40
    engine.close()
    assert read_mark(path) == 80


def test_after_a_failed_sync_a_close_marks_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The operating system may have dropped what it could not write: that a later sync succeeds proves nothing."""
    path = tmp_path / "db"
    engine = RocksEngine.open(path)
    write_numbered(engine, 0, 10)
    engine.sync()
    write_numbered(engine, 10, 10)

    def fail(_sync: bool) -> None:
        raise OSError("the disk failed")

    monkeypatch.setattr(engine, "_database_flush_wal", fail)
    with pytest.raises(EngineError, match="the disk failed"):
        engine.sync()
    engine.close()
    assert read_mark(path) == 40


def test_a_log_in_a_directory_that_is_not_there_is_an_error_and_nothing_else(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        RocksLog(tmp_path / "none")
    gc.collect()  # what is raised in `__del__` fails the test


@pytest.mark.parametrize("content", [b"", b"short", bytes(12), mark_of(40)[:-1] + b"?", b"?" + mark_of(40)[1:]])
def test_a_mark_that_is_not_whole_tells_nothing(copy_of: Callable[[str], Path], content: bytes) -> None:
    path = copy_of("mark")
    (path / MARK_NAME).write_bytes(content)
    assert read_mark(path) == 0
    assert survivors(path) == BATCHES


def test_a_mark_without_a_database_is_an_error(copy_of: Callable[[str], Path]) -> None:
    path = copy_of("mark")
    for file in path.iterdir():
        if file.name != MARK_NAME:
            file.unlink()
    with pytest.raises(CorruptionError, match="CURRENT is missing"):
        RocksEngine.open(path)
