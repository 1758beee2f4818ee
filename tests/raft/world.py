"""A group of Raft peers in a world where everything can go wrong, and a judge that looks at every step.

The world is driven by a schedule: a list of `(kind, number)` actions. Each peer has

* a clock of its own, with its own rate and offset;
* a disk: batches are written in order, synced later, and a crash loses unsynced ones from the end;
* a driver that follows the Ready contract, with as many Readys under way as the schedule likes.

In half of the worlds peers apply what is committed in the turn in which they learn of it; in the others it waits for some
turns, at one peer for longer than at another. Messages wait in a pool from which the schedule delivers, drops and duplicates
them in any order.

The judge checks after every action (`Judge`): election safety, log matching, leader completeness and state-machine safety
(Raft figure 3), that a lease excludes any other leader and covers what was acknowledged anywhere, that reads see what was
applied anywhere before they began, that what is committed is on the disks of a majority, that what is called durable is on
the disk, and that acknowledgements do not run ahead of it.
"""

from __future__ import annotations

import copy
import random
from collections import deque
from dataclasses import dataclass, field

from tests.raft.disk_image import BASE, PEERS, Batch, new_disk
from tests.raft.harness import TICK_S
from tests.raft.schedules import Action, is_plain

from pytinykv.raft import (
    AppendResponse,
    ConfChange,
    ConfChangeKind,
    Config,
    ConfState,
    Entry,
    EntryKind,
    InstallSnapshot,
    LogIndex,
    Message,
    PeerId,
    RaftError,
    RawNode,
    Ready,
    Term,
    TimeoutNow,
    VoteResponse,
    decode_conf_change,
    leading,
)
from pytinykv.raft.roles import Leader

LEASE_S = 0.8


