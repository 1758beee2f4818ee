"""Whatever comes late, twice or never, transactions are whole, isolated, and as their clients were told.

And what judges the histories is no fool: it finds each of some bugs that are planted here.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from tests.transaction.random_clients import Violation, World

from pytinykv.transaction import commit, concurrency, gc, prewrite, reader, status
from pytinykv.transaction.changes import TxnChanges
from pytinykv.transaction.concurrency import ConcurrencyManager
from pytinykv.transaction.records import Lock
from pytinykv.transaction.results import Action, LockInfo, TxnStatus
from pytinykv.transaction.stored_keys import encode_bytes
from pytinykv.wire.timestamp import MAX_TIMESTAMP

STEPS = 250
PLANTED_SEEDS = 60
"""Within so many histories each planted bug is found."""


def run(seed: int) -> World:
    world = World(seed)
    try:
        world.run(STEPS)
    finally:
        world.store.engine.close()
    return world


@pytest.mark.parametrize("first", range(0, 100, 25))
def test_random_transactions(first: int) -> None:
    worlds = [run(seed) for seed in range(first, first + 25)]
    states = [txn.state for world in worlds for txn in world.txns]
    assert states.count("committed") > 100, "the histories are too poor to show anything"
    assert states.count("rolled back") > 100
    assert sum(len(world.reads) for world in worlds) > 1000


Plant = Callable[[pytest.MonkeyPatch], None]


def replace(owner: Any, name: str, planted: Any) -> Plant:
    return lambda monkeypatch: monkeypatch.setattr(owner, name, planted)


def nothing(*args: object, **more: object) -> None:
    return None


def newest_without_conflict(self: Any, mutation: Any, encoded: bytes) -> Any:
    return self._reader.seek_write(encoded, MAX_TIMESTAMP)


def pushed_in_words_only(changes: TxnChanges, command: Any, lock: Lock) -> TxnStatus:
    return TxnStatus(Action.MIN_COMMIT_TS_PUSHED, lock=LockInfo(command.primary, lock))


def nothing_left_of_the_missing_secondary(*args: Any, **more: Any) -> None:
    return None


_look = gc._Collector.look


def newest_put_counts_as_superseded(self: Any, stored: bytes, record: bytes) -> None:
    _look(self, stored, record)
    if self._has_newest and record[0] == ord("P") and stored[-8:] > self._from:
        self._drop(stored, record)


_commit_key = commit.commit_key


def whatever_was_promised(reader: Any, changes: TxnChanges, key: bytes, start_ts: Any, commit_ts: Any) -> Any:
    encoded = encode_bytes(key)
    lock = reader.load_lock(encoded)
    if lock is None or lock.start_ts != start_ts or lock.is_pessimistic:
        return _commit_key(reader, changes, key, start_ts, commit_ts)
    changes.put_write(encoded, commit_ts, commit._record_of(lock, commit_ts))
    changes.unlock(key, encoded, start_ts, commit_ts)
    return None


def without_commit_record(*args: Any) -> reader.CommitRecord:
    return reader.CommitRecord()


PLANTED: dict[str, Plant] = {
    "reads do not raise max_ts": replace(ConcurrencyManager, "note_read", nothing),
    "no lock in memory": replace(ConcurrencyManager, "lock", nothing),
    "reads pass all locks": replace(reader, "lock_in_the_way", nothing),
    "scans and memory pass all locks": replace(concurrency, "lock_in_the_way", nothing),
    "rollbacks leave no record": replace(TxnChanges, "put_rollback", nothing),
    "no conflict with newer versions": replace(prewrite._Prewriter, "_check_conflicts", newest_without_conflict),
    "a lost pessimistic lock is always made up for": replace(prewrite._Prewriter, "_amend", newest_without_conflict),
    "min_commit_ts is pushed in words only": replace(status, "_push_min_commit_ts", pushed_in_words_only),
    "a missing secondary may still come": replace(status, "roll_back_missing", nothing_left_of_the_missing_secondary),
    "garbage collection takes the newest put": replace(gc._Collector, "look", newest_put_counts_as_superseded),
    "a commit in the past is not remembered": replace(reader.MvccReader, "commit_record", without_commit_record),
    "a commit may be below what was promised": replace(commit, "commit_key", whatever_was_promised),
}


@pytest.mark.parametrize("name", PLANTED)
def test_a_planted_bug_is_found(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    PLANTED[name](monkeypatch)
    for seed in range(PLANTED_SEEDS):
        try:
            run(seed)
        except (Violation, AssertionError):
            return
    pytest.fail(f"not found in {PLANTED_SEEDS} histories")
