"""What rocksdict 0.3 does wrong, shown on rocksdict itself: the reasons for `rocks_read.py`.

When one of these fails, a new rocksdict has mended it: the work-around may go.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import rocksdict
from tests.storage.engines import put

from pytinykv.storage import ColumnFamily, CorruptionError, RocksEngine

RAW = ColumnFamily.RAW


@pytest.fixture
def bare(tmp_path: Path) -> Iterator[Any]:
    database = rocksdict.Rdict(str(tmp_path / "bare"), rocksdict.Options(raw_mode=True))
    for number in range(5):
        database[b"k%d" % number] = b"old"
    yield database
    database.close()


def test_lower_bound_sets_the_upper_one(bare: Any) -> None:
    options = rocksdict.ReadOptions()
    options.set_iterate_lower_bound(b"k3")
    assert [key for key, _ in bare.items(read_opt=options)] == [b"k0", b"k1", b"k2"]


def test_snapshot_items_show_the_newest_state(bare: Any) -> None:
    snapshot = bare.snapshot()
    bare[b"k0"] = b"new"
    assert snapshot[b"k0"] == b"old"
    assert next(snapshot.items()) == (b"k0", b"new")


def damaged_database(tmp_path: Path) -> tuple[Path, Path]:
    """Make a database with one SST file of which a block in the middle is damaged."""
    path = tmp_path / "db"
    engine = RocksEngine.open(path)
    put(engine, RAW, *((b"k%06d" % number, b"%06d" % number * 20) for number in range(5000)))
    engine.close()
    RocksEngine.open(path).close()  # moves what the log holds to an SST file
    (file,) = path.glob("*.sst")
    content = bytearray(file.read_bytes())
    middle = len(content) // 2
    content[middle : middle + 16] = bytes(16)
    file.write_bytes(content)
    return path, file


def test_items_end_silently_at_a_damaged_block(tmp_path: Path) -> None:
    path, _ = damaged_database(tmp_path)
    families = {cf.value: rocksdict.Options(raw_mode=True) for cf in ColumnFamily}
    database: Any = rocksdict.Rdict(str(path), rocksdict.Options(raw_mode=True), families)
    column = database.get_column_family("raw")
    count = sum(1 for _ in column.items())
    assert 0 < count < 5000
    column.close()
    database.close()


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("through", ["engine", "snapshot", "pinned snapshot"])
def test_our_scan_names_the_damaged_file(tmp_path: Path, reverse: bool, through: str) -> None:
    path, file = damaged_database(tmp_path)
    engine = RocksEngine.open(path)
    reader = engine if through == "engine" else engine.snapshot()
    if through == "pinned snapshot":
        put(engine, ColumnFamily.LOCK, (b"a", b"pins it"))
    seen = []
    with pytest.raises(CorruptionError) as caught:
        seen.extend(reader.scan(RAW, b"", None, reverse=reverse))
    assert caught.value.file == file
    del caught  # its traceback holds frames that hold RocksDB's iterators
    close_damaged(engine)


def test_our_get_names_the_damaged_file(tmp_path: Path) -> None:
    path, file = damaged_database(tmp_path)
    engine = RocksEngine.open(path)
    damaged = 0
    for number in range(0, 5000, 10):
        try:
            value = engine.get(RAW, b"k%06d" % number)
        except CorruptionError as error:
            damaged += error.file == file
        else:
            assert value == b"%06d" % number * 20
    assert damaged > 0
    close_damaged(engine)


def close_damaged(engine: RocksEngine) -> None:
    """Close: raises, too, when a compaction in the background has met the damage."""
    with contextlib.suppress(CorruptionError):
        engine.close()
