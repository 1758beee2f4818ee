"""Since when each task and thread has been waiting: asyncio does not note it, so it is looked at from time to time.

A task waits for the same thing as long as the future at its bottom is the same; a thread waits as long as its innermost
frame and instruction are the same. One look costs about a microsecond per task and thread, and is taken in a thread.
"""

from __future__ import annotations

import asyncio
import sys
import threading
import time
import weakref
from collections.abc import Iterable
from typing import Any, Final


class WaitClock:
    """Remembers since when each task and thread has been where it is, to the precision of the looks taken."""

    def __init__(self) -> None:
        self._tasks: Final[weakref.WeakKeyDictionary[asyncio.Task[Any], tuple[weakref.ref[Any], float]]] = (
            weakref.WeakKeyDictionary()
        )
        """By task: the future at its bottom, and since when it was seen there (`time.monotonic`)."""
        self._threads: dict[int, tuple[tuple[int, int], float]] = {}
        """By identifier: the innermost frame and instruction, and since when it was seen there."""

    def look(self, loops: Iterable[asyncio.AbstractEventLoop]) -> None:
        """Note where all are now. Callable from any thread, one at a time."""
        now = time.monotonic()
        for loop in loops:
            for task in asyncio.all_tasks(loop):
                waited_for = getattr(task, "_fut_waiter", None)
                if waited_for is None:
                    self._tasks.pop(task, None)
                    continue
                seen = self._tasks.get(task)
                if seen is None or seen[0]() is not waited_for:
                    self._tasks[task] = (weakref.ref(waited_for), now)
        places = {ident: (id(frame), frame.f_lasti) for ident, frame in sys._current_frames().items()}  # noqa: SLF001
        self._threads = {
            ident: known if (known := self._threads.get(ident)) is not None and known[0] == place else (place, now)
            for ident, place in places.items()
        }

    def waited_s(self, runner: object) -> float | None:
        """Return for how long a task or thread has been where it is now, at least; None if it was not seen there yet."""
        now = time.monotonic()
        if isinstance(runner, asyncio.Task):
            waiting = self._tasks.get(runner)
            same = waiting is not None and waiting[0]() is getattr(runner, "_fut_waiter", None)
            return now - waiting[1] if waiting is not None and same else None
        if isinstance(runner, threading.Thread) and runner.ident is not None:
            frame = sys._current_frames().get(runner.ident)  # noqa: SLF001 - public in all but name
            known = self._threads.get(runner.ident)
            if frame is None or known is None or known[0] != (id(frame), frame.f_lasti):
                return None
            return now - known[1]
        return None
