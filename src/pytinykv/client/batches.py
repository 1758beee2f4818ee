"""Operations on many keys: cut into commands of one region each, run together, and cut anew where an attempt failed.

    items ──portion──► those asked for now ──group──► commands ──run──► outcomes ──► results
      ▲                                                                    │
      └───────────── items of commands that are to be tried again ─────────┘

A batch that reads bounds the bytes of its answers: it asks for one key first, and from then on for as many as
`AnswerSizes` expects to fit.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Generic, NamedTuple, TypeVar

from pytinykv.client.answer_sizes import UNKNOWN_ROWS, AnswerKind
from pytinykv.client.attempts import FAILURES, Attempts
from pytinykv.client.commands import BatchCommand, Effect
from pytinykv.client.errors import ClientError, UndeterminedError
from pytinykv.client.executor import Executor
from pytinykv.client.retry_policy import Retry
from pytinykv.client.route import Destination, Route
from pytinykv.client.store_connection import StoreConnection
from pytinykv.wire.keys import next_key

ANSWERS_AT_ONCE = 4
"""Answers of `batch_bytes_max` bytes that a batch asks for at a time."""
PORTION_GROWTH = 16
"""A batch asks for at most so many times as many keys as the time before."""

_T = TypeVar("_T")
_ItemT = TypeVar("_ItemT")


class BatchOperation(NamedTuple, Generic[_ItemT, _T]):
    """A batch operation before it is cut into commands."""

    items: Sequence[_ItemT]
    """Sorted by key, no key twice."""
    key_of: Callable[[_ItemT], bytes]
    size_of: Callable[[_ItemT], int]
    """Bytes of an item in a request."""
    make: Callable[[Sequence[_ItemT]], BatchCommand[_ItemT, _T]]
    """Makes the command for items that lie in one region."""
    answer_kind: AnswerKind | None = None
    """What the answers carry, if they carry pairs."""


class Group(NamedTuple, Generic[_ItemT, _T]):
    """A command for items of one region, and the way to it."""

    command: BatchCommand[_ItemT, _T]
    route: Route
    store: StoreConnection


class GroupOutcome(NamedTuple, Generic[_ItemT, _T]):
    """What became of the command of one group: an error, a retry, or else a result."""

    command: BatchCommand[_ItemT, _T]
    result: _T | None = None
    retry: Retry | None = None
    error: ClientError | None = None


async def run_batch(executor: Executor, batch: BatchOperation[_ItemT, _T], deadline: float) -> list[_T]:
    """Run a batch and return the results of its commands.

    If one command fails for good, those under way are still waited for; then the error that says most is raised. A write of
    which a part was executed counts as undetermined.
    """
    results: list[Any] = []
    attempts = executor.begin(deadline)
    portions = None if batch.answer_kind is None else _Portions(executor, batch.answer_kind)
    pending: Sequence[_ItemT] = batch.items
    while pending:
        now, later = (pending, ()) if portions is None else portions.take(pending)
        try:
            groups = known_groups(executor, batch, now, attempts)
            if groups is None:
                groups = await group(executor, batch, now, attempts)
            outcomes = await run_groups(executor, groups, attempts)
        except ClientError as error:
            _raise_if_partly_done(error, batch, results)
            raise
        results += [outcome.result for outcome in outcomes if outcome.error is None and outcome.retry is None]
        if errors := [outcome.error for outcome in outcomes if outcome.error is not None]:
            worst = max(errors, key=lambda error: error.undetermined)
            _raise_if_partly_done(worst, batch, results)
            raise worst
        if portions is not None:
            portions.learn(outcomes)
        pending = [item for outcome in outcomes if outcome.retry is not None for item in outcome.command.items]
        pending += later
        if retries := [outcome.retry for outcome in outcomes if outcome.retry is not None]:
            await executor.pause(retries, attempts)
    return results


class _Portions:
    """Decides how many items of a batch whose answers carry pairs are asked for at a time."""

    def __init__(self, executor: Executor, kind: AnswerKind) -> None:
        self._executor = executor
        self._kind = kind
        self._size = self._fitting() or UNKNOWN_ROWS
        """Items of the next portion."""

    def _fitting(self) -> int | None:
        """Return how many pairs fit the answers of one portion; None as long as that is not known."""
        bytes_max = ANSWERS_AT_ONCE * self._executor.config.batch_bytes_max
        return self._executor.answer_sizes.rows(self._kind, bytes_max)

    def take(self, items: Sequence[_ItemT]) -> tuple[Sequence[_ItemT], Sequence[_ItemT]]:
        """Return the items to ask for now, and those for later."""
        return items[: self._size], items[self._size :]

    def learn(self, outcomes: Sequence[GroupOutcome[Any, Any]]) -> None:
        """Take what became of a portion, for the size of the next one."""
        sizes = self._executor.answer_sizes
        for outcome in outcomes:
            if outcome.result:
                sizes.learn(self._kind, outcome.result)
            elif outcome.retry is not None and outcome.retry.shrink:
                sizes.learn_too_much(self._kind, self._executor.config.batch_bytes_max)
        size = self._size * PORTION_GROWTH
        self._size = min(size, self._fitting() or size)


# --- one region each -----------------------------------------------------------------------------------------------


def known_groups(
    executor: Executor, batch: BatchOperation[_ItemT, _T], items: Sequence[_ItemT], attempts: Attempts
) -> list[Group[_ItemT, _T]] | None:
    """Cut `items` into commands as `group` does, if all ways are known; None otherwise."""
    groups: list[Group[_ItemT, _T]] = []
    bounds = _bounds(batch, items)
    start = 0
    while start < len(items):
        way = executor.known_way(bounds[start], attempts)
        if way is None:
            return None
        start = _cut(executor, batch, items, bounds, start, way, groups)
    return groups


async def group(
    executor: Executor, batch: BatchOperation[_ItemT, _T], items: Sequence[_ItemT], attempts: Attempts
) -> list[Group[_ItemT, _T]]:
    """Cut `items` into commands where regions end, and where a command would grow too large, and find their ways.

    Raises what the caller gets when a way can't be found in time; nothing has been sent then.
    """
    groups: list[Group[_ItemT, _T]] = []
    bounds = _bounds(batch, items)
    start = 0
    while start < len(items):
        first = batch.make(items[start : start + 1])
        way = await executor.find(first, attempts, Destination(bounds[start], needed_to=next_key(bounds[-1])))
        start = _cut(executor, batch, items, bounds, start, way, groups)
    return groups


def _bounds(batch: BatchOperation[_ItemT, Any], items: Sequence[_ItemT]) -> list[bytes]:
    """Return the keys of items in the form of regions' bounds."""
    if not items:
        return []
    to_bound, key_of = batch.make(items[:1]).space.to_bound, batch.key_of
    return [to_bound(key_of(item)) for item in items]