class WorldPeer:
    """One peer with its disk, clock and driver."""

    def __init__(self, world: World, peer_id: PeerId, rate: float) -> None:
        self.world = world
        self.id = peer_id
        self.rate = rate
        self.offset = 100.0 * peer_id
        self.durable = new_disk(peer_id)
        self.written = copy.deepcopy(self.durable)
        self.unsynced: deque[Batch] = deque()
        self.reads: dict[bytes, tuple[LogIndex, LogIndex]] = {}
        self.unapplied: deque[Entry] = deque()
        self.installing: Batch | None = None
        """A snapshot that takes its time."""
        self.proposed: set[tuple[int, int]] = set()
        """Index and term of the commands for which this peer will answer a client."""
        self.next_tick = 0.0
        self.restarts = 0
        self.node: RawNode | None = None
        self.start(fresh=True)

    @property
    def now(self) -> float:
        return self.offset + self.rate * self.world.time

    def start(self, *, fresh: bool = False) -> None:
        config = Config(
            peer_id=self.id,
            pre_vote=not self.world.is_plain,
            check_quorum=not self.world.is_plain,
            lease_s=0.0 if self.world.is_plain else LEASE_S,
            fresh=fresh,
            inflight_max=4,
            append_bytes_max=12,
            committed_bytes_max=24,
            uncommitted_bytes_max=200,
            snapshot_ticks_max=20,
            applied=self.durable.applied,
        )
        self.written = copy.deepcopy(self.durable)
        rng = random.Random(1000 * self.restarts + self.id + self.world.seed)
        self.node = RawNode(config, self.written, rng)
        self.restarts += 1
        self.next_tick = self.now + TICK_S

    def crash(self, surviving: int) -> None:
        """Lose everything in memory, and the unsynced batches except the oldest `surviving`."""
        for batch in list(self.unsynced)[:surviving]:
            self.durable.write(batch)
        self.unsynced.clear()
        self.reads.clear()
        self.unapplied.clear()
        self.installing = None
        self.proposed.clear()
        self.node = None

    def tick_if_due(self) -> None:
        if self.node is not None and self.now >= self.next_tick:
            self.next_tick += TICK_S
            self.node.tick(self.now)

    def turn(self, lag: int = 0) -> None:
        """Take one Ready: write, apply, send. Of what is committed, `lag` entries wait for a later turn."""
        node = self.node
        if node is None:
            return
        if self.installing is not None and lag == 0:
            self._install(node)
        if not node.has_ready():
            self._apply_later(node, lag)
            return
        ready = node.ready(self.now)
        batch = Batch(
            ready.number,
            ready.entries,
            ready.hard_state,
            ready.snapshot,
            self.written.applied,
            self.written.conf_state,
            ready.messages_after_sync,
            ready.must_sync,
        )
        self.world.judge.on_ready(self, ready)
        self.world.send(ready.messages)
        if ready.snapshot is not None:
            batch.applied, batch.conf_state = ready.snapshot.index, ready.snapshot.conf_state
            self.unapplied.clear()
            self.installing = batch
            if lag == 0:
                self._install(node)
            return
        if self.installing is None:
            self._carry_out(node, ready, batch, lag)
        self._note_reads(ready)

    def _install(self, node: RawNode) -> None:
        """Put a snapshot, with all that its Ready has behind it, into place."""
        batch, self.installing = self.installing, None
        assert batch is not None
        assert batch.snapshot is not None
        self.written.write(batch)
        node.on_applied(batch.snapshot.index)
        self.unsynced.append(batch)

    def _carry_out(self, node: RawNode, ready: Ready, batch: Batch, lag: int) -> None:
        self.written.write(batch)
        self.unapplied.extend(ready.committed_entries)
        self._apply(node, batch, lag)
        self.written.set_applied(batch.applied, batch.conf_state)
        self.unsynced.append(batch)

    def _apply_later(self, node: RawNode, lag: int) -> None:
        if len(self.unapplied) <= lag or self.installing is not None:
            return
        batch = Batch(0, (), None, None, self.written.applied, self.written.conf_state)
        self._apply(node, batch, lag)
        self.written.write(batch)
        self.unsynced.append(batch)
        self._serve_reads()

    def _apply(self, node: RawNode, batch: Batch, lag: int) -> None:
        while len(self.unapplied) > lag:
            entry = self.unapplied.popleft()
            self.world.judge.on_apply(self, entry)
            if entry.kind is EntryKind.CONF_CHANGE:
                batch.conf_state = node.apply_conf_change(decode_conf_change(entry.data))
            batch.applied = entry.index
            node.on_applied(entry.index)

    def _note_reads(self, ready: Ready) -> None:
        for state in ready.read_states:
            began_at, _ = self.reads[state.context]
            self.reads[state.context] = (began_at, state.index)
        for context in ready.dropped_reads:
            del self.reads[context]
        self._serve_reads()

    def _serve_reads(self) -> None:
        for context, (began_at, index) in list(self.reads.items()):
            if index and self.written.applied >= index:
                del self.reads[context]
                self.world.judge.on_read(self, began_at, self.written.applied)

    def has_durable(self, index: LogIndex, term: Term) -> bool:
        """Tell whether this peer's disk has an entry, or a snapshot that covers it."""
        disk = self.durable
        return index < disk.first_index() or (index <= disk.last_index() and disk.term(index) == term)

    def sync(self, count: int) -> None:
        """Let the disk finish the oldest `count` batches."""
        node, number = self.node, 0
        for _ in range(min(count, len(self.unsynced))):
            batch = self.unsynced.popleft()
            self.durable.write(batch)
            self.world.judge.on_release(self, batch)
            self.world.send(batch.messages_after_sync)
            if batch.must_sync:
                number = batch.number
        if number and node is not None:
            node.on_persisted(number, self.now)

    def compact(self) -> None:
        """Drop the log up to the durable applied index, in a batch of its own."""
        index = self.durable.applied
        if self.node is None or index < self.written.first_index():
            return
        batch = Batch(0, (), None, None, self.written.applied, self.written.conf_state, compact_to=index)
        self.written.write(batch)
        self.unsynced.append(batch)


