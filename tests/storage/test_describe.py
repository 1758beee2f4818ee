"""The debug aid shows what is there, readably."""

from __future__ import annotations

from tests.storage.engines import put

from pytinykv.storage import ColumnFamily, MemoryEngine
from pytinykv.storage.describe import describe, printable


def test_describe_counts_and_shows_the_first_pairs() -> None:
    engine = MemoryEngine()
    put(engine, ColumnFamily.RAW, (b"apple", b"red"), (b"\x01\xff", b""), (b"pear", b"x" * 100))
    lines = list(describe(engine, pairs_max=2))
    assert lines == [
        "default: 0 keys, 0 bytes of keys, 0 bytes of values",
        "lock: 0 keys, 0 bytes of keys, 0 bytes of values",
        "write: 0 keys, 0 bytes of keys, 0 bytes of values",
        "raft: 0 keys, 0 bytes of keys, 0 bytes of values",
        "raw: 3 keys, 11 bytes of keys, 103 bytes of values",
        '  0x01ff = ""',
        '  "apple" = "red"',
        "  … 1 more",
    ]


def test_printable_shortens_and_never_fails() -> None:
    assert printable(b"x" * 100) == '"' + "x" * 48 + '"… (100 bytes)'
    assert printable(b"a\nb") == "0x610a62"
    assert printable(bytes(range(128, 133))) == "0x8081828384"