def _cut(
    executor: Executor,
    batch: BatchOperation[_ItemT, _T],
    items: Sequence[_ItemT],
    bounds: Sequence[bytes],
    start: int,
    way: tuple[Route, StoreConnection],
    groups: list[Group[_ItemT, _T]],
) -> int:
    """Add the commands for the items from `start` on that lie in the region to which `way` leads; return where those end."""
    route, store = way
    end = start + 1
    while end < len(items) and route.contains(bounds[end]):
        end += 1
    if end == start + 1:
        groups.append(Group(batch.make(items[start:end]), route, store))
    else:
        groups += [Group(batch.make(chunk), route, store) for chunk in _chunks(executor, batch, items[start:end])]
    return end


def _chunks(
    executor: Executor, batch: BatchOperation[_ItemT, Any], items: Sequence[_ItemT]
) -> Iterator[Sequence[_ItemT]]:
    """Cut items of one region so that neither a request nor, as far as can be told, its answer grows too large."""
    config = executor.config
    items_max = config.batch_keys_max
    if batch.answer_kind is not None:
        items_max = min(items_max, executor.answer_sizes.rows(batch.answer_kind, config.batch_bytes_max) or items_max)
    start = size = 0
    for index, item in enumerate(items):
        item_bytes = batch.size_of(item)
        if index > start and (index - start >= items_max or size + item_bytes > config.batch_bytes_max):
            yield items[start:index]
            start, size = index, 0
        size += item_bytes
    yield items[start:]


async def run_groups(
    executor: Executor, groups: Sequence[Group[_ItemT, _T]], attempts: Attempts
) -> list[GroupOutcome[_ItemT, _T]]:
    """Run commands, all under way at once, and return what became of each, in their order."""
    sent: list[tuple[BatchCommand[_ItemT, _T], asyncio.Future[Any]]] = [
        (command, executor.submit_to(command, route, store, attempts.deadline)) for command, route, store in groups
    ]
    return [_outcome(executor, command, await future, attempts) for command, future in sent]


def _outcome(
    executor: Executor, command: BatchCommand[_ItemT, _T], reply: Any, attempts: Attempts
) -> GroupOutcome[_ItemT, _T]:
    try:
        response = executor.response_of(command, reply)
        if isinstance(response, FAILURES):
            return GroupOutcome(command, retry=executor.learn(command, response, attempts))
        return GroupOutcome(command, result=command.decode(response))
    except ClientError as error:
        return GroupOutcome(command, error=error)


def _raise_if_partly_done(error: ClientError, batch: BatchOperation[Any, Any], results: Sequence[object]) -> None:
    """Raise `UndeterminedError` if `error`, which says that nothing was changed, ends a write that has changed something."""
    is_write = batch.make(batch.items[:1]).effect is not Effect.READ
    if results and is_write and not error.undetermined:
        raise UndeterminedError(f"only a part of the batch was executed: {error}") from error
