"""Clients that run transactions against one store, with messages that come late, twice or never, and clients that vanish.

Everything is one sequence of steps drawn from one seed. At the end all locks are resolved, and the history judges itself:

1. a transaction is committed at all of its keys at one timestamp, or at none;
2. what a client was told of its transaction is true;
3. whatever was read at a timestamp, at any time, is what the transactions committed at or below it have written;
4. no two committed transactions of which each began before the other's commit have written the same key.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random

import msgspec
from tests.transaction.txn_store import LONG, TxnStore

from pytinykv.transaction import Failure, ReadView, TxnErrorRaised
from pytinykv.transaction.commands import (
    LockRequest,
    Mutation,
    MutationOp,
    PessimisticAction,
    PessimisticLock,
    Prewrite,
    WriteCommand,
)
from pytinykv.transaction.errors import CommitTsExpired, KeyIsLocked, TxnError, WriteConflict
from pytinykv.transaction.history import mvcc_by_key
from pytinykv.transaction.pessimistic import after_waiting
from pytinykv.transaction.records import Lock, WriteKind
from pytinykv.transaction.results import PrewriteResult, Result, SecondaryLocks, TxnStatus
from pytinykv.wire.timestamp import MAX_TIMESTAMP

KEYS = [b"a", b"b", b"c", b"long-key-that-takes-two-groups"]
TTL_MS = 25
"""In steps: each timestamp is a millisecond after the one before."""
DELIVERIES_MAX = 3000
"""More than any history needs to come to its end."""
OPS = [MutationOp.PUT, MutationOp.PUT, MutationOp.DELETE, MutationOp.LOCK, MutationOp.INSERT]


@dataclass
class Txn:
    """One transaction, as its client sees it."""

    start_ts: int
    mutations: list[Mutation]
    mode: str
    """two-phase, async, one-phase; pessimistic ones use any."""
    is_pessimistic: bool
    for_update_ts: int = 0
    to_do: list[bytes] = field(default_factory=list)
    """Keys whose lock or prewrite is not answered yet."""
    state: str = "new"
    """new → locking → prewriting → committing → committed; or rolled back, or vanished."""
    commit_ts: int = 0
    chosen_ts: int = 0
    is_two_phase: bool = False

    @property
    def primary(self) -> bytes:
        return self.mutations[0].key

    @property
    def is_over(self) -> bool:
        return self.state in ("committed", "rolled back", "vanished")


def ignore(result: Result) -> None:
    """Take an answer that nobody waits for."""


class Violation(AssertionError):
    """The history broke a promise."""


class World:
    """A store, its clients, and what is on its way between them."""

    def __init__(self, seed: int, store: TxnStore | None = None) -> None:
        self.rng = Random(seed)
        self.store = store or TxnStore()
        self.now_ms = 1000
        self.is_latched = False
        """A command is evaluated and not applied yet."""
        self.txns: list[Txn] = []
        self.messages: list[tuple[WriteCommand, Callable[[Result], None]]] = []
        self.reads: list[tuple[bytes, int, bytes | None]] = []
        self.seen: dict[int, dict[bytes, int]] = {}
        """Commit records: start_ts → key → commit_ts."""
        self.steps: dict[Callable[[], None], int] = {
            self.begin: 12,
            self.deliver: 60,
            self.read: 14,
            self.scan: 4,
            self.vanish: 1,
            self.meddle: 5,
            self.collect: 1,
        }

    def tso(self) -> int:
        self.now_ms += 1
        return self.now_ms << 18

    def run(self, count: int) -> None:
        """Take so many steps, let everything come to its end, and judge."""
        steps, weights = list(self.steps), list(self.steps.values())
        for _ in range(count):
            self.rng.choices(steps, weights)[0]()
        self.steps.clear()
        self.deliver_all()
        self.now_ms += 10 * TTL_MS
        for key in KEYS:
            for _ in range(5):
                self.resolve_at(key, MAX_TIMESTAMP)
        self.judge()

    # --- messages -----------------------------------------------------------------------------------------------

    def send(self, command: WriteCommand, on_answer: Callable[[Result], None] | None = None) -> None:
        self.messages.append((command, on_answer or ignore))

    def deliver(self) -> None:
        """Let some message arrive; perhaps not for the last time, perhaps too late for its client."""
        if not self.messages:
            return
        self.now_ms += not self.steps  # in the end what does not answer expires
        at = self.rng.randrange(len(self.messages))
        command, on_answer = self.messages.pop(at)
        if self.steps and self.rng.random() < 0.15:
            self.messages.append((command, ignore))
        evaluation = self.store.evaluate(command)
        if self.rng.random() < 0.3:
            # Readers come between evaluation and application; writers would have to wait for latches.
            self.is_latched = True
            self.read()
            self.is_latched = False
        result = self.store.apply(evaluation)
        if self.steps and self.rng.random() < 0.05:
            self.send(command, on_answer)  # the answer was lost: the client repeats
        else:
            on_answer(result)

    def deliver_all(self) -> None:
        for _ in range(DELIVERIES_MAX):
            if not self.messages:
                return
            self.deliver()
        raise Violation(f"it comes to no end: {self.messages[:3]}")

    # --- clients ------------------------------------------------------------------------------------------------

    def begin(self) -> None:
        rng = self.rng
        keys = rng.sample(KEYS, rng.randint(1, 3))
        start_ts = self.tso()
        is_pessimistic = rng.random() < 0.4
        action = PessimisticAction.CHECK_LOCK if is_pessimistic else PessimisticAction.SKIP_CHECK
        mutations = []
        for key in keys:
            op = rng.choice(OPS)
            value = b"%d %b" % (start_ts, key) + (LONG if rng.random() < 0.2 else b"")
            is_put = op in (MutationOp.PUT, MutationOp.INSERT)
            mutations.append(Mutation(op, key, value if is_put else b"", action=action))
        mode = rng.choice(["two-phase", "async", "one-phase"])
        txn = Txn(start_ts, mutations, mode, is_pessimistic, to_do=list(keys))
        self.txns.append(txn)
        if is_pessimistic:
            txn.state = "locking"
            self.lock_keys(txn)
        else:
            self.prewrite(txn)

    def lock_keys(self, txn: Txn) -> None:
        txn.for_update_ts = self.tso()
        for mutation in txn.mutations:
            command = PessimisticLock(
                keys=(LockRequest(mutation.key, mutation.op is MutationOp.INSERT),),
                primary=txn.primary,
                start_ts=txn.start_ts,  # type: ignore[arg-type]
                for_update_ts=txn.for_update_ts,  # type: ignore[arg-type]
                lock_ttl_ms=TTL_MS,
                min_commit_ts=txn.for_update_ts + 1,  # type: ignore[arg-type]
                return_values=self.rng.random() < 0.3,
            )
            self.send(command, lambda result, command=command: self.on_locked(txn, command, result))  # type: ignore[misc]

    def on_locked(self, txn: Txn, command: PessimisticLock, result: Result) -> None:
        if txn.state != "locking":
            return
        key = command.keys[0].key
        if not isinstance(result, Failure):
            if key in txn.to_do:
                txn.to_do.remove(key)
            if not txn.to_do:
                self.prewrite(txn)
            return
        error = result.errors[0]
        if isinstance(error, KeyIsLocked):
            self.resolve(error.key, error.lock)
            again = after_waiting(command, 2)
            self.send(again, lambda later: self.on_locked(txn, command, later))
        elif isinstance(error, WriteConflict) and self.rng.random() < 0.7:
            txn.for_update_ts = self.tso()
            self.lock_again(txn, command)
        else:
            self.roll_back(txn)

    def lock_again(self, txn: Txn, command: PessimisticLock) -> None:
        newer = msgspec.structs.replace(command, for_update_ts=txn.for_update_ts)
        self.send(newer, lambda later: self.on_locked(txn, newer, later))

    def prewrite(self, txn: Txn) -> None:
        txn.state = "prewriting"
        txn.to_do = [mutation.key for mutation in txn.mutations]
        groups = [tuple(txn.mutations)] if txn.mode == "one-phase" else [(mutation,) for mutation in txn.mutations]
        for group in groups:
            command = self.prewrite_command(txn, group)
            self.send(command, lambda result, command=command: self.on_prewritten(txn, command, result))  # type: ignore[misc]

    def prewrite_command(self, txn: Txn, group: tuple[Mutation, ...]) -> Prewrite:
        others = tuple(mutation.key for mutation in txn.mutations[1:])
        has_primary = any(mutation.key == txn.primary for mutation in group)
        latest = self.tso() if txn.mode != "two-phase" else 0
        command = Prewrite(
            mutations=group,
            primary=txn.primary,
            start_ts=txn.start_ts,  # type: ignore[arg-type]
            lock_ttl_ms=TTL_MS,
            for_update_ts=txn.for_update_ts,  # type: ignore[arg-type]
            min_commit_ts=max(txn.start_ts, txn.for_update_ts, latest) + 1,  # type: ignore[arg-type]
            secondaries=(others if has_primary else ()) if txn.mode == "async" else None,
            try_one_pc=txn.mode == "one-phase",
            max_commit_ts=txn.start_ts + (self.rng.choice([20, 2000]) << 18),  # type: ignore[arg-type]
        )
        return command.as_two_phase() if self.rng.random() < 0.1 else command

    def on_prewritten(self, txn: Txn, command: Prewrite, result: Result) -> None:
        if txn.state != "prewriting":
            return
        if isinstance(result, Failure):
            error = result.errors[0]
            if isinstance(error, KeyIsLocked) and self.rng.random() < 0.9:
                self.resolve(error.key, error.lock)
                self.send(command, lambda later: self.on_prewritten(txn, command, later))
            else:
                self.roll_back(txn)
            return
        assert isinstance(result, PrewriteResult)
        if result.one_pc_commit_ts:
            txn.state, txn.commit_ts = "committed", result.one_pc_commit_ts
            return
        txn.chosen_ts = max(txn.chosen_ts, result.min_commit_ts)
        txn.is_two_phase = txn.is_two_phase or not result.min_commit_ts
        for mutation in command.mutations:
            if mutation.key in txn.to_do:
                txn.to_do.remove(mutation.key)
        if not txn.to_do:
            self.commit(txn)

    def commit(self, txn: Txn) -> None:
        if not txn.is_two_phase and txn.mode == "async":
            txn.state, txn.commit_ts = "committed", txn.chosen_ts
            self.send(self.store.commit(txn.start_ts, txn.commit_ts, *(m.key for m in txn.mutations)))
            return
        txn.state = "committing"
        commit_ts = self.tso()
        command = self.store.commit(txn.start_ts, commit_ts, txn.primary)
        self.send(command, lambda result: self.on_primary_committed(txn, commit_ts, result))

    def on_primary_committed(self, txn: Txn, commit_ts: int, result: Result) -> None:
        if txn.state != "committing":
            return
        if not isinstance(result, Failure):
            txn.state, txn.commit_ts = "committed", result.commit_ts  # type: ignore[union-attr]
            for mutation in txn.mutations[1:]:
                if self.rng.random() < 0.8:
                    self.send(self.store.commit(txn.start_ts, txn.commit_ts, mutation.key))
        elif isinstance(result.errors[0], CommitTsExpired):
            self.commit(txn)
        else:
            self.roll_back(txn)

    def roll_back(self, txn: Txn) -> None:
        """Give a transaction up. It is rolled back once that is answered: an earlier message may commit it before."""
        txn.state = "vanished"
        keys = [mutation.key for mutation in txn.mutations]
        if txn.is_pessimistic and self.rng.random() < 0.3:
            self.send(self.store.pessimistic_rollback(txn.start_ts, txn.for_update_ts, *keys))
        self.send(self.store.rollback(txn.start_ts, *keys), lambda result: self.on_rolled_back(txn, result))

    def on_rolled_back(self, txn: Txn, result: Result) -> None:
        if not isinstance(result, Failure):
            txn.state = "rolled back"

    def vanish(self) -> None:
        living = [txn for txn in self.txns if not txn.is_over]
        if living:
            self.rng.choice(living).state = "vanished"

    # --- readers ------------------------------------------------------------------------------------------------

    def view(self) -> ReadView:
        if self.rng.random() < 0.2:
            return ReadView()
        version = max(self.store.safe_point, (self.now_ms - self.rng.choice([0, 0, 1, 5, 20])) << 18)
        return ReadView(version)  # type: ignore[arg-type]

    def read(self) -> None:
        self.read_key(self.rng.choice(KEYS), self.view())

    def read_key(self, key: bytes, view: ReadView) -> None:
        store = self.store
        store.manager.note_read(view.version)
        error = store.manager.blocks(key, view)
        if error is None:
            try:
                with store.reader() as reader:
                    value = reader.get(key, view).value
                if view.version != MAX_TIMESTAMP:
                    self.reads.append((key, view.version, value))
                return
            except TxnErrorRaised as raised:
                error = raised.error
        self.on_blocked(error, view)

    def scan(self) -> None:
        view = self.view()
        self.store.manager.note_read(view.version)
        if self.store.manager.blocks_range(b"", b"", view) is not None or view.version == MAX_TIMESTAMP:
            return
        rows = {row.key: row for row in self.store.scan(view.version, reverse=self.rng.random() < 0.5)}
        for key in KEYS:
            row = rows.get(key)
            if row is None or row.error is None:
                self.reads.append((key, view.version, None if row is None else row.value))

    def on_blocked(self, error: TxnError, view: ReadView) -> None:
        assert isinstance(error, KeyIsLocked), error
        lock = error.lock
        if self.is_latched:
            return
        status = self.status(lock, caller=view.version)
        if isinstance(status, TxnStatus) and status.action.name == "MIN_COMMIT_TS_PUSHED":
            passing = ReadView(view.version, resolved_locks=frozenset({lock.start_ts}))
            self.read_key(error.key, passing) if self.rng.random() < 0.9 else None
        else:
            self.resolve(error.key, lock)

    # --- resolving ----------------------------------------------------------------------------------------------

    def status(self, lock: Lock, *, caller: int = 0, now: int = 0, **more: object) -> Result:
        now = now or self.now_ms << 18
        command = self.store.check(
            lock.start_ts,
            lock.primary,
            caller_start_ts=caller,
            current_ts=now,
            rollback_if_not_exist=lock.is_expired(now),  # type: ignore[arg-type]
            resolving_pessimistic_lock=lock.is_pessimistic,
            verify_is_primary=True,
            **more,
        )
        return self.store.run(command)

    def resolve(self, key: bytes, lock: Lock, now: int = 0) -> None:
        """Find out what became of a transaction, and have its lock resolved, at once or some time."""
        status = self.status(lock, now=now)
        if not isinstance(status, TxnStatus):
            return
        commit_ts = status.commit_ts
        if status.lock is not None:
            primary = status.lock.lock
            if not primary.use_async_commit or not primary.is_expired(now or self.now_ms << 18):  # type: ignore[arg-type]
                return
            secondaries = self.store.run(self.store.secondaries(lock.start_ts, *primary.secondaries))
            assert isinstance(secondaries, SecondaryLocks)
            if len(secondaries.locks) == len(primary.secondaries):
                locks = [primary, *(info.lock for info in secondaries.locks)]
                if not all(each.use_async_commit for each in locks):
                    self.status(lock, now=now, force_sync_commit=True)
                    return
                commit_ts = max(each.min_commit_ts for each in locks)  # type: ignore[type-var]
            else:
                commit_ts = secondaries.commit_ts
            if primary.secondaries or commit_ts:
                self.send(self.store.resolve({lock.start_ts: commit_ts}, lock.primary, *primary.secondaries))
        if lock.is_pessimistic and not commit_ts:
            command: WriteCommand = self.store.pessimistic_rollback(lock.start_ts, lock.for_update_ts, key)
        else:
            command = self.store.resolve({lock.start_ts: commit_ts}, key)
        if self.rng.random() < 0.5 or not self.steps:
            self.store.run(command)
        else:
            self.send(command)

    def meddle(self) -> None:
        """Look at some lock, as a reader would whose message took long."""
        self.resolve_at(self.rng.choice(KEYS), 0)

    def resolve_at(self, key: bytes, now: int) -> None:
        lock = mvcc_by_key(self.store.engine, key).lock
        if lock is not None:
            self.resolve(key, lock, now)
        if not self.steps:
            self.deliver_all()

    def collect(self) -> None:
        """Collect garbage below every transaction that runs, as the cluster does: locks down there are resolved first."""
        oldest = min((txn.start_ts for txn in self.txns if not txn.is_over), default=self.now_ms << 18)
        safe_point = min(oldest - 1, (self.now_ms - 30) << 18)
        for key in KEYS:
            lock = mvcc_by_key(self.store.engine, key).lock
            if lock is not None and lock.start_ts <= safe_point:
                return
        if safe_point > self.store.safe_point:
            self.look()
            self.store.collect(safe_point)

    # --- judging ------------------------------------------------------------------------------------------------

    def judge(self) -> None:
        committed = self.committed()
        self.judge_reads(committed)
        self.judge_conflicts(committed)

    def look(self) -> None:
        """Take note of all commit records, before garbage collection takes some, and in the end."""
        for key in KEYS:
            for commit_ts, write in mvcc_by_key(self.store.engine, key).writes:
                if write.kind is not WriteKind.ROLLBACK:
                    self.seen.setdefault(write.start_ts, {})[key] = commit_ts

    def committed(self) -> dict[int, int]:
        """Return commit_ts by start_ts."""
        self.look()
        found: dict[int, int] = {}
        for key in KEYS:
            lock = mvcc_by_key(self.store.engine, key).lock
            if lock is not None:
                raise Violation(f"{key!r} is still locked: {lock}")
        for txn in self.txns:
            keys = self.seen.get(txn.start_ts, {})
            if keys and (len(keys) != len(txn.mutations) or len(set(keys.values())) != 1):
                raise Violation(f"{txn} is committed in part: {keys}")
            commit_ts = next(iter(keys.values()), 0)
            if (txn.state == "committed" and commit_ts != txn.commit_ts) or (txn.state == "rolled back" and keys):
                raise Violation(f"{txn} is not as its client was told, but committed at {commit_ts}")
            if keys:
                found[txn.start_ts] = commit_ts
        return found

    def judge_reads(self, committed: dict[int, int]) -> None:
        versions: dict[bytes, list[tuple[int, int, bytes | None]]] = {key: [] for key in KEYS}
        for txn in self.txns:
            commit_ts = committed.get(txn.start_ts)
            for mutation in txn.mutations if commit_ts else ():
                if mutation.op is not MutationOp.LOCK:
                    is_delete = mutation.op is MutationOp.DELETE
                    assert commit_ts
                    versions[mutation.key].append((commit_ts, txn.start_ts, None if is_delete else mutation.value))
        for key, version, seen in self.reads:
            expected = max(
                (at for at in versions[key] if at[0] <= version), key=lambda at: at[:2], default=(0, 0, None)
            )
            if seen != expected[2]:
                raise Violation(f"a read of {key!r} at {version} saw {seen!r}, which was {expected} in the end")

    def judge_conflicts(self, committed: dict[int, int]) -> None:
        for key in KEYS:
            spans = sorted(
                (max(txn.start_ts, txn.for_update_ts), committed[txn.start_ts])
                for txn in self.txns
                if txn.start_ts in committed and any(mutation.key == key for mutation in txn.mutations)
            )
            for (_, first_end), (second_start, _) in itertools.pairwise(spans):
                if second_start < first_end:
                    raise Violation(f"an update of {key!r} is lost: {spans}")
