"""Bugs to plant, continued: transactions, at their clients and in their stores."""

from __future__ import annotations

import sys
from typing import Any

from planted.patching import Patch
from planted.plants import LOST, STUCK, planted
from pytinykv.client.txn import cluster_backend, committer, resolver
from pytinykv.server.kv.garbage import GarbageCollector
from pytinykv.transaction import executor, pessimistic, prewrite
from pytinykv.transaction.concurrency import ConcurrencyManager
from pytinykv.transaction.errors import KeyIsLocked, TxnErrorRaised
from pytinykv.transaction.lock_waits import LockWaits
from pytinykv.transaction.reader import MvccReader
from pytinykv.transaction.records import Lock
from pytinykv.transaction.stored_keys import encode_bytes

NOT_ISOLATED = frozenset({"snapshot isolation", "isolation", "bank"}) | LOST
"""Checkers that see what no transaction may see, or commits that are lost or there by half."""


# --- clients ------------------------------------------------------------------------------------------------------------


@planted("a stale timestamp", "transactions", 4, NOT_ISOLATED)
def a_stale_timestamp(patch: Patch) -> None:
    right = cluster_backend.ClusterBackend._timestamp

    async def _timestamp(self: Any, deadline: float) -> int:
        return await right(self, deadline) - (50 << 18)

    patch.setattr(cluster_backend.ClusterBackend, "_timestamp", _timestamp)


@planted("a refused prewrite is taken for done", "transactions", 4, NOT_ISOLATED)
def a_refused_prewrite_is_taken_for_done(patch: Patch) -> None:
    right = committer.run_batch

    async def run_batch(*args: Any, **options: Any) -> Any:
        results = await right(*args, **options)
        return [result._replace(error=None, locks=()) if hasattr(result, "error") else result for result in results]

    patch.setattr(committer, "run_batch", run_batch)


@planted("secondaries are resolved the wrong way", "transactions", 20, NOT_ISOLATED, first=5)
def secondaries_are_resolved_the_wrong_way(patch: Patch) -> None:
    right = resolver.Resolver._resolve

    async def _resolve(self: Any, locks: Any, status: Any, deadline: float) -> None:
        await right(self, locks, status._replace(commit_ts=0), deadline)

    async def left_to_others(_self: Any, _keys: Any, _commit_ts: int) -> None:
        pass

    patch.setattr(resolver.Resolver, "_resolve", _resolve)
    patch.setattr(committer._Commit, "_background_commit", left_to_others)


# --- reads --------------------------------------------------------------------------------------------------------------


@planted("no lock check on read", "transactions", 4, NOT_ISOLATED)
def no_lock_check_on_read(patch: Patch) -> None:
    def lock_in_the_way(_key: bytes, _lock: Lock, _view: Any) -> None:
        return None

    for name in ("reader", "scan"):
        patch.setattr(sys.modules[f"pytinykv.transaction.{name}"], "lock_in_the_way", lock_in_the_way)


@planted("reads pass the locks in memory", "transactions", 40, NOT_ISOLATED)
def reads_pass_the_locks_in_memory(patch: Patch) -> None:
    patch.setattr(ConcurrencyManager, "blocks", lambda _self, _key, _view: None)
    patch.setattr(ConcurrencyManager, "blocks_range", lambda _self, _start, _end, _view: None)


@planted("async commit with a stale max_ts: reads are not noted", "transactions", 40, NOT_ISOLATED, first=2)
def reads_are_not_noted(patch: Patch) -> None:
    patch.setattr(ConcurrencyManager, "note_read", lambda _self, _version: None)


@planted("prewrite does not look for newer versions", "transactions", 4, NOT_ISOLATED)
def prewrite_does_not_look_for_newer_versions(patch: Patch) -> None:
    def _check_conflicts(self: Any, _mutation: Any, encoded: bytes) -> Any:
        return self._reader.seek_write(encoded, prewrite.MAX_TIMESTAMP)

    patch.setattr(prewrite._Prewriter, "_check_conflicts", _check_conflicts)


@planted("a latch is released before the changes are applied", "transactions", 10, NOT_ISOLATED | STUCK)
def a_latch_is_released_early(patch: Patch) -> None:
    # Also by liveness: one who pushes a lock, computed from what was there before its commit, puts it back after that. The
    # lock of a transaction with a commit record can neither be committed nor rolled back, and everyone waits for it.
    patch.setattr(executor, "latch_keys", lambda _command: ())


@planted("a pessimistic lock takes the place of another's", "transactions", 10, NOT_ISOLATED | STUCK)
def a_pessimistic_lock_takes_the_place_of_anothers(patch: Patch) -> None:
    right = pessimistic._Locker.lock

    def lock(self: Any, request: Any) -> Any:
        try:
            return right(self, request)
        except TxnErrorRaised as raised:
            if not isinstance(raised.error, KeyIsLocked):
                raise
            return self._lock_free(request, encode_bytes(request.key))

    patch.setattr(pessimistic._Locker, "lock", lock)


@planted("a pessimistic lock does not look for newer versions", "transactions", 10, NOT_ISOLATED)
def a_pessimistic_lock_does_not_look_for_newer_versions(patch: Patch) -> None:
    patch.setattr(pessimistic._Locker, "_check_newest", lambda _self, _key, _encoded, _commit_ts, _write: None)


@planted("a waiter is not woken", "transactions", 4, STUCK)
def a_waiter_is_not_woken(patch: Patch) -> None:
    patch.setattr(LockWaits, "on_released", lambda _self, _keys: None)


@planted("a lock's time to live is counted by the wrong clock", "transactions", 40, STUCK, first=17)
def a_lock_lives_by_the_wrong_clock(patch: Patch) -> None:
    # Milliseconds of the cluster against the logical part of the timestamp: it never runs out.
    patch.setattr(Lock, "is_expired", lambda self, current_ts: self.expires_at_ms() < current_ts & 0x3FFFF)


# --- garbage --------------------------------------------------------------------------------------------------------------


@planted("garbage is collected past a running transaction", "old-readers", 3, frozenset({"story"}))
def garbage_is_collected_past_a_running_transaction(patch: Patch) -> None:
    async def oldest_lock(_self: GarbageCollector) -> int:
        return prewrite.MAX_TIMESTAMP

    patch.setattr(GarbageCollector, "oldest_lock", oldest_lock)


@planted("readers below the safe point are not refused", "old-readers", 3, NOT_ISOLATED)
def readers_below_the_safe_point_are_not_refused(patch: Patch) -> None:
    patch.setattr(MvccReader, "check_safe_point", lambda _self, _key, _version: None)
