"""What a peer notices of the others in its region: which have fallen silent, and, as the leader, which are behind.

The scheduler is told of both. It gives votes only to learners that are neither, and the leader, which knows first, refuses to
promote one that is.

When has a learner caught up? Once it has everything that was committed an election timeout ago, or when it was first looked
at (a round of Raft thesis 4.2.1). As a voter it then holds up nothing for longer than that. A voter is behind only while it
waits for a snapshot: whether it has the newest entries changes all the time and says nothing.

A learner that has just died still looks well. To promote it would cost the quorum where the number of voters becomes even
(one becomes two, worst of all). So before such a promotion the leader waits for a message of that learner, and of the others,
of which one is likely to be next and to make the number odd again.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

from pytinykv.model import Peer, PeerRole, Region
from pytinykv.raft import LogIndex

if TYPE_CHECKING:
    from pytinykv.raft import PeerId
    from pytinykv.raftstore.config import RaftStoreConfig


BACK_AFTER_HEARTBEATS = 2
"""A follower that is heard after a longer silence than so many heartbeats take may have been restarted."""


class FollowerWatch:
    """Belongs to one peer. Times are monotonic seconds."""

    def __init__(self, config: RaftStoreConfig) -> None:
        self._config = config
        self._back_after_s = BACK_AFTER_HEARTBEATS * config.heartbeat_ticks * config.tick_s
        self._heard_at: dict[int, float] = {}
        """By peer, when its last message came; emptied when this peer comes to lead."""
        self._back_at: dict[int, float] = {}
        """By peer, when a message came after a silence that a restart may have been; emptied likewise."""
        self._since = 0.0
        """From when on silence is counted for peers that were never heard."""
        self._marks: deque[LogIndex] = deque(maxlen=config.election_ticks)
        """While there are learners: the commit index at each of the last ticks, oldest first."""

    def on_leading(self, now: float) -> None:
        """Begin anew: this peer has just become the leader, and followers speak to leaders only."""
        self._heard_at.clear()
        self._back_at.clear()
        self._marks.clear()
        self._since = now

    def on_heard(self, peer_id: PeerId, now: float) -> None:
        if now - self._heard_at.get(peer_id, self._since) > self._back_after_s:
            self._back_at[peer_id] = now
        self._heard_at[peer_id] = now

    def on_joined(self, old: Region, new: Region, now: float) -> None:
        """Count peers that have just been asked to come as heard."""
        for peer in new.peers:
            if old.peer(peer.id) is None:
                self._heard_at[peer.id] = now

    def on_tick(self, region: Region, commit: LogIndex) -> None:
        if any(peer.role is PeerRole.LEARNER for peer in region.peers):
            self._marks.append(commit)
        else:
            self._marks.clear()

    def silent_s(self, peer_id: int, now: float) -> float:
        """Return for how many seconds a peer has not been heard."""
        return now - self._heard_at.get(peer_id, self._since)

    def down(self, region: Region, own_id: PeerId, now: float) -> tuple[tuple[Peer, float], ...]:
        """Return the peers that have been silent for too long, and for how many seconds."""
        silent = [(peer, self.silent_s(peer.id, now)) for peer in region.peers if peer.id != own_id]
        return tuple((peer, seconds) for peer, seconds in silent if seconds > self._config.peer_down_s)

    def pending(
        self, region: Region, matches: Mapping[PeerId, LogIndex], *, truncated: LogIndex, commit: LogIndex
    ) -> tuple[Peer, ...]:
        """Return the peers that wait for a snapshot or for log entries that are gone, and the learners that are behind.

        `matches` has how far each peer's log is known to equal the leader's; empty while this peer does not lead.
        """
        enough = max(truncated, self._marks[0] if self._marks else commit)
        return tuple(
            peer
            for peer in region.peers
            if peer.id in matches and matches[peer.id] < (enough if peer.role is PeerRole.LEARNER else truncated)
        )

    def is_settled(self, peer_id: int, now: float) -> bool:
        """Say whether a peer has not come back within the last election timeout, during which it may not campaign."""
        return now - self._back_at.get(peer_id, -math.inf) > self._config.election_ticks * self._config.tick_s

    def has_heard_since(self, then: float, peer_id: int) -> bool:
        return self._heard_at.get(peer_id, -math.inf) > then

    def hears(self, peer_id: int, now: float) -> bool:
        """Say whether a peer was heard of lately."""
        return self.silent_s(peer_id, now) <= 2 * self._config.election_ticks * self._config.tick_s

    def why_not_promote(
        self, region: Region, peer: Peer, pending: Iterable[Peer], *, ordered_at: float, now: float
    ) -> str:
        """Say why a learner must not count yet; empty if it may. `ordered_at`: when its promotion was ordered."""
        silent_s = self.silent_s(peer.id, now)
        if any(peer.id == other.id for other in pending):
            return "it has not caught up"
        if silent_s > self._config.promotion_silence_s:
            return f"it has been silent for {silent_s:.1f} s"
        if len(region.voters) % 2 == 0:
            return ""
        learners = [peer for peer in region.peers if peer.role is PeerRole.LEARNER]
        alive = [peer for peer in learners if self.silent_s(peer.id, now) <= self._config.promotion_silence_s]
        if any(self._heard_at.get(peer.id, self._since) <= ordered_at for peer in alive):
            return "not all learners have been heard since the order"
        return ""
