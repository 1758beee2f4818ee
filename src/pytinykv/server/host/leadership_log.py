"""What a store's log says of its leaderships: how many regions it leads, not which; that one is for debugging.

Told when it has changed, but only every `INTERVAL_S`: an election after a store died moves hundreds.
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from pytinykv.raftstore import Store

_log = logging.getLogger(__name__)

INTERVAL_S: Final = 2.0


async def tell_leaderships(store: Store, interval_s: float = INTERVAL_S) -> None:
    """Log how many regions the store has and leads, until cancelled."""
    told: tuple[int, int] | None = None
    while True:
        now = count_leaderships(store)
        if now != told:
            told = now
            _log.info("store %d leads %d of %d regions", store.store_id, *now)
        await asyncio.sleep(interval_s)


def count_leaderships(store: Store) -> tuple[int, int]:
    """Return how many regions a store leads, and how many it has a peer of."""
    return sum(peer.is_leader for peer in store.peers.values()), len(store.peers)
