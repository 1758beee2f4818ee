"""Answers as bytes: what protobuf would make of them, put together without its objects.

A response is encoded where it is made, and what is written later is wrapped around it, never a copy of it:

    BatchCommandsResponse:  0a size { tag size { the command's response } }  0a size { … }  12 size request ids

Fields of a message may come in any order and a length may take more bytes than it needs, so the sizes before a response
whose length is not known yet are left open (`open_answer`) and filled in afterwards. An answer that may become a frame of
its own begins with its request id: anything written behind a large value would move that to a larger place.
`tests/server/kv/test_encoding.py` reads all of it back with protobuf.
"""

from __future__ import annotations

from io import BytesIO
from typing import Final

from pytinykv.wire.encoding import varint
from pytinykv.wire.pb import tikvpb_pb2

_PADDED_BYTES: Final = 5
"""Length of a varint that is filled in later: enough for 32 GiB."""
COPIED_BYTES_MAX: Final = 4096
"""Up to this size it is cheaper to copy a value once more than to write it by itself."""
_RESPONSES: Final = b"\x0a"
"""The tag of `BatchCommandsResponse.responses`."""


def _padded_varint(number: int) -> bytes:
    return bytes((0x80 | number >> shift & 0x7F) for shift in (0, 7, 14, 21)) + bytes((number >> 28,))


def open_answer(tag: bytes, request_id: int) -> BytesIO:
    """Begin an answer of a frame whose response is written bit by bit; `close_answer` or `close_frame` ends it."""
    out = BytesIO()
    out.write(request_ids([request_id]) + _RESPONSES + bytes(_PADDED_BYTES) + tag + bytes(_PADDED_BYTES))
    return out


def close_answer(out: BytesIO, tag: bytes, request_id: int) -> bytes:
    """Return the answer, to be joined with others of its frame. `out` is not to be used afterwards."""
    at = _fill_in_sizes(out, tag, request_id)
    return bytes(out.getbuffer()[at:])


def close_frame(out: BytesIO, tag: bytes, request_id: int) -> bytes:
    """Return a frame with nothing but the answer. Copies nothing: `out` is not to be written to afterwards."""
    _fill_in_sizes(out, tag, request_id)
    return out.getvalue()


def _fill_in_sizes(out: BytesIO, tag: bytes, request_id: int) -> int:
    """Return where the answer begins, behind its request id."""
    at = len(request_ids([request_id]))
    size = out.tell() - at - len(_RESPONSES) - len(tag) - 2 * _PADDED_BYTES
    out.seek(at + len(_RESPONSES))
    out.write(_padded_varint(len(tag) + _PADDED_BYTES + size))
    out.seek(len(tag), 1)
    out.write(_padded_varint(size))
    return at


def request_ids(ids: list[int]) -> bytes:
    """Return the part of an answer frame that says which commands its answers are for."""
    return tikvpb_pb2.BatchCommandsResponse(request_ids=ids).SerializeToString()


class PairWriter:
    """Adds `KvPair`s to the repeated field `tag` of an answer.

    Pairs of an answer have mostly keys of one length and values of one length, and so the same bytes before them.
    """

    __slots__ = ("_head", "_key_bytes", "_middle", "_tag", "_value_bytes", "_write")

    def __init__(self, out: BytesIO, tag: bytes) -> None:
        self._write = out.write
        self._tag = tag
        self._key_bytes = self._value_bytes = -1
        """The lengths for which the two below hold."""
        self._head = self._middle = b""
        """What comes before the key, and before the value."""

    def add(self, key: bytes, value: bytes | memoryview) -> None:
        """Add a pair."""
        key_bytes, value_bytes = len(key), len(value)
        if key_bytes != self._key_bytes or value_bytes != self._value_bytes:
            self._measure(key_bytes, value_bytes)
        if value_bytes < COPIED_BYTES_MAX:
            self._write(b"".join((self._head, key, self._middle, value)))
        else:
            self._write(self._head + key + self._middle)
            self._write(value)

    def _measure(self, key_bytes: int, value_bytes: int) -> None:
        self._key_bytes, self._value_bytes = key_bytes, value_bytes
        key_length = varint(key_bytes)
        self._middle = b"\x1a" + varint(value_bytes)
        size = 1 + len(key_length) + key_bytes + len(self._middle) + value_bytes
        self._head = b"%b%b\x12%b" % (self._tag, varint(size), key_length)
