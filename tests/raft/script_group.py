"""The group that a script drives: peers with disks, messages that wait for delivery, and the commands.

After each command every peer does what its Readys say: it writes, syncs, applies and puts its messages into the queue,
except where the script has told it to wait with the disk or with applying.
"""

from __future__ import annotations

import copy
from collections import deque
from collections.abc import Callable
from typing import Any

from tests.raft.disk_image import Batch, DiskImage
from tests.raft.harness import TICK_S, ids, stored
from tests.raft.script_text import entries_text, entry_data, members_text, message_text

from pytinykv.raft import (
    ConfChange,
    ConfChangeKind,
    Config,
    ConfState,
    Entry,
    EntryKind,
    LogIndex,
    Message,
    PeerId,
    ProtocolViolation,
    RaftError,
    RawNode,
    Ready,
    RoleKind,
    Status,
    Term,
    decode_conf_change,
)

PLAIN: dict[str, Any] = {"pre_vote": False, "check_quorum": False, "lease_s": 0.0}
CAREFUL: dict[str, Any] = {"pre_vote": True, "check_quorum": True, "lease_s": 0.8}


class ScriptError(Exception):
    """A script says something that can't be understood or done."""


class _TimeoutsById:
    """No randomness: peer 1 waits for the shortest election timeout, 2 for one tick more, and so on."""

    def __init__(self, peer_id: int) -> None:
        self._peer_id = peer_id

    def randrange(self, start: int, stop: int, /) -> int:
        return start + (self._peer_id - 1) % (stop - start)


class Member:
    """One peer of a script: node, clock, disk, and what it had to tell since the last command."""

    def __init__(self, peer_id: PeerId, disk: DiskImage, config: dict[str, Any]) -> None:
        self.id = peer_id
        self.durable = disk
        self._config = config
        self.now = 0.0
        self.is_slow_to_sync = self.is_slow_to_apply = False
        self.node: RawNode | None = None
        self.start(fresh=True)

    def start(self, *, fresh: bool) -> None:
        self.written = copy.deepcopy(self.durable)
        self.unsynced: deque[Batch] = deque()
        self.unapplied: deque[Entry] = deque()
        self.outbox: list[Message] = []
        self.events: list[str] = []
        config = Config(peer_id=self.id, fresh=fresh, applied=self.durable.applied, **self._config)
        self.node = RawNode(config, self.written, _TimeoutsById(self.id))
        self._seen = self.node.status()

    def crash(self) -> None:
        self.node = None

    @property
    def running(self) -> RawNode:
        if self.node is None:
            raise ScriptError(f"peer {self.id} is down")
        return self.node

    # -- doing what Readys say

    def work(self) -> None:
        """Do all that there is to do, and note what has changed."""
        node = self.node
        if node is None:
            return
        while node.has_ready():
            self._take(node, node.ready(self.now))
            if not self.is_slow_to_apply:
                self.apply(len(self.unapplied))
            if not self.is_slow_to_sync:
                self.sync()
        self._note_changes(node)

    def _take(self, node: RawNode, ready: Ready) -> None:
        if ready.entries:
            self._note_entries(ready.entries)
        if ready.snapshot is not None:
            self.events.append(f"installs the snapshot up to {ready.snapshot.index}@{ready.snapshot.term}")
            self.unapplied.clear()
        applied, conf = self.written.applied, self.written.conf_state
        if ready.snapshot is not None:
            applied, conf = ready.snapshot.index, ready.snapshot.conf_state
        batch = Batch(
            ready.number,
            ready.entries,
            ready.hard_state,
            ready.snapshot,
            applied,
            conf,
            ready.messages_after_sync,
            ready.must_sync,
        )
        self._write(batch)
        if ready.snapshot is not None:
            node.on_applied(ready.snapshot.index)
        self.outbox.extend(ready.messages)
        self.unapplied.extend(ready.committed_entries)
        self.events.extend(
            f"confirms read {state.context.decode()} at index {state.index}" for state in ready.read_states
        )
        self.events.extend(f"gives up read {context.decode()}" for context in ready.dropped_reads)

    def _write(self, batch: Batch) -> None:
        self.written.write(batch)
        self.unsynced.append(batch)

    def _note_entries(self, entries: tuple[Entry, ...]) -> None:
        text = f"writes {entries_text(entries)}"
        if entries[0].index <= self.written.last_index():
            old = self.written.entries(entries[0].index, LogIndex(self.written.last_index() + 1), 1 << 30)
            text += f" over {entries_text(old)}"
        self.events.append(text)

    def apply(self, count: int) -> None:
        """Apply the oldest `count` entries that wait for it."""
        node, applied = self.running, list[Entry]()
        for _ in range(min(count, len(self.unapplied))):
            entry = self.unapplied.popleft()
            conf = self.written.conf_state
            if entry.kind is EntryKind.CONF_CHANGE:
                conf = node.apply_conf_change(decode_conf_change(entry.data))
            self._write(Batch(0, (), None, None, entry.index, conf))
            node.on_applied(entry.index)
            applied.append(entry)
        if applied:
            said = "applies " + ", ".join(entry_data(entry) for entry in applied)
            if self.events and self.events[-1].startswith("applies "):
                said = said.replace("applies", self.events.pop() + ",", 1)
            self.events.append(said)

    def sync(self) -> None:
        """Make everything that is written durable."""
        number = 0
        while self.unsynced:
            batch = self.unsynced.popleft()
            self.durable.write(batch)
            self.outbox.extend(batch.messages_after_sync)
            number = batch.number if batch.must_sync else number
        if number:
            self.running.on_persisted(number, self.now)

    def _note_changes(self, node: RawNode) -> None:
        seen, status = self._seen, node.status()
        self._seen = status
        notes: list[str] = []
        if _position(status) != _position(seen):
            notes.append(_position(status))
        if status.vote and (status.term, status.vote) != (seen.term, seen.vote):
            notes.append(f"votes for {status.vote}")
        if status.commit != seen.commit:
            notes.append(f"commit {status.commit}")
        if status.conf_state != seen.conf_state:
            notes.append(members_text(status.conf_state))
        self.events[:0] = notes

    def take_events(self) -> list[str]:
        events, self.events = self.events, []
        return [f"{self.id}: {'; '.join(events)}"] if events else []


