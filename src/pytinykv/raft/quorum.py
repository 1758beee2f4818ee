"""Which members count, and what a majority of them says.

`Configuration` is the only place that knows how votes and acknowledgements are counted. Joint consensus (thesis 4.3) would be
a second kind of it: two voter sets, and the lower of both answers.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from enum import Enum
from typing import TypeVar

from pytinykv.raft.messages import ConfChange, ConfChangeKind, ConfState, PeerId


class VoteResult(Enum):
    """The state of an election."""

    PENDING = "pending"
    WON = "won"
    LOST = "lost"


N = TypeVar("N", bound=float)


class Configuration:
    """The members of a group at one point of the log; immutable."""

    __slots__ = ("_majority", "learners", "members", "state", "voters")

    def __init__(self, state: ConfState) -> None:
        self.voters = tuple(sorted(state.voters))
        """The members that count."""
        self.learners = tuple(sorted(state.learners))
        """Members that receive the log and do not count."""
        self.members = tuple(sorted(self.voters + self.learners))
        """Both, in order of ids."""
        self.state = ConfState(self.voters, self.learners)
        """The same as a record."""
        self._majority = len(self.voters) // 2 + 1
        """How many voters make a majority; any two majorities share a voter."""

    def is_sole_voter(self, peer_id: PeerId) -> bool:
        """Tell whether `peer_id` alone is a majority."""
        return self.voters == (peer_id,)

    def reached(self, value_of: Callable[[PeerId], N]) -> N:
        """Return the highest value that a majority of the voters has reached."""
        return self.reached_of([value_of(peer_id) for peer_id in self.voters])

    def reached_of(self, values: list[N]) -> N:
        """Return the same of the values themselves, one for each of the voters; the list is sorted by it."""
        values.sort()
        return values[-self._majority]

    def has_quorum(self, is_counted: Callable[[PeerId], bool]) -> bool:
        """Tell whether a majority of the voters satisfies the predicate."""
        return sum(1 for peer_id in self.voters if is_counted(peer_id)) >= self._majority

    def tally(self, votes: Mapping[PeerId, bool]) -> VoteResult:
        """Count the votes of voters; those of others do not count."""
        granted = sum(1 for peer_id in self.voters if votes.get(peer_id) is True)
        refused = sum(1 for peer_id in self.voters if votes.get(peer_id) is False)
        if granted >= self._majority:
            return VoteResult.WON
        if refused > len(self.voters) - self._majority:
            return VoteResult.LOST
        return VoteResult.PENDING

    def changed(self, change: ConfChange) -> Configuration:
        """Return the configuration after a single-step change (thesis 4.1); a change that changes nothing is none."""
        peer_id = change.peer_id
        voters, learners = set(self.voters) - {peer_id}, set(self.learners) - {peer_id}
        if change.kind is ConfChangeKind.ADD_VOTER:
            voters.add(peer_id)
        elif change.kind is ConfChangeKind.ADD_LEARNER:
            learners.add(peer_id)
        return Configuration(ConfState(tuple(sorted(voters)), tuple(sorted(learners))))
