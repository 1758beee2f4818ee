"""Raw operations: keys, batches of keys and ranges, without transactions (asynchronous face)."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Coroutine, Iterable, Mapping, Sequence
from typing import Any, Protocol, TypeVar

from pytinykv.client.answer_sizes import AnswerKind
from pytinykv.client.arguments import (
    checked_cf,
    checked_deletion,
    checked_key,
    checked_keys,
    checked_pairs,
    checked_range,
    checked_timeout,
    checked_ttl,
    checked_value,
)
from pytinykv.client.batches import BatchOperation
from pytinykv.client.commands import Pair
from pytinykv.client.errors import ClientError, UndeterminedError
from pytinykv.client.key_space import KeyRange
from pytinykv.client.raw_commands import (
    CasResult,
    Checksum,
    RawBatchDelete,
    RawBatchGet,
    RawBatchPut,
    RawChecksum,
    RawCompareAndSwap,
    RawDelete,
    RawDeleteRange,
    RawGet,
    RawPut,
    RawScan,
    RawTtl,
)
from pytinykv.client.runner import CommandRunner
from pytinykv.client.scan_request import ScanRequest
from pytinykv.client.scanning import Pages, ScanPager

_T = TypeVar("_T")
_ItemT = TypeVar("_ItemT")


def get_command(key: bytes, cf: str) -> RawGet:
    """Return the checked command of a `get`."""
    return RawGet(checked_key(key), checked_cf(cf) if cf else "")


def put_command(key: bytes, value: bytes, ttl: float | None, cf: str, value_bytes_max: int) -> RawPut:
    """Return the checked command of a `put`."""
    value = checked_value(value, value_bytes_max)
    return RawPut(checked_key(key), value, 0 if ttl is None else checked_ttl(ttl), checked_cf(cf) if cf else "")


def delete_command(key: bytes, cf: str) -> RawDelete:
    """Return the checked command of a `delete`."""
    return RawDelete(checked_key(key), checked_cf(cf) if cf else "")


class RunBatch(Protocol):
    """Runs a batch operation and returns the results of its commands. See `batches.run_batch`."""

    def __call__(self, batch: BatchOperation[_ItemT, _T], deadline: float) -> Coroutine[Any, Any, list[_T]]: ...


class AsyncScan(AsyncIterator[Pair]):
    """The pairs of a scan, fetched as they are asked for. Use it in `async for`; it needs no closing.

    Tasks may share one; each pair goes to one of them.
    """

    def __init__(self, pager: Pages) -> None:
        self._pager = pager
        self._page: deque[Pair] = deque()
        """Pairs that were fetched and not yielded yet, next first."""
        self._paging = asyncio.Lock()
        """Held while a page is fetched: tasks that share the scan ask for one at a time."""

    async def __anext__(self) -> Pair:
        if not self._page:
            self._pager.check_origin()
            async with self._paging:
                if not self._page:
                    self._page = await self._pager.next_page()
                if not self._page:
                    raise StopAsyncIteration
                return self._page.popleft()
        return self._page.popleft()


class AsyncRawClient:
    """Operations on keys, batches of keys and ranges, without transactions. `AsyncClient.raw` is one.

    A key is 1 to 8,192 bytes, a value 0 to `ClientConfig.value_bytes_max` bytes (nearly 8 MiB); both are `bytes`, and other
    buffers are copied. Each key is linearizable for itself: a read sees every write that ended before it began, whichever
    client made it. Nothing is atomic over several keys.

    Every operation takes

    * `cf`: the column family "default" (or ""), "lock" or "write": three name spaces that share nothing.
    * `timeout`: seconds for the operation with all its retries; None means the client's default (10 s).

    and raises

    * `InvalidArgumentError` for an argument that can't be right; nothing was sent.
    * `DeadlineExceededError`, `SchedulerUnavailableError`: nothing was changed, and the same call may succeed later.
    * `StoreError`: a store has refused the operation; nothing was changed.
    * `UndeterminedError`, from writes only: the write may have happened, or may still happen. The client does not repeat it.
      (A write whose task is cancelled has the same fate.)
    * `ClientClosedError`, `WrongEventLoopError`, `ClientForkedError`: the client can't be used (any more, or here).
    """

    def __init__(self, executor: CommandRunner, run_batch: RunBatch) -> None:
        self._executor = executor
        self._run_batch = run_batch
        self._value_bytes_max = executor.config.value_bytes_max

    async def get(self, key: bytes, *, cf: str = "", timeout: float | None = None) -> bytes | None:
        """Return the value of `key`; None if it does not exist."""
        return await self._executor.execute(get_command(key, cf), self._deadline(timeout))

    async def put(
        self, key: bytes, value: bytes, *, ttl: float | None = None, cf: str = "", timeout: float | None = None
    ) -> None:
        """Set `key` to `value`. After `ttl` seconds it does not exist any more; with None it stays."""
        command = put_command(key, value, ttl, cf, self._value_bytes_max)
        await self._executor.execute(command, self._deadline(timeout))

    async def delete(self, key: bytes, *, cf: str = "", timeout: float | None = None) -> None:
        """Remove `key`. Succeeds if it does not exist."""
        await self._executor.execute(delete_command(key, cf), self._deadline(timeout))

    async def batch_get(
        self, keys: Iterable[bytes], *, cf: str = "", timeout: float | None = None
    ) -> dict[bytes, bytes]:
        """Return the values of those `keys` that exist, in ascending order of keys.

        Large batches are read in parts, so that answers stay small; together they are no snapshot.
        """
        family = checked_cf(cf)

        def make(items: Sequence[bytes]) -> RawBatchGet:
            return RawBatchGet(items, family)

        batch = BatchOperation(checked_keys(keys), _identity, len, make, AnswerKind(family))
        results = await self._run_batch(batch, self._deadline(timeout))
        return dict(sorted(pair for result in results for pair in result))

    async def batch_put(
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
        family, ttl_s = checked_cf(cf), checked_ttl(ttl)

        def make(items: Sequence[Pair]) -> RawBatchPut:
            return RawBatchPut(items, ttl_s, family)

        batch = BatchOperation(checked_pairs(pairs, self._value_bytes_max), _key_of_pair, _size_of_pair, make)
        await self._run_batch(batch, self._deadline(timeout))

    async def batch_delete(self, keys: Iterable[bytes], *, cf: str = "", timeout: float | None = None) -> None:
        """Remove several keys, whether they exist or not. Not atomic, as `batch_put`."""
        family = checked_cf(cf)

        def make(items: Sequence[bytes]) -> RawBatchDelete:
            return RawBatchDelete(items, family)

        batch = BatchOperation(checked_keys(keys), _identity, len, make)
        await self._run_batch(batch, self._deadline(timeout))

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
    ) -> AsyncScan:
        """Iterate over the pairs with keys from `start` on and below `end`, or those that begin with `prefix`.

        Yields `(key, value)` in ascending order, or descending with `reverse` (the range means the same); at most `limit`
        pairs; with `key_only` the values are empty. Without arguments it goes over all keys of the column family.

        Pairs are fetched in pages of about 1 MiB, at most one page ahead of what was yielded: the scan is no snapshot, and a
        write made during it may or may not show. `timeout` holds for each page.
        """
        return AsyncScan(
            self.pages(
                ScanRequest.checked(
                    start, end, prefix=prefix, limit=limit, reverse=reverse, key_only=key_only, timeout=timeout
                ),
                cf,
            )
        )

    def pages(self, scan: ScanRequest, cf: str) -> Pages:
        """Return the pages of a scan; for `scan` here and in the synchronous face."""
        family = checked_cf(cf)

        def make(range_: KeyRange, rows: int) -> RawScan:
            return RawScan(range_, limit=rows, reverse=scan.reverse, key_only=scan.key_only, cf=family)

        return ScanPager(self._executor, scan, make, AnswerKind(family, key_only=scan.key_only))

    async def delete_range(
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
        left, family = checked_deletion(start, end, prefix, everything=everything), checked_cf(cf)
        deadline = self._deadline(timeout)
        done = False
        while left is not None:
            command = RawDeleteRange(left, family)
            try:
                await self._executor.execute(command, deadline)
            except ClientError as error:
                if not done or error.undetermined:
                    raise
                raise UndeterminedError(f"the range was deleted up to {left.start!r} only: {error}") from error
            done = True
            left = left.behind(command.covered)

    async def ttl(self, key: bytes, *, cf: str = "", timeout: float | None = None) -> float | None:
        """Return after how many seconds `key` ends: `math.inf` if it stays, None if it does not exist."""
        return await self._executor.execute(RawTtl(checked_key(key), checked_cf(cf)), self._deadline(timeout))

    async def compare_and_swap(
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
        command = RawCompareAndSwap(
            checked_key(key),
            expected=None if expected is None else checked_value(expected, self._value_bytes_max, "expected"),
            value=checked_value(value, self._value_bytes_max),
            ttl_s=checked_ttl(ttl),
            cf=checked_cf(cf),
        )
        return await self._executor.execute(command, self._deadline(timeout))

    async def checksum(
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
        left = checked_range(start, end, prefix)
        deadline = self._deadline(timeout)
        total = Checksum(0, 0, 0)
        while left is not None:
            command = RawChecksum(left)
            part = await self._executor.execute(command, deadline)
            total = Checksum(
                total.checksum ^ part.checksum, total.total_kvs + part.total_kvs, total.total_bytes + part.total_bytes
            )
            left = left.behind(command.covered)
        return total

    def _deadline(self, timeout: float | None) -> float:
        return self._executor.deadline(None if timeout is None else checked_timeout(timeout))


def _identity(key: bytes) -> bytes:
    return key


def _key_of_pair(pair: Pair) -> bytes:
    return pair[0]


def _size_of_pair(pair: Pair) -> int:
    return len(pair[0]) + len(pair[1])