def _position(status: Status) -> str:
    """Return role and term, and the leader that a follower knows."""
    leader = ""
    if status.role is RoleKind.FOLLOWER and status.leader_id:
        leader = f" of {status.leader_id}"
    return f"{status.role.value}{leader} in term {status.term}"


class Group:
    """See the module's docstring; `do` carries out one command and returns its output."""

    def __init__(self) -> None:
        self._members: dict[PeerId, Member] = {}
        self._given: dict[PeerId, DiskImage] = {}
        self._config: dict[str, Any] = {}
        self._queue: list[Message] = []
        self._cut: set[tuple[PeerId, PeerId]] = set()

    def do(self, command: str) -> list[str]:
        """Carry out one command.

        Raises:
            ScriptError: it is not understood, or can't be done.
        """
        name, *arguments = command.split()
        method: Callable[..., list[str] | None] | None = getattr(self, f"do_{name.replace('-', '_')}", None)
        if method is None:
            known = ", ".join(sorted(it[3:].replace("_", "-") for it in dir(self) if it.startswith("do_")))
            raise ScriptError(f"no command {name!r}; there are {known}")
        try:
            told = method(*arguments) or []
        except RaftError as error:
            return [f"refused: {error}"]
        except (TypeError, ValueError) as error:
            raise ScriptError(f"{command}: {error}") from error
        return told + self._work()

    def _work(self) -> list[str]:
        told: list[str] = []
        for member in self._members.values():
            member.work()
            told.extend(member.take_events())
            self._queue.extend(member.outbox)
            member.outbox.clear()
        return told

    def _member(self, text: str) -> Member:
        member = self._members.get(PeerId(int(text)))
        if member is None:
            raise ScriptError(f"no peer {text}")
        return member

    def _chosen(self, text: str) -> list[Member]:
        if text == "all":
            return [member for member in self._members.values() if member.node is not None]
        return [self._member(text)]

    # -- making a group

    def do_given(self, peer: str, *facts: str) -> None:
        """Prepare a disk: `given 1 log=1:a,1:b,2 term=2 vote=1 commit=1 base=5@2`."""
        known = dict(fact.split("=") for fact in facts)
        base_index, base_term = map(int, known.pop("base", "0@0").split("@"))
        entries = [entry.split(":") for entry in known.pop("log", "").split(",") if entry]
        numbers = {name: int(value) for name, value in known.items()}
        disk = DiskImage()
        terms = [int(entry[0]) for entry in entries]
        disk.__dict__.update(stored((), terms=terms, base=(base_index, base_term), **numbers).__dict__)
        first = base_index + 1
        data = [entry[1].encode() if len(entry) > 1 else b"" for entry in entries]
        disk.append(
            [Entry(LogIndex(first + at), Term(terms[at]), EntryKind.NORMAL, data[at]) for at in range(len(data))]
        )
        self._given[PeerId(int(peer))] = disk

    def do_nodes(self, *arguments: str) -> None:
        """Start a group: `nodes 1 2 3 learners=4 plain lease_s=0.5`."""
        voters = ids(*(int(it) for it in arguments if it.isdigit()))
        options = dict(it.split("=") for it in arguments if "=" in it)
        learners = ids(*(int(it) for it in options.pop("learners", "").split(",") if it))
        defaults = PLAIN if "plain" in arguments else CAREFUL
        settings = {name: float(value) if "." in value else int(value) for name, value in options.items()}
        self._config = {**defaults, **settings}
        for peer_id in voters + learners:
            self._add(peer_id, ConfState(voters, learners))

    def do_empty(self, peer: str) -> None:
        """Start a peer that knows no group; a leader that adds it will send it what it needs."""
        self._add(PeerId(int(peer)), ConfState())

    def _add(self, peer_id: PeerId, conf: ConfState) -> None:
        disk = self._given.get(peer_id, DiskImage())
        disk.conf_state = conf
        self._members[peer_id] = Member(peer_id, disk, self._config)

    def do_crash(self, peer: str) -> None:
        """Kill a peer: it loses its memory, and what it had not synced."""
        self._member(peer).crash()
        self._queue = [message for message in self._queue if message.to != int(peer)]

    def do_restart(self, peer: str) -> list[str]:
        """Start a peer again with what its disk has."""
        member = self._member(peer)
        member.start(fresh=False)
        return self.do_status(peer)

    # -- time, messages

    def do_tick(self, peer: str, times: str = "1") -> list[str]:
        """Let a peer's clock tick; `tick all 3` all of them."""
        told: list[str] = []
        for _ in range(int(times)):
            for member in self._chosen(peer):
                member.now += TICK_S
                member.running.tick(member.now)
            told.extend(self._work())
        return told

    def do_run(self, ticks: str) -> list[str]:
        """Let time pass as it should: all tick, all messages arrive. Tells what changes, not who said what."""
        told: list[str] = []
        for _ in range(int(ticks)):
            told.extend(self.do_tick("all"))
            told.extend(line.strip() for line in self.do_deliver() if " → " not in line)
        return told

    def do_deliver(self, sender: str = "", to: str = "") -> list[str]:
        """Deliver messages, and those that they cause, until none is left; with two peers, only those between them."""
        told: list[str] = []
        while (at := self._next(sender, to)) is not None:
            message = self._queue.pop(at)
            told.append(message_text(message) + self._pass(message))
            told.extend(f"  {line}" for line in self._work())
        return told

    def _next(self, sender: str, to: str) -> int | None:
        for at, message in enumerate(self._queue):
            if (not sender or message.sender == int(sender)) and (not to or message.to == int(to)):
                return at
        return None

    def _pass(self, message: Message) -> str:
        member = self._members.get(message.to)
        if member is None or member.node is None or (message.sender, message.to) in self._cut:
            return "  (lost)"
        try:
            member.node.step(message, member.now)
        except ProtocolViolation as error:
            return f"  (violation: {error})"
        return ""

    def do_waiting(self) -> list[str]:
        """List the messages that wait for delivery."""
        return [message_text(message) for message in self._queue] or ["nothing"]

    def do_drop(self, sender: str = "", to: str = "") -> list[str]:
        """Lose the messages that wait; with two peers, only those between them."""
        told: list[str] = []
        while (at := self._next(sender, to)) is not None:
            told.append(message_text(self._queue.pop(at)) + "  (lost)")
        return told

    def do_repeat(self, sender: str, to: str) -> list[str]:
        """Put a second copy of the messages that wait between two peers behind all others."""
        again = [it for it in self._queue if (it.sender, it.to) == (int(sender), int(to))]
        self._queue.extend(again)
        return [message_text(message) + "  (twice)" for message in again]

    def do_cut(self, *peers: str) -> None:
        """Cut the links between two peers, or between one and all others."""
        one = PeerId(int(peers[0]))
        for other in [PeerId(int(it)) for it in peers[1:]] or list(self._members):
            self._cut |= {(one, other), (other, one)}

    def do_heal(self) -> None:
        """Mend all links."""
        self._cut.clear()

    # -- what a driver asks for

    def do_campaign(self, peer: str) -> list[str]:
        member = self._member(peer)
        return [] if member.running.campaign(member.now) else [f"{peer}: does not campaign"]

    def do_elect(self, peer: str) -> list[str]:
        """Have a peer campaign, and all messages delivered, without telling how it went on."""
        self.do_campaign(peer)
        self._work()
        self.do_deliver()
        return self.do_log(peer)

    def do_propose(self, peer: str, *commands: str) -> None:
        member = self._member(peer)
        for command in commands:
            member.running.propose(command.encode(), member.now)

    def do_admin(self, peer: str, command: str) -> None:
        member = self._member(peer)
        member.running.propose_admin(command.encode(), member.now)

    def do_add_voter(self, peer: str, other: str) -> None:
        self._change(peer, ConfChangeKind.ADD_VOTER, other)

    def do_add_learner(self, peer: str, other: str) -> None:
        self._change(peer, ConfChangeKind.ADD_LEARNER, other)

    def do_remove(self, peer: str, other: str) -> None:
        self._change(peer, ConfChangeKind.REMOVE, other)

    def _change(self, peer: str, kind: ConfChangeKind, other: str) -> None:
        member = self._member(peer)
        member.running.propose_conf_change(ConfChange(kind, PeerId(int(other))), member.now)

    def do_read(self, peer: str, context: str) -> None:
        member = self._member(peer)
        member.running.read_index(context.encode(), member.now)

    def do_transfer(self, peer: str, to: str) -> list[str]:
        member = self._member(peer)
        begun = member.running.transfer_leader(PeerId(int(to)), member.now)
        return [] if begun else [f"{peer}: does not hand over to {to}"]

    # -- disks and state machines

    def do_slow_disk(self, *peers: str) -> None:
        """From now on these peers sync only when told to."""
        for peer in peers:
            self._member(peer).is_slow_to_sync = True

    def do_sync(self, peer: str) -> None:
        self._member(peer).sync()

    def do_slow_apply(self, *peers: str) -> None:
        """From now on these peers apply only when told to."""
        for peer in peers:
            self._member(peer).is_slow_to_apply = True

    def do_apply(self, peer: str, count: str = "1000") -> None:
        self._member(peer).apply(int(count))

    def do_compact(self, peer: str, index: str) -> None:
        """Cut off the front of a peer's log, up to an applied index."""
        member = self._member(peer)
        for disk in (member.written, member.durable):
            disk.compact(LogIndex(int(index)))

    # -- looking

    def do_log(self, peer: str = "all") -> list[str]:
        """Show each entry of a log; what is not committed as far as the peer knows stands behind a bar."""
        return [self._log_of(member) for member in self._chosen(peer)]

    def _log_of(self, member: Member) -> str:
        log = member.running._core.log
        low, entries = log.first_index(), list[Entry]()
        while low <= log.last_index:
            entries.extend(log.entries(low, log.last_index, 1 << 30))
            low = LogIndex(entries[-1].index + 1)
        committed = entries_text(entry for entry in entries if entry.index <= log.committed)
        rest = [entry for entry in entries if entry.index > log.committed]
        return f"{member.id}: {committed}" + (f" | {entries_text(rest)}" if rest else "")

    def do_status(self, peer: str = "all") -> list[str]:
        """Show what a peer knows of itself and, if it leads, of the others."""
        told: list[str] = []
        for member in self._chosen(peer):
            status = member.running.status()
            told.append(
                f"{member.id}: {_position(status)}, vote {status.vote or 'none'}, "
                f"log {status.first_index}..{status.last_index}, durable {status.durable_index}, "
                f"commit {status.commit}, applied {status.applied}, {members_text(status.conf_state)}"
            )
            told.extend(line for line in status.render().splitlines() if line.startswith("  "))
        return told

    def do_lease(self, peer: str) -> list[str]:
        """Tell for how long a leader may read without asking a quorum."""
        member = self._member(peer)
        left = member.running.lease_until - member.now
        return [f"{peer}: may read for {left:.1f} s more" if left > 1e-9 else f"{peer}: no lease"]
