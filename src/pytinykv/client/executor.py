"""Brings commands to the store that leads their region, and learns from what comes back.

    execute ──region and store known──► submit ──reply──► decode                        the path of nearly every command
       │                                   │
       └── unknown ──► `router` finds them └── region error, broken stream … ──► react, pause, again, until the deadline

The cheap path makes one future and awaits it once. Everything else (`recover`) may be slow, and decides by `retry_policy`.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Callable, Sequence
from random import Random
from typing import Any, Generic, NamedTuple, TypeVar

from pytinykv.client.attempts import AttemptFailure
from pytinykv.client.backoff import Backoff
from pytinykv.client.commands import BatchCommand, Command
from pytinykv.client.config import ClientConfig
from pytinykv.client.errors import (
    ClientClosedError,
    ClientError,
    NotBootstrappedError,
    SchedulerUnavailableError,
    StoreNotFoundError,
    UndeterminedError,
    refuse_forked_child,
)
from pytinykv.client.pd.scheduler_client import SchedulerClient
from pytinykv.client.region_cache import Region
from pytinykv.client.retry_policy import Pause, Retry, deadline_exceeded, on_failure, on_region_error
from pytinykv.client.router import Router
from pytinykv.client.store_connection import StoreConnection
from pytinykv.lifecycle import Scope
from pytinykv.wire import Connector
from pytinykv.wire import errors as wire_errors
from pytinykv.wire.errors import RegionError

_log = logging.getLogger(__name__)

WRITE_RETRY_LEFT_MIN_S = 0.01
"""A write is not sent once more with less time left than this: an error that is sure beats one that is undetermined."""

_T = TypeVar("_T")
_ItemT = TypeVar("_ItemT")
Trouble = AttemptFailure | RegionError
"""Why an attempt failed."""


class Batch(NamedTuple, Generic[_ItemT, _T]):
    """A batch operation before it is cut into commands."""

    items: Sequence[_ItemT]
    """Sorted by key, no key twice."""
    key_of: Callable[[_ItemT], bytes]
    size_of: Callable[[_ItemT], int]
    make: Callable[[Sequence[_ItemT]], BatchCommand[_ItemT, _T]]
    """Makes the command for items that lie in one region."""


class Executor:
    """Runs the commands of one client. All methods belong to the event loop's thread."""

    def __init__(
        self, scheduler: SchedulerClient, *, connector: Connector, rng: Random, scope: Scope, config: ClientConfig
    ) -> None:
        self.config = config
        self._pid = os.getpid()
        self.router = Router(scheduler, connector=connector, rng=rng, scope=scope, config=config)
        self._rng = rng
        self._loop = asyncio.get_running_loop()
        self._closed = False
        self._closing: asyncio.Future[None] = self._loop.create_future()
        """Resolved by `close`; ends pauses."""

    def deadline(self, timeout_s: float | None) -> float:
        """Return the deadline, in loop time, of a call that begins now. Raises `ClientForkedError` where none can begin."""
        refuse_forked_child(self._pid)
        return self._loop.time() + (self.config.timeout_s if timeout_s is None else timeout_s)

    def close(self) -> None:
        """Resolve every pending command and close the streams."""
        self._closed = True
        if not self._closing.done():
            self._closing.set_result(None)
        self.router.close()

    # --- one command --------------------------------------------------------------------------------------------

    async def execute(self, command: Command[_T], deadline: float) -> _T:
        """Run `command` where it belongs and return its result. Raises `ClientError`."""
        future = self.submit(command, deadline)
        if future is None:
            return await self.recover(command, deadline, None)
        reply = await future
        outcome = self.outcome(command, reply)
        if outcome is None:
            return command.decode(getattr(reply, command.field))
        return await self.recover(command, deadline, outcome)

    def submit(self, command: Command[Any], deadline: float) -> asyncio.Future[Any] | None:
        """Send `command` if its route is known; otherwise None, and `recover` finds one."""
        if command.unary_path is not None or self._closed:
            return None
        router = self.router
        region = command.locate(router.regions)
        if region is None:
            return None
        store = router.stores.get(region.store_id)
        if store is None:
            return None
        return store.submit(command, region, self._attempt_deadline(command, deadline))

    def outcome(self, command: Command[Any], reply: Any) -> Trouble | None:
        """Return why `reply` is none; None if it is one, fit for `command.decode`."""
        if type(reply) is AttemptFailure:
            return reply
        if command.unary_path is None:
            if not reply.HasField(command.field):
                return wire_errors.UnknownRegionError(
                    f"the store answered {reply.WhichOneof('cmd')} to {command.field}"
                )
            reply = getattr(reply, command.field)
        return RegionError.from_pb(reply.region_error) if reply.HasField("region_error") else None

    async def recover(self, command: Command[_T], deadline: float, trouble: Trouble | None) -> _T:
        """Carry on after a first attempt that failed with `trouble` (None: there was none), until the deadline."""
        backoff = self._backoff(deadline)
        while True:
            if trouble is not None:
                await self._pause([self._judge(command, trouble, deadline)], backoff)
            self._check_time(command, deadline, trouble)
            region, store = await self._route(command, deadline, trouble)
            attempt_deadline = self._attempt_deadline(command, deadline)
            if command.unary_path is not None:
                reply = await store.call(command, region, attempt_deadline)
            else:
                reply = await store.submit(command, region, attempt_deadline)
            trouble = self.outcome(command, reply)
            if trouble is None:
                return command.decode(reply if command.unary_path is not None else getattr(reply, command.field))
            _log.debug("%s: %s", command.describe(), trouble)

    def last_word(self, command: Command[Any], trouble: Trouble | None) -> ClientError:
        """Return the error of a command that gets no further attempt because the client is closing."""
        try:
            if trouble is not None:
                self._judge(command, trouble, self._loop.time())
        except ClientError as error:
            return error
        return ClientClosedError(f"{command.describe()}: the client was closed; nothing was changed")

    def _attempt_deadline(self, command: Command[Any], deadline: float) -> float:
        if command.write:
            return deadline
        return min(deadline, self._loop.time() + self.config.read_attempt_timeout_s)

    def _check_time(self, command: Command[Any], deadline: float, trouble: object) -> None:
        if self._closed:
            raise ClientClosedError(f"{command.describe()}: the client is closed; nothing was changed")
        if self._is_late(command, deadline, trouble):
            raise deadline_exceeded(command, str(trouble or "its region was not found"))

    def _is_late(self, command: Command[Any], deadline: float, trouble: object) -> bool:
        needed_s = WRITE_RETRY_LEFT_MIN_S if command.write and trouble is not None else 0.0
        return self._loop.time() + needed_s >= deadline

    # --- many keys ----------------------------------------------------------------------------------------------

    async def execute_batch(self, batch: Batch[_ItemT, _T], deadline: float) -> list[_T]:
        """Run a batch in commands of one region each, all under way at once; return their results.

        Items of a failed attempt are grouped anew, as their region may have split. If one command fails for good, the
        others are still waited for; then the gravest error is raised. A write of which a part was executed counts as
        undetermined.
        """
        results: list[_T] = []
        backoff = self._backoff(deadline)
        pending = batch.items
        trouble: Trouble | None = None
        while pending:
            errors: list[ClientError] = []
            retries: list[Retry] = []
            try:
                attempts = await self._submit_batch(batch, pending, deadline, trouble)
            except ClientError as error:
                attempts = []
                errors.append(error)
            pending = []
            for command, future in attempts:
                reply = await future
                try:
                    failure = self.outcome(command, reply)
                    if failure is None:
                        results.append(command.decode(getattr(reply, command.field)))
                        continue
                    trouble = failure
                    retries.append(self._judge(command, failure, deadline))
                    pending += command.items
                except ClientError as error:
                    errors.append(error)
            if errors:
                raise _gravest(errors, partly_done=bool(results) and batch.make(batch.items).write)
            if pending:
                await self._pause(retries, backoff)
        return results

    async def _submit_batch(
        self, batch: Batch[_ItemT, _T], items: Sequence[_ItemT], deadline: float, trouble: Trouble | None
    ) -> list[tuple[BatchCommand[_ItemT, _T], asyncio.Future[Any]]]:
        """Send `items` in commands of one region each; all routes are found before the first is sent."""
        commands = [batch.make(chunk) for chunk in await self._chunks(batch, items, deadline, trouble)]
        routes = [await self._route(command, deadline, trouble) for command in commands]
        return [
            (command, store.submit(command, region, self._attempt_deadline(command, deadline)))
            for command, (region, store) in zip(commands, routes, strict=True)
        ]

    async def _chunks(
        self, batch: Batch[_ItemT, Any], items: Sequence[_ItemT], deadline: float, trouble: Trouble | None
    ) -> list[Sequence[_ItemT]]:
        """Cut `items` where regions end, and where a command would grow too large."""
        chunks: list[Sequence[_ItemT]] = []
        chunk: list[_ItemT] = []
        region: Region | None = None
        size = 0
        for item in items:
            key = batch.key_of(item)
            size += batch.size_of(item)
            if region is None or not region.contains(key):
                region, _ = await self._route(batch.make([item]), deadline, trouble)
                full = True
            else:
                full = len(chunk) >= self.config.batch_keys_max or size > self.config.batch_bytes_max
            if full and chunk:
                chunks.append(chunk)
                chunk = []
                size = batch.size_of(item)
            chunk.append(item)
        chunks.append(chunk)
        return chunks

    # --- learning from failures ---------------------------------------------------------------------------------

    def _judge(self, command: Command[Any], trouble: Trouble, deadline: float) -> Retry:
        """Decide about a failure, and forget or learn what follows from it. Raises what is final."""
        region = command.region
        assert region is not None
        if isinstance(trouble, AttemptFailure):
            retry = on_failure(command, trouble, time_left=self._loop.time() < deadline)
        else:
            retry = on_region_error(command, trouble)
            self.router.learn(region, trouble)
        self.router.forget(region, retry)
        return retry

    async def _pause(self, retries: Sequence[Retry], backoff: Backoff) -> None:
        """Pause for the longest of several retries; "at once" is granted once per call."""
        if all(retry.pause is Pause.NONE for retry in retries) and backoff.attempts == 0:
            backoff.attempts += 1
            return
        await backoff.pause(max(retry.pause_at_least_s for retry in retries))

    def _backoff(self, deadline: float) -> Backoff:
        return Backoff(self.config, deadline=deadline, rng=self._rng, closing=self._closing)

    async def _route(self, command: Command[Any], deadline: float, trouble: object) -> tuple[Region, StoreConnection]:
        """Return the region and store for `command`, asking again and again until they are known."""
        backoff = self._backoff(deadline)
        while True:
            self._check_time(command, deadline, trouble)
            try:
                found = await self.router.find(command, deadline)
                if found is not None:
                    return found
                trouble = trouble or "the scheduler knows no region with a leader for it"
            except (NotBootstrappedError, StoreNotFoundError) as error:
                trouble = error
            except SchedulerUnavailableError as error:
                raise SchedulerUnavailableError(f"{command.describe()} was not executed: {error}") from error
            await backoff.pause()


def _gravest(errors: Sequence[ClientError], *, partly_done: bool) -> ClientError:
    """Return the error that says most about what may have happened."""
    error = max(errors, key=lambda error: error.undetermined)
    if not partly_done or error.undetermined:
        return error
    grave = UndeterminedError(f"only a part of the batch was executed: {error}")
    grave.__cause__ = error
    return grave
