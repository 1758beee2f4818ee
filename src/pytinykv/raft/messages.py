"""Records of the Raft protocol: log entries, persisted state and the messages between peers.

The same records are used in memory, in the log on disk and between stores; `msgspec` encodes them. A peer's id is the
`peer_id` of TiKV (unique per replica, never reused), 0 means no peer.
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
    """What an entry's data holds; stored, never renumber.

    The kinds except NORMAL are *admin entries*: they change the group itself, so they act as barriers (see `leading`).
    """

    NORMAL = 0
    """A command of the driver, or the no-op with which a leader opens its term, which is empty."""
    CONF_CHANGE = 1
    """A membership change: an encoded `ConfChange`."""
    ADMIN = 2
    """Another change of the group that the driver defines, such as a split of its key range."""


class Entry(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """One slot of the log. Index and term identify it in all logs of the group (Raft 5.3, log matching)."""

    index: LogIndex
    """Its place; the first entry of all has 1."""
    term: Term
    """The term of the leader that proposed it; later leaders replicate it unchanged."""
    kind: EntryKind = EntryKind.NORMAL
    data: bytes = b""
    """What the driver proposed; empty in a no-op."""


class HardState(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """What a peer must never forget (Raft figure 2, "persistent state"), plus the commit index as a hint for restarts."""

    term: Term = Term(0)
    """The newest term that the peer knew of."""
    vote: PeerId = NO_PEER
    """Its vote in that term."""
    commit: LogIndex = LogIndex(0)
    """What it knew to be committed; may be lost or old, since a leader tells it anew."""


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
    """The data of a CONF_CHANGE entry: what becomes of one peer. `context` belongs to the driver (region epoch, store)."""

    kind: ConfChangeKind
    peer_id: PeerId
    context: bytes = b""


class SnapshotMeta(msgspec.Struct, frozen=True, array_like=True):
    """What a snapshot replaces: everything up to and including `index`, whose term is `term` and at which the members are
    `conf_state`.
    """

    index: LogIndex
    term: Term
    conf_state: ConfState


def encode_conf_change(change: ConfChange) -> bytes:
    """Return the bytes that a CONF_CHANGE entry holds."""
    return _ENCODER.encode(change)


def decode_conf_change(data: bytes) -> ConfChange:
    """Read what a CONF_CHANGE entry holds.

    Raises:
        msgspec.DecodeError: the bytes are not a membership change (ValidationError is one of its kinds).
    """
    return _CONF_CHANGE_DECODER.decode(data)


class _Message(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """What every message carries. `term` is the sender's term, except where a kind says otherwise."""

    to: PeerId
    sender: PeerId
    term: Term


class AppendEntries(_Message, frozen=True, array_like=True, gc=False, tag=1):
    """The leader's log from `prev_index` + 1 on (Raft figure 2). Without entries: a probe, or a newer commit index.

    `sent_at` is the leader's clock in seconds; the answer carries it back unread (see `RawNode.lease_until`).
    """

    prev_index: LogIndex
    prev_term: Term
    commit: LogIndex
    sent_at: float
    entries: tuple[Entry, ...] = ()


class AppendResponse(_Message, frozen=True, array_like=True, gc=False, tag=2):
    """The sender's log equals the leader's up to `match`, durably. Answers AppendEntries and InstallSnapshot."""

    match: LogIndex
    sent_at: float


class AppendRejection(_Message, frozen=True, array_like=True, gc=False, tag=3):
    """The sender has no entry at `rejected` (the `prev_index` it was asked about) with the term asked about.

    The hint is the last position where both logs might agree: the sender's last index not above `rejected` whose term is
    not above the asked one, and the term it has there.
    """

    rejected: LogIndex
    hint_index: LogIndex
    hint_term: Term
    sent_at: float


class Heartbeat(_Message, frozen=True, array_like=True, gc=False, tag=4):
    """The sender still leads. `commit` never exceeds what the receiver has acknowledged; `round` counts for read index."""

    commit: LogIndex
    round: int
    sent_at: float


class HeartbeatResponse(_Message, frozen=True, array_like=True, gc=False, tag=5):
    """The sender still followed the leader of this term when round `round` reached it."""

    round: int
    sent_at: float


class VoteRequest(_Message, frozen=True, array_like=True, gc=False, tag=6):
    """A candidate whose log ends at `last_index` with `last_term` asks for the vote of `term`.

    `transfer_at` is set when the old leader asked for the election (thesis 3.10): that leader's clock when it did. Voters
    then need not stick to it, unless they have heard from it since.
    """

    last_index: LogIndex
    last_term: Term
    transfer_at: float | None = None


class VoteResponse(_Message, frozen=True, array_like=True, gc=False, tag=7):
    """The vote of `term`, durably given or refused.

    A refusal says what the sender knows to be committed (index and term of the entry), or 0.
    """

    granted: bool
    commit: LogIndex = LogIndex(0)
    commit_term: Term = Term(0)


class PreVoteRequest(_Message, frozen=True, array_like=True, gc=False, tag=8):
    """A peer asks whether it would get a vote (thesis 9.6). `term` is that in which it would campaign, its own plus one; the
    rest as in `VoteRequest`.
    """

    last_index: LogIndex
    last_term: Term


class PreVoteResponse(_Message, frozen=True, array_like=True, gc=False, tag=9):
    """Granted: `term` repeats the request's. Refused: `term` is the sender's own, the rest as in `VoteResponse`."""

    granted: bool
    commit: LogIndex = LogIndex(0)
    commit_term: Term = Term(0)


class InstallSnapshot(_Message, frozen=True, array_like=True, gc=False, tag=10):
    """The receiver is too far behind for the leader's log. The data travels beside this message, by the driver."""

    meta: SnapshotMeta
    sent_at: float


class TimeoutNow(_Message, frozen=True, array_like=True, gc=False, tag=11):
    """The leader hands over: campaign at once, without pre-vote (thesis 3.10)."""

    sent_at: float


class TransferRequest(_Message, frozen=True, array_like=True, gc=False, tag=12):
    """A follower that was asked to make `transferee` the leader asks the leader."""

    transferee: PeerId


class StaleTerm(_Message, frozen=True, array_like=True, gc=False, tag=13):
    """Answer to a leader whose term is over: `term` is newer. Without it a peer that moved on alone could never rejoin."""


Message = (
    AppendEntries
    | AppendResponse
    | AppendRejection
    | Heartbeat
    | HeartbeatResponse
    | VoteRequest
    | VoteResponse
    | PreVoteRequest
    | PreVoteResponse
    | InstallSnapshot
    | TimeoutNow
    | TransferRequest
    | StaleTerm
)
"""All messages between the peers of a group; tags are sent, never renumber."""

_ENCODER = msgspec.msgpack.Encoder()
_CONF_CHANGE_DECODER = msgspec.msgpack.Decoder(ConfChange)
