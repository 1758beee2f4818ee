"""How a leader feeds its followers: probing, streaming, windows, sizes."""

from __future__ import annotations

import pytest
from tests.raft.harness import Network, Peer, stored

from pytinykv.raft import (
    AppendEntries,
    AppendRejection,
    AppendResponse,
    HeartbeatResponse,
    LogIndex,
    Message,
    PeerId,
    ProgressState,
    Term,
)

TWO = PeerId(2)


def leader(**config: int) -> Peer:
    peer = Peer(1, stored((1, 2)), **config)
    peer.lead()
    return peer


def sizes(messages: list[Message]) -> list[int]:
    return [len(message.entries) for message in messages if isinstance(message, AppendEntries)]


def accepted(match: int) -> AppendResponse:
    return AppendResponse(PeerId(1), TWO, Term(1), LogIndex(match), 0.0)


def state(peer: Peer) -> ProgressState:
    return peer.node.status().progress[TWO].state


def test_proposals_between_two_readys_share_a_message() -> None:
    peer = leader()
    for _ in range(5):
        peer.propose(b"x")
    assert sizes(peer.take()) == [5]


def test_a_message_carries_so_many_bytes_but_at_least_one_entry() -> None:
    peer = leader(append_bytes_max=10)
    for data in (b"x" * 4, b"x" * 4, b"x" * 4, b"x" * 100, b"x"):
        peer.propose(data)
    assert sizes(peer.take()) == [2, 1, 1, 1]


def test_a_full_window_waits_for_answers() -> None:
    peer = leader(inflight_max=2)
    peer.take()
    for expected in ([1], [1], [], []):
        peer.propose(b"x")
        assert sizes(peer.take()) == expected
    peer.step(accepted(2))
    assert sizes(peer.take()) == [2]


def test_a_window_is_full_also_by_bytes_but_one_message_is_always_sent() -> None:
    """A follower that was away would otherwise have its leader read and send `inflight_max` full messages at once."""
    peer = leader(append_bytes_max=4, inflight_bytes_max=8)
    peer.take()
    for _ in range(5):
        peer.propose(b"four")
    assert sizes(peer.take()) == [1, 1]
    peer.step(accepted(2))
    assert sizes(peer.take()) == [1]
    peer.step(accepted(6))
    peer.take()
    peer.propose(b"larger than the whole window")
    assert sizes(peer.take()) == [1]


def test_a_probing_leader_sends_one_message_at_a_time() -> None:
    peer = Peer(1, stored((1, 2)))
    peer.lead(commit_no_op=False)
    assert sizes(peer.take()) == [1]
    peer.propose(b"x")
    assert sizes(peer.take()) == []
    peer.step(accepted(1))
    assert sizes(peer.take()) == [1]
    assert state(peer) is ProgressState.REPLICATE


def test_a_lost_probe_is_repeated_after_an_answered_heartbeat() -> None:
    peer = Peer(1, stored((1, 2)))
    peer.lead(commit_no_op=False)
    peer.take()
    peer.step(HeartbeatResponse(PeerId(1), TWO, Term(1), 0, 0.0))
    assert sizes(peer.take()) == [1]


def test_lost_appends_show_when_a_heartbeat_is_answered_even_with_a_full_window() -> None:
    network = Network(2, inflight_max=1)
    network.campaign(1)
    network.ignore(AppendEntries)
    for _ in range(3):
        network.propose(1, b"x")
    network.heal()
    network.beat(1)
    assert network[2].commit == 4


@pytest.mark.parametrize("rejected", [0, 1])
def test_a_stale_rejection_is_ignored(rejected: int) -> None:
    peer = leader()
    peer.step(AppendRejection(PeerId(1), TWO, Term(1), LogIndex(rejected), LogIndex(0), Term(0), 0.0))
    assert state(peer) is ProgressState.REPLICATE


def test_a_rejection_goes_back_by_terms() -> None:
    """The follower's hint (index 6, term 2) is compared with the leader's terms: they can first agree at 2."""
    peer = Peer(1, stored((1, 2), terms=(1, 1, 3, 3, 3, 3, 3, 3)))
    peer.lead(commit_no_op=False)
    peer.take()
    peer.step(AppendRejection(PeerId(1), TWO, Term(4), LogIndex(8), LogIndex(6), Term(2), 0.0))
    (probe,) = [message for message in peer.take() if isinstance(message, AppendEntries)]
    assert (probe.prev_index, probe.prev_term) == (2, 1)


def test_a_backlog_is_handed_out_for_applying_in_portions() -> None:
    storage = stored((1,))
    peer = Peer(1, storage, committed_bytes_max=10)
    peer.lead()
    for _ in range(6):
        peer.propose(b"x" * 5)
    ready = peer.node.ready(0.0)
    storage.append(ready.entries)
    peer.node.on_persisted(ready.number, 0.0)
    portions = []
    while peer.node.has_ready():
        ready = peer.node.ready(0.0)
        portions.append(len(ready.committed_entries))
        peer.node.on_applied(ready.committed_entries[-1].index)
    assert portions == [2, 2, 2]
