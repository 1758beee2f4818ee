"""The commits of a group are written in one batch: what others of the group see of it, and what becomes of it on bad days."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest

from pytinykv.client import ClientError, DatabaseError, KeyExistsError, UndeterminedError, WriteConflictError
from pytinykv.client.txn.records import INSERT, PUT, BufferedWrite
from pytinykv.embedded.database import Database
from pytinykv.embedded.groups import Entry
from pytinykv.embedded.local_port import BATCH_BYTES
from pytinykv.storage import EngineError, MemoryEngine


def soon() -> float:
    return time.monotonic() + 10


class Desk:
    """A database whose commits are put into groups by hand."""

    def __init__(self, *, is_relaxed: bool = False) -> None:
        self.engine = MemoryEngine()
        self.database = Database(self.engine, None, name="memory", is_relaxed=is_relaxed)

    def work(self, *writes: BufferedWrite) -> Callable[[], int]:
        txn = self.database.begin(soon(), is_pessimistic=False)
        return self.database.commit_work(txn, writes)

    def commit(self, *works: Callable[[], int]) -> list[int | ClientError]:
        """Commit in one group; return what each comes to."""
        entries: list[Entry[int]] = []
        for work in works:
            entry, _ = self.database.groups.enqueue(work, lambda _: None)
            entries.append(entry)
        self.database.groups.lead()
        return [outcome(entry) for entry in entries]

    def values(self, *keys: bytes) -> list[bytes | None]:
        view = self.database.view(None)
        assert view is not None
        return [self.database.reads.get(view, key) for key in keys]


def outcome(entry: Entry[int]) -> int | ClientError:
    try:
        return entry.result()
    except ClientError as error:
        return error


def put(key: bytes, value: bytes = b"v") -> BufferedWrite:
    return BufferedWrite(key, PUT, value)


def insert(key: bytes) -> BufferedWrite:
    return BufferedWrite(key, INSERT, b"inserted")


def test_the_commits_of_a_group_are_one_batch() -> None:
    desk = Desk()
    before = desk.database.port.writes
    several = desk.commit(*(desk.work(put(b"%d" % number), put(b"x%d" % number)) for number in range(5)))
    assert desk.database.port.writes == before + 1
    assert several == sorted(several)  # type: ignore[type-var]  # all are timestamps
    assert desk.values(b"0", b"x4") == [b"v", b"v"]


@pytest.mark.parametrize("fails", [False, True])
def test_a_group_of_large_commits_is_more_than_one_batch(*, fails: bool) -> None:
    desk = Desk(is_relaxed=True)
    works = [desk.work(put(b"%d" % number, bytes(BATCH_BYTES // 2))) for number in range(5)]
    before = desk.database.port.writes
    if fails:
        desk.engine.faults.write_error = EngineError("the disk is gone")
    outcomes = desk.commit(*works)
    if fails:
        assert all(isinstance(each, UndeterminedError) for each in outcomes[:3]), "those of the batch that was tried"
        assert all(isinstance(each, DatabaseError) for each in outcomes[3:]), "it takes no writes any more"
        assert desk.values(b"0", b"4") == [None, None]
    else:
        assert desk.database.port.writes == before + 2
        assert desk.values(b"0", b"4") == [bytes(BATCH_BYTES // 2)] * 2


def test_a_commit_that_has_to_look_sees_those_of_its_group_before_it() -> None:
    desk = Desk()
    first, *others = desk.commit(
        desk.work(put(b"k")),
        desk.work(insert(b"k")),
        desk.work(insert(b"new")),
        desk.work(put(b"new")),
        desk.work(put(b"k")),
    )
    conflict, inserted, late, last = others
    assert isinstance(first, int)
    assert isinstance(inserted, int)
    assert isinstance(conflict, WriteConflictError)
    assert conflict.conflict_commit_ts == first
    assert isinstance(late, WriteConflictError)
    assert isinstance(last, WriteConflictError)
    assert desk.values(b"k", b"new") == [b"v", b"inserted"]
    (exists,) = desk.commit(desk.work(insert(b"k")))
    assert isinstance(exists, KeyExistsError)


@pytest.mark.parametrize("is_relaxed", [False, True], ids=["full", "relaxed"])
@pytest.mark.parametrize("is_looked_at", [False, True], ids=["at the end", "in the middle"])
def test_a_batch_that_fails_leaves_all_its_commits_in_doubt(*, is_relaxed: bool, is_looked_at: bool) -> None:
    desk = Desk(is_relaxed=is_relaxed)
    assert isinstance(desk.commit(desk.work(put(b"k", b"old")))[0], int)
    works = [desk.work(put(b"k", b"new")), desk.work(put(b"j"))]
    evaluated = [desk.work(insert(b"i"))] if is_looked_at else []
    desk.engine.faults.write_error = EngineError("the disk is gone")
    outcomes = desk.commit(*works, *evaluated)
    assert all(isinstance(each, UndeterminedError) for each in outcomes[:2])
    for refused in outcomes[2:]:
        assert isinstance(refused, DatabaseError), "nothing of it was written"
    assert desk.values(b"k", b"j", b"i") == [b"old", None, None]
    later = desk.commit(desk.work(put(b"k")))
    assert isinstance(later[0], DatabaseError)


def test_a_write_that_is_interrupted_leaves_no_part_of_a_transaction_for_the_next_group(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    desk = Desk()

    def interrupted(batch: object) -> None:
        raise KeyboardInterrupt

    works = [desk.work(put(b"a"), put(b"b")), desk.work(put(b"c"))]
    entries = [desk.database.groups.enqueue(work, lambda _: None)[0] for work in works]
    with monkeypatch.context() as patch:
        patch.setattr(desk.engine, "write", interrupted)
        with pytest.raises(KeyboardInterrupt):
            desk.database.groups.lead()
    assert all(isinstance(outcome(entry), UndeterminedError) for entry in entries)
    assert isinstance(desk.commit(desk.work(put(b"d")))[0], int)
    assert desk.values(b"a", b"b", b"c", b"d") == [None, None, None, b"v"]
