"""Temporary directories that are deleted: at the end, or by the next run if the process was killed.

The directory's lock file is held as long as its process lives, and says that the directory is temporary. So one whose lock
is free was left behind, and the next process that makes one of the same kind deletes it. The name alone decides nothing: a
directory that a user has named like ours is the user's.
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import shutil
import tempfile
from pathlib import Path
from typing import Final, Self

LOCK: Final = "lock"
_TEMPORARY: Final = "temporary"
"""What the lock file of a directory says, behind the pid, that is to be deleted."""

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
        return cls(path, hold_lock(path, is_temporary=True))

    def close(self) -> None:
        """Delete it. Idempotent; a forked child only lets it go."""
        lock, self._lock = self._lock, None
        if lock is None:
            return
        if os.getpid() == self._pid:
            delete(self.path)
        os.close(lock)


def hold_lock(path: Path, *, is_temporary: bool = False) -> int:
    """Take the lock of a directory, put our pid into it, and return the descriptor that holds it.

    `is_temporary`: the directory may be deleted by others as soon as the lock is free.

    Raises:
        BlockingIOError: a process holds it; the argument is its pid, "unknown" if it has not written that yet.
        OSError: the directory can't be used.
    """
    descriptor = os.open(path / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        holder = next(iter(_words(descriptor)), "unknown")
        os.close(descriptor)
        raise BlockingIOError(holder) from None
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, f"{os.getpid()}{f' {_TEMPORARY}' * is_temporary}\n".encode(), 0)
    return descriptor


def _words(lock: int) -> list[str]:
    return os.pread(lock, 32, 0).decode("ascii", "replace").split()


def remove_abandoned(prefix: str) -> None:
    """Delete the temporary directories with that prefix that processes of this user have left behind."""
    for path in sorted(Path(tempfile.gettempdir()).glob(f"{prefix}*")):
        try:
            if path.stat().st_uid != os.getuid():
                continue
            descriptor = os.open(path / LOCK, os.O_RDWR | os.O_CLOEXEC)
        except OSError:  # it is just vanishing, or is none of ours
            continue
        try:
            # Looked at first: one that says nothing yet is about to be locked by the process that has just made it.
            if _TEMPORARY in _words(descriptor):
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                _log.info("deleting %s, which a process that was killed left behind", path)
                delete(path)
        except BlockingIOError:
            continue
        finally:
            os.close(descriptor)


def delete(path: Path) -> None:
    """Delete a directory whose lock this process holds, as far as that goes.

    The lock goes last: what can't be deleted now, or is when we are killed, is found by the next one.
    """
    with contextlib.suppress(OSError):
        for entry in path.iterdir():
            if entry.is_dir() and not entry.is_symlink():
                shutil.rmtree(entry, ignore_errors=True)
            elif entry.name != LOCK:
                entry.unlink(missing_ok=True)
        if [entry.name for entry in path.iterdir()] == [LOCK]:
            shutil.rmtree(path, ignore_errors=True)
