"""What a transaction has written so far: in memory, until it commits. Its own reads see it on top of their snapshot.

Threads may share a transaction, so every method is atomic. `freeze` ends it: what comes later is refused, and not lost.
"""

from __future__ import annotations

import threading
from bisect import bisect_left
from collections.abc import Callable

from pytinykv.client.errors import KeyExistsError, TransactionClosedError, TransactionTooLargeError
from pytinykv.client.key_space import KeyRange
from pytinykv.client.txn.records import CHECK_NOT_EXISTS, DELETE, INSERT, LOCK, PUT, BufferedWrite
from pytinykv.wire.keys import describe_key

_VALUES = (PUT, INSERT)
_ABSENT = (DELETE, CHECK_NOT_EXISTS)


class WriteBuffer:
    """The writes of one transaction, at most one for each key."""

    def __init__(self, *, is_pessimistic: bool, keys_max: int, bytes_max: int) -> None:
        self._is_pessimistic = is_pessimistic
        self._keys_max = keys_max
        self._bytes_max = bytes_max
        self._writes: dict[bytes, BufferedWrite] = {}
        """By key, its latest write. Guarded by `_mutex`."""
        self._sorted: list[bytes] | None = []
        """The keys in order; None while that is to be found anew."""
        self._bytes = 0
        """Keys and values in it, together; never above the limit that was given."""
        self._is_frozen: Callable[[], str] | None = None
        """Set once, by `freeze`: says why nothing is taken any more."""
        self._mutex = threading.Lock()
        """Guards the fields above: in the synchronous face threads write here directly."""

    def __len__(self) -> int:
        return len(self._writes)

    @property
    def size(self) -> int:
        """Bytes of all keys and values."""
        return self._bytes

    # --- writing ------------------------------------------------------------------------------------------------

    def put(self, key: bytes, value: bytes) -> None:
        """Set a key. One that was inserted still has to be new."""
        with self._mutex:
            before = self._writes.get(key)
            is_new = before is not None and before.op in (INSERT, CHECK_NOT_EXISTS)
            self._set(BufferedWrite(key, INSERT if is_new else PUT, value), before)

    def insert(self, key: bytes, value: bytes) -> None:
        """Set a key that must not exist: known now if the transaction has written it, or else when it commits."""
        with self._mutex:
            before = self._writes.get(key)
            if before is not None and before.op in _VALUES:
                raise KeyExistsError(f"{describe_key(key)} exists: this transaction has written it", key=key)
            was_deleted = before is not None and before.op == DELETE
            self._set(BufferedWrite(key, PUT if was_deleted else INSERT, value), before)

    def delete(self, key: bytes) -> None:
        """Remove a key."""
        with self._mutex:
            before = self._writes.get(key)
            was_inserted = before is not None and before.op in (INSERT, CHECK_NOT_EXISTS)
            op = CHECK_NOT_EXISTS if was_inserted and not self._is_pessimistic else DELETE
            self._set(BufferedWrite(key, op), before)

    def refuse_existing(self, key: bytes) -> None:
        """Raise the error of an insert that found its key."""
        raise KeyExistsError(f"{describe_key(key)} exists: insert needs a key that does not; use put", key=key)

    def lock(self, key: bytes) -> None:
        """Keep others from writing a key, without writing it."""
        with self._mutex:
            before = self._writes.get(key)
            if before is None or before.op == CHECK_NOT_EXISTS:
                self._set(before or BufferedWrite(key, LOCK), before)

    def _set(self, write: BufferedWrite, before: BufferedWrite | None) -> None:
        if self._is_frozen is not None:
            raise TransactionClosedError(self._is_frozen())
        size = self._bytes + write.size - (0 if before is None else before.size)
        if size > self._bytes_max:
            raise TransactionTooLargeError(
                f"the transaction would have {size} bytes with {describe_key(write.key)}; at most {self._bytes_max} are "
                "allowed (ClientConfig.transaction_bytes_max). Commit in smaller parts, if they need not be atomic"
            )
        if before is None:
            if len(self._writes) >= self._keys_max:
                raise TransactionTooLargeError(
                    f"the transaction has {self._keys_max} keys already, and no more are allowed "
                    "(ClientConfig.transaction_keys_max). Commit in smaller parts, if they need not be atomic"
                )
            self._sorted = None
        self._bytes = size
        self._writes[write.key] = write

    def freeze(self, reason: Callable[[], str]) -> list[BufferedWrite]:
        """Take nothing any more; return all writes in the order of their keys."""
        with self._mutex:
            self._is_frozen = reason
            if len(self._writes) == 1:
                return [*self._writes.values()]
            return [self._writes[key] for key in self._in_order()]

    def has(self, key: bytes) -> bool:
        """Whether a key is written, or locked."""
        return key in self._writes

    # --- reading ------------------------------------------------------------------------------------------------

    def find(self, key: bytes) -> tuple[bool, bytes | None]:
        """Return whether the buffer says what a key is, and its value (None: it does not exist)."""
        write = self._writes.get(key)
        if write is None or write.op == LOCK:
            return False, None
        return True, write.value if write.op in _VALUES else None

    def within(self, range_: KeyRange) -> list[tuple[bytes, bytes | None]]:
        """Return what the buffer says of the keys of a range, in their order; None for those that do not exist."""
        if not self._writes:
            return []
        with self._mutex:
            keys = self._in_order()
            start = bisect_left(keys, range_.start)
            end = bisect_left(keys, range_.end) if range_.end else len(keys)
            writes = [self._writes[key] for key in keys[start:end]]
        return [(write.key, None if write.op in _ABSENT else write.value) for write in writes if write.op != LOCK]

    def _in_order(self) -> list[bytes]:
        if self._sorted is None:
            self._sorted = sorted(self._writes)
        return self._sorted
