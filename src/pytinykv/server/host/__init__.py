"""The processes: a data directory, ports, and a store or a scheduler in them.

Shared with the simulator:

    store_program   a store put together from its ports      scheduler_link   heartbeats out, orders in
    startup_gate    UNAVAILABLE until the service is there   health           `grpc.health.v1.Health`

Real processes only:

    server_base     what both processes begin with           store_process, scheduler_process
    grpc_binding    a service behind gRPC                    status           the status port
    raft_transport  messages between stores                  address_book     where those are
    wiring          which part may wait for which            metrics, describe
"""

from __future__ import annotations
