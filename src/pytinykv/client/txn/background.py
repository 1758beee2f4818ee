"""Work that goes on when the call that began it has ended: secondaries to commit, locks to remove.

All of it may be left undone: whoever meets a lock that was left resolves it. So nothing here is repeated for long, errors are
only noted, and a closing client waits a moment for what is under way and then lets go.
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
    """The tasks of one client that nobody waits for, owned by its scope."""

    def __init__(self, scope: Scope) -> None:
        self._scope = scope
        self._tasks: set[asyncio.Task[None]] = set()
        """Those under way."""

    def __len__(self) -> int:
        return len(self._tasks)

    def start(
        self, name: str, work: Callable[P, Coroutine[Any, Any, object]], /, *args: P.args, **kwargs: P.kwargs
    ) -> None:
        """Do some work; not at all if the client is closing."""
        if self._scope.stopping:
            _log.debug("%s is left to others: the client is closing", name)
            return

        async def quiet() -> None:
            try:
                await work(*args, **kwargs)
            except ClientError as error:
                _log.debug("%s is left to others: %s", name, error)

        task = self._scope.start(name, quiet).task
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def wait_idle(self, timeout_s: float) -> None:
        """Wait until nothing is under way, for `timeout_s` seconds at most."""
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=timeout_s)
