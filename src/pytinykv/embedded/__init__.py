"""A database in this process: the transactions, snapshots and raw operations of a cluster's client, on a local engine.

    Client · Transaction · Snapshot · RawClient        the classes of a cluster (`client`)
            │
        core, faces, backend, raw_runner               their operations, in the caller's thread, without a loop
            │
        database                                       who may write, and when; what a close does
            │── oracle        timestamps, and what is visible       groups        commits share a sync
            │── local_port    the executor of `transaction`, with locks in memory
            │── interrupts    Ctrl-C waits for the end of a step
            │── recent        the keys of recent commits: nobody was first at any other
            │── reads         views, pages of scans                 background    lock deadlines, garbage, relaxed syncs
            │
        storage                                        RocksDB in a directory, or sorted maps in memory

No Raft, no sockets. The evaluation of commands is that of the servers (`transaction`); what differs is around it: a commit is
one step under the writer's lock and one sync, and locks are never written. Left out: what a cluster has to do because its
parts may fail alone (two phases, heartbeats, resolving the locks of others).
"""

from __future__ import annotations

from pytinykv.embedded.opening import Durability, open_database

__all__ = ["Durability", "open_database"]
