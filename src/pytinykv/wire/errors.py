"""Region errors: why a store did not run a command that was sent to it, as exceptions and as `errorpb.Error`.

    RegionError
    ├── NotLeader              another peer leads; says which, if known                   → ask that one
    ├── EpochNotMatch          the region was split, merged or moved; says how it is now  → route anew
    ├── RegionNotFound         no such region on this store                               → route anew
    ├── KeyNotInRegion         the key belongs to another region                          → route anew
    ├── StoreNotMatch          another store answers at this address                      → resolve the address anew
    ├── MismatchPeerId         another peer of the region is here                         → route anew
    ├── RegionNotInitialized   the peer waits for its first snapshot                      → wait
    ├── StaleCommand           leadership changed before the command was decided          → send again
    ├── ServerIsBusy           refused to protect the store; says for how long            → wait
    ├── DiskFull               no room for writes                                         → wait
    ├── ReadIndexNotReady      a new leader can't serve reads yet                         → wait
    ├── DataIsNotReady         a follower has not applied enough for this read            → wait
    ├── MaxTimestampNotSynced  a new leader does not know the newest timestamp            → wait
    ├── ProposalInMergingMode  the region is being merged                                 → wait
    ├── RecoveryInProgress     the region is being restored                               → wait
    ├── IsWitness              the peer has no data                                       → route anew
    ├── BucketVersionNotMatch  the region's buckets changed                               → route anew
    ├── FlashbackInProgress    the region is being set back                               final
    ├── FlashbackNotPrepared   flashback was not announced                                final
    ├── RaftEntryTooLarge      the command exceeds the entry limit                        final
    ├── UndeterminedResult     the command may or may not have been applied               final, outcome unknown
    └── UnknownRegionError     a kind that this version does not know                     → route anew

The store raises them, puts `to_pb()` into a response's `region_error` and nothing else beside it (one client looks
at key errors first, the others at region errors first). The client gets them back by `from_pb`.

1. `message` is never empty: some clients show nothing else.
2. Except where `undetermined`, the command was not executed and never will be: repeating it is safe. So our stores
   answer `UndeterminedResult` for a proposal whose outcome they can't know, never `StaleCommand` or `RegionNotFound`.
   TiKV uses those two also after it has proposed.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, Final, Self

from google.protobuf.message import Message

from pytinykv.wire.keys import describe_key
from pytinykv.wire.pb import errorpb_pb2, metapb_pb2


class RegionError(Exception):
    """Base of all region errors. Subclasses name the field of `errorpb.Error` they travel in, and its fields."""

    retryable: ClassVar[bool] = True
    """Whether the same command can succeed later, or elsewhere, without a change by the caller."""
    undetermined: ClassVar[bool] = False
    """Whether the command may have been applied, or may still be."""
    kind: ClassVar[str] = ""
    """The field of `errorpb.Error`."""
    parts: ClassVar[tuple[str, ...]] = ()
    """The attributes that travel, under the names they have on the wire and in `__init__`."""

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message: Final = message

    def to_pb(self) -> errorpb_pb2.Error:
        """Return the wire form."""
        error = errorpb_pb2.Error(message=self.message)
        if self.kind:
            part: Message = getattr(error, self.kind)
            part.SetInParent()
            part.MergeFrom(type(part)(**{name: getattr(self, name) for name in self.parts}))
        return error

    @staticmethod
    def from_pb(error: errorpb_pb2.Error) -> RegionError:
        """Return the exception for a response's `region_error`; a kind of a newer version becomes `UnknownRegionError`."""
        for field, _ in error.ListFields():
            if (known := _BY_KIND.get(field.name)) is not None:
                return known.from_part(getattr(error, field.name), error.message)
        return UnknownRegionError(error.message or "region error of an unknown kind")

    @classmethod
    def from_part(cls, part: Any, message: str) -> Self:
        """Build the exception of its own message; `message` may be empty."""
        return cls(**{name: getattr(part, name) for name in cls.parts}, message=message)

    def __reduce__(self) -> tuple[Any, ...]:
        return RegionError.from_pb, (self.to_pb(),)


class _OfRegion(RegionError):
    """A region error that carries the region's id and nothing else."""

    parts = ("region_id",)
    what: ClassVar[str]

    def __init__(self, *, region_id: int, message: str = "") -> None:
        super().__init__(message or f"region {region_id} {self.what}")
        self.region_id: Final = region_id


