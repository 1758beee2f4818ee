"""Log replication and commit: Raft 5.3 and 5.4.2."""

from __future__ import annotations

import pytest
from tests.raft.harness import Network, Peer, accept, entries_of, stored

from pytinykv.raft import (
    AppendEntries,
    AppendRejection,
    AppendResponse,
    ConfChange,
    ConfChangeKind,
    Entry,
    Heartbeat,
    LogIndex,
    NotLeading,
    PeerId,
    RoleKind,
    StaleTerm,
    Term,
)


def append(
    term: int, prev: tuple[int, int], commit: int = 0, entries: tuple[Entry, ...] = (), *, sender: int = 2
) -> AppendEntries:
    """Make an append to peer 1; `prev` is (index, term)."""
    return AppendEntries(
        PeerId(1), PeerId(sender), Term(term), LogIndex(prev[0]), Term(prev[1]), LogIndex(commit), 0.0, entries
    )


def response(match: int, term: int, *, sender: int = 2) -> AppendResponse:
    return AppendResponse(PeerId(1), PeerId(sender), Term(term), LogIndex(match), 0.0)


# -- the leader


@pytest.mark.tinykv("TestLeaderStartReplication2AB")
def test_a_proposal_goes_to_the_log_and_to_all_followers() -> None:
    """Raft 5.3."""
    peer = Peer(1)
    peer.lead()
    last, before = peer.node.last_index, peer.commit
    peer.propose(b"some data")
    ready = peer.node.ready(1.5)
    entry = Entry(LogIndex(last + 1), Term(1), data=b"some data")
    assert ready.entries == (entry,)
    assert ready.messages == tuple(
        AppendEntries(PeerId(to), PeerId(1), Term(1), last, Term(1), last, 1.5, (entry,)) for to in (2, 3)
    )
    assert (before, peer.commit) == (last, last)


@pytest.mark.tinykv("TestLeaderCommitEntry2AB")
def test_a_leader_applies_what_a_majority_has_and_tells_the_others() -> None:
    """Raft 5.3."""
    peer = Peer(1)
    peer.lead()
    index = peer.propose(b"some data")
    peer.answer_appends()
    announced = peer.take()
    assert peer.commit == index
    assert peer.applied[-1].data == b"some data"
    assert [(type(message), message.to) for message in announced] == [(AppendEntries, 2), (AppendEntries, 3)]
    assert all(isinstance(message, AppendEntries) and message.commit == index for message in announced)


@pytest.mark.tinykv("TestLeaderAcknowledgeCommit2AB")
@pytest.mark.parametrize(
    ("size", "acceptors", "committed"),
    [
        (1, (), True),
        (3, (), False),
        (3, (2,), True),
        (3, (2, 3), True),
        (5, (), False),
        (5, (2,), False),
        (5, (2, 3), True),
        (5, (2, 3, 4), True),
        (5, (2, 3, 4, 5), True),
    ],
)
def test_a_majority_commits(size: int, acceptors: tuple[int, ...], committed: bool) -> None:
    """Raft 5.3."""
    peer = Peer(1, stored(range(1, size + 1)))
    peer.lead()
    index = peer.propose(b"some data")
    peer.answer_appends(acceptors)
    assert (peer.commit >= index) is committed


@pytest.mark.tinykv("TestLeaderCommitPrecedingEntries2AB")
@pytest.mark.parametrize("terms", [(), (2,), (1, 2), (1,)])
def test_committing_an_own_entry_commits_all_before_it(terms: tuple[int, ...]) -> None:
    """Raft 5.3."""
    peer = Peer(1, stored(terms=terms, term=2))
    peer.lead(commit_no_op=False)
    peer.propose(b"some data")
    peer.answer_appends()
    peer.take()
    assert [(entry.term, entry.data) for entry in peer.applied] == [
        *((term, b"") for term in terms),
        (3, b""),
        (3, b"some data"),
    ]


