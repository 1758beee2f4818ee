"""Read index: linearizable reads by a round of heartbeats (thesis 6.4)."""

from __future__ import annotations

from tests.raft.harness import Network, Peer, stored

from pytinykv.raft import (
    AppendEntries,
    Heartbeat,
    HeartbeatResponse,
    LogIndex,
    Message,
    PeerId,
    ReadState,
    Term,
)


def rounds_of(messages: list[Message]) -> list[tuple[int, int]]:
    return [(message.to, message.round) for message in messages if isinstance(message, Heartbeat)]


def answer(sender: int, number: int) -> HeartbeatResponse:
    return HeartbeatResponse(PeerId(1), PeerId(sender), Term(1), number, 0.0)


def leader(size: int = 3) -> Peer:
    peer = Peer(1, stored(range(1, size + 1)))
    peer.lead()
    return peer


def test_reads_between_two_readys_share_one_round() -> None:
    peer = leader()
    for context in (b"a", b"b", b"c"):
        peer.node.read_index(context, 0.0)
    assert rounds_of(peer.take()) == [(2, 1), (3, 1)]
    peer.step(answer(3, 1))
    peer.take()
    assert peer.read_states == [ReadState(context, LogIndex(1)) for context in (b"a", b"b", b"c")]


def test_a_majority_must_answer_that_round() -> None:
    peer = leader(5)
    peer.node.read_index(b"a", 0.0)
    peer.take()
    peer.step(answer(2, 1))
    peer.step(answer(2, 1))
    peer.step(answer(3, 0))
    peer.take()
    assert peer.read_states == []
    peer.step(answer(4, 1))
    peer.take()
    assert len(peer.read_states) == 1


def test_a_later_round_confirms_the_earlier_ones() -> None:
    peer = leader()
    peer.node.read_index(b"a", 0.0)
    peer.take()
    peer.node.read_index(b"b", 0.0)
    peer.take()
    peer.step(answer(2, 2))
    peer.take()
    assert [state.context for state in peer.read_states] == [b"a", b"b"]


def test_a_lost_round_is_made_good_by_the_next_heartbeat() -> None:
    network = Network(3)
    network.campaign(1)
    network.ignore(Heartbeat)
    network[1].node.read_index(b"a", 0.0)
    network.pump()
    assert network[1].read_states == []
    network.heal()
    network.beat(1)
    assert network[1].read_states == [ReadState(b"a", LogIndex(1))]


def test_a_reads_index_covers_everything_committed_before_it() -> None:
    network = Network(3)
    network.campaign(1)
    network.propose(1, b"x")
    network[1].node.read_index(b"a", 0.0)
    network.pump()
    assert network[1].read_states == [ReadState(b"a", LogIndex(2))]


def test_answers_of_an_older_term_confirm_nothing() -> None:
    network = Network(3)
    network.campaign(1)
    network.campaign(2)
    network.campaign(1)
    network.isolate(1)
    network[1].node.read_index(b"a", 0.0)
    network[1].take()
    network[1].step(answer(2, 1))
    network[1].take()
    assert network[1].read_states == []


def test_a_sole_voter_answers_at_once() -> None:
    peer = leader(1)
    peer.node.read_index(b"a", 0.0)
    peer.take()
    assert peer.read_states == [ReadState(b"a", LogIndex(1))]


def test_a_deposed_leader_gives_up_its_reads() -> None:
    peer = leader()
    peer.node.read_index(b"a", 0.0)
    peer.take()
    peer.node.read_index(b"b", 0.0)
    peer.step(AppendEntries(PeerId(1), PeerId(2), Term(2), LogIndex(1), Term(1), LogIndex(1), 0.0))
    peer.take()
    assert (peer.read_states, peer.dropped_reads) == ([], [b"a", b"b"])
