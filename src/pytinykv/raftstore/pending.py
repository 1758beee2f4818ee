"""Calls that wait: proposals for their entry to be applied, reads for the index at which they may be served.

Every call that comes in here is answered exactly once, whatever happens to the peer: with its result, or with the region
error that says why not, or that it is not known (`UndeterminedResult`).
"""

from __future__ import annotations

from bisect import insort
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from pytinykv.raft import LogIndex, Term
from pytinykv.wire.errors import RegionError

Results = Sequence[object] | None
"""One result per operation of a command that has results (COMPARE_AND_SWAP), None for blind writes."""

OnDone = Callable[[RegionError | None, Results], None]
OnReady = Callable[[RegionError | None], None]


class Part(NamedTuple):
    """One caller's share of an entry: that many of its operations."""

    operations: int
    on_done: OnDone


@dataclass(frozen=True, slots=True)
class Proposal:
    """An entry on its way, and its callers."""

    index: LogIndex
    term: Term
    parts: list[Part]


class PendingProposals:
    """Proposals by index and then by term.

    Almost always they come in that order. But a leader that lost its leadership and came back with a shorter log proposes
    at indexes for which older proposals still wait: those may yet be committed by a peer that has them, so both wait.
    """

    def __init__(self) -> None:
        self._queue: deque[Proposal] = deque()
        """Sorted by index, then by term. `settle` takes from its front."""

    def __len__(self) -> int:
        return len(self._queue)

    def add(self, proposal: Proposal) -> None:
        queue = self._queue
        if not queue or queue[-1].index < proposal.index:
            queue.append(proposal)
        else:
            insort(queue, proposal, key=_place)

    def settle(self, index: LogIndex, term: Term) -> tuple[list[Part], list[Proposal]]:
        """Take note that the entry (index, term) is being applied.

        Return the callers of exactly this entry, and the proposals that now never will be applied: their slot holds
        another term's entry (Raft 5.3).
        """
        parts: list[Part] = []
        lost: list[Proposal] = []
        queue = self._queue
        while queue and queue[0].index <= index:
            proposal = queue.popleft()
            if proposal.index == index and proposal.term == term:
                parts = proposal.parts
            else:
                lost.append(proposal)
        return parts, lost

    def take_before(self, term: Term) -> list[Proposal]:
        """Remove and return the proposals of earlier terms."""
        old = [proposal for proposal in self._queue if proposal.term < term]
        self._queue = deque(proposal for proposal in self._queue if proposal.term >= term)
        return old

    def take_all(self) -> list[Proposal]:
        lost = list(self._queue)
        self._queue.clear()
        return lost


def _place(proposal: Proposal) -> tuple[LogIndex, Term]:
    return proposal.index, proposal.term


class PendingReads:
    """Reads that need a read index: waiting for the quorum to be asked, asked, and waiting for the apply."""

    def __init__(self) -> None:
        self._waiting: list[OnReady] = []
        """Reads for which no quorum was asked yet."""
        self._asked: dict[bytes, list[OnReady]] = {}
        """By the context under which the quorum was asked."""
        self._confirmed: deque[tuple[LogIndex, list[OnReady]]] = deque()
        """Reads and the index that must be applied before they look, in the order of confirmation; indexes never fall."""
        self._contexts = 0
        """How many contexts were made; each is used once."""

    def __len__(self) -> int:
        asked = sum(len(reads) for reads in self._asked.values())
        return len(self._waiting) + asked + sum(len(reads) for _index, reads in self._confirmed)

    def add(self, on_ready: OnReady) -> None:
        self._waiting.append(on_ready)

    @property
    def has_waiting(self) -> bool:
        return bool(self._waiting)

    @property
    def has_confirmed(self) -> bool:
        """Return whether reads wait for no more than that enough is applied."""
        return bool(self._confirmed)

    def ask(self, ask_quorum: Callable[[bytes], None]) -> None:
        """Ask once for all waiting reads; if `ask_quorum` raises, they go on waiting."""
        self._contexts += 1
        context = self._contexts.to_bytes(8, "big")
        ask_quorum(context)
        self._asked[context] = self._waiting
        self._waiting = []

    def on_confirmed(self, context: bytes, index: LogIndex) -> None:
        """A quorum has confirmed: reads of this context may be served once `index` is applied (Raft thesis 6.4)."""
        reads = self._asked.pop(context, None)
        if reads:
            self._confirmed.append((index, reads))

    def take_served(self, applied: LogIndex) -> list[OnReady]:
        served: list[OnReady] = []
        while self._confirmed and self._confirmed[0][0] <= applied:
            served.extend(self._confirmed.popleft()[1])
        return served

    def take_dropped(self, contexts: Sequence[bytes]) -> list[OnReady]:
        """Remove and return the reads of these contexts, which Raft has given up."""
        return [on_ready for context in contexts for on_ready in self._asked.pop(context, ())]

    def take_all(self) -> list[OnReady]:
        lost = self._waiting
        for reads in self._asked.values():
            lost.extend(reads)
        for _index, reads in self._confirmed:
            lost.extend(reads)
        self._waiting, self._asked = [], {}
        self._confirmed.clear()
        return lost
