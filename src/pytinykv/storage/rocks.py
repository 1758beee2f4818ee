"""The production engine: RocksDB through `rocksdict`, one instance with all column families.

How writes become durable
-------------------------
`write` appends the batch to RocksDB's write-ahead log (one `write(2)`, no fsync) and to the memtables; it takes
microseconds and holds the GIL. Only when flushes lag far behind does it wait before, for a bounded time (`rocks_backlog.py`).
`sync` is `flush_wal(sync=True)`: one fsync for everything written before; it releases the GIL, so it belongs into a thread
of its own while the event loop fills the next batch (group commit).
The log has room ahead of its end, so that a sync need not write the file's size, and a mark of how far it was synced
(`rocks_log.py`).
To come back from the fsync that thread needs the GIL, for which it waits up to `sys.getswitchinterval()` (5 ms) while
the loop is busy. A shorter interval helped in a benchmark of the engine alone and showed no gain in a store, so none is set.

The log is shared by all column families, so recovery replays batches whole and in order. A memtable of one family reaches
its SST file only after the logs it came from were synced (RocksDB does so when there are several families), so no family
can be ahead of a hole in another one. Before recovery `wal.py` ends the log at the first batch that is not whole, if nothing
that was synced lies behind it; recovery reports all other damage.

Invariants
----------
1. `_handles`, `_gets` and `_columns` are empty exactly when the engine is closed: the hot paths need no other check.
2. `_failure` is the first error of a write or sync, and never changes again.
3. Every open cursor and snapshot is in `_dependents` or `_unpinned` (weakly): RocksDB is closed after all of them are.
4. RocksDB is not closed while its path leads to another directory than when it was opened: it would delete all files there.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import rocksdict

from pytinykv.storage import rocks_forks
from pytinykv.storage.engine import ColumnFamily, Reader, WriteBatch
from pytinykv.storage.errors import EngineClosedError, EngineError
from pytinykv.storage.handles import ByFamily, Dependents, keep_for_ever
from pytinykv.storage.rocks_backlog import Backlog
from pytinykv.storage.rocks_errors import explain_failed_open, translate
from pytinykv.storage.rocks_log import RocksLog
from pytinykv.storage.rocks_options import RocksConfig, RocksOptions
from pytinykv.storage.rocks_read import RocksCursor, RocksSnapshot, open_cursor
from pytinykv.storage.rocks_size import approximate_size_bytes
from pytinykv.storage.wal import check_logs, check_recovered

CLOSE_WAIT_S = 0.5
"""How long closing waits for a sync in another thread."""
FLUSH_CANCELLED = "Shutdown in progress"
"""What RocksDB says to a flush once its background work is cancelled."""


class RocksWriteBatch:
    """A batch for `RocksEngine.write`."""

    __slots__ = ("_delete", "_delete_range", "_handles", "_put", "raw", "spent")

    def __init__(self, handles: dict[ColumnFamily, Any]) -> None:
        raw: Any = rocksdict.WriteBatch(raw_mode=True)
        self.raw = raw
        """RocksDB's own batch; it takes the changes as they come."""
        self.spent: tuple[int, int] | None = None
        """(changes, bytes) once written, None before."""
        self._handles = handles
        self._put = raw.put
        self._delete = raw.delete
        self._delete_range = raw.delete_range
        """These three are looked up once: a batch has many changes."""

    def put(self, cf: ColumnFamily, key: bytes, value: bytes) -> None:
        self._put(key, value, self._handles[cf])

    def delete(self, cf: ColumnFamily, key: bytes) -> None:
        self._delete(key, self._handles[cf])

    def delete_range(self, cf: ColumnFamily, start: bytes, end: bytes) -> None:
        if start < end:
            self._delete_range(start, end, self._handles[cf])

    def __len__(self) -> int:
        return self.raw.len() if self.spent is None else self.spent[0]

    @property
    def size_bytes(self) -> int:
        return self.raw.size_in_bytes() if self.spent is None else self.spent[1]


