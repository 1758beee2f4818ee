from pytinykv.wire.pb import metapb_pb2 as _metapb_pb2
from pytinykv.wire.pb import pdpb_pb2 as _pdpb_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class RemoveStoreRequest(_message.Message):
    __slots__ = ("header", "store_id")
    HEADER_FIELD_NUMBER: _ClassVar[int]
    STORE_ID_FIELD_NUMBER: _ClassVar[int]
    header: _pdpb_pb2.RequestHeader
    store_id: int
    def __init__(self, header: _Optional[_Union[_pdpb_pb2.RequestHeader, _Mapping]] = ..., store_id: _Optional[int] = ...) -> None: ...

class RemoveStoreResponse(_message.Message):
    __slots__ = ("header", "state", "regions_left", "bytes_left", "obstacle")
    HEADER_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    REGIONS_LEFT_FIELD_NUMBER: _ClassVar[int]
    BYTES_LEFT_FIELD_NUMBER: _ClassVar[int]
    OBSTACLE_FIELD_NUMBER: _ClassVar[int]
    header: _pdpb_pb2.ResponseHeader
    state: _metapb_pb2.StoreState
    regions_left: int
    bytes_left: int
    obstacle: str
    def __init__(self, header: _Optional[_Union[_pdpb_pb2.ResponseHeader, _Mapping]] = ..., state: _Optional[_Union[_metapb_pb2.StoreState, str]] = ..., regions_left: _Optional[int] = ..., bytes_left: _Optional[int] = ..., obstacle: _Optional[str] = ...) -> None: ...

class RestoreStoreRequest(_message.Message):
    __slots__ = ("header", "store_id")
    HEADER_FIELD_NUMBER: _ClassVar[int]
    STORE_ID_FIELD_NUMBER: _ClassVar[int]
    header: _pdpb_pb2.RequestHeader
    store_id: int
    def __init__(self, header: _Optional[_Union[_pdpb_pb2.RequestHeader, _Mapping]] = ..., store_id: _Optional[int] = ...) -> None: ...

class RestoreStoreResponse(_message.Message):
    __slots__ = ("header",)
    HEADER_FIELD_NUMBER: _ClassVar[int]
    header: _pdpb_pb2.ResponseHeader
    def __init__(self, header: _Optional[_Union[_pdpb_pb2.ResponseHeader, _Mapping]] = ...) -> None: ...

class TransferLeaderRequest(_message.Message):
    __slots__ = ("header", "region_id", "store_id")
    HEADER_FIELD_NUMBER: _ClassVar[int]
    REGION_ID_FIELD_NUMBER: _ClassVar[int]
    STORE_ID_FIELD_NUMBER: _ClassVar[int]
    header: _pdpb_pb2.RequestHeader
    region_id: int
    store_id: int
    def __init__(self, header: _Optional[_Union[_pdpb_pb2.RequestHeader, _Mapping]] = ..., region_id: _Optional[int] = ..., store_id: _Optional[int] = ...) -> None: ...

class TransferLeaderResponse(_message.Message):
    __slots__ = ("header", "leads_already")
    HEADER_FIELD_NUMBER: _ClassVar[int]
    LEADS_ALREADY_FIELD_NUMBER: _ClassVar[int]
    header: _pdpb_pb2.ResponseHeader
    leads_already: bool
    def __init__(self, header: _Optional[_Union[_pdpb_pb2.ResponseHeader, _Mapping]] = ..., leads_already: bool = ...) -> None: ...

class ListOperatorsRequest(_message.Message):
    __slots__ = ("header",)
    HEADER_FIELD_NUMBER: _ClassVar[int]
    header: _pdpb_pb2.RequestHeader
    def __init__(self, header: _Optional[_Union[_pdpb_pb2.RequestHeader, _Mapping]] = ...) -> None: ...

class ListOperatorsResponse(_message.Message):
    __slots__ = ("header", "operators")
    HEADER_FIELD_NUMBER: _ClassVar[int]
    OPERATORS_FIELD_NUMBER: _ClassVar[int]
    header: _pdpb_pb2.ResponseHeader
    operators: _containers.RepeatedCompositeFieldContainer[Operator]
    def __init__(self, header: _Optional[_Union[_pdpb_pb2.ResponseHeader, _Mapping]] = ..., operators: _Optional[_Iterable[_Union[Operator, _Mapping]]] = ...) -> None: ...

class Operator(_message.Message):
    __slots__ = ("region_id", "kind", "description", "status", "reason", "steps", "done_steps", "duration_ms", "ended_ago_ms")
    REGION_ID_FIELD_NUMBER: _ClassVar[int]
    KIND_FIELD_NUMBER: _ClassVar[int]
    DESCRIPTION_FIELD_NUMBER: _ClassVar[int]
    STATUS_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    STEPS_FIELD_NUMBER: _ClassVar[int]
    DONE_STEPS_FIELD_NUMBER: _ClassVar[int]
    DURATION_MS_FIELD_NUMBER: _ClassVar[int]
    ENDED_AGO_MS_FIELD_NUMBER: _ClassVar[int]
    region_id: int
    kind: str
    description: str
    status: _pdpb_pb2.OperatorStatus
    reason: str
    steps: _containers.RepeatedScalarFieldContainer[str]
    done_steps: int
    duration_ms: int
    ended_ago_ms: int
    def __init__(self, region_id: _Optional[int] = ..., kind: _Optional[str] = ..., description: _Optional[str] = ..., status: _Optional[_Union[_pdpb_pb2.OperatorStatus, str]] = ..., reason: _Optional[str] = ..., steps: _Optional[_Iterable[str]] = ..., done_steps: _Optional[int] = ..., duration_ms: _Optional[int] = ..., ended_ago_ms: _Optional[int] = ...) -> None: ...

