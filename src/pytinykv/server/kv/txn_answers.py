"""What came of transactional commands, as TiKV's protocol tells it: results, key errors, locks."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pytinykv.transaction import errors, results
from pytinykv.transaction.deadlock import key_hash
from pytinykv.transaction.records import LockKind, WriteKind
from pytinykv.wire.pb import deadlock_pb2
from pytinykv.wire.pb import kvrpcpb_pb2 as pb

if TYPE_CHECKING:
    from collections.abc import Callable

    from pytinykv.transaction.deadlock import Wait
    from pytinykv.transaction.records import Lock, Write

_LOCK_TYPES = {
    LockKind.PUT: pb.Op.Put,
    LockKind.DELETE: pb.Op.Del,
    LockKind.LOCK: pb.Op.Lock,
    LockKind.PESSIMISTIC: pb.Op.PessimisticLock,
}
_WRITE_TYPES = {
    WriteKind.PUT: pb.Op.Put,
    WriteKind.DELETE: pb.Op.Del,
    WriteKind.LOCK: pb.Op.Lock,
    WriteKind.ROLLBACK: pb.Op.Rollback,
}


# --- errors -------------------------------------------------------------------------------------------------------


def lock_info(key: bytes, lock: Lock) -> pb.LockInfo:
    return pb.LockInfo(
        primary_lock=lock.primary,
        lock_version=lock.start_ts,
        key=key,
        lock_ttl=lock.ttl_ms,
        txn_size=lock.txn_size,
        lock_type=_LOCK_TYPES[lock.kind],
        lock_for_update_ts=lock.for_update_ts,
        use_async_commit=lock.use_async_commit,
        min_commit_ts=lock.min_commit_ts,
        secondaries=lock.secondaries,
    )


def wait_entry(wait: Wait) -> deadlock_pb2.WaitForEntry:
    return deadlock_pb2.WaitForEntry(
        txn=wait.start_ts, wait_for_txn=wait.lock_ts, key=wait.key, key_hash=key_hash(wait.key)
    )


def key_error(error: errors.TxnError) -> pb.KeyError:
    """Return an error as clients know it; what the protocol has no form for is told in words."""
    convert = _ERRORS.get(type(error))
    return pb.KeyError(abort=str(error)) if convert is None else convert(error)


def _locked(error: errors.KeyIsLocked) -> pb.KeyError:
    return pb.KeyError(locked=lock_info(error.key, error.lock))


def _conflict(error: errors.WriteConflict) -> pb.KeyError:
    return pb.KeyError(
        conflict=pb.WriteConflict(
            start_ts=error.start_ts,
            conflict_ts=error.conflict_start_ts,
            key=error.key,
            primary=error.primary,
            conflict_commit_ts=error.conflict_commit_ts,
            reason=pb.WriteConflict.Reason.Name(error.reason),
        )
    )


def _assertion(error: errors.AssertionFailed) -> pb.KeyError:
    return pb.KeyError(
        assertion_failed=pb.AssertionFailed(
            start_ts=error.start_ts,
            key=error.key,
            assertion=pb.Assertion.Name(error.assertion),
            existing_start_ts=error.existing_start_ts,
            existing_commit_ts=error.existing_commit_ts,
        )
    )


def _deadlock(error: errors.Deadlock) -> pb.KeyError:
    return pb.KeyError(
        deadlock=pb.Deadlock(
            lock_ts=error.lock_ts,
            lock_key=error.key,
            deadlock_key_hash=error.deadlock_key_hash,
            wait_chain=[wait_entry(wait) for wait in error.wait_chain],
            deadlock_key=error.deadlock_key,
        )
    )


def _lock_not_found(error: errors.TxnLockNotFound) -> pb.KeyError:
    # Older clients look at the text, newer ones at the record.
    return pb.KeyError(retryable=str(error), txn_lock_not_found=pb.TxnLockNotFound(key=error.key))


def _expired(error: errors.CommitTsExpired) -> pb.KeyError:
    return pb.KeyError(
        commit_ts_expired=pb.CommitTsExpired(
            start_ts=error.start_ts,
            attempted_commit_ts=error.commit_ts,
            key=error.key,
            min_commit_ts=error.min_commit_ts,
        )
    )


_ERRORS: dict[type, Callable[[Any], pb.KeyError]] = {
    errors.KeyIsLocked: _locked,
    errors.WriteConflict: _conflict,
    errors.AlreadyExists: lambda error: pb.KeyError(already_exist=pb.AlreadyExist(key=error.key)),
    errors.AssertionFailed: _assertion,
    errors.Deadlock: _deadlock,
    errors.TxnLockNotFound: _lock_not_found,
    errors.CommitTsExpired: _expired,
    errors.TxnNotFound: lambda error: pb.KeyError(
        txn_not_found=pb.TxnNotFound(start_ts=error.start_ts, primary_key=error.key)
    ),
    errors.PrimaryMismatch: lambda error: pb.KeyError(
        primary_mismatch=pb.PrimaryMismatch(lock_info=lock_info(error.key, error.lock))
    ),
    errors.PessimisticLockNotFound: lambda error: pb.KeyError(retryable=str(error)),
    errors.SnapshotTooOld: lambda error: pb.KeyError(abort=error.describe()),
}


# --- results ------------------------------------------------------------------------------------------------------


def _key_errors(failure: results.Failure) -> list[pb.KeyError]:
    """Return an error for each key; where locks are in the way, clients look at nothing else."""
    return [key_error(error) for error in failure.errors]


def prewrite(_request: pb.PrewriteRequest, result: Any) -> pb.PrewriteResponse:
    if isinstance(result, results.Failure):
        return pb.PrewriteResponse(errors=_key_errors(result))
    return pb.PrewriteResponse(min_commit_ts=result.min_commit_ts, one_pc_commit_ts=result.one_pc_commit_ts)


def commit(_request: pb.CommitRequest, result: Any) -> pb.CommitResponse:
    if isinstance(result, results.Failure):
        return pb.CommitResponse(error=key_error(result.errors[0]))
    return pb.CommitResponse(commit_version=result.commit_ts)


def batch_rollback(_request: pb.BatchRollbackRequest, result: Any) -> pb.BatchRollbackResponse:
    if isinstance(result, results.Failure):
        return pb.BatchRollbackResponse(error=key_error(result.errors[0]))
    return pb.BatchRollbackResponse()


def cleanup(_request: pb.CleanupRequest, result: Any) -> pb.CleanupResponse:
    """A transaction that is committed is no error of a cleanup: clients take its timestamp."""
    if not isinstance(result, results.Failure):
        return pb.CleanupResponse(commit_version=result.commit_ts)
    error = result.errors[0]
    if isinstance(error, errors.AlreadyCommitted):
        return pb.CleanupResponse(commit_version=error.commit_ts)
    return pb.CleanupResponse(error=key_error(error))


def check_txn_status(_request: pb.CheckTxnStatusRequest, result: Any) -> pb.CheckTxnStatusResponse:
    if isinstance(result, results.Failure):
        return pb.CheckTxnStatusResponse(error=key_error(result.errors[0]))
    response = pb.CheckTxnStatusResponse(commit_version=result.commit_ts, action=pb.Action.Name(result.action))
    if result.lock is not None:
        response.lock_ttl = result.lock.lock.ttl_ms
        response.lock_info.CopyFrom(lock_info(result.lock.key, result.lock.lock))
    return response


def heart_beat(_request: pb.TxnHeartBeatRequest, result: Any) -> pb.TxnHeartBeatResponse:
    if isinstance(result, results.Failure):
        return pb.TxnHeartBeatResponse(error=key_error(result.errors[0]))
    return pb.TxnHeartBeatResponse(lock_ttl=result.lock_ttl_ms)


def check_secondary_locks(_request: pb.CheckSecondaryLocksRequest, result: Any) -> pb.CheckSecondaryLocksResponse:
    if isinstance(result, results.Failure):
        return pb.CheckSecondaryLocksResponse(error=key_error(result.errors[0]))
    return pb.CheckSecondaryLocksResponse(
        locks=[lock_info(one.key, one.lock) for one in result.locks], commit_ts=result.commit_ts
    )


def resolve_lock(_request: pb.ResolveLockRequest, result: Any) -> pb.ResolveLockResponse:
    if isinstance(result, results.Failure):
        return pb.ResolveLockResponse(error=key_error(result.errors[0]))
    return pb.ResolveLockResponse()


def pessimistic_lock(request: pb.PessimisticLockRequest, result: Any) -> pb.PessimisticLockResponse:
    force = request.wake_up_mode == pb.PessimisticLockWakeUpMode.WakeUpModeForceLock
    if isinstance(result, results.Failure):
        failed = pb.PessimisticLockKeyResult(type=pb.PessimisticLockKeyResultType.LockResultFailed)
        return pb.PessimisticLockResponse(errors=_key_errors(result), results=[failed] if force else [])
    if force:
        return pb.PessimisticLockResponse(results=[_forced(one) for one in result.keys])
    response = pb.PessimisticLockResponse()
    if request.return_values:
        response.values.extend(one.value or b"" for one in result.keys)
    if request.return_values or request.check_existence:
        response.not_founds.extend(not one.exists for one in result.keys)
    return response


def _forced(one: results.KeyLocked) -> pb.PessimisticLockKeyResult:
    kinds = pb.PessimisticLockKeyResultType
    return pb.PessimisticLockKeyResult(
        type=kinds.LockResultLockedWithConflict if one.conflict_ts else kinds.LockResultNormal,
        value=one.value or b"",
        existence=bool(one.exists),
        locked_with_conflict_ts=one.conflict_ts,
    )


def pessimistic_rollback(_request: pb.PessimisticRollbackRequest, result: Any) -> pb.PessimisticRollbackResponse:
    if isinstance(result, results.Failure):
        return pb.PessimisticRollbackResponse(errors=_key_errors(result))
    return pb.PessimisticRollbackResponse()


# --- for people ---------------------------------------------------------------------------------------------------


def mvcc_info(info: results.MvccInfo) -> pb.MvccInfo:
    response = pb.MvccInfo(
        writes=[_mvcc_write(commit_ts, write) for commit_ts, write in info.writes],
        values=[pb.MvccValue(start_ts=start_ts, value=value) for start_ts, value in info.values],
    )
    if info.lock is not None:
        response.lock.CopyFrom(_mvcc_lock(info.lock))
    return response


def _mvcc_lock(lock: Lock) -> pb.MvccLock:
    response = pb.MvccLock(
        type=_LOCK_TYPES[lock.kind],
        start_ts=lock.start_ts,
        primary=lock.primary,
        short_value=lock.short_value or b"",
        ttl=lock.ttl_ms,
        for_update_ts=lock.for_update_ts,
        txn_size=lock.txn_size,
        use_async_commit=lock.use_async_commit,
        secondaries=lock.secondaries,
        rollback_ts=lock.rollback_ts,
    )
    if lock.last_change is not None:
        response.last_change_ts = lock.last_change.commit_ts
        response.versions_to_last_change = lock.last_change.versions
    return response


def _mvcc_write(commit_ts: int, write: Write) -> pb.MvccWrite:
    response = pb.MvccWrite(
        type=_WRITE_TYPES[write.kind],
        start_ts=write.start_ts,
        commit_ts=commit_ts,
        short_value=write.short_value or b"",
        has_overlapped_rollback=write.has_overlapped_rollback,
    )
    if write.gc_fence is not None:
        response.has_gc_fence, response.gc_fence = True, write.gc_fence
    if write.last_change is not None:
        response.last_change_ts = write.last_change.commit_ts
        response.versions_to_last_change = write.last_change.versions
    return response
