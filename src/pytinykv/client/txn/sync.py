"""Transactions, blocking: the same operations for threads. Calls that need the cluster run in the client's loop."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Iterable
from types import TracebackType
from typing import Any, Self, TypeVar

from pytinykv.client.arguments import checked_key, checked_timeout, checked_value, taken
from pytinykv.client.commands import Effect
from pytinykv.client.core import Core
from pytinykv.client.errors import ConcurrentUseError, TransactionError
from pytinykv.client.scan_request import ScanRequest
from pytinykv.client.sync_scan import Scan
from pytinykv.client.txn.manager import Runs
from pytinykv.client.txn.records import Phase
from pytinykv.client.txn.snapshot import AsyncSnapshot
from pytinykv.client.txn.transaction import AsyncTransaction

_T = TypeVar("_T")


class _Reads:
    """What transactions and snapshots have in common."""

    def __init__(self, core: Core, inner: AsyncTransaction | AsyncSnapshot, timeout: float | None) -> None:
        self._core = core
        self._reads = inner
        self._timeout = checked_timeout(timeout)

    def get(self, key: bytes, *, timeout: float | None = None) -> bytes | None:
        """Return the value of `key`; None if it does not exist."""
        return self._run(self._reads.get(key, timeout=timeout), timeout)

    def get_many(self, keys: Iterable[bytes], *, timeout: float | None = None) -> dict[bytes, bytes]:
        """Return the values of those `keys` that exist, in ascending order of keys."""
        return self._run(self._reads.get_many(taken(keys), timeout=timeout), timeout)

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
    ) -> Scan:
        """Iterate over the pairs with keys from `start` on and below `end`, or those that begin with `prefix`.

        Yields `(key, value)` in ascending order, or descending with `reverse` (the range means the same); at most `limit`
        pairs; with `key_only` the values are empty. A transaction shows what it had written when the scan began. Pages are
        fetched as they are needed, all of the same moment; `timeout` holds for each.
        """
        scan = ScanRequest.checked(
            start,
            end,
            prefix=prefix,
            limit=limit,
            reverse=reverse,
            key_only=key_only,
            timeout=self._timeout if timeout is None else timeout,
        )
        return Scan(self._core, self._reads.pages(scan), scan.timeout_s)

    def _run(self, work: Coroutine[Any, Any, _T], timeout: float | None, effect: Effect = Effect.READ) -> _T:
        try:
            limit_s = self._limit(timeout)
        except BaseException:
            work.close()
            raise
        return self._core.run_coroutine(work, limit_s, effect)

    def _limit(self, timeout: float | None) -> float | None:
        return self._timeout if timeout is None else checked_timeout(timeout)


class Snapshot(_Reads):
    """The data as of one timestamp, for threads to share. `Client.snapshot` makes one. See `AsyncSnapshot`."""

    def __init__(self, core: Core, ts: int | None, timeout: float | None) -> None:
        self._inner = core.client.snapshot(ts, timeout=timeout)
        super().__init__(core, self._inner, timeout)
        self._run(self._inner.begin(), None)

    def __repr__(self) -> str:
        return f"<Snapshot at {self.ts}>"

    @property
    def ts(self) -> int:
        """The timestamp that it shows."""
        return self._inner.ts

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Nothing to release."""


