"""Translate what rocksdict raises (plain `Exception` with RocksDB's status as text) into our errors.

RocksDB's texts, as provoked by `tests/storage/test_rocks_errors.py`: a kind before the first colon ("IO error",
"Corruption", "Invalid argument", …), then details that mostly hold the file's path.
"""

from __future__ import annotations

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

_FILE: Final = re.compile(r"(/?[^\s:'\"]*(?:\d{6}\.(?:sst|log|ldb)|MANIFEST-\d+|CURRENT|OPTIONS-\d+))")


def translate(error: Exception, root: Path) -> EngineError:
    """Return the error of ours that says what `error` means; `root` is the directory the engine works in."""
    if isinstance(error, EngineError):
        return error
    text = str(error)
    if isinstance(error, rocksdict.DbClosedError):
        return EngineClosedError("the engine is closed")
    if "No space left" in text or "NoSpace" in text:
        return DiskFullError(f"no space left on the device of {root}: free some, then restart ({text})")
    if "lock file" in text.lower() or "lock hold by current process" in text:
        return DataDirectoryInUseError(f"{root} is open in another process ({text})")
    if "Permission denied" in text:
        return DataDirectoryError(f"no permission to use {root}: check owner and mode ({text})")
    if text.startswith("Corruption") or "Corruption:" in text or "does not exist" in text:
        file = _named_file(text, root)
        return CorruptionError(f"damaged or missing file {file or 'below ' + str(root)}: {text}", file=file)
    return EngineError(f"engine in {root}: {text}")


def _named_file(text: str, root: Path) -> Path | None:
    match = _FILE.search(text)
    if match is None:
        return None
    found = Path(match.group(1))
    return found if found.is_absolute() and found.is_relative_to(root) else root / found.name
