"""What a call on a client can end with, apart from a result.

    ClientError
    ├── InvalidArgumentError (ValueError)      the input, refused before anything is sent
    │   └── InvalidTypeError (TypeError)       `str` where `bytes` belong, and the like
    ├── ClientClosedError                      the client is closed
    │   └── CutOffWriteError                   … while a write was under way (also an UndeterminedError)
    ├── ClientForkedError                      the client, or another one, was made before this process was forked
    ├── WrongEventLoopError                    an asyncio client was used outside of its event loop
    ├── DeadlineExceededError (TimeoutError)   time is up, and nothing was changed
    ├── UndeterminedError                      a write that may or may not have happened
    ├── SchedulerError                         the scheduler refuses
    │   ├── SchedulerUnavailableError          no scheduler answers
    │   ├── NotASchedulerError                 something else does: a store
    │   ├── ClusterMismatchError               these addresses lead to another cluster
    │   ├── NotBootstrappedError · AlreadyBootstrappedError
    │   └── StoreTombstoneError · StoreNotFoundError · StoreInUseError
    ├── StoreError                             a store refuses
    │   ├── ServerError                        an error text of the store's own
    │   ├── EntryTooLargeError · StoreDiskFullError
    │   └── UnsupportedError                   the store does not know the operation
    ├── DatabaseError                          an embedded database (`pytinykv.open`) can't be opened, or its disk fails
    │   ├── DatabaseInUseError                 another process, or this one, has it open
    │   ├── DatabaseMismatchError              the path holds something else, or a newer format
    │   ├── DatabaseCorruptError               a file of it is damaged
    │   └── DatabaseFullError                  no space left on its disk
    └── TransactionError                       a transaction or snapshot that can't go on; nothing of it was committed
        ├── WriteConflictError                 another transaction was first
        ├── KeyExistsError                     `insert` of a key that exists
        ├── DeadlockError                      transactions wait for each other in a circle
        ├── LockTimeoutError (TimeoutError)    another transaction held a lock for too long
        ├── TransactionAbortedError            rolled back by others, because its locks ran out
        ├── SnapshotTooOldError                its versions may have been collected
        ├── TransactionTooLargeError           more keys or bytes than a transaction may have
        ├── TransactionRefusedError            the cluster takes no transactions here, and says why
        ├── TransactionClosedError             used after commit, rollback, or the client's closing
        └── ConcurrentUseError                 committed while another call of it was under way

`retryable`: the same call may succeed later, and repeating it does no harm; of a `TransactionError`: the whole transaction,
begun anew, may succeed (which is what `run` does). `undetermined`: the call may have changed data. Both belong to the class,
so that a caller need not read messages.
"""

from __future__ import annotations

from typing import ClassVar


class ClientError(Exception):
    """Base of all errors that a client raises."""

    retryable: ClassVar[bool] = False
    """Whether the same call may succeed later, and repeating it does no harm."""
    undetermined: ClassVar[bool] = False
    """Whether the call may have changed data, or still may."""


class InvalidArgumentError(ClientError, ValueError):
    """An argument can't be right; nothing was sent. The message names the argument."""


class InvalidTypeError(InvalidArgumentError, TypeError):
    """An argument has the wrong type; nothing was sent."""


class ClientClosedError(ClientError):
    """The client is closed, or was closed while the call waited. Nothing was changed; make a new client."""


class ClientForkedError(ClientError):
    """The client was made by the parent process; its connections stay there. Connect only after the fork."""


class WrongEventLoopError(ClientError):
    """An asyncio client was used, or made, outside of its event loop. Nothing was sent; connect within the loop."""


class DeadlineExceededError(ClientError, TimeoutError):
    """The deadline passed. A read has no answer; a write was not executed and will not be."""

    retryable = True


class UndeterminedError(ClientError):
    """A write was handed to a store and its fate is unknown: it may have happened, may still happen, or never.

    The client never repeats such a write by itself, as that could bring an old value back over a newer one of another
    client. Read the key, or repeat the write if an overwrite does no harm.
    """

    undetermined = True


class CutOffWriteError(ClientClosedError, UndeterminedError):
    """The client was closed after a write was handed over and before its answer came: the write's fate is unknown."""

    undetermined = True


class SchedulerError(ClientError):
    """The scheduler answered with an error."""


class SchedulerUnavailableError(SchedulerError):
    """No scheduler endpoint answered until the deadline, or none that leads and knows what was asked for."""

    retryable = True


class NotASchedulerError(SchedulerError):
    """What answers at the addresses given is no scheduler: a store, or another gRPC server."""


class ClusterMismatchError(SchedulerError):
    """The scheduler belongs to another cluster than the one this client (or store) belongs to."""


