"""How far the log and the term have got on the disk, while several Readys are under way."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from pytinykv.raft import LogIndex, Term
from pytinykv.raft.durability import Durability


def durability(index: int = 4, term: int = 2) -> Durability:
    return Durability(LogIndex(index), Term(term))


def hand(durable: Durability, number: int, last: int, term: int = 2) -> None:
    durable.handed(number, LogIndex(last), Term(term))


def test_a_completion_moves_both_borders() -> None:
    durable = durability()
    hand(durable, 1, 7, term=3)
    assert (durable.index, durable.term, durable.idle) == (4, 2, False)
    assert durable.persisted(1)
    assert (durable.index, durable.term, durable.idle) == (7, 3, True)


def test_a_completion_covers_all_before_it() -> None:
    durable = durability()
    for number, last in ((1, 5), (2, 7), (3, 9)):
        hand(durable, number, last)
    assert durable.persisted(2)
    assert (durable.index, durable.idle) == (7, False)
    assert not durable.persisted(2), "told again"


def test_a_completion_of_the_term_alone_counts() -> None:
    durable = durability()
    hand(durable, 1, 4, term=5)
    assert durable.persisted(1)
    assert (durable.index, durable.term) == (4, 5)


def test_overwriting_takes_back_what_was_durable() -> None:
    durable = durability(index=9)
    durable.overwritten(LogIndex(6))
    assert durable.index == 5


def test_a_completion_does_not_cover_what_was_overwritten_meanwhile() -> None:
    """The module's example: Ready 3 wrote 5 to 7, then a new leader's entries replace 6 and 7."""
    durable = durability()
    hand(durable, 3, 7)
    durable.overwritten(LogIndex(6))
    hand(durable, 4, 9)
    durable.persisted(3)
    assert durable.index == 5
    durable.persisted(4)
    assert durable.index == 9


@given(st.lists(st.tuples(st.sampled_from(["append", "overwrite", "hand", "persist"]), st.integers(0, 9))))
def test_the_disk_has_the_logs_entries_up_to_the_index(actions: list[tuple[str, int]]) -> None:
    """A log of numbered writes and a disk that takes them in order: below the border both are the same."""
    durable = durability(index=0)
    log: list[int] = []
    disk: list[int] = []
    unhanded = 0
    under_way: list[tuple[int, int, list[int]]] = []
    writes = number = 0
    for kind, draw in actions:
        if kind == "append":
            writes += 1
            log.append(writes)
        elif kind == "overwrite" and log:
            writes += 1
            at = draw % len(log)
            log[at:] = [writes]
            unhanded = min(unhanded, at)
            durable.overwritten(LogIndex(at + 1))
        elif kind == "hand":
            number += 1
            under_way.append((number, unhanded, log[unhanded:]))
            unhanded = len(log)
            durable.handed(number, LogIndex(len(log)), Term(2))
        elif kind == "persist" and under_way:
            done, first, entries = under_way.pop(0)
            if entries:
                disk[first:] = entries
            durable.persisted(done)
        assert log[: durable.index] == disk[: durable.index]