@pytest.mark.tinykv("TestLeaderOnlyCommitsLogFromCurrentTerm2AB")
@pytest.mark.parametrize(("match", "commit"), [(1, 0), (2, 0), (3, 3)])
def test_entries_of_older_terms_are_not_committed_by_counting(match: int, commit: int) -> None:
    """Raft 5.4.2 and figure 8."""
    peer = Peer(1, stored((1, 2), terms=(1, 2)))
    peer.lead(commit_no_op=False)
    peer.take()
    peer.step(response(match, 3))
    assert peer.commit == commit


@pytest.mark.tinykv("TestProgressLeader2AB")
def test_a_leader_counts_itself_as_far_as_its_disk_goes() -> None:
    peer = Peer(1, stored((1, 2)))
    peer.lead(commit_no_op=False)
    peer.take()
    for number in range(1, 6):
        own = peer.node.status().progress[peer.id]
        assert (own.match, own.next) == (number, number + 1)
        peer.propose(b"foo")
        assert peer.node.status().progress[peer.id].match == number
        peer.take()


@pytest.mark.tinykv("TestLeaderIncreaseNext2AB")
def test_a_follower_that_keeps_up_is_sent_each_entry_once() -> None:
    network = Network(3, storages={1: stored(terms=(1, 1, 1))})
    network.campaign(1)
    network.propose(1, b"some data")
    assert network[1].node.status().progress[PeerId(2)].next == 3 + 1 + 1 + 1


@pytest.mark.tinykv("TestLogReplication2AB")
def test_all_peers_apply_the_same_entries() -> None:
    network = Network(3)
    network.campaign(1)
    network.propose(1, b"one")
    network.campaign(2)
    network.propose(2, b"two")
    for peer in network.peers.values():
        assert peer.commit == 4
        assert [entry.data for entry in peer.applied if entry.data] == [b"one", b"two"]


@pytest.mark.tinykv("TestSingleNodeCommit2AB")
def test_a_sole_voter_commits_what_its_disk_has() -> None:
    network = Network(1)
    network.campaign(1)
    network.propose(1, b"one")
    network.propose(1, b"two")
    assert network[1].commit == 3


@pytest.mark.tinykv("TestProposal2AB")
@pytest.mark.parametrize(
    ("size", "silent", "succeeds"),
    [(3, (), True), (3, (3,), True), (3, (2, 3), False), (4, (2, 3), False), (5, (2, 3), True)],
)
def test_a_proposal_needs_a_majority(size: int, silent: tuple[int, ...], succeeds: bool) -> None:
    network = Network(size, silent=silent)
    network.campaign(1)
    if succeeds:
        network.propose(1, b"some data")
    else:
        with pytest.raises(NotLeading):
            network.propose(1, b"some data")
    want = [(1, b""), (1, b"some data")] if succeeds else []
    assert network.logs() == [want] * len(network.peers)
    assert network[1].term == 1


def test_a_follower_names_the_leader_when_asked_to_propose() -> None:
    network = Network(3)
    network.campaign(1)
    with pytest.raises(NotLeading) as refusal:
        network[2].propose(b"x")
    assert refusal.value.leader_id == 1


@pytest.mark.tinykv("TestCommitWithoutNewTermEntry2AB")
def test_the_no_op_of_a_new_leader_commits_what_the_old_one_left() -> None:
    network = Network(5)
    network.campaign(1)
    for other in (3, 4, 5):
        network.cut(1, other)
    network.propose(1, b"one")
    network.propose(1, b"two")
    assert network[1].commit == 1
    network.heal()
    network.campaign(2)
    assert [peer.commit for peer in network.peers.values()] == [4] * 5


@pytest.mark.tinykv("TestCommitWithHeartbeat2AB")
def test_an_answered_heartbeat_shows_that_a_follower_lacks_entries() -> None:
    network = Network(5)
    network.campaign(1)
    network.isolate(5)
    network.propose(1, b"one")
    network.propose(1, b"two")
    assert network[5].commit == 1
    network.heal()
    network.beat(1)
    assert network[5].commit == 3


