"""Transport: what carries bytes between processes, with owners and ends.

```
status    status codes of remote calls, and the error of a call that fails
address   host:port, kept on loopback; says why an address cannot be listened on
frames    byte frames over TCP between our own processes, where gRPC would cost most
rpc       gRPC servers and channels: the only place that touches gRPC
```

Servers, listeners and channels are members of a scope (`pytinykv.lifecycle`): they stop with it, within a bound in every
state, and report what they could not end. The package itself loads `status` alone, which is pure; the others are imported by
their names.
"""

from __future__ import annotations

from pytinykv.transport.status import RpcError, StatusCode, StreamEndedError

__all__ = ["RpcError", "StatusCode", "StreamEndedError"]
