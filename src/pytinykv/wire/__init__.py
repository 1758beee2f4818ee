"""What travels between clients and servers: messages, keys, timestamps, errors.

    pb/          the messages of TiKV, PD and gRPC's health check: `.proto` files of our own and what is made of them
    service      a service without a transport, and the ports through which clients reach one; both raise `RpcError`
    errors       region errors: why a store did not run a command
    encoding     protobuf by hand, for what is encoded per command
    frames       frames of commands as the serving end reads them, command by command
    keys         memcomparable keys, with and without a timestamp
    timestamp    the scheduler's timestamps
    limits, cf   sizes and column family names that both sides agree on
    cut_streams  what a stopping store has read of a stream
    checksum     the checksum of a range of raw pairs

Everything here is pure: no sockets, no event loop, no clock. Independent of `raft` and `storage`.

Left out: TinyKV's own dialect (`tinykvpb`, `schedulerpb`); the errors of transactional keys (`transaction.errors`); API
version 2.
"""

from __future__ import annotations

from pytinykv.transport import RpcError, StatusCode
from pytinykv.wire.service import (
    BATCH_COMMANDS,
    BidiStream,
    Connector,
    MethodSpec,
    Response,
    Service,
    encoded,
    service_methods,
)

__all__ = [
    "BATCH_COMMANDS",
    "BidiStream",
    "Connector",
    "MethodSpec",
    "Response",
    "RpcError",
    "Service",
    "StatusCode",
    "encoded",
    "service_methods",
]
