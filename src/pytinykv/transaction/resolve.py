"""Resolving locks of transactions whose fate is known, and finding them.

A transaction that was stopped by a lock asks its primary (`status`), and then has the lock committed or rolled back.
Locks of a large transaction are found by walking through the region, in portions: each is a command of its own, for the
keys that the portion names, so that it needs latches on these only, and others come in between.

    ResolveLock over a range ──next_portion──▶ ResolveLock of ≤ 256 keys ──▶ latches ──▶ resolve_lock ──▶ applied
                              ▲                                                                         │
                              └───────────────────────── from the key behind ───────────────────────────┘

Between a portion's making and its evaluation under latches a lock may go, and another may come: only a lock that is
there, and whose transaction is one of the command's, is resolved.
"""

from __future__ import annotations

from collections.abc import Generator
from typing import TYPE_CHECKING, Final

import msgspec

from pytinykv.storage import ColumnFamily
from pytinykv.transaction.changes import TxnChanges
from pytinykv.transaction.commands import ResolveLock, ScanLock
from pytinykv.transaction.commit import commit_key
from pytinykv.transaction.concurrency import ConcurrencyManager
from pytinykv.transaction.reader import MvccReader
from pytinykv.transaction.records import NO_TS, decode_lock
from pytinykv.transaction.results import DONE, Evaluation, LockInfo, LocksResult
from pytinykv.transaction.rollback import roll_back_key
from pytinykv.transaction.stored_keys import encode_bytes, encoded_range, user_key

if TYPE_CHECKING:
    from pytinykv.storage import Reader

PORTION_KEYS_MAX: Final = 256
"""Locks that one portion resolves."""
PORTION_LOOKS_MAX: Final = 4096
"""Locks, also of others, that are looked at for one portion; some milliseconds."""

LOCKS_PER_STEP: Final = 256
"""Locks that are looked at in one step of a ScanLock."""


class Portion(msgspec.Struct, frozen=True):
    """A part of the way through a range."""

    command: ResolveLock
    """For the keys that were found; there may be none."""
    rest: ResolveLock | None
    """The range that is left, None at its end."""


def next_portion(source: Reader, command: ResolveLock, *, keys_max: int = PORTION_KEYS_MAX) -> Portion:
    """Find the first locks in the command's range that it resolves. Looks at the engine for a few milliseconds at most."""
    assert command.keys is None, "a command with keys is a portion already"
    start, end = encoded_range(command.start, command.end)
    found: list[bytes] = []
    looked_at = 0
    with source.cursor(ColumnFamily.LOCK, start, end) as cursor:
        for encoded, stored in cursor.pairs():
            if len(found) == keys_max or looked_at == PORTION_LOOKS_MAX:
                rest = msgspec.structs.replace(command, start=user_key(encoded))
                return Portion(msgspec.structs.replace(command, keys=tuple(found)), rest)
            looked_at += 1
            if decode_lock(stored).start_ts in command.statuses:
                found.append(user_key(encoded))
    return Portion(msgspec.structs.replace(command, keys=tuple(found)), None)


def resolve_lock(reader: MvccReader, command: ResolveLock, manager: ConcurrencyManager) -> Evaluation:
    """Evaluate a ResolveLock with keys."""
    assert command.keys is not None, "ask next_portion for the keys"
    changes = TxnChanges(manager)
    for start_ts, commit_ts in command.statuses.items():
        if commit_ts == NO_TS:
            manager.note_read(start_ts)
    for key in dict.fromkeys(command.keys):
        lock = reader.load_lock(encode_bytes(key))
        if lock is None or lock.start_ts not in command.statuses:
            continue
        commit_ts = command.statuses[lock.start_ts]
        if commit_ts == NO_TS:
            roll_back_key(reader, changes, key, lock.start_ts, protected=False)
        else:
            commit_key(reader, changes, key, lock.start_ts, commit_ts)
    return changes.finish(DONE)


def scan_lock(source: Reader, command: ScanLock, manager: ConcurrencyManager) -> LocksResult:
    """Answer a ScanLock: the locks in the engine, and those in memory that are not there yet."""
    steps = scan_lock_in_steps(source, command, manager)
    while True:
        try:
            next(steps)
        except StopIteration as done:
            return done.value  # type: ignore[no-any-return]  # what the generator returns


def scan_lock_in_steps(
    source: Reader, command: ScanLock, manager: ConcurrencyManager
) -> Generator[None, None, LocksResult]:
    """As `scan_lock`, in steps: yields each `LOCKS_PER_STEP` locks that it looks at. Shows the state of its first step."""
    manager.note_read(command.max_ts)
    found: dict[bytes, LockInfo] = {
        key: LockInfo(key, lock) for key, lock in manager.locks_in_range(command.start, command.end, command.max_ts)
    }
    start, end = encoded_range(command.start, command.end)
    left, looked_at = command.limit, 0
    with source.cursor(ColumnFamily.LOCK, start, end) as cursor:
        for encoded, stored in cursor.pairs():
            looked_at += 1
            if looked_at % LOCKS_PER_STEP == 0:
                yield
            lock = decode_lock(stored)
            if lock.start_ts > command.max_ts:
                continue
            key = user_key(encoded)
            found[key] = LockInfo(key, lock)
            left -= 1
            if not left:
                break
    ordered = [found[key] for key in sorted(found)]
    return LocksResult(ordered[: command.limit] if command.limit else ordered)
