"""The calls that wait for one peer: commands from the queue to their answer, reads to their read index and back.

    queue ──propose──▶ an entry of the log ──settle, when that is applied──▶ answer         `PendingProposals`
    queue_read ──ask_reads──▶ a quorum ──serve_reads, when enough is applied──▶ answer      `PendingReads`
    await_leadership ──on_leading──▶ its commands begin

The peer tells when it came to lead, when it lost leadership, and when it ends.

Invariants:
1. Each call is answered exactly once, whatever becomes of the peer.
2. "Not leader" means for certain that a command was not executed: it was not proposed, or its slot in the log holds another
   term's entry. Whatever else is given up is answered as undetermined.
3. After leadership was lost, reads are answered at once; proposals when their slots are filled, at the latest after
   `undetermined_after_s`.
4. Leadership is awaited only while the outcome of an election is about to come, and for no longer than until a given time.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

from pytinykv.raft import DropReason, NotLeading, ProposalDropped, ReadNotReady, Term
from pytinykv.raftstore.operations import CONDITIONAL, Operation, encode_operations
from pytinykv.raftstore.pending import OnDone, OnReady, Part, PendingProposals, PendingReads, Proposal
from pytinykv.raftstore.turn import OPERATION_COST
from pytinykv.wire.errors import (
    NotLeader,
    ProposalInMergingMode,
    RaftEntryTooLarge,
    RegionError,
    ServerIsBusy,
    UndeterminedResult,
)

if TYPE_CHECKING:
    from pytinykv.raft import LogIndex, RawNode, Ready
    from pytinykv.raftstore.config import RaftStoreConfig
    from pytinykv.raftstore.peer_storage import PeerStorage
    from pytinykv.raftstore.turn import Turn

_NO_TERM = Term(1 << 63)


class QueuedCommand(NamedTuple):
    """A command that waits to become an entry, or part of one."""

    operations: list[Operation]
    """At least one; all conditional, or none."""
    size_bytes: int
    on_done: OnDone
    version: int
    """Version of the region's epoch when the command was checked."""
    term: Term
    """The term in which the peer led then."""


