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
        self._due = asyncio.Event()
        """Set when a turn is due; the loop clears it before the turn."""

    def start(self, scope: Scope) -> None:
        """Run the store in this scope, whose stop begins with the store's own stages."""
        StoreStop(self._store).register(scope)
        self._store.on_due = self._due.set
        scope.start("ticks", self._tick)
        scope.start("store-loop", self._run)

    async def _run(self) -> None:
        store = self._store
        if store.take_due():  # asked for before there was a loop
            store.turn()
        while True:
            await self._due.wait()
            self._due.clear()
            store.take_due()
            store.turn()

    async def _tick(self) -> None:
        while True:
            await asyncio.sleep(self._store.config.tick_s)
            self._store.tick_soon()
