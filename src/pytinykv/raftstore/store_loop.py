"""The event loop around a store: turns when they are due, ticks of time, and the stages of the stop.

    anything happens ──Store.wake──▶ due ──▶ one turn        every `tick_s` ──tick_soon──▶ due ──▶ one turn

What comes in while a turn runs, or before the loop gets to it, shares the next turn.

After a turn that did something for many regions the loop pauses, about as long as such a turn takes. Each region costs a turn
the same whether one command came for it or ten, and each turn costs a sync, a frame to every store and their turns; so with
256 puts in flight over 100 regions turns one after the other are many and small, and use a third more of the processors for
each put. Few regions have no pause: they hardly gain by it, and a put would wait longer.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

from pytinykv.raftstore.stopping import StoreStop

if TYPE_CHECKING:
    from pytinykv.lifecycle import Scope
    from pytinykv.raftstore.store import Store

PAUSE_FROM: Final = 16
"""Regions in a turn from which on the next one waits."""
PAUSE_EACH_S: Final = 0.00005
"""How long it waits, for each of them."""
PAUSE_MAX_S: Final = 0.004
"""How long it waits at most: far below a tick, so that nothing that counts ticks notices."""


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
            if store.readys >= PAUSE_FROM:
                await asyncio.sleep(min(store.readys * PAUSE_EACH_S, PAUSE_MAX_S))
            elif store.has_leftovers:
                await asyncio.sleep(0)  # connections and timers have their turn, too

    def _end_idle(self) -> None:
        if self._idle is not None and not self._idle.done():
            self._idle.set_result(None)

    async def _tick(self) -> None:
        while True:
            await asyncio.sleep(self._store.config.tick_s)
            self._store.tick_soon()
