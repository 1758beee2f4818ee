"""Handing over leadership when the disk does not answer: nothing of what this store leads counts here any more.

A quorum without this store would let it lead on, and the next failure would end that. While a transfer is tried proposals
are dropped, and the peer that is to lead may not be able to win: so one follower after the other is tried, and between the
attempts this store leads as well as it can.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pytinykv.model import StoreId
    from pytinykv.raftstore.peer import RegionPeer
    from pytinykv.raftstore.syncs import Syncs

_log = logging.getLogger(__name__)

ATTEMPT_EVERY_S = 3.0
"""Time from one attempt to the next; one takes up to an election timeout."""


class SilentDisk:
    """Watches one store's syncs, a look each tick."""

    def __init__(self, store_id: StoreId, syncs: Syncs, *, silence_s: float) -> None:
        """`silence_s`: how long a sync may take before the disk counts as silent."""
        self._store_id = store_id
        self._syncs = syncs
        self._silence_s = silence_s
        self._was_silent = False
        """What the last tick found."""
        self._attempts = 0
        """How often leaderships were offered since the disk fell silent; picks the follower of the next attempt."""
        self._next_attempt_at = 0.0
        """Monotonic time before which nothing is offered again."""

    @property
    def is_silent(self) -> bool:
        """Return whether a sync takes longer than any should. Callable from any thread."""
        return self._syncs.silent_s >= self._silence_s

    def on_tick(self, peers: Iterable[RegionPeer], now: float) -> None:
        """Offer what is led here to followers, if the disk is silent and the last attempt is over."""
        was_silent, self._was_silent = self._was_silent, self.is_silent
        if not self._was_silent:
            self._attempts, self._next_attempt_at = 0, now
            return
        if not was_silent:
            _log.error(
                "store %d: the disk has not answered a sync for %.1f s; hands over what it leads",
                self._store_id,
                self._syncs.silent_s,
            )
        if now < self._next_attempt_at:
            return
        if [peer for peer in peers if peer.offer_leadership(now, self._attempts)]:
            self._attempts += 1
            self._next_attempt_at = now + ATTEMPT_EVERY_S
