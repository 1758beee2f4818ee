"""A store of one region without a log: it evaluates a command, applies what that changes at once, and unlocks."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from pytinykv.storage import ColumnFamily, Engine, MemoryEngine
from pytinykv.storage.changes import add_changes
from pytinykv.transaction import ConcurrencyManager, Failure, MvccReader, ReadView, TxnError, evaluate, scan
from pytinykv.transaction.commands import (
    BatchRollback,
    CheckSecondaryLocks,
    CheckTxnStatus,
    Cleanup,
    Commit,
    Gc,
    LockRequest,
    Mutation,
    MutationOp,
    PessimisticAction,
    PessimisticLock,
    PessimisticRollback,
    Prewrite,
    ResolveLock,
    Scan,
    WriteCommand,
)
from pytinykv.transaction.gc import collect
from pytinykv.transaction.history import mvcc_by_key
from pytinykv.transaction.records import Lock, Write
from pytinykv.transaction.results import Evaluation, Pair, Result
from pytinykv.wire.timestamp import MAX_TIMESTAMP, compose

LONG = b"long " * 100
"""A value that does not fit into a lock."""


def ts(physical_ms: int, logical: int = 0) -> int:
    """Return a timestamp of some millisecond, where times to live matter."""
    return compose(physical_ms, logical)


def put(key: bytes, value: bytes = b"v", **more: object) -> Mutation:
    return Mutation(MutationOp.PUT, key, value, **more)  # type: ignore[arg-type]


def delete(key: bytes, **more: object) -> Mutation:
    return Mutation(MutationOp.DELETE, key, **more)  # type: ignore[arg-type]


def lock_only(key: bytes, **more: object) -> Mutation:
    return Mutation(MutationOp.LOCK, key, **more)  # type: ignore[arg-type]


def insert(key: bytes, value: bytes = b"v", **more: object) -> Mutation:
    return Mutation(MutationOp.INSERT, key, value, **more)  # type: ignore[arg-type]


def check_not_exists(key: bytes) -> Mutation:
    return Mutation(MutationOp.CHECK_NOT_EXISTS, key)


def locked_put(key: bytes, value: bytes = b"v", **more: object) -> Mutation:
    """A put of a pessimistic transaction that has locked the key."""
    return put(key, value, action=PessimisticAction.CHECK_LOCK, **more)


class TxnStore:
    """Methods that change something return the result; those named `must_…` also check that it is no failure."""

    def __init__(self, engine: Engine | None = None) -> None:
        self.engine: Engine = MemoryEngine() if engine is None else engine
        self.manager = ConcurrencyManager()
        self.safe_point = 0
        self.last: Evaluation | None = None
        """What was evaluated last."""

    # --- writes -------------------------------------------------------------------------------------------------

    def evaluate(self, command: WriteCommand) -> Evaluation:
        """Work a command out, and do nothing yet."""
        self.last = evaluate(self.engine, command, self.manager, self.safe_point)
        if isinstance(self.last.result, Failure):
            assert not self.last.changes
            assert not self.last.memory_locks
        return self.last

    def apply(self, evaluation: Evaluation) -> Result:
        batch = self.engine.write_batch()
        add_changes(batch, evaluation.changes)
        self.engine.write(batch)
        self.manager.unlock(evaluation.memory_locks)
        return evaluation.result

    def run(self, command: WriteCommand) -> Result:
        return self.apply(self.evaluate(command))

    def must(self, command: WriteCommand) -> Result:
        result = self.run(command)
        assert not isinstance(result, Failure), [str(error) for error in result.errors]
        return result

    def fails(self, command: WriteCommand) -> TxnError:
        """Run a command that fails on one key, and changes nothing; return why."""
        before = self.dump()
        result = self.run(command)
        assert isinstance(result, Failure), result
        assert self.dump() == before
        assert str(result.errors[0])
        (error,) = result.errors
        return error

    def dump(self) -> list[tuple[str, bytes, bytes]]:
        families = (ColumnFamily.DEFAULT, ColumnFamily.LOCK, ColumnFamily.WRITE)
        return [(cf, key, value) for cf in families for key, value in self.engine.scan(cf, b"", None)]

    # --- the usual commands -------------------------------------------------------------------------------------

    def prewrite(self, start_ts: int, *mutations: Mutation, primary: bytes | None = None, **more: object) -> Prewrite:
        fields: dict[str, object] = {"lock_ttl_ms": 3000, **more}
        first = mutations[0].key if mutations else b""
        return Prewrite(mutations=mutations, primary=primary or first, start_ts=start_ts, **fields)  # type: ignore[arg-type]

    def commit(self, start_ts: int, commit_ts: int, *keys: bytes) -> Commit:
        return Commit(keys=keys, start_ts=start_ts, commit_ts=commit_ts)

    def rollback(self, start_ts: int, *keys: bytes) -> BatchRollback:
        return BatchRollback(keys=keys, start_ts=start_ts)

    def cleanup(self, start_ts: int, key: bytes, current_ts: int = 0) -> Cleanup:
        return Cleanup(key=key, start_ts=start_ts, current_ts=current_ts)

    def check(self, start_ts: int, primary: bytes, **more: object) -> CheckTxnStatus:
        return CheckTxnStatus(primary=primary, lock_ts=start_ts, **more)  # type: ignore[arg-type]

    def secondaries(self, start_ts: int, *keys: bytes) -> CheckSecondaryLocks:
        return CheckSecondaryLocks(keys=keys, start_ts=start_ts)

    def resolve(self, statuses: dict[int, int], *keys: bytes) -> ResolveLock:
        return ResolveLock(statuses=statuses, keys=keys)  # type: ignore[arg-type]

    def pessimistic(self, start_ts: int, for_update_ts: int, *keys: bytes, **more: object) -> PessimisticLock:
        fields: dict[str, object] = {"lock_ttl_ms": 3000, "primary": keys[0], **more}
        requests = tuple(LockRequest(key, bool(fields.get("should_not_exist"))) for key in keys)
        fields.pop("should_not_exist", None)
        return PessimisticLock(keys=requests, start_ts=start_ts, for_update_ts=for_update_ts, **fields)  # type: ignore[arg-type]

    def pessimistic_rollback(self, start_ts: int, for_update_ts: int, *keys: bytes) -> PessimisticRollback:
        return PessimisticRollback(keys=keys, start_ts=start_ts, for_update_ts=for_update_ts)

    def write(self, start_ts: int, commit_ts: int, *mutations: Mutation) -> None:
        """Run a whole transaction."""
        self.must(self.prewrite(start_ts, *mutations))
        self.must(self.commit(start_ts, commit_ts, *(mutation.key for mutation in mutations)))

    def collect(self, safe_point: int, **more: int) -> int:
        """Collect garbage, and return how many records went."""
        self.safe_point = max(self.safe_point, safe_point)
        deleted = 0
        for part in collect(self.engine, Gc(safe_point=safe_point), **more):  # type: ignore[arg-type]
            self.apply(Evaluation(Failure(()), part.changes))
            deleted += part.deleted
        return deleted

    # --- reads --------------------------------------------------------------------------------------------------

    @contextmanager
    def reader(self) -> Iterator[MvccReader]:
        reader = MvccReader(self.engine, safe_point=self.safe_point)  # type: ignore[arg-type]
        yield reader
        reader.close()

    def get(self, key: bytes, version: int = MAX_TIMESTAMP, **view: object) -> bytes | None:
        """Read a key as a server does. Raises TxnErrorRaised."""
        at = ReadView(version, **view)  # type: ignore[arg-type]
        self.manager.note_read(at.version)
        blocked = self.manager.blocks(key, at)
        assert blocked is None, blocked
        with self.reader() as reader:
            return reader.get(key, at).value

    def scan(self, version: int = MAX_TIMESTAMP, **more: object) -> list[Pair]:
        fields: dict[str, object] = {"limit": 1000, **more}
        fields["view"] = ReadView(version, **fields.pop("view", {}))  # type: ignore[arg-type]
        return list(scan(self.engine, Scan(**fields), safe_point=self.safe_point))  # type: ignore[arg-type]

    def lock(self, key: bytes) -> Lock | None:
        return mvcc_by_key(self.engine, key).lock

    def writes(self, key: bytes) -> list[tuple[int, Write]]:
        return list(mvcc_by_key(self.engine, key).writes)

    def kinds(self, key: bytes) -> list[str]:
        """Return the commit records of a key in short: `["20 PUT", "10 ROLLBACK"]`."""
        return [f"{commit_ts} {write.kind.name}" for commit_ts, write in self.writes(key)]
