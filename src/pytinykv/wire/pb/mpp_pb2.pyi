from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from typing import ClassVar as _ClassVar, Optional as _Optional

DESCRIPTOR: _descriptor.FileDescriptor

class IsAliveRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class IsAliveResponse(_message.Message):
    __slots__ = ("available", "mpp_version")
    AVAILABLE_FIELD_NUMBER: _ClassVar[int]
    MPP_VERSION_FIELD_NUMBER: _ClassVar[int]
    available: bool
    mpp_version: int
    def __init__(self, available: bool = ..., mpp_version: _Optional[int] = ...) -> None: ...
