"""Which peer a message is for: each row of the router's table."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest
from tests.raftstore.harness import REGION_ID, Cluster

from pytinykv.model import Peer, RegionEpoch, RegionId, StoreId, encode
from pytinykv.raft import (
    AppendEntries,
    AppendResponse,
    Heartbeat,
    LogIndex,
    Message,
    PeerId,
    PreVoteRequest,
    PreVoteResponse,
    Term,
    VoteRequest,
    VoteResponse,
)
from pytinykv.raftstore import RaftEnvelope
from pytinykv.raftstore.turn import Turn

SENDER = Peer(PeerId(101), StoreId(1))
TERM = Term(9)


@pytest.fixture
def cluster(tmp_path: Path) -> Cluster:
    """Store 3 has no peer."""
    return Cluster(tmp_path, stores=3, members=2)


def messages(to: int, sender: int = 101) -> dict[str, Message]:
    here, there = PeerId(to), PeerId(sender)
    return {
        "heartbeat": Heartbeat(here, there, TERM, LogIndex(0), 0, 0.0),
        "vote": VoteRequest(here, there, TERM, LogIndex(9), TERM),
        "pre-vote": PreVoteRequest(here, there, TERM, LogIndex(9), TERM),
        "append": AppendEntries(here, there, TERM, LogIndex(9), TERM, LogIndex(9), 0.0),
        "append response": AppendResponse(here, there, TERM, LogIndex(9), 0.0),
        "vote response": VoteResponse(here, there, TERM, True),
    }


def send(cluster: Cluster, store_id: int, to: int, message: Message | None, **more: object) -> None:
    fields: dict[str, object] = {"epoch": RegionEpoch(1, 1), "sender": SENDER, **more}
    envelope = RaftEnvelope(
        region_id=REGION_ID,
        receiver=Peer(PeerId(to), StoreId(store_id)),
        message=message,
        **fields,  # type: ignore[arg-type]
    )
    cluster.nodes[store_id].running.receive(encode([envelope]))
    cluster.turn(store_id)


def peer_id(cluster: Cluster, store_id: int) -> int | None:
    peer = cluster.nodes[store_id].running.peers.get(REGION_ID)
    return None if peer is None else peer.peer.id


@pytest.mark.tinykv("TestIsInitialMsg")
@pytest.mark.parametrize(
    ("name", "creates"),
    [
        ("heartbeat", True),
        ("vote", True),
        ("pre-vote", True),
        ("append", False),
        ("append response", False),
        ("vote response", False),
    ],
)
def test_a_peer_learns_from_some_messages_that_it_exists(cluster: Cluster, name: str, creates: bool) -> None:
    send(cluster, 3, 103, messages(103)[name])
    assert peer_id(cluster, 3) == (103 if creates else None)


def test_a_peer_that_knows_nothing_yet_remembers_its_vote_over_a_restart(cluster: Cluster) -> None:
    send(cluster, 3, 103, messages(103)["vote"])
    cluster.nodes[3].disk.work()
    cluster.turn(3)
    granted = [e.message.granted for e in cluster.sent if isinstance(e.message, VoteResponse)]
    assert granted == [True]
    cluster.restart(3)
    assert peer_id(cluster, 3) is None, "no store has told it again"
    cluster.sent.clear()
    rival = VoteRequest(PeerId(103), PeerId(102), TERM, LogIndex(9), TERM)
    send(cluster, 3, 103, rival, sender=Peer(PeerId(102), StoreId(2)))
    cluster.nodes[3].disk.work()
    cluster.turn(3)
    assert peer_id(cluster, 3) == 103
    granted = [e.message.granted for e in cluster.sent if isinstance(e.message, VoteResponse)]
    assert granted in ([], [False]), "one vote in a term"


def test_a_message_for_an_earlier_peer_is_dropped(cluster: Cluster) -> None:
    send(cluster, 3, 203, messages(203)["heartbeat"])
    send(cluster, 3, 103, messages(103)["heartbeat"])
    assert peer_id(cluster, 3) == 203


@pytest.mark.parametrize("name", ["heartbeat", "vote", "pre-vote"])
def test_a_message_for_a_later_peer_says_that_the_earlier_one_was_removed(cluster: Cluster, name: str) -> None:
    cluster.elect(1)
    call = cluster.put(1, b"k", b"v")
    cluster.settle()
    assert call.succeeded
    send(cluster, 2, 202, messages(202)[name])
    assert peer_id(cluster, 2) == 202
    assert cluster.nodes[2].value(b"k") is None, "it begins with nothing"
    assert not cluster.nodes[2].peer.is_initialized
    send(cluster, 2, 102, messages(102)["heartbeat"])
    assert peer_id(cluster, 2) == 202


def test_a_message_that_creates_nothing_destroys_nothing(cluster: Cluster) -> None:
    for name in ("append", "append response", "vote response"):
        send(cluster, 2, 202, messages(202)[name])
    send(cluster, 2, 202, None, is_tombstone=True, epoch=RegionEpoch(99, 1))
    assert peer_id(cluster, 2) == 102


def test_a_tombstone_with_an_old_epoch_is_ignored(cluster: Cluster) -> None:
    send(cluster, 2, 102, None, is_tombstone=True, epoch=RegionEpoch(1, 1))
    assert peer_id(cluster, 2) == 102
    send(cluster, 2, 102, None, is_tombstone=True, epoch=RegionEpoch(2, 1))
    assert peer_id(cluster, 2) is None
    send(cluster, 2, 102, messages(102)["heartbeat"])
    assert peer_id(cluster, 2) is None, "it must not come back"
    send(cluster, 2, 202, messages(202)["heartbeat"])
    assert peer_id(cluster, 2) == 202


def test_a_non_member_that_asks_for_votes_with_an_old_epoch_is_told(cluster: Cluster) -> None:
    non_member = Peer(PeerId(109), StoreId(3))
    cluster.sent.clear()
    for name in ("vote", "pre-vote"):
        send(cluster, 1, 101, messages(101, 109)[name], sender=non_member, epoch=RegionEpoch(0, 1))
    told = [envelope for envelope in cluster.sent if envelope.is_tombstone]
    assert [envelope.receiver for envelope in told] == [non_member, non_member]
    assert told[0].epoch == RegionEpoch(1, 1)


def test_who_may_be_a_member_by_now_is_not_told(cluster: Cluster) -> None:
    non_member = Peer(PeerId(109), StoreId(3))
    cluster.sent.clear()
    send(cluster, 1, 101, messages(101, 109)["vote"], sender=non_member, epoch=RegionEpoch(1, 1))
    assert not any(envelope.is_tombstone for envelope in cluster.sent)


def test_a_tombstone_that_does_not_know_why_says_nothing(cluster: Cluster) -> None:
    """It was told to go, and applied no removal: it can't vouch for any entry."""
    send(cluster, 2, 102, None, is_tombstone=True, epoch=RegionEpoch(2, 1))
    cluster.sent.clear()
    send(cluster, 2, 102, messages(102)["pre-vote"])
    assert not any(isinstance(envelope.message, PreVoteResponse) for envelope in cluster.sent)


