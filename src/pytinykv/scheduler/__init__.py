"""The scheduler: the one process of a cluster that allocates ids and timestamps, knows where every region is, and decides
where its replicas should be (TinyScheduler in TinyKV, PD in TiKV).

    records        stores, and what a leader reports of its region: immutable
    commands       the only ways the durable state changes
    state          the durable state, and the pure function that applies a command to it
    commit         durable first, visible afterwards; one sync for all callers that wait
    ids, tso       allocation from a window that is reserved on disk; pure
    allocators     both of them with their reservations, and callers that wait for one
    regions        the region map: by key, by id, tallies per store
    stores         when stores were last heard of, and what that makes of them
    cluster_view   stores and regions as observed; lookups that refuse to answer in part
    operators      steps for one region, read off its heartbeats
    operator_controller   which operators run; what a leader is told next
    limits         how fast stores are given peers, and how fast they lose them
    quorum, placement                    what is safe to do, and where
    replica_checker, leader_balancer     what should be done about a region
    region_balancer                      which peer should move, so that stores carry the same
    splitting, scatter, removal          what administrators ask for
    coordinator    checkers propose, operators run
    scheduler      all of it behind one object

No gRPC and no protobuf here: `server.pd` translates. Decisions are synchronous and take the time as an argument;
only the committer waits for the disk. Single node for now; the commands and `state.transition` are the shape in which
it can be replicated by `raft` later.
"""

from __future__ import annotations

from pytinykv.scheduler.config import SchedulerConfig
from pytinykv.scheduler.errors import (
    AlreadyBootstrapped,
    CannotRemove,
    CannotTransfer,
    DuplicateAddress,
    InvalidInput,
    LookupIncomplete,
    NotBootstrapped,
    Refusal,
    SchedulerStopped,
    StaleRegion,
    StateCorrupted,
    StoreInUse,
    StoreNotFound,
    StoreTombstone,
    TimestampUnavailable,
    UnknownRegion,
)
from pytinykv.scheduler.scheduler import Scheduler
from pytinykv.scheduler.stores import StoreHealth, StoreInfo

__all__ = [
    "AlreadyBootstrapped",
    "CannotRemove",
    "CannotTransfer",
    "DuplicateAddress",
    "InvalidInput",
    "LookupIncomplete",
    "NotBootstrapped",
    "Refusal",
    "Scheduler",
    "SchedulerConfig",
    "SchedulerStopped",
    "StaleRegion",
    "StateCorrupted",
    "StoreHealth",
    "StoreInUse",
    "StoreInfo",
    "StoreNotFound",
    "StoreTombstone",
    "TimestampUnavailable",
    "UnknownRegion",
]
