"""What a log entry of a region says: operations, which all replicas apply alike. Those of several commands may share one.

An operation is a plain tuple that begins with its kind, because the hot path makes and reads a hundred thousand of them
a second and MessagePack turns them into bytes and back without a class in between:

    (PUT, cf, key, value)
    (DELETE, cf, key)
    (DELETE_RANGE, cf, start, end)
    (COMPARE_AND_SWAP, cf, key, expected or None, value or None, now_s)
    (DELETE_EXPIRED, cf, key, now_s)
    (COMPACT_LOG, index, term)

`cf` is a number of `CF_CODES`; keys and values are those of the engine, so applying a PUT copies nothing. `expected` and
the value that COMPARE_AND_SWAP stores are raw values (see `raw_values`), a None `value` deletes; `now_s` is the leader's
wall clock, so that all replicas agree on what has expired. DELETE_EXPIRED deletes the raw value that is there when it is
applied, if that one has expired at `now_s`: a newer one stays, whatever the sweep saw (see `expiry`).

The operations of `CONDITIONAL` look at what is there and have results, and fill entries of their own: for COMPARE_AND_SWAP
(succeeded, previous user value or None), for DELETE_EXPIRED whether it deleted. All others have none.

`epoch_version` is that of the region when they were proposed. If the region has been split or merged by the time they are
applied, their keys may not belong to the region any more, and all replicas skip them.
"""

from __future__ import annotations

from typing import Any

from pytinykv.model import RecordDecoder, encode
from pytinykv.storage import ColumnFamily

PUT = 1
DELETE = 2
DELETE_RANGE = 3
COMPARE_AND_SWAP = 4
DELETE_EXPIRED = 5
COMPACT_LOG = 10

CONDITIONAL = frozenset({COMPARE_AND_SWAP, DELETE_EXPIRED})
"""Operations whose effect depends on what is there. One entry has only these, or none of them."""

CF_CODES = {
    ColumnFamily.DEFAULT: 0,
    ColumnFamily.LOCK: 1,
    ColumnFamily.WRITE: 2,
    ColumnFamily.RAW: 4,
}
"""Stored, never renumber."""

CF_OF_CODE = {code: cf for cf, code in CF_CODES.items()}
RAW_CODE = CF_CODES[ColumnFamily.RAW]

Operation = tuple[Any, ...]

_decode: RecordDecoder[tuple[int, list[tuple[Any, ...]]]] = RecordDecoder(
    tuple[int, list[tuple[Any, ...]]], "operations"
)


def encode_operations(epoch_version: int, operations: list[Operation]) -> bytes:
    """Return the data of a log entry."""
    return encode((epoch_version, operations))


def decode_operations(data: bytes) -> tuple[int, list[Operation]]:
    """Return (epoch_version, operations). Raises FormatError."""
    return _decode(data)
