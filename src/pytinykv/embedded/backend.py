"""A database as the transactions of the client know it (`TransactionBackend`), for callers that may block.

No coroutine here ever suspends: what has to be waited for blocks the thread. So they are driven without a loop (`drive`), and
the transactions and snapshots of a cluster's client run on it as they are.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Coroutine, Sequence
from contextlib import AbstractAsyncContextManager
from types import TracebackType
from typing import Any, TypeVar

from pytinykv.client.config import ClientConfig
from pytinykv.client.errors import InvalidArgumentError
from pytinykv.client.scan_request import ScanRequest
from pytinykv.client.txn.backend import Pauses
from pytinykv.client.txn.records import BufferedWrite, SnapshotView, Txn
from pytinykv.embedded.database import Database
from pytinykv.embedded.oracle import LocalTxn, OpenView
from pytinykv.embedded.reads import LocalPages
from pytinykv.embedded.refusals import engine_error
from pytinykv.storage import EngineError

_T = TypeVar("_T")


def drive(coroutine: Coroutine[Any, Any, _T]) -> _T:
    """Run a coroutine that never suspends."""
    try:
        coroutine.send(None)
    except StopIteration as end:
        return end.value  # type: ignore[no-any-return]  # what the coroutine has returned
    coroutine.close()
    raise AssertionError(f"{coroutine!r} has suspended: it needs an event loop")


class ThreadMutex:
    """A lock of threads, for `async with`. Blocks."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        """Held by the thread that is inside."""

    async def __aenter__(self) -> None:
        self._lock.acquire()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._lock.release()


class BlockingPauses:
    """The pauses of one `run`: as those of a cluster's client, in the thread."""

    def __init__(self, config: ClientConfig, deadline: float) -> None:
        self._next_s = config.backoff_min_s
        """The longest that the next pause may be; doubled by each, up to `_max_s`."""
        self._max_s = config.backoff_max_s
        self._deadline = deadline

    async def pause(self) -> None:
        self.pause_now()

    def pause_now(self) -> None:
        """Block for the next pause."""
        time.sleep(self.next_s())

    def next_s(self) -> float:
        """Return how long the next pause is, never past the deadline."""
        pause_s = self._next_s * (0.5 + 0.5 * random.random())
        self._next_s = min(2 * self._next_s, self._max_s)
        return max(0.0, min(pause_s, self._deadline - time.monotonic()))


class LocalBackend:
    """See `TransactionBackend`. Thread-safe."""

    def __init__(self, database: Database, config: ClientConfig) -> None:
        self.config = config
        self.database = database

    def check(self) -> None:
        """Raise where the database can't be used."""
        self.database.check()

    def deadline(self, timeout_s: float | None) -> float:
        self.check()
        return time.monotonic() + (self.config.timeout_s if timeout_s is None else timeout_s)

    def is_over(self, deadline: float) -> bool:
        return time.monotonic() >= deadline

    def pauses(self, deadline: float) -> Pauses:
        return BlockingPauses(self.config, deadline)

    def mutex(self) -> AbstractAsyncContextManager[None]:
        return ThreadMutex()

    # --- beginning ----------------------------------------------------------------------------------------------

    async def begin(self, deadline: float, *, is_pessimistic: bool) -> LocalTxn:
        return self.database.begin(deadline, is_pessimistic=is_pessimistic)

    async def view(self, ts: int | None, deadline: float) -> SnapshotView:
        view = self.database.view(ts)
        if view is None:
            raise InvalidArgumentError(
                f"ts {ts} lies in the future of the database: what a snapshot there holds is not decided. Use a timestamp "
                "that the database has given, or leave it out for now"
            )
        return view

    # --- reading ------------------------------------------------------------------------------------------------

    async def get(self, view: SnapshotView, key: bytes, deadline: float) -> bytes | None:
        return self.get_now(self._open(view), key)

    def get_now(self, view: OpenView, key: bytes) -> bytes | None:
        """Return the value of a key."""
        try:
            return self.database.reads.get(view, key)
        except EngineError as error:
            self.database.check()
            raise engine_error(error) from error

    async def get_many(self, view: SnapshotView, keys: Sequence[bytes], deadline: float) -> dict[bytes, bytes]:
        open_view, get = self._open(view), self.get_now
        return {key: value for key in keys if (value := get(open_view, key)) is not None}

    def _open(self, view: SnapshotView) -> OpenView:
        """Return a view to read at; the newest state there is has one of its own."""
        return view if isinstance(view, OpenView) else self.database.oracle.view_of(view.ts)

    def pages(self, view: SnapshotView, scan: ScanRequest) -> LocalPages:
        return LocalPages(self.database.reads, view, scan, check=self.check)

    # --- writing ------------------------------------------------------------------------------------------------

    async def lock(
        self, txn: Txn, keys: Sequence[bytes], deadline: float, *, at_snapshot: bool, must_not_exist: bool, read: bool
    ) -> dict[bytes, bytes | None]:
        assert isinstance(txn, LocalTxn)
        return self.database.lock(
            txn, keys, deadline, at_snapshot=at_snapshot, must_not_exist=must_not_exist, read=read
        )

    async def commit(self, txn: Txn, writes: Sequence[BufferedWrite], deadline: float) -> int:
        assert isinstance(txn, LocalTxn)
        return self.database.commit(txn, writes, deadline)

    async def rollback(self, txn: Txn, deadline: float) -> None:
        assert isinstance(txn, LocalTxn)
        self.database.end(txn)

    def abandon(self, txn: Txn) -> None:
        assert isinstance(txn, LocalTxn)
        self.database.abandon(txn)
