"""The log: what the storage has, what only memory has, and the positions along it."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.raft.harness import Peer, accept, entries_of, ids, stored

from pytinykv.raft import (
    AppendEntries,
    Compacted,
    ConfState,
    Entry,
    LogIndex,
    MemoryStorage,
    SnapshotMeta,
    Term,
    Unavailable,
)
from pytinykv.raft import log as log_module
from pytinykv.raft.log import RaftLog

BYTES = 1 << 20


def index(number: int) -> LogIndex:
    return LogIndex(number)


def log_over(storage: MemoryStorage, *, commit: int = 0, applied: int = 0) -> RaftLog:
    return RaftLog(storage, index(commit), index(applied), Term(9))


def terms_of(log: RaftLog) -> list[int]:
    return [log.term(index(at)) for at in range(log.first_index(), log.last_index + 1)]


def write(log: RaftLog, storage: MemoryStorage) -> tuple[Entry, ...]:
    """Do what a driver does with a Ready, up to its call of the next one."""
    entries = log.take_unhanded()
    storage.append(entries)
    log.on_written()
    return entries


def meta(at: int, term: int) -> SnapshotMeta:
    return SnapshotMeta(index(at), Term(term), ConfState(ids(1)))


# -- where it begins


def test_a_log_starts_where_the_storage_is() -> None:
    log = log_over(stored(base=(5, 2), terms=(2, 3)), commit=6, applied=5)
    assert (log.first_index(), log.last_index, log.handed, log.durability.index) == (6, 7, 7, 7)
    assert (log.committed, log.applying, log.applied) == (6, 5, 5)


def test_commit_and_applied_index_are_at_least_where_the_log_begins() -> None:
    log = log_over(stored(base=(5, 2)))
    assert (log.committed, log.applied, log.first_index(), log.last_index) == (5, 5, 6, 5)


@pytest.mark.parametrize(("commit", "applied"), [(3, 0), (1, 2)])
def test_positions_that_contradict_each_other_are_a_programmers_error(commit: int, applied: int) -> None:
    with pytest.raises(AssertionError):
        log_over(stored(terms=(1, 1)), commit=commit, applied=applied)


# -- looking things up


def test_terms_come_from_the_snapshot_the_storage_and_memory() -> None:
    log = log_over(stored(base=(5, 2), terms=(2, 3)))
    log.append(entries_of(4, first=8))
    assert [log.term(index(at)) for at in range(5, 9)] == [2, 2, 3, 4]
    with pytest.raises(Compacted):
        log.term(index(4))
    with pytest.raises(Unavailable):
        log.term(index(9))


@pytest.mark.parametrize(
    ("at", "term", "expected"), [(5, 2, True), (7, 3, True), (7, 2, False), (8, 3, False), (4, 2, False)]
)
def test_a_position_matches_when_it_is_there_and_has_the_term(at: int, term: int, expected: bool) -> None:
    assert log_over(stored(base=(5, 2), terms=(2, 3))).matches(index(at), Term(term)) is expected


@pytest.mark.parametrize(
    ("last", "expected"), [((3, 2), True), ((4, 2), True), ((2, 2), False), ((1, 3), True), ((9, 1), False)]
)
def test_the_newer_last_term_wins_then_the_longer_log(last: tuple[int, int], expected: bool) -> None:
    """Raft 5.4.1."""
    log = log_over(stored(terms=(1, 1, 2)))
    assert log.is_up_to_date(index(last[0]), Term(last[1])) is expected


def test_entries_of_storage_and_memory_come_in_two_parts() -> None:
    log = log_over(stored(terms=(1, 1)))
    log.append(entries_of(2, 2, first=3))
    assert [entry.index for entry in log.entries(index(1), index(4), BYTES)] == [1, 2]
    assert [entry.index for entry in log.entries(index(3), index(4), BYTES)] == [3, 4]


@pytest.mark.parametrize("in_memory", [False, True])
@pytest.mark.parametrize(("bytes_max", "count"), [(0, 1), (10, 1), (20, 2), (29, 2), (30, 3)])
def test_entries_stop_at_a_size_but_there_is_one(in_memory: bool, bytes_max: int, count: int) -> None:
    storage = stored()
    log = log_over(storage)
    log.append(entries_of(1, 1, 1, data=b"x" * 10))
    if not in_memory:
        write(log, storage)
    assert len(log.entries(index(1), index(3), bytes_max)) == count


def test_entries_inside_the_snapshot_are_compacted() -> None:
    with pytest.raises(Compacted):
        log_over(stored(base=(5, 2), terms=(2,))).entries(index(5), index(6), BYTES)


@pytest.mark.parametrize(
    ("at", "term", "hint"),
    [
        (9, 3, (6, 3)),  # it ends below: the end, whose term is not above
        (6, 2, (5, 2)),  # terms above the asked one are passed over
        (6, 1, (2, 1)),
        (3, 2, (3, 2)),
        (2, 0, (0, 0)),  # nothing can match: the beginning
    ],
)
def test_the_hint_is_the_last_place_where_two_logs_can_agree(at: int, term: int, hint: tuple[int, int]) -> None:
    log = log_over(stored(terms=(1, 1, 2, 2, 2, 3)))
    assert log.conflict_hint(index(at), Term(term)) == hint


def test_two_hints_lead_to_where_two_logs_begin_to_differ() -> None:
    """The example of `RaftLog.conflict_hint`."""
    leader, follower = (log_over(stored(terms=terms)) for terms in ((1, 1, 4, 4, 4, 4), (1, 1, 2, 2, 2, 3, 3)))
    refused = follower.conflict_hint(index(6), Term(4))
    assert refused == (6, 3)
    assert leader.conflict_hint(*refused) == (2, 1)
    assert follower.matches(index(2), Term(1))


@pytest.mark.parametrize(
    ("terms", "first", "position"), [((1, 2), 2, 2), ((1, 3), 2, 1), ((2, 2), 3, 1), ((3,), 4, 0), ((), 1, 0)]
)
def test_the_first_conflict_is_the_first_entry_that_is_not_there(
    terms: tuple[int, ...], first: int, position: int
) -> None:
    log = log_over(stored(terms=(1, 1, 2)))
    assert log.first_conflict(entries_of(*terms, first=first)) == position


# -- appending


def test_appended_entries_are_handed_out_once_and_stay_until_they_are_written() -> None:
    storage = stored(terms=(1,))
    log = log_over(storage)
    log.append(entries_of(2, 2, first=2))
    assert log.take_unhanded() == entries_of(2, 2, first=2)
    assert log.take_unhanded() == ()
    assert log.term(index(3)) == 2, "the storage does not have it yet, memory does"
    storage.append(entries_of(2, 2, first=2))
    log.on_written()
    assert log._unwritten == []
    assert terms_of(log) == [1, 2, 2]


def test_what_was_not_handed_out_is_not_let_go_of() -> None:
    storage = stored()
    log = log_over(storage)
    log.append(entries_of(1))
    log.take_unhanded()
    log.append(entries_of(1, first=2))
    storage.append(entries_of(1))
    log.on_written()
    assert [entry.index for entry in log._unwritten] == [2]


@pytest.mark.parametrize("is_written", [False, True])
def test_an_append_replaces_what_conflicts(is_written: bool) -> None:
    storage = stored(terms=(1, 1, 1))
    log = log_over(storage, commit=1)
    log.append(entries_of(2, 2, first=4))
    if is_written:
        write(log, storage)
    log.append(entries_of(3, first=2))
    assert (terms_of(log), log.last_index, log.handed) == ([1, 3], 2, 1)
    assert log.durability.index == 1, "what lay above is not this log's any more"
    assert write(log, storage) == entries_of(3, first=2)


@pytest.mark.parametrize("first", [2, 5])
def test_committed_entries_are_never_overwritten_and_there_is_no_gap(first: int) -> None:
    log = log_over(stored(terms=(1, 1, 1)), commit=2)
    with pytest.raises(AssertionError):
        log.append(entries_of(2, first=first))


# -- committing and applying


def test_the_commit_index_only_grows_and_stays_within_the_log() -> None:
    log = log_over(stored(terms=(1, 1)))
    assert (log.commit_to(index(2)), log.commit_to(index(1)), log.committed) == (True, False, 2)
    with pytest.raises(AssertionError):
        log.commit_to(index(3))


def test_committed_entries_are_handed_out_once_in_portions() -> None:
    storage = stored()
    log = log_over(storage)
    log.append(entries_of(1, 1, 1, data=b"x" * 10))
    write(log, storage)
    log.commit_to(index(3))
    portions = []
    while log.has_committed():
        portions.append([entry.index for entry in log.take_committed(20)])
    assert (portions, log.take_committed(20)) == ([[1, 2], [3]], ())


def test_only_what_was_handed_out_can_be_applied() -> None:
    log = log_over(stored(terms=(1, 1)), commit=2)
    with pytest.raises(AssertionError):
        log.on_applied(index(1))
    log.take_committed(0)
    log.on_applied(index(1))
    assert log.applied == 1


# -- snapshots


def test_a_snapshot_replaces_the_log_and_nothing_below_it_is_read() -> None:
    storage = stored(terms=(1, 1, 1))
    log = log_over(storage, commit=1)
    log.restore(meta(7, 4))
    assert (log.first_index(), log.last_index, log.last_term(), log.committed) == (8, 7, 4, 7)
    assert log.is_installing()
    assert log.matches(index(7), Term(4))
    assert not log.matches(index(2), Term(1)), "the storage still has it, the log has not"
    with pytest.raises(Compacted):
        log.entries(index(2), index(7), BYTES)


def test_a_snapshot_is_handed_out_once_and_installing_ends_with_its_index() -> None:
    storage = stored(terms=(1,), commit=1)
    log = log_over(storage, commit=1)
    log.take_committed(BYTES)
    log.restore(meta(7, 4))
    log.append(entries_of(4, first=8))
    log.commit_to(index(8))
    assert log.on_applied(index(1)) is None, "an entry of the old log"
    assert (log.take_snapshot(), log.take_snapshot()) == (meta(7, 4), None)
    assert (log.is_installing(), log.has_committed()) == (True, False)
    storage.apply_snapshot(meta(7, 4))
    assert log.on_applied(index(7)) == meta(7, 4)
    assert (log.is_installing(), log.has_committed(), log.on_applied(index(7))) == (False, True, None)


def test_a_newer_snapshot_that_comes_while_one_is_installed_is_next() -> None:
    log = log_over(stored(terms=(1,)))
    log.restore(meta(7, 4))
    log.take_snapshot()
    log.restore(meta(9, 4))
    assert log.on_applied(index(7)) == meta(7, 4)
    assert log.is_installing()
    assert log.take_snapshot() == meta(9, 4)
    assert log.on_applied(index(9)) == meta(9, 4)
    assert not log.is_installing()


def test_the_log_begins_where_the_storage_was_cut() -> None:
    storage = stored(terms=(1, 1, 1))
    log = log_over(storage, commit=3)
    storage.set_applied(index(2), ConfState())
    storage.compact(index(2))
    assert log.first_index() == 3
    assert not log.matches(index(1), Term(1))


# -- against a model


@given(st.lists(st.tuples(st.sampled_from(["append", "overwrite", "hand", "commit", "apply"]), st.integers(0, 9))))
def test_whatever_happens_the_log_is_a_list_of_terms(actions: list[tuple[str, int]]) -> None:
    """Storage and memory together are one list, and the positions keep their order."""
    storage = MemoryStorage()
    log, term = log_over(storage), 1
    terms: list[int] = []
    committed = 0
    for kind, number in actions:
        if kind == "append":
            log.append(entries_of(*[term] * (number % 3 + 1), first=log.last_index + 1))
            terms += [term] * (number % 3 + 1)
        elif kind == "overwrite" and committed < len(terms):
            term += 1
            first = committed + 1 + number % (len(terms) - committed)
            log.append(entries_of(term, first=first))
            terms[first - 1 :] = [term]
        elif kind == "hand":
            write(log, storage)
        elif kind == "commit":
            committed = max(committed, min(len(terms), committed + number % 4))
            log.commit_to(index(committed))
        elif kind == "apply" and log.has_committed():
            log.on_applied(log.take_committed(number)[-1].index)
        assert terms_of(log) == terms
        assert log.applied <= log.applying <= log.committed == committed <= log.last_index
        assert log.durability.index <= log.handed <= log.last_index


def test_one_put_moves_the_positions_as_the_module_draws_it() -> None:
    table = re.findall(
        r"^    (\S.*?)  +(\d)  +(\d)  +(\d)  +(\d)  +(\d)  +(\d)$", log_module.__doc__ or "", re.MULTILINE
    )
    drawn = [tuple(map(int, numbers)) for _, *numbers in table]
    leader = Peer(1, stored(terms=(1, 1, 1, 1, 1), term=1, commit=5), applied=5)
    leader.lead()
    node, log = leader.node, leader.node._core.log
    played = []

    def note() -> None:
        played.append((log.last_index, log.handed, log.durability.index, log.committed, log.applying, log.applied))

    leader.propose(b"put")
    note()
    ready = node.ready(leader.now)
    leader.storage.append(ready.entries)
    note()
    for message in ready.messages:
        if isinstance(message, AppendEntries):
            leader.step(accept(message))
    note()
    assert [entry.index for entry in node.ready(leader.now).committed_entries] == [7]
    note()
    node.on_applied(index(7))
    note()
    node.on_persisted(ready.number, leader.now)
    note()
    assert played == drawn
