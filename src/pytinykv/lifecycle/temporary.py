"""Temporary directories that are deleted: at the end, or by the next run if the process was killed.

The directory's lock file is held as long as its process lives. So a directory whose lock is free was left behind, and the
next process that makes one of the same kind deletes it.
"""

from __future__ import annotations

import fcntl
import logging
import os
import shutil
import tempfile
import time
from pathlib import Path
from typing import Final, Self

LOCK: Final = "lock"
_SETTLED_S: Final = 60.0
"""A directory younger than this may be one that another process is just making."""

_log = logging.getLogger(__name__)


class TemporaryDirectory:
    """A directory that is this process's until `close`. Made by `make`."""

    def __init__(self, path: Path, lock: int) -> None:
        self.path: Final = path
        self._lock: int | None = lock
        """The descriptor that holds the lock; None once closed."""
        self._pid: Final = os.getpid()

    @classmethod
    def make(cls, prefix: str) -> Self:
        """Make one whose name begins with `prefix`, and delete what killed processes left of that kind. Raises OSError."""
        remove_abandoned(prefix)
        path = Path(tempfile.mkdtemp(prefix=prefix))
        return cls(path, hold_lock(path))

    def close(self) -> None:
        """Delete it. Idempotent; a forked child only lets it go."""
        lock, self._lock = self._lock, None
        if lock is None:
            return
        if os.getpid() == self._pid:
            shutil.rmtree(self.path, ignore_errors=True)
        os.close(lock)


def hold_lock(path: Path) -> int:
    """Take the lock of a directory, put our pid into it, and return the descriptor that holds it.

    Raises:
        BlockingIOError: a process holds it; the argument is its pid, "unknown" if it has not written that yet.
        OSError: the directory can't be used.
    """
    descriptor = os.open(path / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        holder = os.pread(descriptor, 32, 0).decode("ascii", "replace").strip() or "unknown"
        os.close(descriptor)
        raise BlockingIOError(holder) from None
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
    return descriptor


def remove_abandoned(prefix: str) -> None:
    """Delete the temporary directories with that prefix that processes of this user have left behind."""
    for path in sorted(Path(tempfile.gettempdir()).glob(f"{prefix}*")):
        try:
            facts = path.stat()
            if facts.st_uid != os.getuid() or time.time() - facts.st_mtime < _SETTLED_S:
                continue
            descriptor = os.open(path / LOCK, os.O_RDWR | os.O_CLOEXEC)
        except OSError:  # it is just vanishing, or is none of ours
            continue
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            continue
        else:
            _log.info("deleting %s, which a process that was killed left behind", path)
            shutil.rmtree(path, ignore_errors=True)
        finally:
            os.close(descriptor)
