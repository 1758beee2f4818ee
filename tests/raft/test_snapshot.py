"""Snapshots: when a leader sends one, and what a follower makes of it (Raft section 7)."""

from __future__ import annotations

import pytest
from tests.raft.harness import Network, Peer, entries_of, ids, stored

from pytinykv.raft import (
    AppendEntries,
    AppendResponse,
    ConfState,
    HardState,
    Heartbeat,
    HeartbeatResponse,
    InstallSnapshot,
    LogIndex,
    PeerId,
    ProgressState,
    RoleKind,
    SnapshotMeta,
    Term,
    TimeoutNow,
)


def snapshot(index: int, term: int, *voters: int) -> SnapshotMeta:
    return SnapshotMeta(LogIndex(index), Term(term), ConfState(ids(*voters)))


def install(meta: SnapshotMeta, *, term: int | None = None, to: int = 1, sender: int = 2) -> InstallSnapshot:
    return InstallSnapshot(PeerId(to), PeerId(sender), meta.term if term is None else Term(term), meta, 0.0)


@pytest.mark.tinykv("TestRestoreSnapshot2C")
def test_a_snapshot_replaces_log_and_members() -> None:
    peer = Peer(1, stored((1, 2)))
    peer.step(install(snapshot(11, 11, 1, 2, 3)))
    assert (peer.node.last_index, peer.commit) == (11, 11)
    assert peer.node._core.log.term(LogIndex(11)) == 11
    assert peer.node.conf_state.voters == (1, 2), "the members are those of the applied index"
    assert AppendResponse(PeerId(2), PeerId(1), Term(11), LogIndex(11), 0.0) in peer.take()
    assert peer.storage.first_index() == 12
    assert peer.node.conf_state.voters == (1, 2, 3)


@pytest.mark.tinykv("TestRestoreIgnoreSnapshot2C")
def test_a_snapshot_older_than_the_commit_index_is_ignored() -> None:
    peer = Peer(1, stored((1, 2), terms=(1, 1, 1), commit=3))
    peer.take()
    peer.step(install(snapshot(1, 1, 1, 2)))
    assert peer.commit == 3
    assert peer.node.ready(0.0).snapshot is None


def test_a_snapshot_of_entries_that_are_there_only_moves_the_commit_index() -> None:
    peer = Peer(1, stored((1, 2), terms=(1, 1, 1)))
    peer.step(install(snapshot(2, 1, 1, 2)))
    ready = peer.node.ready(0.0)
    assert (ready.snapshot, peer.commit, peer.node.last_index) == (None, 2, 3)
    assert ready.committed_entries == entries_of(1, 1)


def test_a_snapshot_without_this_peer_is_ignored() -> None:
    peer = Peer(1, stored((1, 2)))
    peer.step(install(snapshot(11, 11, 2, 3)))
    assert (peer.node.last_index, peer.node.ready(0.0).snapshot) == (0, None)


@pytest.mark.tinykv("TestRestoreFromSnapMsg2C")
def test_the_sender_of_a_snapshot_is_the_leader() -> None:
    peer = Peer(2, stored((1, 2)))
    peer.step(install(snapshot(11, 2, 1, 2), term=2, to=2, sender=1))
    assert peer.leader_id == 1


@pytest.mark.tinykv("TestRestoreFromSnapWithOverlapingPeersMsg2C")
def test_a_snapshot_brings_its_members_and_no_others() -> None:
    peer = Peer(2, stored((1, 2, 3)))
    peer.step(install(snapshot(11, 2, 2, 3, 4), term=2, to=2, sender=1))
    assert peer.leader_id == 1
    peer.take()
    assert peer.node.conf_state.voters == (2, 3, 4)


def test_an_empty_peer_learns_its_group_from_a_snapshot_and_goes_on_from_there() -> None:
    peer = Peer(3, stored(()))
    peer.step(install(snapshot(11, 2, 1, 2, 3), term=2, to=3, sender=1))
    peer.take()
    after = entries_of(2, first=12)
    peer.step(AppendEntries(PeerId(3), PeerId(1), Term(2), LogIndex(11), Term(2), LogIndex(12), 0.0, after))
    assert AppendResponse(PeerId(1), PeerId(3), Term(2), LogIndex(12), 0.0) in peer.take()
    assert peer.applied == list(after)


