"""Transactions of the client: Percolator's, on TiKV's commands, with snapshot isolation.

    AsyncTransaction · AsyncSnapshot · run          semantics: own writes, when it may be used, what is repeated
    Transaction · Snapshot                          the same, blocking
          │        buffer, merging, read_set        what it has written; scans that show it; what it has read
          │
    TransactionBackend                              timestamps, reads at a snapshot, locks, commit
          │
    ClusterBackend
      ├── resolver      locks in the way: committed, rolled back, alive?
      ├── locker        pessimistic locks          heartbeat    keeps them alive
      └── committer     two phases, or fewer       background   what no caller waits for
          │
    read_commands  commit_commands  lock_commands  resolve_commands  keys_command       what travels
    reads               what transactions and snapshots share      parts       what the cluster's backend is made of
    key_errors          what stores answer about keys
    records             locks, views, writes       manager      makes them; `run`; ends them with the client
    inspection          versions and locks, for tools

What no caller waits for may be left undone at any moment: a lock that was left names its primary, the primary tells what
became of the transaction, and the client that meets it finishes the work (`resolver`). So a client may be closed, or killed,
at any point.

Left out: savepoints, secondary indexes, reads from followers, API V2.
"""

from __future__ import annotations