@pytest.mark.tinykv("TestHeartbeatUpdateCommit2AB")
@pytest.mark.parametrize(("failing", "succeeding"), [(1, 1), (5, 3), (5, 10)])
def test_a_heartbeat_commits_nothing_that_the_follower_has_not_acknowledged(failing: int, succeeding: int) -> None:
    network = Network(3)
    network.campaign(1)
    network.isolate(1)
    for _ in range(failing):
        network.propose(1)
    assert network[1].commit == 1
    network.campaign(2)
    for _ in range(succeeding):
        network.propose(2)
    assert [network[2].commit, network[3].commit] == [2 + succeeding] * 2
    network.heal()
    network.ignore(AppendEntries)
    network.beat(2)
    assert network[1].commit == 1


@pytest.mark.tinykv("TestOldMessages2AB")
def test_appends_of_an_old_leader_change_nothing() -> None:
    network = Network(3)
    for candidate in (1, 2, 1):
        network.campaign(candidate)
    network.pump(append(2, (2, 2), 0, entries_of(2, first=3)))
    network.propose(1, b"some data")
    assert network.logs() == [[(1, b""), (2, b""), (3, b""), (3, b"some data")]] * 3


def test_an_old_leader_is_told_the_newer_term() -> None:
    peer = Peer(1, stored(term=3))
    peer.step(append(2, (0, 0)))
    peer.step(Heartbeat(PeerId(1), PeerId(2), Term(1), LogIndex(0), 0, 0.0))
    assert peer.take() == [StaleTerm(PeerId(2), PeerId(1), Term(3))] * 2


def test_acknowledgements_of_an_older_term_do_not_count() -> None:
    peer = Peer(1, stored(terms=(1, 1)))
    peer.lead(commit_no_op=False)
    peer.take()
    peer.step(response(3, 1))
    assert (peer.commit, peer.node.status().progress[PeerId(2)].match) == (0, 0)


def test_an_answered_append_that_comes_again_changes_nothing() -> None:
    peer = Peer(1)
    peer.lead()
    peer.propose(b"x")
    sent = [message for message in peer.answer_appends() if isinstance(message, AppendEntries)]
    peer.take()
    for message in sent * 2:
        peer.step(accept(message))
    assert peer.take() == []


def test_a_leader_does_not_count_learners() -> None:
    peer = Peer(1, stored((1, 2), learners=(3,)))
    peer.lead()
    index = peer.propose(b"x")
    peer.answer_appends([3])
    assert peer.commit == index - 1
    peer.step(response(index, 1))
    assert peer.commit == index


# -- the follower


@pytest.mark.tinykv("TestFollowerCommitEntry2AB")
@pytest.mark.parametrize(("data", "commit"), [([b"a"], 1), ([b"a", b"b"], 2), ([b"b", b"a"], 2), ([b"a", b"b"], 1)])
def test_a_follower_applies_what_it_learns_to_be_committed(data: list[bytes], commit: int) -> None:
    """Raft 5.3."""
    entries = tuple(Entry(LogIndex(number), Term(1), data=it) for number, it in enumerate(data, start=1))
    peer = Peer(1)
    peer.step(append(1, (0, 0), commit, entries))
    peer.take()
    assert peer.commit == commit
    assert peer.applied == list(entries[:commit])


@pytest.mark.tinykv("TestFollowerCheckMessageType_MsgAppend2AB")
@pytest.mark.parametrize(
    ("prev", "accepted"),
    [((0, 0), True), ((1, 1), True), ((2, 2), True), ((2, 1), False), ((3, 3), False)],
)
def test_a_follower_refuses_entries_that_do_not_join_its_log(prev: tuple[int, int], accepted: bool) -> None:
    """Raft 5.3."""
    peer = Peer(1, stored(terms=(1, 2), commit=1))
    peer.take()
    peer.step(append(2, prev))
    (answer,) = peer.take()
    assert (type(answer), answer.term) == (AppendResponse if accepted else AppendRejection, 2)


