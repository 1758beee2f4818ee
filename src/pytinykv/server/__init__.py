"""The hosts: services that translate wire requests into calls, and the processes that put them behind gRPC.

Transport-free, shared with the simulator:

    raw_commands    TiKV's raw requests ↔ reads and operations     kv_service    `tikvpb.Tikv` on a store
    pd_service      `pdpb.PD` on the scheduler                     reporter      heartbeats out, orders in
    store_node      a store put together                           gate, health  services of every port

Real processes only:

    grpc_binding    a service behind gRPC                          raft_transport   messages between stores
    workers         threads for blocking work                      status           the status port
    metrics, describe                                              what it shows
    store_process, scheduler_process                               what the command line starts
"""
