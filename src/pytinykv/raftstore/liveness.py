"""Which other stores run: one beat for each pair of stores, in place of one heartbeat for each region that hibernates.

    never heard ──beat──▶ alive ──election_ticks ticks without a beat──▶ silent
                            ▲                                              │
                            └───────────────── beat ───────────────────────┘

A store beats every `heartbeat_ticks` to each store that has a peer of one of its regions. Silence is counted in ticks, not
in seconds: a loop that stalled has not listened meanwhile. A store of a version that sends no beats is never heard, and so
never silent; nothing hibernates that it takes part in (`activity`).

No lease stands on a beat: that a store runs does not say what it leads.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from pytinykv.model import Peer, RegionEpoch, RegionId, StoreId
from pytinykv.raft import NO_PEER
from pytinykv.raftstore.records import RaftEnvelope, StoreBeat
from pytinykv.raftstore.region_events import Destroyed, RegionChanged

if TYPE_CHECKING:
    from pytinykv.raftstore.config import RaftStoreConfig
    from pytinykv.raftstore.region_events import RegionEvent
    from pytinykv.raftstore.regions import ListedPeer

NO_REGION = RegionId(0)
"""The region of an envelope that is about all of them."""


class _OtherStore:
    """What is known of one other store."""

    __slots__ = ("incarnation", "silent_ticks")

    def __init__(self, incarnation: int) -> None:
        self.incarnation = incarnation
        """That of its newest beat."""
        self.silent_ticks = 0
        """Ticks since its last beat."""


class Liveness:
    """Belongs to the store loop."""

    def __init__(
        self,
        store_id: StoreId,
        incarnation: int,
        peers: Mapping[int, ListedPeer],
        config: RaftStoreConfig,
    ) -> None:
        """`peers` is shared with the store: whose members' stores hear the beats."""
        self._own = Peer(NO_PEER, store_id)
        self._incarnation = incarnation
        self._peers = peers
        self._config = config
        self._others: dict[StoreId, _OtherStore] = {}
        """Stores that have ever been heard since this one was started."""
        self._receivers: list[StoreId] | None = None
        """Whom to beat to, in order; None when the members of a region may have changed."""
        self._elapsed = 0
        """Ticks since the last beats."""

    def on_event(self, event: RegionEvent) -> None:
        """Look anew for whom to beat to when members change; a `RegionListener`."""
        if isinstance(event, RegionChanged | Destroyed):
            self._receivers = None

    def on_beat(self, store_id: StoreId, beat: StoreBeat) -> bool:
        """Take a beat; return whether the store was silent before, or was started again."""
        other = self._others.get(store_id)
        if other is None:
            self._others[store_id] = _OtherStore(beat.incarnation)
            return False
        was_silent = other.silent_ticks >= self._config.election_ticks
        is_news = was_silent or beat.incarnation != other.incarnation
        other.silent_ticks, other.incarnation = 0, beat.incarnation
        return is_news

    def on_tick(self, send: Callable[[RaftEnvelope], None]) -> list[StoreId]:
        """Beat, if it is time to; return the stores that have just fallen silent."""
        for other in self._others.values():
            other.silent_ticks += 1
        limit = self._config.election_ticks
        fallen = [store_id for store_id, other in self._others.items() if other.silent_ticks == limit]
        self._elapsed += 1
        if self._elapsed >= self._config.heartbeat_ticks:
            self._elapsed = 0
            beat = StoreBeat(self._incarnation)
            for store_id in self._receivers_now():
                receiver = Peer(NO_PEER, store_id)
                send(RaftEnvelope(NO_REGION, self._own, receiver, RegionEpoch(0, 0), None, note=beat))
        return fallen

    def _receivers_now(self) -> list[StoreId]:
        if self._receivers is None:
            found = {peer.store_id for here in self._peers.values() for peer in here.region.peers}
            self._receivers = sorted(found - {self._own.store_id})
        return self._receivers

    def is_alive(self, store_id: StoreId) -> bool:
        """Return whether a store has been heard lately."""
        other = self._others.get(store_id)
        return other is not None and other.silent_ticks < self._config.election_ticks

    def is_silent(self, store_id: StoreId) -> bool:
        """Return whether a store that was heard once is not heard any more."""
        return store_id in self._others and not self.is_alive(store_id)

    def silent_ticks(self, store_id: StoreId) -> int:
        """Return for how many ticks a store has not been heard; 0 if it never was."""
        other = self._others.get(store_id)
        return 0 if other is None else other.silent_ticks

    def describe(self) -> Mapping[StoreId, int]:
        """Return the ticks of silence of each store that was ever heard."""
        return {store_id: other.silent_ticks for store_id, other in self._others.items()}
