"""Errors of the raftstore.

    RaftStoreError
    └── StoreFailedError         the store met an error after which it must not go on (disk, corruption)

A record that can't be read is a `FormatError` of `pytinykv.model`. What a client is told about regions (not
leader, epoch does not match, …) are the exceptions of `pytinykv.wire`.
"""

from __future__ import annotations


class RaftStoreError(Exception):
    """Base of the errors below."""


class StoreFailedError(RaftStoreError):
    """The store stopped itself because going on could lose or corrupt data; the cause is attached."""
