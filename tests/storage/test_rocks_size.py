"""Sizes estimated from files and memtables."""

from __future__ import annotations

from pathlib import Path
from random import Random

import pytest
from tests.storage.engines import SMALL, put

from pytinykv.storage import ColumnFamily, RocksEngine
from pytinykv.storage.rocks_size import DELETED_MAX, share


@pytest.mark.parametrize(
    ("start", "end", "expected"),
    [
        (b"", None, 1.0),
        (b"key100", None, 1.0),
        (b"key300", None, 0.5),
        (b"", b"key300", 0.5),
        (b"key200", b"key300", 0.25),
        (b"kez", None, 0.0),
        (b"", b"kex", 0.0),
        (b"", b"key100", 0.0),
    ],
)
def test_share_of_a_file(start: bytes, end: bytes | None, expected: float) -> None:
    assert share(b"key100", b"key500", start, end) == pytest.approx(expected, abs=0.01)


def test_share_of_a_file_with_one_key() -> None:
    assert share(b"a", b"a", b"", None) == 1.0
    assert share(b"a", b"a", b"a", b"b") == 1.0
    assert share(b"a", b"a", b"b", None) == 0.0
    assert share(b"", b"", b"", None) == 1.0
    assert share(b"a", b"ab", b"a", None) == 1.0


@pytest.mark.parametrize("flushed", [False, True])
def test_quarters_of_random_keys(tmp_path: Path, flushed: bool) -> None:
    rng = Random(1)
    engine = RocksEngine.open(tmp_path / "db", SMALL if flushed else None)
    for _ in range(100):
        put(engine, ColumnFamily.RAW, *((rng.randbytes(8), rng.randbytes(100)) for _ in range(200)))
    total = engine.approximate_size_bytes(ColumnFamily.RAW, b"", None)
    assert 20_000 * 108 * 0.8 < total < 20_000 * 108 * 1.5
    for quarter in range(4):
        start, end = bytes([quarter * 64]), bytes([quarter * 64 + 64]) if quarter < 3 else None
        size = engine.approximate_size_bytes(ColumnFamily.RAW, start, end)
        assert size == pytest.approx(total / 4, rel=0.1)
    engine.close()


@pytest.mark.parametrize("side", ["first", "last"])
def test_keys_behind_many_deleted_ones_are_not_searched_for(tmp_path: Path, side: str) -> None:
    engine = RocksEngine.open(tmp_path / "db")
    # (With `SMALL` a part of it may be flushed to a file meanwhile, and files count.)
    deleted = [b"m%06d" % number for number in range(DELETED_MAX + 1)]
    put(engine, ColumnFamily.LOCK, *((key, b"v") for key in deleted), (b"z" if side == "first" else b"a", b"v"))
    assert engine.approximate_size_bytes(ColumnFamily.LOCK, b"", None) > len(deleted)
    batch = engine.write_batch()
    for key in deleted:
        batch.delete(ColumnFamily.LOCK, key)
    engine.write(batch)
    assert engine.approximate_size_bytes(ColumnFamily.LOCK, b"", None) == 0
    engine.close()
