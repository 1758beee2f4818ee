"""Keeps the locks of a transaction alive while its owner is: the primary's time to live is made longer, again and again.

    begin ──pause──► TxnHeartBeat ──pause──► …      until `stop`, or the lock is gone, or the transaction is too old

The task starts only when the first pause is over: a transaction that ends within it, as nearly all do, costs a timer.
"""

from __future__ import annotations

import asyncio
import logging
from typing import Final

from pytinykv.client.errors import ClientError, TransactionError
from pytinykv.client.executor import Executor
from pytinykv.client.txn.lock_commands import ExtendTtl
from pytinykv.client.txn.records import Txn
from pytinykv.lifecycle import Scope

_log = logging.getLogger(__name__)

BEATS_PER_TTL: Final = 3
"""Two may get lost before the locks run out."""


class Heartbeat:
    """The heartbeat of one transaction. `txn.lost` says so when there is nothing left to keep alive."""

    def __init__(self, executor: Executor, scope: Scope, txn: Txn, primary: bytes, ttl_s: float) -> None:
        """Begin: the first beat comes after a third of `ttl_s`, for which the locks stand by themselves.

        None is sent as long as the primary is not locked (`txn.primary`): a commit may have to wait for that.
        """
        self._executor = executor
        self._scope = scope
        self._txn = txn
        self._primary = primary
        self._ttl_s = ttl_s
        self._loop = executor.origin.loop
        self._stopped = False
        """Set by `stop`, and never unset: no beat begins any more."""
        self._task: asyncio.Task[None] | None = None
        """Sends the beats; None until the first pause is over. Owned by the scope."""
        self._timer: asyncio.TimerHandle = self._loop.call_later(ttl_s / BEATS_PER_TTL, self._start)

    def stop(self) -> None:
        """End it: the locks are gone, or are to run out."""
        self._stopped = True
        self._timer.cancel()
        if self._task is not None:
            self._task.cancel()

    def _start(self) -> None:
        if not self._stopped and not self._scope.stopping:
            self._task = self._scope.start("heartbeat", self._run).task

    async def _run(self) -> None:
        pause_s = self._ttl_s / BEATS_PER_TTL
        until = self._txn.begun_at + self._executor.config.transaction_lifetime_s
        while not self._stopped and self._loop.time() < until:
            try:
                if self._txn.primary is not None:
                    await self._beat(pause_s)
            except TransactionError as error:
                self._txn.lost = str(error)
                return
            except ClientError as error:
                _log.info("a heartbeat of transaction %d failed: %s", self._txn.start_ts, error)
            await asyncio.sleep(pause_s)
        if not self._stopped:
            self._txn.lost = f"it is older than {self._executor.config.transaction_lifetime_s:.0f} s"

    async def _beat(self, timeout_s: float) -> None:
        ttl_ms = self._txn.ttl_ms(self._loop.time(), self._ttl_s)
        command = ExtendTtl(self._primary, self._txn.start_ts, ttl_ms)
        await self._executor.execute(command, self._executor.deadline(timeout_s))
