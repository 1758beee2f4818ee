"""Errors of the raftstore.

    RaftStoreError
    ├── FormatError              a stored or received record can't be read
    └── StoreFailedError         the store met an error after which it must not go on (disk, corruption)

What a client is told about regions (not leader, epoch does not match, …) are the exceptions of `pytinykv.wire`.
"""

from __future__ import annotations


class RaftStoreError(Exception):
    """Base of the errors below."""


class FormatError(RaftStoreError):
    """Bytes that are not the record they should be. The message names the record."""


class StoreFailedError(RaftStoreError):
    """The store stopped itself because going on could lose or corrupt data; the cause is attached."""
