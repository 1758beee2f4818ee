"""The client: from a key to the store that leads its region, and back with a result or an error.

    connect / aio.connect          the faces; `raw` has the raw operations, `transaction` and `snapshot` the others (txn)
          │
      raw_commands                 one operation each: how it is written into a frame, how its reply is read
      batches, scanning            many keys and ranges: several commands, bounded in the bytes of their answers
          │
      executor                     attempts until one succeeds, by the table in `retry_policy`
          │   ◄── router           which region, which store: region_cache, and what the scheduler says
          │   ◄── pd               regions, stores, timestamps, ids; also the stores' own way to the scheduler
          │
      store_connection             commands of one loop turn share a `BatchCommands` frame
          │
      Connector (a port)           gRPC (grpc_connector), or the simulator's network

    async_client, sync_core        what the faces stand on: scope and executor, and the way into them from a thread
    commands, key_space, route     what a command, its keys and its way are
    arguments, addresses           what callers pass in, checked
    answer_sizes                   how many pairs to ask for at a time
    attempts, backoff, deadlines   what a failed attempt was, the pause after it, and when time is up
    origin                         a client is used in the process and event loop that made it
    config, errors                 settings; what a call can end with

Only TiKV's own protocol is used, so everything here works against a real TiKV cluster. The core is asynchronous and
takes connector, randomness and scope from outside; `sync_client` runs it on a thread of its own.
"""

from __future__ import annotations

from pytinykv.client.async_client import AsyncClient
from pytinykv.client.config import ClientConfig
from pytinykv.client.errors import (
    AlreadyBootstrappedError,
    ClientClosedError,
    ClientError,
    ClientForkedError,
    ClusterMismatchError,
    ConcurrentUseError,
    CutOffWriteError,
    DatabaseCorruptError,
    DatabaseError,
    DatabaseFullError,
    DatabaseInUseError,
    DatabaseMismatchError,
    DeadlineExceededError,
    DeadlockError,
    EntryTooLargeError,
    InvalidArgumentError,
    InvalidTypeError,
    KeyExistsError,
    LockTimeoutError,
    NotASchedulerError,
    NotBootstrappedError,
    SchedulerError,
    SchedulerUnavailableError,
    ServerError,
    SnapshotTooOldError,
    StoreDiskFullError,
    StoreError,
    StoreNotFoundError,
    StoreTombstoneError,
    TransactionAbortedError,
    TransactionClosedError,
    TransactionError,
    TransactionRefusedError,
    TransactionTooLargeError,
    UndeterminedError,
    UnsupportedError,
    WriteConflictError,
    WrongEventLoopError,
)
from pytinykv.client.pd.heartbeat_stream import HeartbeatStream
from pytinykv.client.pd.scheduler_client import RegionInfo, SchedulerClient
from pytinykv.client.raw import AsyncRawClient, AsyncScan
from pytinykv.client.raw_commands import CasResult, Checksum
from pytinykv.client.sync_client import Client, RawClient, connect
from pytinykv.client.sync_scan import Scan
from pytinykv.client.txn.snapshot import AsyncSnapshot
from pytinykv.client.txn.sync import Snapshot, Transaction
from pytinykv.client.txn.transaction import AsyncTransaction

__all__ = [
    "AlreadyBootstrappedError",
    "AsyncClient",
    "AsyncRawClient",
    "AsyncScan",
    "AsyncSnapshot",
    "AsyncTransaction",
    "CasResult",
    "Checksum",
    "Client",
    "ClientClosedError",
    "ClientConfig",
    "ClientError",
    "ClientForkedError",
    "ClusterMismatchError",
    "ConcurrentUseError",
    "CutOffWriteError",
    "DatabaseCorruptError",
    "DatabaseError",
    "DatabaseFullError",
    "DatabaseInUseError",
    "DatabaseMismatchError",
    "DeadlineExceededError",
    "DeadlockError",
    "EntryTooLargeError",
    "HeartbeatStream",
    "InvalidArgumentError",
    "InvalidTypeError",
    "KeyExistsError",
    "LockTimeoutError",
    "NotASchedulerError",
    "NotBootstrappedError",
    "RawClient",
    "RegionInfo",
    "Scan",
    "SchedulerClient",
    "SchedulerError",
    "SchedulerUnavailableError",
    "ServerError",
    "Snapshot",
    "SnapshotTooOldError",
    "StoreDiskFullError",
    "StoreError",
    "StoreNotFoundError",
    "StoreTombstoneError",
    "Transaction",
    "TransactionAbortedError",
    "TransactionClosedError",
    "TransactionError",
    "TransactionRefusedError",
    "TransactionTooLargeError",
    "UndeterminedError",
    "UnsupportedError",
    "WriteConflictError",
    "WrongEventLoopError",
    "connect",
]
