"""A process that writes while a flush fails on a full disk: `python -m tests.storage.full_disk DIRECTORY`.

It has a process of its own as RocksDB once waited inside such a write for ever, and kept the GIL.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from tests.storage.engines import put

from pytinykv.storage import ColumnFamily, DiskFullError, RocksConfig, RocksEngine
from pytinykv.storage.engine import WriteBatch

SLOW, QUICK = ColumnFamily.DEFAULT, ColumnFamily.RAW
ROWS = 200_000
SLOW_BUFFER_BYTES = 8 << 20
CONFIG = RocksConfig(write_buffer_bytes=64 << 10, write_buffers_bytes=64 << 20)
ROOM_BYTES = 1_200_000
"""Enough for the logs of what is written last, too little for the flush of `SLOW`."""


def rows(engine: RocksEngine, cf: ColumnFamily, count: int, prefix: bytes) -> WriteBatch:
    batch = engine.write_batch()
    for number in range(count):
        batch.put(cf, prefix + b"%08d" % number, b"x" * 10)
    return batch


def main(directory: Path) -> None:
    """Fill the disk and write until the engine refuses; print how many single rows of `QUICK` were synced."""
    engine = RocksEngine.open(directory / "db", CONFIG)
    engine._columns[SLOW].set_options({"write_buffer_size": str(SLOW_BUFFER_BYTES)})
    prepared = [rows(engine, QUICK, 1000, b"%d" % number) for number in range(10)]
    engine.write(rows(engine, SLOW, ROWS, b""))
    engine.sync()
    space = os.statvfs(directory)
    (directory / "ballast").write_bytes(bytes(space.f_bavail * space.f_bsize - ROOM_BYTES))
    synced = 0
    try:
        for (
            batch
        ) in prepared:  # the first starts the flush of `SLOW`, which takes longer than filling the other memtables
            engine.write(batch)
        while True:
            put(engine, QUICK, (b"row%06d" % synced, b"y"))
            engine.sync()
            synced += 1
    except DiskFullError:
        sys.stdout.write(str(synced))
    engine.close()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