class NotBootstrappedError(SchedulerError):
    """The cluster has no first region yet; it gets one when its first store starts."""

    retryable = True


class AlreadyBootstrappedError(SchedulerError):
    """The cluster was bootstrapped before, by another store or by an earlier try."""


class StoreTombstoneError(SchedulerError):
    """The scheduler has marked this store as a tombstone; it must never come back under its old id."""


class StoreInUseError(SchedulerError):
    """Another process serves this store at another address, or another store at this one's address."""


class StoreNotFoundError(SchedulerError):
    """The scheduler knows no store of this id."""


class StoreError(ClientError):
    """A store refused the operation; nothing was changed."""


class ServerError(StoreError):
    """A store answered with an error text of its own."""


class EntryTooLargeError(StoreError):
    """The write is larger than a Raft entry may be. Split it, or raise the store's limit."""


class StoreDiskFullError(StoreError):
    """The store takes no writes, because its disk (or a replica's) is full."""

    retryable = True


class UnsupportedError(StoreError):
    """The store does not implement the operation."""


class DatabaseError(ClientError):
    """An embedded database can't be opened, or its disk has failed. Nothing was changed by the call that raises it.

    After a failed write or sync a database takes no writes any more, since it can't be known what reached the disk: close it,
    and open it again when the disk works. Everything that was acknowledged is there then.
    """


class DatabaseInUseError(DatabaseError):
    """Another process has the database open, or this one has it open already. The message says which, and since when."""

    def __init__(self, message: str, *, holder_pid: int | None = None) -> None:
        super().__init__(message)
        self.holder_pid = holder_pid
        """The process that has it open; None if that is not known."""


class DatabaseMismatchError(DatabaseError):
    """The path holds something else (a store's data, other files), or was written by a newer pytinykv."""


class DatabaseCorruptError(DatabaseError):
    """A file of the database is damaged; nothing was skipped or dropped. The message names the file."""


class DatabaseFullError(DatabaseError):
    """There is no space left on the disk of the database. Free some, then close and open it again."""


class TransactionError(ClientError):
    """A transaction, or a snapshot, can't go on. Nothing that it wrote was committed."""


class WriteConflictError(TransactionError):
    """Another transaction has committed a key since this one began. Run the function again, from a new snapshot."""

    retryable = True

    def __init__(self, message: str, *, key: bytes = b"", conflict_ts: int = 0, conflict_commit_ts: int = 0) -> None:
        super().__init__(message)
        self.key = key
        """The key that both have written."""
        self.conflict_ts = conflict_ts
        """The start timestamp of the other transaction."""
        self.conflict_commit_ts = conflict_commit_ts
        """Its commit timestamp; 0 if it is not known."""


class KeyExistsError(TransactionError):
    """`insert` of a key that exists."""

    def __init__(self, message: str, *, key: bytes = b"") -> None:
        super().__init__(message)
        self.key = key
        """The key that exists."""


class DeadlockError(TransactionError):
    """Transactions wait for each other's locks in a circle; this one's request would have closed it. Run it again."""

    retryable = True

    def __init__(self, message: str, *, key: bytes = b"", cycle: tuple[tuple[int, int, bytes], ...] = ()) -> None:
        super().__init__(message)
        self.key = key
        """The key whose lock was asked for."""
        self.cycle = cycle
        """(start timestamp of the waiting transaction, of the one it waits for, the key), in the order of the circle."""


class LockTimeoutError(TransactionError, TimeoutError):
    """A lock of another transaction stood in the way until the deadline."""

    retryable = True

    def __init__(self, message: str, *, key: bytes = b"", holder_ts: int = 0) -> None:
        super().__init__(message)
        self.key = key
        """The locked key."""
        self.holder_ts = holder_ts
        """The start timestamp of the transaction that holds the lock."""


class TransactionAbortedError(TransactionError):
    """Others have rolled this transaction back, because its locks had run out: it was silent for too long."""

    retryable = True


class SnapshotTooOldError(TransactionError):
    """The timestamp lies before the garbage collection's safe point: versions it should see may be gone. Begin anew."""

    retryable = True


class TransactionTooLargeError(TransactionError):
    """The transaction would have more keys or bytes than `ClientConfig` allows. The write was refused; the rest stands."""


class TransactionRefusedError(TransactionError):
    """A store refuses the transaction, and the message says why."""


class TransactionClosedError(TransactionError):
    """The transaction was committed or rolled back before, or its client is closed. Begin a new one."""


class ConcurrentUseError(TransactionError):
    """`commit` came while another call of the same transaction was under way: whether that belongs to it can't be said.

    Nothing was committed, and the transaction is still open. Wait for the other call first.
    """