# --- messages whose keys still belong to another region here


CHILD = RegionId(2)


def send_child(cluster: Cluster, message: Message, *, start: bytes = b"m", end: bytes = b"") -> None:
    """Send store 3 a message for peer 203 of region 2, which a split of region 1 has made elsewhere."""
    receiver = Peer(PeerId(203), StoreId(3))
    sender = Peer(PeerId(201), StoreId(1))
    envelope = RaftEnvelope(CHILD, sender, receiver, RegionEpoch(1, 2), message, start_key=start, end_key=end)
    cluster.nodes[3].running.receive(encode([envelope]))
    cluster.settle()


def apply_split(cluster: Cluster) -> None:
    """Let region 1 end at `m` on store 3, as an applied split would."""
    store = cluster.nodes[3].running

    def shrink(turn: Turn) -> None:
        peer = store.peers[REGION_ID]
        peer._set_region(turn, msgspec.structs.replace(peer.region, end_key=b"m", epoch=RegionEpoch(1, 2)))

    store.in_turn(shrink)
    cluster.settle()


@pytest.fixture
def late(tmp_path: Path) -> Cluster:
    """Store 3 has region 1 over all keys: it has not applied the split yet."""
    return Cluster(tmp_path)


@pytest.mark.parametrize("name", ["heartbeat", "vote", "pre-vote"])
def test_no_peer_is_created_while_its_keys_belong_to_another_region(late: Cluster, name: str) -> None:
    late.sent.clear()
    send_child(late, messages(203, 201)[name])
    assert CHILD not in late.nodes[3].running.peers
    assert late.sent == [], "it promises nothing"
    apply_split(late)
    assert late.nodes[3].running.peers[CHILD].peer.id == 203, "the message has waited"


def test_keys_that_do_not_overlap_wait_for_nothing(late: Cluster) -> None:
    apply_split(late)
    send_child(late, messages(203, 201)["vote"])
    assert CHILD in late.nodes[3].running.peers
    send_child(late, messages(203, 201)["append"])
    assert late.nodes[3].running.failure is None


def test_the_newest_message_of_each_sender_waits(late: Cluster) -> None:
    send_child(late, messages(203, 201)["vote"])
    newer = VoteRequest(PeerId(203), PeerId(201), Term(TERM + 1), LogIndex(9), TERM)
    send_child(late, newer)
    apply_split(late)
    late.ticks(1)
    assert late.nodes[3].running.peers[CHILD].node.term == TERM + 1


def test_a_message_that_has_waited_for_an_election_timeout_is_forgotten(late: Cluster) -> None:
    send_child(late, messages(203, 201)["vote"])
    late.clock.advance(late.config.election_ticks * late.config.tick_s + 0.1)
    apply_split(late)
    assert CHILD not in late.nodes[3].running.peers, "its sender has asked again, or given up"


def test_a_message_that_has_waited_waits_on_while_another_region_is_in_its_way(late: Cluster) -> None:
    send_child(late, messages(203, 201)["vote"], start=b"a")
    apply_split(late)
    assert CHILD not in late.nodes[3].running.peers
    store = late.nodes[3].running

    def destroy(turn: Turn) -> None:
        store.peers[REGION_ID].destroy(turn)

    store.in_turn(destroy)
    late.settle()
    assert CHILD in store.peers
