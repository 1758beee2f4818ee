"""How far a long command is: a line on standard error, rewritten in place, and gone at the end.

Shown from the second second on, twice a second, on a terminal only, and not where the command's own output scrolls by.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import Final, TextIO

from pytinykv.cli.text import escaped, shorten

SILENT_S: Final = 1.0
INTERVAL_S: Final = 0.5
_CHECK_EVERY: Final = 64
"""Keys between two looks at the clock."""
BAR: Final = 20
"""Cells of the bar that is shown where the total is known."""
_CLEAR: Final = "\r\x1b[K"


class Progress:
    """Counts keys and tells about it."""

    def __init__(
        self,
        *,
        is_shown: bool,
        stream: TextIO | None = None,
        now: Callable[[], float] = time.monotonic,
        total: int = 0,
        before: int = 0,
    ) -> None:
        """`is_shown`: whether to tell at all; `now` in seconds; `total`: how many keys there are to be, 0 if unknown.

        `before`: how many of them an earlier run has done.
        """
        self.keys = 0
        """Keys so far."""
        self._stream = stream or sys.stderr
        self._is_shown = is_shown
        self._now = now
        self._started = now()
        self._next = self._started + SILENT_S
        """When the line is drawn again, at the earliest (monotonic)."""
        self._is_on_screen = False
        """Whether a line stands there that has to be wiped."""
        self._total = total
        self._before = before

    def add(self, key: bytes) -> None:
        """Count a key; maybe tell."""
        self.keys += 1
        if self._is_shown and self.keys % _CHECK_EVERY == 0 and self._now() >= self._next:
            self._tell(key)

    def add_many(self, key: bytes, count: int) -> None:
        """Count keys, of which `key` is the last; maybe tell."""
        self.keys += count
        if self._is_shown and self._now() >= self._next:
            self._tell(key)

    def _tell(self, key: bytes) -> None:
        now = self._now()
        rate = self.keys / (now - self._started)
        line = f"{self.keys:,} keys, {rate:,.0f}/s, at {shorten(escaped(key), 32)}"
        if self._total:
            part = min(1.0, (self._before + self.keys) / self._total)
            left_s = (self._total - self._before - self.keys) / rate if rate else 0.0
            bar = "█" * round(part * BAR) + "░" * (BAR - round(part * BAR))
            line = f"{bar} {part:4.0%}, {line}, {max(0.0, left_s):,.0f} s left"
        self._stream.write(f"{_CLEAR}{line}")
        self._stream.flush()
        self._next = now + INTERVAL_S
        self._is_on_screen = True

    def close(self) -> None:
        """Wipe the line away."""
        if self._is_on_screen:
            self._stream.write(_CLEAR)
            self._stream.flush()
            self._is_on_screen = False
