"""The commands of a store: one entry for each, unary or in frames.

An entry says under which names the command comes, of which kind it is (see `kinds`), and what evaluates it. The dispatcher
knows nothing else of a command.
"""

from __future__ import annotations

from typing import Any, Final

from pytinykv.server.kv import raw_reads, raw_writes, splitting
from pytinykv.server.kv.kinds import (
    SERVICE,
    BatchWrite,
    CommandKind,
    InvalidRequestError,
    LocalCommand,
    PointRead,
    PointWrite,
    RangeRead,
    RegionCommand,
    WriteCommand,
)
from pytinykv.server.kv.txn_commands import TXN_COMMANDS
from pytinykv.wire.encoding import LENGTH_DELIMITED
from pytinykv.wire.pb import tikvpb_pb2


def _echo(request: tikvpb_pb2.BatchCommandsEmptyRequest) -> bytes:
    return tikvpb_pb2.BatchCommandsEmptyResponse(test_id=request.test_id).SerializeToString()


COMMANDS: Final[tuple[CommandKind, ...]] = (
    LocalCommand(method=None, member="Empty", answer=_echo),
    PointRead(method="RawGet", member="RawGet", look=raw_reads.get),
    PointRead(method="RawGetKeyTTL", member=None, look=raw_reads.get_ttl),
    RangeRead(method="RawBatchGet", member="RawBatchGet", steps=raw_reads.batch_get),
    RangeRead(method="RawScan", member="RawScan", steps=raw_reads.scan, may_ignore_region_errors=True),
    RangeRead(method="RawBatchScan", member="RawBatchScan", steps=raw_reads.batch_scan),
    RangeRead(method="RawChecksum", member=None, steps=raw_reads.checksum),
    PointWrite(method="RawPut", member="RawPut", operation=raw_writes.put, read=raw_writes.read_put),
    BatchWrite(
        method="RawBatchPut",
        member="RawBatchPut",
        count=lambda request: len(request.pairs),
        prepare_part=raw_writes.batch_put,
    ),
    PointWrite(method="RawDelete", member="RawDelete", operation=raw_writes.delete, read=raw_writes.read_delete),
    BatchWrite(
        method="RawBatchDelete",
        member="RawBatchDelete",
        count=lambda request: len(request.keys),
        prepare_part=raw_writes.batch_delete,
    ),
    WriteCommand(method="RawDeleteRange", member="RawDeleteRange", prepare=raw_writes.delete_range),
    WriteCommand(method="RawCompareAndSwap", member=None, prepare=raw_writes.compare_and_swap),
    *TXN_COMMANDS,
    RegionCommand(method="SplitRegion", start=splitting.split_region),
)

UNARY: Final[dict[str, CommandKind]] = {
    f"/{SERVICE}/{command.name}": command for command in COMMANDS if command.method is not None
}
"""By path."""


def _unsupported(member: str) -> CommandKind:
    def refuse(_request: Any) -> bytes:
        raise InvalidRequestError(f"{member} is not supported by this version")

    return LocalCommand(method=None, member=member, answer=refuse)


MEMBERS: Final[dict[str, CommandKind]] = {
    field.name: _unsupported(field.name) for field in tikvpb_pb2.BatchCommandsResponse.Response.DESCRIPTOR.fields
} | {command.member: command for command in COMMANDS if command.member is not None}
"""By the name of the member of a frame's command; those that are not served refuse."""

REGION_MEMBERS: Final[dict[int, CommandKind]] = {
    field.number << 3 | LENGTH_DELIMITED: command
    for field in tikvpb_pb2.BatchCommandsRequest.Request.DESCRIPTOR.fields
    if (command := MEMBERS.get(field.name)) is not None and not isinstance(command, LocalCommand)
}
"""Those that are for a region, by the tag of the member."""
