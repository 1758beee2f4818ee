"""What a commit consists of, as commands. All say which transaction they belong to, so all may be repeated.

What a prewrite met is its result, and not an error: what the other batches of the same commit met is needed too.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from pytinykv.client.commands import BatchCommand, Command, Effect, FramedRequest
from pytinykv.client.errors import TransactionError
from pytinykv.client.key_space import MEMCOMPARABLE
from pytinykv.client.route import Route
from pytinykv.client.txn.key_errors import error_of, what_was_met
from pytinykv.client.txn.keys_command import KeysCommand
from pytinykv.client.txn.records import BufferedWrite, ForeignLock, Txn
from pytinykv.wire.encoding import field_tag
from pytinykv.wire.pb import kvrpcpb_pb2


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
        "was_one_phase",
        "was_repeated",
    )

    def __init__(self, txn: Txn, primary: bytes, mutations_count: int, lock_ttl_ms: int) -> None:
        self.txn = txn
        self.primary = primary
        self.mutations_count = mutations_count
        """All of the transaction: one command with so many may commit it in one phase."""
        self.lock_ttl_ms = lock_ttl_ms
        self.min_commit_ts = 0
        """The transaction commits no earlier; raised by the committer by what the stores answer. 0 until it has
        begun."""
        self.secondaries: Sequence[bytes] = ()
        """All keys but the primary, written into its lock; empty unless the commit is asynchronous."""
        self.use_async_commit = False
        """Chosen before the first prewrite; unset for good by the first answer without a `min_commit_ts`."""
        self.try_one_phase = False
        """Chosen before the first prewrite: one command that holds all writes commits them, too."""
        self.was_one_phase = False
        """Whether a command was sent that may have committed all of it."""
        self.requested: set[bytes] = set()
        """The keys that were sent before."""
        self.was_repeated = False
        """Whether any was sent twice: the first attempt may have been executed, so an error need not be the whole truth."""


class Prewritten(NamedTuple):
    """What became of the prewrite of one batch."""

    mutations: Sequence[BufferedWrite]
    locks: Sequence[ForeignLock] = ()
    """Locks in the way; nothing was written then."""
    error: TransactionError | None = None
    """Why it can't be, if it can't."""
    min_commit_ts: int = 0
    """Of an asynchronous commit; 0 if the store wrote plain locks instead."""
    one_phase_commit_ts: int = 0
    """When the batch was committed already, in one phase."""


class TxnPrewrite(BatchCommand[BufferedWrite, Prewritten]):
    """Lock keys and store what they are to become."""

    __slots__ = ("plan",)
    field = "Prewrite"
    tag = field_tag(FramedRequest, field)
    verb = "prewrite"
    effect = Effect.IDEMPOTENT
    space = MEMCOMPARABLE

    def __init__(self, items: Sequence[BufferedWrite], plan: PrewritePlan) -> None:
        self.key = items[0].key
        self.items = items
        self.plan = plan

    def request(self, route: Route) -> kvrpcpb_pb2.PrewriteRequest:
        plan, txn, items = self.plan, self.plan.txn, self.items
        is_whole = plan.try_one_phase and len(items) == plan.mutations_count
        plan.was_one_phase = plan.was_one_phase or is_whole
        request = kvrpcpb_pb2.PrewriteRequest(
            context=route.context,
            primary_lock=plan.primary,
            start_version=txn.start_ts,
            lock_ttl=plan.lock_ttl_ms,
            txn_size=plan.mutations_count,
            for_update_ts=txn.for_update_ts,
            min_commit_ts=plan.min_commit_ts,
            use_async_commit=plan.use_async_commit,
            try_one_pc=is_whole,
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
        locks, error = what_was_met(reply.errors, self.describe())
        return Prewritten(self.items, locks, error, reply.min_commit_ts, reply.one_pc_commit_ts)


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


class CommitKeys(KeysCommand):
    """Commit keys of a transaction that is committed."""

    __slots__ = ("commit_ts",)
    field = "Commit"
    tag = field_tag(FramedRequest, field)
    verb = "commit"
    is_patient = True

    def __init__(self, items: Sequence[bytes], start_ts: int, commit_ts: int) -> None:
        super().__init__(items, start_ts)
        self.commit_ts = commit_ts

    def request(self, route: Route) -> kvrpcpb_pb2.CommitRequest:
        return kvrpcpb_pb2.CommitRequest(
            context=route.context, start_version=self.start_ts, keys=self.items, commit_version=self.commit_ts
        )


class TxnRollback(KeysCommand):
    """Remove what a transaction has written to keys, and bar it from writing them later."""

    __slots__ = ()
    field = "BatchRollback"
    tag = field_tag(FramedRequest, field)
    verb = "rollback"

    def request(self, route: Route) -> kvrpcpb_pb2.BatchRollbackRequest:
        return kvrpcpb_pb2.BatchRollbackRequest(context=route.context, start_version=self.start_ts, keys=self.items)
