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


class RaftEnvelope(msgspec.Struct, frozen=True, array_like=True):
    """A message between two peers of a region.

    `epoch`, `start_key` and `end_key` are those of the sender's region: a receiver that has no peer of it yet sees whether
    its keys still belong to another one there. A tombstone envelope has no message: it tells a peer that was removed to
    destroy itself.
    """

    region_id: RegionId
    sender: Peer
    receiver: Peer
    epoch: RegionEpoch
    message: Message | None
    is_tombstone: bool = False
    start_key: bytes = b""
    end_key: bytes = b""


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