def test_nothing_is_applied_until_the_snapshot_is() -> None:
    peer = Peer(1, stored((1, 2)))
    peer.step(install(snapshot(11, 2, 1, 2)))
    ready = peer.node.ready(0.0)
    assert ready.snapshot is not None
    peer.storage.apply_snapshot(ready.snapshot)
    peer.step(
        AppendEntries(PeerId(1), PeerId(2), Term(2), LogIndex(11), Term(2), LogIndex(12), 0.0, entries_of(2, first=12))
    )
    ready = peer.node.ready(0.0)
    assert ready.committed_entries == ()
    peer.storage.append(ready.entries)
    peer.node.on_applied(LogIndex(11))
    assert peer.node.ready(0.0).committed_entries == entries_of(2, first=12)


def test_entries_on_their_way_to_the_disk_do_not_make_a_snapshot_durable() -> None:
    peer = Peer(1, stored((1, 2), term=1))
    peer.step(AppendEntries(PeerId(1), PeerId(2), Term(1), LogIndex(0), Term(0), LogIndex(0), 0.0, entries_of(1, 1)))
    first = peer.node.ready(0.0)
    peer.storage.append(first.entries)
    peer.step(install(snapshot(11, 2, 1, 2)))
    second = peer.node.ready(0.0)
    peer.node.on_persisted(first.number, 0.0)
    assert peer.node.status().durable_index == 0
    peer.node.on_persisted(second.number, 0.0)
    assert peer.node.status().durable_index == 11


def test_a_peer_does_not_campaign_before_its_snapshot_is_taken_up() -> None:
    peer = Peer(1, stored((1, 2)))
    peer.step(install(snapshot(11, 2, 1, 2)))
    assert peer.campaign() is False
    peer.take()
    assert peer.campaign() is True


def test_a_peer_that_is_installing_a_snapshot_does_not_campaign_and_leaves_the_old_log_alone() -> None:
    """The driver takes its time: the snapshot is handed out, the storage still has the log that it replaces."""
    peer = Peer(1, stored((1, 2), terms=(1, 1, 1), commit=3))
    peer.take()
    peer.step(install(snapshot(11, 2, 1, 2)))
    ready = peer.node.ready(peer.now)
    assert ready.snapshot is not None
    peer.tick(2 * peer.config.election_ticks)
    assert (peer.role, peer.term, peer.campaign()) == (RoleKind.FOLLOWER, 2, False)
    peer.step(TimeoutNow(PeerId(1), PeerId(2), Term(2), 0.0))
    assert peer.role is RoleKind.FOLLOWER
    assert peer.node.status().first_index == 12
    peer.storage.apply_snapshot(ready.snapshot)
    peer.node.on_applied(ready.snapshot.index)
    assert peer.campaign() is True


def test_while_a_snapshot_is_installed_a_peer_answers_heartbeats_and_hands_out_nothing_to_write() -> None:
    """Installing may take many turns. Entries that follow the snapshot, and what acknowledges them, wait for it."""
    peer = Peer(1, stored((1, 2), terms=(1,), commit=1))
    peer.take()
    peer.step(install(snapshot(11, 2, 1, 2)))
    first = peer.node.ready(peer.now)
    assert first.snapshot is not None
    peer.step(
        AppendEntries(PeerId(1), PeerId(2), Term(2), LogIndex(11), Term(2), LogIndex(12), 0.0, entries_of(2, first=12))
    )
    assert not peer.node.has_ready()
    peer.step(Heartbeat(PeerId(1), PeerId(2), Term(2), LogIndex(0), 0, 0.0))
    assert not peer.node.has_ready(), "the new term is not durable before the snapshot's Ready is"
    peer.storage.set_hard_state(first.hard_state or HardState())
    peer.node.on_persisted(first.number, peer.now)
    peer.step(Heartbeat(PeerId(1), PeerId(2), Term(2), LogIndex(0), 0, 0.0))
    meanwhile = peer.node.ready(peer.now)
    assert [type(message) for message in meanwhile.messages] == [HeartbeatResponse]
    assert (meanwhile.entries, meanwhile.hard_state, meanwhile.committed_entries) == ((), None, ())
    assert (meanwhile.messages_after_sync, meanwhile.must_sync) == ((), False)
    peer.storage.apply_snapshot(first.snapshot)
    peer.node.on_applied(first.snapshot.index)
    then = peer.node.ready(peer.now)
    assert then.entries == then.committed_entries == entries_of(2, first=12)
    assert AppendResponse(PeerId(2), PeerId(1), Term(2), LogIndex(12), 0.0) in then.messages_after_sync


