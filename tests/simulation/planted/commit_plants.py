"""Bugs to plant, continued: what a store forgets of a transaction, and of the leader before it."""

from __future__ import annotations

import sys
from typing import Any

from planted.patching import Patch
from planted.plants import planted
from planted.txn_plants import NOT_ISOLATED
from pytinykv.server.kv import txn_host
from pytinykv.transaction import executor
from pytinykv.transaction.changes import TxnChanges
from pytinykv.transaction.commands import CheckSecondaryLocks
from pytinykv.transaction.errors import CommitTsExpired, ConflictReason, TxnErrorRaised, TxnLockNotFound, WriteConflict
from pytinykv.transaction.prewrite import _Prewriter
from pytinykv.transaction.reader import before
from pytinykv.transaction.results import Evaluation
from pytinykv.transaction.stored_keys import encode_bytes

commit = sys.modules["pytinykv.transaction.commit"]
"""The module, whose name in its package is that of its function."""


@planted("a prewrite is accepted after a rollback", "slow-commits", 10, NOT_ISOLATED)
def a_prewrite_is_accepted_after_a_rollback(patch: Patch) -> None:
    right = _Prewriter._check_conflicts

    def _check_conflicts(self: Any, mutation: Any, encoded: bytes) -> Any:
        try:
            return right(self, mutation, encoded)
        except TxnErrorRaised as raised:
            error = raised.error
            if not isinstance(error, WriteConflict) or error.reason is not ConflictReason.SELF_ROLLED_BACK:
                raise
            return self._reader.seek_write(encoded, before(self._command.start_ts))

    patch.setattr(_Prewriter, "_check_conflicts", _check_conflicts)


@planted("a commit does not need a lock", "slow-commits", 10, NOT_ISOLATED)
def a_commit_does_not_need_a_lock(patch: Patch) -> None:
    right = commit.commit_key

    def commit_key(*args: Any) -> Any:
        try:
            return right(*args)
        except TxnErrorRaised as raised:
            if not isinstance(raised.error, TxnLockNotFound):
                raise
            return None

    patch.setattr(commit, "commit_key", commit_key)


@planted("min_commit_ts is ignored", "slow-commits", 15, NOT_ISOLATED)
def min_commit_ts_is_ignored(patch: Patch) -> None:
    right = commit.commit_key

    def commit_key(reader: Any, changes: Any, key: bytes, start_ts: int, commit_ts: int) -> Any:
        try:
            return right(reader, changes, key, start_ts, commit_ts)
        except TxnErrorRaised as raised:
            if not isinstance(raised.error, CommitTsExpired):
                raise
            encoded = encode_bytes(key)
            changes.put_write(encoded, commit_ts, commit._record_of(reader.load_lock(encoded), commit_ts))
            changes.unlock(key, encoded, start_ts, commit_ts)
            return None

    patch.setattr(commit, "commit_key", commit_key)


@planted("a rollback is not recorded", "slow-commits", 10, NOT_ISOLATED)
def a_rollback_is_not_recorded(patch: Patch) -> None:
    def put_rollback(_self: Any, _encoded: bytes, _start_ts: int, _record: Any, *, protected: bool) -> None:
        del protected

    patch.setattr(TxnChanges, "put_rollback", put_rollback)


@planted("a missing secondary is not rolled back", "slow-commits", 10, NOT_ISOLATED, first=8)
def a_missing_secondary_is_not_rolled_back(patch: Patch) -> None:
    right = executor.Executor._evaluate_now

    def evaluate_now(self: Any, port: Any, command: Any) -> Evaluation:
        evaluation = right(self, port, command)
        return Evaluation(evaluation.result) if isinstance(command, CheckSecondaryLocks) else evaluation

    patch.setattr(executor.Executor, "_evaluate_now", evaluate_now)


@planted("max_ts is not refreshed on a new leader", "new-leaders", 10, NOT_ISOLATED)
def max_ts_is_not_refreshed_on_a_new_leader(patch: Patch) -> None:
    patch.setattr(txn_host.TransactionHost, "knows_max_ts", lambda _self, _region_id, _term: True)
    patch.setattr(txn_host.TransactionHost, "_fetch_soon", lambda _self: None)


@planted("evaluates before the old leader's entries are applied", "unapplied-entries", 10, NOT_ISOLATED)
def evaluates_before_the_old_leaders_entries_are_applied(patch: Patch) -> None:
    patch.setattr(txn_host.StorePort, "is_current", lambda _self: True)


@planted("the epoch is not compared again after a wait", "split-waits", 10, NOT_ISOLATED)
def the_epoch_is_not_compared_again_after_a_wait(patch: Patch) -> None:
    # Neither when the command is evaluated nor when it becomes an entry: it goes as one of the region as it is by then.
    right_refusal, right_propose = txn_host.StorePort.refusal, txn_host.StorePort.propose

    def refusal(self: Any) -> Any:
        self.version = self.peer.region.epoch.version
        return right_refusal(self)

    def propose(self: Any, changes: Any, on_applied: Any) -> None:
        self.version = self.peer.region.epoch.version
        right_propose(self, changes, on_applied)

    patch.setattr(txn_host.StorePort, "refusal", refusal)
    patch.setattr(txn_host.StorePort, "propose", propose)
