"""Raw operations: single keys and ranges without transactions, each linearizable for itself (asynchronous face)."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence

from pytinykv.client.answer_sizes import AnswerKind
from pytinykv.client.arguments import (
    checked_cf,
    checked_key,
    checked_keys,
    checked_limit,
    checked_pairs,
    checked_range,
    checked_timeout,
    checked_ttl,
    checked_value,
)
from pytinykv.client.batches import Batch, run_batch
from pytinykv.client.commands import Pair
from pytinykv.client.errors import ClientError, UndeterminedError
from pytinykv.client.executor import Executor
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
    RawTtl,
)
from pytinykv.client.scanning import ScanPager


def get_command(key: bytes, cf: str) -> RawGet:
    """Return the checked command of a `get`."""
    return RawGet(checked_key(key), checked_cf(cf) if cf else "")


def put_command(key: bytes, value: bytes, ttl: int, cf: str, value_bytes_max: int) -> RawPut:
    """Return the checked command of a `put`."""
    value = checked_value(value, value_bytes_max)
    return RawPut(checked_key(key), value, checked_ttl(ttl) if ttl != 0 else 0, checked_cf(cf) if cf else "")


def delete_command(key: bytes, cf: str) -> RawDelete:
    """Return the checked command of a `delete`."""
    return RawDelete(checked_key(key), checked_cf(cf) if cf else "")


class AsyncScan(AsyncIterator[Pair]):
    """The pairs of a scan, fetched as they are asked for. Use it in `async for`; it holds nothing that needs closing."""

    def __init__(self, pager: ScanPager) -> None:
        self._pager = pager
        self._page: deque[Pair] = deque()
        self._paging = asyncio.Lock()

    async def __anext__(self) -> Pair:
        if not self._page:
            self._pager.check_origin()
            async with self._paging:  # tasks that share a scan each get their part of it
                if not self._page:
                    self._page = await self._pager.next_page()
                if not self._page:
                    raise StopAsyncIteration
                return self._page.popleft()
        return self._page.popleft()


class AsyncRawClient:
    """Keys and values are bytes. What holds for every operation:

    * `cf`: "default", "lock" or "write", three name spaces that share nothing.
    * `timeout`: seconds for the operation with all its retries; None is the client's default (10 s).
    * `InvalidArgumentError` for an argument that can't be right, before anything is sent.
    * `DeadlineExceededError` and `SchedulerUnavailableError`: nothing was changed, trying again is safe.
    * `UndeterminedError`, from writes only: the write may have happened, or may still happen. It is never repeated behind
      the caller's back. (The same holds for a write whose task is cancelled.)
    """

    def __init__(self, executor: Executor) -> None:
        self._executor = executor
        self._value_bytes_max = executor.config.value_bytes_max

    async def get(self, key: bytes, *, cf: str = "", timeout: float | None = None) -> bytes | None:
        """Return the value of `key`, None if there is none."""
        return await self._executor.execute(get_command(key, cf), self._deadline(timeout))

    async def put(self, key: bytes, value: bytes, *, ttl: int = 0, cf: str = "", timeout: float | None = None) -> None:
        """Set `key`. With `ttl` it vanishes after so many seconds; 0 keeps it for ever."""
        command = put_command(key, value, ttl, cf, self._value_bytes_max)
        await self._executor.execute(command, self._deadline(timeout))

    async def delete(self, key: bytes, *, cf: str = "", timeout: float | None = None) -> None:
        """Remove `key`; fine if it does not exist."""
        await self._executor.execute(delete_command(key, cf), self._deadline(timeout))

    async def batch_get(
        self, keys: Iterable[bytes], *, cf: str = "", timeout: float | None = None
    ) -> dict[bytes, bytes]:
        """Return the values of those `keys` that exist, in ascending order of keys. No snapshot across regions."""
        family = checked_cf(cf)

        def make(items: Sequence[bytes]) -> RawBatchGet:
            return RawBatchGet(items, family)

        batch = Batch(checked_keys(keys), _identity, len, make, AnswerKind(family))
        results = await run_batch(self._executor, batch, self._deadline(timeout))
        return dict(sorted(pair for result in results for pair in result))

    async def batch_put(
        self,
        pairs: Mapping[bytes, bytes] | Iterable[tuple[bytes, bytes]],
        *,
        ttl: int = 0,
        cf: str = "",
        timeout: float | None = None,
    ) -> None:
        """Set several keys. Not atomic: after an error some may be set and others not (then it is `undetermined`)."""
        family, ttl_s = checked_cf(cf), checked_ttl(ttl)

        def make(items: Sequence[Pair]) -> RawBatchPut:
            return RawBatchPut(items, ttl_s, family)

        batch = Batch(checked_pairs(pairs, self._value_bytes_max), _key_of_pair, _size_of_pair, make)
        await run_batch(self._executor, batch, self._deadline(timeout))

    async def batch_delete(self, keys: Iterable[bytes], *, cf: str = "", timeout: float | None = None) -> None:
        """Remove several keys. Not atomic, as `batch_put`."""
        family = checked_cf(cf)

        def make(items: Sequence[bytes]) -> RawBatchDelete:
            return RawBatchDelete(items, family)

        batch = Batch(checked_keys(keys), _identity, len, make)
        await run_batch(self._executor, batch, self._deadline(timeout))

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

        In ascending order, or descending with `reverse` (the range means the same). At most `limit` pairs. With
        `key_only` the values are empty. Pages are fetched as they are needed; `timeout` holds for each.
        """
        return AsyncScan(
            self.pager(
                start, end, prefix=prefix, limit=limit, reverse=reverse, key_only=key_only, cf=cf, timeout=timeout
            )
        )

    def pager(
        self,
        start: bytes,
        end: bytes | None,
        *,
        prefix: bytes | None,
        limit: int | None,
        reverse: bool,
        key_only: bool,
        cf: str,
        timeout: float | None,
    ) -> ScanPager:
        """Return the pages of a scan; for `scan` here and in the synchronous face."""
        return ScanPager(
            self._executor,
            checked_range(start, end, prefix),
            limit=checked_limit(limit),
            reverse=reverse,
            key_only=key_only,
            cf=checked_cf(cf),
            timeout_s=checked_timeout(timeout),
        )

    async def delete_range(
        self,
        start: bytes = b"",
        end: bytes | None = None,
        *,
        prefix: bytes | None = None,
        cf: str = "",
        timeout: float | None = None,
    ) -> None:
        """Remove the keys of a range (as in `scan`; without arguments, all). Not atomic, as `batch_put`."""
        left, family = checked_range(start, end, prefix), checked_cf(cf)
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

    async def ttl(self, key: bytes, *, cf: str = "", timeout: float | None = None) -> int | None:
        """Return how many seconds `key` has left to live: 0 when it lives for ever, None when it does not exist."""
        return await self._executor.execute(RawTtl(checked_key(key), checked_cf(cf)), self._deadline(timeout))

    async def compare_and_swap(
        self,
        key: bytes,
        expected: bytes | None,
        value: bytes,
        *,
        ttl: int = 0,
        cf: str = "",
        timeout: float | None = None,
    ) -> CasResult:
        """Set `key` to `value` if its value is `expected` (None: if it does not exist), atomically.

        Returns whether it did, and the value before. A real TiKV guarantees this only among compare-and-swaps.
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
        """Return checksum, number of pairs and bytes of a range of the default column family."""
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
