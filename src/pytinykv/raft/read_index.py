"""Linearizable reads without a log entry (thesis 6.4).

    waiting ──ready()──▶ a round: heartbeats that carry its number ──a majority answered──▶ read states
    [ctx ctx ctx]        (round 7, index 120, [ctx ctx ctx])

All reads that arrive between two Readys share one round. An answer to round 8 also confirms round 7, so a lost heartbeat only
delays a read until the next regular one.

Invariants:
1. A read's index is the commit index at or after its arrival, and the leader had committed an entry of its own term by then.
2. It is released only after a majority has confirmed, in this term, a round begun after its arrival.
"""

from __future__ import annotations

from collections import deque

import msgspec

from pytinykv.raft.messages import LogIndex


class ReadState(msgspec.Struct, frozen=True, array_like=True):
    """The read `context` is linearizable once `index` is applied."""

    context: bytes
    index: LogIndex


class _Round(msgspec.Struct, frozen=True, array_like=True):
    """Reads that share one confirmation; `index` is the commit index when it was asked for."""

    number: int
    index: LogIndex
    contexts: list[bytes]


class ReadIndexQueue:
    """The reads of one leader in one term."""

    __slots__ = ("_pending", "_waiting", "round")

    def __init__(self) -> None:
        self.round = 0
        """Number of the newest round; every heartbeat carries it. Never falls."""
        self._waiting: list[bytes] = []
        """Contexts of the reads that the next round will confirm."""
        self._pending: deque[_Round] = deque()
        """Rounds begun and not confirmed, oldest first."""

    @property
    def has_waiting(self) -> bool:
        """Whether reads wait for a round to begin."""
        return bool(self._waiting)

    def add(self, context: bytes) -> None:
        """Take a read; it joins the next round."""
        self._waiting.append(context)

    def begin_round(self, commit: LogIndex) -> int:
        """Begin a round for all that wait; the caller sends its heartbeats."""
        self.round += 1
        self._pending.append(_Round(self.round, commit, self._waiting))
        self._waiting = []
        return self.round

    @property
    def has_pending(self) -> bool:
        """Whether a round waits for its majority."""
        return bool(self._pending)

    def confirmed(self, round_number: int) -> list[ReadState]:
        """Return the reads that a majority's answer to `round_number` confirms."""
        states: list[ReadState] = []
        while self._pending and self._pending[0].number <= round_number:
            done = self._pending.popleft()
            states.extend(ReadState(context, done.index) for context in done.contexts)
        return states

    def drop_all(self) -> list[bytes]:
        """Give up every read; return their contexts in order of arrival."""
        dropped = [context for pending in self._pending for context in pending.contexts] + self._waiting
        self._pending.clear()
        self._waiting = []
        return dropped
