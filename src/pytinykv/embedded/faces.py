"""The blocking transactions and snapshots of an embedded database: those of a cluster, with short cuts.

What needs no network goes straight to the database, in the caller's thread and without a coroutine: beginning, reading a key,
committing. Everything else is inherited.
"""

from __future__ import annotations

import threading

from pytinykv.client.arguments import checked_key
from pytinykv.client.core import Core
from pytinykv.client.errors import ConcurrentUseError
from pytinykv.client.txn.sync import Snapshot, Transaction
from pytinykv.client.txn.transaction import AsyncTransaction
from pytinykv.embedded.backend import LocalBackend
from pytinykv.embedded.interrupts import UNINTERRUPTED
from pytinykv.embedded.oracle import LocalTxn, OpenView


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

    def _make(self, core: Core, *, pessimistic: bool, timeout: float | None) -> AsyncTransaction:
        transactions = core.client.transactions
        backend = transactions.backend
        assert isinstance(backend, LocalBackend)
        self._local = backend
        self._ending = threading.Lock()
        """Held by the call that commits it."""
        return transactions.transaction(pessimistic=pessimistic, timeout=timeout)

    def _begin(self) -> None:
        local = self._local
        local.check()
        view = local.database.oracle.begin()
        if view is None:
            txn = local.database.begin(local.deadline(self._timeout), is_pessimistic=self._is_pessimistic)
        else:
            txn = LocalTxn(view, is_pessimistic=self._is_pessimistic)
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
        with UNINTERRUPTED:  # else locks would stay of which no call knows any more
            if not self._ending.acquire(blocking=False):
                raise ConcurrentUseError(f"commit of {self!r} while another thread commits it")
            try:
                return self._commit(self._local.deadline(self._limit(timeout)))
            finally:
                self._ending.release()

    def _commit(self, deadline: float) -> int | None:
        """As `AsyncTransaction.commit`."""
        inner, database = self._inner, self._local.database
        txn, writes = inner.start_commit()
        assert isinstance(txn, LocalTxn)
        commit_ts = None
        try:
            if writes:
                commit_ts = database.commit(txn, writes, deadline)
            else:
                database.end(txn)  # of locks without writes
        except BaseException as error:
            inner.fail_commit(error)
            raise
        inner.finish_commit(commit_ts)
        return commit_ts
