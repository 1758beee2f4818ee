"""What a log entry of a region says: operations, which all replicas apply alike. Those of several commands may share one.

An operation is a change of the engine (`storage.changes`: PUT, DELETE, DELETE_RANGE) or a tuple of the same shape that is not
a blind write:

    (COMPARE_AND_SWAP, cf, key, expected or None, value or None, now_s)
    (DELETE_EXPIRED, cf, key, now_s)
    (COMPACT_LOG, index, term)

`expected` and the value that COMPARE_AND_SWAP stores are raw values (see `model.raw_values`), a None `value` deletes; `now_s`
is the leader's wall clock, so that all replicas agree on what has expired. DELETE_EXPIRED deletes the raw value that is there
when it is applied, if that one has expired at `now_s`: a newer one stays, whatever the sweep saw (see `expiry`).

The operations of `CONDITIONAL` look at what is there and have results, and fill entries of their own: for COMPARE_AND_SWAP
(succeeded, previous user value or None), for DELETE_EXPIRED whether it deleted. All others have none.

`epoch_version` is that of the region when they were proposed. If the region has been split or merged by the time they are
applied, their keys may not belong to the region any more, and all replicas skip them.
"""

from __future__ import annotations

from typing import Any

from pytinykv.model import RecordDecoder, encode, record_decoder
from pytinykv.storage import ColumnFamily
from pytinykv.storage.changes import CF_CODES, Change

# Stored, never renumber; 1 to 3 are the kinds of changes.
COMPARE_AND_SWAP = 4
DELETE_EXPIRED = 5
COMPACT_LOG = 10

CONDITIONAL = frozenset({COMPARE_AND_SWAP, DELETE_EXPIRED})
"""Operations whose effect depends on what is there. One entry has only these, or none of them."""

RAW_CODE = CF_CODES[ColumnFamily.RAW]

Operation = Change
"""A change, or one of the tuples above."""


def encode_operations(epoch_version: int, operations: list[Operation]) -> bytes:
    """Return the data of a log entry."""
    return encode((epoch_version, operations))


decode_operations: RecordDecoder[tuple[int, list[Operation]]] = record_decoder(
    tuple[int, list[tuple[Any, ...]]], "operations"
)
"""Returns (epoch_version, operations)."""