@pytest.mark.tinykv("TestFollowerAppendEntries2AB")
@pytest.mark.parametrize(
    ("term", "prev", "terms", "log", "written"),
    [
        (3, (2, 2), (3,), [1, 2, 3], [3]),
        (4, (1, 1), (3, 4), [1, 3, 4], [3, 4]),
        (2, (0, 0), (1,), [1, 2], []),
        (3, (0, 0), (3,), [3], [3]),
    ],
)
def test_conflicting_entries_give_way_and_known_ones_stay(
    term: int, prev: tuple[int, int], terms: tuple[int, ...], log: list[int], written: list[int]
) -> None:
    """Raft 5.3."""
    peer = Peer(1, stored(terms=(1, 2)))
    peer.step(append(term, prev, 0, entries_of(*terms, first=prev[0] + 1)))
    ready = peer.node.ready(0.0)
    assert [entry.term for entry in ready.entries] == written
    peer.storage.append(ready.entries)
    assert peer.log_terms() == log


@pytest.mark.tinykv("TestHandleMessageType_MsgAppend2AB")
@pytest.mark.parametrize(
    ("term", "prev", "commit", "terms", "last_index", "want_commit", "accepted"),
    [
        (3, (2, 3), 3, (), 2, 0, False),
        (3, (3, 3), 3, (), 2, 0, False),
        (2, (1, 1), 1, (), 2, 1, True),
        (2, (0, 0), 1, (2,), 1, 1, True),
        (2, (2, 2), 3, (2, 2), 4, 3, True),
        (2, (2, 2), 4, (2,), 3, 3, True),
        (2, (1, 1), 4, (2,), 2, 2, True),
        (2, (1, 1), 3, (), 2, 1, True),
        (2, (1, 1), 3, (2,), 2, 2, True),
        (2, (2, 2), 3, (), 2, 2, True),
        (2, (2, 2), 4, (), 2, 2, True),
    ],
)
def test_an_append_is_checked_then_written_then_committed(
    term: int,
    prev: tuple[int, int],
    commit: int,
    terms: tuple[int, ...],
    last_index: int,
    want_commit: int,
    accepted: bool,
) -> None:
    """Raft figure 2, receiver of AppendEntries: never commit beyond the last entry known to match."""
    peer = Peer(1, stored(terms=(1, 2)))
    peer.step(append(term, prev, commit, entries_of(*terms, first=prev[0] + 1)))
    (answer,) = peer.take()
    assert isinstance(answer, AppendResponse) is accepted
    assert (peer.node.last_index, peer.commit) == (last_index, want_commit)


def test_a_late_short_append_does_not_shorten_the_log() -> None:
    peer = Peer(1)
    peer.step(append(1, (0, 0), 0, entries_of(1, 1, 1)))
    peer.take()
    peer.step(append(1, (0, 0), 0, entries_of(1)))
    (answer,) = peer.take()
    assert peer.node.last_index == 3
    assert isinstance(answer, AppendResponse)
    assert answer.match == 1


def test_an_append_from_before_the_commit_index_adds_what_is_new() -> None:
    peer = Peer(1, stored(terms=(1, 1), commit=2))
    peer.take()
    peer.step(append(1, (0, 0), 2, entries_of(1, 1, 1)))
    (answer,) = peer.take()
    assert isinstance(answer, AppendResponse)
    assert (answer.match, peer.node.last_index) == (3, 3)


# -- bringing logs together


