"""Changes: blind writes as plain tuples, which can be collected, sent, stored and put into a batch later.

A change begins with its kind. It is no class because the hot path makes and reads a hundred thousand of them a second, and
MessagePack turns tuples into bytes and back without anything in between:

    (PUT, cf, key, value)
    (DELETE, cf, key)
    (DELETE_RANGE, cf, start, end)         start <= key < end

`cf` is a number of `CF_CODES`; keys and values are those of the engine. Entries of Raft logs are made of changes
(`raftstore.operations`), so the numbers are stored: never renumber, and never reuse one. Kinds 1 to 3 are ours; the raftstore
numbers its own kinds from 4 on.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

from pytinykv.storage.engine import ColumnFamily, WriteBatch

PUT: Final = 1
DELETE: Final = 2
DELETE_RANGE: Final = 3

CF_CODES: Final = {
    ColumnFamily.DEFAULT: 0,
    ColumnFamily.LOCK: 1,
    ColumnFamily.WRITE: 2,
    ColumnFamily.RAW: 4,
}
"""Stored, never renumber."""
CF_OF_CODE: Final = {code: cf for cf, code in CF_CODES.items()}

Change = tuple[Any, ...]


def add_changes(batch: WriteBatch, changes: Iterable[Change]) -> None:
    """Add the changes to a batch, in their order."""
    put = batch.put
    for change in changes:
        kind = change[0]
        if kind == PUT:
            put(CF_OF_CODE[change[1]], change[2], change[3])
        elif kind == DELETE:
            batch.delete(CF_OF_CODE[change[1]], change[2])
        elif kind == DELETE_RANGE:
            batch.delete_range(CF_OF_CODE[change[1]], change[2], change[3])
        else:
            raise AssertionError(f"{kind} is no kind of change")
