"""Commits a transaction: Percolator's two phases, or fewer where the stores offer it (Percolator, section 2.2).

    two phases   prewrite all ──► commit_ts from the scheduler ──► commit the primary ──► the rest, in the background
    async        prewrite all, each store names a min_commit_ts ──► committed at the largest ──► all keys, in the background
    one phase    prewrite all in one command, which commits them

The primary decides: before it is committed the transaction is not, afterwards it is. In an asynchronous commit the prewrites
decide together: it is committed once all locks stand, and each client that finds them all computes the same commit timestamp.

Invariants

1. No secondary is committed before the primary is known to be committed, but for an asynchronous commit all of whose
   prewrites were answered with a `min_commit_ts`.
2. An answer without `min_commit_ts` makes it two phases from then on; a commit timestamp of the scheduler that was fetched
   after the last prewrite is later than every `min_commit_ts`, or else the store says so and a later one is fetched.
3. The first `min_commit_ts` that is asked for lies above a timestamp fetched when the commit began: a transaction that
   begins after this one has ended sees it.
4. A prewrite that was sent twice may have been executed the first time. If it then fails, the primary is asked what became
   of the transaction before the caller is told that it failed (one phase and asynchronous commit; in two phases nothing is
   committed without us).
5. `UndeterminedError` is raised only when a command that decides may have been executed and no answer tells.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from functools import partial
from math import sqrt
from operator import attrgetter
from typing import Any, Final

from pytinykv.client.attempts import FAILURES, Attempts
from pytinykv.client.batches import BatchOperation, known_groups, run_batch
from pytinykv.client.commands import BatchCommand
from pytinykv.client.errors import (
    ClientClosedError,
    ClientError,
    DeadlineExceededError,
    TransactionAbortedError,
    TransactionError,
    UndeterminedError,
)
from pytinykv.client.key_space import MEMCOMPARABLE
from pytinykv.client.txn.commit_commands import (
    CommitKeys,
    CommitPrimary,
    PrewritePlan,
    Prewritten,
    TxnPrewrite,
    TxnRollback,
)
from pytinykv.client.txn.key_errors import CommitTsExpiredError, PlainBoundsError
from pytinykv.client.txn.lock_commands import UnlockKeys
from pytinykv.client.txn.parts import ClusterParts, TxnCall
from pytinykv.client.txn.records import CHECK_NOT_EXISTS, BufferedWrite, ForeignLock, Txn
from pytinykv.client.txn.resolver import run_keys
from pytinykv.wire.keys import describe_key
from pytinykv.wire.timestamp import MAX_TIMESTAMP

_log = logging.getLogger(__name__)

BACKGROUND_TIMEOUT_S: Final = 20.0
"""For secondaries and rollbacks; what is left then is resolved by the clients that meet it."""
TTL_S_PER_ROOT_MIB: Final = 6.0
"""Locks of large commits live longer: so many seconds times the root of their MiB."""
TTL_S_MAX: Final = 20.0


class Committer:
    """Commits the transactions of one client."""

    def __init__(self, parts: ClusterParts) -> None:
        self._parts = parts

    async def commit(self, txn: Txn, writes: Sequence[BufferedWrite], deadline: float) -> int:
        """See `TransactionBackend.commit`."""
        commit = _Commit(self._parts, txn, writes, deadline)
        ttl_s = self._parts.executor.config.lock_ttl_s
        heartbeat = txn.heartbeat or self._parts.heartbeat(txn, commit.primary, ttl_s)
        try:
            return await commit.run()
        finally:
            heartbeat.stop()


class _Commit(TxnCall):
    """One commit."""

    def __init__(self, parts: ClusterParts, txn: Txn, writes: Sequence[BufferedWrite], deadline: float) -> None:
        super().__init__(parts, txn, deadline)
        self._writes = writes
        self._keys = [write.key for write in writes if write.op != CHECK_NOT_EXISTS]
        """Those that get locks."""
        self.primary = txn.primary or (self._keys or [writes[0].key])[0]
        """The key that decides."""
        self._size = sum(write.size for write in writes)
        self._plan = PrewritePlan(txn, self.primary, len(writes), self._ttl_ms())
        self._commit_ts = 0
        """When it was committed by its prewrites alone; 0 if it was not, or not yet."""
        self._left_nothing = False
        """Whether it failed in its only prewrite, which wrote nothing then."""

    def _ttl_ms(self) -> int:
        config = self._executor.config
        ttl_s = max(config.lock_ttl_s, min(TTL_S_MAX, TTL_S_PER_ROOT_MIB * sqrt(self._size / (1 << 20))))
        return self._txn.ttl_ms(self._parts.now(), ttl_s)

    async def run(self) -> int:
        """Commit; see `TransactionBackend.commit`."""
        try:
            await self._choose_phases()
            await self._prewrite_all()
        except BaseException as error:  # noqa: BLE001 - raised again, unless it was committed
            return await self._end_failed_prewrite(error)
        if self._commit_ts:
            return self._commit_ts
        if not self._keys:
            return self._txn.start_ts  # only checks
        if self._plan.use_async_commit:
            await self._background_commit(self._keys, self._plan.min_commit_ts)
            return self._plan.min_commit_ts
        return await self._commit_primary()

    # --- prewrite -----------------------------------------------------------------------------------------------

    async def _choose_phases(self) -> None:
        plan, config, keys = self._plan, self._executor.config, self._keys
        plan.min_commit_ts = max(self._txn.start_ts, self._txn.for_update_ts) + 1
        plan.try_one_phase = config.one_phase_commit and bool(keys) and self._fits_one_command()
        if config.async_commit and 0 < len(keys) <= config.async_commit_keys_max:
            plan.use_async_commit = sum(map(len, keys)) <= config.async_commit_key_bytes_max
        if plan.use_async_commit or plan.try_one_phase:
            plan.secondaries = [key for key in keys if key != self.primary] if plan.use_async_commit else ()
            plan.min_commit_ts = max(plan.min_commit_ts, await self._timestamp() + 1)

    def _fits_one_command(self) -> bool:
        """Whether one prewrite may do for all writes, as far as is known of the regions."""
        config, writes = self._executor.config, self._writes
        if len(writes) > config.batch_keys_max or self._size > config.batch_bytes_max:
            return False
        route = self._executor.router.regions.locate(MEMCOMPARABLE.to_bound(writes[0].key))
        return route is None or route.contains(MEMCOMPARABLE.to_bound(writes[-1].key))

    async def _prewrite_all(self) -> None:
        """Lock all keys. Raises what is in the way for good."""
        attempts: Attempts = self._executor.begin(self._deadline)
        plan = self._plan
        min_commit_ts = plan.min_commit_ts
        pending = self._writes
        while pending:
            self._refuse_lost()
            operation = BatchOperation(
                pending, attrgetter("key"), attrgetter("size"), lambda items: TxnPrewrite(items, plan)
            )
            results = await run_batch(self._executor, operation, self._deadline)
            if errors := [result.error for result in results if result.error is not None]:
                is_only_one = len(results[0].mutations) == len(self._writes)
                self._left_nothing = is_only_one and not plan.was_repeated and not self._txn.locked
                raise errors[0]
            for result in results:
                if not result.locks:
                    min_commit_ts = max(min_commit_ts, self._take(result))
            blocked = [result for result in results if result.locks]
            pending = sorted(write for result in blocked for write in result.mutations)
            if pending:
                locks: list[ForeignLock] = [lock for result in blocked for lock in result.locks]
                await self._parts.resolver.clear_for_write(locks, self._txn, attempts, pause=True)
        plan.min_commit_ts = min_commit_ts

    def _take(self, result: Prewritten) -> int:
        """Take what a store has done with a batch; return the earliest commit timestamp that it demands."""
        if any(write.key == self.primary for write in result.mutations):
            self._txn.primary = self.primary  # for the heartbeat
        if result.one_phase_commit_ts:
            self._commit_ts = result.one_phase_commit_ts
        elif not result.min_commit_ts and any(write.op != CHECK_NOT_EXISTS for write in result.mutations):
            self._plan.use_async_commit = False
        return result.min_commit_ts

    def _refuse_lost(self) -> None:
        if self._txn.lost is not None:
            raise TransactionAbortedError(
                f"transaction {self._txn.start_ts} has lost its locks: {self._txn.lost}. Nothing was committed; run it again"
            )

    async def _end_failed_prewrite(self, error: BaseException) -> int:
        """Return when the transaction was committed, if it was in spite of `error`; otherwise clean up and raise."""
        by_prewrite = self._plan.use_async_commit or self._plan.was_one_phase
        if by_prewrite and isinstance(error, UndeterminedError):
            raise error
        if by_prewrite and self._plan.was_repeated and isinstance(error, TransactionError):
            commit_ts = await self._own_fate(error)
            if commit_ts:
                await self._background_commit(self._keys, commit_ts)
                return commit_ts
        was_sent = bool(self._plan.requested)
        if by_prewrite and was_sent and not isinstance(error, ClientError):
            raise error  # cancelled: what was sent may commit it, and others find out
        if not self._left_nothing and (was_sent or self._txn.locked):
            await self._background_rollback(error)
        if isinstance(error, ClientClosedError):
            raise ClientClosedError("the client was closed; the transaction was not committed") from error
        if isinstance(error, UndeterminedError):
            raise DeadlineExceededError(
                f"the transaction was not committed: its keys could not be locked in time: {error}"
            ) from error
        raise error

    async def _own_fate(self, error: TransactionError) -> int:
        try:
            return await self._parts.resolver.own_fate(self._txn, self.primary, self._deadline)
        except PlainBoundsError:
            raise error from None  # no lock was ever taken in the primary's region
        except ClientError as unknown:
            raise UndeterminedError(
                f"whether transaction {self._txn.start_ts} was committed is unknown: its prewrite was repeated and then "
                f"failed ({error}), and the primary {describe_key(self.primary)} does not tell: {unknown}"
            ) from error

    # --- commit -------------------------------------------------------------------------------------------------

    async def _commit_primary(self) -> int:
        """Commit the primary, and leave the rest to the background."""
        start_ts = self._txn.start_ts
        try:
            self._refuse_lost()
            command, commit_ts = await self._commit_late_enough()
        except UndeterminedError as error:
            raise type(error)(
                f"whether transaction {start_ts} was committed is unknown: {error}. Its primary is "
                f"{describe_key(self.primary)}"
            ) from error
        except ClientError as error:
            await self._background_rollback(error)
            raise
        covered = set(command.covered)
        await self._background_commit([key for key in self._keys if key not in covered], commit_ts)
        return commit_ts

    async def _commit_late_enough(self) -> tuple[CommitPrimary, int]:
        """Commit the primary later than all readers that have pushed it; return the command and the timestamp."""
        others = [key for key in self._keys if key != self.primary]
        while True:
            command = CommitPrimary(self.primary, others, self._txn.start_ts, await self._timestamp())
            try:
                return command, await self._executor.execute(command, self._deadline)
            except CommitTsExpiredError as error:
                if self._parts.now() >= self._deadline:
                    raise DeadlineExceededError(f"readers were always first: {error}") from error

    # --- what goes on in the background -------------------------------------------------------------------------

    async def _background_commit(self, keys: Sequence[bytes], commit_ts: int) -> None:
        if keys:
            self._parts.resolver.remember(self._txn.start_ts, commit_ts)
            if not self._send_commits(keys, commit_ts):
                work = self._commit_keys
                await self._parts.background.finish(self._deadline, "commit secondaries", work, keys, commit_ts)

    def _send_commits(self, keys: Sequence[bytes], commit_ts: int) -> bool:
        """Send the commits of `keys`; False if there is too much under way already, or a region's leader is not known.

        There is no task, as nearly all succeed at the first attempt; those that don't get one then.
        """
        background, executor = self._parts.background, self._executor
        attempts = executor.begin(executor.deadline(BACKGROUND_TIMEOUT_S))
        groups = known_groups(executor, self._commits(keys, commit_ts), keys, attempts) if background.has_room else None
        for command, route, store in groups or ():
            answer = executor.submit_to(command, route, store, attempts.deadline)
            background.count(answer, partial(self._on_committed, command, commit_ts))
        return groups is not None

    def _on_committed(self, command: BatchCommand[bytes, None], commit_ts: int, answer: asyncio.Future[Any]) -> None:
        """Take the answer to the first attempt, and repeat a commit that has failed for a reason of its region."""
        if answer.cancelled():
            return
        response = self._executor.response_of(command, answer.result())
        if isinstance(response, FAILURES):
            self._parts.background.start("commit secondaries", self._commit_keys, command.items, commit_ts)
            return
        try:
            command.decode(response)
        except ClientError as error:
            _log.debug("secondaries are left to others: %s", error)

    def _commits(self, keys: Sequence[bytes], commit_ts: int) -> BatchOperation[bytes, None]:
        start_ts = self._txn.start_ts
        return BatchOperation(keys, _identity, len, lambda items: CommitKeys(items, start_ts, commit_ts))

    async def _commit_keys(self, keys: Sequence[bytes], commit_ts: int) -> None:
        deadline = self._executor.deadline(BACKGROUND_TIMEOUT_S)
        await run_keys(self._executor, keys, self._commits(keys, commit_ts).make, deadline)

    async def _background_rollback(self, error: BaseException) -> None:
        """Remove what the prewrites may have left, unless nothing can be there, because of `error`."""
        if not self._keys:
            return
        if isinstance(error, ClientError):
            await self._parts.background.finish(self._deadline, "roll back", self._rollback)
        else:
            self._parts.background.start("roll back", self._rollback)  # cancelled: waits for nothing more

    async def _rollback(self) -> None:
        txn = self._txn
        deadline = self._executor.deadline(BACKGROUND_TIMEOUT_S)
        await run_keys(self._executor, self._keys, lambda items: TxnRollback(items, txn.start_ts), deadline)
        if txn.locked:
            keys = sorted(txn.locked)
            await run_keys(self._executor, keys, lambda items: UnlockKeys(items, txn.start_ts, MAX_TIMESTAMP), deadline)


def _identity(key: bytes) -> bytes:
    return key
