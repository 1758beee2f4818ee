"""The transactional operations as commands: what to write into a frame, what to read from the reply.

Keys travel plain; their memcomparable forms only find the region. Reads raise `KeysLockedError` for the resolver. Writes say
which transaction they belong to, so all of them may be repeated; what a prewrite or a lock request met is its result, and not
an error, because the other batches of the same call are needed too.

    reads       TxnGet  TxnBatchGet  TxnScan
    commit      Prewrite  CommitPrimary  CommitKeys  Rollback
    pessimistic LockKeys  UnlockKeys  HeartBeat
    resolving   CheckStatus  CheckSecondaries  ResolveKeys  ResolveRegion  ScanLocks
    looking     MvccOfKey
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from pytinykv.client.commands import BatchCommand, Command, Effect, FramedRequest, PagedScan, Pair, RangeCommand
from pytinykv.client.errors import ServerError, TransactionError, TransactionRefusedError
from pytinykv.client.key_space import MEMCOMPARABLE, KeyRange
from pytinykv.client.route import Route
from pytinykv.client.txn.key_errors import KeysLockedError, error_of, locked
from pytinykv.client.txn.records import PESSIMISTIC_LOCK, Lock, Mutation, ReadView, Txn
from pytinykv.wire.encoding import field_tag, varint
from pytinykv.wire.keys import KeyCodecError
from pytinykv.wire.pb import kvrpcpb_pb2

_KEY = field_tag(kvrpcpb_pb2.GetRequest, "key")
_VERSION = bytes([kvrpcpb_pb2.GetRequest.DESCRIPTOR.fields_by_name["version"].number << 3])
"""The tag of a varint field."""


# --- reads -------------------------------------------------------------------------------------------------------


class TxnGet(Command[bytes | None]):
    """The value of a key at a snapshot, None if there is none."""

    __slots__ = ("view",)
    field = "Get"
    tag = field_tag(FramedRequest, field)
    verb = "get"
    space = MEMCOMPARABLE

    def __init__(self, key: bytes, view: ReadView) -> None:
        self.key = key
        self.view = view

    def encode(self, route: Route) -> bytes:
        if self.view.passed or self.view.committed:
            return super().encode(route)
        key = self.key
        return b"".join((route.context_field, _KEY, varint(len(key)), key, _VERSION, varint(self.view.ts)))

    def request(self, route: Route) -> kvrpcpb_pb2.GetRequest:
        request = kvrpcpb_pb2.GetRequest(context=route.context, key=self.key, version=self.view.ts)
        self.view.fill(request.context)
        return request

    def decode(self, reply: kvrpcpb_pb2.GetResponse) -> bytes | None:
        if reply.HasField("error"):
            raise error_of(reply.error, self.describe())
        return None if reply.not_found else reply.value


class TxnBatchGet(BatchCommand[bytes, list[Pair]]):
    """The pairs of those keys that exist at a snapshot."""

    __slots__ = ("view",)
    field = "BatchGet"
    tag = field_tag(FramedRequest, field)
    pairs_field = "pairs"
    verb = "get_many"
    space = MEMCOMPARABLE

    def __init__(self, items: Sequence[bytes], view: ReadView) -> None:
        self.key = items[0]
        self.items = items
        self.view = view

    def request(self, route: Route) -> kvrpcpb_pb2.BatchGetRequest:
        request = kvrpcpb_pb2.BatchGetRequest(context=route.context, keys=self.items, version=self.view.ts)
        self.view.fill(request.context)
        return request

    def decode(self, reply: kvrpcpb_pb2.BatchGetResponse) -> list[Pair]:
        return _pairs(self, reply)


class TxnScan(PagedScan):
    """A page of a range at a snapshot."""

    __slots__ = ("view",)
    field = "Scan"
    tag = field_tag(FramedRequest, field)
    pairs_field = "pairs"
    space = MEMCOMPARABLE

    def __init__(self, range_: KeyRange, view: ReadView, *, limit: int, reverse: bool, key_only: bool) -> None:
        super().__init__(range_, limit=limit, reverse=reverse, key_only=key_only)
        self.view = view

    def request(self, route: Route) -> kvrpcpb_pb2.ScanRequest:
        start, end = _encoded_ends(self, route)
        request = kvrpcpb_pb2.ScanRequest(
            context=route.context,
            start_key=start,
            end_key=end,
            limit=self.limit,
            version=self.view.ts,
            key_only=self.key_only,
            reverse=self.reverse,
        )
        self.view.fill(request.context)
        return request

    def decode(self, reply: kvrpcpb_pb2.ScanResponse) -> list[Pair]:
        return _pairs(self, reply)


def _encoded_ends(command: PagedScan, route: Route) -> tuple[bytes, bytes]:
    try:
        return command._ends(route)  # noqa: SLF001 - of the base class
    except KeyCodecError as error:
        raise plain_boundary(command, route, error) from error


def plain_boundary(command: Command[Any], route: Route, error: object) -> TransactionRefusedError:
    """Return the error for a region whose boundary no transactional client can read."""
    return TransactionRefusedError(
        f"{command.describe()}: the boundaries of {route!r} were made for raw data ({error}). Transactions need a cluster "
        "that had no plain boundary when they came to it: use one of their own"
    )


def _pairs(command: Command[Any], reply: Any) -> list[Pair]:
    """Return the pairs of a reply. Raises for locks and other errors that it carries, of all pairs together."""
    if reply.HasField("error"):
        raise error_of(reply.error, command.describe())
    result: list[Pair] = []
    locks: list[Lock] = []
    for pair in reply.pairs:
        if not pair.HasField("error"):
            result.append((pair.key, pair.value))
        elif pair.error.HasField("locked"):
            locks.append(Lock.from_pb(pair.error.locked))
        else:
            raise error_of(pair.error, command.describe())
    if locks:
        raise locked(locks)
    return result


# --- commit ------------------------------------------------------------------------------------------------------


class PrewritePlan:
    """What all prewrites of one commit have in common. Mutable: an asynchronous commit may be given up on the way."""

    __slots__ = (
        "lock_ttl_ms",
        "min_commit_ts",
        "mutations_count",
        "primary",
        "requested",
        "secondaries",
        "try_one_phase",
        "txn",
        "use_async_commit",
        "was_repeated",
    )

    def __init__(self, txn: Txn, primary: bytes, mutations_count: int, lock_ttl_ms: int) -> None:
        self.txn = txn
        self.primary = primary
        self.mutations_count = mutations_count
        """All of the transaction: one command with so many may commit it in one phase."""
        self.lock_ttl_ms = lock_ttl_ms
        self.min_commit_ts = 0
        self.secondaries: Sequence[bytes] = ()
        self.use_async_commit = False
        self.try_one_phase = False
        self.requested: set[bytes] = set()
        """The keys that were sent before."""
        self.was_repeated = False
        """Whether any was sent twice: the first attempt may have been executed, so an error need not be the whole truth."""


class Prewritten(NamedTuple):
    """What became of the prewrite of one batch."""

    mutations: Sequence[Mutation]
    locks: Sequence[Lock] = ()
    """Locks in the way; nothing was written then."""
    error: TransactionError | None = None
    """Why it can't be, if it can't."""
    min_commit_ts: int = 0
    """Of an asynchronous commit; 0 if the store wrote plain locks instead."""
    one_phase_commit_ts: int = 0
    """When the batch was committed already, in one phase."""


class Prewrite(BatchCommand[Mutation, Prewritten]):
    """Lock keys and store what they are to become."""

    __slots__ = ("plan",)
    field = "Prewrite"
    tag = field_tag(FramedRequest, field)
    verb = "prewrite"
    effect = Effect.IDEMPOTENT
    space = MEMCOMPARABLE

    def __init__(self, items: Sequence[Mutation], plan: PrewritePlan) -> None:
        self.key = items[0].key
        self.items = items
        self.plan = plan

    def request(self, route: Route) -> kvrpcpb_pb2.PrewriteRequest:
        plan, txn, items = self.plan, self.plan.txn, self.items
        request = kvrpcpb_pb2.PrewriteRequest(
            context=route.context,
            primary_lock=plan.primary,
            start_version=txn.start_ts,
            lock_ttl=plan.lock_ttl_ms,
            txn_size=plan.mutations_count,
            for_update_ts=txn.for_update_ts,
            min_commit_ts=plan.min_commit_ts,
            use_async_commit=plan.use_async_commit,
            try_one_pc=plan.try_one_phase and len(items) == plan.mutations_count,
        )
        add = request.mutations.add
        requested = plan.requested
        repeated = False
        for key, op, value in items:
            add(op=op, key=key, value=value)
            repeated = repeated or key in requested
            requested.add(key)
            if plan.use_async_commit and key == plan.primary:
                request.secondaries.extend(plan.secondaries)
        if repeated:
            plan.was_repeated = request.context.is_retry_request = True
        if txn.is_pessimistic:
            request.pessimistic_actions.extend(
                kvrpcpb_pb2.PrewriteRequest.DO_PESSIMISTIC_CHECK
                if item.key in txn.locked
                else kvrpcpb_pb2.PrewriteRequest.SKIP_PESSIMISTIC_CHECK
                for item in items
            )
        return request

    def decode(self, reply: kvrpcpb_pb2.PrewriteResponse) -> Prewritten:
        locks, error = _met(reply.errors, self.describe())
        return Prewritten(self.items, locks, error, reply.min_commit_ts, reply.one_pc_commit_ts)


def _met(errors: Any, what: str) -> tuple[list[Lock], TransactionError | None]:
    """Return the locks among key errors, and the first of the other errors."""
    locks: list[Lock] = []
    first: TransactionError | None = None
    for each in errors:
        error = error_of(each, what)
        if isinstance(error, KeysLockedError):
            locks += error.locks
        elif first is None:
            first = error
    return locks, first


class CommitPrimary(Command[int]):
    """Commit the primary, and with it those other keys of the transaction that lie in its region: the moment that decides.

    One command, never cut: a secondary must not be committed before the primary is.
    """

    __slots__ = ("commit_ts", "covered", "others", "start_ts")
    field = "Commit"
    tag = field_tag(FramedRequest, field)
    verb = "commit"
    effect = Effect.IDEMPOTENT
    space = MEMCOMPARABLE

    def __init__(self, primary: bytes, others: Sequence[bytes], start_ts: int, commit_ts: int) -> None:
        self.key = primary
        self.others = others
        self.start_ts = start_ts
        self.commit_ts = commit_ts
        self.covered: list[bytes] = []
        """The keys of the latest attempt."""

    def request(self, route: Route) -> kvrpcpb_pb2.CommitRequest:
        to_bound = self.space.to_bound
        self.covered = [self.key, *(key for key in self.others if route.contains(to_bound(key)))]
        return kvrpcpb_pb2.CommitRequest(
            context=route.context,
            start_version=self.start_ts,
            keys=self.covered,
            commit_version=self.commit_ts,
            primary_key=self.key,
        )

    def decode(self, reply: kvrpcpb_pb2.CommitResponse) -> int:
        if reply.HasField("error"):
            raise error_of(reply.error, self.describe())
        return reply.commit_version or self.commit_ts


class KeysCommand(BatchCommand[bytes, None]):
    """A write to keys of one transaction that says nothing but that it is done."""

    __slots__ = ("start_ts",)
    effect = Effect.IDEMPOTENT
    space = MEMCOMPARABLE

    def __init__(self, items: Sequence[bytes], start_ts: int) -> None:
        self.key = items[0]
        self.items = items
        self.start_ts = start_ts

    def decode(self, reply: Any) -> None:
        _refuse_errors(reply, self.describe())


def _refuse_errors(reply: Any, what: str) -> None:
    """Raise the error of a reply, of whichever shape: one field, or several."""
    if "errors" in reply.DESCRIPTOR.fields_by_name:
        for error in reply.errors:
            raise error_of(error, what)
    elif reply.HasField("error"):
        raise error_of(reply.error, what)


class CommitKeys(KeysCommand):
    """Commit keys of a transaction that is committed."""

    __slots__ = ("commit_ts",)
    field = "Commit"
    tag = field_tag(FramedRequest, field)
    verb = "commit"

    def __init__(self, items: Sequence[bytes], start_ts: int, commit_ts: int) -> None:
        super().__init__(items, start_ts)
        self.commit_ts = commit_ts

    def request(self, route: Route) -> kvrpcpb_pb2.CommitRequest:
        return kvrpcpb_pb2.CommitRequest(
            context=route.context, start_version=self.start_ts, keys=self.items, commit_version=self.commit_ts
        )


class Rollback(KeysCommand):
    """Remove what a transaction has written to keys, and bar it from writing them later."""

    __slots__ = ()
    field = "BatchRollback"
    tag = field_tag(FramedRequest, field)
    verb = "rollback"

    def request(self, route: Route) -> kvrpcpb_pb2.BatchRollbackRequest:
        return kvrpcpb_pb2.BatchRollbackRequest(context=route.context, start_version=self.start_ts, keys=self.items)


# --- pessimistic locks -------------------------------------------------------------------------------------------


class LockCall(NamedTuple):
    """What all lock requests of one call have in common."""

    txn: Txn
    primary: bytes
    for_update_ts: int
    lock_ttl_ms: int
    wait_ms: int
    """How long a store lets the request wait for a lock, in milliseconds; negative for not at all."""
    must_not_exist: bool
    return_values: bool


class Locked(NamedTuple):
    """What became of the lock request of one batch."""

    keys: Sequence[bytes]
    values: Sequence[bytes | None] = ()
    """The newest values of the keys, if they were asked for."""
    locks: Sequence[Lock] = ()
    error: TransactionError | None = None


class LockKeys(BatchCommand[bytes, Locked]):
    """Take pessimistic locks."""

    __slots__ = ("call",)
    field = "PessimisticLock"
    tag = field_tag(FramedRequest, field)
    verb = "lock"
    effect = Effect.IDEMPOTENT
    space = MEMCOMPARABLE

    def __init__(self, items: Sequence[bytes], call: LockCall) -> None:
        self.key = items[0]
        self.items = items
        self.call = call

    def request(self, route: Route) -> kvrpcpb_pb2.PessimisticLockRequest:
        call = self.call
        assertion = kvrpcpb_pb2.NotExist if call.must_not_exist else getattr(kvrpcpb_pb2, "None")
        return kvrpcpb_pb2.PessimisticLockRequest(
            context=route.context,
            mutations=[
                kvrpcpb_pb2.Mutation(op=PESSIMISTIC_LOCK, key=key, assertion=assertion) for key in self.items
            ],
            primary_lock=call.primary,
            start_version=call.txn.start_ts,
            lock_ttl=call.lock_ttl_ms,
            for_update_ts=call.for_update_ts,
            min_commit_ts=call.for_update_ts + 1,
            is_first_lock=not call.txn.locked and len(self.items) == 1,
            wait_timeout=call.wait_ms,
            return_values=call.return_values,
        )

    def decode(self, reply: kvrpcpb_pb2.PessimisticLockResponse) -> Locked:
        locks, error = _met(reply.errors, self.describe())
        if locks or error is not None or not self.call.return_values:
            return Locked(self.items, (), locks, error)
        if len(reply.values) != len(self.items):
            raise ServerError(f"{self.describe()}: {len(reply.values)} values came back for {len(self.items)} keys")
        not_founds = reply.not_founds or [not value for value in reply.values]
        values = [None if absent else value for value, absent in zip(reply.values, not_founds, strict=True)]
        return Locked(self.items, values)


class UnlockKeys(KeysCommand):
    """Release pessimistic locks."""

    __slots__ = ("for_update_ts",)
    field = "PessimisticRollback"
    tag = field_tag(FramedRequest, field)
    verb = "unlock"

    def __init__(self, items: Sequence[bytes], start_ts: int, for_update_ts: int) -> None:
        super().__init__(items, start_ts)
        self.for_update_ts = for_update_ts

    def request(self, route: Route) -> kvrpcpb_pb2.PessimisticRollbackRequest:
        return kvrpcpb_pb2.PessimisticRollbackRequest(
            context=route.context, start_version=self.start_ts, for_update_ts=self.for_update_ts, keys=self.items
        )


class HeartBeat(Command[int]):
    """Make the primary lock live longer, and with it the transaction. Returns its time to live, from its start on."""

    __slots__ = ("start_ts", "ttl_ms")
    field = "TxnHeartBeat"
    tag = field_tag(FramedRequest, field)
    verb = "heartbeat"
    effect = Effect.IDEMPOTENT
    space = MEMCOMPARABLE

    def __init__(self, primary: bytes, start_ts: int, ttl_ms: int) -> None:
        self.key = primary
        self.start_ts = start_ts
        self.ttl_ms = ttl_ms

    def request(self, route: Route) -> kvrpcpb_pb2.TxnHeartBeatRequest:
        return kvrpcpb_pb2.TxnHeartBeatRequest(
            context=route.context, primary_lock=self.key, start_version=self.start_ts, advise_lock_ttl=self.ttl_ms
        )

    def decode(self, reply: kvrpcpb_pb2.TxnHeartBeatResponse) -> int:
        if reply.HasField("error"):
            raise error_of(reply.error, self.describe())
        return reply.lock_ttl


# --- resolving locks ---------------------------------------------------------------------------------------------


class TxnStatus(NamedTuple):
    """What a primary says of its transaction."""

    commit_ts: int = 0
    """When it was committed; 0 if it was not."""
    ttl_ms: int = 0
    """Longer than 0: it is alive, and its locks live so long after its start."""
    pushed: bool = False
    """Whether it is certain to commit after the asker's timestamp."""
    lock: Lock | None = None
    """The primary lock, where it still stands."""
    was_pessimistic: bool = False
    """Whether only a pessimistic lock was removed, or nothing found for one: others may still be written."""


