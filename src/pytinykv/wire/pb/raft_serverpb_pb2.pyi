from pytinykv.wire.pb import disk_usage_pb2 as _disk_usage_pb2
from pytinykv.wire.pb import eraftpb_pb2 as _eraftpb_pb2
from pytinykv.wire.pb import metapb_pb2 as _metapb_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class ExtraMessageType(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    MsgRegionWakeUp: _ClassVar[ExtraMessageType]
    MsgWantRollbackMerge: _ClassVar[ExtraMessageType]
    MsgCheckStalePeer: _ClassVar[ExtraMessageType]
    MsgCheckStalePeerResponse: _ClassVar[ExtraMessageType]
    MsgHibernateRequest: _ClassVar[ExtraMessageType]
    MsgHibernateResponse: _ClassVar[ExtraMessageType]
    MsgRejectRaftLogCausedByMemoryUsage: _ClassVar[ExtraMessageType]
    MsgAvailabilityRequest: _ClassVar[ExtraMessageType]
    MsgAvailabilityResponse: _ClassVar[ExtraMessageType]
    MsgVoterReplicatedIndexRequest: _ClassVar[ExtraMessageType]
    MsgVoterReplicatedIndexResponse: _ClassVar[ExtraMessageType]
    MsgGcPeerRequest: _ClassVar[ExtraMessageType]
    MsgGcPeerResponse: _ClassVar[ExtraMessageType]
    MsgFlushMemtable: _ClassVar[ExtraMessageType]
    MsgRefreshBuckets: _ClassVar[ExtraMessageType]
    MsgSnapGenPrecheckRequest: _ClassVar[ExtraMessageType]
    MsgSnapGenPrecheckResponse: _ClassVar[ExtraMessageType]
    MsgPreLoadRegionRequest: _ClassVar[ExtraMessageType]
    MsgPreLoadRegionResponse: _ClassVar[ExtraMessageType]

class PeerState(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    Normal: _ClassVar[PeerState]
    Applying: _ClassVar[PeerState]
    Tombstone: _ClassVar[PeerState]
    Merging: _ClassVar[PeerState]
    Unavailable: _ClassVar[PeerState]
MsgRegionWakeUp: ExtraMessageType
MsgWantRollbackMerge: ExtraMessageType
MsgCheckStalePeer: ExtraMessageType
MsgCheckStalePeerResponse: ExtraMessageType
MsgHibernateRequest: ExtraMessageType
MsgHibernateResponse: ExtraMessageType
MsgRejectRaftLogCausedByMemoryUsage: ExtraMessageType
MsgAvailabilityRequest: ExtraMessageType
MsgAvailabilityResponse: ExtraMessageType
MsgVoterReplicatedIndexRequest: ExtraMessageType
MsgVoterReplicatedIndexResponse: ExtraMessageType
MsgGcPeerRequest: ExtraMessageType
MsgGcPeerResponse: ExtraMessageType
MsgFlushMemtable: ExtraMessageType
MsgRefreshBuckets: ExtraMessageType
MsgSnapGenPrecheckRequest: ExtraMessageType
MsgSnapGenPrecheckResponse: ExtraMessageType
MsgPreLoadRegionRequest: ExtraMessageType
MsgPreLoadRegionResponse: ExtraMessageType
Normal: PeerState
Applying: PeerState
Tombstone: PeerState
Merging: PeerState
Unavailable: PeerState

class AvailabilityContext(_message.Message):
    __slots__ = ("from_region_id", "from_region_epoch", "unavailable", "trimmed")
    FROM_REGION_ID_FIELD_NUMBER: _ClassVar[int]
    FROM_REGION_EPOCH_FIELD_NUMBER: _ClassVar[int]
    UNAVAILABLE_FIELD_NUMBER: _ClassVar[int]
    TRIMMED_FIELD_NUMBER: _ClassVar[int]
    from_region_id: int
    from_region_epoch: _metapb_pb2.RegionEpoch
    unavailable: bool
    trimmed: bool
    def __init__(self, from_region_id: _Optional[int] = ..., from_region_epoch: _Optional[_Union[_metapb_pb2.RegionEpoch, _Mapping]] = ..., unavailable: bool = ..., trimmed: bool = ...) -> None: ...

class CheckGcPeer(_message.Message):
    __slots__ = ("from_region_id", "check_region_id", "check_region_epoch", "check_peer")
    FROM_REGION_ID_FIELD_NUMBER: _ClassVar[int]
    CHECK_REGION_ID_FIELD_NUMBER: _ClassVar[int]
    CHECK_REGION_EPOCH_FIELD_NUMBER: _ClassVar[int]
    CHECK_PEER_FIELD_NUMBER: _ClassVar[int]
    from_region_id: int
    check_region_id: int
    check_region_epoch: _metapb_pb2.RegionEpoch
    check_peer: _metapb_pb2.Peer
    def __init__(self, from_region_id: _Optional[int] = ..., check_region_id: _Optional[int] = ..., check_region_epoch: _Optional[_Union[_metapb_pb2.RegionEpoch, _Mapping]] = ..., check_peer: _Optional[_Union[_metapb_pb2.Peer, _Mapping]] = ...) -> None: ...

class Done(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class ExtraMessage(_message.Message):
    __slots__ = ("type", "index", "check_peers", "wait_data", "forcely_awaken", "check_gc_peer", "flush_memtable", "availability_context", "refresh_buckets", "snap_gen_precheck_passed")
    TYPE_FIELD_NUMBER: _ClassVar[int]
    INDEX_FIELD_NUMBER: _ClassVar[int]
    CHECK_PEERS_FIELD_NUMBER: _ClassVar[int]
    WAIT_DATA_FIELD_NUMBER: _ClassVar[int]
    FORCELY_AWAKEN_FIELD_NUMBER: _ClassVar[int]
    CHECK_GC_PEER_FIELD_NUMBER: _ClassVar[int]
    FLUSH_MEMTABLE_FIELD_NUMBER: _ClassVar[int]
    AVAILABILITY_CONTEXT_FIELD_NUMBER: _ClassVar[int]
    REFRESH_BUCKETS_FIELD_NUMBER: _ClassVar[int]
    SNAP_GEN_PRECHECK_PASSED_FIELD_NUMBER: _ClassVar[int]
    type: ExtraMessageType
    index: int
    check_peers: _containers.RepeatedCompositeFieldContainer[_metapb_pb2.Peer]
    wait_data: bool
    forcely_awaken: bool
    check_gc_peer: CheckGcPeer
    flush_memtable: FlushMemtable
    availability_context: AvailabilityContext
    refresh_buckets: RefreshBuckets
    snap_gen_precheck_passed: bool
    def __init__(self, type: _Optional[_Union[ExtraMessageType, str]] = ..., index: _Optional[int] = ..., check_peers: _Optional[_Iterable[_Union[_metapb_pb2.Peer, _Mapping]]] = ..., wait_data: bool = ..., forcely_awaken: bool = ..., check_gc_peer: _Optional[_Union[CheckGcPeer, _Mapping]] = ..., flush_memtable: _Optional[_Union[FlushMemtable, _Mapping]] = ..., availability_context: _Optional[_Union[AvailabilityContext, _Mapping]] = ..., refresh_buckets: _Optional[_Union[RefreshBuckets, _Mapping]] = ..., snap_gen_precheck_passed: bool = ...) -> None: ...

class FlushMemtable(_message.Message):
    __slots__ = ("region_id",)
    REGION_ID_FIELD_NUMBER: _ClassVar[int]
    region_id: int
    def __init__(self, region_id: _Optional[int] = ...) -> None: ...

class MergeState(_message.Message):
    __slots__ = ("min_index", "target", "commit")
    MIN_INDEX_FIELD_NUMBER: _ClassVar[int]
    TARGET_FIELD_NUMBER: _ClassVar[int]
    COMMIT_FIELD_NUMBER: _ClassVar[int]
    min_index: int
    target: _metapb_pb2.Region
    commit: int
    def __init__(self, min_index: _Optional[int] = ..., target: _Optional[_Union[_metapb_pb2.Region, _Mapping]] = ..., commit: _Optional[int] = ...) -> None: ...

class MergedRecord(_message.Message):
    __slots__ = ("source_region_id", "source_epoch", "source_peers", "target_region_id", "target_epoch", "target_peers", "index", "source_index", "source_removed_records")
    SOURCE_REGION_ID_FIELD_NUMBER: _ClassVar[int]
    SOURCE_EPOCH_FIELD_NUMBER: _ClassVar[int]
    SOURCE_PEERS_FIELD_NUMBER: _ClassVar[int]
    TARGET_REGION_ID_FIELD_NUMBER: _ClassVar[int]
    TARGET_EPOCH_FIELD_NUMBER: _ClassVar[int]
    TARGET_PEERS_FIELD_NUMBER: _ClassVar[int]
    INDEX_FIELD_NUMBER: _ClassVar[int]
    SOURCE_INDEX_FIELD_NUMBER: _ClassVar[int]
    SOURCE_REMOVED_RECORDS_FIELD_NUMBER: _ClassVar[int]
    source_region_id: int
    source_epoch: _metapb_pb2.RegionEpoch
    source_peers: _containers.RepeatedCompositeFieldContainer[_metapb_pb2.Peer]
    target_region_id: int
    target_epoch: _metapb_pb2.RegionEpoch
    target_peers: _containers.RepeatedCompositeFieldContainer[_metapb_pb2.Peer]
    index: int
    source_index: int
    source_removed_records: _containers.RepeatedCompositeFieldContainer[_metapb_pb2.Peer]
    def __init__(self, source_region_id: _Optional[int] = ..., source_epoch: _Optional[_Union[_metapb_pb2.RegionEpoch, _Mapping]] = ..., source_peers: _Optional[_Iterable[_Union[_metapb_pb2.Peer, _Mapping]]] = ..., target_region_id: _Optional[int] = ..., target_epoch: _Optional[_Union[_metapb_pb2.RegionEpoch, _Mapping]] = ..., target_peers: _Optional[_Iterable[_Union[_metapb_pb2.Peer, _Mapping]]] = ..., index: _Optional[int] = ..., source_index: _Optional[int] = ..., source_removed_records: _Optional[_Iterable[_Union[_metapb_pb2.Peer, _Mapping]]] = ...) -> None: ...

class RaftLocalState(_message.Message):
    __slots__ = ("hard_state", "last_index")
    HARD_STATE_FIELD_NUMBER: _ClassVar[int]
    LAST_INDEX_FIELD_NUMBER: _ClassVar[int]
    hard_state: _eraftpb_pb2.HardState
    last_index: int
    def __init__(self, hard_state: _Optional[_Union[_eraftpb_pb2.HardState, _Mapping]] = ..., last_index: _Optional[int] = ...) -> None: ...

class RaftMessage(_message.Message):
    __slots__ = ("region_id", "from_peer", "to_peer", "message", "region_epoch", "is_tombstone", "start_key", "end_key", "merge_target", "extra_msg", "extra_ctx", "disk_usage")
    REGION_ID_FIELD_NUMBER: _ClassVar[int]
    FROM_PEER_FIELD_NUMBER: _ClassVar[int]
    TO_PEER_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    REGION_EPOCH_FIELD_NUMBER: _ClassVar[int]
    IS_TOMBSTONE_FIELD_NUMBER: _ClassVar[int]
    START_KEY_FIELD_NUMBER: _ClassVar[int]
    END_KEY_FIELD_NUMBER: _ClassVar[int]
    MERGE_TARGET_FIELD_NUMBER: _ClassVar[int]
    EXTRA_MSG_FIELD_NUMBER: _ClassVar[int]
    EXTRA_CTX_FIELD_NUMBER: _ClassVar[int]
    DISK_USAGE_FIELD_NUMBER: _ClassVar[int]
    region_id: int
    from_peer: _metapb_pb2.Peer
    to_peer: _metapb_pb2.Peer
    message: _eraftpb_pb2.Message
    region_epoch: _metapb_pb2.RegionEpoch
    is_tombstone: bool
    start_key: bytes
    end_key: bytes
    merge_target: _metapb_pb2.Region
    extra_msg: ExtraMessage
    extra_ctx: bytes
    disk_usage: _disk_usage_pb2.DiskUsage
    def __init__(self, region_id: _Optional[int] = ..., from_peer: _Optional[_Union[_metapb_pb2.Peer, _Mapping]] = ..., to_peer: _Optional[_Union[_metapb_pb2.Peer, _Mapping]] = ..., message: _Optional[_Union[_eraftpb_pb2.Message, _Mapping]] = ..., region_epoch: _Optional[_Union[_metapb_pb2.RegionEpoch, _Mapping]] = ..., is_tombstone: bool = ..., start_key: _Optional[bytes] = ..., end_key: _Optional[bytes] = ..., merge_target: _Optional[_Union[_metapb_pb2.Region, _Mapping]] = ..., extra_msg: _Optional[_Union[ExtraMessage, _Mapping]] = ..., extra_ctx: _Optional[bytes] = ..., disk_usage: _Optional[_Union[_disk_usage_pb2.DiskUsage, str]] = ...) -> None: ...

class RefreshBuckets(_message.Message):
    __slots__ = ("version", "keys", "sizes")
    VERSION_FIELD_NUMBER: _ClassVar[int]
    KEYS_FIELD_NUMBER: _ClassVar[int]
    SIZES_FIELD_NUMBER: _ClassVar[int]
    version: int
    keys: _containers.RepeatedScalarFieldContainer[bytes]
    sizes: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, version: _Optional[int] = ..., keys: _Optional[_Iterable[bytes]] = ..., sizes: _Optional[_Iterable[int]] = ...) -> None: ...

class RegionLocalState(_message.Message):
    __slots__ = ("state", "region", "merge_state", "tablet_index", "removed_records", "merged_records")
    STATE_FIELD_NUMBER: _ClassVar[int]
    REGION_FIELD_NUMBER: _ClassVar[int]
    MERGE_STATE_FIELD_NUMBER: _ClassVar[int]
    TABLET_INDEX_FIELD_NUMBER: _ClassVar[int]
    REMOVED_RECORDS_FIELD_NUMBER: _ClassVar[int]
    MERGED_RECORDS_FIELD_NUMBER: _ClassVar[int]
    state: PeerState
    region: _metapb_pb2.Region
    merge_state: MergeState
    tablet_index: int
    removed_records: _containers.RepeatedCompositeFieldContainer[_metapb_pb2.Peer]
    merged_records: _containers.RepeatedCompositeFieldContainer[MergedRecord]
    def __init__(self, state: _Optional[_Union[PeerState, str]] = ..., region: _Optional[_Union[_metapb_pb2.Region, _Mapping]] = ..., merge_state: _Optional[_Union[MergeState, _Mapping]] = ..., tablet_index: _Optional[int] = ..., removed_records: _Optional[_Iterable[_Union[_metapb_pb2.Peer, _Mapping]]] = ..., merged_records: _Optional[_Iterable[_Union[MergedRecord, _Mapping]]] = ...) -> None: ...

class SnapshotChunk(_message.Message):
    __slots__ = ("message", "data")
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    DATA_FIELD_NUMBER: _ClassVar[int]
    message: RaftMessage
    data: bytes
    def __init__(self, message: _Optional[_Union[RaftMessage, _Mapping]] = ..., data: _Optional[bytes] = ...) -> None: ...
