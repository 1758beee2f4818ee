"""Transactional requests as commands of the `transaction` package: keys checked, ranges cut to the region.

* Keys of requests are the users' own; a region's bounds are memcomparable, so a key lies in the region if its encoded form
  does. A region with a bound that is no encoded key holds raw data alone, and is no place for transactions.
* A reverse scan has its upper end in `start_key`, as in raw scans.
* What the server has no use for is left out, not refused: clients send more than they need (`secondaries` without async
  commit, as many `pessimistic_actions` as the whole transaction has keys).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, TypeVar

from pytinykv.server.kv.kinds import CommandContext, InvalidRequestError
from pytinykv.transaction import commands
from pytinykv.transaction.commands import MutationOp, PessimisticAction, ReadView
from pytinykv.transaction.errors import Assertion
from pytinykv.transaction.records import NO_TS
from pytinykv.wire.errors import KeyNotInRegion
from pytinykv.wire.keys import KeyCodecError, decode_bytes, describe_key, encode_bytes
from pytinykv.wire.limits import KEY_BYTES_MAX, bound_problem, key_problem
from pytinykv.wire.pb import kvrpcpb_pb2 as pb
from pytinykv.wire.timestamp import MAX_TIMESTAMP, Timestamp

if TYPE_CHECKING:
    from pytinykv.model import Region

_T = TypeVar("_T")

_OPS = {op.value: op for op in MutationOp}
_ACTIONS = {action.value: action for action in PessimisticAction}
_ASSERTIONS = {assertion.value: assertion for assertion in Assertion}


class PlainBoundsError(InvalidRequestError):
    """The region has bounds that are no memcomparable keys."""


def check_key(region: Region, key: bytes) -> None:
    """Raise InvalidRequestError for what is no key, KeyNotInRegion for one of another region."""
    if not key or len(key) > KEY_BYTES_MAX:
        raise InvalidRequestError(key_problem(key))
    if not region.start_key and not region.end_key:
        return
    encoded = encode_bytes(key)
    if not region.contains(encoded):
        raise KeyNotInRegion(key=encoded, region_id=region.id, start_key=region.start_key, end_key=region.end_key)


def _timestamp(name: str, number: int) -> Timestamp:
    """Return a timestamp of a write. Raises InvalidRequestError for the number that reads have for "the newest"."""
    if number == MAX_TIMESTAMP:
        raise InvalidRequestError(f"{name} {number} is no timestamp that a scheduler gives")
    return Timestamp(number)


def _start_ts(number: int) -> Timestamp:
    """Return the timestamp that names a transaction. Raises InvalidRequestError."""
    if not number:
        raise InvalidRequestError("start_version is 0: name the transaction")
    return _timestamp("start_version", number)


def _member(kind: Callable[[Any], _T], number: int, name: str) -> _T:
    """Return a member of an enumeration. Raises InvalidRequestError for one that is not known here."""
    try:
        return kind(number)
    except (ValueError, KeyError):
        raise InvalidRequestError(f"{name} {number} is not known here") from None


def _primary(key: bytes) -> bytes:
    """Return the key that a lock names as its transaction's primary, which has to be one that can be asked about."""
    if not key:
        raise InvalidRequestError("primary_lock is empty: name the transaction's primary key")
    if (problem := key_problem(key)) is not None:
        raise InvalidRequestError(f"primary_lock: {problem}")
    return key


def _keys(region: Region, keys: Iterable[bytes]) -> tuple[bytes, ...]:
    checked = tuple(keys)
    for key in checked:
        check_key(region, key)
    return checked


def bounds_of_data(region: Region) -> tuple[bytes, bytes]:
    """Return the region's bounds as users' keys (empty: none). Raises PlainBoundsError."""
    try:
        return (
            decode_bytes(region.start_key) if region.start_key else b"",
            decode_bytes(region.end_key) if region.end_key else b"",
        )
    except KeyCodecError as error:
        raise PlainBoundsError(plain_bounds_text(region)) from error


def plain_bounds_text(region: Region) -> str:
    """Say why there can be no transactions in a region."""
    return (
        f"region {region.id} begins at {describe_key(region.start_key)} and ends at {describe_key(region.end_key)}: this "
        "cluster was split at raw keys before it saw a transaction, and transactional clients can't read such bounds; use "
        "raw operations here, and a new cluster for transactions"
    )


