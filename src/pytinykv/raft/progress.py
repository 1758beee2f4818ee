"""What a leader knows about one follower, and how much it may send.

                    rejected                      log starts above `next`
        ┌────────────────────────┐        ┌────────────────────────────────┐
        ▼                        │        │                                ▼
      PROBE ──── accepted ──▶ REPLICATE ──┘   PROBE ───────────────▶ SNAPSHOT
     one message at a         a window of       ▲    follower has it, or    │
     time, to find `match`    messages          └──── the sending failed ───┘

Invariants:
1. `match` < `next`; the follower's log equals the leader's up to `match`, on its disk, so `match` never falls.
2. In REPLICATE `next` is a guess: everything below it was sent. A rejection sends back towards `match` + 1.
3. In SNAPSHOT nothing is sent.
"""

from __future__ import annotations

from collections import deque
from enum import Enum

from pytinykv.raft.messages import LogIndex

NEVER = float("-inf")
"""A time before all others."""


class ProgressState(Enum):
    """How a follower is being fed."""

    PROBE = "probe"
    REPLICATE = "replicate"
    SNAPSHOT = "snapshot"


class Progress:
    """One member, as the leader knows it; the leader has one for itself, too."""

    __slots__ = (
        "_inflight",
        "acked_at",
        "acked_round",
        "commit_sent",
        "inflight_bytes",
        "inflight_bytes_max",
        "inflight_max",
        "is_paused",
        "is_poked",
        "match",
        "next",
        "pending_snapshot",
        "recent_active",
        "snapshot_ticks",
        "state",
    )

    def __init__(
        self, match: LogIndex, next_index: LogIndex, *, inflight_max: int, inflight_bytes_max: int = 1 << 62
    ) -> None:
        self.match = match
        """Up to here the follower's disk is known to have the leader's log. Moved by acknowledgements; never falls."""
        self.next = next_index
        """Index of the first entry of the next append message. Always above `match`."""
        self.state = ProgressState.PROBE
        """How the follower is fed; moved along the arrows of the module's figure by the `become_…` methods."""
        self.inflight_max = inflight_max
        """How many append messages with entries may be unanswered in REPLICATE."""
        self.inflight_bytes_max = inflight_bytes_max
        """With so many bytes of entries in them, no further one is sent."""
        self._inflight: deque[tuple[LogIndex, int]] = deque()
        """Last index and bytes of each unanswered append message with entries, in REPLICATE; ascending, above `match`."""
        self.inflight_bytes = 0
        """The sum of their bytes."""
        self.is_paused = False
        """In PROBE: a probe is on its way, so none is due. A response or the next heartbeat's answer ends the pause."""
        self.is_poked = False
        """In REPLICATE: something may have been lost, so an append message is due, be it empty, that shows a gap."""
        self.commit_sent = LogIndex(0)
        """Highest commit index sent; repeats are useless, what is lost the heartbeats bring again."""
        self.pending_snapshot = LogIndex(0)
        """In SNAPSHOT: the index of the one that is on its way; 0 in the other states."""
        self.snapshot_ticks = 0
        """In SNAPSHOT: ticks since it was sent."""
        self.recent_active = False
        """Heard from since the last check of the quorum, which resets it."""
        self.acked_at = NEVER
        """Newest send time (leader's clock) of a message that the follower has answered in this term."""
        self.acked_round = 0
        """Newest heartbeat round that the follower has answered in this term; see `read_index`."""

    def become_probe(self) -> None:
        """Look for the point of agreement again."""
        if self.state is ProgressState.SNAPSHOT:
            self.next = LogIndex(max(self.match, self.pending_snapshot) + 1)
        else:
            self.next = LogIndex(self.match + 1)
        self._enter(ProgressState.PROBE)

    def become_replicate(self) -> None:
        """Send a stream."""
        self.next = LogIndex(self.match + 1)
        self._enter(ProgressState.REPLICATE)

    def become_snapshot(self, index: LogIndex) -> None:
        """Wait for a snapshot that ends at `index` to arrive."""
        self._enter(ProgressState.SNAPSHOT)
        self.pending_snapshot = index

    def _enter(self, state: ProgressState) -> None:
        self.state = state
        self.is_paused = self.is_poked = False
        self.pending_snapshot = LogIndex(0)
        self.snapshot_ticks = 0
        self.commit_sent = LogIndex(0)
        self._inflight.clear()
        self.inflight_bytes = 0

    def is_due(self, last_index: LogIndex, announced: LogIndex) -> bool:
        """Tell whether an append message should go out now; `announced` is the commit index that is worth one by itself."""
        if self.state is ProgressState.REPLICATE:
            if (
                self.next <= last_index
                and len(self._inflight) < self.inflight_max
                and self.inflight_bytes < self.inflight_bytes_max
            ):
                return True
            return self.is_poked or self.commit_sent < min(announced, self.next - 1)
        return self.state is ProgressState.PROBE and not self.is_paused

    def is_full(self) -> bool:
        """Tell whether the window of unanswered messages is used up."""
        return len(self._inflight) >= self.inflight_max or self.inflight_bytes >= self.inflight_bytes_max

    @property
    def inflight(self) -> int:
        """How many append messages with entries are unanswered."""
        return len(self._inflight)

    def on_sent(self, last_index: LogIndex | None, size_bytes: int, commit: LogIndex) -> None:
        """Note that an append went out, with entries up to `last_index` that have so many bytes, or without."""
        self.is_poked = False
        if self.state is ProgressState.PROBE:
            self.is_paused = True
        elif last_index is not None:
            self.next = LogIndex(last_index + 1)
            self._inflight.append((last_index, size_bytes))
            self.inflight_bytes += size_bytes
        self.commit_sent = commit

    def on_accepted(self, match: LogIndex) -> bool:
        """Note an acknowledgement; return whether anything new was learned."""
        if match < self.match or (match == self.match and self.state is not ProgressState.PROBE):
            return False
        self.match = match
        if self.state is ProgressState.PROBE or (
            self.state is ProgressState.SNAPSHOT and match >= self.pending_snapshot
        ):
            self.become_replicate()
            return True
        if self.next <= match:
            self.next = LogIndex(match + 1)
        inflight = self._inflight
        while inflight and inflight[0][0] <= match:
            self.inflight_bytes -= inflight.popleft()[1]
        return True

    def on_rejected(self, rejected: LogIndex, hint: LogIndex) -> bool:
        """Note that the follower lacks `rejected` and may agree at `hint`; return whether to probe again.

        An answer to an older question is ignored: in REPLICATE one at or below `match`, in PROBE any but the last one's.
        """
        if self.state is ProgressState.REPLICATE:
            if rejected <= self.match:
                return False
            self.become_probe()
        elif self.state is ProgressState.SNAPSHOT or self.next - 1 != rejected:
            return False
        self.next = LogIndex(max(min(rejected, hint + 1), self.match + 1))
        self.is_paused = False
        return True
