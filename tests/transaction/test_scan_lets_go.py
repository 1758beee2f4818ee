"""A scan that has ended, or is left in the middle, holds nothing of the engine any more."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import pytest

from pytinykv.storage import ColumnFamily, RocksEngine
from pytinykv.transaction.commands import ReadView, Scan
from pytinykv.transaction.records import Write, WriteKind, encode_write
from pytinykv.transaction.scan import scan
from pytinykv.transaction.stored_keys import encode_bytes, stored_key
from pytinykv.wire.timestamp import Timestamp


@pytest.fixture
def no_collections() -> Iterator[None]:
    gc.disable()
    yield
    gc.enable()


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("rows", [3, 100])
def test_the_database_is_free_without_a_garbage_collection(
    tmp_path: Path, no_collections: None, rows: int, reverse: bool
) -> None:
    engine = RocksEngine.open(tmp_path)
    batch = engine.write_batch()
    record = encode_write(Write(kind=WriteKind.PUT, start_ts=Timestamp(1), short_value=b"v"))
    for number in range(10):
        batch.put(ColumnFamily.WRITE, stored_key(encode_bytes(b"%d" % number), Timestamp(2)), record)
    engine.write(batch)
    command = Scan(start=b"", end=b"", limit=rows, reverse=reverse, key_only=False, view=ReadView(Timestamp(5)))
    assert len(list(islice(scan(engine, command), rows))) == min(rows, 10)
    engine.close()
    RocksEngine.open(tmp_path).close()  # raises if RocksDB still has it open
