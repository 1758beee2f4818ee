"""Keys of the engine's column families `default`, `lock` and `write`, for loops that make and read many.

    encoded     `encode_bytes(user key)`: the key in `lock`, and what all versions of a key begin with
    stored      encoded + inverted timestamp: a key in `default` and `write`

    newest first:  …encoded(k) FF…FF-ts(30)   …encoded(k) FF…FF-ts(20)   …encoded(k+1) …

So "at or below version v" is "at or behind the stored key of v", byte for byte.
"""

from __future__ import annotations

import struct
from typing import Final

from pytinykv.wire.keys import decode_bytes, encode_bytes
from pytinykv.wire.timestamp import MAX_TIMESTAMP, Timestamp

TS_BYTES: Final = 8
GROUP_BYTES: Final = 8
"""An encoded key has so many bytes of the user's, and then a marker, again and again."""
_pack = struct.Struct(">Q").pack
_unpack_from = struct.Struct(">Q").unpack_from

ABOVE_VERSIONS: Final = b"\xff" * (TS_BYTES + 1)
"""Behind the encoded form of a key: above all its versions, below the next key's."""


def inverted(timestamp: Timestamp) -> bytes:
    """Return what stands behind a key for a timestamp: the newer, the less."""
    return _pack(MAX_TIMESTAMP - timestamp)


def stored_key(encoded: bytes, timestamp: Timestamp) -> bytes:
    """Return the key of a version."""
    return encoded + _pack(MAX_TIMESTAMP - timestamp)


def timestamp_of(stored: bytes) -> Timestamp:
    """Return the timestamp of a version."""
    return Timestamp(MAX_TIMESTAMP - _unpack_from(stored, len(stored) - TS_BYTES)[0])


def user_key(encoded: bytes) -> bytes:
    """Return the user's key of an encoded one that was found in the engine, without checking its padding again."""
    key = bytearray(encoded)
    padding = 0xFF - key[-1]
    del key[8::9]
    if padding:
        del key[-padding:]
    return bytes(key)


def user_groups(encoded: bytes) -> bytes:
    """Return what the user's key begins with, of the groups before the last one."""
    key = bytearray(encoded)
    del key[GROUP_BYTES :: GROUP_BYTES + 1]
    return bytes(key)


def encoded_range(start: bytes, end: bytes) -> tuple[bytes, bytes | None]:
    """Return the bounds in the engine of the users' keys with start <= key < end; an empty end is none."""
    return encode_bytes(start) if start else b"", encode_bytes(end) if end else None


__all__ = [
    "ABOVE_VERSIONS",
    "GROUP_BYTES",
    "TS_BYTES",
    "decode_bytes",
    "encode_bytes",
    "encoded_range",
    "inverted",
    "stored_key",
    "timestamp_of",
    "user_groups",
    "user_key",
]
