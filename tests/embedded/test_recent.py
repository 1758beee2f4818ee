"""What is remembered of recent commits: it may know less than the engine, and is never certain without reason."""

from __future__ import annotations

from collections.abc import Callable
from random import Random

import pytest

import pytinykv
from pytinykv.client import WriteConflictError
from pytinykv.embedded import recent
from pytinykv.embedded.core import EmbeddedCore
from pytinykv.embedded.recent import RecentCommits


@pytest.mark.parametrize("seed", range(20))
def test_what_it_is_certain_of_is_so(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = Random(seed)
    monkeypatch.setattr(recent, "KEYS_MAX", rng.choice([1, 3, 100]))
    monkeypatch.setattr(recent, "BYTES_MAX", rng.choice([2, 20, 1000]))
    keys = [b"%d" % number for number in range(8)]
    recents, newest, now, certain = RecentCommits(10), dict.fromkeys(keys, 0), 10, 0
    for _ in range(500):
        now += rng.randint(1, 3)
        for key in rng.sample(keys, rng.randint(1, 3)):
            timestamp = rng.choice(
                [now, now, now, max(1, now - rng.randint(1, 10))]
            )  # a rollback's record stands lower
            newest[key] = max(newest[key], timestamp)
            recents.note(key, timestamp)
        start_ts = rng.randint(max(1, now - 10), now + 3)
        asked = [(key, None) for key in rng.sample(keys, rng.randint(1, 3))]
        if recents.has_none_since(asked, start_ts):
            certain += 1
            assert all(newest[key] < start_ts for key, _ in asked)
    assert certain


def overlapping(db: pytinykv.Client, between: Callable[[], None]) -> None:
    """Commit a transaction beside which another one was first."""
    with db.transaction() as txn:
        txn.put(b"k", b"late")
        between()


def commits_of_others(db: pytinykv.Client) -> list[Callable[[], None]]:
    def put() -> None:
        with db.transaction() as txn:
            txn.put(b"k", b"1")

    def delete() -> None:
        with db.transaction() as txn:
            txn.delete(b"k")

    def pessimistic() -> None:
        with db.transaction(pessimistic=True) as txn:
            txn.put(b"k", b"1")

    def locked_only() -> None:
        with db.transaction() as txn:
            txn.lock(b"k")
            txn.put(b"other", b"1")

    def many() -> None:
        put()
        with db.transaction() as txn:
            for number in range(recent.KEYS_MAX + 1):
                txn.put(b"%d" % number, b"")

    return [put, delete, pessimistic, locked_only, many]


def test_of_two_that_write_one_key_the_second_is_refused_whatever_the_first_was() -> None:
    with pytinykv.open(None) as db:
        for first in commits_of_others(db):
            with pytest.raises(WriteConflictError):
                overlapping(db, first)
        overlapping(db, lambda: None)
        assert db.snapshot().get(b"k") == b"late"


def test_commits_are_plain_unless_there_is_something_in_the_way(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytinykv.open(None) as db:
        assert isinstance(db._core, EmbeddedCore)
        evaluated: list[object] = []
        database = db._core.database
        inner = database._commit_evaluated

        def counted(*arguments: object) -> int:
            evaluated.append(arguments)
            return inner(*arguments)  # type: ignore[arg-type]  # as they came

        monkeypatch.setattr(database, "_commit_evaluated", counted)
        for _ in range(3):
            with db.transaction() as txn:
                txn.put(b"a", b"1")
                txn.delete(b"b")
        assert not evaluated
        with db.transaction() as txn:
            txn.insert(b"new", b"1")
        with db.transaction(pessimistic=True) as txn:
            txn.put(b"a", b"1")
        assert len(evaluated) == 2
        with db.transaction(pessimistic=True) as holder:
            holder.put(b"held", b"1")
            with db.transaction() as txn:
                txn.put(b"a", b"2")
            assert len(evaluated) == 3


def test_a_database_that_was_opened_again_refuses_conflicts(tmp_path: object) -> None:
    path = f"{tmp_path}/data"
    for _ in range(2):
        with pytinykv.open(path) as db:
            for first in commits_of_others(db):
                with pytest.raises(WriteConflictError):
                    overlapping(db, first)
