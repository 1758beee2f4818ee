"""Pauses between attempts: exponential, jittered, never past the deadline."""

from __future__ import annotations

import asyncio
from random import Random

from pytinykv.client.config import ClientConfig

NO_DEADLINE = float("inf")


class Backoff:
    """The pauses of one call. Each is drawn from the upper half of a range that doubles up to `backoff_max_s`.

    Half fixed, half random: many callers that failed at one moment do not come back at one moment.
    """

    __slots__ = ("_base_s", "_closing", "_deadline", "_max_s", "_rng", "attempts")

    def __init__(self, config: ClientConfig, *, deadline: float, rng: Random, closing: asyncio.Future[None]) -> None:
        """Make the pauses of a call that ends at `deadline` (loop time); `closing`, once resolved, ends any pause."""
        self._base_s = config.backoff_min_s
        """Upper end of the next pause; doubles with each."""
        self._max_s = config.backoff_max_s
        self._deadline = deadline
        self._rng = rng
        self._closing = closing
        self.attempts = 0
        """Pauses so far."""

    def next_s(self, at_least_s: float = 0.0) -> float:
        """Return the next pause in seconds, and lengthen the one after it."""
        self.attempts += 1
        base_s = self._base_s
        self._base_s = min(base_s * 2, self._max_s)
        return max(base_s * (0.5 + 0.5 * self._rng.random()), at_least_s)

    async def pause(self, at_least_s: float = 0.0) -> None:
        """Sleep for the next pause, or until the deadline or the closing if that is sooner."""
        left_s = self._deadline - asyncio.get_running_loop().time()
        await asyncio.wait((self._closing,), timeout=max(0.0, min(self.next_s(at_least_s), left_s)))
