"""One timer for the deadlines of many callers: setting one for each would cost more than sending its command.

    watch(7.0)   watch(3.0)                       3.0: expire fails what is due, and says that 7.0 is next
        │            │                                     │
    set to 7.0   set to 3.0 ──────────────────────────► set to 7.0

A deadline that has been met in time stays with the timer, which then fires once for nothing.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable
from typing import Final

EXPIRY_GRAIN_S: Final = 0.002
"""Deadlines closer together than this expire together."""


class DeadlineTimer:
    """Belongs to one event loop."""

    __slots__ = ("_expire", "_loop", "_timer", "moves_below")

    def __init__(self, loop: asyncio.AbstractEventLoop, expire: Callable[[float], float | None]) -> None:
        """`expire(due)` fails all whose deadlines are not after `due`, and returns the earliest one left, None if none is."""
        self._loop = loop
        self._expire = expire
        self._timer: asyncio.TimerHandle | None = None
        """Set while a caller may have a deadline; due at most `EXPIRY_GRAIN_S` after the earliest one."""
        self.moves_below = math.inf
        """Deadlines (loop time) from here on need no `watch`: the timer is due early enough. Infinite while it is not set."""

    def watch(self, deadline: float) -> None:
        """See to it that `expire` is called at a deadline. The caller may ask `moves_below` first, which is quicker."""
        if deadline < self.moves_below:
            self._set(deadline)

    def stop(self) -> None:
        """Call `expire` no more for what was watched until now."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self.moves_below = math.inf

    def _set(self, at: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self.moves_below = at - EXPIRY_GRAIN_S
        self._timer = self._loop.call_at(at, self._fire)

    def _fire(self) -> None:
        self._timer, self.moves_below = None, math.inf
        due = self._loop.time() + EXPIRY_GRAIN_S
        if (earliest := self._expire(due)) is not None:
            self.watch(max(earliest, due + EXPIRY_GRAIN_S))
