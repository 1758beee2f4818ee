"""Column families as raw requests name them.

They are name spaces of raw data, three of them for compatibility: TinyKV's raw calls and TiKV's share the names of the
column families that transactions use. What a store keeps under them is its own affair.
"""

from __future__ import annotations

from typing import Final

DEFAULT: Final = "default"
LOCK: Final = "lock"
WRITE: Final = "write"

RAW_COLUMN_FAMILIES: Final = (DEFAULT, LOCK, WRITE)
_BY_NAME: Final = {"": DEFAULT, **{name: name for name in RAW_COLUMN_FAMILIES}}


class UnknownColumnFamilyError(ValueError):
    """A request names a column family that does not exist."""


def raw_column_family(name: str) -> str:
    """Return the column family a raw request means by `name`; empty is the default one.

    Raises `UnknownColumnFamilyError`, whose text is fit for the response's `error`.
    """
    try:
        return _BY_NAME[name]
    except KeyError:
        raise UnknownColumnFamilyError(
            f"unknown column family {name!r}: use {DEFAULT}, {LOCK} or {WRITE} (empty means {DEFAULT})"
        ) from None