# -- the leader


def leader_with_compacted_log(**config: int) -> Peer:
    """Make peer 1 lead in term 12 with entries from 12 on, and peer 2 needing entry 10."""
    peer = Peer(1, stored((1, 2), base=(11, 11), term=11, commit=11), **config)
    peer.lead(commit_no_op=False)
    peer.take()
    progress = peer.node._core.role.progress[PeerId(2)]  # type: ignore[union-attr]
    progress.next, progress.is_paused = LogIndex(10), False
    return peer


@pytest.mark.tinykv("TestProvideSnap2C")
def test_a_follower_behind_the_log_gets_a_snapshot() -> None:
    peer = leader_with_compacted_log()
    peer.propose(b"some data")
    assert peer.take() == [install(snapshot(11, 11, 1, 2), term=12, to=2, sender=1)]
    assert peer.node.status().progress[PeerId(2)].state is ProgressState.SNAPSHOT
    peer.propose(b"more")
    assert peer.take() == []


def test_a_snapshot_in_preparation_is_asked_for_again_later() -> None:
    peer = leader_with_compacted_log()
    peer.storage.snapshot_unavailable = True
    assert peer.take() == []
    assert not peer.node.has_ready()
    peer.storage.snapshot_unavailable = False
    peer.step(HeartbeatResponse(PeerId(1), PeerId(2), Term(12), 0, 0.0))
    assert [type(message) for message in peer.take()] == [InstallSnapshot]


def test_a_snapshot_that_is_ready_now_waits_for_no_heartbeat() -> None:
    peer = leader_with_compacted_log()
    peer.storage.snapshot_unavailable = True
    assert peer.take() == []
    peer.storage.snapshot_unavailable = False
    peer.node.on_snapshot_ready()
    assert [type(message) for message in peer.take()] == [InstallSnapshot]


def test_a_silent_follower_gets_no_snapshot() -> None:
    peer = leader_with_compacted_log()
    peer.node._core.role.progress[PeerId(2)].recent_active = False  # type: ignore[union-attr]
    assert peer.take() == []


def test_a_failed_snapshot_is_sent_again_after_the_next_answered_heartbeat() -> None:
    peer = leader_with_compacted_log()
    peer.take()
    peer.node.report_snapshot(PeerId(2), ok=False)
    assert peer.take() == []
    peer.step(HeartbeatResponse(PeerId(1), PeerId(2), Term(12), 0, 0.0))
    assert peer.node.status().progress[PeerId(2)].next == 1
    assert [type(message) for message in peer.take()] == [InstallSnapshot]


def test_after_a_delivered_snapshot_the_log_follows() -> None:
    peer = leader_with_compacted_log()
    peer.take()
    peer.node.report_snapshot(PeerId(2), ok=True)
    assert peer.node.status().progress[PeerId(2)].next == 12
    peer.step(AppendResponse(PeerId(1), PeerId(2), Term(12), LogIndex(11), 0.0))
    (sent,) = peer.take()
    assert isinstance(sent, AppendEntries)
    assert sent.prev_index == 11


def test_a_snapshot_without_a_report_is_given_up_after_a_while() -> None:
    peer = leader_with_compacted_log(snapshot_ticks_max=5)
    peer.take()
    peer.tick(4)
    assert peer.node.status().progress[PeerId(2)].state is ProgressState.SNAPSHOT
    peer.tick()
    assert peer.node.status().progress[PeerId(2)].state is ProgressState.PROBE


@pytest.mark.tinykv("TestSlowNodeRestore2C")
def test_a_follower_that_was_away_for_long_is_restored_by_a_snapshot() -> None:
    network = Network(3)
    network.campaign(1)
    network.isolate(3)
    for _ in range(100):
        network.propose(1)
    leader = network[1]
    leader.storage.compact(leader.node.applied_index)
    network.heal()
    network.beat(1)
    network.propose(1)
    assert network[3].storage.first_index() > 100
    assert network[3].commit == leader.commit
    network.propose(1)
    assert network[3].commit == leader.commit
