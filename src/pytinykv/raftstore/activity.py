"""Which regions are awake: only those are ticked. The others hibernate, and cost a store nothing until something happens.

    leader                                          each member
      quiet for `hibernate_after_s`
      SleepRequest(term, last index) ─────────────▶ nothing under way, log applied up to there: falls asleep
      all members have consented     ◀───────────── SleepConsent
      gives up the lease, falls asleep

Quiet: no entry, read or change of membership or leadership; the log is on every member's disk, and applied here. A member on
a store that has fallen silent is left out once the scheduler has been told that it is down, as long as the others are
a majority; a region with a member on a store that never sent a beat, so one of an older version, does not hibernate at all.

What wakes a peer
    a Raft message for it                    whatever it is
    a proposal, read, order, transfer        at the leader; its heartbeats then wake the members
    a client's request at a follower         or it would not be noticed that its leader is out of reach
    its leader's store falls silent          or was started again; at a leader: that of any member, or when it is back
    WakeUp                                   a member that was woken by a third peer tells the leader
    a stop, a disk that does not answer      leadership is handed over

Invariants
1. A sleeping leader has no lease (see `raft.hibernation`, also for why sleeping is safe).
2. A member falls asleep only when its leader asks, and with all that the leader has; a leader only after all members that
   count have consented to that very request, and nothing has happened since.
3. While a follower sleeps, its leader's store is heard; it is woken in the turn that finds that store silent.
4. A follower that sleeps although it should not (a consent or a WakeUp was lost, its removal was missed) is awake again
   after about `sleep_check_s`: so often it asks whether its leader still leads it. A member that is awake under a sleeping
   leader campaigns after an election timeout, which wakes the others; they stay with their leader if they hear it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pytinykv.model import PeerRole
from pytinykv.raftstore.records import Note, RaftEnvelope, SleepCheck, SleepConsent, SleepRequest, StoreBeat, WakeUp

if TYPE_CHECKING:
    import random
    from collections.abc import Callable, Mapping

    from pytinykv.model import Peer, StoreId
    from pytinykv.raftstore.config import RaftStoreConfig
    from pytinykv.raftstore.liveness import Liveness
    from pytinykv.raftstore.peer import RegionPeer
    from pytinykv.raftstore.turn import Turn

FIRST_DELAY_TICKS = 3
"""When a leader's store is silent, the first follower campaigns after so many ticks: by then the others have noticed, too."""
DELAY_SPREAD_TICKS = 3
"""Over how many ticks the regions that a store led are spread."""
NEXT_DELAY_TICKS = 5
"""The second follower waits for so many ticks more, and so on: two that campaign at the same time both lose."""


