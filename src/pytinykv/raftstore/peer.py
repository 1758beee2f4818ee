"""One region's peer on this store: its Raft node, its storage, and the calls that wait for it (`calls`).

A turn of the store loop calls, in this order: `step` for arrived messages, `calls.propose` for new commands,
`calls.ask_reads`, and `collect`, which moves what Raft wants done into the turn. After the turn's batch is written and
synced, `on_durable` lets Raft count it.

Invariants:
1. What a peer tells others about its durable state (votes, append responses) leaves only after the sync that covers it.
2. Data, log and applied index of a region change in one batch, so after a crash the data is exactly that of the applied
   index (the replay starts there and repeats nothing).
3. A caller is answered after the batch with its command's effect was written: it reads its own writes.
4. Every waiting caller is answered when the peer is deposed (reads), overtaken, destroyed or stopped.
"""

from __future__ import annotations

import logging
from collections import deque
from typing import TYPE_CHECKING, NamedTuple

from pytinykv.model import Peer, PeerRole, Region, encode, peer_to_pb, split_region
from pytinykv.raft import (
    EntryKind,
    InstallSnapshot,
    LogIndex,
    ProtocolViolation,
    RawNode,
    RoleKind,
    Term,
    TimeoutNow,
)
from pytinykv.raftstore import keys, membership, splits
from pytinykv.raftstore.apply import apply_entry
from pytinykv.raftstore.calls import PeerCalls
from pytinykv.raftstore.change_orders import ChangeOrders
from pytinykv.raftstore.followers import FollowerWatch
from pytinykv.raftstore.installing import Installation, delete_data
from pytinykv.raftstore.log_collection import LogCollection
from pytinykv.raftstore.peer_storage import RAFT_CF, PeerStorage, SnapshotNeed
from pytinykv.raftstore.records import PeerState, RaftEnvelope, RegionLocalState, RegionReport, SnapshotManifest
from pytinykv.raftstore.region_events import Deposed, Destroyed, Leading, RegionChanged
from pytinykv.raftstore.rest import Rest
from pytinykv.raftstore.split_keys import holds_transactional_data_in
from pytinykv.wire.errors import NotLeader, RegionError, RegionNotFound, UnknownRegionError
from pytinykv.wire.keys import is_plain

if TYPE_CHECKING:
    import random
    from collections.abc import Callable, Iterable, Sequence
    from pathlib import Path

    from pytinykv.raft import Entry, Message, PeerId, Ready
    from pytinykv.raftstore.config import RaftStoreConfig
    from pytinykv.raftstore.pending import Part
    from pytinykv.raftstore.regions import RegionTable
    from pytinykv.raftstore.turn import Turn

    OnSplit = Callable[[Turn, "RegionPeer", Sequence[Region]], None]
    """Takes the regions that were split off a peer's; its own is the smaller one already, and all is in the batch."""

_log = logging.getLogger(__name__)


class _Unsynced(NamedTuple):
    """A Ready that is written but not known to be durable, and what may be said once it is."""

    turn: int
    ready: int
    messages: tuple[Message, ...]


class IncomingSnapshot(NamedTuple):
    """A snapshot that has arrived whole, waiting for Raft to take or leave it."""

    manifest: SnapshotManifest
    directory: Path


