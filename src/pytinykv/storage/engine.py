"""The `Engine` protocol: what every storage engine here promises.

An engine is an ordered map of byte keys to byte values in a few column families. Changes come in atomic batches.

Rules that every engine keeps (`tests/storage/test_engine_conformance.py` checks them on each):

1. A batch is visible to readers as soon as `Engine.write` has returned, all of it or nothing.
2. It is *durable* only once a later `Engine.sync` has returned. A crash may lose batches that were not synced:
   always from the end, never from the middle, always whole ones, over all column families together.
3. Snapshots, cursors and iterators see one state, that of the moment they were made, whatever is written later.
4. After a failed `write` or `sync` the engine is *failed*: every later one raises the first error again. The operating
   system may have dropped the dirty pages of a failed fsync, so a later success would prove nothing ("fsyncgate").
5. Use after `close` raises `EngineClosedError`. `close` ends all snapshots, cursors and iterators and may be called twice.

Threads: one thread writes; `sync` may run in another one at the same time, and covers every batch whose `write` returned
before the call. Snapshots may be read in another thread.
"""

from __future__ import annotations

from collections.abc import Iterator
from enum import StrEnum
from pathlib import Path
from typing import Protocol, Self


class ColumnFamily(StrEnum):
    """The separate key spaces of an engine.

    On hot paths bind a member to a name once: looking it up in the class (`ColumnFamily.RAFT`) takes 80 ns in Python 3.11,
    half as long as putting a pair into a batch.
    """

    DEFAULT = "default"
    LOCK = "lock"
    WRITE = "write"
    RAFT = "raft"
    RAW = "raw"


class WriteBatch(Protocol):
    """Changes that are applied together or not at all, in the order they were added. Written once, then spent."""

    def put(self, cf: ColumnFamily, key: bytes, value: bytes) -> None: ...

    def delete(self, cf: ColumnFamily, key: bytes) -> None:
        """Delete one key; deleting a key that isn't there is no error."""
        ...

    def delete_range(self, cf: ColumnFamily, start: bytes, end: bytes) -> None:
        """Delete every key with start <= key < end that is there at this point of the batch. Empty when start >= end."""
        ...

    def __len__(self) -> int:
        """Return how many changes the batch holds."""
        ...

    @property
    def size_bytes(self) -> int:
        """Approximate size of the batch in the write-ahead log."""
        ...


class Cursor(Protocol):
    """A position among the pairs of one column family with start <= key < end, in one state of the engine.

    It stands on a pair, or on none: when it is new, after its last pair, before its first one, and once it is closed. Each
    move returns the key on which it stands now, None for none. `next` and `prev` from nowhere stay there; a seek works from
    anywhere. A seek beyond one bound finds what it would find at the bound.

    Old versions of what it reads are kept as long as it is open: close it soon, or let go of it. A closed one, or one whose
    engine or snapshot was closed, raises EngineClosedError when it is moved.
    """

    @property
    def key(self) -> bytes | None:
        """The key on which the cursor stands."""
        ...

    def value(self) -> bytes:
        """Return the value of the pair on which the cursor stands. It must stand on one."""
        ...

    def seek(self, key: bytes) -> bytes | None:
        """Go to the first pair at or after `key`."""
        ...

    def seek_for_prev(self, key: bytes) -> bytes | None:
        """Go to the last pair at or before `key`."""
        ...

    def seek_to_first(self) -> bytes | None: ...

    def seek_to_last(self) -> bytes | None: ...

    def next(self) -> bytes | None: ...

    def prev(self) -> bytes | None: ...

    def pairs(self, *, reverse: bool = False, seek: bytes | None = None) -> Iterator[tuple[bytes, bytes]]:
        """Yield (key, value) from the first pair on, or from the last one back.

        `seek` begins there instead: at the first pair at or after it, or in reverse at the last one at or before it. Don't
        move the cursor until the iteration has ended or was given up for good; seek then, before anything else.
        """
        ...

    def close(self) -> None:
        """Release what the cursor holds. Idempotent."""
        ...

    def __enter__(self) -> Self: ...

    def __exit__(self, *exc: object) -> None: ...


class Reader(Protocol):
    """Read access to one state of the engine."""

    def get(self, cf: ColumnFamily, key: bytes) -> bytes | None: ...

    def cursor(self, cf: ColumnFamily, start: bytes = b"", end: bytes | None = None) -> Cursor:
        """Return a cursor over start <= key < end (None: unbounded) in the state of this moment. It stands nowhere yet."""
        ...

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

    def __enter__(self) -> Self: ...

    def __exit__(self, *exc: object) -> None: ...


class Engine(Reader, Protocol):
    """An ordered, atomic, crash-safe key-value engine. See the module's rules."""

    def write_batch(self) -> WriteBatch: ...

    def write(self, batch: WriteBatch) -> None:
        """Apply a batch atomically; visible at once, durable after the next `sync`. An empty one is no write.

        Raises:
            EngineError: the batch was not applied; the engine is failed from now on (rule 4).
        """
        ...

    def sync(self) -> None:
        """Block until everything written before this call is durable.

        Raises:
            EngineError: nothing written since the last successful sync may be acknowledged any more (rule 4).
        """
        ...

    def snapshot(self) -> Snapshot: ...

    def export_sst(self, cf: ColumnFamily, reader: Reader, start: bytes, end: bytes | None, path: Path) -> int:
        """Write the range's pairs as seen by `reader` into one new file; return how many. 0 pairs: no file is made.

        The file is synced when this returns. After an error no file is left.
        """
        ...

    def ingest_sst(self, cf: ColumnFamily, path: Path) -> None:
        """Add a file made by `export_sst` of the same kind of engine; the file is consumed. Durable when this returns.

        Its pairs replace those of the same keys; other keys in the range stay: delete the range first. Everything
        written before is synced, too, so that rule 2 holds.
        """
        ...

    def checkpoint(self, path: Path) -> None:
        """Write an openable copy of the engine into a directory that does not exist yet."""
        ...

    def approximate_size_bytes(self, cf: ColumnFamily, start: bytes, end: bytes | None) -> int:
        """Estimate the bytes that the range takes in the engine (compressed, where it compresses).

        Costs far less than reading them. Overwritten and deleted pairs may count for a while.
        """
        ...

    def close(self) -> None:
        """Sync and release everything. Idempotent. A failed engine is released without an error."""
        ...