@dataclass
class Judge:
    """What must never happen, whatever the schedule."""

    world: World
    leaders: dict[Term, PeerId] = field(default_factory=dict)
    votes: dict[tuple[PeerId, Term], PeerId] = field(default_factory=dict)
    entries: dict[tuple[int, int], tuple[Entry, int]] = field(default_factory=dict)
    applied: dict[int, Entry] = field(default_factory=dict)
    committed_in: dict[int, int] = field(default_factory=dict)
    applied_max: LogIndex = LogIndex(BASE[0])
    """Highest index applied by any peer."""
    acknowledged_max: LogIndex = LogIndex(BASE[0])
    """Highest index that a lease read must see: of an acknowledged command, or of an admin entry applied by any peer."""
    commits: dict[PeerId, tuple[Term | None, ConfState, LogIndex]] = field(default_factory=dict)
    """Term, members and commit index of each leader when it was last looked at."""
    seen_terms: dict[PeerId, int] = field(default_factory=dict)
    leases_seen: int = 0
    reads_seen: int = 0

    def on_ready(self, peer: WorldPeer, ready: Ready) -> None:
        """Log matching: index and term decide the entry, and the term before it."""
        for entry in ready.entries:
            assert peer.node is not None
            before = peer.node._core.log.term(LogIndex(entry.index - 1))
            key = (entry.index, entry.term)
            known = self.entries.setdefault(key, (entry, before))
            assert known == (entry, before), f"log matching: {key} is {known} and {(entry, before)}"

    def on_apply(self, peer: WorldPeer, entry: Entry) -> None:
        """State-machine safety: an index holds the same entry everywhere, for ever; leader completeness.

        An entry may be committed in a later term than its own; the term of the first peer that applies it is a bound.
        """
        known = self.applied.setdefault(entry.index, entry)
        assert known == entry, f"state-machine safety: peer {peer.id} applies {entry}, elsewhere {known}"
        assert peer.node is not None
        if (entry.index, entry.term) in peer.proposed or entry.kind is not EntryKind.NORMAL:
            self.acknowledged_max = max(self.acknowledged_max, entry.index)
        term = self.committed_in.setdefault(entry.index, peer.node.term)
        if entry.index > self.applied_max:
            self.applied_max = entry.index
            for other in self.world.alive():
                if other.node is not None and other.node.is_leader and other.node.term >= term:
                    self.check_leader_has(other, entry)

    def check_leader_has(self, peer: WorldPeer, entry: Entry) -> None:
        assert peer.node is not None
        log = peer.node._core.log
        has = entry.index < log.first_index() or log.matches(entry.index, entry.term)
        assert has, f"leader completeness: peer {peer.id} leads term {peer.node.term} without {entry}"

    def on_release(self, peer: WorldPeer, batch: Batch) -> None:
        """Acknowledgements and votes leave only when the disk has what they say."""
        for message in batch.messages_after_sync:
            if isinstance(message, AppendResponse) and message.term == peer.durable.hard_state.term:
                assert message.match <= peer.durable.last_index(), f"peer {peer.id} acknowledged too much: {message}"
            if isinstance(message, VoteResponse) and message.granted:
                voted = self.votes.setdefault((peer.id, message.term), message.to)
                assert voted == message.to, f"peer {peer.id} voted twice in term {message.term}"

    def on_read(self, peer: WorldPeer, began_at: LogIndex, answered_at: LogIndex) -> None:
        """Linearizable reads: what was applied anywhere before the read began is seen."""
        self.reads_seen += 1
        assert answered_at >= began_at, f"stale read at peer {peer.id}: {answered_at}, when {began_at} was applied"

    def check(self) -> None:
        """Look at all peers as they stand."""
        for peer in self.world.alive():
            node = peer.node
            assert node is not None
            assert node.term >= self.seen_terms.get(peer.id, 0) or peer.restarts, "terms never fall"
            self.check_durable(peer, node)
            self.check_shortcuts(peer, node)
            if node.is_leader:
                self.check_leader(peer, node)

    def check_shortcuts(self, peer: WorldPeer, node: RawNode) -> None:
        """What is left out to save time changes nothing: `has_ready` is right, and a leader has committed all it can."""
        core = node._core
        log, role = core.log, core.role
        soft_changed = (role.leader_id, role.kind) != (node._last_soft.leader_id, node._last_soft.role)
        waits = bool(core.messages or core.read_states or core.dropped_reads or soft_changed)
        if log.installing is None:
            waits |= bool(log.handed < log.last_index or core.after_sync or log.has_committed())
            waits |= log.pending_snapshot is not None or core.hard_state != node._last_hard
            waits |= isinstance(role, Leader) and leading.has_due_messages(core, role)
        assert node.has_ready() == waits, f"peer {peer.id} has work and does not know it, or the other way round"
        if isinstance(role, Leader):
            reached = core.conf.reached(lambda peer_id: role.progress[peer_id].match)
            assert reached <= log.committed or not role.is_own_entry(reached), f"peer {peer.id} could commit {reached}"

    def check_durable(self, peer: WorldPeer, node: RawNode) -> None:
        durability = node._core.log.durability
        assert durability.index <= peer.durable.last_index(), f"peer {peer.id} believes its disk to be ahead"
        assert durability.term <= peer.durable.hard_state.term, f"peer {peer.id} believes its term to be durable"
        if durability.index >= max(peer.durable.first_index(), node._core.log.first_index()):
            assert peer.durable.term(durability.index) == node._core.log.term(durability.index)

    def check_leader(self, peer: WorldPeer, node: RawNode) -> None:
        if node.term not in self.leaders:
            for entry in self.applied.values():
                if self.committed_in[entry.index] <= node.term:
                    self.check_leader_has(peer, entry)
        leader = self.leaders.setdefault(node.term, peer.id)
        assert leader == peer.id, f"election safety: {leader} and {peer.id} lead term {node.term}"
        self.check_commit(peer, node)
        if node.lease_until > peer.now:
            self.leases_seen += 1
            assert node.commit_index >= self.applied_max, f"peer {peer.id} misses the commit of {self.applied_max}"
            assert node.applied_index >= self.acknowledged_max, (
                f"peer {peer.id} would read {node.applied_index} by its lease, {self.acknowledged_max} is acknowledged"
            )
            for other in self.world.alive():
                rival = other.node
                if rival is not None and rival.is_leader and rival.term > node.term:
                    raise AssertionError(f"lease safety: {peer.id} holds a lease in {node.term}, {other.id} leads")

    def check_commit(self, peer: WorldPeer, node: RawNode) -> None:
        """What a leader has committed since the last look is on the disks of a majority (Raft 5.3, thesis 10.2.1)."""
        conf, commit = node.conf_state, node.commit_index
        was_term, was_conf, was_commit = self.commits.get(peer.id, (None, conf, commit))
        self.commits[peer.id] = (node.term, conf, commit)
        if (was_term, was_conf) != (node.term, conf) or commit == was_commit:
            return  # what was committed under other members need not be on the disks of these
        term = node._core.log.term(commit)
        having = [it for it in conf.voters if self.world.peers[it].has_durable(commit, term)]
        assert 2 * len(having) > len(conf.voters), f"peer {peer.id} committed {commit}, only {having} have it on disk"