class RegionPeer:
    """See the module's docstring. All methods are called by the store loop only."""

    def __init__(
        self,
        *,
        peer: Peer,
        storage: PeerStorage,
        config: RaftStoreConfig,
        rng: random.Random,
        table: RegionTable,
        on_split: OnSplit,
        is_fresh: bool = False,
    ) -> None:
        """`table` is told of each change of the region; `on_split` makes the other regions when it is split."""
        self.peer = peer
        """This peer as its region lists it; its role follows the region."""
        self.storage = storage
        self._config = config
        self._table = table
        self._on_split = on_split
        raft_config = config.raft_config(peer.id, applied=storage.apply_state.applied_index, is_fresh=is_fresh)
        self.node = RawNode(raft_config, storage, rng)
        self.calls = PeerCalls(
            node=self.node, storage=storage, config=config, not_leader=self.not_leader, outdated=self.epoch_not_match
        )
        """The commands and reads that wait for this peer."""
        self.is_destroyed = False
        """Set by `destroy`, for good: nothing of the peer may be used any more."""
        self.is_leader = False
        """Whether this peer leads, as of the last Ready that was collected."""
        self.term = Term(0)
        """The term in which this peer came to lead last; while it leads, Raft's current one."""
        self.leader_id = 0
        """The leader as of the last Ready that was collected; 0 for none."""
        self._incoming: IncomingSnapshot | None = None
        """A snapshot that is offered to Raft in this moment; None at all other times."""
        self._installation: Installation | None = None
        """The snapshot that is being installed. Nothing of the region is applied, read or served meanwhile."""
        self._installation_turn = 0
        """The turn in which that began, 0 once it is durable: then files may be taken in."""
        self.leader_missing_since: float | None = None
        """Since when there has been no leader, looked at each tick; None while there is one."""
        self._known_peers: dict[int, Peer] = {}
        """By id, the senders of messages to this peer; its own region may be too old, or empty, to have them."""
        self._heard_conf_ver = 0
        """The newest membership of which a message to this peer came, while it knew no region itself."""
        self._followers = FollowerWatch(config)
        self._offered_at = 0.0
        """When leadership was last offered to a follower."""
        self._collection = LogCollection(node=self.node, storage=storage, followers=self._followers, config=config)
        self.orders = ChangeOrders(self, self._followers, config)
        self.rest = Rest()
        self._unsynced: deque[_Unsynced] = deque()
        """Readys that are written and not known to be durable, in order; `on_durable` takes them out."""
        self._lagging_reported: tuple[tuple[Peer, ...], tuple[PeerId, ...]] = ((), ())
        """Peers that were behind and peers that were silent when the scheduler was told last."""

    @property
    def region(self) -> Region:
        return self.storage.region

    @property
    def is_initialized(self) -> bool:
        """Return whether the peer knows its region; one that was created by a message waits for a snapshot first."""
        return bool(self.region.peers)

    @property
    def leader(self) -> Peer | None:
        """The leader, as far as it is known and heard from."""
        is_known = self.leader_id and self.leader_missing_since is None
        return self.region.peer(self.leader_id) if is_known else None

    @property
    def has_unsynced(self) -> bool:
        return bool(self._unsynced)

    # --- what a caller may be told ------------------------------------------------------------------------------

    def can_read_now(self, now: float) -> bool:
        """Return whether the engine's present state may be shown to clients, as `RawNode.lease_until` has it.

        To be checked *after* the data was read, or the engine's snapshot taken, so that a pause in between can't stretch the
        lease.
        """
        self.rest.is_read = True
        return now < self.node.lease_until

    def not_leader(self) -> NotLeader:
        leader = self.leader
        if leader is None or leader.id == self.peer.id:
            leader = self.region.peer(self.node.transferee)  # about to lead; callers may wait there for it
        return NotLeader(region_id=self.region.id, leader=None if leader is None else peer_to_pb(leader))

    def epoch_not_match(self, version: int) -> RegionError:
        """Return what a caller is told that takes the region for what it was, or will be, at another version."""
        return self._table.epoch_not_match(self.region, version)

    # --- rest, see `activity` -------------------------------------------------------------------------------------

    @property
    def is_idle(self) -> bool:
        """Return whether nothing waits for this peer, nor it for anything: no call, order, snapshot or disk."""
        is_waiting = self.calls.has_any or self.orders.has_any or self.has_unsynced or self.is_installing
        return not is_waiting and self.storage.snapshot_need is SnapshotNeed.NONE

    def has_reported_down(self, peer_ids: Iterable[PeerId]) -> bool:
        """Return whether the scheduler was told last that all of these are down."""
        return set(peer_ids) <= set(self._lagging_reported[1])

    def count_as_heard(self, is_alive: Callable[[Peer], bool], now: float) -> None:
        """Take members for heard whose stores are: while the region sleeps, they say nothing themselves."""
        for peer in self.region.peers:
            if is_alive(peer):
                self._followers.on_heard(peer.id, now)

    # --- messages -----------------------------------------------------------------------------------------------

    def is_outdated_by(self, region: Region) -> bool:
        """Return whether `region`, as another process has it, is newer than all that this peer knows of it.

        A peer that has just been added knows nothing but the messages to it, and their senders count it as a member.
        """
        return region.epoch.conf_ver > max(self.region.epoch.conf_ver, self._heard_conf_ver)

    def step(self, envelope: RaftEnvelope, now: float) -> None:
        """Give a message to Raft. The caller has checked that it is meant for this peer. Raises ProtocolViolation."""
        message, sender = envelope.message, envelope.sender
        if message is None:
            return
        self._known_peers[sender.id] = sender
        if not self.storage.region.peers:
            self._heard_conf_ver = max(self._heard_conf_ver, envelope.epoch.conf_ver)
        self._followers.on_heard(sender.id, now)
        self.node.step(message, now)
        if type(message) is TimeoutNow and self.node.is_campaigning:
            self._expect_leadership(now)  # the old leader sends callers here from now on
        if self.orders.has_any:
            self.orders.retry(now)

    def can_wait(self, message: Message) -> bool:
        """Return whether a message may be stepped with the next ones, since nothing can be done because of it."""
        return not (self.orders.has_any or self.rest.is_asleep) and self.node.can_wait(message)

    def tick(self, turn: Turn) -> None:
        now = turn.now
        self.node.tick(now)
        if self.is_leader:
            self._collection.on_tick(now)
            self._followers.on_tick(self.region, self.node.commit_index)
        self.orders.retry(now)
        if self._hears_leader(now):
            self.leader_missing_since = None
        elif self.leader_missing_since is None:
            self.leader_missing_since = now
        self.calls.on_tick(turn)

    def _send(self, turn: Turn, message: Message) -> None:
        region = self.storage.region
        receiver = region.peer(message.to) or self._known_peers.get(message.to)
        if receiver is None:
            _log.debug("region %d: no address for peer %d", region.id, message.to)
            return
        start_key, end_key = region.start_key, region.end_key
        envelope = RaftEnvelope(
            region.id, self.peer, receiver, region.epoch, message, start_key=start_key, end_key=end_key
        )
        if type(message) is InstallSnapshot:
            turn.snapshots_to_send.append(envelope)
        else:
            turn.send(envelope)

    # --- what Raft wants done -----------------------------------------------------------------------------------

    def collect(self, turn: Turn) -> bool:
        """Move what is ready into the turn, at least one Ready; return whether there is more than the turn should hold.

        So applying may lag behind committing. Reads and leases allow for that: see `can_read_now`.
        """
        if self._installation is not None and self._is_installable:
            self._install_next(turn)
        node, calls = self.node, self.calls
        if calls.has_dropped:
            calls.answer_dropped(turn)
        while not self.is_destroyed and node.has_ready():
            self._collect_one(turn, node.ready(turn.now))
            if calls.has_waiting_reads and self.can_ask_reads():
                calls.ask_reads(turn)
            if turn.is_region_done:
                return self.has_work
        return self._installation is not None and self._is_installable

    @property
    def has_work(self) -> bool:
        """Return whether `collect` has something to do."""
        return not self.is_destroyed and (self._is_installable or self.node.has_ready())

    def can_ask_reads(self) -> bool:
        return self.is_leader and self.storage.apply_state.applied_term == self.node.term

    def _collect_one(self, turn: Turn, ready: Ready) -> None:
        storage = self.storage
        turn.readys += 1
        if ready.soft_state is not None:
            self._on_soft_state(turn, ready.soft_state.leader_id, ready.soft_state.role)
        if ready.snapshot is not None:
            self._restore(turn, ready)
        if ready.entries:
            storage.append(turn.batch, ready.entries)
            storage.save_hard_state(turn.batch, ready.hard_state)
        elif ready.hard_state is not None:
            storage.save_hard_state(turn.batch, ready.hard_state)
        for message in ready.messages:
            self._send(turn, message)
        if ready.committed_entries:
            self._apply(turn, ready.committed_entries)
        self.calls.serve_reads(turn, ready)
        if self.is_destroyed:
            return
        if ready.must_sync:
            turn.must_sync = True
            self._unsynced.append(_Unsynced(turn.number, ready.number, ready.messages_after_sync))

    def on_durable(self, turn: Turn, synced_turn: int) -> None:
        """Tell Raft that everything written up to that turn is durable, and say what was waiting for it."""
        if self._installation_turn and self._installation_turn <= synced_turn:
            self._installation_turn = 0
        unsynced = self._unsynced
        while unsynced and unsynced[0].turn <= synced_turn:
            durable = unsynced.popleft()
            self.node.on_persisted(durable.ready, turn.now)
            for message in durable.messages:
                self._send(turn, message)

    def _on_soft_state(self, turn: Turn, leader_id: PeerId, role: RoleKind) -> None:
        was_leader, self.is_leader = self.is_leader, role is RoleKind.LEADER
        self.leader_id = leader_id
        if leader_id:
            self.leader_missing_since = None
        if self.is_leader and not was_leader:
            _log.debug("region %d: peer %d leads in term %d", self.region.id, self.peer.id, self.node.term)
            self.term = self.node.term
            turn.events.append(Leading(self.region, self.term))
            self._followers.on_leading(turn.now)
            self.calls.on_leading(turn, self.term)
            self._collection.on_leading()
        if was_leader and not self.is_leader:
            _log.debug("region %d: peer %d does not lead any more", self.region.id, self.peer.id)
            turn.events.append(Deposed(self.region))
            self.calls.on_deposed(turn)
        if leader_id and not self.is_leader:
            self.calls.end_expectation(turn, self.not_leader())

    # --- apply --------------------------------------------------------------------------------------------------

    def _apply(self, turn: Turn, entries: Sequence[Entry]) -> None:
        for entry in entries:
            parts = self.calls.settle(turn, entry.index, entry.term)
            if entry.kind is EntryKind.CONF_CHANGE:
                self._apply_conf_change(turn, entry)
            elif entry.kind is EntryKind.ADMIN:
                self._apply_split(turn, entry, parts)
            elif entry.data:
                apply_entry(turn, self.storage, entry, parts, self.epoch_not_match)
            self.storage.set_applied(entry.index, entry.term)
            if self.is_destroyed:
                return
        self.storage.save_applied(turn.batch)
        self.node.on_applied(entries[-1].index)
        if self.orders.has_any:
            self.orders.retry(turn.now)

    def _apply_split(self, turn: Turn, entry: Entry, parts: list[Part]) -> None:
        split = splits.decode_split(entry.data)
        error: RegionError | None = None
        made: tuple[Region, ...] = ()
        if split.epoch != self.region.epoch:
            error = self.epoch_not_match(split.epoch.version)
        elif any(map(is_plain, split.keys)) and self._holds_transactions(turn):
            # Its ids were given before the cluster saw a transaction, and its leader was held, or the entry, until after.
            # A plain bound could lie between two versions of one key. All replicas hold the same data here, so all refuse.
            error = UnknownRegionError("the region holds transactions by now, and is split at memcomparable keys only")
        else:
            try:
                made = split_region(self.region, split.keys, split.new_ids)
            except ValueError as refusal:  # who proposes checks it before: only another version's leader gets here
                error = UnknownRegionError(str(refusal))
        if made:
            self.storage.set_applied(entry.index, entry.term)
            self.storage.save_applied(turn.batch)
            self._set_region(turn, made[-1])
            self._on_split(turn, self, made[:-1])
        for part in parts:
            turn.answer(part.on_done, error, made)

    def _holds_transactions(self, turn: Turn) -> bool:
        """Return whether the region has transactional data, by all that was applied before."""
        self.storage.save_applied(turn.batch)
        turn.write()
        return holds_transactional_data_in(turn.engine, self.region)

    def _apply_conf_change(self, turn: Turn, entry: Entry) -> None:
        conf_change = membership.decode_change(entry.data)
        change, epoch = membership.MembershipChange.from_raft(conf_change)
        if epoch is not None and epoch != self.region.epoch:
            _log.info("region %d: a membership change of epoch %s comes to nothing", self.region.id, epoch)
            return
        self.node.apply_conf_change(conf_change)
        self._set_region(turn, membership.changed_region(self.region, change))
        if self.region.peer(self.peer.id) is None:
            self.destroy(turn, entry.index, entry.term)

    def _set_region(self, turn: Turn, region: Region) -> None:
        if region is self.region:
            return
        _log.info("region %d: now %s", region.id, membership.describe(region))
        turn.events.append(RegionChanged(self.region, region))
        self._followers.on_joined(self.region, region, turn.now)
        self.storage.region = region
        self._table.changed()
        self._take_own_role()
        state = RegionLocalState(PeerState.NORMAL, region, self.peer.id)
        turn.batch.put(RAFT_CF, keys.region_state_key(region.id), encode(state))

    # --- snapshots ----------------------------------------------------------------------------------------------

    @property
    def wants_snapshot(self) -> bool:
        return self.storage.snapshot_need is SnapshotNeed.WANTED

    @property
    def is_installing(self) -> bool:
        """Return whether a snapshot is taking the region's place."""
        return self._installation is not None

    @property
    def _is_installable(self) -> bool:
        """Return whether files can be ingested: the note that the region is being replaced is durable."""
        return self._installation is not None and not self._installation_turn

    def offer_snapshot(self, turn: Turn, envelope: RaftEnvelope, incoming: IncomingSnapshot) -> bool:
        """Give Raft a snapshot that has arrived whole, with its message; return whether it did. Raises ProtocolViolation."""
        self._incoming = incoming
        try:
            self.step(envelope, turn.now)
        except ProtocolViolation:
            self._incoming = None
            raise
        self.collect(turn)
        return self._take_incoming() is None

    def _take_incoming(self) -> IncomingSnapshot | None:
        incoming, self._incoming = self._incoming, None
        return incoming

    def _restore(self, turn: Turn, ready: Ready) -> None:
        """Begin to replace the region by the snapshot that Raft has accepted (see `installing`)."""
        assert ready.snapshot is not None
        incoming = self._take_incoming()
        if incoming is None or incoming.manifest.meta != ready.snapshot:
            raise AssertionError(f"region {self.region.id}: Raft accepted a snapshot that did not arrive")
        region, meta = incoming.manifest.region, incoming.manifest.meta
        _log.info("region %d: installs the snapshot at index %d", region.id, meta.index)
        applying = RegionLocalState(PeerState.APPLYING, region, self.peer.id, incoming.directory.name)
        self._installation, self._installation_turn = Installation(applying, incoming.directory), turn.number
        self._installation.begin(turn.batch, self.region if self.is_initialized else None)
        turn.events.append(RegionChanged(self.region, region))
        self.storage.restore(turn.batch, region, meta, ready.hard_state)
        self._table.changed()
        self._take_own_role()
        self.calls.fail_proposals(turn, "a snapshot took the place of the log")

    def _install_next(self, turn: Turn) -> None:
        """Take in one file of the snapshot, or end the installation after the last one."""
        assert self._installation is not None, "only asked while one is installed"
        if self._installation.ingest_next(turn.engine):
            return
        self._installation.finish(turn.batch)
        self._end_installation(turn)
        self.node.on_applied(self.storage.apply_state.applied_index)

    def _end_installation(self, turn: Turn) -> None:
        if self._installation is not None:
            turn.used_snapshots.append(self._installation.directory)
            turn.must_sync = True
            self._installation = None

    # --- end ----------------------------------------------------------------------------------------------------

    def destroy(
        self, turn: Turn, removed_index: LogIndex = LogIndex(0), removed_term: Term = Term(0)
    ) -> RegionLocalState:
        """Delete the peer's data and log; return the tombstone that stays, so that old messages can't bring it back.

        `removed_index` and `removed_term` are those of the committed entry that removed the peer, where it is known.
        """
        _log.info("region %d: peer %d is destroyed", self.region.id, self.peer.id)
        batch, region = turn.batch, self.region
        self._end_installation(turn)
        if self.is_initialized:
            delete_data(batch, region)
        self.storage.clear_log(batch)
        batch.delete(RAFT_CF, keys.raft_state_key(region.id))
        batch.delete(RAFT_CF, keys.apply_state_key(region.id))
        tombstone = RegionLocalState(
            PeerState.TOMBSTONE, region, self.peer.id, removed_index=removed_index, removed_term=removed_term
        )
        batch.put(RAFT_CF, keys.region_state_key(region.id), encode(tombstone))
        turn.events.append(Destroyed(tombstone))
        self.is_destroyed = True
        self.is_leader = False
        self._table.changed()
        self.calls.fail_all(turn, RegionNotFound(region_id=region.id))
        return tombstone

    # --- leadership that is about to come ------------------------------------------------------------------------------

    def campaign_first(self, now: float) -> None:
        """Campaign in a region that was split off one led here, and let callers wait for it, for an election timeout."""
        if self.node.campaign(now):
            self._expect_leadership(now)

    def _expect_leadership(self, now: float) -> None:
        self.calls.expect_leadership(now + self._config.election_ticks * self._config.tick_s)

    # --- leaving leadership -------------------------------------------------------------------------------------------

    def offer_leadership(self, now: float, attempt: int = 0) -> bool:
        """Give leadership to the follower that is furthest; return whether there is one.

        Followers that were silent a moment ago come last: after a restart a peer keeps away from elections for a while.
        `attempt`: how many were in vain before; each goes to the next follower, since the furthest may not be able to win. As
        long as no follower has been heard since the last attempt, that one goes on: two that campaign would be rivals.
        """
        if not self.is_leader:
            return False
        progress = self.node.status().progress
        candidates = sorted(
            (
                (self._followers.is_settled(peer_id, now), state.match, peer_id)
                for peer_id, state in progress.items()
                if peer_id != self.peer.id
                and peer_id in self.node.conf_state.voters
                # Not Raft's `recent_active`, which is cleared at each look for a quorum.
                and self._followers.hears(peer_id, now)
            ),
            reverse=True,
        )
        if not candidates:
            return False
        if attempt and not any(self._followers.has_heard_since(self._offered_at, one[-1]) for one in candidates):
            return True
        self._offered_at = now
        return self.node.transfer_leader(candidates[attempt % len(candidates)][-1], now)

    def cut_log(self, now: float) -> bool:
        """Propose to cut the log as far as no member that answers needs it; return whether there was anything to cut."""
        return self.is_leader and self._collection.cut(now, 0, self._config.peer_down_s)

    # --- reports ------------------------------------------------------------------------------------------------

    def report(self, size_bytes: int, now: float) -> RegionReport:
        """Return what the scheduler wants to know of a region from its leader."""
        down, pending = self._down_peers(now), self.pending_peers()
        self._lagging_reported = (pending, tuple(peer.id for peer, _silent_s in down))
        return RegionReport(self.region, self.peer, self.node.term, down, pending, size_bytes)

    @property
    def has_reported_laggards(self) -> bool:
        """Whether the scheduler was told last that peers are behind, and so waits to hear that they no longer are."""
        return self.is_leader and bool(self._lagging_reported[0])

    def has_other_laggards(self, now: float) -> bool:
        """Return whether other peers are behind or silent than the scheduler was told last."""
        lagging = (self.pending_peers(), tuple(peer.id for peer, _silent_s in self._down_peers(now)))
        return lagging != self._lagging_reported

    def _down_peers(self, now: float) -> tuple[tuple[Peer, float], ...]:
        return self._followers.down(self.region, self.peer.id, now)

    def pending_peers(self) -> tuple[Peer, ...]:
        """Return the peers that are behind; see `followers`."""
        return self._followers.pending(
            self.region,
            {peer_id: progress.match for peer_id, progress in self.node.status().progress.items()},
            truncated=self.storage.apply_state.truncated_index,
            commit=self.node.commit_index,
        )

    # --- learning -----------------------------------------------------------------------------------------------

    def _take_own_role(self) -> None:
        """Follow the region in whether this peer is a learner or a voter."""
        self.peer = self.region.peer(self.peer.id) or self.peer

    def misses_leader(self, now: float) -> bool:
        """Return whether there has been no leader for `leader_missing_s`; if so, the time begins anew."""
        since = self.leader_missing_since
        if since is None or now - since <= self._config.leader_missing_s:
            return False
        self.leader_missing_since = now
        return True

    def _hears_leader(self, now: float) -> bool:
        """Return whether there is a leader. A voter, unlike a learner, forgets one that falls silent."""
        if self.is_leader or not self.leader_id or self.peer.role is PeerRole.VOTER:
            return bool(self.leader_id)
        return self._followers.hears(self.leader_id, now)
