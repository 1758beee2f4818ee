"""The playground's data directory.

```
DIR/lock                held by the playground that runs here; contains its pid
DIR/scheduler/          the scheduler's data directory
DIR/store-1/, …         the stores'
DIR/logs/NAME.log       what each process wrote to standard error, of all runs
```

A temporary one is deleted at the end. If the playground was killed it could not do that, so the next one does: one whose
lock is free, and says that it is temporary, is left over.
"""

from __future__ import annotations

import os
import re
import tempfile
from pathlib import Path
from typing import Final

from pytinykv.lifecycle import temporary
from pytinykv.lifecycle.temporary import LOCK, hold_lock

_PREFIX: Final = "tinykv-playground-"
_STORE: Final = re.compile(r"store-([1-9][0-9]*)")


class PlaygroundError(Exception):
    """The playground can't start, or can't go on; the message says why and what to do."""


class Home:
    """A data directory that this process holds until `close`."""

    def __init__(self, path: Path, lock: int, *, is_temporary: bool) -> None:
        self.path: Final = path
        self.is_temporary: Final = is_temporary
        self._lock: int | None = lock
        """The descriptor that holds the directory; None once closed."""

    @classmethod
    def open(cls, path: Path | None) -> Home:
        """Take `path`, made if missing, or a new temporary directory. Raises PlaygroundError."""
        if path is None:
            remove_abandoned()
            path = Path(tempfile.mkdtemp(prefix=_PREFIX))
            is_temporary = True
        else:
            path = path.absolute()
            is_temporary = False
        try:
            path.mkdir(parents=True, exist_ok=True)
            _refuse_other_files(path)
            lock = _hold(path, is_temporary=is_temporary)
            (path / "logs").mkdir(exist_ok=True)
        except OSError as error:
            raise PlaygroundError(f"can't use {path} as data directory: {error.strerror or error}") from error
        return cls(path, lock, is_temporary=is_temporary)

    @property
    def stores(self) -> int:
        """How many stores have data here: the number of the highest."""
        numbers = [int(match[1]) for entry in self.path.iterdir() if (match := _STORE.fullmatch(entry.name))]
        return max(numbers, default=0)

    def log_of(self, name: str) -> Path:
        """Return the log file of a process."""
        return self.path / "logs" / f"{name}.log"

    def close(self) -> None:
        """Let it go, and delete it if it is temporary. Idempotent."""
        lock, self._lock = self._lock, None
        if lock is None:
            return
        if self.is_temporary:
            temporary.delete(self.path)
        os.close(lock)

    @property
    def is_gone(self) -> bool:
        """Whether nothing is left of a temporary directory; True for one that is to stay."""
        return not (self.is_temporary and self.path.exists())


def _refuse_other_files(path: Path) -> None:
    """Leave a directory alone in which there is something, but nothing of a playground."""
    names = {entry.name for entry in path.iterdir()}
    if names and not names & {LOCK, "scheduler", "logs"}:
        others = ", ".join(sorted(names)[:3])
        raise PlaygroundError(f"{path} has other files in it ({others}); choose an empty or a new directory")


def _hold(path: Path, *, is_temporary: bool) -> int:
    try:
        return hold_lock(path, is_temporary=is_temporary)
    except BlockingIOError as error:
        raise PlaygroundError(
            f"{path} is in use by another playground (pid {error}): stop it, or choose another --data-dir"
        ) from None


def remove_abandoned() -> None:
    """Delete the temporary directories of playgrounds of this user that were killed."""
    temporary.remove_abandoned(_PREFIX)
