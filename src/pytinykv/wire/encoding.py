"""Protobuf by hand, for what is encoded per command: bytes put together in the form protobuf would give them.

    frames of BatchCommands, both ways:  0a size { tag size { the command's request or response } }  …  12 size ids

Making a protobuf object per command, and copying the region's context into it, takes three times as long.
"""

from __future__ import annotations

import functools
import struct
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from google.protobuf.message import Message

LENGTH_DELIMITED: Final = 2
"""Protobuf's wire type of strings, bytes and messages."""


def _encode_varint(number: int) -> bytes:
    encoded = bytearray()
    while number > 0x7F:
        encoded.append(0x80 | number & 0x7F)
        number >>= 7
    encoded.append(number)
    return bytes(encoded)


_VARINTS: Final = tuple(_encode_varint(number) for number in range(1 << 14))


_U64: Final = struct.Struct("<Q")
_pack_u64: Final = _U64.pack
_unpack_u64: Final = _U64.unpack_from
_HIGH_BITS: Final = 0x8080808080808080
"""Those of eight bytes."""


def varint(number: int) -> bytes:
    """Return protobuf's encoding of a number that is not negative."""
    if number < 1 << 14:
        return _VARINTS[number]
    high = number >> 56
    if not 0 < high < 0x80:
        return _encode_varint(number)
    # Nine bytes, as all timestamps have from 1978 to 3084: the lower 56 bits are spread over eight bytes at once.
    low = (number & 0x0FFFFFFF) | (number & 0xFFFFFFF0000000) << 4
    low = (low & 0x00003FFF00003FFF) | (low & 0x0FFFC0000FFFC000) << 2
    low = (low & 0x007F007F007F007F) | (low & 0x3F803F803F803F80) << 1
    return _pack_u64(low | _HIGH_BITS) + _VARINTS[high]


def varint_at(data: bytes, at: int) -> tuple[int, int]:
    """Return the number that begins at `at`, and where it ends; (-1, at) if there is none of at most 64 bits."""
    left = len(data) - at
    if left > 0 and data[at] < 0x80:
        return data[at], at + 1
    if left > 8 and data[at + 8] < 0x80:
        (low,) = _unpack_u64(data, at)
        if low & _HIGH_BITS == _HIGH_BITS:
            low = (low & 0x007F007F007F007F) | (low & 0x7F007F007F007F00) >> 1
            low = (low & 0x00003FFF00003FFF) | (low & 0x3FFF00003FFF0000) >> 2
            low = (low & 0x0FFFFFFF) | (low & 0x0FFFFFFF00000000) >> 4
            return low | data[at + 8] << 56, at + 9
    number = shift = 0
    for end in range(at, min(at + 10, len(data))):
        byte = data[end]
        number |= (byte & 0x7F) << shift
        if byte < 0x80:
            return (number, end + 1) if number >> 64 == 0 else (-1, at)
        shift += 7
    return -1, at


def field_tag(message_type: type[Message], field: str) -> bytes:
    """Return the tag of a field of bytes or of messages, which its length follows."""
    return varint(message_type.DESCRIPTOR.fields_by_name[field].number << 3 | LENGTH_DELIMITED)


@functools.lru_cache(maxsize=4096)
def member_head(tag: bytes, size: int) -> bytes:
    """Return what comes in a frame before a request or response of `size` bytes; `tag` is that of the command."""
    length = varint(size)
    return b"\x0a%b%b%b" % (varint(len(tag) + len(length) + size), tag, length)
