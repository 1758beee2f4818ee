r"""Keys and values, which are bytes, as people write and read them.

```
given     UTF-8 text; a byte that is none (the shell may pass any) is taken as it is      with --hex: 6b 65 79
shown     UTF-8 text; where lines and columns have a meaning (scan), escaped:
          tab, line end, backslash as \t \n \r \\, other control characters and bytes that are no text as \x1b
```
"""

from __future__ import annotations

import sys
from typing import Final

import click

_ESCAPES: Final = {
    code: "".join(f"\\x{byte:02x}" for byte in chr(code).encode("utf-8", "surrogateescape"))
    for code in (*range(0x20), *range(0x7F, 0xA0), *range(0xDC80, 0xDD00), 0x2028, 0x2029)
} | {ord("\t"): "\\t", ord("\n"): "\\n", ord("\r"): "\\r", ord("\\"): "\\\\"}


def from_text(text: str, name: str, *, is_hex: bool) -> bytes:
    """Return the bytes that `text` means. Raises UsageError, naming the argument."""
    if not is_hex:
        try:
            return text.encode("utf-8", "surrogateescape")
        except UnicodeEncodeError as error:
            raise click.UsageError(f"{name} can't be encoded as UTF-8: {error}") from error
    try:
        return bytes.fromhex(text)
    except ValueError:
        raise click.UsageError(
            f"{name}: {shorten(text)!r} is not hexadecimal; write two digits a byte, as in 6b6579"
        ) from None


def value_from(text: str, name: str, *, is_hex: bool) -> bytes:
    """As `from_text`; `-` stands for what standard input holds, byte for byte (as text with `is_hex`)."""
    if text != "-":
        return from_text(text, name, is_hex=is_hex)
    try:
        data = sys.stdin.buffer.read()
    except OSError as error:
        raise click.UsageError(f"{name} is -, and standard input can't be read: {error.strerror or error}") from error
    return from_text(data.decode("ascii", "replace").strip(), name, is_hex=True) if is_hex else data


def escaped(data: bytes) -> str:
    """Return `data` as text on one line, unambiguous, and harmless to a terminal."""
    return data.decode("utf-8", "surrogateescape").translate(_ESCAPES)


def shown(data: bytes, *, is_hex: bool) -> str:
    """Return `data` as it stands in a line of output."""
    return data.hex() if is_hex else escaped(data)


def shorten(text: str, length: int = 60) -> str:
    """Return `text`, or its beginning with an ellipsis."""
    return text if len(text) <= length else f"{text[: length - 1]}…"
