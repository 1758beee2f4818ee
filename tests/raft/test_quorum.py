"""Counting: majorities, votes, and single-step changes of the members (Raft 5.2, 5.3, thesis 4.1)."""

from __future__ import annotations

from itertools import combinations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.raft.harness import ids

from pytinykv.raft import ConfChange, ConfChangeKind, ConfState, PeerId
from pytinykv.raft.quorum import Configuration, VoteResult

ADD_VOTER, ADD_LEARNER, REMOVE = ConfChangeKind.ADD_VOTER, ConfChangeKind.ADD_LEARNER, ConfChangeKind.REMOVE
GROUPS = st.sets(st.integers(1, 9), min_size=1, max_size=7).map(lambda numbers: group(*numbers))
CHANGES = st.builds(ConfChange, st.sampled_from(ConfChangeKind), st.integers(1, 9).map(PeerId))


def group(*voters: int, learners: tuple[int, ...] = ()) -> Configuration:
    return Configuration(ConfState(ids(*voters), ids(*learners)))


def majorities(conf: Configuration) -> list[set[PeerId]]:
    """Return every smallest set of voters that the configuration calls a quorum."""
    for size in range(len(conf.voters) + 1):
        found = [set(some) for some in combinations(conf.voters, size) if conf.has_quorum(set(some).__contains__)]
        if found:
            return found
    return []


@pytest.mark.parametrize(("size", "needed"), [(1, 1), (2, 2), (3, 2), (4, 3), (5, 3), (6, 4), (7, 4)])
def test_more_than_half_is_a_majority(size: int, needed: int) -> None:
    conf = group(*range(1, size + 1))
    assert conf.has_quorum(lambda peer_id: peer_id <= needed)
    assert not conf.has_quorum(lambda peer_id: peer_id < needed)


@pytest.mark.parametrize(
    ("values", "reached"),
    [((7,), 7), ((3, 8), 3), ((3, 8, 5), 5), ((9, 9, 1), 9), ((4, 6, 5, 1), 4), ((2, 2, 7, 8, 9), 7)],
)
def test_the_value_that_a_majority_has_reached(values: tuple[int, ...], reached: int) -> None:
    conf = group(*range(1, len(values) + 1))
    assert conf.reached(lambda peer_id: values[peer_id - 1]) == reached


@given(GROUPS, st.lists(st.integers(0, 20), min_size=9, max_size=9))
def test_a_majority_has_reached_that_value_and_none_a_higher_one(conf: Configuration, values: list[int]) -> None:
    reached = conf.reached(lambda peer_id: values[peer_id - 1])
    assert conf.has_quorum(lambda peer_id: values[peer_id - 1] >= reached)
    assert not conf.has_quorum(lambda peer_id: values[peer_id - 1] > reached)


@pytest.mark.parametrize(
    ("votes", "result"),
    [
        ({}, VoteResult.PENDING),
        ({1: True}, VoteResult.PENDING),
        ({1: True, 2: True}, VoteResult.WON),
        ({1: True, 2: False}, VoteResult.PENDING),
        ({1: True, 2: False, 3: False}, VoteResult.LOST),
        ({2: False, 3: False}, VoteResult.LOST),
        ({1: True, 4: True, 9: True}, VoteResult.PENDING),
    ],
)
def test_votes_of_three_voters_and_a_learner(votes: dict[int, bool], result: VoteResult) -> None:
    conf = group(1, 2, 3, learners=(4,))
    assert conf.tally({PeerId(peer_id): granted for peer_id, granted in votes.items()}) is result


@pytest.mark.parametrize(("yes", "no", "result"), [(2, 2, VoteResult.LOST), (3, 1, VoteResult.WON)])
def test_a_tie_among_four_is_lost(yes: int, no: int, result: VoteResult) -> None:
    votes = {PeerId(at + 1): at < yes for at in range(yes + no)}
    assert group(1, 2, 3, 4).tally(votes) is result


@given(GROUPS, st.dictionaries(st.integers(1, 9).map(PeerId), st.booleans()))
def test_an_election_is_not_both_won_and_lost(conf: Configuration, votes: dict[PeerId, bool]) -> None:
    won = conf.has_quorum(lambda peer_id: votes.get(peer_id) is True)
    can_win = conf.has_quorum(lambda peer_id: votes.get(peer_id) is not False)
    assert (conf.tally(votes) is VoteResult.WON) == won
    assert (conf.tally(votes) is VoteResult.LOST) == (not can_win)


def test_learners_count_for_nothing() -> None:
    conf = group(1, 2, learners=(3, 4, 5))
    assert conf.members == (1, 2, 3, 4, 5)
    assert not conf.has_quorum(lambda peer_id: peer_id != 2)
    assert conf.reached(lambda peer_id: 9 if peer_id > 1 else 1) == 1


@pytest.mark.parametrize(("conf", "expected"), [(group(1), True), (group(1, 2), False), (group(2), False)])
def test_a_sole_voter_is_its_own_majority(conf: Configuration, expected: bool) -> None:
    assert conf.is_sole_voter(PeerId(1)) is expected


@pytest.mark.parametrize(
    ("kind", "peer_id", "state"),
    [
        (ADD_VOTER, 4, ((1, 2, 4), (3,))),
        (ADD_VOTER, 3, ((1, 2, 3), ())),
        (ADD_VOTER, 1, ((1, 2), (3,))),
        (ADD_LEARNER, 4, ((1, 2), (3, 4))),
        (ADD_LEARNER, 2, ((1,), (2, 3))),
        (REMOVE, 2, ((1,), (3,))),
        (REMOVE, 3, ((1, 2), ())),
        (REMOVE, 9, ((1, 2), (3,))),
    ],
)
def test_a_change_of_two_voters_and_a_learner(
    kind: ConfChangeKind, peer_id: int, state: tuple[tuple[int, ...], tuple[int, ...]]
) -> None:
    changed = group(2, 1, learners=(3,)).changed(ConfChange(kind, PeerId(peer_id)))
    assert (changed.state.voters, changed.state.learners) == state


@given(GROUPS, CHANGES)
def test_majorities_before_and_after_one_change_share_a_voter(conf: Configuration, change: ConfChange) -> None:
    """Thesis 4.1: so no two leaders can be elected, one by the old and one by the new members."""
    changed = conf.changed(change)
    assert all(old & new for old in majorities(conf) for new in majorities(changed) if changed.voters)
