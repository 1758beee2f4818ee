"""What asynchronous clients have in common, whether of a cluster or of an embedded database."""

from __future__ import annotations

import warnings
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Generator
from types import TracebackType
from typing import Any, Self, TypeVar

from pytinykv.client.raw import AsyncRawClient
from pytinykv.client.txn.manager import TransactionManager
from pytinykv.client.txn.snapshot import AsyncSnapshot
from pytinykv.client.txn.transaction import AsyncTransaction
from pytinykv.lifecycle import StopReport

_T = TypeVar("_T")


class AsyncBase(ABC):
    """The operations of an asynchronous client."""

    _closed: bool
    """Whether `close` was called; false from the end of `__init__` on, then moved once."""

    @property
    @abstractmethod
    def raw(self) -> AsyncRawClient:
        """Raw operations: keys, batches of keys and ranges, without transactions."""

    @property
    @abstractmethod
    def transactions(self) -> TransactionManager:
        """Makes transactions and snapshots; for `transaction`, `snapshot` and `run`, also of the synchronous face."""

    @property
    @abstractmethod
    def cluster_id(self) -> int:
        """The id of the cluster; 0 for an embedded database."""

    @abstractmethod
    async def timestamp(self, *, timeout: float | None = None) -> int:
        """Return a timestamp (milliseconds since 1970 << 18 | counter), greater than all given out before.

        Raises `SchedulerUnavailableError` after `timeout` seconds.
        """

    @abstractmethod
    async def open(self, timeout: float | None = None) -> Self:
        """Make it usable; `async with` and `await` do."""

    @abstractmethod
    async def close(self) -> StopReport:
        """Resolve all pending calls with `ClientClosedError`, and stop. Any number of times."""

    def transaction(self, *, pessimistic: bool = False, timeout: float | None = None) -> AsyncTransaction:
        """Return a transaction, to be entered (`async with`) or awaited. See `AsyncTransaction`.

        `timeout` in seconds holds for each of its calls; None means the client's default.
        """
        return self.transactions.transaction(pessimistic=pessimistic, timeout=timeout)

    def snapshot(self, ts: int | None = None, *, timeout: float | None = None) -> AsyncSnapshot:
        """Return a snapshot of now, or as of the timestamp `ts`, to be entered (`async with`) or awaited."""
        return self.transactions.snapshot(ts, timeout)

    async def run(
        self,
        function: Callable[[AsyncTransaction], Awaitable[_T]],
        *,
        pessimistic: bool = False,
        timeout: float | None = None,
    ) -> _T:
        """Return the result of `await function(txn)`, committed.

        On a conflict (any retryable `TransactionError`) the function runs again in a new transaction, after a pause, until
        `timeout` seconds have passed; then the last error is raised. So it may run several times: what it does besides
        must bear that. An exception of its own rolls back and comes through. `UndeterminedError` is never repeated.
        """
        return await self.transactions.run(function, pessimistic=pessimistic, timeout=timeout)

    @property
    def closed(self) -> bool:
        """Whether `close` was called."""
        return self._closed

    async def __aenter__(self) -> Self:
        try:
            return await self.open()
        except BaseException:
            await self.close()
            raise

    def __await__(self) -> Generator[Any, None, Self]:
        return self.__aenter__().__await__()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    def __del__(self, warn: Any = warnings.warn) -> None:
        if not getattr(self, "_closed", True):
            warn(f"{self!r} was never closed; use `async with`, or await its close()", ResourceWarning, source=self)
