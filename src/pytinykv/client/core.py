"""What the blocking faces stand on: a client whose operations are coroutines, and a way to run them in a caller's thread.

Client, Transaction, Snapshot, RawClient, Scan
│
Core                SyncCore: a cluster's client in a loop thread      (an embedded database: in the caller's thread)
│
AsyncParts            AsyncClient                                        (the same over the database)
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any, Protocol, TypeVar

from pytinykv.client.commands import Command, Effect
from pytinykv.client.config import ClientConfig
from pytinykv.client.raw import AsyncRawClient
from pytinykv.client.txn.manager import TransactionManager
from pytinykv.client.txn.snapshot import AsyncSnapshot
from pytinykv.client.txn.transaction import AsyncTransaction

_T = TypeVar("_T")


class AsyncParts(Protocol):
    """What an asynchronous client offers to a blocking one; see `AsyncClient`."""

    @property
    def raw(self) -> AsyncRawClient: ...

    @property
    def transactions(self) -> TransactionManager: ...

    @property
    def cluster_id(self) -> int: ...

    def transaction(self, *, pessimistic: bool = False, timeout: float | None = None) -> AsyncTransaction: ...

    def snapshot(self, ts: int | None = None, *, timeout: float | None = None) -> AsyncSnapshot: ...

    async def timestamp(self, *, timeout: float | None = None) -> int: ...


Work = Callable[[AsyncParts], Coroutine[Any, Any, _T]]


class Core(Protocol):
    """Runs operations for threads. Thread-safe. All methods raise `ClientError`."""

    config: ClientConfig

    @property
    def client(self) -> AsyncParts: ...

    @property
    def closed(self) -> bool:
        """Whether calls are refused."""

    def run_command(self, command: Command[_T], timeout_s: float | None) -> _T:
        """Run a command; return its result or raise its error."""

    def run(self, work: Work[_T], timeout_s: float | None, effect: Effect = Effect.READ) -> _T:
        """Run a coroutine, which keeps `timeout_s` itself; return its result or raise its error."""

    def run_coroutine(
        self, coroutine: Coroutine[Any, Any, _T], timeout_s: float | None, effect: Effect = Effect.READ
    ) -> _T:
        """As `run`, for a coroutine that is there already; it is closed if it can't be run."""

    def run_plain(self, function: Callable[[AsyncParts], _T]) -> _T:
        """Return the result of a function that does not wait."""

    def close(self) -> None:
        """End all calls and everything that runs. Any number of times, from any thread; in a forked child only forget."""

    def abandon(self) -> None:
        """Begin to close, without waiting: for finalizers, which may run in any thread."""
