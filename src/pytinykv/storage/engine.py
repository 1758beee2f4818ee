"""The `Engine` protocol: what every storage engine here promises.

An engine is an ordered map of byte keys to byte values in a few column families. Writes come in atomic batches and are
visible to readers as soon as `Engine.write` returns. They are *durable* only once a later `Engine.sync` has returned:
a crash may lose writes that were not synced, always from the end, never from the middle, and always whole batches.
"""

from __future__ import annotations

from collections.abc import Iterator
from enum import StrEnum
from pathlib import Path
from typing import Protocol


class ColumnFamily(StrEnum):
    """The separate key spaces of an engine."""

    DEFAULT = "default"
    LOCK = "lock"
    WRITE = "write"
    RAFT = "raft"
    RAW = "raw"


class WriteBatch(Protocol):
    """Changes that are applied together or not at all, in the order they were added."""

    def put(self, cf: ColumnFamily, key: bytes, value: bytes) -> None: ...

    def delete(self, cf: ColumnFamily, key: bytes) -> None: ...

    def delete_range(self, cf: ColumnFamily, start: bytes, end: bytes) -> None:
        """Delete every key with start <= key < end."""
        ...

    def __len__(self) -> int:
        """Return how many changes the batch holds."""
        ...

    @property
    def size_bytes(self) -> int: ...


class Reader(Protocol):
    """Read access to one state of the engine."""

    def get(self, cf: ColumnFamily, key: bytes) -> bytes | None: ...

    def scan(
        self, cf: ColumnFamily, start: bytes, end: bytes | None, *, reverse: bool = False
    ) -> Iterator[tuple[bytes, bytes]]:
        """Yield (key, value) with start <= key < end in key order, or in descending order with `reverse`.

        `end` None means unbounded. Lazy: nothing is read past what the caller takes. The iterator sees one state of
        the engine: that of the moment it was made.
        """
        ...


class Snapshot(Reader, Protocol):
    """The engine's state at one moment, unaffected by later writes. Release it with `close` or a `with` block."""

    def close(self) -> None: ...

    def __enter__(self) -> Snapshot: ...

    def __exit__(self, *exc: object) -> None: ...


class Engine(Reader, Protocol):
    """An ordered, atomic, crash-safe key-value engine. One owner thread writes; `sync` may run in another thread."""

    def write_batch(self) -> WriteBatch: ...

    def write(self, batch: WriteBatch) -> None:
        """Apply a batch atomically; visible at once, durable after the next `sync`. Raises EngineError."""
        ...

    def sync(self) -> None:
        """Block until everything written before this call is durable. Raises EngineError; then nothing may be acknowledged any more."""
        ...

    def snapshot(self) -> Snapshot: ...

    def export_sst(self, cf: ColumnFamily, reader: Reader, start: bytes, end: bytes | None, path: Path) -> int:
        """Write the range's pairs as seen by `reader` into one new file; return how many. 0 pairs: no file is made."""
        ...

    def ingest_sst(self, cf: ColumnFamily, path: Path) -> None:
        """Add a file made by `export_sst`; the file is consumed (moved or deleted). Durable when this returns."""
        ...

    def checkpoint(self, path: Path) -> None:
        """Write an openable copy of the engine into a directory that does not exist yet."""
        ...

    def approximate_size_bytes(self, cf: ColumnFamily, start: bytes, end: bytes | None) -> int: ...

    def close(self) -> None:
        """Sync and release everything. Idempotent."""
        ...
