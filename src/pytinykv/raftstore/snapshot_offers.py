"""What becomes of a snapshot from another store: refused by its header, or received and then offered to its region's Raft.

    header ──receive──▶ `IncomingSnapshots` ──sealed──▶ a turn ──▶ Raft takes it: installed (`installing`)
       └──▶ refused                                        └──▶ or not: deleted, refused

Whether it would be taken is asked twice, before its bytes travel and when they are here, as the region may have changed
meanwhile. When it is refused, Raft gets its message all the same: if the peer has the log already, the leader has to know.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pytinykv.raft import ProtocolViolation
from pytinykv.raftstore.incoming_snapshots import IncomingSnapshots, SnapshotReceiver, SnapshotRefusedError
from pytinykv.raftstore.peer import IncomingSnapshot

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from pytinykv.lifecycle import Worker
    from pytinykv.raftstore.activity import Activity
    from pytinykv.raftstore.config import RaftStoreConfig
    from pytinykv.raftstore.counters import StoreCounters
    from pytinykv.raftstore.incoming_snapshots import OnEnd
    from pytinykv.raftstore.peer import RegionPeer
    from pytinykv.raftstore.records import RaftEnvelope, SnapshotHeader
    from pytinykv.raftstore.router import MessageRouter
    from pytinykv.raftstore.turn import Turn


class SnapshotOffers:
    """Belongs to the store loop."""

    def __init__(
        self,
        directory: Path,
        worker: Worker,
        config: RaftStoreConfig,
        router: MessageRouter,
        activity: Activity,
        counters: StoreCounters,
        *,
        in_turn: Callable[[Callable[[Turn], None]], None],
        touch_now: Callable[[RegionPeer], None],
        step_later: Callable[[list[RaftEnvelope]], None],
        on_violation: Callable[[RaftEnvelope, ProtocolViolation], None],
    ) -> None:
        """`touch_now` has the running turn look at a peer; `step_later` gives messages to the next one."""
        self.incoming = IncomingSnapshots(directory, worker, config, self._on_sealed)
        self._router = router
        self._activity = activity
        self._counters = counters
        self._in_turn = in_turn
        self._touch_now = touch_now
        self._step_later = step_later
        self._on_violation = on_violation

    def receive(self, header: SnapshotHeader) -> SnapshotReceiver:
        """Begin to take a snapshot stream. Raises SnapshotRefusedError, FormatError, OSError."""
        reason = self._router.why_no_snapshot(header)
        if reason is None:
            return self.incoming.receive(header)
        self._step_later([header.envelope])
        raise SnapshotRefusedError(reason)

    def _on_sealed(self, header: SnapshotHeader, directory: Path, on_end: OnEnd) -> None:
        def offer(turn: Turn) -> None:
            reason = self._router.why_no_snapshot(header)
            if reason is not None:
                self._step_later([header.envelope])
            else:
                reason = self._why_not_taken(header, directory, turn)
            if reason is not None:
                self.incoming.discard(directory)
            self._counters.snapshots_installed += reason is None
            on_end(None if reason is None else SnapshotRefusedError(reason))

        self._in_turn(offer)

    def _why_not_taken(self, header: SnapshotHeader, directory: Path, turn: Turn) -> str | None:
        """Offer a received snapshot to its region's Raft; return why it was not taken, None if it was."""
        peer = self._router.find_receiver(header.envelope, turn)
        if peer is None:
            return "its sender is out of date"
        self._activity.wake(peer, turn)
        self._touch_now(peer)
        try:
            is_taken = peer.offer_snapshot(turn, header.envelope, IncomingSnapshot(header.manifest, directory))
        except ProtocolViolation as error:
            self._on_violation(header.envelope, error)
            return "its message breaks the protocol"
        return None if is_taken else "Raft does not want it"
