"""The hosts: services that translate wire requests into calls, and the processes that put them behind gRPC.

    kv      `tikvpb.Tikv` on a store            transport-free, shared with the simulator
    pd      `pdpb.PD` on the scheduler          the same
    host    the processes around them: data directory, ports, status; some of it runs in the simulator, too

Imports go from `host` to `kv` and `pd`, which do not know each other.
"""

from __future__ import annotations
