"""A driver and a network for the core's tests: everything happens at once, in order, and nothing is random.

`Peer` is the simplest correct driver: it writes, syncs, applies and sends in one go. `Network` carries messages between
peers until none has anything more to say; it can cut links and swallow kinds of messages.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from pytinykv.raft import (
    AppendEntries,
    AppendResponse,
    ConfChange,
    Config,
    ConfState,
    Entry,
    EntryKind,
    HardState,
    LogIndex,
    MemoryStorage,
    Message,
    PeerId,
    PreVoteRequest,
    PreVoteResponse,
    RawNode,
    ReadState,
    Ready,
    RoleKind,
    SnapshotMeta,
    Term,
    VoteRequest,
    VoteResponse,
    decode_conf_change,
)

TICK_S = 0.1


def ids(*numbers: int) -> tuple[PeerId, ...]:
    """Make peer ids."""
    return tuple(PeerId(number) for number in numbers)


def entries_of(*terms: int, first: int = 1, data: bytes = b"") -> tuple[Entry, ...]:
    """Make consecutive entries with the given terms."""
    return tuple(
        Entry(LogIndex(first + offset), Term(term), EntryKind.NORMAL, data) for offset, term in enumerate(terms)
    )


def stored(
    voters: Sequence[int] = (1, 2, 3),
    *,
    learners: Sequence[int] = (),
    terms: Sequence[int] = (),
    term: int = 0,
    vote: int = 0,
    commit: int = 0,
    base: tuple[int, int] = (0, 0),
) -> MemoryStorage:
    """Make a storage with a past: entries of `terms` after the snapshot position `base`, and a hard state."""
    state = ConfState(ids(*voters), ids(*learners))
    storage = MemoryStorage(state)
    if base[0]:
        storage.apply_snapshot(SnapshotMeta(LogIndex(base[0]), Term(base[1]), state))
    storage.append(entries_of(*terms, first=base[0] + 1))
    storage.set_hard_state(HardState(Term(term or max(terms, default=0)), PeerId(vote), LogIndex(commit)))
    return storage


class Peer:
    """One peer with a driver that never delays anything."""

    def __init__(self, peer_id: int, storage: MemoryStorage | None = None, *, seed: int = 0, **config: Any) -> None:
        plain = {"pre_vote": False, "check_quorum": False, "heartbeat_ticks": 1}
        self.id = PeerId(peer_id)
        self.storage = storage if storage is not None else stored()
        self.config = Config(peer_id=self.id, **{**plain, **config})
        self.node = RawNode(self.config, self.storage, random.Random(seed + peer_id))
        self.now = 0.0
        self.applied: list[Entry] = []
        self.read_states: list[ReadState] = []
        self.dropped_reads: list[bytes] = []
        self.is_applying = True

    # -- driving

    def take(self) -> list[Message]:
        """Do everything there is to do; return what is to be sent, in order."""
        messages: list[Message] = []
        while self.node.has_ready():
            ready = self.node.ready(self.now)
            self._write(ready)
            messages.extend(ready.messages)
            self._apply(ready)
            messages.extend(ready.messages_after_sync)
            if ready.must_sync:
                self.node.on_persisted(ready.number, self.now)
            self.read_states.extend(ready.read_states)
            self.dropped_reads.extend(ready.dropped_reads)
        return messages

    def _write(self, ready: Ready) -> None:
        if ready.snapshot is not None:
            self.storage.apply_snapshot(ready.snapshot)
            self.node.on_applied(ready.snapshot.index)
        self.storage.append(ready.entries)
        if ready.hard_state is not None:
            self.storage.set_hard_state(ready.hard_state)

    def _apply(self, ready: Ready) -> None:
        for entry in ready.committed_entries:
            self.applied.append(entry)
            if not self.is_applying:
                continue
            if entry.kind is EntryKind.CONF_CHANGE:
                self.node.apply_conf_change(decode_conf_change(entry.data))
            self.node.on_applied(entry.index)
            self.storage.set_applied(entry.index, self.node.conf_state)

    def step(self, message: Message) -> None:
        self.node.step(message, self.now)

    def tick(self, times: int = 1) -> None:
        for _ in range(times):
            self.now += TICK_S
            self.node.tick(self.now)

    def campaign(self) -> bool:
        return self.node.campaign(self.now)

    def propose(self, data: bytes = b"") -> LogIndex:
        return self.node.propose(data, self.now)[1]

    def change(self, change: ConfChange) -> LogIndex:
        return self.node.propose_conf_change(change, self.now)[1]

    def lead(self, *, commit_no_op: bool = True) -> None:
        """Become the leader with all votes, and optionally commit the no-op with all acknowledgements."""
        assert self.campaign()
        while self.role is not RoleKind.LEADER:  # one round, or two with a pre-vote
            for message in self.take():
                grant = answer_vote(message)
                if grant is not None and self.role is not RoleKind.LEADER:
                    self.step(grant)
        if commit_no_op:
            self.answer_appends()
            self.take()

    def answer_appends(self, answering: Iterable[int] | None = None) -> list[Message]:
        """Take the messages; acknowledge each append, or each to one of `answering`; return the messages."""
        messages = self.take()
        for message in messages:
            if isinstance(message, AppendEntries) and (answering is None or message.to in answering):
                self.step(accept(message))
        return messages

    # -- looking

    @property
    def role(self) -> RoleKind:
        return self.node.status().role

    @property
    def term(self) -> int:
        return self.node.term

    @property
    def commit(self) -> int:
        return self.node.commit_index

    @property
    def vote(self) -> int:
        return self.node.status().vote

    @property
    def leader_id(self) -> int:
        return self.node.leader_id

    def log(self) -> list[tuple[int, bytes]]:
        """Return term and data of every entry that can be read, oldest first."""
        log = self.node._core.log
        first = log.first_index()
        if first > log.last_index:
            return []
        found: list[Entry] = []
        while first <= log.last_index:
            found.extend(log.entries(first, log.last_index, 1 << 30))
            first = LogIndex(found[-1].index + 1)
        return [(entry.term, entry.data) for entry in found]

    def log_terms(self) -> list[int]:
        return [term for term, _ in self.log()]


def accept(message: AppendEntries) -> AppendResponse:
    """Make the answer of a follower that has written everything."""
    match = LogIndex(message.prev_index + len(message.entries))
    return AppendResponse(message.sender, message.to, message.term, match, message.sent_at)


def answer_vote(message: Message, *, granted: bool = True) -> Message | None:
    """Make the answer to a request for a vote or its rehearsal; None for other messages."""
    if isinstance(message, VoteRequest):
        return VoteResponse(message.sender, message.to, message.term, granted)
    if isinstance(message, PreVoteRequest):
        return PreVoteResponse(message.sender, message.to, message.term, granted)
    return None


class Network:
    """Peers 1 to n, and links between them."""

    def __init__(
        self,
        size: int = 3,
        *,
        silent: Iterable[int] = (),
        storages: dict[int, MemoryStorage] | None = None,
        **config: Any,
    ) -> None:
        self.ids = ids(*range(1, size + 1))
        known = storages if storages is not None else {}
        self.peers = {
            peer_id: Peer(peer_id, known.get(peer_id) or stored(self.ids), **config)
            for peer_id in self.ids
            if peer_id not in set(silent)
        }
        self._cut: set[tuple[int, int]] = set()
        self._ignored: tuple[type, ...] = ()
        self.on_message: Callable[[Message], bool] = lambda _message: True

    def __getitem__(self, peer_id: int) -> Peer:
        return self.peers[PeerId(peer_id)]

    # -- the network

    def cut(self, one: int, other: int) -> None:
        self._cut |= {(one, other), (other, one)}

    def isolate(self, peer_id: int) -> None:
        for other in self.ids:
            if other != peer_id:
                self.cut(peer_id, other)

    def ignore(self, *kinds: type) -> None:
        self._ignored = kinds

    def heal(self) -> None:
        self._cut.clear()
        self._ignored = ()

    def pump(self, *extra: Message) -> None:
        """Deliver messages, in order, until there are none."""
        queue: list[Message] = [*extra, *self._collect()]
        while queue:
            message = queue.pop(0)
            if self._passes(message):
                self.peers[message.to].step(message)
            if not queue:
                queue.extend(self._collect())

    def _collect(self) -> list[Message]:
        return [message for peer in self.peers.values() for message in peer.take()]

    def _passes(self, message: Message) -> bool:
        if message.to not in self.peers or isinstance(message, self._ignored):
            return False
        return (message.sender, message.to) not in self._cut and self.on_message(message)

    # -- what people do, each carried through to the end

    def campaign(self, peer_id: int) -> None:
        self[peer_id].campaign()
        self.pump()

    def propose(self, peer_id: int, data: bytes = b"") -> None:
        self[peer_id].propose(data)
        self.pump()

    def transfer(self, asked: int, transferee: int) -> bool:
        begun = self[asked].node.transfer_leader(PeerId(transferee), self[asked].now)
        self.pump()
        return begun

    def tick(self, times: int = 1, only: Iterable[int] | None = None) -> None:
        """Let ticks pass, with all messages delivered in between."""
        chosen = list(self.peers) if only is None else [PeerId(peer_id) for peer_id in only]
        for _ in range(times):
            for peer_id in chosen:
                self.peers[peer_id].tick()
            self.pump()

    def beat(self, peer_id: int) -> None:
        """Let one peer's clock tick once (a heartbeat, if it leads)."""
        self.tick(only=[peer_id])

    # -- looking

    def roles(self) -> dict[int, RoleKind]:
        return {int(peer_id): peer.role for peer_id, peer in self.peers.items()}

    def leader(self) -> Peer:
        """Return the only leader."""
        leaders = [peer for peer in self.peers.values() if peer.role is RoleKind.LEADER]
        assert len(leaders) == 1, f"{len(leaders)} leaders"
        return leaders[0]

    def logs(self) -> list[list[tuple[int, bytes]]]:
        return [peer.log() for peer in self.peers.values()]
