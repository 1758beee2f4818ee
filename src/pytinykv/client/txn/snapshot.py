"""Reads of one moment (asynchronous face): everything committed until then, and nothing later."""

from __future__ import annotations

from collections.abc import Iterable
from types import TracebackType
from typing import Self

from pytinykv.client.arguments import checked_key, checked_keys, checked_timestamp
from pytinykv.client.scan_request import ScanRequest
from pytinykv.client.scanning import Pages
from pytinykv.client.txn.backend import TransactionBackend
from pytinykv.client.txn.reads import AsyncReads
from pytinykv.client.txn.records import SnapshotView


class AsyncSnapshot(AsyncReads):
    """The data as of one timestamp. `AsyncClient.snapshot` makes one; await it, or enter it, to begin.

        snapshot = await db.snapshot()              async with db.snapshot(ts) as snapshot:

    Reads never wait for writers that began later, and see no half of any transaction. It holds nothing in the cluster and
    needs no end; once its timestamp lies before the garbage collection's safe point (10 minutes, by default), reads raise
    `SnapshotTooOldError`. Tasks may share it.
    """

    _noun = "snapshot"

    def __init__(self, backend: TransactionBackend, ts: int | None, timeout: float | None) -> None:
        super().__init__(backend, timeout)
        self._wanted_ts = checked_timestamp(ts)
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

    def pages(self, scan: ScanRequest) -> Pages:
        return self._backend.pages(self._begun(), scan)

    async def begin(self) -> Self:
        """Take the timestamp, if that was not done before. Raises `InvalidArgumentError` for one in the future."""
        if self._view is None:
            self._view = await self._backend.view(self._wanted_ts, self._deadline(None))
        return self

    @property
    def view(self) -> SnapshotView:
        """What it reads, for faces that read by themselves. Raises `TransactionClosedError` before it has begun."""
        return self._required(self._view)

    def _begun(self) -> SnapshotView:
        return self._required(self._view)

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Nothing to release."""
