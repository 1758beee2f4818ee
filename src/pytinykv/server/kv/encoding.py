"""Answers as bytes: what protobuf would make of them, put together without its objects.

A response is encoded where it is made, and what is written later is wrapped around it, never a copy of it:

    BatchCommandsResponse:  0a size { tag size { the command's response } }  0a size { … }  12 size request ids

Fields of a message may come in any order and a length may take more bytes than it needs, so the sizes before a response
whose length is not known yet are left open (`open_answer`) and filled in afterwards. `tests/server/kv/test_encoding.py`
reads all of it back with protobuf.
"""

from __future__ import annotations

from io import BytesIO
from typing import Final

from pytinykv.wire.encoding import varint
from pytinykv.wire.pb import tikvpb_pb2

_PADDED_BYTES: Final = 5
"""Length of a varint that is filled in later: enough for 32 GiB."""
_RESPONSES: Final = b"\x0a"
"""The tag of `BatchCommandsResponse.responses`."""


def _padded_varint(number: int) -> bytes:
    return bytes((0x80 | number >> shift & 0x7F) for shift in (0, 7, 14, 21)) + bytes((number >> 28,))


def open_answer(tag: bytes) -> BytesIO:
    """Begin an answer of a frame whose response is written bit by bit; `close_answer` ends it."""
    out = BytesIO()
    out.write(_RESPONSES + bytes(_PADDED_BYTES) + tag + bytes(_PADDED_BYTES))
    return out


def open_size(tag: bytes) -> int:
    """Return the size of what `open_answer` begins with."""
    return len(_RESPONSES) + len(tag) + 2 * _PADDED_BYTES


def close_answer(out: BytesIO, tag: bytes, *, request_id: int | None = None) -> bytes:
    """Fill in the sizes, and return the answer; with a request id, a whole frame of this answer.

    Copies nothing: `out` is not to be written to afterwards.
    """
    size = out.tell() - open_size(tag)
    out.seek(len(_RESPONSES))
    out.write(_padded_varint(len(tag) + _PADDED_BYTES + size))
    out.seek(len(tag), 1)
    out.write(_padded_varint(size))
    out.seek(0, 2)
    if request_id is not None:
        out.write(request_ids([request_id]))
    return out.getvalue()


def request_ids(ids: list[int]) -> bytes:
    """Return the part of an answer frame that says which commands its answers are for."""
    return tikvpb_pb2.BatchCommandsResponse(request_ids=ids).SerializeToString()


def write_pair(out: BytesIO, tag: bytes, key: bytes, value: bytes | memoryview) -> None:
    """Add a `KvPair` to the repeated field with this tag."""
    key_length, value_length = varint(len(key)), varint(len(value))
    size = 2 + len(key_length) + len(key) + len(value_length) + len(value)
    out.write(b"%b%b\x12%b%b\x1a%b" % (tag, varint(size), key_length, key, value_length))
    out.write(value)
