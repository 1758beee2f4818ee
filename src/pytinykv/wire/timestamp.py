"""Timestamps of the scheduler: one 64-bit number that orders the whole cluster.

      63                              18 17                 0
     +----------------------------------+--------------------+
     |   physical: ms since 1970, UTC   |      logical       |
     +----------------------------------+--------------------+

Clients compute `(physical << 18) + logical` themselves and don't mask, so a logical part of 2^18 or more would
overflow into the physical one and order wrongly: `compose` refuses it. Lock expiry is judged by the physical part,
which therefore follows the time of day.
"""

from __future__ import annotations

from typing import Final, NewType

Timestamp = NewType("Timestamp", int)
"""An unsigned 64-bit timestamp. 0 is before everything and never allocated."""

LOGICAL_BITS: Final = 18
LOGICAL_MAX: Final = (1 << LOGICAL_BITS) - 1
PHYSICAL_MAX: Final = (1 << (64 - LOGICAL_BITS)) - 1
MAX_TIMESTAMP: Final = Timestamp((1 << 64) - 1)
"""After everything; as a read timestamp: the newest committed version."""


def compose(physical_ms: int, logical: int) -> Timestamp:
    """Build a timestamp of milliseconds since the epoch and a counter within them. Raises `ValueError` out of range."""
    if not 0 <= physical_ms <= PHYSICAL_MAX:
        raise ValueError(f"physical part {physical_ms} ms does not fit into {64 - LOGICAL_BITS} bits")
    if not 0 <= logical <= LOGICAL_MAX:
        raise ValueError(f"logical part {logical} does not fit into {LOGICAL_BITS} bits")
    return Timestamp((physical_ms << LOGICAL_BITS) + logical)


def decompose(timestamp: Timestamp) -> tuple[int, int]:
    """Return (physical milliseconds, logical counter)."""
    return timestamp >> LOGICAL_BITS, timestamp & LOGICAL_MAX


def physical_ms(timestamp: Timestamp) -> int:
    """Return the milliseconds since the epoch."""
    return timestamp >> LOGICAL_BITS


def logical(timestamp: Timestamp) -> int:
    """Return the counter within the millisecond."""
    return timestamp & LOGICAL_MAX
