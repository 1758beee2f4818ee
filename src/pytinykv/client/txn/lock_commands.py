"""Pessimistic locks as commands: take, release, keep alive. All may be repeated.

What a lock request met is its result, and not an error: what the other batches of the same call met is needed too.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from pytinykv.client.commands import BatchCommand, Command, Effect, FramedRequest
from pytinykv.client.errors import ServerError, TransactionError
from pytinykv.client.key_space import MEMCOMPARABLE
from pytinykv.client.route import Route
from pytinykv.client.txn.key_errors import error_of, what_was_met
from pytinykv.client.txn.keys_command import KeysCommand
from pytinykv.client.txn.records import PESSIMISTIC_LOCK, ForeignLock, Txn
from pytinykv.wire.encoding import field_tag
from pytinykv.wire.pb import kvrpcpb_pb2


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
    locks: Sequence[ForeignLock] = ()
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
            mutations=[kvrpcpb_pb2.Mutation(op=PESSIMISTIC_LOCK, key=key, assertion=assertion) for key in self.items],
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
        locks, error = what_was_met(reply.errors, self.describe())
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


class ExtendTtl(Command[int]):
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