class Activity:
    """Belongs to the store loop; `peers` is shared with the store."""

    def __init__(
        self,
        peers: Mapping[int, RegionPeer],
        liveness: Liveness,
        config: RaftStoreConfig,
        rng: random.Random,
        touch: Callable[[RegionPeer], None],
    ) -> None:
        """`touch` lets a turn look at a peer."""
        self._peers = peers
        self._liveness = liveness
        self._config = config
        self._rng = rng
        self._touch = touch
        self._awake: dict[int, RegionPeer] = {}
        """By region, the peers that are ticked; destroyed ones leave at the next tick."""
        self._ticks = 0
        """Ticks so far."""
        self._hibernate_ticks = round(config.hibernate_after_s / config.tick_s)
        """How long a region must be quiet; 0: none ever sleeps."""
        self._to_check: list[RegionPeer] = []
        """Followers that slept when the round of checks began and have not been looked at in it."""
        self._checks_due = 0.0
        """Checks that are due, in parts of one; so they are spread over `sleep_check_s`."""

    # --- looking ------------------------------------------------------------------------------------------------

    def is_alive(self, peer: Peer) -> bool:
        """Return whether the store of another peer has been heard lately."""
        return self._liveness.is_alive(peer.store_id)

    # --- time ---------------------------------------------------------------------------------------------------

    def add(self, peer: RegionPeer) -> None:
        """Tick a new peer."""
        self._awake[peer.region.id] = peer

    def on_tick(self, turn: Turn) -> None:
        """Listen for other stores, tick the peers that are awake, and let those of them sleep that can."""
        self._ticks += 1
        for store_id in self._liveness.on_tick(turn.send):
            self._on_store_changed(store_id, turn)
        for region_id, peer in list(self._awake.items()):
            if peer.is_destroyed:
                if self._awake.get(region_id) is peer:
                    del self._awake[region_id]
                continue
            if self._hibernate_ticks and peer.is_leader and self._waits_for_consent(peer, turn):
                continue
            peer.tick(turn)
            self._touch(peer)
        self._check_sleepers(turn)

    def _waits_for_consent(self, peer: RegionPeer, turn: Turn) -> bool:
        """Ask a quiet region's members whether they can sleep, again and again; return whether their answers are due.

        While they are, the leader is not ticked: a heartbeat would wake those that have fallen asleep.
        """
        rest = peer.rest
        seen = _position(peer)
        if rest.is_read or seen != rest.seen:
            rest.is_read, rest.seen, rest.quiet_ticks = False, seen, 0
            return False
        rest.quiet_ticks += 1
        # Not all at the same tick, where a thousand regions were written to for the last time.
        overdue = rest.quiet_ticks - self._hibernate_ticks - peer.region.id % self._config.election_ticks
        since_request = overdue % self._config.election_ticks
        if overdue < 0 or since_request >= self._config.heartbeat_ticks or not self._may_sleep(peer):
            return False
        if since_request == 0:
            self._request(peer, turn)
        return True

    def _request(self, peer: RegionPeer, turn: Turn) -> None:
        rest = peer.rest
        rest.round += 1
        rest.agreed.clear()
        for member in self._members_that_count(peer):
            self._say(turn, peer, member, SleepRequest(peer.node.term, peer.node.last_index, rest.round))
        self._sleep_if_agreed(peer, turn)

    def _may_sleep(self, peer: RegionPeer) -> bool:
        """Return whether a leader may sleep if the members that count consent."""
        others = [one for one in peer.region.peers if one.id != peer.peer.id]
        absent = [one.id for one in others if self._liveness.is_silent(one.store_id)]
        if not all(self._liveness.is_alive(one.store_id) or one.id in absent for one in others):
            return False
        return peer.is_idle and peer.has_reported_down(absent) and peer.node.is_settled(absent)

    def _members_that_count(self, peer: RegionPeer) -> list[Peer]:
        return [
            one for one in peer.region.peers if one.id != peer.peer.id and not self._liveness.is_silent(one.store_id)
        ]

    def _sleep_if_agreed(self, peer: RegionPeer, turn: Turn) -> None:
        rest = peer.rest
        if rest.is_read or _position(peer) != rest.seen or not self._may_sleep(peer):
            return
        if all(one.id in rest.agreed for one in self._members_that_count(peer)):
            self._sleep(peer, turn)

    def _sleep(self, peer: RegionPeer, turn: Turn) -> None:
        self._awake.pop(peer.region.id, None)
        peer.rest.is_asleep = True
        peer.rest.slept_at = self._ticks
        peer.node.fall_asleep(turn.now)
        peer.storage.trim_cache(0)

    # --- waking -------------------------------------------------------------------------------------------------

    def wake(self, peer: RegionPeer, turn: Turn, *, by_leader: bool = False) -> None:
        """Tick a peer again, if it slept. `by_leader`: its leader knows that it is awake."""
        rest = peer.rest
        if not rest.is_asleep:
            return
        rest.is_asleep, rest.seen, rest.quiet_ticks = False, (), 0
        self._awake[peer.region.id] = peer
        self._touch(peer)
        peer.count_as_heard(self.is_alive, turn.now)
        leader = None if peer.is_leader else peer.leader
        if leader is None:
            peer.node.wake(turn.now)
            return
        missed = min(self._liveness.silent_ticks(leader.store_id), self._ticks - rest.slept_at)
        delay = self._election_delay(peer, leader) if self._liveness.is_silent(leader.store_id) else None
        peer.node.wake(turn.now, missed_ticks=missed, election_delay_ticks=delay)
        if not by_leader:
            self._say(turn, peer, leader, WakeUp())

    def wake_leaders(self, turn: Turn) -> None:
        """Wake what is led here, for leadership to be handed over."""
        for peer in self._peers.values():
            if peer.is_leader:
                self.wake(peer, turn)

    def _election_delay(self, peer: RegionPeer, leader: Peer) -> int:
        """Return after how many ticks a follower campaigns whose leader's store is silent; others come first, or later."""
        voters = sorted(
            one.store_id
            for one in peer.region.peers
            if one.role is PeerRole.VOTER and one.id != leader.id and not self._liveness.is_silent(one.store_id)
        )
        if peer.peer.store_id not in voters:
            return self._config.election_ticks
        turn_of = (voters.index(peer.peer.store_id) + peer.region.id) % len(voters)
        return FIRST_DELAY_TICKS + turn_of * NEXT_DELAY_TICKS + self._rng.randrange(0, DELAY_SPREAD_TICKS)

    def _on_store_changed(self, store_id: StoreId, turn: Turn) -> None:
        """Wake what a store led that fell silent or is back, and the leaders that have a member there."""
        for peer in self._peers.values():
            if not peer.rest.is_asleep or peer.is_destroyed:
                continue
            leader = peer.leader
            if peer.is_leader:
                if peer.region.peer_on(store_id) is not None:
                    self.wake(peer, turn)
            elif leader is None or leader.store_id == store_id:
                self.wake(peer, turn)

    # --- what other stores say ----------------------------------------------------------------------------------

    def on_note(self, envelope: RaftEnvelope, note: Note, turn: Turn) -> None:
        """Take what another store says of one region, or of itself."""
        if isinstance(note, StoreBeat):
            if self._liveness.on_beat(envelope.sender.store_id, note):
                self._on_store_changed(envelope.sender.store_id, turn)
            return
        peer = self._peers.get(envelope.region_id)
        if peer is None or peer.is_destroyed or peer.peer.id != envelope.receiver.id:
            if isinstance(note, SleepCheck):
                turn.send(_answer(envelope, WakeUp()))
        elif isinstance(note, SleepRequest):
            self._on_request(peer, envelope, note, turn)
        elif isinstance(note, SleepConsent):
            self._on_consent(peer, envelope, note, turn)
        elif isinstance(note, WakeUp):
            self.wake(peer, turn)
        elif not self._leads(peer, envelope, note):
            turn.send(_answer(envelope, WakeUp()))

    def _on_request(self, peer: RegionPeer, envelope: RaftEnvelope, request: SleepRequest, turn: Turn) -> None:
        """Fall asleep if this peer has no more to do than its leader; say nothing if it has."""
        node, sender = peer.node, envelope.sender
        if node.leader_id != sender.id or node.term != request.term or node.last_index != request.index:
            return
        if not self.is_alive(sender) or not peer.is_idle or not node.is_settled():
            return
        if not peer.rest.is_asleep:
            self._sleep(peer, turn)
        self._say(turn, peer, sender, SleepConsent(request.term, request.round))

    def _on_consent(self, peer: RegionPeer, envelope: RaftEnvelope, consent: SleepConsent, turn: Turn) -> None:
        rest = peer.rest
        if not peer.is_leader or rest.is_asleep or (consent.term, consent.round) != (peer.node.term, rest.round):
            return
        rest.agreed.add(envelope.sender.id)
        self._sleep_if_agreed(peer, turn)

    @staticmethod
    def _leads(peer: RegionPeer, envelope: RaftEnvelope, check: SleepCheck) -> bool:
        return (
            peer.is_leader and peer.node.term == check.term and peer.region.peer(envelope.sender.id) == envelope.sender
        )

    # --- checks -------------------------------------------------------------------------------------------------

    def _check_sleepers(self, turn: Turn) -> None:
        """Let some sleeping followers ask whether they are still led, each about once in `sleep_check_s`."""
        self._checks_due += len(self._peers) * self._config.tick_s / self._config.sleep_check_s
        while self._checks_due >= 1.0:
            self._checks_due -= 1.0
            if not self._to_check:
                self._to_check = [one for one in self._peers.values() if one.rest.is_asleep and not one.is_leader]
                self._to_check.reverse()
            peer = self._to_check.pop() if self._to_check else None
            if peer is None or peer.is_destroyed or not peer.rest.is_asleep or peer.is_leader:
                continue
            if (leader := peer.leader) is None:
                self.wake(peer, turn)
            else:
                self._say(turn, peer, leader, SleepCheck(peer.node.term))

    @staticmethod
    def _say(turn: Turn, peer: RegionPeer, receiver: Peer, note: Note) -> None:
        turn.send(RaftEnvelope(peer.region.id, peer.peer, receiver, peer.region.epoch, None, note=note))


def _position(peer: RegionPeer) -> tuple[object, ...]:
    """Return what moves when anything happens in a region."""
    node = peer.node
    return (node.term, node.last_index, node.commit_index, node.applied_index, peer.region.epoch)


def _answer(envelope: RaftEnvelope, note: Note) -> RaftEnvelope:
    return RaftEnvelope(envelope.region_id, envelope.receiver, envelope.sender, envelope.epoch, None, note=note)