def clip(region: Region, start: bytes, end: bytes) -> tuple[bytes, bytes] | None:
    """Return the part of a range of users' keys (empty end: unbounded) that lies in the region, None if there is none."""
    for name, bound in (("start_key", start), ("end_key", end)):
        if (problem := bound_problem(bound)) is not None:
            raise InvalidRequestError(f"{name}: {problem}")
    first, last = bounds_of_data(region)
    start = max(start, first)
    if last and (not end or last < end):
        end = last
    return None if end and start >= end else (start, end)


# --- reads --------------------------------------------------------------------------------------------------------


def view(request: Any) -> ReadView:
    """Return at what a read looks."""
    context = request.context
    if not (context.isolation_level or context.resolved_locks or context.committed_locks):
        return ReadView(request.version)
    return ReadView(
        request.version,
        _member(commands.Isolation, context.isolation_level, "isolation_level"),
        frozenset(context.resolved_locks),
        frozenset(context.committed_locks),
    )


def get(context: CommandContext, request: pb.GetRequest) -> commands.Get:
    check_key(context.region, request.key)
    return commands.Get(request.key, view(request))


def batch_get(context: CommandContext, request: pb.BatchGetRequest) -> commands.BatchGet:
    return commands.BatchGet(_keys(context.region, request.keys), view(request))


def scan(context: CommandContext, request: pb.ScanRequest) -> commands.Scan | None:
    """Return None if nothing of the range lies in the region."""
    if request.sample_step:
        raise InvalidRequestError("sample_step is not supported: scan all pairs")
    start, end = request.start_key, request.end_key
    if request.reverse:
        start, end = end, start
    clipped = clip(context.region, start, end)
    if clipped is None or not request.limit:
        return None
    return commands.Scan(
        start=clipped[0],
        end=clipped[1],
        limit=request.limit,
        reverse=request.reverse,
        key_only=request.key_only,
        view=view(request),
    )


def scan_lock(context: CommandContext, request: pb.ScanLockRequest) -> commands.ScanLock | None:
    clipped = clip(context.region, request.start_key, request.end_key)
    if clipped is None:
        return None
    return commands.ScanLock(
        max_ts=Timestamp(request.max_version), start=clipped[0], end=clipped[1], limit=request.limit
    )


# --- writes -------------------------------------------------------------------------------------------------------


def prewrite(context: CommandContext, request: pb.PrewriteRequest) -> commands.Prewrite:
    if request.txn_file_chunks:
        raise InvalidRequestError("transactions in files are not supported: send mutations")
    constraints = {one.index: Timestamp(one.expected_for_update_ts) for one in request.for_update_ts_constraints}
    actions = request.pessimistic_actions
    mutations = tuple(
        _mutation(context.region, one, actions[index] if index < len(actions) else 0, constraints.get(index, NO_TS))
        for index, one in enumerate(request.mutations)
    )
    return commands.Prewrite(
        mutations=mutations,
        primary=_primary(request.primary_lock),
        start_ts=_start_ts(request.start_version),
        lock_ttl_ms=request.lock_ttl,
        for_update_ts=_timestamp("for_update_ts", request.for_update_ts),
        min_commit_ts=_timestamp("min_commit_ts", request.min_commit_ts),
        txn_size=request.txn_size,
        secondaries=tuple(request.secondaries) if request.use_async_commit else None,
        try_one_pc=request.try_one_pc,
        max_commit_ts=Timestamp(request.max_commit_ts),
        skip_constraint_check=request.skip_constraint_check,
        assertion_level=_member(commands.AssertionLevel, request.assertion_level, "assertion_level"),
        source=request.context.txn_source,
    )


def _mutation(region: Region, one: pb.Mutation, action: int, expected_for_update_ts: Timestamp) -> commands.Mutation:
    check_key(region, one.key)
    op = _OPS.get(one.op)
    if op is None:
        raise InvalidRequestError(f"{_op_name(one.op)} is no mutation that a prewrite can make")
    wanted_action = _ACTIONS.get(action)
    if wanted_action is None:
        raise InvalidRequestError(f"pessimistic_action {action} is not known here")
    assertion = _ASSERTIONS.get(one.assertion)
    if assertion is None:
        raise InvalidRequestError(f"assertion {one.assertion} is not known here")
    return commands.Mutation(op, one.key, one.value, assertion, wanted_action, expected_for_update_ts)


def _op_name(op: int) -> str:
    return _member(pb.Op.Name, op, "op")