class World:
    """Five peers, three of them members at first."""

    def __init__(self, seed: int = 0) -> None:
        self.seed = seed
        self.is_plain = is_plain(seed)
        self.lags = seed % 2 == 1
        rng = random.Random(seed)
        self.time = 0.0
        self.pool: list[Message] = []
        self.held: list[Message] = []
        """Messages that arrive late, if at all."""
        self.holds_timeout_now = False
        """Whether the newest transfer's messages to the transferee are among them."""
        self.cuts: set[tuple[PeerId, PeerId]] = set()
        self.stalled: dict[PeerId, float] = {}
        self.counter = 0
        self.judge = Judge(self)
        self.peers = {peer_id: WorldPeer(self, peer_id, rng.uniform(0.96, 1.05)) for peer_id in PEERS}

    def alive(self) -> list[WorldPeer]:
        return [peer for peer in self.peers.values() if peer.node is not None]

    def send(self, messages: tuple[Message, ...]) -> None:
        for message in messages:
            is_late = self.holds_timeout_now and isinstance(message, TimeoutNow)
            (self.held if is_late else self.pool).append(message)

    # -- running

    def run(self, schedule: list[Action]) -> None:
        """Carry out a schedule, judging after every action."""
        for kind, number in schedule:
            getattr(self, f"do_{kind}")(number)
            self.judge.check()

    def heal_and_settle(self, rounds: int = 400) -> None:
        """Liveness: with everything mended, one more entry reaches every member within a bound of time."""
        self.cuts.clear()
        self.stalled.clear()
        self.holds_timeout_now = False
        for peer in self.peers.values():
            if peer.node is None:
                peer.start()
        for _ in range(rounds):
            self.do_calm(0)
            self.judge.check()
            if self._is_settled():
                return
        raise AssertionError("liveness: the group did not settle\n" + self.describe())

    def _is_settled(self) -> bool:
        leaders = [peer.node for peer in self.alive() if peer.node is not None and peer.node.is_leader]
        for node in leaders:
            if not node.has_committed_in_term or node.commit_index != node.last_index:
                continue
            members = [self.peers[peer_id].node for peer_id in node.conf_state.voters]
            if all(member is not None and member.applied_index == node.commit_index for member in members):
                return True
        return False

    def describe(self) -> str:
        return "\n".join(peer.node.status().render() for peer in self.alive() if peer.node is not None)

    def _peer(self, number: int) -> WorldPeer:
        return self.peers[PEERS[(0, 1, 2, 0, 1, 2, 3, 4)[number % 8]]]

    def _leader(self, number: int) -> WorldPeer | None:
        leaders = [peer for peer in self.alive() if peer.node is not None and peer.node.is_leader]
        return leaders[number % len(leaders)] if leaders else None

    def _advance(self, seconds: float) -> None:
        self.time += seconds
        for peer in self.alive():
            if self.stalled.get(peer.id, 0.0) <= self.time:
                peer.tick_if_due()

    def _deliver(self, message: Message) -> None:
        peer = self.peers[message.to]
        if peer.node is None or (message.sender, message.to) in self.cuts:
            if isinstance(message, InstallSnapshot):
                sender = self.peers[message.sender].node
                if sender is not None:
                    sender.report_snapshot(message.to, ok=False)
            return
        peer.node.step(message, peer.now)

    # -- actions

    def do_deliver(self, number: int) -> None:
        if self.pool:
            self._deliver(self.pool.pop(number % min(len(self.pool), 8)))

    def do_turn(self, number: int) -> None:
        self._peer(number).turn(number // 8 % 6 if self.lags else 0)

    def do_sync(self, number: int) -> None:
        self._peer(number).sync(1 + number // 8 % 3)

    def do_advance(self, number: int) -> None:
        self._advance(number % 13 / 100.0)

    def do_calm(self, number: int) -> None:
        """Let the world work as it should for a few ticks."""
        for _ in range(1 + number % 12):
            self._advance(TICK_S)
            for _ in range(4):
                for peer in self.alive():
                    if self.stalled.get(peer.id, 0.0) <= self.time:
                        peer.turn()
                        peer.sync(9)
                pool, self.pool = self.pool, []
                for message in pool:
                    self._deliver(message)
                self.judge.check()

    def do_propose(self, number: int) -> None:
        peer = self._leader(number)
        if peer is None or peer.node is None:
            return
        self.counter += 1
        try:
            term, index = peer.node.propose(b"%d" % self.counter + b"." * (number % 2 * 12), peer.now)
        except RaftError:
            return
        peer.proposed.add((index, term))

    def do_drop(self, number: int) -> None:
        if self.pool:
            self.pool.pop(number % len(self.pool))

    def do_duplicate(self, number: int) -> None:
        if self.pool:
            self.pool.append(self.pool[number % len(self.pool)])

    def do_talk(self, number: int) -> None:
        """Let two peers exchange messages with each other alone, each with or without a sync."""
        one, other = self._peer(number), self._peer(number // 16)
        for here, there, draw in ((one, other, number // 256), (other, one, number // 1024)):
            here.turn(number // 64 % 4 if self.lags else 0)
            if draw % 2:
                here.sync(9)
            here.turn(number // 64 % 4 if self.lags else 0)
            heard = [it for it in self.pool if (it.sender, it.to) == (here.id, there.id)]
            self.pool = [it for it in self.pool if (it.sender, it.to) != (here.id, there.id)]
            for message in heard:
                self._deliver(message)

    def do_campaign(self, number: int) -> None:
        peer = self._peer(number)
        if peer.node is not None:
            peer.node.campaign(peer.now)

    def do_hold(self, number: int) -> None:
        """Keep a message back, possibly for a long time."""
        if self.pool:
            self.held.append(self.pool.pop(number % len(self.pool)))

    def do_release(self, number: int) -> None:
        if self.held:
            self._deliver(self.held.pop(number % len(self.held)))

    def do_reboot(self, number: int) -> None:
        peer = self._peer(number)
        if peer.node is not None:
            peer.crash(number // 8 % (len(peer.unsynced) + 1))
            peer.start()

    def do_crash(self, number: int) -> None:
        peer = self._peer(number)
        if peer.node is not None:
            peer.crash(number // 8 % (len(peer.unsynced) + 1))

    def do_restart(self, number: int) -> None:
        down = [peer for peer in self.peers.values() if peer.node is None]
        if down:
            down[number % len(down)].start()

    def do_cut(self, number: int) -> None:
        one, other = self._peer(number).id, self._peer(number // 8).id
        if one == other:
            self.cuts |= {pair for it in PEERS if it != one for pair in ((one, it), (it, one))}
        elif number // 64 % 2:
            self.cuts |= {(one, other), (other, one)}
        else:
            self.cuts.add((one, other))

    def do_heal(self, number: int) -> None:
        self.cuts.clear()

    def do_transfer(self, number: int) -> None:
        peer = self._leader(number)
        if peer is not None and peer.node is not None:
            self.holds_timeout_now = number % 2 == 1
            peer.node.transfer_leader(self._peer(number // 7).id, peer.now)
            if self.holds_timeout_now:
                peer.turn()

    def do_change(self, number: int) -> None:
        peer = self._leader(number)
        if peer is None or peer.node is None:
            return
        kind = list(ConfChangeKind)[number // 3 % 3]
        try:
            peer.node.propose_conf_change(ConfChange(kind, self._peer(number // 11).id), peer.now)
        except RaftError:
            return

    def do_admin(self, number: int) -> None:
        peer = self._leader(number)
        if peer is None or peer.node is None:
            return
        try:
            peer.node.propose_admin(b"admin %d" % number, peer.now)
        except RaftError:
            return

    def do_compact(self, number: int) -> None:
        self._peer(number).compact()

    def do_read(self, number: int) -> None:
        peer = self._leader(number)
        if peer is None or peer.node is None:
            return
        self.counter += 1
        context = b"r%d" % self.counter
        try:
            peer.node.read_index(context, peer.now)
        except RaftError:
            return
        peer.reads[context] = (self.judge.applied_max, LogIndex(0))

    def do_stall(self, number: int) -> None:
        """Keep one peer from ticking and working for up to two seconds."""
        self.stalled[self._peer(number).id] = self.time + number % 200 / 100.0
