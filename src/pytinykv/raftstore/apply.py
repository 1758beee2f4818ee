"""Applying committed entries: what each operation does to the data. Deterministic, the same on every replica."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pytinykv.model.raw_values import has_expired, live_value
from pytinykv.raftstore.operations import (
    COMPACT_LOG,
    CONDITIONAL,
    DELETE_EXPIRED,
    decode_operations,
)
from pytinykv.storage import ColumnFamily
from pytinykv.storage.changes import add_changes
from pytinykv.wire.errors import RegionError, UndeterminedResult

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from pytinykv.raft import Entry
    from pytinykv.raftstore.operations import Operation
    from pytinykv.raftstore.peer_storage import PeerStorage
    from pytinykv.raftstore.pending import Part
    from pytinykv.raftstore.turn import Turn
    from pytinykv.storage import Reader, WriteBatch

SwapResult = tuple[bool, bytes | None]

_RAW = ColumnFamily.RAW


def apply_entry(
    turn: Turn, storage: PeerStorage, entry: Entry, parts: list[Part], outdated: Callable[[int], RegionError]
) -> None:
    """Apply a normal entry that is not empty, and answer its callers, also when that fails. Raises FormatError.

    `outdated` makes the answer to commands of an older version of the region.

    The applied index is the caller's to move, once for a run of entries.
    """
    try:
        version, operations = decode_operations(entry.data)
        turn.take(len(entry.data), len(operations))
        if version != storage.region.epoch.version:
            _answer(turn, parts, outdated(version))
        else:
            _apply(turn, storage, operations, parts)
    except Exception:
        _answer(turn, parts, UndeterminedResult())
        raise


def _apply(turn: Turn, storage: PeerStorage, operations: list[Operation], parts: list[Part]) -> None:
    kind = operations[0][0]
    if kind in CONDITIONAL:
        storage.save_applied(turn.batch)
        turn.write()
        _answer_each(turn, parts, apply_conditional(turn.engine, turn.batch, operations))
    elif kind == COMPACT_LOG:
        _kind, index, term = operations[0]
        storage.truncate(turn.batch, index, term)
    else:
        add_changes(turn.batch, operations)
        _answer(turn, parts, None)


def _answer(turn: Turn, parts: list[Part], error: RegionError | None) -> None:
    for part in parts:
        turn.answer(part.on_done, error)


def _answer_each(turn: Turn, parts: list[Part], results: Sequence[object]) -> None:
    """Give each caller the results of its own operations."""
    start = 0
    for part in parts:
        turn.answer(part.on_done, None, results[start : start + part.operations])
        start += part.operations


def apply_conditional(reader: Reader, batch: WriteBatch, operations: list[Operation]) -> list[SwapResult | bool]:
    """Apply operations that depend on what is there (`CONDITIONAL`); return the result of each.

    `reader` shows everything applied before this entry; what the entry's own earlier operations wrote is looked up
    first, since it is not in the engine yet.
    """
    written: dict[bytes, bytes | None] = {}
    results: list[SwapResult | bool] = []
    for operation in operations:
        key: bytes = operation[2]
        stored = written[key] if key in written else reader.get(_RAW, key)
        if operation[0] == DELETE_EXPIRED:
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
