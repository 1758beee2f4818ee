"""Many Raft groups on one store: propose, replicate, apply, snapshot, change members, collect log.

The chapters, bottom-up:

    records             what is stored and sent
    keys                where it is in the engine
    operations          what a log entry says
    peer_storage        a region's log and state
    apply               what operations do to the data
    pending, calls      the callers that wait for an answer
    leadership_waits    commands for a peer that is about to lead
    membership          what a change of members does to a region
    splits              what a split is
    children            what a split makes on a store
    split_requests      splits from the wish to the answer
    split_keys          where a large region is split
    size_checks, sizes  which regions are too large; how large each is
    regions             the regions by their keys
    followers           what a leader notices of the others
    log_collection      when the front of the log is cut
    log_budget          what the logs of all regions may take
    change_orders       membership changes that the scheduler ordered
    rest, liveness      whether a peer hibernates; which stores run
    activity            which regions are awake
    peer                one region on this store
    router, inbox       which peer a message is for; messages that have come
    snapshot_files      snapshots as files
    outgoing_snapshots  making and sending them
    incoming_snapshots  receiving them
    snapshot_offers     whether the region takes one
    installing          a snapshot taking a region's place
    recovery            what a start finds
    bootstrap           the first region of a cluster
    expiry              deleting values that have expired
    counters            what a store counts
    turn, syncs         what one turn gathers; what of it is durable
    region_events       what becomes of regions, for listeners
    reports             what the scheduler is told and asked
    silent_disk         leaving a disk that does not answer
    store               all regions, and the turn that moves them
    store_loop          the event loop around a store
    leaving             leaderships that go to others before a stop
    stopping            the stages of the stop
    ports               what a store needs from the world

Knows no gRPC and no transactions. The order of things in a turn, and what may be said when, is in `store` and `peer`.
"""

from __future__ import annotations

from pytinykv.raftstore.config import RaftStoreConfig
from pytinykv.raftstore.incoming_snapshots import SnapshotRefusedError
from pytinykv.raftstore.membership import MembershipChange
from pytinykv.raftstore.operations import Operation
from pytinykv.raftstore.peer import RegionPeer
from pytinykv.raftstore.ports import SchedulerLink, Transport
from pytinykv.raftstore.records import RaftEnvelope, RegionReport, SnapshotHeader, SnapshotManifest, StoreIdent
from pytinykv.raftstore.snapshot_files import SnapshotDirectory
from pytinykv.raftstore.store import Store
from pytinykv.raftstore.store_loop import StoreLoop

__all__ = [
    "MembershipChange",
    "Operation",
    "RaftEnvelope",
    "RaftStoreConfig",
    "RegionPeer",
    "RegionReport",
    "SchedulerLink",
    "SnapshotDirectory",
    "SnapshotHeader",
    "SnapshotManifest",
    "SnapshotRefusedError",
    "Store",
    "StoreIdent",
    "StoreLoop",
    "Transport",
]
