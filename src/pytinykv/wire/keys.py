r"""Keys whose bytes sort like what they stand for.

A transactional key is stored once per version, as the user's key followed by a timestamp. Plain concatenation would mix
the versions of `b"a"` with the key `b"a\x00..."`, so the user's key is first made *memcomparable*, in TiKV's format:
cut into groups of eight bytes, the last one filled up with zeros, each followed by a marker byte `0xFF - number of
filled bytes`:

    ""          00 00 00 00 00 00 00 00 F7
    "a"         61 00 00 00 00 00 00 00 F8
    "12345678"  31 32 33 34 35 36 37 38 FF  00 00 00 00 00 00 00 00 F7

A timestamp follows inverted and big-endian, so the newest version of a key comes first:

    encode_key_with_ts(key, ts) = encode_bytes(key) + (2^64 - 1 - ts)

1. `encode_bytes` keeps the order of keys, and no encoded key is a prefix of another.
2. Every key has exactly one encoding: decoders refuse other spellings, truncation and trailing bytes.

Region boundaries of transactional data are exactly `encode_bytes(user_key)`, never with a timestamp: clients decode
them and fail on anything else.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from typing import Final

from pytinykv.wire.timestamp import MAX_TIMESTAMP, Timestamp

_GROUP: Final = 8
_FULL: Final = 0xFF
_ZEROS: Final = bytes(_GROUP)
_TS: Final = struct.Struct(">Q")
# The last group's marker byte, by the number of key bytes in that group.
_LAST_MARKERS: Final = tuple(bytes([_FULL - (_GROUP - used)]) for used in range(_GROUP))
_CUTS: Final = tuple(struct.Struct(f"{_GROUP}s" * count).unpack for count in range(17))
"""By the number of groups, what cuts a key into them; for keys of usual length it takes half as long as slicing."""
_SHOWN_MAX: Final = 64


class KeyCodecError(ValueError):
    """Bytes that are not an encoded key: cut short, padded wrongly, or followed by something."""


def encode_bytes(key: bytes) -> bytes:
    """Return the memcomparable form of `key`: groups of 9 bytes for 8, the last one never full."""
    if len(key) < _GROUP:
        return key.ljust(_GROUP, b"\0") + _LAST_MARKERS[len(key)]
    tail = len(key) % _GROUP
    count = len(key) // _GROUP + 1
    padded = key.ljust(count * _GROUP, b"\0")
    if count < len(_CUTS):
        groups: Iterable[bytes] = _CUTS[count](padded)
    else:
        groups = [padded[start : start + _GROUP] for start in range(0, len(padded), _GROUP)]
    return b"\xff".join(groups) + _LAST_MARKERS[tail]


def decode_bytes(encoded: bytes) -> bytes:
    """Return the key whose `encode_bytes` is `encoded`. Raises `KeyCodecError` for everything else."""
    key, rest = decode_bytes_prefix(encoded)
    if rest:
        raise KeyCodecError(f"{len(rest)} bytes follow the encoded key {describe_key(encoded)}")
    return key


def decode_bytes_prefix(encoded: bytes) -> tuple[bytes, bytes]:
    """Decode the key at the front of `encoded`; return it and the bytes behind it. Raises `KeyCodecError`."""
    groups = []
    start = 0
    while True:
        marker_at = start + _GROUP
        if marker_at >= len(encoded):
            raise KeyCodecError(f"encoded key ends within a group: {describe_key(encoded)}")
        marker = encoded[marker_at]
        if marker != _FULL:
            break
        groups.append(encoded[start:marker_at])
        start = marker_at + 1
    padding = _FULL - marker
    if padding > _GROUP:
        raise KeyCodecError(f"marker byte 0x{marker:02x} ends no group: {describe_key(encoded)}")
    padding_at = marker_at - padding
    if encoded[padding_at:marker_at] != _ZEROS[:padding]:
        raise KeyCodecError(f"padding is not zero: {describe_key(encoded)}")
    groups.append(encoded[start:padding_at])
    return b"".join(groups), encoded[marker_at + 1 :]


def encode_key_with_ts(key: bytes, timestamp: Timestamp) -> bytes:
    """Return the stored form of version `timestamp` of the user's key `key`."""
    return encode_bytes(key) + _TS.pack(MAX_TIMESTAMP - timestamp)


def decode_key_with_ts(encoded: bytes) -> tuple[bytes, Timestamp]:
    """Take `encode_key_with_ts` apart. Raises `KeyCodecError`."""
    key, rest = decode_bytes_prefix(encoded)
    if len(rest) != _TS.size:
        raise KeyCodecError(f"{len(rest)} bytes where an 8-byte timestamp belongs: {describe_key(encoded)}")
    (inverted,) = _TS.unpack(rest)
    return key, Timestamp(MAX_TIMESTAMP - inverted)


def strip_ts(encoded: bytes) -> bytes:
    """Cut the timestamp off a stored version: what remains may be a region boundary. Raises `KeyCodecError`."""
    _, rest = decode_bytes_prefix(encoded)
    if len(rest) != _TS.size:
        raise KeyCodecError(f"{len(rest)} bytes where an 8-byte timestamp belongs: {describe_key(encoded)}")
    return encoded[: -_TS.size]


def is_plain(bound: bytes) -> bool:
    """Return whether a region's bound is no memcomparable key, so that transactional clients can't read it."""
    if not bound:
        return False
    try:
        decode_bytes(bound)
    except KeyCodecError:
        return True
    return False


def next_key(key: bytes) -> bytes:
    """Return the smallest key greater than `key`."""
    return key + b"\0"


def prefix_successor(prefix: bytes) -> bytes:
    """Return the smallest key greater than every key that starts with `prefix`; empty (no bound) if there is none."""
    kept = prefix.rstrip(b"\xff")
    return kept[:-1] + bytes([kept[-1] + 1]) if kept else b""


def describe_key(key: bytes) -> str:
    r"""Return `key` for a message to humans: `b'user\x00'`, cut after 64 bytes with the full length behind it."""
    if len(key) <= _SHOWN_MAX:
        return repr(key)
    return f"{key[:_SHOWN_MAX]!r}… ({len(key)} bytes)"
