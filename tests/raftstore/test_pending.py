"""Calls that wait: each is answered once, with the truth."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytinykv.raft import LogIndex, Term
from pytinykv.raftstore.pending import Part, PendingProposals, PendingReads, Proposal


def ignore(*_args: Any) -> None:
    """Stand for a caller."""


def proposal(index: int, term: int, name: str = "") -> Proposal:
    part = Part(1, lambda *_args: name)  # type: ignore[arg-type,return-value]  # only told apart
    return Proposal(LogIndex(index), Term(term), [part])


def settled(pending: PendingProposals, index: int, term: int) -> tuple[list[Part], list[int]]:
    parts, lost = pending.settle(LogIndex(index), Term(term))
    return parts, [one.index for one in lost]


def test_an_applied_entry_answers_its_own_proposal() -> None:
    pending = PendingProposals()
    first, second = proposal(5, 2), proposal(6, 2)
    pending.add(first)
    pending.add(second)
    assert settled(pending, 5, 2) == (first.parts, [])
    assert settled(pending, 6, 2) == (second.parts, [])
    assert len(pending) == 0


def test_another_leaders_entry_overtakes_only_the_proposal_of_its_slot() -> None:
    pending = PendingProposals()
    for index in (5, 6, 7):
        pending.add(proposal(index, 2))
    assert settled(pending, 5, 3) == ([], [5])
    assert len(pending) == 2, "6 and 7 may still be committed by a leader that has them"


def test_a_leader_that_came_back_with_a_shorter_log_knows_its_new_proposal() -> None:
    """Proposals 5 to 8 of term 2; another leader overwrote 5; this one leads again and proposes at 7, in term 4."""
    pending = PendingProposals()
    for index in (5, 6, 7, 8):
        pending.add(proposal(index, 2))
    again = proposal(7, 4)
    pending.add(again)
    assert settled(pending, 5, 3) == ([], [5])
    assert settled(pending, 6, 4) == ([], [6])
    assert settled(pending, 7, 4) == (again.parts, [7]), "applied, so it must not be told that it was not"
    assert settled(pending, 8, 4) == ([], [8])


def test_the_older_proposal_of_a_slot_may_win() -> None:
    pending = PendingProposals()
    old, new = proposal(7, 2), proposal(7, 4)
    pending.add(old)
    pending.add(new)
    parts, lost = pending.settle(LogIndex(7), Term(2))
    assert parts == old.parts
    assert lost == [new]


def test_proposals_of_earlier_terms_can_be_given_up_alone() -> None:
    pending = PendingProposals()
    for one in (proposal(5, 2), proposal(9, 2), proposal(6, 4)):
        pending.add(one)
    given_up = pending.take_before(Term(4))
    assert [(one.index, one.term) for one in given_up] == [(5, 2), (9, 2)]
    assert len(pending) == 1


@given(
    st.lists(st.tuples(st.integers(1, 8), st.integers(1, 4)), unique=True),
    st.lists(st.integers(1, 4), max_size=8),
)
def test_every_proposal_gets_exactly_one_answer(proposals: list[tuple[int, int]], applied_terms: list[int]) -> None:
    """Whatever is proposed and applied: success exactly for what was applied, and nothing is forgotten or told twice."""
    pending = PendingProposals()
    for index, term in sorted(proposals, key=lambda one: one[1]):
        pending.add(proposal(index, term))
    answered: list[tuple[int, int]] = []
    for index, term in enumerate(applied_terms, start=1):
        parts, lost = pending.settle(LogIndex(index), Term(term))
        assert bool(parts) == ((index, term) in proposals)
        answered += [(index, term)] * bool(parts) + [(one.index, one.term) for one in lost]
        assert all((one.index, one.term) != (index, term) for one in lost)
    answered += [(one.index, one.term) for one in pending.take_all()]
    assert sorted(answered) == sorted(proposals)


def test_reads_are_asked_for_together_and_served_when_applied() -> None:
    reads, contexts = PendingReads(), []
    first, second = (lambda _error: None), (lambda _error: None)
    reads.add(first)
    reads.add(second)
    reads.ask(contexts.append)
    assert len(contexts) == 1
    assert not reads.has_waiting
    reads.on_confirmed(contexts[0], LogIndex(7))
    assert reads.take_served(LogIndex(6)) == []
    assert reads.take_served(LogIndex(7)) == [first, second]
    assert len(reads) == 0


def test_reads_go_on_waiting_when_no_leader_can_be_asked() -> None:
    reads = PendingReads()
    reads.add(ignore)

    def refuse(_context: bytes) -> None:
        raise LookupError

    with pytest.raises(LookupError):
        reads.ask(refuse)
    assert reads.has_waiting
    assert len(reads) == 1


def test_reads_in_every_state_are_taken_when_leadership_is_lost() -> None:
    reads, contexts = PendingReads(), []
    for _ in range(2):
        reads.add(ignore)
        reads.ask(contexts.append)
    reads.add(ignore)
    reads.on_confirmed(contexts[0], LogIndex(7))
    assert len(reads.take_all()) == 3
    assert len(reads) == 0
    reads.on_confirmed(contexts[1], LogIndex(9))
    assert reads.take_served(LogIndex(9)) == []


def test_dropped_contexts_give_back_their_reads() -> None:
    reads, contexts = PendingReads(), []
    reads.add(ignore)
    reads.ask(contexts.append)
    assert reads.take_dropped(contexts) == [ignore]
    assert reads.take_dropped(contexts) == []
    assert len(reads) == 0
