"""Puts that go on while something happens to the cluster: how many, how long the longest took, which failed.

A put that fails is counted and told, and its worker goes on: what counts is what an application would have seen. Nothing is
tried again here; that is the client's work.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from pytinykv.client import ClientError

if TYPE_CHECKING:
    from pytinykv.aio import AsyncClient
    from pytinykv.lifecycle import OwnedTask, Scope

_PAUSE_S: Final = 0.02
"""After a put that failed."""


@dataclass
class Window:
    """What was seen between two moments."""

    begun: float
    """By `time.perf_counter`, as all times here."""
    ended: float = 0.0
    puts: int = 0
    """That were acknowledged within it."""
    longest_s: float = 0.0
    """Longest time that a put took, or had been waiting when the window ended, also before the window began."""
    failures: Counter[str] = field(default_factory=Counter)

    @property
    def rate(self) -> float:
        """Puts per second."""
        seconds = self.ended - self.begun
        return self.puts / seconds if seconds > 0 else 0.0


class PutLoad:
    """So many workers, each with one put in flight. `start` first; `end` lets each finish its put."""

    def __init__(
        self,
        client: AsyncClient,
        scope: Scope,
        in_flight: int,
        key: Callable[[int], bytes],
        value: Callable[[int], bytes],
        count: int | None = None,
    ) -> None:
        """Put `value(n)` at `key(n)` for n from 0 to `count`, without an end if that is None."""
        self._client: Final = client
        self._scope: Final = scope
        self._key: Final = key
        self._value: Final = value
        self._numbers: Final = iter(range(count)) if count is not None else iter(_naturals())
        self._ending = False
        """Set by `end`, and never unset: no worker begins another put."""
        self._waiting: Final[dict[int, float]] = {}
        """Since when each worker's put is under way."""
        self._windows: Final[list[Window]] = []
        """Those that count now: the one of the whole load, once it has started, and one for each open block of
        `window`."""
        self._in_flight: Final = in_flight
        self._workers: list[OwnedTask[None]] = []
        """Made by `start`; each ends by itself once `_ending` is set."""
        self.total: Final = Window(time.perf_counter())
        """From the start to the end."""

    def start(self) -> None:
        self.total.begun = time.perf_counter()
        self._windows.append(self.total)
        self._workers = [self._scope.start(f"put-{number}", self._work, number) for number in range(self._in_flight)]

    async def wait(self) -> Window:
        """Return when all of `count` puts have ended."""
        for worker in self._workers:
            await worker.wait()
        if self.total in self._windows:
            self._close(self.total)
        return self.total

    async def end(self) -> Window:
        """Begin no more puts; return when the last one has ended."""
        self._ending = True
        return await self.wait()

    @contextmanager
    def window(self) -> Iterator[Window]:
        """Count apart what happens within the block."""
        window = Window(time.perf_counter())
        self._windows.append(window)
        try:
            yield window
        finally:
            self._close(window)

    def _close(self, window: Window) -> None:
        window.ended = time.perf_counter()
        for begun in self._waiting.values():
            window.longest_s = max(window.longest_s, window.ended - begun)
        self._windows[:] = [each for each in self._windows if each is not window]

    async def _work(self, worker: int) -> None:
        put, clock = self._client.raw.put, time.perf_counter
        for done, number in enumerate(self._numbers):
            if self._ending:
                return
            begun = self._waiting[worker] = clock()
            failure = ""
            try:
                await put(self._key(number), self._value(number))
            except ClientError as error:
                failure = f"{type(error).__name__}: {error}"
            del self._waiting[worker]
            seconds = clock() - begun
            for window in self._windows:
                window.longest_s = max(window.longest_s, seconds)
                if failure:
                    window.failures[failure] += 1
                else:
                    window.puts += 1
            if failure:
                await asyncio.sleep(_PAUSE_S)
            elif done % 16 == 15:
                await asyncio.sleep(0)


def _naturals() -> Iterator[int]:
    number = 0
    while True:
        yield number
        number += 1
