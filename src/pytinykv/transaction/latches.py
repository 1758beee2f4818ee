"""Latches: commands that look at the same keys run one after the other, in the order they came.

    key  a   held by 1   then 2, 3           a command runs once it holds every key it named;
    key  b   held by 2   then 3              2 waits for a, and 3 for both

A command takes its place at all of its keys in one step, so of two commands the one that came first is before the other at
every key they share, and commands can't wait for each other in a cycle.

Left out: latches are held in memory by the one writer of a store and are no locks of transactions, which are data. The
command that holds one must let go of it on every path, since nothing here has a deadline.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from typing import Final


class Latch:
    """One command's claim to its keys; made by `Latches.acquire`."""

    __slots__ = ("_missing", "is_released", "keys", "on_granted")

    def __init__(self, keys: Iterable[bytes], on_granted: Callable[[], None]) -> None:
        self.keys: Final = tuple(dict.fromkeys(keys))
        """User keys, each once."""
        self.on_granted: Final = on_granted
        self._missing = 0
        """How many of the keys others hold or have a claim to that is older."""
        self.is_released = False
        """Set once, by `Latches.release`; it holds nothing any more."""

    @property
    def is_held(self) -> bool:
        """Return whether the command may run."""
        return not self._missing and not self.is_released


class Latches:
    """The latches of one store."""

    def __init__(self) -> None:
        self._holders: dict[bytes, Latch] = {}
        """By key, the latch that holds it, or that will be the next to run of all that name it."""
        self._waiting: dict[bytes, deque[Latch]] = {}
        """By key, those behind the holder, in the order they came; no entry when there are none."""

    def __len__(self) -> int:
        """Return how many keys are held."""
        return len(self._holders)

    def acquire(self, keys: Iterable[bytes], on_granted: Callable[[], None]) -> Latch:
        """Take the keys, or a place behind those who have them.

        Look at `is_held` of what is returned: if it does not hold all yet, `on_granted()` is called once, from a later
        `release`, when it does.
        """
        latch = Latch(keys, on_granted)
        holders = self._holders
        for key in latch.keys:
            if holders.setdefault(key, latch) is not latch:
                self._waiting.setdefault(key, deque()).append(latch)
                latch._missing += 1  # noqa: SLF001 - only this table moves it
        return latch

    def release(self, latch: Latch) -> None:
        """Let go of a latch that holds all of its keys; those who waited for nothing else are told. Idempotent."""
        if latch.is_released:
            return
        assert latch.is_held, "a command lets go of what it never held"
        latch.is_released = True
        granted: list[Latch] = []
        for key in latch.keys:
            queue = self._waiting.get(key)
            if queue is None:
                del self._holders[key]
                continue
            following = self._holders[key] = queue.popleft()
            if not queue:
                del self._waiting[key]
            following._missing -= 1  # noqa: SLF001 - as above
            if not following._missing:  # noqa: SLF001 - as above
                granted.append(following)
        for following in granted:
            following.on_granted()
