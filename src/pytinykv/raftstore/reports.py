"""What a store tells the scheduler of the regions that it leads, and what its peers ask it.

A region is reported in the turn in which it changed, came to be led here, or had other peers fall behind, and every
`region_heartbeat_s`, or less often while it hibernates. Never are more than `REPORTS_PER_TURN` of them, which cost a few
estimates each: what else there is, the next turns report. Repetitions come a little earlier or later for each region, so that
those which were reported together drift apart. A peer that has had no leader for long asks whether it is still a member: it
may have been removed while it was cut off.
"""

from __future__ import annotations

from itertools import islice
from typing import TYPE_CHECKING, Final

from pytinykv.raftstore.region_events import Destroyed, Leading, RegionChanged
from pytinykv.raftstore.sizes import RegionSizes

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from pytinykv.model import Peer, Region
    from pytinykv.raftstore.config import RaftStoreConfig
    from pytinykv.raftstore.peer import RegionPeer
    from pytinykv.raftstore.ports import SchedulerLink
    from pytinykv.raftstore.region_events import RegionEvent
    from pytinykv.storage import Engine


REPORTS_PER_TURN: Final = 32
"""Regions that are reported at the end of one turn."""
_SPREAD: Final = 0.2
"""By which share of the interval the repetitions of two regions' reports differ at most."""


class Reports:
    """Belongs to the store loop. `peers` is shared with the store; `on_membership` takes the scheduler's answers."""

    def __init__(
        self,
        peers: Mapping[int, RegionPeer],
        engine: Engine,
        link: SchedulerLink,
        config: RaftStoreConfig,
        on_membership: Callable[[Region], None],
        is_alive: Callable[[Peer], bool],
    ) -> None:
        """`is_alive` says whether another peer's store has been heard lately."""
        self._peers = peers
        self._sizes = RegionSizes(engine)
        self._link = link
        self._config = config
        self._on_membership = on_membership
        self._is_alive = is_alive
        self._news: dict[int, None] = {}
        """Ids of the regions to report at the end of a turn, if they are led here then; in the order they came up."""
        self._due_at: dict[int, float] = {}
        """By region, the monotonic time of its next report; only regions that were reported."""

    def on_event(self, event: RegionEvent) -> None:
        """Note what the scheduler should hear of; a `RegionListener`."""
        self._sizes.on_event(event)
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
                is_asleep = peer.rest.is_asleep
                if now >= self._due_at.get(region_id, 0.0) or (not is_asleep and peer.has_other_laggards(now)):
                    self._news[region_id] = None
            elif peer.misses_leader(now):
                self._link.ask_membership(peer.region.id, self._on_membership)

    def send(self, now: float) -> None:
        """Report what there is to report, or some of it."""
        if not self._news:
            return
        for region_id in list(islice(self._news, REPORTS_PER_TURN)):
            del self._news[region_id]
            peer = self._peers.get(region_id)
            if peer is not None and peer.is_leader:
                if peer.rest.is_asleep:
                    peer.count_as_heard(self._is_alive, now)
                self._due_at[region_id] = now + self._interval_s(peer)
                self._link.report_region(peer.report(self._sizes.of(peer, now), now))

    def _interval_s(self, peer: RegionPeer) -> float:
        """Return when to repeat a report; regions differ, so that they are not all due in one turn."""
        config = self._config
        interval_s = config.hibernating_heartbeat_s if peer.rest.is_asleep else config.region_heartbeat_s
        return interval_s * (1 - _SPREAD * (peer.region.id * 13 % 32) / 32)
