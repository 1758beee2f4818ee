"""The store: every region on this machine, and the turn that moves all of them. No event loop: `store_loop` runs the turns.

    turn n      arrived messages, commands, reads, ticks → Raft → one write batch → write → send → answer
    disk             sync of everything written so far, in the disk worker
    between     what has become durable → Raft counts it → acknowledgements
    turn n+1    arrived messages, among them acknowledgements → commit → apply → ...

While the disk syncs turn n, turn n+1 fills, so the rate is set by how much fits into a sync and never by how long one
takes. What a turn costs by itself may be generous; what each command costs, and each region in a turn, is counted.

Invariants:
1. Only a turn changes regions, and between two turns the end of a sync, which moves nothing but what is durable:
   everything else from outside is queued and a turn is asked for.
2. An error of the engine fails the store: nothing is acknowledged after it, and the owner is told to stop the process.
3. Every caller is answered, also when the store stops or fails.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from pytinykv.model import PeerRole, Region, RegionId, StoreId
from pytinykv.raft import ProtocolViolation
from pytinykv.raftstore.activity import Activity
from pytinykv.raftstore.calls import QueuedCommand
from pytinykv.raftstore.children import Children
from pytinykv.raftstore.counters import StoreCounters
from pytinykv.raftstore.errors import StoreFailedError
from pytinykv.raftstore.expiry import ExpirySweep
from pytinykv.raftstore.inbox import Inbox, log_violation
from pytinykv.raftstore.leadership_waits import LeadershipWaits
from pytinykv.raftstore.leaving import Leaving
from pytinykv.raftstore.liveness import Liveness
from pytinykv.raftstore.log_budget import LogBudget
from pytinykv.raftstore.outgoing_snapshots import OutgoingSnapshots
from pytinykv.raftstore.peer import RegionPeer
from pytinykv.raftstore.peer_storage import PeerStorage
from pytinykv.raftstore.records import RaftEnvelope
from pytinykv.raftstore.recovery import load_regions
from pytinykv.raftstore.regions import RegionTable
from pytinykv.raftstore.reports import Reports
from pytinykv.raftstore.router import MessageRouter
from pytinykv.raftstore.silent_disk import SilentDisk
from pytinykv.raftstore.size_checks import SizeChecks
from pytinykv.raftstore.snapshot_offers import SnapshotOffers
from pytinykv.raftstore.split_requests import SplitRequests
from pytinykv.raftstore.syncs import Syncs
from pytinykv.raftstore.turn import Turn
from pytinykv.wire.errors import NotLeader, RegionError, ServerIsBusy

if TYPE_CHECKING:
    import random
    from collections.abc import Callable

    from pytinykv.lifecycle import Clock, Worker
    from pytinykv.model import Peer
    from pytinykv.raft import PeerId, Term
    from pytinykv.raftstore.config import RaftStoreConfig
    from pytinykv.raftstore.incoming_snapshots import SnapshotReceiver
    from pytinykv.raftstore.membership import MembershipChange
    from pytinykv.raftstore.operations import Operation
    from pytinykv.raftstore.pending import OnDone, OnReady
    from pytinykv.raftstore.ports import SchedulerLink, Transport
    from pytinykv.raftstore.records import SnapshotHeader
    from pytinykv.raftstore.region_events import RegionListener
    from pytinykv.raftstore.snapshot_files import SnapshotDirectory
    from pytinykv.storage import Engine

_log = logging.getLogger(__name__)


class Store:
    """All regions of one store: their state and the turn. `StoreLoop` runs the turns, `StoreStop` ends them."""

    on_protocol_violation: Callable[[RaftEnvelope, ProtocolViolation], None] = staticmethod(log_violation)
    """Called with a message that no correct peer sends, and that was not followed; tests put their own here."""

    def __init__(
        self,
        *,
        store_id: StoreId,
        engine: Engine,
        snapshot_directory: SnapshotDirectory,
        clock: Clock,
        transport: Transport,
        scheduler_link: SchedulerLink,
        disk: Worker,
        background: Worker,
        rng: random.Random,
        config: RaftStoreConfig,
        fresh_region_id: RegionId | None = None,
    ) -> None:
        """Load every region; recover those in which a crash left a snapshot half installed.

        `disk` runs the syncs, `background` everything else that blocks. `fresh_region_id`: a region that this store has
        created within this process's life. Raises EngineError, FormatError.
        """
        config.validate()
        self.store_id = store_id
        self.engine = engine
        self.clock = clock
        self.config = config
        self.counters = StoreCounters()
        self.peers: dict[int, RegionPeer] = {}
        """By region id, every peer that is not destroyed. Shared with the router, which makes and drops them."""
        self.on_due: Callable[[], None] = lambda: None
        """Called when a turn becomes due. Set by the loop that runs the turns, which calls `take_due` before each."""
        self._transport = transport
        self._rng = rng
        self.expiry = ExpirySweep(config, clock.monotonic())
        self.syncs = Syncs(engine, disk, clock, inline_sync_s=config.inline_sync_s, on_done=self._on_synced)
        self._silent_disk = SilentDisk(store_id, self.syncs, silence_s=config.disk_silence_s)
        self._outgoing = OutgoingSnapshots(
            engine=engine,
            directory=snapshot_directory.send,
            worker=background,
            transport=transport,
            clock=clock,
            config=config,
            on_made=self._on_snapshot_made,
            on_sent=self._on_snapshot_sent,
        )
        self._is_due = False
        """Whether a turn is asked for. Set by `wake`, cleared by `take_due`."""
        self._actions: list[Callable[[Turn], None]] = []
        """What the next turn does before ticks and proposals; see `in_turn`."""
        self._touched: dict[int, RegionPeer] = {}
        """By region, the peers that the turn has to collect from, in the order they were touched. Each turn empties it, and
        puts back those that have more than it could hold."""
        self._unsynced: dict[int, RegionPeer] = {}
        """By region, the peers that have written what is not known to be durable, in the order they came to that."""
        self._proposing: dict[int, RegionPeer] = {}
        """By region, the peers with commands that no turn has proposed yet."""
        self._queued_bytes = 0
        """Size of these commands; above `queued_bytes_max` by one command of a client and one of the sweep at most."""
        self.has_leftovers = False
        """Whether the last turn was full, or a snapshot is being installed, so that the next turn is due at once."""
        self.readys = 0
        """How many regions the last turn had something to do for; one that came up twice in it counts twice."""
        self._ticks_due = 0
        """1 when a tick has passed since the last turn, else 0."""
        self._turn_number = 0
        """Number of the last turn whose batch was written; turns count up by one."""
        self._turn: Turn | None = None
        """The turn that is being run, so that the callers it would have answered are answered if it fails."""
        self._listeners: list[RegionListener] = []
        """Told of every region event, in this order; grows by `listen`."""
        self._refuses = False
        """Whether commands and reads are refused, for good: the store is stopping or has failed."""
        self._disk_error: BaseException | None = None
        """What a sync or a reader met on the disk; fails the next turn."""
        self.failure: BaseException | None = None
        """What the store has failed of, or None; never changes again. No turn does anything afterwards."""
        self._make_parts(scheduler_link, background)
        self._load(snapshot_directory, background, fresh_region_id)

    def _make_parts(self, link: SchedulerLink, background: Worker) -> None:
        """Make what looks at all peers."""
        config = self.config
        self.leadership_waits = LeadershipWaits(config.queued_bytes_max, lambda: self.refuses)
        self.liveness = Liveness(self.store_id, self._rng.getrandbits(32), self.peers, config)
        """Which other stores run."""
        self.activity = Activity(self.peers, self.liveness, config, self._rng, self._touch_now)
        """Which of the regions are awake."""
        self._log_budget = LogBudget(self.peers, config, self._touch_now)
        is_alive = self.activity.is_alive
        self._reports = Reports(self.peers, self.engine, link, config, self.on_membership_answer, is_alive)
        self.splits = SplitRequests(self.peers, link, config, in_turn=self.in_turn, touch=self._touch)
        self._size_checks = SizeChecks(self.peers, self.engine, background, self.splits, config)

    def _load(self, directory: SnapshotDirectory, background: Worker, fresh_region_id: RegionId | None) -> None:
        self.table = RegionTable(self.peers)
        """The peers by the keys of their regions."""
        loaded = load_regions(self.engine, directory)
        parked_s = self.config.election_ticks * self.config.tick_s
        self._router = MessageRouter(
            self.store_id, self.peers, loaded.tombstones, self._make_peer, self.table, parked_s=parked_s
        )
        self._children = Children(
            self.store_id, self.peers, loaded.tombstones, make_peer=self._make_peer, touch=self._touch
        )
        self._inbox = Inbox(self.peers, self._router, self.activity, self._on_violation)
        self._offers = SnapshotOffers(
            directory.receive,
            background,
            self.config,
            self._router,
            self.activity,
            self.counters,
            in_turn=self.in_turn,
            touch_now=self._touch_now,
            step_later=self._step_later,
            on_violation=self._on_violation,
        )
        self.leaving = Leaving(self.peers, in_turn=self.in_turn, touch=self._touch, wake=self.activity.wake_leaders)
        """What becomes of the leaderships here when the store is about to stop."""
        self.listen(self.leaving.on_event)
        self.listen(self._router.on_event)
        self.listen(self.liveness.on_event)
        self.listen(self._reports.on_event)
        self.listen(self._size_checks.on_event)
        for state in loaded.regions:
            peer = state.region.peer(state.peer_id)
            assert peer is not None, f"region {state.region.id} without its own peer"
            self._make_peer(peer, state.region, is_fresh=state.region.id == fresh_region_id)
        for region_peer in list(self.peers.values()):
            voters = [peer.id for peer in region_peer.region.peers if peer.role is PeerRole.VOTER]
            if voters == [region_peer.peer.id]:
                region_peer.node.campaign(self.clock.monotonic())  # there is no other vote to wait for
            self._touch(region_peer)

    def _on_violation(self, envelope: RaftEnvelope, error: ProtocolViolation) -> None:
        self.on_protocol_violation(envelope, error)

    def _make_peer(self, peer: Peer, region: Region, *, is_fresh: bool = False) -> RegionPeer:
        storage = PeerStorage(self.engine, region, cache_bytes_max=self.config.log_cache_bytes)
        config, rng, on_split = self.config, self._rng, self._children.create
        region_peer = RegionPeer(
            peer=peer, storage=storage, config=config, rng=rng, table=self.table, on_split=on_split, is_fresh=is_fresh
        )
        self.peers[region.id] = region_peer
        self.activity.add(region_peer)
        self.table.changed()
        return region_peer

    # --- when turns are due -------------------------------------------------------------------------------------

    def wake(self) -> None:
        """Ask for a turn."""
        if not self._is_due:
            self._is_due = True
            self.on_due()

    def tick_soon(self) -> None:
        """Let a tick of time pass for every region in the next turn."""
        self._ticks_due = 1  # a loop that stalled must not make up for it by a storm of elections
        self.wake()

    def in_turn(self, action: Callable[[Turn], None]) -> None:
        """Let the next turn do this, before its ticks and proposals."""
        self._actions.append(action)
        self.wake()

    def take_due(self) -> bool:
        """Return whether a turn is due, and take note that it is about to be run."""
        due, self._is_due = self._is_due, False
        return due

    @property
    def is_settled(self) -> bool:
        """Return whether no turn is asked for and no sync is to come."""
        return not (self._is_due or self.syncs.is_pending)

    @property
    def is_disk_silent(self) -> bool:
        """Return whether a sync takes longer than any should. Callable from any thread."""
        return self._silent_disk.is_silent

    def listen(self, listener: RegionListener) -> None:
        """Tell `listener` of every event of a region here from now on; see `region_events`."""
        self._listeners.append(listener)

    # --- the end ------------------------------------------------------------------------------------------------

    def _fail(self, error: BaseException) -> None:
        """Answer every caller and refuse everything from now on: after this error nothing may be promised."""
        if self.failure is not None:
            return
        self.failure = error
        self._refuses = True
        _log.critical("store %d failed: %s", self.store_id, error)
        turn, self._turn = self._turn or self._new_turn(), None
        self.fail_everything(turn)
        turn.break_off(self._refusal())

    def refuse_commands(self) -> None:
        """Take no new commands; what is under way goes on."""
        self._refuses = True

    def fail_everything(self, turn: Turn) -> None:
        """Answer every waiting caller that it is too late."""
        error = self._refusal()
        for peer in self.peers.values():
            peer.calls.fail_all(turn, error)
        self._proposing.clear()
        self.splits.fail_all(error)

    @property
    def refuses(self) -> RegionError | None:
        """What commands are refused with from now on, None while they are taken."""
        return self._refusal() if self._refuses else None

    def _refusal(self) -> RegionError:
        """Return what refused commands are told. Not being the leader is what every client takes for "not executed"."""
        state = "is stopping" if self.failure is None else f"has failed: {self.failure}"
        return NotLeader(region_id=0, message=f"store {self.store_id} {state}")

    # --- calls from outside -------------------------------------------------------------------------------------

    def propose(
        self,
        peer: RegionPeer,
        operations: list[Operation],
        size_bytes: int,
        on_done: OnDone,
        *,
        version: int,
        term: Term,
    ) -> None:
        """Replicate a command; `on_done(error, results)` is called exactly once, now with a refusal or from a later turn.

        `version` and `term` are those of the region's epoch and of `peer.term` when the command was checked against the
        region. If either is another one by the time the command becomes an entry, it is refused: its keys may not belong
        to the region any more, or another leader may have written what it was computed from.
        """
        if self._refuses:
            on_done(self._refusal(), None)
        elif self._queued_bytes > self.config.queued_bytes_max:
            on_done(ServerIsBusy(reason=f"store {self.store_id} has too many commands queued", backoff_ms=100), None)
        elif not peer.is_leader:
            self.rouse(peer)
            on_done(peer.not_leader(), None)
        else:
            self.counters.proposals += 1
            self.counters.proposed_bytes += size_bytes
            self.counters.operations += len(operations)
            self._queue(peer, QueuedCommand(operations, size_bytes, on_done, version, term))

    def _queue(self, peer: RegionPeer, command: QueuedCommand) -> None:
        self._queued_bytes += command.size_bytes
        peer.calls.queue(command)
        self._proposing[peer.region.id] = peer
        self.wake()

    def read(self, peer: RegionPeer, on_ready: OnReady) -> None:
        """Call `on_ready(error)` once, when what the engine holds is at least as new as this call."""
        if self._refuses:
            on_ready(self._refusal())
        elif not peer.is_leader:
            self.rouse(peer)
            on_ready(peer.not_leader())
        else:
            self.counters.quorum_reads += 1
            peer.rest.is_read = True
            peer.calls.queue_read(on_ready)
            self._touch(peer)

    def receive(self, frame: bytes) -> None:
        """Take a frame of another store. Raises FormatError."""
        if self._inbox.receive(frame):
            self.wake()

    def _step_later(self, envelopes: list[RaftEnvelope]) -> None:
        """Let the next turn look at messages, once more or for the first time."""
        self._inbox.put(envelopes)
        self.wake()

    def rouse(self, peer: RegionPeer) -> None:
        """Wake a peer that a client asks in vain: while it sleeps, it does not notice that its leader is out of reach."""
        if peer.rest.is_asleep:
            self._touch(peer)

    def receive_snapshot(self, header: SnapshotHeader) -> SnapshotReceiver:
        """Begin to take a snapshot stream. Raises SnapshotRefusedError, FormatError, OSError."""
        return self._offers.receive(header)

    def change_membership(self, region_id: RegionId, change: MembershipChange, *, conf_ver: int | None = None) -> None:
        """Propose a change that the scheduler ordered, at once or as soon as it can be.

        `conf_ver`: the membership that the order was made for. In any other it is refused: an order to add a peer that
        comes late, when that peer was added and removed again, would add one that can never be created.
        """

        def propose(turn: Turn) -> None:
            if (peer := self._wake_peer(region_id, turn)) is not None:
                peer.orders.take(change, conf_ver, turn.now)

        self.in_turn(propose)

    def transfer_leader(self, region_id: RegionId, peer_id: PeerId) -> None:
        """Hand leadership to a peer, as the scheduler ordered; nothing happens where it can't be done."""

        def transfer(turn: Turn) -> None:
            peer = self._wake_peer(region_id, turn)
            if peer is not None and peer.is_leader and peer.region.peer(peer_id) is not None:
                peer.node.transfer_leader(peer_id, turn.now)

        self.in_turn(transfer)

    def report_damage(self, error: BaseException) -> RegionError:
        """Fail in the next turn, because of what a reader met on the disk; return what the reader is to be told.

        The others have the same data undamaged: the sooner one of them leads, the better.
        """
        self._disk_error = self._disk_error or error
        self.wake()
        return NotLeader(region_id=0, message=f"store {self.store_id} is stopping, as it can't read its data")

    def report_all(self) -> None:
        """Report every region led here again: the scheduler was restarted or is another one."""
        self._reports.repeat_all()
        self.wake()

    def on_membership_answer(self, region: Region) -> None:
        """Take a region as the scheduler knows it: a peer that is not in it any more destroys itself."""

        def destroy_if_removed(turn: Turn) -> None:
            peer = self.peers.get(region.id)
            if peer is None or region.peer(peer.peer.id) is not None:
                return
            if peer.is_outdated_by(region):
                peer.destroy(turn)
                self._touch(peer)

        self.in_turn(destroy_if_removed)

    def _touch(self, peer: RegionPeer) -> None:
        self._touched[peer.region.id] = peer
        self.wake()

    def _touch_now(self, peer: RegionPeer) -> None:
        """Let the turn that is being run look at a peer."""
        self._touched[peer.region.id] = peer

    def _wake_peer(self, region_id: RegionId, turn: Turn) -> RegionPeer | None:
        """Return the peer of a region, awake, for a turn to do something with it."""
        if (peer := self.peers.get(region_id)) is not None:
            self.activity.wake(peer, turn)
            self._touched[region_id] = peer
        return peer

    # --- a turn -------------------------------------------------------------------------------------------------

    def turn(self) -> None:
        """Do everything that is due, once. Raises what the store fails of, after every caller was answered."""
        if self.failure is not None:
            return
        try:
            self._run_turn()
        except Exception as error:
            self._fail(error)
            raise

    def _new_turn(self) -> Turn:
        config, now = self.config, self.clock.monotonic()
        return Turn(self.engine, now, self._turn_number + 1, config.turn_bytes_max, config.region_turn_bytes_max)

    def _run_turn(self) -> None:
        turn = self._turn = self._new_turn()
        if (error := self._disk_error) is not None:
            raise StoreFailedError(f"store {self.store_id} can't rely on its disk: {error}") from error
        self._inbox.take(turn, self._touched)
        actions, self._actions = self._actions, []
        for action in actions:
            action(turn)
        if self._ticks_due:
            self._ticks_due = 0
            self._tick_all(turn)
        self._take_proposals(turn)
        touched, self._touched = self._touched, {}
        share = turn.share(len(touched))
        for region_id, peer in touched.items():
            if not peer.is_destroyed:
                turn.begin_region(share)
                if peer.rest.is_asleep:
                    self.activity.wake(peer, turn)
                peer.calls.ask_reads(turn)
                if peer.collect(turn):
                    self._touched[region_id] = peer
                if peer.has_unsynced:
                    self._unsynced[region_id] = peer
        self.has_leftovers = bool(not self._inbox.is_empty or self._proposing or self._touched)
        turn.write()
        self._turn_number, self.readys = turn.number, turn.readys
        self.counters.turns += 1
        self.syncs.note_written(turn)
        self._send(turn)
        if self.syncs.start():  # after the sends: the followers' syncs are on the longer way
            self._take_durable(turn)
        self._after_write(turn, touched)
        self._turn = None
        turn.deliver()
        if self.has_leftovers:
            self.wake()

    def _send(self, turn: Turn) -> None:
        outgoing, turn.outgoing = turn.outgoing, {}
        for store_id, envelopes in outgoing.items():
            self._transport.send(store_id, envelopes)

    def _take_durable(self, turn: Turn) -> None:
        """Let Raft count what has become durable, and say what waited for it. What follows from it is the next turn's."""
        durable_turn = self.syncs.take_durable()
        if durable_turn is None:
            return
        self._offers.incoming.on_durable(durable_turn)
        waiting, self._unsynced = self._unsynced, {}
        for region_id, peer in waiting.items():
            if not peer.is_destroyed:
                peer.on_durable(turn, durable_turn)
                if peer.has_unsynced:
                    self._unsynced[region_id] = peer
                if peer.has_work:
                    self._touch(peer)
        self._send(turn)

    def _take_proposals(self, turn: Turn) -> None:
        proposing, self._proposing = self._proposing, {}
        self._queued_bytes, share = 0, turn.share(len(proposing))
        for region_id, peer in proposing.items():
            if not peer.is_destroyed:
                turn.begin_region(share)
                peer.calls.propose(turn)
                self._touched[region_id] = peer
                if peer.calls.has_queued:
                    self._proposing[region_id] = peer
                    self._queued_bytes += peer.calls.queued_bytes

    def _tick_all(self, turn: Turn) -> None:
        if self._silent_disk.is_silent:
            self.activity.wake_leaders(turn)
        self.activity.on_tick(turn)
        self._reports.on_tick(turn.now)
        self._outgoing.expire(self.peers, turn.now)
        if not self._refuses:
            deletion = self.expiry.step(self.peers, self.engine, turn.now, self.clock.wall_ms() // 1000)
            if deletion is not None:
                self._queue(deletion.peer, deletion.command)
            self._size_checks.on_tick(turn.now)
        self._log_budget.on_tick(turn.now)
        self._silent_disk.on_tick(self.peers.values(), turn.now)

    def _after_write(self, turn: Turn, touched: dict[int, RegionPeer]) -> None:
        for event in turn.events:
            for listener in self._listeners:
                listener(event)
        if turn.events and (parked := self._router.take_parked(turn.now)):
            self._step_later(parked)
        for envelope in turn.snapshots_to_send:
            self._outgoing.send(envelope, turn.now)
        for peer in touched.values():
            if peer.wants_snapshot and not peer.is_destroyed:
                self._outgoing.make(peer)
            if peer.has_reported_laggards:
                self._reports.look_at(peer, turn.now)
        for directory in turn.used_snapshots:
            self._offers.incoming.discard_after(turn.number, directory)
        self._reports.send(turn.now)

    # --- what has ended outside the loop ------------------------------------------------------------------------

    def _on_synced(self, error: BaseException | None) -> None:
        """Say at once what waited for the sync in the disk thread, without a whole turn; start the next sync."""
        if error is None and self.failure is None:
            try:
                turn = self._new_turn()
                self._take_durable(turn)
                if self.syncs.start():
                    self._take_durable(turn)
            except Exception as unexpected:  # noqa: BLE001 - the next turn fails of it, and the store with it
                error = unexpected
        if error is not None:
            self._disk_error = self._disk_error or error
            self.wake()

    def _on_snapshot_made(self, peer: RegionPeer) -> None:
        peer.node.on_snapshot_ready()
        self._touch(peer)

    def _on_snapshot_sent(self, envelope: RaftEnvelope, arrived: bool) -> None:
        self.counters.snapshots_sent += arrived
        self.counters.snapshots_failed += not arrived
        peer = self.peers.get(envelope.region_id)
        if peer is not None and not peer.is_destroyed:
            peer.node.report_snapshot(envelope.receiver.id, arrived)
            self._touch(peer)
