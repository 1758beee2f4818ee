"""Work that goes on when the call that began it has ended: secondaries to commit, locks to remove.

    count        a command that was sent already: until its answer comes it is work like any other
    start        in the background, or not at all if there is too much already
    finish       in the background, or by the call itself if there is too much already: so a caller that is faster than the
                 stores is slowed down to what they bear

All of it may be left undone: the client that meets a lock that was left resolves it. So nothing here is repeated for long,
errors are only noted, and a closing client waits a moment for what is under way and then lets go.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine
from typing import Any, ParamSpec

from pytinykv.client.errors import ClientError
from pytinykv.lifecycle import Scope

_log = logging.getLogger(__name__)

P = ParamSpec("P")


class Background:
    """The work of one client that no caller waits for: tasks, owned by its scope, and answers that are to come.

    Never more than `tasks_max` at a time.
    """

    def __init__(self, scope: Scope, *, tasks_max: int) -> None:
        self._scope = scope
        self._tasks_max = tasks_max
        self._under_way: set[asyncio.Future[Any]] = set()
        """What is not done yet."""

    def __len__(self) -> int:
        return len(self._under_way)

    @property
    def has_room(self) -> bool:
        """Whether more may begin. False in a client that is closing."""
        return len(self._under_way) < self._tasks_max and not self._scope.stopping

    def count(self, answer: asyncio.Future[Any], on_answer: Callable[[asyncio.Future[Any]], object]) -> None:
        """Count the answer of a command that was sent, until it is there and `on_answer` has had it."""
        self._under_way.add(answer)
        answer.add_done_callback(on_answer)
        answer.add_done_callback(self._under_way.discard)

    def start(
        self, name: str, work: Callable[P, Coroutine[Any, Any, object]], /, *args: P.args, **kwargs: P.kwargs
    ) -> bool:
        """Do some work; return False, and do not, if there is too much already. A closing client leaves it to others."""
        if self._scope.stopping:
            _log.debug("%s is left to others: the client is closing", name)
            return True
        if len(self._under_way) >= self._tasks_max:
            return False

        async def quiet() -> None:
            await _quietly(name, work(*args, **kwargs))

        task = self._scope.start(name, quiet).task
        self._under_way.add(task)
        task.add_done_callback(self._under_way.discard)
        return True

    async def finish(
        self,
        deadline: float,
        name: str,
        work: Callable[P, Coroutine[Any, Any, object]],
        /,
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> None:
        """Do some work in the background, or at once if there is too much already, until `deadline` (loop time) at most."""
        if self.start(name, work, *args, **kwargs):
            return
        try:
            async with asyncio.timeout_at(deadline):
                await _quietly(name, work(*args, **kwargs))
        except TimeoutError:
            _log.debug("%s is left to others: no time is left for it", name)

    async def wait_idle(self, timeout_s: float) -> None:
        """Wait until nothing is under way, for `timeout_s` seconds at most."""
        if self._under_way:
            await asyncio.wait(self._under_way, timeout=timeout_s)


async def _quietly(name: str, work: Coroutine[Any, Any, object]) -> None:
    try:
        await work
    except ClientError as error:
        _log.debug("%s is left to others: %s", name, error)
