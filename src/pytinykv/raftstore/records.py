"""Records of the raftstore: regions and their peers, local states on disk, and the envelope in which messages travel.

Everything that is stored or sent begins with one version byte (`FORMAT_VERSION`), followed by the record in MessagePack.
Fields are only ever added at the end, with a default; see docs/formats.md.
"""

from __future__ import annotations

from enum import IntEnum
from typing import Generic, NewType, TypeVar

import msgspec

from pytinykv.raft import ConfState, Entry, HardState, LogIndex, Message, PeerId, SnapshotMeta, Term
from pytinykv.raftstore.errors import FormatError

RegionId = NewType("RegionId", int)
StoreId = NewType("StoreId", int)

FORMAT_VERSION = 1
_PREFIX = bytes([FORMAT_VERSION])


class PeerRole(IntEnum):
    """Stored, never renumber; the numbers of metapb.PeerRole."""

    VOTER = 0
    LEARNER = 1


class Peer(msgspec.Struct, frozen=True, array_like=True):
    """One replica of a region. `id` is unique in the cluster and never used again; `store_id` says where it lives."""

    id: PeerId
    store_id: StoreId
    role: PeerRole = PeerRole.VOTER


class RegionEpoch(msgspec.Struct, frozen=True, array_like=True, order=True):
    """How often a region changed: `conf_ver` counts membership changes, `version` splits and merges. Both only grow."""

    conf_ver: int = 0
    version: int = 0


class Region(msgspec.Struct, frozen=True, array_like=True):
    """A range of keys, start_key <= key < end_key (empty end: unbounded), and the peers that replicate it."""

    id: RegionId
    start_key: bytes = b""
    end_key: bytes = b""
    epoch: RegionEpoch = RegionEpoch()
    peers: tuple[Peer, ...] = ()

    def contains(self, key: bytes) -> bool:
        return self.start_key <= key and (not self.end_key or key < self.end_key)

    def overlaps(self, other: Region) -> bool:
        return (not other.end_key or self.start_key < other.end_key) and (
            not self.end_key or other.start_key < self.end_key
        )

    def peer_on(self, store_id: int) -> Peer | None:
        return next((peer for peer in self.peers if peer.store_id == store_id), None)

    def peer(self, peer_id: int) -> Peer | None:
        return next((peer for peer in self.peers if peer.id == peer_id), None)

    def conf_state(self) -> ConfState:
        return ConfState(
            voters=tuple(sorted(peer.id for peer in self.peers if peer.role is PeerRole.VOTER)),
            learners=tuple(sorted(peer.id for peer in self.peers if peer.role is PeerRole.LEARNER)),
        )


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

    `epoch` is the sender's. `start_key` and `end_key` are given while the receiver may not know the region yet. A
    tombstone envelope has no message: it tells a peer that was removed to destroy itself.
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


_encoder = msgspec.msgpack.Encoder()
T = TypeVar("T")


def encode(record: msgspec.Struct | list[RaftEnvelope]) -> bytes:
    """Return the stored or sent form of a record: a version byte and MessagePack."""
    return _PREFIX + _encoder.encode(record)


class RecordDecoder(Generic[T]):
    """Reads one kind of record; raises FormatError for anything that is not one."""

    def __init__(self, record_type: type[T], name: str) -> None:
        self._decode = msgspec.msgpack.Decoder(record_type).decode
        self._name = name

    def __call__(self, data: bytes) -> T:
        if data[:1] != _PREFIX:
            raise FormatError(
                f"{self._name}: format version {data[0] if data else 'missing'} is not {FORMAT_VERSION}; "
                "written by another version of pytinykv"
            )
        try:
            return self._decode(memoryview(data)[1:])
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise FormatError(f"{self._name}: damaged record ({error})") from error


decode_store_ident = RecordDecoder(StoreIdent, "store identity")
decode_region_state = RecordDecoder(RegionLocalState, "region state")
decode_raft_state = RecordDecoder(RaftLocalState, "raft state")
decode_apply_state = RecordDecoder(ApplyState, "apply state")
decode_region = RecordDecoder(Region, "region")
decode_entry = RecordDecoder(Entry, "log entry")
decode_peer = RecordDecoder(Peer, "peer")
decode_envelopes: RecordDecoder[list[RaftEnvelope]] = RecordDecoder(list[RaftEnvelope], "raft frame")
decode_manifest = RecordDecoder(SnapshotManifest, "snapshot manifest")
decode_snapshot_header = RecordDecoder(SnapshotHeader, "snapshot header")
