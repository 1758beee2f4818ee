"""The driver's interface: starting, restarting, several Readys under way, and calls that fail."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest
from tests.raft.harness import Peer, entries_of, stored

from pytinykv.raft import (
    AppendEntries,
    AppendResponse,
    ConfChange,
    ConfChangeKind,
    Config,
    DropReason,
    Entry,
    EntryKind,
    HardState,
    Heartbeat,
    HeartbeatResponse,
    LogIndex,
    MemoryStorage,
    NotLeading,
    PeerId,
    ProposalDropped,
    ProtocolViolation,
    RaftError,
    RawNode,
    ReadNotReady,
    Ready,
    RoleKind,
    SoftState,
    Term,
    VoteRequest,
    VoteResponse,
    encode_conf_change,
)

ADD_SELF = ConfChange(ConfChangeKind.ADD_VOTER, PeerId(1))
ADD_TWO = ConfChange(ConfChangeKind.ADD_VOTER, PeerId(2))


def append_to_1(
    term: int, prev: tuple[int, int], entries: tuple[Entry, ...], *, sender: int = 2, commit: int = 0
) -> AppendEntries:
    return AppendEntries(
        PeerId(1), PeerId(sender), Term(term), LogIndex(prev[0]), Term(prev[1]), LogIndex(commit), 0.0, entries
    )


def ready_and_write(peer: Peer) -> Ready:
    """Take a Ready and write it; its sync is left to the test."""
    ready = peer.node.ready(peer.now)
    peer.storage.append(ready.entries)
    if ready.hard_state is not None:
        peer.storage.set_hard_state(ready.hard_state)
    return ready


# -- starting


@pytest.mark.tinykv("TestRawNodeStart2AC")
def test_a_sole_voter_starts_leads_and_commits() -> None:
    peer = Peer(1, stored((1,)))
    assert not peer.node.has_ready()
    peer.campaign()
    peer.take()
    peer.propose(b"foo")
    first = ready_and_write(peer)
    assert [entry.data for entry in first.entries] == [b"foo"]
    assert first.committed_entries == ()
    peer.node.on_persisted(first.number, 0.0)
    second = ready_and_write(peer)
    assert second.committed_entries == first.entries
    assert second.hard_state == HardState(Term(1), PeerId(1), LogIndex(2))
    assert not second.must_sync
    peer.node.on_applied(LogIndex(2))
    assert not peer.node.has_ready()


@pytest.mark.tinykv("TestRawNodeRestart2AC")
def test_a_restart_applies_up_to_the_persisted_commit_index() -> None:
    storage = stored((1,), terms=(1, 1), commit=1)
    node = RawNode(Config(peer_id=PeerId(1)), storage, random.Random(1))
    assert node.has_ready()
    assert node.ready(0.0) == Ready(number=1, committed_entries=entries_of(1))
    node.on_applied(LogIndex(1))
    assert not node.has_ready()


@pytest.mark.tinykv("TestRawNodeRestartFromSnapshot2C")
def test_a_restart_from_a_snapshot_applies_what_follows_it() -> None:
    storage = stored((1, 2), terms=(1,), commit=3, base=(2, 1))
    node = RawNode(Config(peer_id=PeerId(1)), storage, random.Random(1))
    assert node.ready(0.0) == Ready(number=1, committed_entries=entries_of(1, first=3))
    node.on_applied(LogIndex(3))
    assert not node.has_ready()


def test_a_restart_goes_on_from_the_applied_index_it_is_told() -> None:
    storage = stored((1,), terms=(1, 1, 1), commit=3)
    node = RawNode(Config(peer_id=PeerId(1), applied=LogIndex(2)), storage, random.Random(1))
    assert node.ready(0.0).committed_entries == entries_of(1, first=3)


def test_a_restart_keeps_term_and_vote() -> None:
    peer = Peer(1, stored(term=4, vote=3))
    assert (peer.term, peer.vote) == (4, 3)
    peer.step(VoteRequest(PeerId(1), PeerId(2), Term(4), LogIndex(9), Term(4)))
    assert peer.take() == [VoteResponse(PeerId(2), PeerId(1), Term(4), granted=False)]


def test_a_log_that_ends_below_its_commit_index_is_a_programmers_error() -> None:
    with pytest.raises(AssertionError, match="below the persisted commit index"):
        Peer(1, stored(terms=(1,), commit=2))


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"peer_id": 0}, "peer_id"),
        ({"heartbeat_ticks": 0}, "heartbeat_ticks"),
        ({"election_ticks": 1, "heartbeat_ticks": 1}, "election_ticks"),
        ({"inflight_max": 0}, "inflight_max"),
        ({"lease_s": -1.0}, "lease_s"),
        ({"lease_s": 1.0, "check_quorum": False}, "check_quorum"),
        ({"append_bytes_max": -1}, "append_bytes_max"),
    ],
)
def test_a_configuration_that_contradicts_itself_is_refused(change: dict[str, int], field: str) -> None:
    config = Config(**{"peer_id": 1, **change})  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=field):
        RawNode(config, MemoryStorage(), random.Random(1))


# -- proposals and membership


@pytest.mark.tinykv("TestRawNodeProposeAndConfChange3A")
def test_commands_and_membership_changes_become_entries() -> None:
    peer = Peer(1, stored((1,)))
    peer.campaign()
    ready = ready_and_write(peer)
    assert ready.soft_state == SoftState(PeerId(1), RoleKind.LEADER)
    peer.node.on_persisted(ready.number, 0.0)
    peer.take()
    peer.propose(b"some data")
    peer.change(ADD_SELF)
    entries = peer.node.ready(0.0).entries
    assert [(entry.kind, entry.data) for entry in entries] == [
        (EntryKind.NORMAL, b"some data"),
        (EntryKind.CONF_CHANGE, encode_conf_change(ADD_SELF)),
    ]


@pytest.mark.tinykv("TestRawNodeProposeAddDuplicateNode3A")
def test_adding_a_member_twice_does_not_block_the_next_change() -> None:
    peer = Peer(1, stored((1,)))
    peer.lead()
    for change in (ADD_SELF, ADD_SELF, ADD_TWO):
        peer.change(change)
        peer.take()
    log = [entry.data for entry in peer.applied if entry.kind is EntryKind.CONF_CHANGE]
    assert log == [encode_conf_change(change) for change in (ADD_SELF, ADD_SELF, ADD_TWO)]
    assert peer.node.conf_state.voters == (1, 2)


# -- durability: several Readys under way


def test_a_leader_sends_before_its_sync_and_counts_itself_after_it() -> None:
    """Thesis 10.2.1."""
    peer = Peer(1, stored((1, 2)))
    peer.lead()
    index = peer.propose(b"x")
    ready = ready_and_write(peer)
    assert [type(message) for message in ready.messages] == [AppendEntries]
    peer.step(AppendResponse(PeerId(1), PeerId(2), Term(1), index, 0.0))
    assert peer.commit == index - 1
    peer.node.on_persisted(ready.number, 0.0)
    assert peer.commit == index


def test_followers_alone_can_commit_before_the_leaders_disk_is_done() -> None:
    peer = Peer(1)
    peer.lead()
    index = peer.propose(b"x")
    ready_and_write(peer)
    for sender in (2, 3):
        peer.step(AppendResponse(PeerId(1), PeerId(sender), Term(1), index, 0.0))
    assert peer.commit == index


def test_the_newest_number_vouches_for_all_before_it() -> None:
    peer = Peer(1, stored((1,)))
    peer.lead()
    numbers = []
    for _ in range(3):
        peer.propose(b"x")
        numbers.append(ready_and_write(peer).number)
    peer.node.on_persisted(numbers[1], 0.0)
    assert peer.commit == 3
    peer.node.on_persisted(numbers[2], 0.0)
    assert peer.commit == 4
    peer.node.on_persisted(numbers[0], 0.0)
    assert peer.commit == 4


def test_each_entry_is_handed_out_once() -> None:
    peer = Peer(1)
    peer.step(append_to_1(1, (0, 0), entries_of(1, 1)))
    assert ready_and_write(peer).entries == entries_of(1, 1)
    peer.step(append_to_1(1, (2, 1), entries_of(1, first=3)))
    assert ready_and_write(peer).entries == entries_of(1, first=3)


def test_an_acknowledgement_waits_for_the_ready_that_holds_its_entries() -> None:
    peer = Peer(1, stored(term=1))
    peer.step(append_to_1(1, (0, 0), entries_of(1)))
    ready = ready_and_write(peer)
    assert ready.must_sync
    assert ready.messages == ()
    assert ready.messages_after_sync == (AppendResponse(PeerId(2), PeerId(1), Term(1), LogIndex(1), 0.0),)


def test_an_acknowledgement_of_known_entries_waits_for_the_syncs_under_way() -> None:
    """The entries came with an earlier message, but are not on the disk yet."""
    peer = Peer(1, stored(term=1))
    peer.step(append_to_1(1, (0, 0), entries_of(1)))
    first = ready_and_write(peer)
    peer.step(append_to_1(1, (0, 0), entries_of(1)))
    second = ready_and_write(peer)
    assert second.must_sync
    assert (second.messages, len(second.messages_after_sync)) == ((), 1)
    peer.node.on_persisted(first.number, 0.0)
    peer.node.on_persisted(second.number, 0.0)
    peer.step(append_to_1(1, (0, 0), entries_of(1)))
    third = ready_and_write(peer)
    assert not third.must_sync
    assert (len(third.messages), third.messages_after_sync) == (1, ())


def test_a_sync_of_overwritten_entries_does_not_vouch_for_the_new_ones() -> None:
    """1: entries 1..3 of term 1 go to the disk.  2: term 2 overwrites from 2 on.  3: the first sync completes."""
    peer = Peer(1, stored(term=1))
    peer.step(append_to_1(1, (0, 0), entries_of(1, 1, 1)))
    first = ready_and_write(peer)
    peer.step(append_to_1(2, (1, 1), entries_of(2, 2, first=2), sender=3))
    second = ready_and_write(peer)
    peer.node.on_persisted(first.number, 0.0)
    assert peer.node.status().durable_index == 1
    peer.node.on_persisted(second.number, 0.0)
    assert peer.node.status().durable_index == 3


def test_a_leader_does_not_count_overwritten_entries_that_reached_the_disk_late() -> None:
    """As above, and the peer becomes the leader while the second sync is still under way."""
    peer = Peer(1, stored((1, 2), term=1))
    peer.step(append_to_1(1, (0, 0), entries_of(1, 1, 1)))
    first = ready_and_write(peer)
    peer.step(append_to_1(2, (1, 1), entries_of(2, first=2)))
    second = ready_and_write(peer)
    peer.campaign()
    third = ready_and_write(peer)
    peer.step(VoteResponse(PeerId(1), PeerId(2), Term(3), granted=True))
    assert peer.role is RoleKind.LEADER
    peer.step(AppendResponse(PeerId(1), PeerId(2), Term(3), LogIndex(3), 0.0))
    peer.node.on_persisted(first.number, 0.0)
    assert (peer.node.status().durable_index, peer.commit) == (1, 0)
    peer.node.on_persisted(second.number, 0.0)
    peer.node.on_persisted(third.number, 0.0)
    assert (peer.node.status().durable_index, peer.commit) == (2, 0)
    fourth = ready_and_write(peer)
    peer.node.on_persisted(fourth.number, 0.0)
    assert (peer.node.status().durable_index, peer.commit) == (3, 3)


def test_nothing_speaks_for_a_term_that_is_not_durable() -> None:
    """A heartbeat's answer is sent at once, but not before the term it belongs to is on the disk."""
    peer = Peer(1)
    beat = Heartbeat(PeerId(1), PeerId(2), Term(1), LogIndex(0), 0, 0.0)
    peer.step(beat)
    first = ready_and_write(peer)
    answer = HeartbeatResponse(PeerId(2), PeerId(1), Term(1), 0, 0.0)
    assert (first.messages, first.messages_after_sync) == ((), (answer,))
    peer.node.on_persisted(first.number, 0.0)
    peer.step(beat)
    assert ready_and_write(peer).messages == (answer,)


