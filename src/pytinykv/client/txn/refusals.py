"""The words in which transactions are refused, whether a store's answer or a local evaluation says so."""

from __future__ import annotations

from pytinykv.client.errors import DeadlockError, KeyExistsError, TransactionAbortedError, WriteConflictError
from pytinykv.wire.keys import describe_key


def write_conflict(key: bytes, start_ts: int, conflict_ts: int, conflict_commit_ts: int) -> WriteConflictError:
    """Return the error of a transaction that another one was ahead of."""
    return WriteConflictError(
        f"another transaction has committed {describe_key(key)} at {conflict_commit_ts}, after this one "
        f"began at {start_ts}; nothing of this one was committed. Run it again from a new snapshot (db.run does)",
        key=key,
        conflict_ts=conflict_ts,
        conflict_commit_ts=conflict_commit_ts,
    )


def rolled_back(key: bytes, start_ts: int) -> TransactionAbortedError:
    """Return the error of a transaction that others have ended."""
    return TransactionAbortedError(
        f"transaction {start_ts} was rolled back by others before it wrote {describe_key(key)}; "
        "it took longer than its locks live. Run it again"
    )


def key_exists(key: bytes) -> KeyExistsError:
    """Return the error of an insert that found its key."""
    return KeyExistsError(
        f"{describe_key(key)} exists: insert needs a key that does not; use put to overwrite", key=key
    )


def deadlock(key: bytes, lock_ts: int, cycle: tuple[tuple[int, int, bytes], ...]) -> DeadlockError:
    """Return the error of a wait that would have closed a cycle: (waiting transaction, the one it waits for, key) each."""
    steps = ", ".join(f"{txn} waits for {other} to release {describe_key(locked)}" for txn, other, locked in cycle)
    return DeadlockError(
        f"deadlock at {describe_key(key)}, locked by transaction {lock_ts}: "
        f"{steps or 'the store did not name the circle'}. Roll back, and run it again",
        key=key,
        cycle=cycle,
    )
