"""Several calls at once, as tasks of a scope."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from typing import TypeVar

from pytinykv.client.errors import ClientError
from pytinykv.lifecycle import Scope

_ItemT = TypeVar("_ItemT")
_T = TypeVar("_T")


async def in_parallel(
    scope: Scope, name: str, function: Callable[[_ItemT], Awaitable[_T]], items: Iterable[_ItemT]
) -> list[_T]:
    """Return what `function` gives for each item, in their order. Raises the first ClientError once all have ended.

    When the caller is cancelled they go on until their scope stops.
    """

    async def outcome(item: _ItemT) -> tuple[list[_T], ClientError | None]:
        try:
            return [await function(item)], None
        except ClientError as error:
            return [], error

    tasks = [scope.start(f"{name}-{number}", outcome, item) for number, item in enumerate(items)]
    outcomes = [await task.wait() for task in tasks]
    for _, error in outcomes:
        if error is not None:
            raise error
    return [result for results, _ in outcomes for result in results]
