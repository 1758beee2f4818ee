"""What the logs of all regions of a store may take together, on disk and in memory.

Each region has bounds of its own (`log_collection`, `PeerStorage`), which a thousand regions never reach while their sum
fills disk and memory. So every second the store looks at the sums:

    logs on disk        above `log_budget_bytes`: the longest that are led here are cut; what hibernates is woken by that
    entries in memory   above `log_cache_budget_bytes`: the largest caches are halved; sleeping peers have none anyway

Only a leader can cut, so each store cuts what it leads, and its followers' logs are cut by others.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from pytinykv.raftstore.config import RaftStoreConfig
    from pytinykv.raftstore.peer import RegionPeer

LOOK_EVERY_S: Final = 1.0
CUTS_PER_LOOK: Final = 32
"""Logs that are cut at a time, the longest first."""
SMALL_BYTES: Final = 64 * 1024
"""A log or cache that has no more than this is not worth it."""


class LogBudget:
    """Belongs to the store loop; `peers` is shared with the store."""

    def __init__(
        self, peers: Mapping[int, RegionPeer], config: RaftStoreConfig, touch: Callable[[RegionPeer], None]
    ) -> None:
        """`touch` lets the turn that is being run look at a peer, and wakes it."""
        self._peers = peers
        self._config = config
        self._touch = touch
        self._due_at = 0.0
        """Monotonic time of the next look."""

    def on_tick(self, now: float) -> None:
        """Look at the sums, if it is time to."""
        if now < self._due_at:
            return
        self._due_at = now + LOOK_EVERY_S
        self._trim_caches()
        self._cut_logs(now)

    def _trim_caches(self) -> None:
        excess = sum(peer.storage.cache_bytes for peer in self._peers.values()) - self._config.log_cache_budget_bytes
        if excess <= 0:
            return
        for peer in sorted(self._peers.values(), key=_cache_bytes, reverse=True):
            before = peer.storage.cache_bytes
            peer.storage.trim_cache(before // 2 if before > SMALL_BYTES else 0)
            excess -= before - peer.storage.cache_bytes
            if excess <= 0:
                return

    def _cut_logs(self, now: float) -> None:
        excess = sum(peer.storage.log_bytes for peer in self._peers.values()) - self._config.log_budget_bytes
        if excess <= 0:
            return
        led = [peer for peer in self._peers.values() if peer.is_leader and peer.storage.log_bytes > SMALL_BYTES]
        for peer in sorted(led, key=_log_bytes, reverse=True)[:CUTS_PER_LOOK]:
            if excess <= 0:
                return
            if peer.cut_log(now):
                excess -= peer.storage.log_bytes
                self._touch(peer)


def _cache_bytes(peer: RegionPeer) -> int:
    return peer.storage.cache_bytes


def _log_bytes(peer: RegionPeer) -> int:
    return peer.storage.log_bytes