def test_a_sole_voter_with_a_learner_sends_nothing_before_its_new_term_is_durable() -> None:
    """Otherwise a crash could repeat the term with other entries, and the learner would keep the first ones."""
    peer = Peer(1, stored((1,), learners=(2,)))
    peer.campaign()
    ready = peer.node.ready(0.0)
    assert ready.messages == ()
    assert [type(message) for message in ready.messages_after_sync] == [AppendEntries]


# -- calls that fail


def fingerprint(peer: Peer) -> object:
    """Everything that a call could change, readable."""
    core = peer.node._core
    role = core.role
    inner = [getattr(role, name) for name in role.__slots__ if name not in ("progress", "reads", "votes", "transfer")]
    return (
        peer.node.status(),
        peer.log(),
        core.election_elapsed,
        core.heard_elapsed,
        core.sticky_until,
        list(core.messages),
        list(core.after_sync),
        inner,
        peer.node.has_ready(),
    )


def leader() -> Peer:
    peer = Peer(1, uncommitted_bytes_max=10)
    peer.lead()
    return peer


def busy_leader() -> Peer:
    peer = leader()
    peer.propose(b"0123456789")
    peer.take()
    return peer


def changing_leader() -> Peer:
    peer = leader()
    peer.change(ConfChange(ConfChangeKind.ADD_VOTER, PeerId(4)))
    peer.take()
    return peer


