"""How a store stops: the stages, in this order, each with a deadline of its own.

    hand over leadership          so that clients need not wait for an election; what comes back later is handed over again
    refuse new commands
    finish commands under way
    answer the rest               what was proposed as undetermined
    last turn and sync            so that the next start has nothing to make up for

Only the loop touches regions, also now: a stage asks for a turn and waits for what it brings about. Past its time the next
one begins, and the report says so where it matters.
"""

from __future__ import annotations

import asyncio
import logging
from functools import partial
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from pytinykv.lifecycle import Scope
    from pytinykv.raftstore.store import Store

_log = logging.getLogger(__name__)

TRANSFERS_S = 0.5
DRAIN_S = 0.8
FINISH_S = 1.5
"""How long the stages that wait may take; so the two above."""
ATTEMPTS = 2
"""How often leadership is offered in `TRANSFERS_S`: the first follower that is asked may be gone, or have just restarted."""
POLL_S = 0.005


class StoreStop:
    """The stages of one store's stop."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def register(self, scope: Scope) -> None:
        """Let them be the first stages of the scope's stop."""
        scope.on_stop("hand over leadership", self._hand_over, TRANSFERS_S + 0.2)
        scope.on_stop("refuse new commands", self._store.refuse_commands)
        scope.on_stop("finish commands under way", self._drain, DRAIN_S + 0.2)
        scope.on_stop("answer the rest", lambda: self._store.in_turn(self._store.fail_everything))
        scope.on_stop("last turn and sync", self._finish, FINISH_S + 0.2)

    async def _hand_over(self) -> None:
        leaving = self._store.leaving
        led = leaving.leads
        for attempt in range(ATTEMPTS):
            self._store.in_turn(partial(leaving.offer, attempt=attempt))
            await self._wait_until(lambda: leaving.is_done, TRANSFERS_S / ATTEMPTS)
            if leaving.is_done:
                break
        kept = leaving.leads
        _log.info("store %d: handed over %d leaderships, kept %d", self._store.store_id, max(0, led - kept), kept)

    async def _drain(self) -> None:
        peers = self._store.peers
        await self._wait_until(lambda: not any(peer.calls.has_any for peer in peers.values()), DRAIN_S)

    async def _finish(self) -> None:
        self._store.wake()
        await self._wait_until(lambda: self._store.is_settled, FINISH_S)

    async def _wait_until(self, condition: Callable[[], bool], timeout_s: float) -> None:
        """Wait for something that turns bring about."""
        deadline = asyncio.get_running_loop().time() + timeout_s
        while (  # noqa: ASYNC110 - only while stopping; turns pay for no event
            self._store.failure is None and not condition() and asyncio.get_running_loop().time() < deadline
        ):
            await asyncio.sleep(POLL_S)
