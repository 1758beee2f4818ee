"""A file of sorted key-value pairs: what SST files are to RocksDB, for the in-memory engine.

Format, all integers little-endian::

    magic    5 bytes   b"TKVP" and the format version, 1
    records            for each pair: key length u32, value length u32, key, value
    end      4 bytes   0xFFFFFFFF in place of a key length
    count    8 bytes   number of pairs, u64
    crc      4 bytes   crc32c (Castagnoli) of everything before it

Example, the single pair b"k" → b"vv"::

    54 4b 56 50 01 | 01 00 00 00 02 00 00 00 6b 76 76 | ff ff ff ff | 01 00 00 00 00 00 00 00 | crc
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from fastcrc import crc32

from pytinykv.storage.errors import CorruptionError

MAGIC: Final = b"TKVP\x01"
_LENGTHS: Final = struct.Struct("<II")
_TAIL: Final = struct.Struct("<IQI")
_END: Final = 0xFFFF_FFFF


def write(path: Path, pairs: Iterable[tuple[bytes, bytes]]) -> int:
    """Write a new file and return how many pairs it holds. No pairs, no file; synced on return, absent after an error."""
    body = bytearray(MAGIC)
    count = 0
    for key, value in pairs:
        body += _LENGTHS.pack(len(key), len(value)) + key + value
        count += 1
    if count:
        body += _TAIL.pack(_END, count, 0)[:-4]
        body += struct.pack("<I", crc32.iscsi(bytes(body)))
        _write_synced(path, bytes(body))
    return count


def _write_synced(path: Path, content: bytes) -> None:
    try:
        with path.open("xb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
    except OSError:
        path.unlink(missing_ok=True)
        raise


def read(path: Path) -> list[tuple[bytes, bytes]]:
    """Return the pairs of a file.

    Raises:
        CorruptionError: the file is not whole.
    """
    content = path.read_bytes()
    body_end = len(content) - _TAIL.size
    if body_end < len(MAGIC) or content[: len(MAGIC)] != MAGIC:
        raise CorruptionError(f"{path} is no pair file of version 1, or its end is missing", file=path)
    end, count, crc = _TAIL.unpack_from(content, body_end)
    if end != _END or crc32.iscsi(content[:-4]) != crc:
        raise CorruptionError(f"the checksum of {path} does not match its content", file=path)
    pairs = []
    offset = len(MAGIC)
    while offset < body_end:
        key_length, value_length = _LENGTHS.unpack_from(content, offset)
        key_end = offset + _LENGTHS.size + key_length
        pairs.append((content[offset + _LENGTHS.size : key_end], content[key_end : key_end + value_length]))
        offset = key_end + value_length
    if len(pairs) != count:
        raise CorruptionError(f"{path} holds {len(pairs)} pairs where its end says {count}", file=path)
    return pairs
