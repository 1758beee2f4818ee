"""What travels between clients and servers: messages, keys, timestamps, errors.

    pb/            TiKV's and PD's messages, as `.proto` files of our own and the modules generated from them
    rpc            status codes and the error every remote call may raise
    service        a service without a transport, and the ports through which clients reach one

Everything here is pure: no sockets, no event loop, no clock. Independent of `raft` and `storage`.
"""

from __future__ import annotations

from pytinykv.wire.rpc import RpcError, StatusCode
from pytinykv.wire.service import BidiStream, Connector, MethodSpec, Service, service_methods

__all__ = ["BidiStream", "Connector", "MethodSpec", "RpcError", "Service", "StatusCode", "service_methods"]