class RocksEngine:
    """An `Engine` over one RocksDB instance. Made by `open`."""

    def __init__(self, path: Path, options: RocksOptions, database: Any) -> None:
        self.path = path
        """The directory, for messages."""
        self._place = _place(path)
        """Which directory that is: the path may lead to another one later."""
        self._options = options
        """As they were for opening; needed again for SST files and checkpoints."""
        self._database = database
        """None once closed."""
        self._database_write = database.write
        """Looked up once; raises `EngineClosedError` once closed."""
        self._database_flush_wal = database.flush_wal
        """As `_database_write`, looked up once; both raise `EngineClosedError` once closed."""
        columns = {cf: database.get_column_family(cf.value) for cf in ColumnFamily}
        self._columns = ByFamily(columns)
        """Column family -> what reads it. Emptied by `close`, as the two below; that is how a closed engine is known."""
        self._handles = ByFamily({cf: database.get_column_family_handle(cf.value) for cf in ColumnFamily})
        """Column family -> what a write batch names it by."""
        self._gets = ByFamily({cf: column.get for cf, column in columns.items()})
        """Column family -> its `get`, looked up once."""
        self._backlog = Backlog(columns.values(), options.config)
        """Holds writes back while RocksDB lags behind with writing memtables to files."""
        self._dependents = Dependents()
        """Open cursors, and snapshots that are pinned."""
        self._unpinned: list[weakref.ref[RocksSnapshot]] = []
        """Snapshots taken since the last write."""
        self._failure: EngineError | None = None
        """Invariant 2."""
        self._sync_lock = threading.Lock()
        """Held during a sync, which may run in another thread, and while closing."""
        self._log = RocksLog(path)
        """Used during a sync, and by `close`."""
        self._written_bytes = 0
        """Of all batches written so far. Moved by the thread that writes."""

    @staticmethod
    def check_process() -> None:
        """Raise EngineForkedError where `open` would."""
        rocks_forks.check()

    @classmethod
    def open(cls, path: Path | str, config: RocksConfig | None = None) -> RocksEngine:
        """Open the database in directory `path`, made if missing. Its parent must exist.

        Raises:
            DataDirectoryInUseError: another process has it open.
            CorruptionError: a file is damaged or missing; the message names it.
            EngineForkedError: this process was forked from one that has had a database open.
            DiskFullError, EngineError: as they say.
        """
        rocks_forks.note_use()
        path = Path(path)
        options = RocksOptions(config or RocksConfig())
        try:
            check_logs(path)
            database: Any = rocksdict.Rdict(str(path), options.database, options.column_families)
            try:
                check_recovered(path, database.latest_sequence_number())
                return cls(path, options, database)
            except BaseException:
                database.close()
                raise
        except Exception as error:
            raise explain_failed_open(error, path) from error

    # --- reading ------------------------------------------------------------------------------------------------

    def get(self, cf: ColumnFamily, key: bytes) -> bytes | None:
        try:
            return self._gets[cf](key)  # type: ignore[no-any-return]  # rocksdict has no types
        except EngineError:
            raise
        except Exception as error:
            raise translate(error, self.path) from error

    def cursor(self, cf: ColumnFamily, start: bytes = b"", end: bytes | None = None) -> RocksCursor:
        cursor = open_cursor(self._columns[cf], start, end, self.path)
        self._dependents.add(cursor)
        return cursor

    def scan(
        self, cf: ColumnFamily, start: bytes, end: bytes | None, *, reverse: bool = False
    ) -> Iterator[tuple[bytes, bytes]]:
        return self.cursor(cf, start, end).pairs(reverse=reverse)

    def snapshot(self) -> RocksSnapshot:
        if not self._columns:
            raise EngineClosedError("the engine is closed")
        snapshot = RocksSnapshot(self._columns, self._gets, self.path)
        self._unpinned.append(weakref.ref(snapshot))
        return snapshot

    def _pin_snapshots(self) -> None:
        """Make the snapshots taken since the last write independent of the next one."""
        unpinned, self._unpinned = self._unpinned, []
        for reference in unpinned:
            snapshot = reference()
            if snapshot is not None:
                snapshot.pin()
                self._dependents.add(snapshot)

    # --- writing ------------------------------------------------------------------------------------------------

    def write_batch(self) -> RocksWriteBatch:
        return RocksWriteBatch(self._handles)

    def write(self, batch: WriteBatch) -> None:
        assert isinstance(batch, RocksWriteBatch)
        self._check_usable()
        if batch.spent is not None:
            raise EngineError("this batch was written before: make a new one")
        size = (len(batch), batch.size_bytes)
        if size[0] == 0:
            return
        batch.spent = size
        if self._unpinned:
            self._pin_snapshots()
        try:
            self._backlog.before_write(size[1])
            self._database_write(batch.raw)
            self._written_bytes += size[1]
        except Exception as error:
            raise self._fail(error) from error

    def sync(self) -> None:
        with self._sync_lock:
            self._check_usable()
            written_bytes, sequence = self._written_bytes, self._database.latest_sequence_number()
            self._log.before_sync(written_bytes)
            try:
                self._database_flush_wal(True)
                self._log.after_sync(written_bytes, sequence)
            except Exception as error:
                raise self._fail(error) from error

    @property
    def failure(self) -> EngineError | None:
        """The first error of a write or sync; None while all is well."""
        return self._failure

    def _check_usable(self) -> None:
        if self._failure is not None:
            raise self._failure.with_traceback(None)
        if not self._columns:
            raise EngineClosedError("the engine is closed")

    def _fail(self, error: Exception) -> EngineError:
        """Record a failed write or sync; return the error that is raised from now on."""
        if self._failure is None:
            self._failure = translate(error, self.path)
        return self._failure

    # --- files --------------------------------------------------------------------------------------------------

    def export_sst(self, cf: ColumnFamily, reader: Reader, start: bytes, end: bytes | None, path: Path) -> int:
        writer: Any = None
        count = 0
        done = False
        try:
            for key, value in reader.scan(cf, start, end):
                if writer is None:
                    writer = rocksdict.SstFileWriter(self._options.column_families[cf.value])
                    writer.open(str(path))
                writer[key] = value
                count += 1
            if writer is not None:
                writer.finish()
            done = True
        except EngineError:
            raise
        except Exception as error:
            raise translate(error, path.parent) from error
        finally:
            if writer is not None and not done:
                path.unlink(missing_ok=True)
        return count

    def ingest_sst(self, cf: ColumnFamily, path: Path) -> None:
        self.sync()
        if not path.is_file():
            raise EngineError(f"can't ingest {path}: there is no such file")
        options = rocksdict.IngestExternalFileOptions()
        options.set_move_files(True)
        self._pin_snapshots()
        try:
            self._columns[cf].ingest_external_file([str(path)], options)
            with self._sync_lock:
                self._log.mark_durably(self._database.latest_sequence_number())
        except EngineError:
            raise
        except Exception as error:
            raise translate(error, self.path) from error
        path.unlink(missing_ok=True)

    def checkpoint(self, path: Path) -> None:
        self._check_usable()
        try:
            rocksdict.Checkpoint(self._database).create_checkpoint(str(path))
        except Exception as error:
            raise translate(error, path) from error
        RocksEngine.open(path, self._options.config).close()  # proves it openable, and gives it the log that it lacks

    def approximate_size_bytes(self, cf: ColumnFamily, start: bytes, end: bytes | None) -> int:
        column = self._columns[cf]
        try:
            return approximate_size_bytes(column, start, end)
        except Exception as error:
            raise translate(error, self.path) from error

    def close(self) -> None:
        if not self._sync_lock.acquire(timeout=CLOSE_WAIT_S):
            raise EngineError(f"can't close {self.path}: a sync is under way that the disk does not answer")
        try:
            if not self._columns:
                return
            columns = list(self._columns.values())
            for snapshot in filter(None, (reference() for reference in self._unpinned)):
                snapshot.close()
            self._dependents.close_all()
            self._backlog.clear()
            for table in (self._columns, self._handles, self._gets):
                table.clear()
            database, self._database = self._database, None
            self._database_write = self._database_flush_wal = _refuse_closed
        finally:
            self._sync_lock.release()
        self._close_database(database, columns)

    def _close_database(self, database: Any, columns: list[Any]) -> None:
        """Sync the log and release everything. Memtables stay in the log, from which the next `open` takes them.

        Writing them to SST files, as rocksdict would, takes seconds on a busy disk and can't be interrupted. `close` waits
        for what RocksDB is writing anyway; `cancel_all_background` must not wait, as it would keep the GIL meanwhile.
        """
        first: Exception | None = None
        if _place(self.path) in (self._place, None):
            release = [handle.close for handle in (database, *columns)]
        else:  # invariant 4; freeing them would close them, too
            release = [partial(keep_for_ever, handle) for handle in (database, *columns)]
        sync = partial(self._last_sync, database)
        for step in (sync, partial(database.cancel_all_background, False), *release, self._log.close):
            try:
                step()
            except Exception as error:  # noqa: BLE001 - all handles must be released; the first error is raised below
                if not str(error).startswith(FLUSH_CANCELLED):
                    first = first or error
        if first is not None and self._failure is None:
            raise self._fail(first) from first

    def _last_sync(self, database: Any) -> None:
        sequence = database.latest_sequence_number()
        database.flush_wal(True)
        if self._failure is None:  # after a failed sync this one proves nothing
            self._log.after_sync(self._written_bytes, sequence)


def _place(path: Path) -> tuple[int, int] | None:
    """Return what tells a directory from all others; None if there is none at the path."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino


def _refuse_closed(*_arguments: object) -> None:
    raise EngineClosedError("the engine is closed")
