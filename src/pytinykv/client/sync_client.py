"""The synchronous face: the same operations, blocking, for any number of threads."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Mapping
from types import TracebackType
from typing import Any, Self, TypeVar

from pytinykv.client.arguments import checked_timeout, taken
from pytinykv.client.commands import Effect
from pytinykv.client.config import ClientConfig
from pytinykv.client.core import Core
from pytinykv.client.grpc_connector import GrpcConnector
from pytinykv.client.raw import delete_command, get_command, put_command
from pytinykv.client.raw_commands import CasResult, Checksum
from pytinykv.client.scan_request import ScanRequest
from pytinykv.client.sync_core import ConnectorFactory, SyncCore
from pytinykv.client.sync_scan import Scan
from pytinykv.client.txn import sync
from pytinykv.client.txn.sync import Snapshot, Transaction

_T = TypeVar("_T")


def connect(
    addresses: str | Iterable[str],
    *,
    timeout: float | None = None,
    config: ClientConfig | None = None,
    connector: ConnectorFactory = GrpcConnector,
) -> Client:
    """Connect to the cluster whose scheduler is at `addresses` ("host:port", several separated by commas).

    `timeout` is the default deadline in seconds of every operation (10 s), and of this call. Raises
    `SchedulerUnavailableError` if no scheduler answers until then.
    """
    config = config or ClientConfig()
    if (timeout := checked_timeout(timeout)) is not None:
        config = config.with_timeout(timeout)
    return Client(SyncCore(addresses, config=config, connector=connector, timeout=None))


class RawClient:
    """Raw operations, blocking. See `AsyncRawClient` for what all of them guarantee and raise."""

    def __init__(self, core: Core) -> None:
        self._core = core
        self._value_bytes_max = core.config.value_bytes_max

    def get(self, key: bytes, *, cf: str = "", timeout: float | None = None) -> bytes | None:
        """Return the value of `key`; None if it does not exist."""
        return self._core.run_command(get_command(key, cf), checked_timeout(timeout))

    def put(
        self, key: bytes, value: bytes, *, ttl: float | None = None, cf: str = "", timeout: float | None = None
    ) -> None:
        """Set `key` to `value`. After `ttl` seconds it does not exist any more; with None it stays."""
        self._core.run_command(put_command(key, value, ttl, cf, self._value_bytes_max), checked_timeout(timeout))

    def delete(self, key: bytes, *, cf: str = "", timeout: float | None = None) -> None:
        """Remove `key`. Succeeds if it does not exist."""
        self._core.run_command(delete_command(key, cf), checked_timeout(timeout))

    def batch_get(self, keys: Iterable[bytes], *, cf: str = "", timeout: float | None = None) -> dict[bytes, bytes]:
        """Return the values of those `keys` that exist, in ascending order of keys.

        Large batches are read in parts, so that answers stay small; together they are no snapshot.
        """
        several = taken(keys)
        return self._core.run(lambda db: db.raw.batch_get(several, cf=cf, timeout=timeout), checked_timeout(timeout))

    def batch_put(
        self,
        pairs: Mapping[bytes, bytes] | Iterable[tuple[bytes, bytes]],
        *,
        ttl: float | None = None,
        cf: str = "",
        timeout: float | None = None,
    ) -> None:
        """Set several keys; of a key that comes twice, the last value counts. `ttl` in seconds, as in `put`.

        Not atomic: when some keys were set and others not, it raises `UndeterminedError`.
        """
        several = dict(pairs) if isinstance(pairs, Mapping) else taken(pairs)
        self._core.run(
            lambda db: db.raw.batch_put(several, ttl=ttl, cf=cf, timeout=timeout), checked_timeout(timeout), Effect.ONCE
        )

    def batch_delete(self, keys: Iterable[bytes], *, cf: str = "", timeout: float | None = None) -> None:
        """Remove several keys, whether they exist or not. Not atomic, as `batch_put`."""
        several = taken(keys)
        self._core.run(
            lambda db: db.raw.batch_delete(several, cf=cf, timeout=timeout), checked_timeout(timeout), Effect.ONCE
        )

    def scan(
        self,
        start: bytes = b"",
        end: bytes | None = None,
        *,
        prefix: bytes | None = None,
        limit: int | None = None,
        reverse: bool = False,
        key_only: bool = False,
        cf: str = "",
        timeout: float | None = None,
    ) -> Scan:
        """Iterate over the pairs with keys from `start` on and below `end`, or those that begin with `prefix`.

        Yields `(key, value)` in ascending order, or descending with `reverse` (the range means the same); at most `limit`
        pairs; with `key_only` the values are empty. Without arguments it goes over all keys of the column family.

        Pairs are fetched in pages of about 1 MiB, at most one page ahead of what was yielded: the scan is no snapshot, and a
        write made during it may or may not show. `timeout` holds for each page.
        """
        scan = ScanRequest.checked(
            start, end, prefix=prefix, limit=limit, reverse=reverse, key_only=key_only, timeout=timeout
        )
        return Scan(self._core, self._core.client.raw.pages(scan, cf), scan.timeout_s)

    def delete_range(
        self,
        start: bytes = b"",
        end: bytes | None = None,
        *,
        prefix: bytes | None = None,
        everything: bool = False,
        cf: str = "",
        timeout: float | None = None,
    ) -> None:
        """Remove the keys of a range, given as in `scan`. Not atomic, as `batch_put`.

        All keys of the column family only with `everything=True`; an empty range, or an empty prefix, is refused without.
        """
        self._core.run(
            lambda db: db.raw.delete_range(start, end, prefix=prefix, everything=everything, cf=cf, timeout=timeout),
            checked_timeout(timeout),
            Effect.ONCE,
        )

    def ttl(self, key: bytes, *, cf: str = "", timeout: float | None = None) -> float | None:
        """Return after how many seconds `key` ends: `math.inf` if it stays, None if it does not exist."""
        return self._core.run(lambda db: db.raw.ttl(key, cf=cf, timeout=timeout), checked_timeout(timeout))

    def compare_and_swap(
        self,
        key: bytes,
        expected: bytes | None,
        value: bytes,
        *,
        ttl: float | None = None,
        cf: str = "",
        timeout: float | None = None,
    ) -> CasResult:
        """Set `key` to `value` if its value is `expected`, atomically.

        The new value lives for `ttl` seconds; without `ttl` it stays, even if the old one was to end.
        `expected` None means that the key does not exist. Returns whether it was set, and the value before, in both cases.
        A real TiKV guarantees this only among compare-and-swaps.
        """
        return self._core.run(
            lambda db: db.raw.compare_and_swap(key, expected, value, ttl=ttl, cf=cf, timeout=timeout),
            checked_timeout(timeout),
            Effect.ONCE,
        )

    def checksum(
        self,
        start: bytes = b"",
        end: bytes | None = None,
        *,
        prefix: bytes | None = None,
        timeout: float | None = None,
    ) -> Checksum:
        """Return checksum, number of pairs and bytes of a range, given as in `scan`, of the default column family.

        Each region is read for itself: over several regions it is no snapshot.
        """
        return self._core.run(
            lambda db: db.raw.checksum(start, end, prefix=prefix, timeout=timeout), checked_timeout(timeout)
        )


class Client:
    """A client of one cluster, to be shared by threads; `pytinykv.connect` makes one.

        with pytinykv.connect("127.0.0.1:2379") as db:
            db.raw.put(b"k", b"v")
            with db.transaction() as txn:
                txn.put(b"k", b"v")

    It runs an event loop in a thread of its own until `close`. After a fork, the child's copy raises `ClientForkedError`,
    and so does `connect` in the child: connect after forking, or use multiprocessing's spawn or forkserver.
    A client that is forgotten instead of closed gives a ResourceWarning.
    """

    def __init__(
        self, core: Core, *, snapshots: type[Snapshot] = Snapshot, transactions: type[Transaction] = Transaction
    ) -> None:
        """Make the face of a core, which it closes; see `connect` and `open`."""
        self._core = core
        self._raw = RawClient(core)
        self._snapshots = snapshots
        self._transactions = transactions

    def __repr__(self) -> str:
        return f"<Client of {self._core!r}, {'closed' if self._core.closed else 'open'}>"

    @property
    def raw(self) -> RawClient:
        """Raw operations: keys, batches of keys and ranges, without transactions."""
        return self._raw

    def transaction(self, *, pessimistic: bool = False, timeout: float | None = None) -> Transaction:
        """Begin a transaction; use it in `with`. `timeout` in seconds holds for each of its calls."""
        return self._transactions(self._core, pessimistic=pessimistic, timeout=timeout)

    def snapshot(self, ts: int | None = None, *, timeout: float | None = None) -> Snapshot:
        """Return a snapshot of now, or as of the timestamp `ts`, for any number of reads of one moment."""
        return self._snapshots(self._core, ts, timeout)

    def run(
        self, function: Callable[[Transaction], _T], *, pessimistic: bool = False, timeout: float | None = None
    ) -> _T:
        """Return the result of `function(txn)`, committed.

        On a conflict (any retryable `TransactionError`) the function runs again in a new transaction, after a pause, until
        `timeout` seconds have passed; then the last error is raised. So it may run several times: what it does besides
        must bear that. An exception of its own rolls back and comes through. `UndeterminedError` is never repeated.
        """
        return sync.run(self._core, function, self._transactions, pessimistic=pessimistic, timeout=timeout)

    @property
    def closed(self) -> bool:
        """Whether `close` was called."""
        return self._core.closed

    @property
    def cluster_id(self) -> int:
        """The id of the cluster."""
        return self._core.client.cluster_id

    def timestamp(self, *, timeout: float | None = None) -> int:
        """Return a timestamp of the cluster (milliseconds since 1970 << 18 | counter), greater than all given out before.

        Raises `SchedulerUnavailableError` after `timeout` seconds.
        """
        return self._core.run(lambda db: db.timestamp(timeout=timeout), checked_timeout(timeout))

    def close(self) -> None:
        """Resolve all pending calls with `ClientClosedError` and stop. Any number of times, from any thread."""
        self._core.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __del__(self, warn: Callable[..., Any] = warnings.warn) -> None:
        core = getattr(self, "_core", None)
        if core is not None and not core.closed:
            name = repr(self)  # while it is open
            core.abandon()
            warn(f"{name} was never closed; use `with`, or call close()", ResourceWarning, source=self)
