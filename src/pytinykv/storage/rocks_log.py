"""What is done to RocksDB's write-ahead log beside RocksDB: room ahead of its end, and a mark of how far it was synced.

Room ahead
----------
RocksDB appends to its log, so a sync writes not only the data but, through the journal of the file system, also the new size
of the file. Where the file has its size already, a sync takes about two thirds of the time. So the newest log is made longer
than what is in it, with `fallocate`. What was never written reads as zeros, which recovery takes for the end. RocksDB cuts a
log to what it has written when it closes it: only a crash leaves zeros behind.

The mark
--------
Without the room, a power cut leaves a log that ends somewhere. With it, any part of what was not synced may be lost, and what
was written behind it kept. To tell that from damage, `SYNCED` says up to which sequence number the log was synced. It is
written after each sync, and never synced itself: when a process dies it is exact; after a power cut it may be some seconds
old, but it is never ahead of the log. `wal.check_logs` reads it.

    SYNCED:   sequence number u64 | crc32c of these eight bytes u32       little-endian

Neither is needed for what was acknowledged to be there: an error of either is ignored, one of the sync itself is not.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import struct
from pathlib import Path
from typing import Any, Final

from fastcrc import crc32

ROOM_BYTES: Final = 1 << 20
"""How much longer the newest log is made each time that half of it was written."""
FIRST_ROOM_AFTER_BYTES: Final = 4096
"""A database that hardly anything is written to needs no room."""
MARK_NAME: Final = "SYNCED"
_SEQUENCE: Final = struct.Struct("<Q")
_MARK: Final = struct.Struct("<QI")


def _c_function(library: ctypes.CDLL, name: str, *argument_types: Any) -> Any:
    """Return a function of the C library that returns an int; one that does nothing where there is none of that name."""
    function: Any = getattr(library, name, None)
    if function is None:
        return lambda *_: -1
    function.argtypes = argument_types
    return function


# Not `os.posix_fallocate`: where the file system can't allocate, that writes into the file, behind the back of RocksDB.
_fallocate: Final = _c_function(
    ctypes.CDLL(None), "fallocate", ctypes.c_int, ctypes.c_int, ctypes.c_long, ctypes.c_long
)
# Not `os.pwrite`: it lets go of the GIL, for which the thread that syncs would then have to wait once more.
_pwrite: Final = _c_function(
    ctypes.PyDLL(None), "pwrite", ctypes.c_int, ctypes.c_char_p, ctypes.c_size_t, ctypes.c_long
)


class RocksLog:
    """The write-ahead log of one open database. Used by one thread at a time."""

    def __init__(self, path: Path) -> None:
        """Raises OSError."""
        self._directory = -1
        """Descriptor of the directory itself, wherever its path leads later; -1 once closed."""
        self._mark = -1
        """Descriptor of `SYNCED`; -1 once closed."""
        self._marked_bytes = 0
        """How much had been written at the last mark."""
        self._room_after_bytes = FIRST_ROOM_AFTER_BYTES
        """When so much has been written, room is made again."""
        self._open(path)

    def before_sync(self, written_bytes: int) -> None:
        """Make room if there is little left. `written_bytes`: how much has been written since the database was opened."""
        if written_bytes >= self._room_after_bytes:
            self._room_after_bytes = written_bytes + ROOM_BYTES // 2
            self._make_room()

    def after_sync(self, written_bytes: int, sequence: int) -> None:
        """Note that all is durable up to `sequence`, with which the first `written_bytes` ended."""
        if written_bytes != self._marked_bytes:
            self._marked_bytes = written_bytes
            _pwrite(self._mark, mark_of(sequence), _MARK.size, 0)

    def mark_durably(self, sequence: int) -> None:
        """Mark a sequence number that no change in the log has, as an ingested file takes one. Raises OSError.

        Durable when this returns: where two logs don't follow each other, the mark tells such a number from lost changes.
        """
        os.pwrite(self._mark, mark_of(sequence), 0)
        os.fsync(self._mark)

    def close(self) -> None:
        """Any number of times."""
        descriptors = [self._directory, self._mark]
        self._directory = self._mark = -1
        for descriptor in descriptors:
            if descriptor >= 0:
                os.close(descriptor)

    def __del__(self) -> None:
        self.close()

    def _open(self, path: Path) -> None:
        self._directory = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
        try:
            self._mark = os.open(MARK_NAME, os.O_WRONLY, dir_fd=self._directory)
        except FileNotFoundError:
            self._mark = os.open(MARK_NAME, os.O_WRONLY | os.O_CREAT, 0o644, dir_fd=self._directory)
            os.fsync(self._directory)

    def _make_room(self) -> None:
        with contextlib.suppress(OSError):
            names = os.listdir(self._directory)  # noqa: PTH208 - `Path` takes no descriptor
            logs = [name for name in names if name.endswith(".log") and name[:-4].isdigit()]
            if not logs:
                return
            log = os.open(max(logs, key=lambda name: int(name[:-4])), os.O_WRONLY, dir_fd=self._directory)
            try:
                _fallocate(log, 0, os.fstat(log).st_size, ROOM_BYTES)
            finally:
                os.close(log)


def mark_of(sequence: int) -> bytes:
    """Return what `SYNCED` holds for a sequence number."""
    return _MARK.pack(sequence, crc32.iscsi(_SEQUENCE.pack(sequence)))


def read_mark(path: Path) -> int:
    """Return up to which sequence number the log of the database in `path` was synced; 0 where that is not known."""
    try:
        content = (path / MARK_NAME).read_bytes()
    except FileNotFoundError:
        return 0
    if len(content) < _MARK.size:
        return 0
    sequence: int = _MARK.unpack_from(content)[0]
    return sequence if content.startswith(mark_of(sequence)) else 0
