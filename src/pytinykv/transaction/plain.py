"""One-phase commit of the plainest transactions: puts and deletes that nothing stands in the way of.

`prewrite` evaluates every case, and looks for locks and newer records of each key. Who knows without looking that there are
none needs no evaluation: what is left of the commit is its records. An embedded database knows it of nearly all commits
(`embedded.recent`); all others go through `evaluate`.

Invariant: the changes are those that `evaluate` finds for such a transaction (`tests/transaction/test_plain.py` compares).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from pytinykv.storage import ColumnFamily
from pytinykv.storage.changes import CF_CODES, PUT, Change
from pytinykv.transaction.records import SHORT_VALUE_BYTES_MAX, delete_record, put_record
from pytinykv.transaction.stored_keys import inverted
from pytinykv.wire.timestamp import Timestamp

_DEFAULT: Final = CF_CODES[ColumnFamily.DEFAULT]
_WRITE: Final = CF_CODES[ColumnFamily.WRITE]

PlainWrite = tuple[bytes, bytes | None]
"""(encoded key, value; None: it is deleted)"""


def plain_commit(writes: Sequence[PlainWrite], start_ts: Timestamp, commit_ts: Timestamp) -> list[Change]:
    """Return what a transaction changes that commits `writes`, one for each key.

    No key is locked, none has a record at or above `start_ts`, and `commit_ts` is above every timestamp that was read at.
    """
    version = inverted(commit_ts)
    changes: list[Change] = []
    for encoded, value in writes:
        if value is None:
            record = delete_record(start_ts)
        elif len(value) <= SHORT_VALUE_BYTES_MAX:
            record = put_record(start_ts, value)
        else:
            changes.append((PUT, _DEFAULT, encoded + inverted(start_ts), value))
            record = put_record(start_ts, None)
        changes.append((PUT, _WRITE, encoded + version, record))
    return changes