class PeerCalls:
    """Belongs to one peer; see `__init__` for what it is told by it."""

    def __init__(
        self,
        *,
        node: RawNode,
        storage: PeerStorage,
        config: RaftStoreConfig,
        not_leader: Callable[[], NotLeader],
        outdated: Callable[[int], RegionError],
    ) -> None:
        """`not_leader` makes the answer that names the leader; `outdated` the one to a command of an older version."""
        self._node = node
        self._storage = storage
        self._config = config
        self._not_leader = not_leader
        self._outdated = outdated
        self._queued: list[QueuedCommand] = []
        """Commands for the next turn, in the order they came."""
        self._proposals = PendingProposals()
        """Commands whose entries are in the log and not applied here."""
        self._reads = PendingReads()
        self._leading_term = _NO_TERM
        """The term in which the peer leads; above every term while it does not."""
        self._leadership_due: float | None = None
        """Until when callers may wait for the peer to lead, monotonic; None: they may not, and none does."""
        self._for_leadership: list[OnReady] = []
        """Callers that wait for the peer to lead, in the order they came."""
        self._dropped: list[Part] = []
        """Callers of commands that Raft did not take since leadership is handed over; refused once that has ended. To the
        peer that is to lead they could come before it knows of it, and be sent back."""
        self._dropped_bytes = 0
        """What these hold, each with `OPERATION_COST`; at most `append_bytes_max`."""
        self._deposed_at: float | None = None
        """Since when proposals wait for what others make of them; None when none do."""

    @property
    def has_any(self) -> bool:
        """Return whether a caller waits for an answer."""
        has_waiting = bool(self._for_leadership or self._dropped)
        return has_waiting or bool(self._queued or len(self._proposals) or len(self._reads))

    @property
    def has_waiting_reads(self) -> bool:
        """Return whether reads wait for a quorum to be asked."""
        return self._reads.has_waiting

    # --- commands -----------------------------------------------------------------------------------------------

    def queue(self, command: QueuedCommand) -> None:
        """Take a command for the next turn."""
        self._queued.append(command)

    @property
    def has_queued(self) -> bool:
        """Return whether commands wait to be proposed."""
        return bool(self._queued)

    @property
    def queued_bytes(self) -> int:
        """Return the size of the commands that wait to be proposed."""
        return sum(command.size_bytes for command in self._queued)

    def propose(self, turn: Turn) -> None:
        """Turn the queued commands into as few entries as the bounds allow; what the turn does not hold stays queued."""
        queued, self._queued = self._queued, []
        operations: list[Operation] = []
        parts: list[Part] = []
        size = 0
        conditional = False
        current = self._storage.region.epoch.version
        for number, (part_operations, part_bytes, on_done, version, term) in enumerate(queued):
            if version != current or term != self._leading_term:
                turn.answer(on_done, self._stale(version))
                continue
            part_conditional = part_operations[0][0] in CONDITIONAL
            is_too_much = (
                size + part_bytes > self._config.append_bytes_max
                or len(operations) + len(part_operations) > self._config.entry_operations_max
            )
            if parts and (part_conditional != conditional or is_too_much):
                self._propose_entry(turn, operations, parts, size)
                if turn.is_region_done:
                    self._queued = queued[number:]
                    return
                operations, parts, size = [], [], 0
            conditional = part_conditional
            operations.extend(part_operations)
            parts.append(Part(len(part_operations), on_done))
            size += part_bytes
        if parts:
            self._propose_entry(turn, operations, parts, size)

    def _stale(self, version: int) -> RegionError:
        """Return why a command is refused that was checked at another time than this."""
        return self._not_leader() if version == self._storage.region.epoch.version else self._outdated(version)

    def propose_admin(self, turn: Turn, data: bytes, on_done: OnDone) -> None:
        """Propose an entry that changes the region itself; `on_done` gets the results of applying it."""
        try:
            term, index = self._node.propose_admin(data, turn.now)
        except NotLeading:
            turn.answer(on_done, self._not_leader())
        except ProposalDropped as dropped:
            turn.answer(on_done, self._refusal(dropped.reason))
        else:
            self._proposals.add(Proposal(index, term, [Part(0, on_done)]))

    def _propose_entry(self, turn: Turn, operations: list[Operation], parts: list[Part], size: int) -> None:
        turn.take(size, len(operations))
        region = self._storage.region
        error: RegionError
        if size > self._config.entry_bytes_max:
            error = RaftEntryTooLarge(region_id=region.id, entry_size=size)
        else:
            try:
                data = encode_operations(region.epoch.version, operations)
                term, index = self._node.propose(data, turn.now)
            except NotLeading:
                error = self._not_leader()
            except ProposalDropped as dropped:
                if dropped.reason is DropReason.TRANSFERRING and self._keep_dropped(parts, size):
                    return
                error = self._refusal(dropped.reason)
            else:
                self._proposals.add(Proposal(index, term, parts))
                return
        for part in parts:
            turn.answer(part.on_done, error)

    def _refusal(self, reason: DropReason) -> RegionError:
        """Return what a command is told that Raft did not take."""
        region_id = self._storage.region.id
        text = f"region {region_id}: {reason.value}"
        if reason is not DropReason.TRANSFERRING:
            return ServerIsBusy(reason=text, backoff_ms=100)
        if self._node.transferee:  # it is told to campaign, and then lets callers wait for the outcome
            return self._not_leader()
        return ProposalInMergingMode(region_id=region_id, message=f"{text}; try again")

    def _keep_dropped(self, parts: list[Part], size: int) -> bool:
        """Keep callers of commands that a hand-over has dropped until it shows who leads; return whether there is room."""
        size += OPERATION_COST * len(parts)
        if self._dropped_bytes + size > self._config.append_bytes_max:
            return False
        self._dropped_bytes += size
        self._dropped += parts
        return True

    @property
    def has_dropped(self) -> bool:
        """Return whether callers wait for a hand-over of leadership to end."""
        return bool(self._dropped)

    def answer_dropped(self, turn: Turn) -> None:
        """Send these callers to the peer that campaigns; if nothing is handed over any more, let them try again here."""
        if not self._node.is_transferring:
            self._refuse_dropped(turn, self._refusal(DropReason.TRANSFERRING))

    def _refuse_dropped(self, turn: Turn, error: RegionError) -> None:
        dropped, self._dropped, self._dropped_bytes = self._dropped, [], 0
        for part in dropped:
            turn.answer(part.on_done, error)

    def settle(self, turn: Turn, index: LogIndex, term: Term) -> list[Part]:
        """Return the callers of the entry that is being applied; refuse those whose slot it has taken."""
        parts, overtaken = self._proposals.settle(index, term)
        for lost in overtaken:
            for part in lost.parts:
                turn.answer(part.on_done, self._not_leader())
        return parts

    # --- reads --------------------------------------------------------------------------------------------------

    def queue_read(self, on_ready: OnReady) -> None:
        """Take a read that the lease does not cover."""
        self._reads.add(on_ready)

    def ask_reads(self, turn: Turn) -> None:
        """Ask the quorum once for all reads that came in since the last turn."""
        if not self._reads.has_waiting:
            return
        if self._leading_term == _NO_TERM:
            self._fail_reads(turn, self._not_leader())
            return
        try:
            self._reads.ask(lambda context: self._node.read_index(context, turn.now))
        except ReadNotReady:
            return  # asked again as soon as the first entry of this term is committed
        except NotLeading:
            self._fail_reads(turn, self._not_leader())

    def serve_reads(self, turn: Turn, ready: Ready) -> None:
        """Take what Raft confirms or drops of reads, and let those look for which enough is applied."""
        if not (ready.read_states or ready.dropped_reads or self._reads.has_confirmed):
            return
        for on_ready in self._reads.take_dropped(ready.dropped_reads):
            turn.answer_read(on_ready, self._not_leader())
        for state in ready.read_states:
            self._reads.on_confirmed(state.context, state.index)
        for on_ready in self._reads.take_served(self._storage.apply_state.applied_index):
            turn.answer_read(on_ready, None)

    # --- leadership and end -------------------------------------------------------------------------------------

    def expect_leadership(self, until: float) -> None:
        """Let callers wait for the peer to lead, until another is known to lead, or until this time (monotonic)."""
        self._leadership_due = until

    @property
    def expects_leadership(self) -> bool:
        """Return whether callers may wait for the peer to lead."""
        return self._leadership_due is not None

    def await_leadership(self, on_ready: OnReady) -> None:
        """Call `on_ready(error)` when the peer leads, or with why it does not; only while that is expected."""
        assert self.expects_leadership, "nothing would answer"
        self._for_leadership.append(on_ready)

    def end_expectation(self, turn: Turn, error: RegionError | None) -> None:
        """Answer who waits for the peer to lead: it does, or else `error`."""
        self._leadership_due = None
        waiting, self._for_leadership = self._for_leadership, []
        for on_ready in waiting:
            turn.answer_read(on_ready, error)

    def on_leading(self, turn: Turn, term: Term) -> None:
        """Note that the peer has come to lead."""
        self._leading_term = term
        self.end_expectation(turn, None)

    def on_deposed(self, turn: Turn) -> None:
        """Note that the peer does not lead any more."""
        self._fail_reads(turn, self._not_leader())
        self._leading_term = _NO_TERM
        if len(self._proposals) and self._deposed_at is None:
            self._deposed_at = turn.now

    def on_tick(self, turn: Turn) -> None:
        """Answer what has waited for long enough: for leadership, or for what others make of earlier terms' proposals."""
        if self._leadership_due is not None and turn.now >= self._leadership_due:
            self.end_expectation(turn, self._not_leader())
        if self._deposed_at is not None and turn.now - self._deposed_at > self._config.undetermined_after_s:
            self._deposed_at = None
            reason = "leadership was lost, and what the others made of the command is not known yet"
            self._fail(turn, reason, self._proposals.take_before(self._leading_term))

    def fail_all(self, turn: Turn, error: RegionError) -> None:
        """Answer all calls: those that change nothing, and what was not proposed, with `error`; the others as undetermined.

        A proposed command may be in the logs of the others, and they may execute it, whatever becomes of this peer.
        """
        for command in self._queued:
            turn.answer(command.on_done, error)
        self._queued = []
        self._refuse_dropped(turn, error)
        self.end_expectation(turn, error)
        self._fail_reads(turn, error)
        self.fail_proposals(turn, str(error))

    def fail_proposals(self, turn: Turn, reason: str) -> None:
        """Answer that it is not known what becomes of the commands that were proposed."""
        self._fail(turn, reason, self._proposals.take_all())

    def _fail(self, turn: Turn, reason: str, proposals: list[Proposal]) -> None:
        region_id = self._storage.region.id
        error = UndeterminedResult(message=f"region {region_id}: the command's fate is unknown: {reason}")
        for proposal in proposals:
            for part in proposal.parts:
                turn.answer(part.on_done, error)

    def _fail_reads(self, turn: Turn, error: RegionError) -> None:
        for on_ready in self._reads.take_all():
            turn.answer_read(on_ready, error)