class Transaction(_Reads):
    """One transaction. `Client.transaction` begins one. See `AsyncTransaction` for what it promises and raises.

        with db.transaction() as txn:               # commits at the end of the block, rolls back on an exception
            balance = int(txn.get(b"alice"))
            txn.put(b"alice", str(balance - 10).encode())

    Threads may share it, but for its end: `commit` refuses while another call is under way (`ConcurrentUseError`), and after
    a commit or rollback every call raises `TransactionClosedError`.
    """

    def __init__(self, core: Core, *, pessimistic: bool, timeout: float | None) -> None:
        self._inner = self._make(core, pessimistic=pessimistic, timeout=timeout)
        super().__init__(core, self._inner, timeout)
        self._is_pessimistic = pessimistic
        self._value_bytes_max = core.config.value_bytes_max
        self._begin()

    def _make(self, core: Core, *, pessimistic: bool, timeout: float | None) -> AsyncTransaction:
        return core.run_plain(lambda db: db.transaction(pessimistic=pessimistic, timeout=timeout))

    def _begin(self) -> None:
        self._run(self._inner.begin(), None)

    def __repr__(self) -> str:
        return repr(self._inner).replace("AsyncTransaction", "Transaction", 1)

    @property
    def start_ts(self) -> int:
        """The timestamp of its snapshot, and its identity in the cluster."""
        return self._inner.start_ts

    @property
    def commit_ts(self) -> int | None:
        """When it was committed; None before that, and if it had nothing to write."""
        return self._inner.commit_ts

    @property
    def phase(self) -> Phase:
        """How far it is."""
        return self._inner.phase

    @property
    def is_active(self) -> bool:
        """Whether it can still be used."""
        return self._inner.is_active

    def put(self, key: bytes, value: bytes, *, timeout: float | None = None) -> None:
        """Set `key` to `value`."""
        if self._is_pessimistic:
            self._run(self._inner.put(key, value, timeout=timeout), timeout, Effect.IDEMPOTENT)
        else:
            self._inner.buffered.put(checked_key(key), checked_value(value, self._value_bytes_max))

    def insert(self, key: bytes, value: bytes, *, timeout: float | None = None) -> None:
        """Set `key`, which must not exist yet, to `value`.

        Raises `KeyExistsError` if it does: a pessimistic transaction here, an optimistic one when it commits.
        """
        if self._is_pessimistic:
            self._run(self._inner.insert(key, value, timeout=timeout), timeout, Effect.IDEMPOTENT)
        else:
            self._inner.buffered.insert(checked_key(key), checked_value(value, self._value_bytes_max))

    def delete(self, key: bytes, *, timeout: float | None = None) -> None:
        """Remove `key`, whether it exists or not."""
        if self._is_pessimistic:
            self._run(self._inner.delete(key, timeout=timeout), timeout, Effect.IDEMPOTENT)
        else:
            self._inner.buffered.delete(checked_key(key))

    def lock(self, *keys: bytes, timeout: float | None = None) -> None:
        """Make sure that no other transaction writes `keys` before this one ends, all of them or none.

        A pessimistic transaction waits for the locks; if it has read one of the keys, it raises `WriteConflictError` when one
        was written since it began. An optimistic one fails to commit then.
        """
        self._run(self._inner.lock(*keys, timeout=timeout), timeout, Effect.IDEMPOTENT)

    def get_for_update(self, key: bytes, *, timeout: float | None = None) -> bytes | None:
        """Return the value of `key`, and make sure that no other transaction writes it before this one ends.

        A pessimistic transaction waits for the lock and returns the newest value. An optimistic one returns that of its
        snapshot, and fails to commit if it was written since.
        """
        return self._run(self._inner.get_for_update(key, timeout=timeout), timeout, Effect.IDEMPOTENT)

    def commit(self, *, timeout: float | None = None) -> int | None:
        """Make all writes visible at once. Returns the commit timestamp; None if there was nothing to write.

        Raises `WriteConflictError`, `KeyExistsError`, `TransactionAbortedError` and others, after which nothing was
        committed and the transaction is over; `UndeterminedError` if it is not known whether it was committed;
        `ConcurrentUseError` if another call of it is under way, after which it is still open.
        """
        return self._run(self._inner.commit(timeout=timeout), timeout, Effect.ONCE)

    def rollback(self, *, timeout: float | None = None) -> None:
        """Forget all writes and release all locks. Does nothing after a commit that failed, or another rollback.

        Raises `TransactionClosedError` if it was committed. Locks that can't be reached run out by themselves.
        """
        self._run(self._inner.rollback(timeout=timeout), timeout)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if not self._inner.is_active:
            return  # ended within the block
        if kind is not None:
            self.rollback()
            return
        try:
            self.commit()
        except ConcurrentUseError:
            self.rollback()
            raise


def run(
    core: Core,
    function: Callable[[Transaction], _T],
    transactions: type[Transaction] = Transaction,
    *,
    pessimistic: bool,
    timeout: float | None,
) -> _T:
    """Run a function in a transaction and commit it; again as long as others are first. See `Client.run`."""
    timeout = checked_timeout(timeout)
    runs = core.run_plain(lambda db: Runs(db.transactions.backend, timeout))
    while True:
        try:
            with transactions(core, pessimistic=pessimistic, timeout=timeout) as txn:
                return function(txn)
        except TransactionError as error:
            core.run_coroutine(runs.pause_after(error), timeout)
