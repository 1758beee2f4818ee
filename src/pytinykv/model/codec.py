"""The form in which records are stored and sent between stores: one version byte, then MessagePack.

    01  9n ...      FORMAT_VERSION, then an array with the record's fields by position

Fields are only ever added at the end, with a default, and enums are never renumbered (docs/formats.md), so the version
stays the same unless a record changes in a way that these two rules don't allow.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias, TypeVar

import msgspec

FORMAT_VERSION = 1
_PREFIX = bytes([FORMAT_VERSION])
_encoder = msgspec.msgpack.Encoder()

T = TypeVar("T")
RecordDecoder: TypeAlias = Callable[[bytes], T]


class FormatError(Exception):
    """Bytes that are not the record they should be. The message names the record."""


def encode(record: object) -> bytes:
    """Return the stored or sent form of a record: a struct, or a list or tuple of what MessagePack knows."""
    return _PREFIX + _encoder.encode(record)


def record_decoder(record_type: type[T], name: str) -> RecordDecoder[T]:
    """Return a function that reads one kind of record; it raises FormatError for anything that is not one."""
    # A closure: calling it takes 0.1 us less than an object with `__call__`, for each message and entry.
    decode = msgspec.msgpack.Decoder(record_type).decode

    def decode_record(data: bytes) -> T:
        if data[:1] != _PREFIX:
            raise FormatError(
                f"{name}: format version {data[0] if data else 'missing'} is not {FORMAT_VERSION}; "
                "written by another version of pytinykv"
            )
        try:
            return decode(memoryview(data)[1:])
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise FormatError(f"{name}: damaged record ({error})") from error

    return decode_record
