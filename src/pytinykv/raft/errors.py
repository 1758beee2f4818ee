"""What the core can refuse.

    RaftError
    ├── NotLeading                     expected: ask `leader_id`
    ├── ProposalDropped                expected: see `reason`, try again later
    ├── ReadNotReady                   expected: the leader's first own entry is not committed yet
    ├── ProtocolViolation              a peer's error: the message is rejected, the node is as it was
    └── StorageError                   answers of a `Storage`, not failures of a disk
        ├── Compacted                  the index lies below the log
        ├── Unavailable                the index lies above the log
        └── SnapshotTemporarilyUnavailable

A programmer's error (calls out of order, a broken invariant) is an AssertionError.
"""

from __future__ import annotations

from enum import Enum

from pytinykv.raft.messages import NO_PEER, LogIndex, PeerId


class RaftError(Exception):
    """The core refused a call; the node is as it was before."""

    retryable = False


class NotLeading(RaftError):
    """Only a leader can do that. `leader_id` is the peer to ask, or 0 when this peer knows of no leader."""

    retryable = True

    def __init__(self, leader_id: PeerId = NO_PEER) -> None:
        hint = f"ask peer {leader_id}" if leader_id else "no leader is known, try again"
        super().__init__(f"this peer is not the leader: {hint}")
        self.leader_id = leader_id


class DropReason(Enum):
    """Why a leader did not take a proposal."""

    TRANSFERRING = "leadership is being handed over"
    TOO_MUCH_UNCOMMITTED = "too many bytes wait for a majority"
    ADMIN_PENDING = "an earlier membership change or admin command is not applied yet"
    LAST_VOTER = "the change would leave the group without a voter"


class ProposalDropped(RaftError):
    """The leader did not append the proposal; nothing of it will ever be committed."""

    retryable = True

    def __init__(self, reason: DropReason) -> None:
        super().__init__(f"proposal dropped: {reason.value}")
        self.reason = reason


class ReadNotReady(RaftError):
    """The leader has committed nothing in its own term yet, so it can't know the commit index (Raft section 8)."""

    retryable = True

    def __init__(self) -> None:
        super().__init__("read index is not known yet: the leader's first own entry is not committed, try again")


class ProtocolViolation(RaftError):
    """A message that no correct peer can have sent to this one."""


class StorageError(RaftError):
    """The storage does not have what was asked for."""


class Compacted(StorageError):
    """The entry was replaced by a snapshot."""

    def __init__(self, index: LogIndex) -> None:
        super().__init__(f"log entry {index} is compacted")
        self.index = index


class Unavailable(StorageError):
    """The entry does not exist (yet)."""

    def __init__(self, index: LogIndex) -> None:
        super().__init__(f"log entry {index} does not exist")
        self.index = index


class SnapshotTemporarilyUnavailable(StorageError):
    """A snapshot is being prepared; the core asks again at a later heartbeat."""

    def __init__(self) -> None:
        super().__init__("the snapshot is not ready yet")
