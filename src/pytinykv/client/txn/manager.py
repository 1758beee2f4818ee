"""The transactions of one client: where they are made, repeated on conflicts, and ended when the client closes.

    run(fn)      begin ──► fn(txn) ──► commit ──► result
                   ▲                      │
                   └──── pause ◄──────────┘  a conflict: the function runs again, on a new snapshot

The function is repeated, and not its writes: they follow from what it has read, which is no longer true.
"""

from __future__ import annotations

import warnings
import weakref
from collections.abc import Awaitable, Callable
from typing import TypeVar

from pytinykv.client.arguments import checked_timeout
from pytinykv.client.errors import TransactionError
from pytinykv.client.txn.backend import Pauses, TransactionBackend
from pytinykv.client.txn.snapshot import AsyncSnapshot
from pytinykv.client.txn.transaction import AsyncTransaction

_T = TypeVar("_T")


class Runs:
    """The attempts of one `run`: until when, and whether one more is worth it."""

    def __init__(self, backend: TransactionBackend, timeout: float | None) -> None:
        self._backend = backend
        self._deadline = backend.deadline(checked_timeout(timeout))
        self._pauses: Pauses | None = None
        """Made for the first conflict."""

    async def pause_after(self, error: TransactionError) -> None:
        """Wait before the next attempt. Raises `error` if there is to be none."""
        if not error.retryable or self._backend.is_over(self._deadline):
            raise error
        self._pauses = self._pauses or self._backend.pauses(self._deadline)
        await self._pauses.pause()
        if self._backend.is_over(self._deadline):
            raise error


class TransactionManager:
    """Makes the transactions and snapshots of one client. All methods belong to its loop, if it has one."""

    def __init__(self, backend: TransactionBackend) -> None:
        self.backend = backend
        self._open: set[weakref.ref[AsyncTransaction]] = set()
        """All that may not have ended; threads begin and end them at any time. A `WeakSet` takes longer, and may not be
        listed meanwhile."""
        self._left_open = 0
        """How many had something to lose when the client closed."""

    def transaction(self, *, pessimistic: bool, timeout: float | None) -> AsyncTransaction:
        """Return a transaction that has not begun."""
        txn = AsyncTransaction(self.backend, pessimistic=pessimistic, timeout=timeout)
        self._open.add(weakref.ref(txn, self._open.discard))
        return txn

    def snapshot(self, ts: int | None, timeout: float | None) -> AsyncSnapshot:
        """Return a snapshot that has not begun."""
        return AsyncSnapshot(self.backend, ts, timeout)

    async def run(
        self, function: Callable[[AsyncTransaction], Awaitable[_T]], *, pessimistic: bool, timeout: float | None
    ) -> _T:
        """Run a function in a transaction and commit it; again, from a new snapshot, as long as others are first."""
        runs = Runs(self.backend, timeout)
        while True:
            try:
                async with self.transaction(pessimistic=pessimistic, timeout=timeout) as txn:
                    return await function(txn)
            except TransactionError as error:
                await runs.pause_after(error)

    async def abandon_all(self, deadline: float) -> None:
        """End all open transactions because the client closes; locks are released if there is time."""
        for reference in list(self._open):
            if (txn := reference()) is not None:
                self._left_open += await txn.abandon(deadline)

    def warn_left_open(self) -> None:
        """Warn of transactions that were neither committed nor rolled back when the client closed; once."""
        count, self._left_open = self._left_open, 0
        if count:
            warnings.warn(
                f"{count} transaction(s) with writes or locks were open when their client closed, and were rolled back; "
                "commit them first, and use them in `with`",
                ResourceWarning,
                stacklevel=3,
            )
