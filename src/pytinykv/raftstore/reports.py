"""What a store tells the scheduler of the regions that it leads, and what its peers ask it.

A region is reported in the turn in which it changed, came to be led here, or had other peers fall behind, and every
`region_heartbeat_s`. A peer that has had no leader for long asks whether it is still a member: it may have been removed while
it was cut off.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pytinykv.raftstore.region_events import Destroyed, Leading, RegionChanged

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from pytinykv.model import Region
    from pytinykv.raftstore.config import RaftStoreConfig
    from pytinykv.raftstore.peer import RegionPeer
    from pytinykv.raftstore.ports import SchedulerLink
    from pytinykv.raftstore.region_events import RegionEvent
    from pytinykv.storage import Engine


class Reports:
    """Belongs to the store loop. `peers` is shared with the store; `on_membership` takes the scheduler's answers."""

    def __init__(
        self,
        peers: Mapping[int, RegionPeer],
        *,
        engine: Engine,
        link: SchedulerLink,
        config: RaftStoreConfig,
        on_membership: Callable[[Region], None],
    ) -> None:
        self._peers = peers
        self._engine = engine
        self._link = link
        self._config = config
        self._on_membership = on_membership
        self._news: dict[int, None] = {}
        """Ids of the regions to report at the end of the turn, if they are led here then; in the order they came up."""
        self._due_at: dict[int, float] = {}
        """By region, the monotonic time of its next report; only regions that were reported."""

    def on_event(self, event: RegionEvent) -> None:
        """Note what the scheduler should hear of; a `RegionListener`."""
        if isinstance(event, Leading):
            self._news[event.region.id] = None
        elif isinstance(event, RegionChanged):
            self._news[event.new.id] = None
        elif isinstance(event, Destroyed):
            self._due_at.pop(event.tombstone.region.id, None)

    def repeat_all(self) -> None:
        """Report every region led here again, for a scheduler that was restarted or is another one."""
        self._news.update(dict.fromkeys(self._peers))

    def look_at(self, peer: RegionPeer, now: float) -> None:
        """Report a leader's region if other peers are behind than the scheduler was told; it waits for such news."""
        if peer.has_other_laggards(now):
            self._news[peer.region.id] = None

    def on_tick(self, now: float) -> None:
        """Look for reports that are due and for peers without a leader."""
        for region_id, peer in self._peers.items():
            if peer.is_leader:
                if now >= self._due_at.get(region_id, 0.0) or peer.has_other_laggards(now):
                    self._news[region_id] = None
            elif peer.misses_leader(now):
                self._link.ask_membership(peer.region.id, self._on_membership)

    def send(self, now: float) -> None:
        """Report what there is to report."""
        if not self._news:
            return
        news, self._news = self._news, {}
        for region_id in news:
            peer = self._peers.get(region_id)
            if peer is not None and peer.is_leader:
                self._due_at[region_id] = now + self._config.region_heartbeat_s
                self._link.report_region(peer.report(self._engine, now))
