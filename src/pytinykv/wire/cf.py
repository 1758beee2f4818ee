"""Column families as raw requests name them.

They are three name spaces of raw data, with the names of the column families that transactions use, as in TinyKV's and TiKV's
raw calls. In a store all three are in one column family of the engine (`raftstore.keys`).
"""

from __future__ import annotations

from typing import Final

DEFAULT: Final = "default"
LOCK: Final = "lock"
WRITE: Final = "write"

RAW_COLUMN_FAMILIES: Final = (DEFAULT, LOCK, WRITE)
_BY_NAME: Final = {"": DEFAULT, **{name: name for name in RAW_COLUMN_FAMILIES}}


class InvalidRawFamilyError(ValueError):
    """A raw request names a column family that does not exist."""


def raw_column_family(name: str) -> str:
    """Return the column family a raw request means by `name`; empty is the default one.

    Raises `InvalidRawFamilyError`, whose text can be the response's `error`.
    """
    try:
        return _BY_NAME[name]
    except KeyError:
        raise InvalidRawFamilyError(
            f"unknown column family {name!r}: use {DEFAULT}, {LOCK} or {WRITE} (empty means {DEFAULT})"
        ) from None
