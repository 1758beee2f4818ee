"""A debug aid: what is in an engine, as lines of text."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from pytinykv.storage.engine import ColumnFamily, Reader

_TEXT_MAX: Final = 48


def describe(reader: Reader, *, pairs_max: int = 20) -> Iterator[str]:
    """Yield, for each column family, a line with its count and bytes, then its first pairs, one a line.

    Reads everything: for tests and `tinykv doctor`, not for the serving path.
    """
    for cf in ColumnFamily:
        count = key_bytes = value_bytes = 0
        lines = []
        for key, value in reader.scan(cf, b"", None):
            count += 1
            key_bytes += len(key)
            value_bytes += len(value)
            if count <= pairs_max:
                lines.append(f"  {printable(key)} = {printable(value)}")
        yield f"{cf.value}: {count} keys, {key_bytes} bytes of keys, {value_bytes} bytes of values"
        yield from lines
        if count > pairs_max:
            yield f"  … {count - pairs_max} more"


def printable(data: bytes) -> str:
    """Show bytes in one short line of ASCII: quoted text where it is text, hexadecimal where not."""
    shown = data[:_TEXT_MAX]
    text = f'"{shown.decode()}"' if shown.isascii() and shown.decode().isprintable() else f"0x{shown.hex()}"
    return text if len(data) <= _TEXT_MAX else f"{text}… ({len(data)} bytes)"
