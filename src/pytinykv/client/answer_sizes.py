"""How many pairs to ask for at a time, so that an answer has about the size wanted.

A store may not shorten an answer (a short page means that the region has no more, a missing pair that there is no such
key), and how large values are shows only when they are read. So a client that has read none asks for one pair first, and then
for as many as those it saw let it expect to fit. It errs for one answer when values become larger at once; a store for which
that is too much says so, and is asked for less.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

UNKNOWN_ROWS = 1
"""Pairs to ask for while the size of none is known: 8 MiB at most."""
TAIL_ROWS = 4
"""The last pairs of an answer. If they are larger than the others, the next ones will be, too."""
TOO_MUCH_FACTOR = 4
"""After an answer that was too much for a store, pairs are expected to be so many times as large."""


class AnswerKind(NamedTuple):
    """Reads whose pairs are expected to be of one size."""

    cf: str
    key_only: bool = False


class AnswerSizes:
    """The sizes of pairs that one client has seen lately."""

    def __init__(self) -> None:
        self._row_bytes: dict[AnswerKind, int] = {}
        """Expected bytes of a pair, at least 1. Rises at once, and falls by half at most with each answer."""

    def rows(self, kind: AnswerKind, bytes_target: int) -> int | None:
        """Return how many pairs have about `bytes_target` bytes, at least 1; None as long as none was seen."""
        row_bytes = self._row_bytes.get(kind)
        return None if row_bytes is None else max(1, bytes_target // row_bytes)

    def learn(self, kind: AnswerKind, pairs: Sequence[tuple[bytes, bytes]]) -> int:
        """Take the pairs of an answer, at least one; return the bytes to expect of the next pair, at least 1."""
        seen = max(_mean_bytes(pairs), _mean_bytes(pairs[-TAIL_ROWS:]))
        self._row_bytes[kind] = max(seen, self._row_bytes.get(kind, 0) // 2)
        return seen

    def learn_too_much(self, kind: AnswerKind, bytes_target: int) -> None:
        """Take that an answer of about `bytes_target` bytes was too much for a store: expect larger pairs."""
        row_bytes = self._row_bytes.get(kind, 1)
        self._row_bytes[kind] = max(row_bytes, min(row_bytes * TOO_MUCH_FACTOR, bytes_target))


def _mean_bytes(pairs: Sequence[tuple[bytes, bytes]]) -> int:
    return max(1, sum(len(key) + len(value) for key, value in pairs) // len(pairs))
