"""Records of the raftstore: the states that are on disk, and the envelope in which messages travel.

Everything that is stored or sent has the form of `model.codec`: a version byte and MessagePack. Fields are only ever added at
the end, with a default; see docs/formats.md.
"""

from __future__ import annotations

from enum import IntEnum

import msgspec

from pytinykv.model import Peer, PeerId, RecordDecoder, Region, RegionEpoch, RegionId, StoreId, record_decoder
from pytinykv.raft import Entry, HardState, LogIndex, Message, SnapshotMeta, Term


class PeerState(IntEnum):
    """What a store has of a region. Stored, never renumber; the numbers of raft_serverpb.PeerState."""

    NORMAL = 0
    APPLYING = 1
    TOMBSTONE = 2


class StoreIdent(msgspec.Struct, frozen=True, array_like=True):
    """Which store of which cluster an engine belongs to; written before anything else."""

    cluster_id: int
    store_id: StoreId


class RegionLocalState(msgspec.Struct, frozen=True, array_like=True):
    """A region as this store knows it.

    `APPLYING`: the directory `snapshot` (a name inside the store's snapshot directory) replaces the region's data; until
    that is done nothing of the region may be read. `TOMBSTONE`: the peer `peer_id` was here and must never come back; it
    was removed by the log entry (`removed_index`, `removed_term`), if that is known, else they are 0.
    """

    state: PeerState
    region: Region
    peer_id: PeerId
    snapshot: str = ""
    removed_index: LogIndex = LogIndex(0)
    removed_term: Term = Term(0)


class RaftLocalState(msgspec.Struct, frozen=True, array_like=True):
    """Raft's persistent state and where the log ends."""

    hard_state: HardState
    last_index: LogIndex


class ApplyState(msgspec.Struct, frozen=True, array_like=True):
    """How far the log is applied to the data, and how far its front is cut off.

    Written in the same batch as the data it speaks of; truncated_index <= applied_index always.
    """

    applied_index: LogIndex
    applied_term: Term
    truncated_index: LogIndex
    truncated_term: Term


class StoreBeat(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=1):
    """The sender's store runs; said from store to store, for all their regions together (region 0, peers 0)."""

    incarnation: int
    """Another number each time the store is started: a store that was started again leads nothing."""


class SleepRequest(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=2):
    """A leader asks a member to fall asleep if its log ends at `index` and nothing is under way; see `activity`."""

    term: Term
    index: LogIndex
    round: int
    """Which of the leader's requests; the consent repeats it."""


class SleepConsent(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=3):
    """The sender fell asleep, as it was asked to."""

    term: Term
    round: int


class WakeUp(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=4):
    """The sender is awake, or knows that the receiver's sleep is based on something that does not hold any more."""


class SleepCheck(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=5):
    """A sleeping member asks whether the receiver still leads it in this term; answered with `WakeUp` if not."""

    term: Term


Note = StoreBeat | SleepRequest | SleepConsent | WakeUp | SleepCheck
"""What stores tell each other of their regions beside Raft; tags are sent, never renumber."""


class RaftEnvelope(msgspec.Struct, frozen=True, array_like=True):
    """A message between two peers of a region.

    `epoch`, `start_key` and `end_key` are those of the sender's region: a receiver that has no peer of it yet sees whether
    its keys still belong to another one there. A tombstone envelope has no message: it tells a peer that was removed to
    destroy itself. Nor has one with a note, so a store of a version that knows no notes does nothing with it.
    """

    region_id: RegionId
    sender: Peer
    receiver: Peer
    epoch: RegionEpoch
    message: Message | None
    is_tombstone: bool = False
    start_key: bytes = b""
    end_key: bytes = b""
    note: Note | None = None


class SnapshotFile(msgspec.Struct, frozen=True, array_like=True):
    """One file of a snapshot: its column family, name, size and the CRC-32C of its bytes."""

    cf: str
    name: str
    size_bytes: int
    crc32c: int


class SnapshotManifest(msgspec.Struct, frozen=True, array_like=True):
    """What a snapshot holds: the region at `meta.index` and its files."""

    region: Region
    meta: SnapshotMeta
    files: tuple[SnapshotFile, ...]


class SnapshotHeader(msgspec.Struct, frozen=True, array_like=True):
    """The first frame of a snapshot stream; the bytes of the manifest's files follow, one after the other."""

    envelope: RaftEnvelope
    manifest: SnapshotManifest


class RegionReport(msgspec.Struct, frozen=True):
    """What a leader tells the scheduler of its region."""

    region: Region
    leader: Peer
    term: int
    down_peers: tuple[tuple[Peer, float], ...]
    """Peers not heard from, and for how many seconds."""
    pending_peers: tuple[Peer, ...]
    """Peers that are behind (see `followers`)."""
    approximate_size_bytes: int


decode_store_ident = record_decoder(StoreIdent, "store identity")
decode_region_state = record_decoder(RegionLocalState, "region state")
decode_raft_state = record_decoder(RaftLocalState, "raft state")
decode_apply_state = record_decoder(ApplyState, "apply state")
decode_region = record_decoder(Region, "region")
decode_entry = record_decoder(Entry, "log entry")
decode_envelopes: RecordDecoder[list[RaftEnvelope]] = record_decoder(list[RaftEnvelope], "raft frame")
decode_manifest = record_decoder(SnapshotManifest, "snapshot manifest")
decode_snapshot_header = record_decoder(SnapshotHeader, "snapshot header")
