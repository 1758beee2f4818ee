"""The registry's entries for transactions."""

from __future__ import annotations

from typing import Final

from pytinykv.server.kv import txn_answers, txn_ranges, txn_reads, txn_requests
from pytinykv.server.kv.kinds import (
    CommandKind,
    PointRead,
    RangeRead,
    RegionCommand,
    StoreCommand,
    TransactionCommand,
    WriteCommand,
)

READS: Final[tuple[CommandKind, ...]] = (
    PointRead(method="KvGet", member="Get", look=txn_reads.get, read_ts=txn_reads.version_of),
    RangeRead(method="KvBatchGet", member="BatchGet", steps=txn_reads.batch_get, read_ts=txn_reads.version_of),
    RangeRead(method="KvScan", member="Scan", steps=txn_reads.scan, read_ts=txn_reads.version_of),
    RangeRead(
        method="KvScanLock",
        member="ScanLock",
        steps=txn_reads.scan_lock,
        read_ts=lambda request: request.max_version,
    ),
    RangeRead(method="MvccGetByKey", member=None, steps=txn_reads.mvcc_get_by_key),
    RangeRead(method="MvccGetByStartTs", member=None, steps=txn_reads.mvcc_get_by_start_ts),
)

WRITES: Final[tuple[CommandKind, ...]] = (
    TransactionCommand("KvPrewrite", "Prewrite", txn_requests.prewrite, txn_answers.prewrite),
    TransactionCommand("KvCommit", "Commit", txn_requests.commit, txn_answers.commit),
    TransactionCommand("KvBatchRollback", "BatchRollback", txn_requests.batch_rollback, txn_answers.batch_rollback),
    TransactionCommand("KvCleanup", "Cleanup", txn_requests.cleanup, txn_answers.cleanup),
    TransactionCommand(
        "KvCheckTxnStatus", "CheckTxnStatus", txn_requests.check_txn_status, txn_answers.check_txn_status
    ),
    TransactionCommand("KvTxnHeartBeat", "TxnHeartBeat", txn_requests.heart_beat, txn_answers.heart_beat),
    TransactionCommand(
        "KvCheckSecondaryLocks",
        "CheckSecondaryLocks",
        txn_requests.check_secondary_locks,
        txn_answers.check_secondary_locks,
    ),
    TransactionCommand("KvResolveLock", "ResolveLock", txn_requests.resolve_lock, txn_answers.resolve_lock),
    TransactionCommand(
        "KvPessimisticLock", "PessimisticLock", txn_requests.pessimistic_lock, txn_answers.pessimistic_lock
    ),
    TransactionCommand(
        "KVPessimisticRollback",
        "PessimisticRollback",
        txn_requests.pessimistic_rollback,
        txn_answers.pessimistic_rollback,
    ),
)

RANGES: Final[tuple[CommandKind, ...]] = (
    WriteCommand(method="KvDeleteRange", member="DeleteRange", prepare=txn_ranges.delete_range),
    StoreCommand(method="UnsafeDestroyRange", start=txn_ranges.destroy_range),
    RegionCommand(method="KvGC", member="GC", start=txn_ranges.collect),
    StoreCommand(method="GetLockWaitInfo", start=txn_ranges.lock_wait_info),
)

TXN_COMMANDS: Final = (*READS, *WRITES, *RANGES)
