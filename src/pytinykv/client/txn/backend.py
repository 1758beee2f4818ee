"""What transactions and snapshots need from below: the cluster provides it, and so can an engine in this process.

    AsyncTransaction · AsyncSnapshot         semantics: buffer, own writes, when it may be used
            │
    TransactionBackend                       timestamps, reads at a snapshot, locks, commit
            │
    ClusterBackend  (an embedded engine)

Coroutines of a backend whose work needs no waiting may end without ever suspending: then they can be driven without a loop.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager
from typing import Protocol

from pytinykv.client.config import ClientConfig
from pytinykv.client.scan_request import ScanRequest
from pytinykv.client.scanning import Pages
from pytinykv.client.txn.records import BufferedWrite, SnapshotView, Txn


class Pauses(Protocol):
    """The pauses between attempts: longer and longer, random in part."""

    async def pause(self) -> None:
        """Wait for the next pause, never past the deadline."""


class TransactionBackend(Protocol):
    """Where transactions run. Deadlines are in its own time, `deadline` makes them; all methods raise `ClientError`."""

    config: ClientConfig

    def deadline(self, timeout_s: float | None) -> float:
        """Return the deadline of a call that begins now. Raises where none can begin."""

    def is_over(self, deadline: float) -> bool:
        """Whether a deadline has passed."""

    def pauses(self, deadline: float) -> Pauses:
        """Return the pauses of one call that ends at `deadline`."""

    def mutex(self) -> AbstractAsyncContextManager[None]:
        """Return a lock that calls of one transaction hold one after the other."""

    async def begin(self, deadline: float, *, is_pessimistic: bool) -> Txn:
        """Begin a transaction: its snapshot holds all that was committed before this call."""

    async def view(self, ts: int | None, deadline: float) -> SnapshotView:
        """Return a snapshot at `ts`, or of now. Raises `InvalidArgumentError` for one in the future."""

    async def get(self, view: SnapshotView, key: bytes, deadline: float) -> bytes | None:
        """Return the value of a key, None if there is none."""

    async def get_many(self, view: SnapshotView, keys: Sequence[bytes], deadline: float) -> dict[bytes, bytes]:
        """Return the values of those keys (distinct, ascending) that exist."""

    def pages(self, view: SnapshotView, scan: ScanRequest) -> Pages:
        """Return the pages of a scan."""

    async def lock(
        self, txn: Txn, keys: Sequence[bytes], deadline: float, *, at_snapshot: bool, must_not_exist: bool, read: bool
    ) -> dict[bytes, bytes | None]:
        """Take pessimistic locks on keys (distinct, ascending) that are not held; all of them, or none.

        With `at_snapshot` a key that was committed after the transaction began raises `WriteConflictError`; otherwise the
        newest state is locked. With `read` it returns the newest values. Raises `KeyExistsError` (`must_not_exist`),
        `DeadlockError`, `LockTimeoutError`.
        """

    async def commit(self, txn: Txn, writes: Sequence[BufferedWrite], deadline: float) -> int:
        """Commit writes (ascending) and return the commit timestamp. The locks are gone then, or will be.

        Raises `UndeterminedError` if it is not known whether it was committed. After any other error it was not, and never
        will be.
        """

    async def rollback(self, txn: Txn, deadline: float) -> None:
        """Release the locks of a transaction that ends without commit; those that can't be reached run out."""

    def abandon(self, txn: Txn) -> None:
        """Let the locks of a transaction that was forgotten run out. May be called from any thread."""
