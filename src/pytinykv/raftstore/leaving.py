"""Handing over what a store leads before it stops, all of it, and what comes back meanwhile.

    leader here ──offer──▶ a follower takes over ──▶ done
                 ▲                  │ an election, or the order of a scheduler that has not heard of the stop
                 └── leads again ◀──┘

Others take a store that goes on answering for one that goes on, and to the scheduler it seems to lead too little. So the
scheduler is told first (`is_under_way`), and leadership that comes back is offered again at once.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from pytinykv.raftstore.region_events import Leading

if TYPE_CHECKING:
    from pytinykv.raftstore.peer import RegionPeer
    from pytinykv.raftstore.region_events import RegionEvent
    from pytinykv.raftstore.turn import Turn


class Leaving:
    """Belongs to the store loop. `peers` is shared with the store."""

    def __init__(
        self,
        peers: Mapping[int, RegionPeer],
        *,
        in_turn: Callable[[Callable[[Turn], None]], None],
        touch: Callable[[RegionPeer], None],
        wake: Callable[[Turn], None],
    ) -> None:
        """`in_turn` has the next turn do something, `touch` has it collect from a peer, `wake` wakes leaders that sleep."""
        self._peers = peers
        self._in_turn = in_turn
        self._touch = touch
        self._wake = wake
        self.is_under_way = False
        """Whether the store is about to stop, for good: it wants no leadership any more."""
        self._left: dict[int, RegionPeer] | None = None
        """By region, the peers that have been told to hand over; None before that has begun."""

    def offer(self, turn: Turn, attempt: int = 0) -> None:
        """Let followers take over what is led here, now and from now on.

        `attempt`: how many were in vain before; see `RegionPeer.offer_leadership`.
        """
        self.is_under_way = True
        self._left = {}
        self._wake(turn)
        for peer in self._peers.values():
            self._offer(peer, turn, attempt)

    def _offer(self, peer: RegionPeer, turn: Turn, attempt: int = 0) -> None:
        if self._left is not None and peer.offer_leadership(turn.now, attempt):
            self._left[peer.region.id] = peer
            self._touch(peer)

    def on_event(self, event: RegionEvent) -> None:
        """Offer again what comes back; a `RegionListener`."""
        peer = None if self._left is None or not isinstance(event, Leading) else self._peers.get(event.region.id)
        if peer is not None:
            self._in_turn(lambda turn: self._offer(peer, turn))

    @property
    def leads(self) -> int:
        """Return how many regions are led here."""
        return sum(peer.is_leader for peer in self._peers.values())

    @property
    def is_done(self) -> bool:
        """Return whether nothing is led here any more that a follower was to take over."""
        return self._left is not None and not any(peer.is_leader for peer in self._left.values())
