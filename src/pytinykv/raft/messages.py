"""Records of the Raft protocol: log entries, persisted state and the messages between peers.

The same records are used in memory, in the log on disk and between stores; `msgspec` encodes them. A peer's id is the
`peer_id` of TiKV (unique per replica, never reused), 0 means nobody.
"""

from __future__ import annotations

from enum import IntEnum
from typing import NewType

import msgspec

PeerId = NewType("PeerId", int)
Term = NewType("Term", int)
LogIndex = NewType("LogIndex", int)

NO_PEER = PeerId(0)


class EntryKind(IntEnum):
    """What an entry's data holds; stored, never renumber."""

    NORMAL = 0
    CONF_CHANGE = 1


class Entry(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """One slot of the log. An empty NORMAL entry is the no-op with which a leader opens its term."""

    index: LogIndex
    term: Term
    kind: EntryKind = EntryKind.NORMAL
    data: bytes = b""


class HardState(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """What a peer must never forget (Raft figure 2, "persistent state"), plus the commit index as a hint for restarts."""

    term: Term = Term(0)
    vote: PeerId = NO_PEER
    commit: LogIndex = LogIndex(0)


class ConfState(msgspec.Struct, frozen=True, array_like=True):
    """The members of a group, each tuple sorted. `learners` receive the log and do not count."""

    voters: tuple[PeerId, ...] = ()
    learners: tuple[PeerId, ...] = ()


class ConfChangeKind(IntEnum):
    """Stored, never renumber."""

    ADD_VOTER = 0
    REMOVE = 1
    ADD_LEARNER = 2


class ConfChange(msgspec.Struct, frozen=True, array_like=True):
    """The data of a CONF_CHANGE entry. `context` belongs to the driver (region epoch, store of the peer)."""

    kind: ConfChangeKind
    peer_id: PeerId
    context: bytes = b""


class SnapshotMeta(msgspec.Struct, frozen=True, array_like=True):
    """What a snapshot replaces: everything up to and including `index`, whose term is `term`."""

    index: LogIndex
    term: Term
    conf_state: ConfState
