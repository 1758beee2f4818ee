"""Storage engines: ordered, atomic, crash-safe maps of bytes to bytes in a few column families.

    engine          what an engine promises: read its rules first       changes     writes as plain tuples, for logs
    rocks           the production engine over RocksDB; its parts: rocks_read, rocks_options, rocks_errors, …
    memory          the engine of tests and simulation, which can lose what was not synced and fail on command; with versions
    data_dir        guards the directory on disk: one process at a time, and never the data of another cluster or store

    handles         what both engines use to close all that depends on them
    atomic_file     small files that a crash leaves old or new       pair_file   SST files of the engine in memory
    describe        what is in an engine, as text                    errors      errors of all of the above

One conformance suite runs over both engines.
"""

from __future__ import annotations

from pytinykv.storage.atomic_file import sync_directory, write_atomically
from pytinykv.storage.data_dir import DataDirectory, DataKind
from pytinykv.storage.engine import ColumnFamily, Cursor, Engine, Reader, Snapshot, WriteBatch
from pytinykv.storage.errors import (
    CorruptionError,
    DataDirectoryError,
    DataDirectoryInUseError,
    DataDirectoryMismatchError,
    DiskFullError,
    EngineClosedError,
    EngineError,
    EngineForkedError,
    UnknownColumnFamilyError,
)
from pytinykv.storage.memory import Faults, MemoryEngine
from pytinykv.storage.rocks import RocksEngine
from pytinykv.storage.rocks_options import RocksConfig

__all__ = [
    "ColumnFamily",
    "CorruptionError",
    "Cursor",
    "DataDirectory",
    "DataDirectoryError",
    "DataDirectoryInUseError",
    "DataDirectoryMismatchError",
    "DataKind",
    "DiskFullError",
    "Engine",
    "EngineClosedError",
    "EngineError",
    "EngineForkedError",
    "Faults",
    "MemoryEngine",
    "Reader",
    "RocksConfig",
    "RocksEngine",
    "Snapshot",
    "UnknownColumnFamilyError",
    "WriteBatch",
    "sync_directory",
    "write_atomically",
]
