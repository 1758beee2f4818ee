"""Brings commands to the store that leads their region, and learns from what comes back.

    execute ──route and store known──► submit ──reply──► decode                        the path of nearly every command
       │                                  │
       └── unknown ──► `router` finds it  └── region error, broken stream … ──► judge, pause, again, until the deadline

The cheap path makes one future and awaits it once. Everything else (`recover`) may be slow, and follows `retry_policy`.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from random import Random
from typing import Any, TypeVar

from pytinykv.client.answer_sizes import AnswerSizes
from pytinykv.client.attempts import FAILURES, AttemptFailure, Attempts, Failure, FailureKind
from pytinykv.client.backoff import Backoff
from pytinykv.client.commands import Command, Effect
from pytinykv.client.config import ClientConfig
from pytinykv.client.errors import (
    ClientError,
    NotBootstrappedError,
    SchedulerUnavailableError,
    StoreNotFoundError,
)
from pytinykv.client.origin import LoopOrigin
from pytinykv.client.pd.scheduler_client import SchedulerClient
from pytinykv.client.retry_policy import Pause, Retry, client_closed, judge, leaves_doubt, time_is_up
from pytinykv.client.route import Destination, Route
from pytinykv.client.router import Router
from pytinykv.client.store_connection import StoreConnection
from pytinykv.lifecycle import Scope
from pytinykv.wire import Connector
from pytinykv.wire import errors as wire_errors
from pytinykv.wire.errors import RegionError
from pytinykv.wire.pb import kvrpcpb_pb2

_log = logging.getLogger(__name__)

WRITE_RETRY_LEFT_MIN_S = 0.01
"""A write is not sent once more with less time left than this: an error that is sure beats one that is undetermined."""

_T = TypeVar("_T")


class Executor:
    """Runs the commands of one client. All methods belong to one event loop."""

    def __init__(
        self, scheduler: SchedulerClient, *, connector: Connector, rng: Random, scope: Scope, config: ClientConfig
    ) -> None:
        self.config = config
        self.origin = LoopOrigin()
        self.answer_sizes = AnswerSizes()
        """For scans and batches, which bound the bytes of their answers."""
        self.router = Router(scheduler, connector=connector, rng=rng, scope=scope, config=config)
        self._rng = rng
        self._loop = self.origin.loop
        self._closed = False
        """Set by `close`; from then on no attempt begins."""
        self._closing: asyncio.Future[None] = self._loop.create_future()
        """Resolved by `close`; ends pauses."""

    def deadline(self, timeout_s: float | None) -> float:
        """Return the deadline, in loop time, of a call that begins now; every call asks for one first.

        Raises `ClientForkedError` or `WrongEventLoopError` where none can begin.
        """
        self.origin.check()
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
        response = self.response_of(command, await future)  # as in `finish`: a coroutine more costs a third of a µs
        if isinstance(response, FAILURES):
            return await self.recover(command, deadline, response)
        return command.decode(response)

    async def finish(self, command: Command[_T], future: asyncio.Future[Any], deadline: float) -> _T:
        """Return the result of a command that was submitted; from a failed attempt on, as `execute`."""
        response = self.response_of(command, await future)
        if isinstance(response, FAILURES):
            return await self.recover(command, deadline, response)
        return command.decode(response)

    def known_way(self, bound: bytes, attempts: Attempts) -> tuple[Route, StoreConnection] | None:
        """Return the way to the region that holds `bound` if the first attempt may begin at once; None: ask `find`."""
        if self._closed or attempts.last_failure is not None or self._loop.time() >= attempts.deadline:
            return None
        route = self.router.regions.locate(bound)
        store = None if route is None else self.router.stores.get(route.store_id)
        return None if route is None or store is None else (route, store)

    def submit(self, command: Command[Any], deadline: float) -> asyncio.Future[Any] | None:
        """Send `command` if its route is known; otherwise None, and `recover` finds one."""
        if command.unary_path is not None or self._closed:
            return None
        router = self.router
        route = command.locate(router.regions)
        if route is None:
            return None
        store = router.stores.get(route.store_id)
        if store is None:
            return None
        return store.submit(command, route, self._attempt_deadline(command, deadline))

    def response_of(self, command: Command[Any], reply: Any) -> Any:
        """Return the response that a reply brings, fit for `command.decode`; or else the `Failure` that it is."""
        if type(reply) is AttemptFailure:
            return reply
        response = reply
        if command.unary_path is None:
            response = getattr(reply, command.field)
            if not reply.HasField(command.field):
                return wire_errors.UnknownRegionError(
                    f"the store answered {reply.WhichOneof('cmd')} to {command.field}"
                )
        if response.HasField("region_error"):
            return RegionError.from_pb(response.region_error)
        if command.pairs_field is not None:
            return _too_much(getattr(response, command.pairs_field)) or response
        return response

    async def recover(self, command: Command[_T], deadline: float, failure: Failure | None) -> _T:
        """Carry on after a first attempt that failed with `failure` (None: there was none), until the deadline."""
        attempts = self.begin(deadline)
        while True:
            if failure is not None:
                await self.pause([self.learn(command, failure, attempts)], attempts)
            route, store = await self.find(command, attempts)
            if command.unary_path is not None:
                reply = await store.call(command, route, self._attempt_deadline(command, deadline))
            else:
                reply = await self.submit_to(command, route, store, deadline)
            response = self.response_of(command, reply)
            if not isinstance(response, FAILURES):
                return command.decode(response)
            failure = response
            _log.debug("%s: %s", command.describe(), failure)

    def error_when_closing(self, command: Command[Any], failure: Failure | None) -> ClientError:
        """Return the error of a command that gets no further attempt because the client is closing."""
        maybe_executed = failure is not None and leaves_doubt(command, failure)
        if failure is not None:
            try:
                judge(command, failure, maybe_executed=maybe_executed, time_left=False)
            except ClientError as error:
                return error
        return client_closed(command, failure, maybe_executed=maybe_executed)

    def _attempt_deadline(self, command: Command[Any], deadline: float) -> float:
        if command.effect is Effect.ONCE:
            return deadline
        return min(deadline, self._loop.time() + self.config.read_attempt_timeout_s)

    # --- what `recover` and batches share -----------------------------------------------------------------------

    def begin(self, deadline: float) -> Attempts:
        """Return the record of a call's attempts, before the first of them."""
        return Attempts(deadline, self._backoff)

    def submit_to(
        self, command: Command[Any], route: Route, store: StoreConnection, deadline: float
    ) -> asyncio.Future[Any]:
        """Send a command on a way that was found before; the future gets the reply or an `AttemptFailure`."""
        return store.submit(command, route, self._attempt_deadline(command, deadline))

    def learn(self, command: Command[Any], failure: Failure, attempts: Attempts) -> Retry:
        """Judge a failure, and forget or learn what follows from it. Raises what is final."""
        assert command.route is not None
        attempts.last_failure = failure
        maybe_executed = leaves_doubt(command, failure)
        if command.effect is Effect.IDEMPOTENT:
            maybe_executed = attempts.maybe_executed = attempts.maybe_executed or maybe_executed
        retry = judge(command, failure, maybe_executed=maybe_executed, time_left=self._loop.time() < attempts.deadline)
        if isinstance(failure, RegionError):
            self.router.learn(command.route, failure)
        self.router.forget(command.route, retry)
        if retry.shrink:
            command.shrink()
        return retry

    async def pause(self, retries: Sequence[Retry], attempts: Attempts) -> None:
        """Pause for the longest of several retries; "at once" is granted once per call."""
        backoff = attempts.backoff
        if all(retry.pause is Pause.NONE for retry in retries) and backoff.attempts == 0:
            backoff.attempts += 1
            return
        await backoff.pause(max(retry.pause_at_least_s for retry in retries))

    async def find(
        self, command: Command[Any], attempts: Attempts, destination: Destination | None = None
    ) -> tuple[Route, StoreConnection]:
        """Return route and store for `command`, or for another destination on its behalf, asking until they are known.

        Raises what the caller gets when time is up, the client closes or the scheduler does not answer.
        """
        backoff = self._backoff(attempts.deadline)
        failure: object = attempts.last_failure
        while True:
            self._refuse(command, attempts, failure)
            try:
                found = await self.router.find(destination or command.destination(), attempts.deadline)
                if found is not None:
                    return found
                failure = failure or "the scheduler knows no region with a leader for it"
            except (NotBootstrappedError, StoreNotFoundError) as error:
                failure = error
            except SchedulerUnavailableError as error:
                if attempts.maybe_executed:
                    raise time_is_up(command, error, maybe_executed=True) from error
                raise SchedulerUnavailableError(f"{command.describe()} was not executed: {error}") from error
            await backoff.pause()

    def _refuse(self, command: Command[Any], attempts: Attempts, failure: object) -> None:
        """Raise if no further attempt may begin."""
        if self._closed:
            raise client_closed(command, failure, maybe_executed=attempts.maybe_executed)
        is_late_start = failure is not None
        needed_s = WRITE_RETRY_LEFT_MIN_S if is_late_start and command.effect is not Effect.READ else 0.0
        if self._loop.time() + needed_s >= attempts.deadline:
            raise time_is_up(command, failure or "its region was not found", maybe_executed=attempts.maybe_executed)

    def _backoff(self, deadline: float) -> Backoff:
        return Backoff(self.config, deadline=deadline, rng=self._rng, closing=self._closing)


def _too_much(pairs: Sequence[kvrpcpb_pb2.KvPair]) -> AttemptFailure | None:
    """Return the failure of a read that was refused because the pairs are too large for one answer.

    Our stores say so with `KeyError.retryable` in a single pair. In the answer to a raw read it says nothing else.
    """
    if len(pairs) == 1 and pairs[0].error.retryable:
        return AttemptFailure(FailureKind.TOO_MUCH, pairs[0].error.retryable)
    return None
