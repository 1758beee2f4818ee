"""What tests of several packages use: tasks and threads that behave, and some that do not; a clock that is set by hand."""

from __future__ import annotations

import asyncio
import threading

WALL_START_MS = 1_700_000_000_000


class ManualClock:
    """A `Clock` that moves only when it is told to; the wall clock can be stepped on its own."""

    def __init__(self) -> None:
        self.now = 1000.0
        """What `monotonic` returns, in seconds."""
        self.wall = WALL_START_MS
        """What `wall_ms` returns."""

    def monotonic(self) -> float:
        return self.now

    def wall_ms(self) -> int:
        return self.wall

    def advance(self, seconds: float) -> None:
        self.now += seconds
        self.wall += round(seconds * 1000)


async def forever(*_: object) -> None:
    await asyncio.Event().wait()


class Stubborn:
    """A coroutine that ignores being cancelled until it is released, so that tests can leave nothing behind."""

    def __init__(self) -> None:
        self.released = asyncio.Event()
        self.cancellations = 0

    async def run(self, *_: object) -> bytes:
        while not self.released.is_set():
            try:
                await self.released.wait()
            except asyncio.CancelledError:
                self.cancellations += 1
        return b"released"


class Gate:
    """A thread's target that waits to be opened."""

    def __init__(self) -> None:
        self._opened = threading.Event()

    def run(self) -> None:
        assert self._opened.wait(30)

    def open(self) -> None:
        self._opened.set()
