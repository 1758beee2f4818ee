"""One way to evaluate every command that writes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pytinykv.transaction.commands import (
    BatchRollback,
    CheckSecondaryLocks,
    CheckTxnStatus,
    Cleanup,
    Commit,
    PessimisticLock,
    PessimisticRollback,
    Prewrite,
    ResolveLock,
    TxnHeartBeat,
    WriteCommand,
)
from pytinykv.transaction.commit import commit
from pytinykv.transaction.errors import TxnErrorRaised
from pytinykv.transaction.pessimistic import pessimistic_lock, pessimistic_rollback
from pytinykv.transaction.prewrite import prewrite
from pytinykv.transaction.reader import MvccReader
from pytinykv.transaction.records import NO_TS
from pytinykv.transaction.resolve import resolve_lock
from pytinykv.transaction.results import Evaluation, Failure
from pytinykv.transaction.rollback import batch_rollback, cleanup
from pytinykv.transaction.status import check_secondary_locks, check_txn_status, heart_beat

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from pytinykv.storage import Reader
    from pytinykv.transaction.concurrency import ConcurrencyManager
    from pytinykv.wire.timestamp import Timestamp

_EVALUATORS: dict[type, Callable[[MvccReader, Any, ConcurrencyManager], Evaluation]] = {
    Prewrite: prewrite,
    Commit: commit,
    BatchRollback: batch_rollback,
    Cleanup: cleanup,
    CheckTxnStatus: check_txn_status,
    TxnHeartBeat: heart_beat,
    CheckSecondaryLocks: check_secondary_locks,
    ResolveLock: resolve_lock,
    PessimisticLock: pessimistic_lock,
    PessimisticRollback: pessimistic_rollback,
}


def evaluate(
    source: Reader, command: WriteCommand, manager: ConcurrencyManager, safe_point: Timestamp = NO_TS
) -> Evaluation:
    """Work out what a command changes and what it is answered; see `Evaluation` for what the caller does then.

    The caller holds latches on `latch_keys(command)`, and `source` shows everything that was applied for these keys
    before. `safe_point`: up to where garbage may have been collected. Pure but for the manager, in which reads are noted
    and locks set.

    Raises:
        RecordFormatError: what is stored is damaged.
    """
    reader = MvccReader(source, safe_point=safe_point)
    try:
        return evaluate_in(reader, command, manager)
    finally:
        reader.close()


def evaluate_in(reader: MvccReader, command: WriteCommand, manager: ConcurrencyManager) -> Evaluation:
    """As `evaluate`, with a reader that several commands share, which is cheaper. Nothing may be written in between."""
    try:
        return _EVALUATORS[type(command)](reader, command, manager)
    except TxnErrorRaised as raised:
        return Evaluation(Failure((raised.error,)))