class NotLeader(RegionError):
    """This peer does not lead the region.

    `leader` only when it is known *and* can serve by now: clients follow the hint at once and without pause, so a
    hint at a peer that is still a candidate uses up all their attempts in milliseconds.
    """

    kind = "not_leader"
    parts = ("region_id", "leader")

    def __init__(self, *, region_id: int, leader: metapb_pb2.Peer | None = None, message: str = "") -> None:
        where = "its leader is not known" if leader is None else f"peer {leader.id} on store {leader.store_id} leads it"
        super().__init__(message or f"not leader of region {region_id}: {where}")
        self.region_id: Final = region_id
        self.leader: Final = leader

    @classmethod
    def from_part(cls, part: Any, message: str) -> Self:
        # Some servers send an empty peer for "not known".
        leader = part.leader if part.HasField("leader") and part.leader.id else None
        return cls(region_id=part.region_id, leader=leader, message=message)


class EpochNotMatch(RegionError):
    """The region's epoch differs from the command's.

    `current_regions` are the regions, with peers, that cover the old range now, as far as this store knows: clients put
    them into their caches. Empty only if the store knows none.
    """

    kind = "epoch_not_match"
    parts = ("current_regions",)

    def __init__(self, *, current_regions: Sequence[metapb_pb2.Region] = (), message: str = "") -> None:
        self.current_regions: Final = tuple(current_regions)
        super().__init__(message or f"epoch does not match; current regions: {self._describe()}")

    def _describe(self) -> str:
        epochs = (
            f"{region.id} (conf_ver {region.region_epoch.conf_ver}, version {region.region_epoch.version})"
            for region in self.current_regions
        )
        return ", ".join(epochs) or "none known here"


class RegionNotFound(_OfRegion):
    """This store has no peer of the region, or it was removed before the command was proposed."""

    kind = "region_not_found"
    what = "is not on this store"


class KeyNotInRegion(RegionError):
    """The command's key lies outside [start_key, end_key) of the region it was sent to."""

    kind = "key_not_in_region"
    parts = ("key", "region_id", "start_key", "end_key")

    def __init__(self, *, key: bytes, region_id: int, start_key: bytes, end_key: bytes, message: str = "") -> None:
        end = describe_key(end_key) if end_key else "+inf"
        super().__init__(
            message or f"key {describe_key(key)} is not in region {region_id} [{describe_key(start_key)}, {end})"
        )
        self.key: Final = key
        self.region_id: Final = region_id
        self.start_key: Final = start_key
        self.end_key: Final = end_key


class StoreNotMatch(RegionError):
    """The command is addressed to another store: that one moved, or the caller's address is old."""

    kind = "store_not_match"
    parts = ("request_store_id", "actual_store_id")

    def __init__(self, *, request_store_id: int, actual_store_id: int, message: str = "") -> None:
        super().__init__(message or f"request for store {request_store_id} reached store {actual_store_id}")
        self.request_store_id: Final = request_store_id
        self.actual_store_id: Final = actual_store_id


class MismatchPeerId(RegionError):
    """The region's peer on this store has another id than the command says: it was removed and added again."""

    kind = "mismatch_peer_id"
    parts = ("request_peer_id", "store_peer_id")

    def __init__(self, *, request_peer_id: int, store_peer_id: int, message: str = "") -> None:
        super().__init__(message or f"request for peer {request_peer_id}, but peer {store_peer_id} is here")
        self.request_peer_id: Final = request_peer_id
        self.store_peer_id: Final = store_peer_id


class RegionNotInitialized(_OfRegion):
    """The peer was created by a message and waits for its first snapshot."""

    kind = "region_not_initialized"
    what = "waits for its first snapshot here"


class StaleCommand(RegionError):
    """Leadership or term changed under the command, and it is certain that the command will not be applied."""

    kind = "stale_command"

    def __init__(self, *, message: str = "") -> None:
        super().__init__(message or "stale command: leadership changed before it was decided; send it again")


class ServerIsBusy(RegionError):
    """The store refuses work to protect itself. `backoff_ms` (0: the client's own choice) says when to try again.

    One client fails at once on this error: answer it only when waiting a little inside the store would be worse.
    """

    kind = "server_is_busy"
    parts = ("reason", "backoff_ms", "estimated_wait_ms", "applied_index")

    def __init__(
        self,
        *,
        reason: str,
        backoff_ms: int = 0,
        estimated_wait_ms: int = 0,
        applied_index: int = 0,
        message: str = "",
    ) -> None:
        wait = f"; try again in {backoff_ms} ms" if backoff_ms else ""
        super().__init__(message or f"server is busy: {reason}{wait}")
        self.reason: Final = reason
        self.backoff_ms: Final = backoff_ms
        self.estimated_wait_ms: Final = estimated_wait_ms
        self.applied_index: Final = applied_index


class DiskFull(RegionError):
    """Stores `store_id` (one or more of the region's) have no room left; reads still work."""

    kind = "disk_full"
    parts = ("store_id", "reason")

    def __init__(self, *, store_id: Sequence[int], reason: str, message: str = "") -> None:
        self.store_id: Final = tuple(store_id)
        self.reason: Final = reason
        super().__init__(message or f"disk full on store {', '.join(map(str, self.store_id))}: {reason}")