class CheckStatus(Command[TxnStatus]):
    """Ask the primary what became of its transaction. Rolls it back if it has run out; may push its commit timestamp."""

    __slots__ = ("caller_ts", "current_ts", "force_sync", "lock", "rollback_missing")
    field = "CheckTxnStatus"
    tag = field_tag(FramedRequest, field)
    verb = "status of"
    effect = Effect.IDEMPOTENT
    space = MEMCOMPARABLE

    def __init__(
        self, lock: Lock, *, caller_ts: int, current_ts: int, rollback_missing: bool, force_sync: bool
    ) -> None:
        self.key = lock.primary
        self.lock = lock
        self.caller_ts = caller_ts
        self.current_ts = current_ts
        self.rollback_missing = rollback_missing
        self.force_sync = force_sync

    def request(self, route: Route) -> kvrpcpb_pb2.CheckTxnStatusRequest:
        return kvrpcpb_pb2.CheckTxnStatusRequest(
            context=route.context,
            primary_key=self.key,
            lock_ts=self.lock.start_ts,
            caller_start_ts=self.caller_ts,
            current_ts=self.current_ts,
            rollback_if_not_exist=self.rollback_missing,
            force_sync_commit=self.force_sync,
            resolving_pessimistic_lock=self.lock.is_pessimistic,
            verify_is_primary=True,
        )

    def decode(self, reply: kvrpcpb_pb2.CheckTxnStatusResponse) -> TxnStatus:
        if reply.HasField("error"):
            raise error_of(reply.error, self.describe())
        lock = Lock.from_pb(reply.lock_info) if reply.HasField("lock_info") else None
        return TxnStatus(
            commit_ts=reply.commit_version,
            ttl_ms=reply.lock_ttl,
            pushed=reply.action == kvrpcpb_pb2.MinCommitTSPushed,
            lock=lock,
            was_pessimistic=reply.action
            in (kvrpcpb_pb2.TTLExpirePessimisticRollback, kvrpcpb_pb2.LockNotExistDoNothing),
        )


