"""What resolving a lock consists of, as commands: ask what became of its transaction, carry that out. All may be repeated."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from pytinykv.client.commands import BatchCommand, Command, Effect, FramedRequest, RangeCommand
from pytinykv.client.errors import ServerError
from pytinykv.client.key_space import MEMCOMPARABLE, KeyRange
from pytinykv.client.route import Route
from pytinykv.client.txn.key_errors import error_of
from pytinykv.client.txn.keys_command import KeysCommand, refuse_errors
from pytinykv.client.txn.read_commands import plain_boundary
from pytinykv.client.txn.records import ForeignLock
from pytinykv.wire.encoding import field_tag
from pytinykv.wire.keys import KeyCodecError
from pytinykv.wire.pb import kvrpcpb_pb2


class PrimaryStatus(NamedTuple):
    """What a primary says of its transaction."""

    commit_ts: int = 0
    """When it was committed; 0 if it was not."""
    ttl_ms: int = 0
    """Longer than 0: it is alive, and its locks live so long after its start."""
    pushed: bool = False
    """Whether it is certain to commit after the asker's timestamp."""
    lock: ForeignLock | None = None
    """The primary lock, where it still stands."""
    was_pessimistic: bool = False
    """Whether only a pessimistic lock was removed, or nothing found for one: others may still be written."""


class CheckStatus(Command[PrimaryStatus]):
    """Ask the primary what became of its transaction. Rolls it back if it has run out; may push its commit timestamp."""

    __slots__ = ("caller_ts", "current_ts", "force_sync", "lock", "rollback_missing")
    field = "CheckTxnStatus"
    tag = field_tag(FramedRequest, field)
    verb = "status of"
    effect = Effect.IDEMPOTENT
    space = MEMCOMPARABLE

    def __init__(
        self, lock: ForeignLock, *, caller_ts: int, current_ts: int, rollback_missing: bool, force_sync: bool
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

    def decode(self, reply: kvrpcpb_pb2.CheckTxnStatusResponse) -> PrimaryStatus:
        if reply.HasField("error"):
            raise error_of(reply.error, self.describe())
        lock = ForeignLock.from_pb(reply.lock_info) if reply.HasField("lock_info") else None
        return PrimaryStatus(
            commit_ts=reply.commit_version,
            ttl_ms=reply.lock_ttl,
            pushed=reply.action == kvrpcpb_pb2.MinCommitTSPushed,
            lock=lock,
            was_pessimistic=reply.action
            in (kvrpcpb_pb2.TTLExpirePessimisticRollback, kvrpcpb_pb2.LockNotExistDoNothing),
        )


class SecondariesFound(NamedTuple):
    """What stands on the secondaries of an asynchronous commit, in one region."""

    keys: Sequence[bytes]
    locks: Sequence[ForeignLock]
    commit_ts: int
    """When it was committed, if any of them knows; 0 if not."""


class CheckSecondaries(BatchCommand[bytes, SecondariesFound]):
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

    def decode(self, reply: kvrpcpb_pb2.CheckSecondaryLocksResponse) -> SecondariesFound:
        if reply.HasField("error"):
            raise error_of(reply.error, self.describe())
        return SecondariesFound(self.items, [ForeignLock.from_pb(lock) for lock in reply.locks], reply.commit_ts)


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
        refuse_errors(reply, self.describe())


class ScanLocks(RangeCommand[list[ForeignLock]]):
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

    def decode(self, reply: kvrpcpb_pb2.ScanLockResponse) -> list[ForeignLock]:
        refuse_errors(reply, self.describe())
        return [ForeignLock.from_pb(lock) for lock in reply.locks]


class DeleteRange(RangeCommand[None]):
    """Delete all versions, values and locks of a range. Asks neither readers nor transactions."""

    __slots__ = ()
    field = "DeleteRange"
    tag = field_tag(FramedRequest, field)
    verb = "delete"
    effect = Effect.IDEMPOTENT
    space = MEMCOMPARABLE

    def request(self, route: Route) -> kvrpcpb_pb2.DeleteRangeRequest:
        try:
            part = self._cover(route)
        except KeyCodecError as error:
            raise plain_boundary(self, route, error) from error
        return kvrpcpb_pb2.DeleteRangeRequest(context=route.context, start_key=part.start, end_key=part.end)

    def decode(self, reply: kvrpcpb_pb2.DeleteRangeResponse) -> None:
        if reply.error:
            raise ServerError(f"{self.describe()}: {reply.error}")
