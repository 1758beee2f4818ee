"""The asynchronous client: a scheduler to ask, an executor for commands, and the scope that owns their tasks."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from functools import partial
from random import Random
from typing import Self

from pytinykv.client.arguments import checked_timeout
from pytinykv.client.async_base import AsyncBase
from pytinykv.client.batches import run_batch
from pytinykv.client.config import ClientConfig
from pytinykv.client.errors import ClientClosedError
from pytinykv.client.executor import Executor
from pytinykv.client.origin import LoopOrigin
from pytinykv.client.pd.scheduler_client import SchedulerClient
from pytinykv.client.raw import AsyncRawClient
from pytinykv.client.txn.cluster_backend import ClusterBackend
from pytinykv.client.txn.inspection import Inspector
from pytinykv.client.txn.manager import TransactionManager
from pytinykv.lifecycle import STOP_DEADLINE_S, Scope, StopReport
from pytinykv.wire import Connector


class AsyncClient(AsyncBase):
    """A client of one cluster, for one event loop.

        async with AsyncClient("127.0.0.1:2379", connector=…, rng=…, scope=…) as db:
            await db.raw.put(b"k", b"v")
            async with db.transaction() as txn:
                await txn.put(b"k", b"v")

    Entering (or awaiting) it finds the scheduler, so that a wrong address shows at once; leaving closes it. Without
    `async with` it needs `close`. `pytinykv.aio.connect` makes one. In another event loop or thread every call, scan and
    `close` raises `WrongEventLoopError` before anything is sent; in a forked child `ClientForkedError`, and `close` does
    nothing.
    """

    def __init__(
        self,
        addresses: str | Iterable[str],
        *,
        connector: Connector,
        rng: Random,
        scope: Scope,
        config: ClientConfig | None = None,
    ) -> None:
        """Make a client within a running event loop; nothing is sent yet. Raises `WrongEventLoopError` without one.

        `scope` is the client's own: closing stops it. `connector` too is closed with the client.
        """
        self._config = config or ClientConfig()
        self._config.validate()
        self._origin = LoopOrigin()
        self._scope = scope
        self._connector = connector
        self.scheduler = SchedulerClient(addresses, connector=connector, rng=rng, scope=scope, config=self._config)
        self._executor = Executor(self.scheduler, connector=connector, rng=rng, scope=scope, config=self._config)
        self._raw = AsyncRawClient(self._executor, partial(run_batch, self._executor))
        backend = ClusterBackend(self._executor, self.scheduler, scope)
        self._background = backend.background
        self.inspector = Inspector(self._executor, self.scheduler, backend.resolver)
        """For tools."""
        self._transactions = TransactionManager(backend)
        self._closed = False
        """Set when the close begins, by `close` or the scope's stop; never unset."""
        scope.on_stop("end transactions", self._end_transactions, self._config.close_transactions_s + 0.5)
        scope.on_stop("resolve pending calls", self._cut_off)
        scope.on_stop("close connections", connector.close, deadline_s=2.0)

    def __repr__(self) -> str:
        state = "closed" if self._closed else "open"
        return f"<AsyncClient of {self.scheduler!r}, cluster {self.scheduler.cluster_id}, {state}>"

    @property
    def raw(self) -> AsyncRawClient:
        """Raw operations: keys, batches of keys and ranges, without transactions."""
        return self._raw

    @property
    def transactions(self) -> TransactionManager:
        """Makes transactions and snapshots."""
        return self._transactions

    async def timestamp(self, *, timeout: float | None = None) -> int:
        """Return a timestamp of the cluster (milliseconds since 1970 << 18 | counter), greater than all given out before.

        Raises `SchedulerUnavailableError` after `timeout` seconds.
        """
        return await self.scheduler.timestamp(checked_timeout(timeout))

    @property
    def cluster_id(self) -> int:
        """The id of the cluster."""
        return self.scheduler.cluster_id

    @property
    def executor(self) -> Executor:
        """Router and connections; for tools and tests."""
        return self._executor

    async def open(self, timeout: float | None = None) -> Self:
        """Find the scheduler's leader. Raises `SchedulerUnavailableError`."""
        self._origin.check()
        if self._closed:
            raise ClientClosedError("the client is closed; make a new one")
        await self.scheduler.connect(checked_timeout(timeout))
        return self

    async def close(self) -> StopReport:
        """Resolve all pending calls with `ClientClosedError`, close connections, stop tasks. Any number of times."""
        if not self._origin.is_here:  # forked: connections and tasks are the parent's
            self._closed = True
            return StopReport(self._scope.name, 0.0, ())
        self._origin.check()
        self._closed = True
        report = await self._scope.stop(STOP_DEADLINE_S)
        self.transactions.warn_left_open()
        return report

    async def _end_transactions(self) -> None:
        """End all open transactions, and wait a moment for what runs in the background."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self._config.close_transactions_s
        await self.transactions.abandon_all(deadline)
        await self._background.wait_idle(max(deadline - loop.time(), 0.0))

    def _cut_off(self) -> None:
        self._closed = True
        self._executor.close()
        self.scheduler.close()
