"""Timestamps: strictly increasing over restarts and over clocks that step backwards, close to the time of day.

           issued                    may be issued              needs a sync first
    ... ────────────── physical ───────────────────── end_ms ─────────────────────►  ms
                          ▲ follows `reference`         ▲ durable (`ReserveTimestamps`)

`reference` is what the physical part should be. It is the wall clock, except after that stepped backwards: then it goes
on at half the speed of the monotonic clock until the wall clock has caught up. (To hold it instead would stop all
lock expiry for as long as the step was wide; at full speed the error would stay for ever.) A restart before the
clock has reached the end of the old window is treated like such a step.

A burst that uses up the 2^18 timestamps of a millisecond moves the physical part on by itself, but at most
`ahead_max_ms` past the reference; then requests wait for time to pass.

Invariants:
 1. Each issued timestamp is greater than all before, in this process and in all earlier ones on the same data.
 2. physical < end_ms for everything issued, and end_ms is durable. A restart begins at end_ms.
 3. logical < 2^18: clients add the parts without masking.
"""

from __future__ import annotations

from typing import TypeAlias

import msgspec

from pytinykv.wire.timestamp import LOGICAL_MAX

LOGICAL_COUNT = LOGICAL_MAX + 1


class Issued(msgspec.Struct, frozen=True):
    """A run of timestamps; `logical` belongs to the last of them, as the protocol wants it."""

    physical_ms: int
    logical: int
    count: int


class WaitForTime(msgspec.Struct, frozen=True):
    """The physical part must not run further ahead: try again after so long."""

    seconds: float


class WaitForWindow(msgspec.Struct, frozen=True):
    """The durable window is used up: reserve `end_ms` and try again."""

    end_ms: int


Attempt: TypeAlias = Issued | WaitForTime | WaitForWindow


class TimestampOracle:
    """Decides about timestamps. Knows no disk and no clock: readings are handed in, the owner moves the window."""

    def __init__(self, end_ms: int, *, window_ms: int, ahead_max_ms: int) -> None:
        self._end_ms = end_ms
        """End of the durable window, exclusive. Grows only; the owner moves it when a reservation is durable."""
        self._physical_ms = end_ms
        """Physical part of the next timestamp, if its millisecond has room."""
        self._next_logical = 0
        """Logical part of the next timestamp in that millisecond; 0 only before the first one."""
        self._window_ms = window_ms
        self._ahead_max_ms = ahead_max_ms
        self._reference_ms = float(end_ms)
        """What the clocks said last; never goes back. A restart inside an old window is like a step of the clock."""
        self._monotonic: float | None = None
        """Monotonic seconds at that reading; None before the first one."""
        self.issued = 0
        """How many timestamps were issued since the start."""

    @property
    def end_ms(self) -> int:
        """End of the durable window, exclusive."""
        return self._end_ms

    @property
    def unused_end_ms(self) -> int:
        """The lowest end of a window that covers everything issued: from here on a stop may release."""
        return self._physical_ms + 1 if self._next_logical else self._physical_ms

    def on_reserved(self, end_ms: int) -> None:
        """Note that physical parts below `end_ms` are durable now."""
        self._end_ms = max(self._end_ms, end_ms)

    def wants_window(self) -> int | None:
        """Return the window to reserve ahead of need, or None while more than half of it is left."""
        if self._end_ms - self._base_ms() > self._window_ms // 2:
            return None
        return self._next_window()

    def allocate(self, count: int, *, wall_ms: int, monotonic: float) -> Attempt:
        """Try to issue `count` (1 to 2^18) consecutive timestamps in one millisecond."""
        assert 0 < count <= LOGICAL_COUNT, count
        self._read_clocks(wall_ms, monotonic)
        physical, logical = self._physical_ms, self._next_logical
        if physical < int(self._reference_ms):
            physical, logical = int(self._reference_ms), 0
        if logical + count > LOGICAL_COUNT:
            physical, logical = physical + 1, 0
            excess_ms = physical - self._reference_ms - self._ahead_max_ms
            if excess_ms > 0:
                return WaitForTime(min(max(excess_ms, 1.0), 10.0 * self._ahead_max_ms) / 1000)
        if physical >= self._end_ms:
            return WaitForWindow(self._next_window())
        self._physical_ms, self._next_logical = physical, logical + count
        self.issued += count
        return Issued(physical, logical + count - 1, count)

    def _base_ms(self) -> int:
        return max(self._physical_ms, int(self._reference_ms))

    def _next_window(self) -> int:
        return self._base_ms() + self._window_ms

    def _read_clocks(self, wall_ms: int, monotonic: float) -> None:
        slewed = self._reference_ms
        if self._monotonic is not None:
            slewed += max(0.0, monotonic - self._monotonic) * 1000 / 2
        self._monotonic = monotonic
        self._reference_ms = max(float(wall_ms), slewed)
