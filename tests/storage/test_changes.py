"""Changes as tuples: their numbers are stored, and a batch takes them in their order."""

from __future__ import annotations

import pytest
from tests.storage.engines import put

from pytinykv.storage import ColumnFamily, MemoryEngine
from pytinykv.storage.changes import CF_CODES, DELETE, DELETE_RANGE, PUT, Change, add_changes

RAW, LOCK = ColumnFamily.RAW, ColumnFamily.LOCK


def test_numbers_are_stored_and_stay() -> None:
    assert (PUT, DELETE, DELETE_RANGE) == (1, 2, 3)
    assert {cf.value: code for cf, code in CF_CODES.items()} == {"default": 0, "lock": 1, "write": 2, "raw": 4}


def test_changes_take_effect_in_their_order() -> None:
    engine = MemoryEngine()
    put(engine, RAW, (b"a", b"old"), (b"b", b"old"), (b"c", b"old"))
    batch = engine.write_batch()
    changes: list[Change] = [
        (DELETE_RANGE, CF_CODES[RAW], b"a", b"c"),
        (PUT, CF_CODES[RAW], b"b", b"new"),
        (PUT, CF_CODES[LOCK], b"d", b"new"),
        (DELETE, CF_CODES[LOCK], b"d"),
    ]
    add_changes(batch, changes)
    engine.write(batch)
    assert list(engine.scan(RAW, b"", None)) == [(b"b", b"new"), (b"c", b"old")]
    assert list(engine.scan(LOCK, b"", None)) == []


def test_an_unknown_kind_is_a_programming_error() -> None:
    with pytest.raises(AssertionError, match="99 is no kind of change"):
        add_changes(MemoryEngine().write_batch(), [(99, CF_CODES[RAW], b"k")])