class ListRegionSizesRequest(_message.Message):
    __slots__ = ("header",)
    HEADER_FIELD_NUMBER: _ClassVar[int]
    header: _pdpb_pb2.RequestHeader
    def __init__(self, header: _Optional[_Union[_pdpb_pb2.RequestHeader, _Mapping]] = ...) -> None: ...

class ListRegionSizesResponse(_message.Message):
    __slots__ = ("header", "regions")
    HEADER_FIELD_NUMBER: _ClassVar[int]
    REGIONS_FIELD_NUMBER: _ClassVar[int]
    header: _pdpb_pb2.ResponseHeader
    regions: _containers.RepeatedCompositeFieldContainer[RegionSize]
    def __init__(self, header: _Optional[_Union[_pdpb_pb2.ResponseHeader, _Mapping]] = ..., regions: _Optional[_Iterable[_Union[RegionSize, _Mapping]]] = ...) -> None: ...

class RegionSize(_message.Message):
    __slots__ = ("region_id", "approximate_bytes")
    REGION_ID_FIELD_NUMBER: _ClassVar[int]
    APPROXIMATE_BYTES_FIELD_NUMBER: _ClassVar[int]
    region_id: int
    approximate_bytes: int
    def __init__(self, region_id: _Optional[int] = ..., approximate_bytes: _Optional[int] = ...) -> None: ...

class AllowTransactionsRequest(_message.Message):
    __slots__ = ("header",)
    HEADER_FIELD_NUMBER: _ClassVar[int]
    header: _pdpb_pb2.RequestHeader
    def __init__(self, header: _Optional[_Union[_pdpb_pb2.RequestHeader, _Mapping]] = ...) -> None: ...

class AllowTransactionsResponse(_message.Message):
    __slots__ = ("header", "refusal")
    HEADER_FIELD_NUMBER: _ClassVar[int]
    REFUSAL_FIELD_NUMBER: _ClassVar[int]
    header: _pdpb_pb2.ResponseHeader
    refusal: str
    def __init__(self, header: _Optional[_Union[_pdpb_pb2.ResponseHeader, _Mapping]] = ..., refusal: _Optional[str] = ...) -> None: ...

class AskSplitAtRequest(_message.Message):
    __slots__ = ("header", "region", "split_keys")
    HEADER_FIELD_NUMBER: _ClassVar[int]
    REGION_FIELD_NUMBER: _ClassVar[int]
    SPLIT_KEYS_FIELD_NUMBER: _ClassVar[int]
    header: _pdpb_pb2.RequestHeader
    region: _metapb_pb2.Region
    split_keys: _containers.RepeatedScalarFieldContainer[bytes]
    def __init__(self, header: _Optional[_Union[_pdpb_pb2.RequestHeader, _Mapping]] = ..., region: _Optional[_Union[_metapb_pb2.Region, _Mapping]] = ..., split_keys: _Optional[_Iterable[bytes]] = ...) -> None: ...

class AskSplitAtResponse(_message.Message):
    __slots__ = ("header", "ids", "is_transactional")
    HEADER_FIELD_NUMBER: _ClassVar[int]
    IDS_FIELD_NUMBER: _ClassVar[int]
    IS_TRANSACTIONAL_FIELD_NUMBER: _ClassVar[int]
    header: _pdpb_pb2.ResponseHeader
    ids: _containers.RepeatedCompositeFieldContainer[_pdpb_pb2.SplitID]
    is_transactional: bool
    def __init__(self, header: _Optional[_Union[_pdpb_pb2.ResponseHeader, _Mapping]] = ..., ids: _Optional[_Iterable[_Union[_pdpb_pb2.SplitID, _Mapping]]] = ..., is_transactional: bool = ...) -> None: ...

class ReportGcRequest(_message.Message):
    __slots__ = ("header", "store_id", "acknowledged_ts", "oldest_lock_ts")
    HEADER_FIELD_NUMBER: _ClassVar[int]
    STORE_ID_FIELD_NUMBER: _ClassVar[int]
    ACKNOWLEDGED_TS_FIELD_NUMBER: _ClassVar[int]
    OLDEST_LOCK_TS_FIELD_NUMBER: _ClassVar[int]
    header: _pdpb_pb2.RequestHeader
    store_id: int
    acknowledged_ts: int
    oldest_lock_ts: int
    def __init__(self, header: _Optional[_Union[_pdpb_pb2.RequestHeader, _Mapping]] = ..., store_id: _Optional[int] = ..., acknowledged_ts: _Optional[int] = ..., oldest_lock_ts: _Optional[int] = ...) -> None: ...

class ReportGcResponse(_message.Message):
    __slots__ = ("header", "announced_ts", "collect_ts", "resolve_ts")
    HEADER_FIELD_NUMBER: _ClassVar[int]
    ANNOUNCED_TS_FIELD_NUMBER: _ClassVar[int]
    COLLECT_TS_FIELD_NUMBER: _ClassVar[int]
    RESOLVE_TS_FIELD_NUMBER: _ClassVar[int]
    header: _pdpb_pb2.ResponseHeader
    announced_ts: int
    collect_ts: int
    resolve_ts: int
    def __init__(self, header: _Optional[_Union[_pdpb_pb2.ResponseHeader, _Mapping]] = ..., announced_ts: _Optional[int] = ..., collect_ts: _Optional[int] = ..., resolve_ts: _Optional[int] = ...) -> None: ...