class ReadIndexNotReady(RegionError):
    """The leader can't serve reads yet: it has committed nothing in its own term."""

    kind = "read_index_not_ready"
    parts = ("reason", "region_id")

    def __init__(self, *, region_id: int, reason: str, message: str = "") -> None:
        super().__init__(message or f"region {region_id} can't serve reads yet: {reason}")
        self.reason: Final = reason
        self.region_id: Final = region_id


class DataIsNotReady(RegionError):
    """A follower's safe timestamp is below the one that a stale read asked for."""

    kind = "data_is_not_ready"
    parts = ("region_id", "peer_id", "safe_ts")

    def __init__(self, *, region_id: int, peer_id: int, safe_ts: int, message: str = "") -> None:
        super().__init__(message or f"peer {peer_id} of region {region_id} can serve stale reads up to {safe_ts} only")
        self.region_id: Final = region_id
        self.peer_id: Final = peer_id
        self.safe_ts: Final = safe_ts


class MaxTimestampNotSynced(RegionError):
    """A new leader has not yet learnt the newest timestamp, without which it may not choose commit timestamps."""

    kind = "max_timestamp_not_synced"

    def __init__(self, *, message: str = "") -> None:
        super().__init__(message or "the new leader does not know the newest timestamp yet; try again")


class ProposalInMergingMode(_OfRegion):
    """The region is about to merge into its neighbour and takes no commands."""

    kind = "proposal_in_merging_mode"
    what = "is being merged"


class RecoveryInProgress(_OfRegion):
    """The region is being restored from a backup."""

    kind = "RecoveryInProgress"
    what = "is being restored"


class IsWitness(_OfRegion):
    """The peer votes but keeps no data."""

    kind = "is_witness"
    what = "has only a witness here"


class BucketVersionNotMatch(RegionError):
    """The caller's view of the region's buckets is old; `keys` are the present bucket boundaries."""

    kind = "bucket_version_not_match"
    parts = ("version", "keys")

    def __init__(self, *, version: int, keys: Sequence[bytes], message: str = "") -> None:
        super().__init__(message or f"bucket version does not match; it is {version} now")
        self.version: Final = version
        self.keys: Final = tuple(keys)


class FlashbackInProgress(RegionError):
    """The region is being set back to an earlier time and takes no commands until that is done."""

    retryable = False
    kind = "FlashbackInProgress"
    parts = ("region_id", "flashback_start_ts")

    def __init__(self, *, region_id: int, flashback_start_ts: int, message: str = "") -> None:
        super().__init__(message or f"region {region_id} is in a flashback that began at {flashback_start_ts}")
        self.region_id: Final = region_id
        self.flashback_start_ts: Final = flashback_start_ts


class FlashbackNotPrepared(_OfRegion):
    """A flashback command came without its preparation."""

    retryable = False
    kind = "FlashbackNotPrepared"
    what = "is not prepared for a flashback"


class RaftEntryTooLarge(RegionError):
    """The command is larger than one log entry may be; the caller must split it."""

    retryable = False
    kind = "raft_entry_too_large"
    parts = ("region_id", "entry_size")

    def __init__(self, *, region_id: int, entry_size: int, message: str = "") -> None:
        super().__init__(
            message or f"a command of {entry_size} bytes is too large for a log entry of region {region_id}; split it"
        )
        self.region_id: Final = region_id
        self.entry_size: Final = entry_size


class UndeterminedResult(RegionError):
    """The command was proposed, and this store can't know whether it was or will be applied."""

    retryable = False
    undetermined = True
    kind = "undetermined_result"

    def __init__(self, *, message: str = "") -> None:
        super().__init__(message or "the command may or may not have been applied")

    def to_pb(self) -> errorpb_pb2.Error:
        return errorpb_pb2.Error(
            message=self.message, undetermined_result=errorpb_pb2.UndeterminedResult(message=self.message)
        )

    @classmethod
    def from_part(cls, part: Any, message: str) -> Self:
        return cls(message=message or part.message)


class UnknownRegionError(RegionError):
    """A region error without a kind that we know: `message` is all there is."""


_BY_KIND: Final[dict[str, type[RegionError]]] = {
    known.kind: known
    for known in (
        NotLeader,
        EpochNotMatch,
        RegionNotFound,
        KeyNotInRegion,
        StoreNotMatch,
        MismatchPeerId,
        RegionNotInitialized,
        StaleCommand,
        ServerIsBusy,
        DiskFull,
        ReadIndexNotReady,
        DataIsNotReady,
        MaxTimestampNotSynced,
        ProposalInMergingMode,
        RecoveryInProgress,
        IsWitness,
        BucketVersionNotMatch,
        FlashbackInProgress,
        FlashbackNotPrepared,
        RaftEntryTooLarge,
        UndeterminedResult,
    )
}
