"""The hosts: services that translate wire requests into calls, and the processes that put them behind gRPC.

Transport-free, shared with the simulator:

    kv_service      `tikvpb.Tikv` on a store                       batch_frames     its fast path: many commands in a frame
    kv_checks       where a request belongs, what it is refused    raw_commands     raw requests ↔ reads and operations
    pd_service      `pdpb.PD` on the scheduler, with its parts     pd_convert, pd_regions, pd_heartbeats
    store_program   a store put together                           reporter         heartbeats out, orders in
    gate, health    services of every port

Real processes only:

    premises        what both processes stand on                   store_process, scheduler_process
    grpc_binding    a service behind gRPC                          status           the status port
    raft_transport  messages between stores                        address_book     where those are
    wiring          who may wait for whom                          metrics, describe
"""
