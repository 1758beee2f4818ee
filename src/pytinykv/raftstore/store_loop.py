"""The event loop around a store: turns when they are due, ticks of time, and the stages of the stop.

    anything happens ──Store.wake──▶ due ──▶ one turn        every `tick_s` ──tick_soon──▶ due ──▶ one turn

What comes in while a turn runs, or before the loop gets to it, shares the next turn.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from pytinykv.raftstore.stopping import StoreStop

if TYPE_CHECKING:
    from pytinykv.lifecycle import Scope
    from pytinykv.raftstore.store import Store


class StoreLoop:
    """Drives one store; `start` once, its scope stops it."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._idle: asyncio.Future[None] | None = None
        """What the loop waits for while no turn is due. (An `asyncio.Event` would cost more, with each turn.)"""

    def start(self, scope: Scope) -> None:
        """Run the store in this scope, whose stop begins with the store's own stages."""
        StoreStop(self._store).register(scope)
        self._store.on_due = self._end_idle
        scope.start("ticks", self._tick)
        scope.start("store-loop", self._run)

    async def _run(self) -> None:
        store = self._store
        loop = asyncio.get_running_loop()
        while True:
            if not store.take_due():
                self._idle = loop.create_future()
                await self._idle
                store.take_due()
            store.turn()
            if store.has_leftovers:
                await asyncio.sleep(0)  # connections and timers have their turn, too

    def _end_idle(self) -> None:
        if self._idle is not None and not self._idle.done():
            self._idle.set_result(None)

    async def _tick(self) -> None:
        while True:
            await asyncio.sleep(self._store.config.tick_s)
            self._store.tick_soon()
