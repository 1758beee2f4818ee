"""Reads of one moment (asynchronous face): everything committed until then, and nothing later."""

from __future__ import annotations

from collections.abc import Generator, Iterable
from types import TracebackType
from typing import Any, Self

from pytinykv.client.arguments import (
    checked_key,
    checked_keys,
    checked_limit,
    checked_range,
    checked_timeout,
    checked_timestamp,
)
from pytinykv.client.errors import TransactionClosedError
from pytinykv.client.raw import AsyncScan
from pytinykv.client.scanning import Pages
from pytinykv.client.txn.backend import TransactionBackend
from pytinykv.client.txn.records import SnapshotView


class AsyncSnapshot:
    """The data as of one timestamp. `AsyncClient.snapshot` makes one; await it, or enter it, to begin.

        snapshot = await db.snapshot()              async with db.snapshot(ts) as snapshot:

    Reads never wait for writers that began later, and see no half of any transaction. It holds nothing in the cluster and
    needs no end; once its timestamp lies before the garbage collection's safe point (10 minutes, by default), reads raise
    `SnapshotTooOldError`. Tasks may share it.
    """

    def __init__(self, backend: TransactionBackend, ts: int | None, timeout: float | None) -> None:
        self._backend = backend
        self._wanted_ts = checked_timestamp(ts)
        self._timeout = checked_timeout(timeout)
        self._view: SnapshotView | None = None
        """Set once, when it has begun."""

    def __repr__(self) -> str:
        return f"<AsyncSnapshot at {self._view.ts}>" if self._view is not None else "<AsyncSnapshot, not begun>"

    @property
    def ts(self) -> int:
        """The timestamp that it shows."""
        return self._begun().ts

    async def get(self, key: bytes, *, timeout: float | None = None) -> bytes | None:
        """Return the value of `key`; None if it did not exist."""
        return await self._backend.get(self._begun(), checked_key(key), self._deadline(timeout))

    async def get_many(self, keys: Iterable[bytes], *, timeout: float | None = None) -> dict[bytes, bytes]:
        """Return the values of those `keys` that existed, in ascending order of keys."""
        several = checked_keys(keys)
        return await self._backend.get_many(self._begun(), several, self._deadline(timeout))

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
        pairs; with `key_only` the values are empty. Pages are fetched as they are needed, all of the same moment; `timeout`
        holds for each.
        """
        return AsyncScan(
            self.pages(start, end, prefix=prefix, limit=limit, reverse=reverse, key_only=key_only, timeout=timeout)
        )

    def pages(
        self,
        start: bytes,
        end: bytes | None,
        *,
        prefix: bytes | None,
        limit: int | None,
        reverse: bool,
        key_only: bool,
        timeout: float | None,
    ) -> Pages:
        """Return the pages of a scan; for `scan` here and in the synchronous face."""
        return self._backend.pages(
            self._begun(),
            checked_range(start, end, prefix),
            limit=checked_limit(limit),
            reverse=reverse,
            key_only=key_only,
            timeout_s=self._timeout if timeout is None else checked_timeout(timeout),
        )

    async def begin(self) -> Self:
        """Take the timestamp, if that was not done before. Raises `InvalidArgumentError` for one in the future."""
        if self._view is None:
            self._view = await self._backend.view(self._wanted_ts, self._deadline(None))
        return self

    def _begun(self) -> SnapshotView:
        if self._view is None:
            raise TransactionClosedError("the snapshot has not begun: await it, or use it in `async with`")
        return self._view

    def _deadline(self, timeout: float | None) -> float:
        return self._backend.deadline(self._timeout if timeout is None else checked_timeout(timeout))

    def __await__(self) -> Generator[Any, None, Self]:
        return self.begin().__await__()

    async def __aenter__(self) -> Self:
        return await self.begin()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Nothing to release."""