def commit(context: CommandContext, request: pb.CommitRequest) -> commands.Commit:
    if request.commit_version <= request.start_version:
        raise InvalidRequestError(
            f"commit_version {request.commit_version} is not above start_version {request.start_version}"
        )
    return commands.Commit(
        keys=_keys(context.region, request.keys),
        start_ts=_start_ts(request.start_version),
        commit_ts=_timestamp("commit_version", request.commit_version),
    )


def batch_rollback(context: CommandContext, request: pb.BatchRollbackRequest) -> commands.BatchRollback:
    return commands.BatchRollback(keys=_keys(context.region, request.keys), start_ts=_start_ts(request.start_version))


def cleanup(context: CommandContext, request: pb.CleanupRequest) -> commands.Cleanup:
    check_key(context.region, request.key)
    return commands.Cleanup(
        key=request.key,
        start_ts=_start_ts(request.start_version),
        current_ts=Timestamp(request.current_ts),
    )


def check_txn_status(context: CommandContext, request: pb.CheckTxnStatusRequest) -> commands.CheckTxnStatus:
    check_key(context.region, request.primary_key)
    return commands.CheckTxnStatus(
        primary=request.primary_key,
        lock_ts=_start_ts(request.lock_ts),
        caller_start_ts=Timestamp(request.caller_start_ts),
        current_ts=Timestamp(request.current_ts),
        rollback_if_not_exist=request.rollback_if_not_exist,
        force_sync_commit=request.force_sync_commit,
        resolving_pessimistic_lock=request.resolving_pessimistic_lock,
        verify_is_primary=request.verify_is_primary,
    )


def heart_beat(context: CommandContext, request: pb.TxnHeartBeatRequest) -> commands.TxnHeartBeat:
    check_key(context.region, request.primary_lock)
    return commands.TxnHeartBeat(
        primary=request.primary_lock,
        start_ts=_start_ts(request.start_version),
        advise_ttl_ms=request.advise_lock_ttl,
    )


def check_secondary_locks(
    context: CommandContext, request: pb.CheckSecondaryLocksRequest
) -> commands.CheckSecondaryLocks:
    return commands.CheckSecondaryLocks(
        keys=_keys(context.region, request.keys), start_ts=_start_ts(request.start_version)
    )


def resolve_lock(context: CommandContext, request: pb.ResolveLockRequest) -> commands.ResolveLock:
    statuses = {_start_ts(one.txn): _timestamp("status", one.status) for one in request.txn_infos} or {
        _start_ts(request.start_version): _timestamp("commit_version", request.commit_version)
    }
    if request.keys:
        return commands.ResolveLock(statuses=statuses, keys=_keys(context.region, request.keys))
    start, end = bounds_of_data(context.region)
    return commands.ResolveLock(statuses=statuses, start=start, end=end)


def pessimistic_lock(context: CommandContext, request: pb.PessimisticLockRequest) -> commands.PessimisticLock:
    for one in request.mutations:
        check_key(context.region, one.key)
        if one.op != pb.Op.PessimisticLock:
            raise InvalidRequestError(f"{_op_name(one.op)} can't be locked for: ask for PessimisticLock")
    force = request.wake_up_mode == pb.PessimisticLockWakeUpMode.WakeUpModeForceLock
    if force and len(request.mutations) != 1:
        raise InvalidRequestError(f"WakeUpModeForceLock is for one key, not for {len(request.mutations)}")
    return commands.PessimisticLock(
        keys=tuple(commands.LockRequest(one.key, one.assertion == pb.Assertion.NotExist) for one in request.mutations),
        primary=_primary(request.primary_lock),
        start_ts=_start_ts(request.start_version),
        for_update_ts=_timestamp("for_update_ts", request.for_update_ts),
        lock_ttl_ms=request.lock_ttl,
        is_first_lock=request.is_first_lock,
        wait_timeout_ms=request.wait_timeout,
        return_values=request.return_values,
        check_existence=request.check_existence,
        min_commit_ts=_timestamp("min_commit_ts", request.min_commit_ts),
        lock_only_if_exists=request.lock_only_if_exists,
        allow_lock_with_conflict=force,
    )


def pessimistic_rollback(
    context: CommandContext, request: pb.PessimisticRollbackRequest
) -> commands.PessimisticRollback:
    return commands.PessimisticRollback(
        keys=_keys(context.region, request.keys),
        start_ts=_start_ts(request.start_version),
        for_update_ts=Timestamp(request.for_update_ts),
    )