@pytest.mark.tinykv("TestLeaderSyncFollowerLog2AB")
@pytest.mark.parametrize(
    "terms",
    [
        (1, 1, 1, 4, 4, 5, 5, 6, 6),
        (1, 1, 1, 4),
        (1, 1, 1, 4, 4, 5, 5, 6, 6, 6, 6),
        (1, 1, 1, 4, 4, 5, 5, 6, 6, 6, 7, 7),
        (1, 1, 1, 4, 4, 4, 4),
        (1, 1, 1, 2, 2, 2, 3, 3, 3, 3, 3),
    ],
)
def test_a_leader_makes_every_log_of_figure_7_equal_to_its_own(terms: tuple[int, ...]) -> None:
    """Raft 5.3, figure 7."""
    leading = (1, 1, 1, 4, 4, 5, 5, 6, 6, 6)
    network = Network(3, storages={1: stored(terms=leading, term=8), 2: stored(terms=terms, term=7)})
    network.campaign(1)
    network.propose(1)
    assert network[1].log_terms() == [*leading, 9, 9]
    assert network[2].log() == network[1].log()


def test_a_long_divergent_log_is_repaired_in_one_step_per_term() -> None:
    probes = 0

    def count(message: object) -> bool:
        nonlocal probes
        probes += isinstance(message, AppendRejection)
        return True

    network = Network(
        3, storages={1: stored(terms=(1,) * 10 + (5,) * 100), 2: stored(terms=(1,) * 10 + (3,) * 50 + (4,) * 60)}
    )
    network.on_message = count  # type: ignore[assignment]
    network.campaign(1)
    assert network[2].log() == network[1].log()
    assert probes <= 2


@pytest.mark.tinykv("TestLeaderElectionOverwriteNewerLogs2AB")
def test_newer_but_uncommitted_entries_lose_to_an_elected_leaders_older_ones() -> None:
    """1 and 2 have an entry of term 1, 3 one of term 2 that only it has; 4 and 5 voted in term 2."""
    all_peers = range(1, 6)
    network = Network(
        5,
        storages={
            1: stored(all_peers, terms=(1,)),
            2: stored(all_peers, terms=(1,)),
            3: stored(all_peers, terms=(2,)),
            4: stored(all_peers, term=2, vote=3),
            5: stored(all_peers, term=2, vote=3),
        },
    )
    network.campaign(1)
    assert (network[1].role, network[1].term) == (RoleKind.FOLLOWER, 2)
    network.campaign(1)
    assert (network[1].role, network[1].term) == (RoleKind.LEADER, 3)
    assert [peer.log_terms() for peer in network.peers.values()] == [[1, 3]] * 5


class TestCommitNewsThatRideAlong:
    """`Config.announce_commit` off: no message only to say that the commit index has moved."""

    def leader(self) -> Peer:
        peer = Peer(1, announce_commit=False)
        peer.lead()
        return peer

    def test_the_next_entries_bring_them(self) -> None:
        peer = self.leader()
        index = peer.propose(b"first")
        peer.answer_appends()
        assert peer.commit == index
        assert peer.take() == [], "no client waits for followers to apply"
        peer.propose(b"second")
        assert [message.commit for message in peer.take() if isinstance(message, AppendEntries)] == [index, index]

    def test_the_next_heartbeat_brings_them(self) -> None:
        peer = self.leader()
        index = peer.propose(b"first")
        peer.answer_appends()
        peer.tick(2)
        assert {message.commit for message in peer.take() if isinstance(message, Heartbeat)} == {index}

    def test_what_opens_a_term_is_announced(self) -> None:
        peer = Peer(1, announce_commit=False)
        peer.lead(commit_no_op=False)
        peer.answer_appends()
        announced = [message for message in peer.take() if isinstance(message, AppendEntries)]
        assert [message.commit for message in announced] == [peer.commit] * 2

    def test_a_membership_change_is_announced(self) -> None:
        peer = self.leader()
        index = peer.change(ConfChange(ConfChangeKind.ADD_LEARNER, PeerId(4)))
        peer.answer_appends([2, 3])
        announced = [message for message in peer.take() if isinstance(message, AppendEntries) and message.to in (2, 3)]
        assert {message.commit for message in announced} == {index}