class Secondaries(NamedTuple):
    """What stands on the secondaries of an asynchronous commit, in one region."""

    keys: Sequence[bytes]
    locks: Sequence[Lock]
    commit_ts: int
    """When it was committed, if any of them knows; 0 if not."""


class CheckSecondaries(BatchCommand[bytes, Secondaries]):
    """Ask secondaries for their locks. Bars those without from getting one."""

    __slots__ = ("start_ts",)
    field = "CheckSecondaryLocks"
    tag = field_tag(FramedRequest, field)
    verb = "check secondaries"
    effect = Effect.IDEMPOTENT
    space = MEMCOMPARABLE

    def __init__(self, items: Sequence[bytes], start_ts: int) -> None:
        self.key = items[0]
        self.items = items
        self.start_ts = start_ts

    def request(self, route: Route) -> kvrpcpb_pb2.CheckSecondaryLocksRequest:
        return kvrpcpb_pb2.CheckSecondaryLocksRequest(
            context=route.context, keys=self.items, start_version=self.start_ts
        )

    def decode(self, reply: kvrpcpb_pb2.CheckSecondaryLocksResponse) -> Secondaries:
        if reply.HasField("error"):
            raise error_of(reply.error, self.describe())
        return Secondaries(self.items, [Lock.from_pb(lock) for lock in reply.locks], reply.commit_ts)


