"""Errors of the storage layer.

::

    EngineError                      something about the disk or the engine; its owner stops with an error
    ├── DiskFullError                no space left on the device
    ├── CorruptionError              stored bytes are damaged; `.file` names the file
    ├── EngineClosedError            the engine (or a snapshot of it) was used after `close`
    ├── UnknownColumnFamilyError     no such column family (a programming error of the caller)
    ├── EngineForkedError            a forked child can't open an engine, as its parent had one open
    └── DataDirectoryError           the data directory can't be used by this process
        ├── DataDirectoryInUseError      another process holds it; `.holder_pid` names it
        └── DataDirectoryMismatchError   it belongs to another cluster, store, kind or format version

All but `EngineClosedError` and `UnknownColumnFamilyError` belong to the environment's family of errors: nothing here is
retryable in the same process. After a failed write or sync an engine refuses all further ones (`engine.py`, rule 4).
"""

from __future__ import annotations

from pathlib import Path


class EngineError(Exception):
    """Base of every error of the storage layer; raised itself where no subclass fits, with the engine's own words."""


class DiskFullError(EngineError):
    """The device has no space left. What was synced is intact: free some space, then restart."""


class CorruptionError(EngineError):
    """Stored bytes are damaged. Nothing was skipped or dropped: the file must be dealt with by the operator."""

    def __init__(self, message: str, *, file: Path | None = None) -> None:
        super().__init__(message)
        self.file = file
        """The damaged file, where the engine could tell which one it is."""


class EngineClosedError(EngineError):
    """The engine, snapshot or cursor was used after it had been closed."""


class UnknownColumnFamilyError(EngineError):
    """The engine has no column family of that name."""


class EngineForkedError(EngineError):
    """A process that was forked from one with an engine can't open any: the engine's threads are the parent's."""


class DataDirectoryError(EngineError):
    """The data directory can't be used: missing rights, not a directory, unreadable identity file."""


class DataDirectoryInUseError(DataDirectoryError):
    """Another process (or another part of this one) holds the data directory."""

    def __init__(self, message: str, *, holder_pid: int | None = None) -> None:
        super().__init__(message)
        self.holder_pid = holder_pid
        """Process id that the holder wrote into the lock file; None when unknown."""


class DataDirectoryMismatchError(DataDirectoryError):
    """The data directory belongs to something else than what is about to use it."""
