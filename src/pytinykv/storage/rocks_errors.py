"""Translate what rocksdict raises (plain `Exception` with RocksDB's status as text) into our errors.

RocksDB's texts, as provoked by `tests/storage/test_rocks_errors.py`: a kind before the first colon ("IO error",
"Corruption", "Invalid argument", …), then details that mostly hold the file's path.
"""

from __future__ import annotations

import errno
import re
from pathlib import Path
from typing import Final

import rocksdict

from pytinykv.storage.errors import (
    CorruptionError,
    DataDirectoryError,
    DataDirectoryInUseError,
    DiskFullError,
    EngineClosedError,
    EngineError,
)
from pytinykv.storage.wal import find_damage

_FILE: Final = re.compile(r"(/[^:'\"]*/)?(\d{6,}\.(?:sst|log)|MANIFEST-\d+|CURRENT|OPTIONS-\d+)")
_DAMAGE: Final = ("Corruption", "No such file or directory")
_FULL: Final = ("No space left", "Disk quota exceeded", "NoSpace")
_IN_USE: Final = "While lock file"
_IN_USE_HERE: Final = "lock hold by current process"
_FORBIDDEN: Final = ("Permission denied", "Read-only file system", "Operation not permitted")


def translate(error: Exception, root: Path) -> EngineError:
    """Return the error of ours that says what `error` means; `root` is the directory the engine works in."""
    if isinstance(error, EngineError):
        return error
    if isinstance(error, rocksdict.DbClosedError):
        return EngineClosedError("the engine is closed")
    text = str(error)
    full_errno = isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)
    if full_errno or _mentions(text, _FULL):
        return DiskFullError(f"no space left on the device of {root}: free some, then restart ({text})")
    if _IN_USE_HERE in text:
        return DataDirectoryInUseError(
            f"{root} is in use by this process: close what it has opened there. If the directory was deleted or replaced "
            f"while it was open, it is held until the process ends: choose another path, or start the process anew ({text})"
        )
    if _IN_USE in text:
        return DataDirectoryInUseError(f"{root} is in use by another process: stop it, or choose another path ({text})")
    if _mentions(text, _FORBIDDEN):
        return DataDirectoryError(f"no permission to use {root}: check owner and mode ({text})")
    if _mentions(text, _DAMAGE):
        file = _named_file(text, root)
        return CorruptionError(f"{file or 'a file below ' + str(root)} is damaged or missing: {text}", file=file)
    return EngineError(f"engine in {root}: {text}")


def explain_failed_open(error: Exception, root: Path) -> EngineError:
    """Do the same for an error of opening, where RocksDB does not name a damaged log."""
    translated = translate(error, root)
    if not isinstance(translated, CorruptionError) or translated.file is not None:
        return translated
    damage = find_damage(root)
    if damage is None:
        return translated
    log, offset = damage
    return CorruptionError(
        f"the write-ahead log {log} is damaged at byte {offset}: restore it, or give up this copy of the data and start "
        f"with an empty directory ({error})",
        file=log,
    )


def _mentions(text: str, words: tuple[str, ...]) -> bool:
    return any(word in text for word in words)


def _named_file(text: str, root: Path) -> Path | None:
    matches = list(_FILE.finditer(text))
    if not matches:
        return None
    directory, name = next((match.groups() for match in matches if match.group(1)), matches[0].groups())
    return Path(directory) / name if directory else root / name
