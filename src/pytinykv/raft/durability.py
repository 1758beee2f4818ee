"""Which part of the log and of the hard state is on the disk, while several Readys are under way.

    entries        1 ... 4 | 5 6 7 | 8 9 | 10 11
                   durable   Ready   Ready  not handed
                             no. 3   no. 4  out yet

`RawNode.on_persisted(3)` moves the first border to 7. When a new leader's entries overwrite from 6 on before that, Ready 3
still writes the old 6 and 7, but they are no longer this log's: the flight is cut to 5, so its completion counts up to 5.

Invariants:
1. The disk has the log's entries up to `index`.
2. A flight covers no entry that has been overwritten since it was handed out.
3. Flights complete in the order of their numbers; what a crash loses, it loses from the end.
"""

from __future__ import annotations

from collections import deque

from pytinykv.raft.messages import LogIndex, Term


class _Flight:
    """One Ready on its way to the disk."""

    __slots__ = ("last_index", "number", "term")

    def __init__(self, number: int, last_index: LogIndex, term: Term) -> None:
        self.number = number
        """The Ready's number."""
        self.last_index = last_index
        """Up to here its completion makes the log durable; falls when the log is overwritten."""
        self.term = term
        """The term that is durable with it."""


class Durability:
    """Borders between durable, under way and new."""

    __slots__ = ("_flights", "index", "term")

    def __init__(self, index: LogIndex, term: Term) -> None:
        self.index = index
        """Highest index up to which the log is on the disk. Moved by `persisted`, back by `overwritten`."""
        self.term = term
        """The term in the newest durable hard state. Moved by `persisted`; never falls."""
        self._flights: deque[_Flight] = deque()
        """Readys that must be synced and are not known to be, oldest first."""

    @property
    def idle(self) -> bool:
        """Whether nothing that was handed out is still on its way."""
        return not self._flights

    def handed(self, number: int, last_index: LogIndex, term: Term) -> None:
        """Note that Ready `number` went out, with a log up to `last_index` and a hard state of `term`."""
        self._flights.append(_Flight(number, last_index, term))

    def overwritten(self, from_index: LogIndex) -> None:
        """Note that the log is new from `from_index` on."""
        last = LogIndex(from_index - 1)
        self.index = min(self.index, last)
        for flight in self._flights:
            flight.last_index = min(flight.last_index, last)

    def persisted(self, number: int) -> bool:
        """Note that Ready `number` and all before it are on the disk; return whether a border moved."""
        index, term = self.index, self.term
        flights = self._flights
        while flights and flights[0].number <= number:
            flight = flights.popleft()
            self.index = max(self.index, flight.last_index)
            self.term = flight.term
        return self.index != index or self.term != term
