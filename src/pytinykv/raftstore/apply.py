"""Applying committed commands: what each operation does to the data. Deterministic, the same on every replica."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pytinykv.raftstore import commands
from pytinykv.raftstore.raw_values import has_expired, live_value
from pytinykv.storage import ColumnFamily

if TYPE_CHECKING:
    from pytinykv.raftstore.commands import Operation
    from pytinykv.storage import Reader, WriteBatch

CasResult = tuple[bool, bytes | None]

_RAW = ColumnFamily.RAW


def apply_operations(batch: WriteBatch, operations: list[Operation]) -> None:
    """Add blind writes to the batch."""
    put = batch.put
    for operation in operations:
        kind = operation[0]
        if kind == commands.PUT:
            put(commands.CF_OF_CODE[operation[1]], operation[2], operation[3])
        elif kind == commands.DELETE:
            batch.delete(commands.CF_OF_CODE[operation[1]], operation[2])
        elif kind == commands.DELETE_RANGE:
            batch.delete_range(commands.CF_OF_CODE[operation[1]], operation[2], operation[3])
        else:
            raise AssertionError(f"operation {kind} can't be applied here")


def apply_conditional(reader: Reader, batch: WriteBatch, operations: list[Operation]) -> list[CasResult | bool]:
    """Apply operations that depend on what is there (`commands.CONDITIONAL`); return the result of each.

    `reader` shows everything applied before this command; what the command's own earlier operations wrote is looked up
    first, since it is not in the engine yet.
    """
    written: dict[bytes, bytes | None] = {}
    results: list[CasResult | bool] = []
    for operation in operations:
        key: bytes = operation[2]
        stored = written[key] if key in written else reader.get(_RAW, key)
        if operation[0] == commands.DELETE_EXPIRED:
            changes, value = has_expired(stored, operation[3]), None
            results.append(changes)
        else:
            _kind, _cf, _key, expected, value, now_s = operation
            previous = live_value(stored, now_s)
            changes = previous == expected
            results.append((changes, previous))
        if changes:
            written[key] = value
            if value is None:
                batch.delete(_RAW, key)
            else:
                batch.put(_RAW, key, value)
    return results
