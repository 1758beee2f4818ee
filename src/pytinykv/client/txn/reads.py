"""What transactions and snapshots have in common: how they begin, how long a call may take, and `scan`."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Generator
from typing import Any, ClassVar, Self, TypeVar

from pytinykv.client.arguments import checked_timeout
from pytinykv.client.errors import TransactionClosedError
from pytinykv.client.raw import AsyncScan
from pytinykv.client.scan_request import ScanRequest
from pytinykv.client.scanning import Pages
from pytinykv.client.txn.backend import TransactionBackend

_T = TypeVar("_T")


class AsyncReads(ABC):
    """Reads of one moment, which is fixed when it begins: await it, or enter it."""

    _noun: ClassVar[str]
    """What it is, in messages."""

    def __init__(self, backend: TransactionBackend, timeout: float | None) -> None:
        self._backend = backend
        self._timeout = checked_timeout(timeout)

    @abstractmethod
    async def begin(self) -> Self:
        """Fix the moment, if that was not done before."""

    @abstractmethod
    def pages(self, scan: ScanRequest) -> Pages:
        """Return the pages of a scan; for `scan` here and in the synchronous face."""

    def scan(
        self,
        start: bytes = b"",
        end: bytes | None = None,
        *,
        prefix: bytes | None = None,
        limit: int | None = None,
        reverse: bool = False,
        key_only: bool = False,
        timeout: float | None = None,
    ) -> AsyncScan:
        """Iterate over the pairs with keys from `start` on and below `end`, or those that begin with `prefix`.

        Yields `(key, value)` in ascending order, or descending with `reverse` (the range means the same); at most `limit`
        pairs; with `key_only` the values are empty. A transaction shows its snapshot with what it had written when the scan
        began. Pages are fetched as they are needed, all of the same moment; `timeout` holds for each.
        """
        return AsyncScan(
            self.pages(
                ScanRequest.checked(
                    start,
                    end,
                    prefix=prefix,
                    limit=limit,
                    reverse=reverse,
                    key_only=key_only,
                    timeout=self._timeout if timeout is None else timeout,
                )
            )
        )

    def _deadline(self, timeout: float | None) -> float:
        """Return when a call that begins now has to end, in the time of the backend."""
        return self._backend.deadline(self._timeout if timeout is None else checked_timeout(timeout))

    def _required(self, begun: _T | None) -> _T:
        """Return what is there only once it has begun. Raises `TransactionClosedError` before that."""
        if begun is None:
            raise TransactionClosedError(f"the {self._noun} has not begun: await it, or use it in `async with`")
        return begun

    def __await__(self) -> Generator[Any, None, Self]:
        return self.begin().__await__()

    async def __aenter__(self) -> Self:
        return await self.begin()
