"""Frames of `BatchCommands` as the end that serves them reads them: each command stays encoded until it is its turn.

    BatchCommandsRequest:  0a size { tag size { 0a size { context } … the request's other fields … } }  …  12 size ids

Reading a frame with protobuf alone makes three objects for each command, and the context of each has to be encoded again to
see that it is the same as before. `split` finds the context in the bytes of a command of the usual form: one request, whose
first field is its context. A command of any other form is read by protobuf.
"""

from __future__ import annotations

from typing import Any, Final

from google.protobuf import descriptor_pb2, descriptor_pool
from google.protobuf.message_factory import GetMessageClass

from pytinykv.wire.pb import tikvpb_pb2

_CONTINUED: Final = 0x80
"""In a varint, a byte from this on is not the last one."""
_CONTEXT: Final = 0x0A
"""The tag of the context, which is field 1 of every request."""
_KEY: Final = 0x12
"""The tag of the key of a `RawPut` or `RawDelete`."""
_VALUE: Final = 0x1A
"""The tag of a `RawPut`'s value."""


def _with_encoded_commands() -> Any:
    """Return the type that differs from `BatchCommandsRequest` in its commands only, which are bytes."""
    original = tikvpb_pb2.BatchCommandsRequest.DESCRIPTOR
    package = original.file.package
    file = descriptor_pb2.FileDescriptorProto(name="encoded_commands.proto", package=package, syntax="proto3")
    frame = file.message_type.add()
    original.CopyToProto(frame)
    del frame.nested_type[:]
    (commands,) = (field for field in frame.field if field.name == "requests")
    commands.type = commands.TYPE_BYTES
    commands.ClearField("type_name")
    pool = descriptor_pool.DescriptorPool()  # of its own, as the name is that of the original
    pool.Add(file)
    made = GetMessageClass(pool.FindMessageTypeByName(original.full_name))
    made.__module__ = __name__  # or None would stand there
    return made


EncodedCommands: Final = _with_encoded_commands()
"""`request_ids` and, as bytes, `requests`: what a client sends as a `BatchCommandsRequest`."""


def encode_commands(frame: tikvpb_pb2.BatchCommandsRequest) -> Any:
    """Return a frame as the serving end reads it, an `EncodedCommands`."""
    return EncodedCommands.FromString(frame.SerializeToString())


def split(command: bytes) -> tuple[int, bytes, int, int] | None:
    """Return the tag of a command, its context (encoded), and where its request and what follows the context begin.

    None for what has another form, is large, or is broken: protobuf has to read it.
    """
    try:
        tag, at = command[0], 1
        if tag >= _CONTINUED:
            tag, at = tag & 0x7F | command[1] << 7, 2
        size = command[at]
        at += 1
        if size >= _CONTINUED:
            if command[at] >= _CONTINUED:
                return None
            size = size & 0x7F | command[at] << 7
            at += 1
        context_size = command[at + 1]
        if at + size != len(command) or command[at] != _CONTEXT or context_size >= _CONTINUED:
            return None
    except IndexError:
        return None
    start = at + 2
    end = start + context_size
    return (tag, command[start:end], at, end) if end <= len(command) else None


def lone_key(request: bytes, at: int) -> bytes | None:
    """Return field 2 of a request that has exactly this from `at` on, as a `RawDelete` of most clients has.

    None for what has another form, is large, or is broken: protobuf has to read it.
    """
    if len(request) < at + 2 or request[at] != _KEY:
        return None
    size = request[at + 1]
    return request[at + 2 :] if size < _CONTINUED and at + 2 + size == len(request) else None


def key_and_value(request: bytes, at: int) -> tuple[bytes, bytes] | None:
    """Return the fields 2 and 3 of a request that has exactly these two from `at` on, as a `RawPut` of most clients has.

    None for what has another form, is large, or is broken: protobuf has to read it.
    """
    try:
        size = request[at + 1]
        start = at + 2
        end = start + size
        if request[at] != _KEY or size >= _CONTINUED or request[end] != _VALUE:
            return None
        size, value_start = request[end + 1], end + 2
        if size >= _CONTINUED:
            if request[value_start] >= _CONTINUED:
                return None
            size, value_start = size & 0x7F | request[value_start] << 7, value_start + 1
    except IndexError:
        return None
    if value_start + size != len(request):
        return None
    return request[start:end], request[value_start:]
