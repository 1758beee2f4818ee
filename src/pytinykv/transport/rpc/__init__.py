"""gRPC servers and channels: the only place that makes them.

grpc.aio has its own rules for when things end. Everything made here belongs to a
scope, stops within a bound in every state, and reports what it could not end.

```
server     RpcServer    refuse → grace → grpc's stop → cancel handlers → wait for them, all bounded
channel    RpcChannel   unary calls with deadlines; RpcStream with a bounded buffer that never blocks the sender
engine     options, and the process-wide poller thread of grpc.aio, which is never shut down
_loading   gRPC without its fork handlers, which crash children
```

Invariants
1. No wait for grpc is without a bound.
2. A handler that has not ended is known, from its first line to the end of its task.
3. A caller sees CancelledError only when it was itself cancelled.
4. Two servers never share a port.

Left out: TLS, interceptors, compression.
"""

from __future__ import annotations

from pytinykv.transport.rpc import _loading as _loading  # first: it decides how gRPC is loaded
from pytinykv.transport.rpc.channel import RpcChannel, RpcStream
from pytinykv.transport.rpc.engine import (
    CHANNEL_OPTIONS,
    SERVER_OPTIONS,
    ForkedEngineError,
    Options,
    refuse_forked,
)
from pytinykv.transport.rpc.server import CallContext, Method, MethodKind, RpcServer

__all__ = [
    "CHANNEL_OPTIONS",
    "SERVER_OPTIONS",
    "CallContext",
    "ForkedEngineError",
    "Method",
    "MethodKind",
    "Options",
    "RpcChannel",
    "RpcServer",
    "RpcStream",
    "refuse_forked",
]