class ResolveKeys(KeysCommand):
    """Commit or remove locks of a transaction whose fate is known, on these keys."""

    __slots__ = ("commit_ts",)
    field = "ResolveLock"
    tag = field_tag(FramedRequest, field)
    verb = "resolve"

    def __init__(self, items: Sequence[bytes], start_ts: int, commit_ts: int) -> None:
        super().__init__(items, start_ts)
        self.commit_ts = commit_ts

    def request(self, route: Route) -> kvrpcpb_pb2.ResolveLockRequest:
        return kvrpcpb_pb2.ResolveLockRequest(
            context=route.context, start_version=self.start_ts, commit_version=self.commit_ts, keys=self.items
        )


class ResolveRegion(Command[None]):
    """Commit or remove all locks of a transaction whose fate is known, in the region of a key."""

    __slots__ = ("commit_ts", "start_ts")
    field = "ResolveLock"
    tag = field_tag(FramedRequest, field)
    verb = "resolve"
    effect = Effect.IDEMPOTENT
    space = MEMCOMPARABLE

    def __init__(self, key: bytes, start_ts: int, commit_ts: int) -> None:
        self.key = key
        self.start_ts = start_ts
        self.commit_ts = commit_ts

    def request(self, route: Route) -> kvrpcpb_pb2.ResolveLockRequest:
        return kvrpcpb_pb2.ResolveLockRequest(
            context=route.context, start_version=self.start_ts, commit_version=self.commit_ts
        )

    def decode(self, reply: kvrpcpb_pb2.ResolveLockResponse) -> None:
        _refuse_errors(reply, self.describe())


