from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from typing import ClassVar as _ClassVar

DESCRIPTOR: _descriptor.FileDescriptor

class DiskUsage(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    Normal: _ClassVar[DiskUsage]
    AlmostFull: _ClassVar[DiskUsage]
    AlreadyFull: _ClassVar[DiskUsage]
Normal: DiskUsage
AlmostFull: DiskUsage
AlreadyFull: DiskUsage
