"""The blocking transactions and snapshots of an embedded database: those of a cluster, with short cuts.

A read that needs neither a network nor a wait goes straight to the engine, in the caller's thread, without a coroutine.
Everything else is inherited.
"""

from __future__ import annotations

import threading

from pytinykv.client.arguments import checked_key
from pytinykv.client.core import Core
from pytinykv.client.errors import ConcurrentUseError
from pytinykv.client.txn.sync import Snapshot, Transaction
from pytinykv.embedded.backend import LocalBackend
from pytinykv.embedded.oracle import OpenView


class LocalSnapshot(Snapshot):
    """See `Snapshot`. What it shows is not collected as long as it is there."""

    def __init__(self, core: Core, ts: int | None, timeout: float | None) -> None:
        super().__init__(core, ts, timeout)
        backend, view = core.client.transactions.backend, self._inner.view
        assert isinstance(backend, LocalBackend)
        assert isinstance(view, OpenView)
        self._local = backend
        self._view = view

    def get(self, key: bytes, *, timeout: float | None = None) -> bytes | None:
        """Return the value of `key`; None if it does not exist."""
        return self._local.get_now(self._view, checked_key(key))


class LocalTransaction(Transaction):
    """See `Transaction`. What its snapshot shows is not collected as long as it is there."""

    def __init__(self, core: Core, *, pessimistic: bool, timeout: float | None) -> None:
        backend = core.client.transactions.backend
        assert isinstance(backend, LocalBackend)
        self._local = backend
        super().__init__(core, pessimistic=pessimistic, timeout=timeout)
        self._ending = threading.Lock()
        """Held by the call that ends it."""

    def _begin(self) -> None:
        local = self._local
        txn = local.database.begin(local.deadline(self._timeout), is_pessimistic=self._is_pessimistic)
        self._inner.begin_as(txn)
        self._view = txn.view

    def get(self, key: bytes, *, timeout: float | None = None) -> bytes | None:
        """Return the value of `key`; None if it does not exist."""
        inner = self._inner
        if self._is_pessimistic or not inner.is_active:
            return super().get(key, timeout=timeout)  # which notes what was read, or refuses
        key = checked_key(key)
        is_own, value = inner.buffered.find(key)
        return value if is_own else self._local.get_now(self._view, key)

    def commit(self, *, timeout: float | None = None) -> int | None:
        """Make all writes visible at once. Returns the commit timestamp; None if there was nothing to write.

        Raises `WriteConflictError`, `KeyExistsError` and others, after which nothing was committed and the transaction is
        over; `UndeterminedError` if it is not known whether it was committed; `ConcurrentUseError` if another call of it is
        under way, after which it is still open.
        """
        if not self._ending.acquire(blocking=False):
            raise ConcurrentUseError(f"commit of {self!r} while another thread commits it")
        try:
            return super().commit(timeout=timeout)
        finally:
            self._ending.release()