class ScanLocks(RangeCommand[list[Lock]]):
    """The locks of a range whose transactions began at or before a timestamp."""

    __slots__ = ("limit", "max_ts")
    field = "ScanLock"
    tag = field_tag(FramedRequest, field)
    verb = "locks"
    space = MEMCOMPARABLE

    def __init__(self, range_: KeyRange, max_ts: int, limit: int) -> None:
        super().__init__(range_)
        self.max_ts = max_ts
        self.limit = limit

    def request(self, route: Route) -> kvrpcpb_pb2.ScanLockRequest:
        try:
            part = self._cover(route)
        except KeyCodecError as error:
            raise plain_boundary(self, route, error) from error
        return kvrpcpb_pb2.ScanLockRequest(
            context=route.context, max_version=self.max_ts, start_key=part.start, end_key=part.end, limit=self.limit
        )

    def decode(self, reply: kvrpcpb_pb2.ScanLockResponse) -> list[Lock]:
        _refuse_errors(reply, self.describe())
        return [Lock.from_pb(lock) for lock in reply.locks]


# --- looking -----------------------------------------------------------------------------------------------------


class MvccOfKey(Command[kvrpcpb_pb2.MvccInfo]):
    """Every version and the lock of a key."""

    __slots__ = ()
    field = "MvccGetByKey"
    verb = "mvcc"
    unary_path = "/tikvpb.Tikv/MvccGetByKey"
    space = MEMCOMPARABLE

    def __init__(self, key: bytes) -> None:
        self.key = key

    def request(self, route: Route) -> kvrpcpb_pb2.MvccGetByKeyRequest:
        return kvrpcpb_pb2.MvccGetByKeyRequest(context=route.context, key=self.key)

    def decode(self, reply: kvrpcpb_pb2.MvccGetByKeyResponse) -> kvrpcpb_pb2.MvccInfo:
        self._check(reply.error)
        return reply.info


