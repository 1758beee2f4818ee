"""Other stores' messages, from their arrival to the peers that they are for.

    receive ──▶ frames ──a turn takes some──▶ a note: `activity`
                                              a Raft message: `router` finds the peer, which is woken and steps it

A turn takes whole frames, until it is full; the rest waits for the next one.
"""

from __future__ import annotations

import logging
from collections import deque
from typing import TYPE_CHECKING

from pytinykv.raft import InstallSnapshot, ProtocolViolation
from pytinykv.raftstore.records import RaftEnvelope, StoreBeat, decode_envelopes

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from pytinykv.raftstore.activity import Activity
    from pytinykv.raftstore.peer import RegionPeer
    from pytinykv.raftstore.router import MessageRouter
    from pytinykv.raftstore.turn import Turn

_log = logging.getLogger(__name__)


def log_violation(envelope: RaftEnvelope, error: ProtocolViolation) -> None:
    """Take note of a message that no correct peer sends."""
    _log.error(
        "region %d: message from peer %d rejected: %s", envelope.region_id, envelope.sender.id, error, exc_info=error
    )


class Inbox:
    """Belongs to the store loop; `peers` is shared with the store."""

    def __init__(
        self,
        peers: Mapping[int, RegionPeer],
        router: MessageRouter,
        activity: Activity,
        on_violation: Callable[[RaftEnvelope, ProtocolViolation], None],
    ) -> None:
        """`on_violation` is told of a message that no correct peer sends, and that was not followed."""
        self._peers = peers
        self._router = router
        self._activity = activity
        self._on_violation = on_violation
        self._frames: deque[tuple[int, list[RaftEnvelope]]] = deque()
        """Messages that no turn has taken yet, by frame, each with its size in bytes."""

    @property
    def is_empty(self) -> bool:
        return not self._frames

    def receive(self, frame: bytes) -> bool:
        """Take a frame of another store; return whether it needs a turn, or may wait for the next one. Raises FormatError."""
        envelopes = decode_envelopes(frame)
        self._frames.append((len(frame), envelopes))
        return not all(map(self._can_wait, envelopes))

    def _can_wait(self, envelope: RaftEnvelope) -> bool:
        """Return whether a message may be left for the turn that is due for something else, a tick later at most."""
        if isinstance(envelope.note, StoreBeat):
            return True
        peer, message = self._peers.get(envelope.region_id), envelope.message
        return peer is not None and message is not None and peer.can_wait(message)

    def put(self, envelopes: list[RaftEnvelope]) -> None:
        """Let the next turn look at messages, once more or for the first time."""
        self._frames.append((0, envelopes))

    def take(self, turn: Turn, touched: dict[int, RegionPeer]) -> None:
        """Give messages to their peers, and note these in `touched`."""
        frames = self._frames
        while frames and not turn.is_full:
            size_bytes, envelopes = frames.popleft()
            turn.take(size_bytes)
            for envelope in envelopes:
                if envelope.note is not None:
                    self._activity.on_note(envelope, envelope.note, turn)
                    continue
                if type(envelope.message) is InstallSnapshot and not self._has_state_of(envelope, envelope.message):
                    continue  # it means nothing without its files, with which it comes to `receive_snapshot`
                peer = self._router.find_receiver(envelope, turn)
                if peer is not None:
                    touched[envelope.region_id] = peer
                    self._step(peer, envelope, turn)

    def _has_state_of(self, envelope: RaftEnvelope, message: InstallSnapshot) -> bool:
        """Return whether the peer is as far as the snapshot, so that Raft only answers that it is."""
        peer = self._peers.get(envelope.region_id)
        return peer is not None and message.meta.index <= peer.node.commit_index

    def _step(self, peer: RegionPeer, envelope: RaftEnvelope, turn: Turn) -> None:
        if peer.rest.is_asleep:
            self._activity.wake(peer, turn, by_leader=envelope.sender.id == peer.leader_id)
        try:
            peer.step(envelope, turn.now)
        except ProtocolViolation as error:
            self._on_violation(envelope, error)