def transferring_leader() -> Peer:
    peer = leader()
    peer.node.transfer_leader(PeerId(2), 0.0)
    peer.take()
    return peer


def new_leader() -> Peer:
    peer = Peer(1)
    peer.lead(commit_no_op=False)
    peer.take()
    return peer


def follower() -> Peer:
    peer = Peer(1, stored(terms=(1, 1)))
    peer.step(append_to_1(1, (2, 1), ()))
    peer.take()
    return peer


def sole_leader() -> Peer:
    peer = Peer(1, stored((1,)))
    peer.lead()
    return peer


REMOVE_SELF = ConfChange(ConfChangeKind.REMOVE, PeerId(1))
FAILURES: list[tuple[str, Callable[[], Peer], Callable[[Peer], object], type[RaftError]]] = [
    ("propose at a follower", follower, lambda peer: peer.propose(b"x"), NotLeading),
    ("read at a follower", follower, lambda peer: peer.node.read_index(b"x", 9.0), NotLeading),
    ("change at a follower", follower, lambda peer: peer.change(ADD_TWO), NotLeading),
    ("too much uncommitted", busy_leader, lambda peer: peer.propose(b"x"), ProposalDropped),
    ("propose while transferring", transferring_leader, lambda peer: peer.propose(b"x"), ProposalDropped),
    ("change while transferring", transferring_leader, lambda peer: peer.change(ADD_TWO), ProposalDropped),
    ("second change", changing_leader, lambda peer: peer.change(ADD_TWO), ProposalDropped),
    ("change before the no-op is applied", new_leader, lambda peer: peer.change(ADD_TWO), ProposalDropped),
    ("removing the last voter", sole_leader, lambda peer: peer.change(REMOVE_SELF), ProposalDropped),
    ("read before the no-op is committed", new_leader, lambda peer: peer.node.read_index(b"x", 9.0), ReadNotReady),
    (
        "a message for another peer",
        follower,
        lambda peer: peer.step(Heartbeat(PeerId(3), PeerId(2), Term(9), LogIndex(0), 0, 0.0)),
        ProtocolViolation,
    ),
    (
        "a second leader in one term",
        follower,
        lambda peer: peer.step(append_to_1(1, (2, 1), (), sender=3)),
        ProtocolViolation,
    ),
    (
        "an append to the leader of the same term",
        leader,
        lambda peer: peer.step(append_to_1(1, (0, 0), (), sender=3)),
        ProtocolViolation,
    ),
    (
        "entries with a gap",
        follower,
        lambda peer: peer.step(append_to_1(5, (2, 1), entries_of(1, first=4))),
        ProtocolViolation,
    ),
    (
        "entries with falling terms",
        follower,
        lambda peer: peer.step(append_to_1(5, (2, 1), entries_of(4, 3, first=3))),
        ProtocolViolation,
    ),
    (
        "entries newer than their leader",
        follower,
        lambda peer: peer.step(append_to_1(5, (2, 1), entries_of(6, first=3))),
        ProtocolViolation,
    ),
    (
        "a heartbeat that counts on lost entries",
        follower,
        lambda peer: peer.step(Heartbeat(PeerId(1), PeerId(2), Term(1), LogIndex(3), 0, 0.0)),
        ProtocolViolation,
    ),
    (
        "an acknowledgement of what was never sent",
        leader,
        lambda peer: peer.step(AppendResponse(PeerId(1), PeerId(2), Term(1), LogIndex(99), 5.0)),
        ProtocolViolation,
    ),
    (
        "an answer to a round that was never begun",
        leader,
        lambda peer: peer.step(HeartbeatResponse(PeerId(1), PeerId(2), Term(1), 7, 5.0)),
        ProtocolViolation,
    ),
]


@pytest.mark.parametrize(
    ("make", "call", "error"), [failure[1:] for failure in FAILURES], ids=[failure[0] for failure in FAILURES]
)
def test_a_call_that_failed_left_the_node_unchanged(
    make: Callable[[], Peer], call: Callable[[Peer], object], error: type[RaftError]
) -> None:
    peer = make()
    before = fingerprint(peer)
    with pytest.raises(error):
        call(peer)
    assert fingerprint(peer) == before


def test_one_proposal_is_always_taken_and_commit_makes_room() -> None:
    peer = Peer(1, uncommitted_bytes_max=10)
    peer.lead()
    peer.propose(b"x" * 100)
    with pytest.raises(ProposalDropped) as refusal:
        peer.propose(b"y")
    assert refusal.value.reason is DropReason.TOO_MUCH_UNCOMMITTED
    peer.answer_appends()
    peer.propose(b"y")


def test_the_status_is_readable() -> None:
    peer = leader()
    text = peer.node.status().render()
    assert "peer 1: leader in term 1" in text
    assert "peer 2: replicate, match 1, next 2" in text
