"""What tests of several packages use: tasks and threads that behave, and some that do not."""

from __future__ import annotations

import asyncio
import threading


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
