"""Storage engines: ordered, atomic, crash-safe maps of bytes to bytes in a few column families.

`engine.py` holds the promise (read its rules first), `rocks.py` the production engine over RocksDB, `memory.py` the
engine of tests and simulation, which can lose what was not synced and fail on command. One conformance suite runs over
both. `changes.py` has writes as plain tuples, for logs. `data_dir.py` guards the directory on disk: one process at a time, and never somebody else's data.
"""

from __future__ import annotations

from pytinykv.storage.atomic_file import sync_directory, write_atomically
from pytinykv.storage.data_dir import DataDirectory, DataKind
from pytinykv.storage.engine import ColumnFamily, Engine, Reader, Snapshot, WriteBatch
from pytinykv.storage.errors import (
    CorruptionError,
    DataDirectoryError,
    DataDirectoryInUseError,
    DataDirectoryMismatchError,
    DiskFullError,
    EngineClosedError,
    EngineError,
    UnknownColumnFamilyError,
)
from pytinykv.storage.memory import Faults, MemoryEngine
from pytinykv.storage.rocks import RocksEngine
from pytinykv.storage.rocks_options import RocksConfig

__all__ = [
    "ColumnFamily",
    "CorruptionError",
    "DataDirectory",
    "DataDirectoryError",
    "DataDirectoryInUseError",
    "DataDirectoryMismatchError",
    "DataKind",
    "DiskFullError",
    "Engine",
    "EngineClosedError",
    "EngineError",
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
