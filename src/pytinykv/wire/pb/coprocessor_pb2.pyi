from pytinykv.wire.pb import errorpb_pb2 as _errorpb_pb2
from pytinykv.wire.pb import kvrpcpb_pb2 as _kvrpcpb_pb2
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Request(_message.Message):
    __slots__ = ("context", "tp", "data", "is_cache_enabled", "cache_if_match_version", "start_ts", "schema_ver", "is_trace_enabled", "paging_size", "connection_id", "connection_alias", "max_keys_read", "paging_size_bytes", "allow_batch_task_data_merge", "execute_batch_tasks_serially")
    CONTEXT_FIELD_NUMBER: _ClassVar[int]
    TP_FIELD_NUMBER: _ClassVar[int]
    DATA_FIELD_NUMBER: _ClassVar[int]
    IS_CACHE_ENABLED_FIELD_NUMBER: _ClassVar[int]
    CACHE_IF_MATCH_VERSION_FIELD_NUMBER: _ClassVar[int]
    START_TS_FIELD_NUMBER: _ClassVar[int]
    SCHEMA_VER_FIELD_NUMBER: _ClassVar[int]
    IS_TRACE_ENABLED_FIELD_NUMBER: _ClassVar[int]
    PAGING_SIZE_FIELD_NUMBER: _ClassVar[int]
    CONNECTION_ID_FIELD_NUMBER: _ClassVar[int]
    CONNECTION_ALIAS_FIELD_NUMBER: _ClassVar[int]
    MAX_KEYS_READ_FIELD_NUMBER: _ClassVar[int]
    PAGING_SIZE_BYTES_FIELD_NUMBER: _ClassVar[int]
    ALLOW_BATCH_TASK_DATA_MERGE_FIELD_NUMBER: _ClassVar[int]
    EXECUTE_BATCH_TASKS_SERIALLY_FIELD_NUMBER: _ClassVar[int]
    context: _kvrpcpb_pb2.Context
    tp: int
    data: bytes
    is_cache_enabled: bool
    cache_if_match_version: int
    start_ts: int
    schema_ver: int
    is_trace_enabled: bool
    paging_size: int
    connection_id: int
    connection_alias: str
    max_keys_read: int
    paging_size_bytes: int
    allow_batch_task_data_merge: bool
    execute_batch_tasks_serially: bool
    def __init__(self, context: _Optional[_Union[_kvrpcpb_pb2.Context, _Mapping]] = ..., tp: _Optional[int] = ..., data: _Optional[bytes] = ..., is_cache_enabled: bool = ..., cache_if_match_version: _Optional[int] = ..., start_ts: _Optional[int] = ..., schema_ver: _Optional[int] = ..., is_trace_enabled: bool = ..., paging_size: _Optional[int] = ..., connection_id: _Optional[int] = ..., connection_alias: _Optional[str] = ..., max_keys_read: _Optional[int] = ..., paging_size_bytes: _Optional[int] = ..., allow_batch_task_data_merge: bool = ..., execute_batch_tasks_serially: bool = ...) -> None: ...

class Response(_message.Message):
    __slots__ = ("data", "region_error", "locked", "other_error", "exec_details", "is_cache_hit", "cache_last_version", "can_be_cached", "exec_details_v2", "latest_buckets_version")
    DATA_FIELD_NUMBER: _ClassVar[int]
    REGION_ERROR_FIELD_NUMBER: _ClassVar[int]
    LOCKED_FIELD_NUMBER: _ClassVar[int]
    OTHER_ERROR_FIELD_NUMBER: _ClassVar[int]
    EXEC_DETAILS_FIELD_NUMBER: _ClassVar[int]
    IS_CACHE_HIT_FIELD_NUMBER: _ClassVar[int]
    CACHE_LAST_VERSION_FIELD_NUMBER: _ClassVar[int]
    CAN_BE_CACHED_FIELD_NUMBER: _ClassVar[int]
    EXEC_DETAILS_V2_FIELD_NUMBER: _ClassVar[int]
    LATEST_BUCKETS_VERSION_FIELD_NUMBER: _ClassVar[int]
    data: bytes
    region_error: _errorpb_pb2.Error
    locked: _kvrpcpb_pb2.LockInfo
    other_error: str
    exec_details: _kvrpcpb_pb2.ExecDetails
    is_cache_hit: bool
    cache_last_version: int
    can_be_cached: bool
    exec_details_v2: _kvrpcpb_pb2.ExecDetailsV2
    latest_buckets_version: int
    def __init__(self, data: _Optional[bytes] = ..., region_error: _Optional[_Union[_errorpb_pb2.Error, _Mapping]] = ..., locked: _Optional[_Union[_kvrpcpb_pb2.LockInfo, _Mapping]] = ..., other_error: _Optional[str] = ..., exec_details: _Optional[_Union[_kvrpcpb_pb2.ExecDetails, _Mapping]] = ..., is_cache_hit: bool = ..., cache_last_version: _Optional[int] = ..., can_be_cached: bool = ..., exec_details_v2: _Optional[_Union[_kvrpcpb_pb2.ExecDetailsV2, _Mapping]] = ..., latest_buckets_version: _Optional[int] = ...) -> None: ...
