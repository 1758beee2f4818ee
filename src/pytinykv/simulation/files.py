"""Which files of a simulated machine would survive a power cut.

Snapshots travel as real files, in a directory of the history's own. While a history runs, `os.fsync` writes down here what
was synced, instead of asking the disk; a crash then takes from the crashed host's files what was not synced:

* the tail of a file past its last sync: cut at a random place;
* an entry of a directory that was not synced since the entry was made: gone, or there, by chance.
"""

from __future__ import annotations

import os
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from random import Random


class FileSyncs:
    """What of the files below `root` is durable."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._sizes: dict[int, int] = {}
        """inode -> bytes at its last sync. By inode, since files are renamed; one that is used again counts as synced."""
        self._entries: dict[int, dict[str, int]] = {}
        """inode of a directory -> inodes of its entries by name, at its last sync."""
        self.torn = 0
        """How many files and entries crashes have taken."""

    @contextmanager
    def recording(self) -> Iterator[None]:
        """Take note of every `os.fsync` below the root; others go to the disk as ever."""
        real = os.fsync

        def fsync(file: int) -> None:
            if not self._note(file):
                real(file)

        os.fsync = fsync  # type: ignore[assignment] # restored below; one history at a time
        try:
            yield
        finally:
            os.fsync = real

    def _note(self, file: int) -> bool:
        place = Path(f"/proc/self/fd/{file}").readlink()
        if not place.is_relative_to(self._root):
            return False
        status = os.fstat(file)
        if stat.S_ISDIR(status.st_mode):
            with os.scandir(place) as entries:
                self._entries[status.st_ino] = {entry.name: entry.inode() for entry in entries}
        else:
            self._sizes[status.st_ino] = status.st_size
        return True

    def open_files(self) -> list[str]:
        """Return what this process has open below the root, by the name inside of it."""
        found = []
        for handle in Path("/proc/self/fd").iterdir():
            with suppress(FileNotFoundError):  # the listing's own
                place = handle.readlink()
                if place.is_relative_to(self._root):
                    found.append(str(place.relative_to(self._root)))
        return sorted(found)

    def tear(self, directory: Path, rng: Random) -> None:
        """Cut the power of the machine whose files are in `directory`."""
        if not directory.exists():
            return
        durable = self._entries.get(directory.stat().st_ino, {})
        for path in sorted(directory.iterdir()):
            status = path.lstat()
            if durable.get(path.name) != status.st_ino and rng.random() < 0.5:
                self.torn += 1
                shutil.rmtree(path) if path.is_dir() else path.unlink()
            elif path.is_dir():
                self.tear(path, rng)
            else:
                self._cut(path, status, rng)

    def _cut(self, path: Path, status: os.stat_result, rng: Random) -> None:
        kept = min(self._sizes.get(status.st_ino, 0), status.st_size)
        if kept < status.st_size:
            self.torn += 1
            os.truncate(path, rng.randint(kept, status.st_size))
