"""Sizes that clients and servers agree on.

A server refuses what exceeds them with a message that says so; our client refuses it before it sends anything.
"""

from __future__ import annotations

from typing import Final

KEY_BYTES_MAX: Final = 8 * 1024
"""Longest key (a user's key, before any encoding)."""

SCAN_BOUND_BYTES_MAX: Final = KEY_BYTES_MAX + 1
"""Longest bound of a range. One byte more than a key: the successor of the longest key is a bound, and so are the
8193 bytes 0xFF that one client sends for "no upper bound" in a reverse scan."""

ENTRY_BYTES_MAX: Final = 8 * 1024 * 1024
"""Largest replicated command. It bounds a value, and a batch for one region."""

MESSAGE_BYTES_MAX: Final = 128 * 1024 * 1024
"""Largest protobuf message that a server reads. Far above `ENTRY_BYTES_MAX`, because one frame carries many commands
and some clients don't split batches; a command within it that is too large gets an answer of its own."""

ANSWER_BYTES_MAX: Final = 64 * 1024 * 1024
"""Largest response of one command. A command that asks for more is refused with an error that says so: gRPC copies a
message in one go, and other clients wait meanwhile (64 MiB: some 25 ms)."""

RAW_SCAN_LIMIT_MAX: Final = 10_240
"""Largest `limit` of a raw scan. More is refused, never shortened: a short page means the end of the region."""


TTL_S_MAX: Final = 100 * 365 * 24 * 3600
"""Longest time to live, a hundred years: more is a mistake of units. On the wire, 0 is a value that stays."""


def key_problem(key: bytes) -> str | None:
    """Say what is wrong with `key` as the key of a pair; None if nothing is."""
    if not key:
        return "key is empty: a key has at least one byte"
    if len(key) > KEY_BYTES_MAX:
        return f"key is too long: {len(key)} bytes, at most {KEY_BYTES_MAX} are allowed"
    return None


def bound_problem(bound: bytes) -> str | None:
    """Say what is wrong with `bound` as an end of a range; None if nothing is. Empty means unbounded."""
    if len(bound) > SCAN_BOUND_BYTES_MAX:
        return f"bound is too long: {len(bound)} bytes, at most {SCAN_BOUND_BYTES_MAX} are allowed"
    return None
