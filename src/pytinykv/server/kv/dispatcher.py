"""One way to serve commands: unary ones come as a frame of one.

A frame is decoded once; its reads are served on the spot where the lease allows, its writes become one proposal per region.
There is no task and no future per command.

    frame ──add, for each command──▶ RequestFrame ──finish──▶ answered now ───────────────────────────▶ Answers ──▶ client
              locate, prepare             ▲             ├──▶ read-index confirmation ──▶ reads ──────────▲
                                          │             ├──▶ LongReads, for more than one slice ─────────┤
                                          │             ├──▶ LongWrites, for more than one entry ────────┤
                                          │             ├──▶ proposals, one per region ──▶ log ──────────┘
                                          └─────────────┴─── commands that wait for the peer to lead
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any, NamedTuple

from google.protobuf.message import DecodeError

from pytinykv.raftstore.turn import OPERATION_COST
from pytinykv.server.kv.answers import AnswerBatch, Answers
from pytinykv.server.kv.checks import REFUSALS, check_unchanged, locate
from pytinykv.server.kv.commands import MEMBERS, REGION_MEMBERS
from pytinykv.server.kv.kinds import (
    BatchWrite,
    CommandContext,
    CommandKind,
    LocalCommand,
    PointRead,
    PointWrite,
    PreparedWrite,
    RangeRead,
    RegionCommand,
    StoreCommand,
    TransactionCommand,
    WriteCommand,
)
from pytinykv.server.kv.long_writes import LongWrite, LongWrites
from pytinykv.server.kv.reads import LongReads, Read, RegionReads, busy, refuse
from pytinykv.wire import RpcError, StatusCode
from pytinykv.wire.errors import RegionError, UnknownRegionError
from pytinykv.wire.frames import split
from pytinykv.wire.pb import tikvpb_pb2
from pytinykv.wire.timestamp import Timestamp

if TYPE_CHECKING:
    from collections.abc import Callable

    from pytinykv.lifecycle import Clock
    from pytinykv.raftstore import Operation, RegionPeer, Store
    from pytinykv.raftstore.pending import Results
    from pytinykv.server.kv.txn_host import TransactionHost
    from pytinykv.transaction import commands as transaction
    from pytinykv.wire.pb import kvrpcpb_pb2

_log = logging.getLogger(__name__)


class RegionWrites:
    """Writes of a frame to one region that are proposed together; the store calls it once, and it answers all."""

    __slots__ = (
        "_answers",
        "_asked_at",
        "_clock",
        "_make_reply",
        "commands",
        "ids",
        "operations",
        "proposed_at",
        "size_bytes",
    )

    def __init__(self, answers: Answers, clock: Clock, asked_at: float) -> None:
        """`asked_at`: when the frame came, by the clock."""
        self._answers = answers
        self._clock = clock
        self._asked_at = asked_at
        self.proposed_at = asked_at
        """When they were proposed, by the clock; set by who does it."""
        self.ids: list[int] = []
        """The request ids of its commands. It and the lists up to `operations` only grow, until it is proposed."""
        self.commands: list[CommandKind] = []
        """Of each id, the kind of command."""
        self._make_reply: Callable[[Results], bytes] | None = None
        """Makes the reply of the one command whose reply depends on the log's results; all others have an empty one."""
        self.operations: list[Operation] = []
        """What all commands do, in their order: one proposal."""
        self.size_bytes = 0
        """Of `operations`; kept within the bound of a proposal by the dispatcher."""

    def add(self, request_id: int, command: CommandKind, prepared: PreparedWrite) -> None:
        self.ids.append(request_id)
        self.commands.append(command)
        self.operations.extend(prepared.operations)
        self.size_bytes += prepared.size_bytes
        self._make_reply = prepared.make_reply

    def __call__(self, error: RegionError | None, results: Results) -> None:
        """Answer all of them; the store calls this once."""
        answers = self._answers
        if error is None and self._make_reply is None:
            parts = [command.empty_answer for command in self.commands] if answers.is_framed else [b""]
            batch = AnswerBatch(is_framed=answers.is_framed, ids=self.ids, parts=parts)
        else:
            batch = answers.batch()
            for request_id, command in zip(self.ids, self.commands, strict=True):
                if error is not None:
                    batch.add(request_id, command, command.region_error(error.to_pb()))
                elif self._make_reply is not None:
                    batch.add(request_id, command, self._make_reply(results))
        answers.send(batch)
        answers.met()
        self._count(error)

    def _count(self, error: RegionError | None) -> None:
        now, stats = self._clock.monotonic(), self._answers.budget.stats
        stats.observe_all(self.commands, now - self._asked_at)
        if error is None:
            stats.proposals.observe(now - self.proposed_at)
        else:
            stats.refused(error, len(self.ids))


class _RegionPart:
    """The commands of a frame for one region."""

    __slots__ = (
        "awaiting",
        "awaiting_bytes",
        "context",
        "open",
        "peer",
        "reads",
        "term",
        "transactions",
        "version",
        "writes",
    )

    def __init__(self, peer: RegionPeer, now_s: int) -> None:
        self.peer = peer
        self.version = peer.region.epoch.version
        self.term = peer.term
        """What the commands are checked against."""
        self.context = CommandContext(peer.region, now_s)
        self.reads: list[Read] = []
        """In the order in which they came."""
        self.writes: list[RegionWrites] = []
        """In the order in which they came."""
        self.open: RegionWrites | None = None
        """The last of `writes` while it takes more; None before the first, and after one that is alone in its entry."""
        self.transactions: list[tuple[int, TransactionCommand, Any, transaction.WriteCommand]] = []
        """Request id, command, request, and what is to be evaluated."""
        self.awaiting: list[tuple[int, CommandKind, Any]] = []
        """Request id, command and request, in the order they came; all of the region's commands while it has no leader."""
        self.awaiting_bytes = 0
        """What they come to, each with `OPERATION_COST`."""


class FrameServices(NamedTuple):
    """What all frames of a store share."""

    store: Store
    long_reads: LongReads
    long_writes: LongWrites
    transactions: TransactionHost


class RequestFrame:
    """The commands of one request frame, sorted into what can be answered now and what can't."""

    def __init__(self, service: FrameServices, cluster_id: int, answers: Answers) -> None:
        self._store = store = service.store
        self._cluster_id = cluster_id
        self._services = service
        self._answers = answers
        self._now = answers.batch()
        """What is answered at once."""
        self._now_s = store.clock.wall_ms() // 1000
        self._asked_at = store.clock.monotonic()
        """When the frame came."""
        self._bytes_max = store.config.append_bytes_max
        """What the operations of one proposal come to at most, unless one alone has more."""
        self._parts: dict[int, _RegionPart] = {}
        """By region."""
        self._checked: dict[bytes, _RegionPart] = {}
        """By the encoded contexts that were checked: commands with an equal one need no check."""

    def add_encoded(self, request_id: int, data: bytes) -> None:
        """Take one command of a frame as it came. Raises RpcError for one that is empty, unknown or broken."""
        try:
            found = split(data)
            if found is not None:
                tag, context, start, at = found
                part, command = self._checked.get(context), REGION_MEMBERS.get(tag)
                if part is not None and command is not None:
                    if type(command) is PointWrite and (write := command.read(part.context, data, at)) is not None:
                        self._add_operation(part, request_id, command, *write)
                    else:
                        self.add(request_id, command, command.request_type.FromString(data[start:]), part)
                    return
            envelope = tikvpb_pb2.BatchCommandsRequest.Request.FromString(data)
        except DecodeError as error:
            raise RpcError(
                StatusCode.INVALID_ARGUMENT, f"command {request_id} of the frame is broken: {error}"
            ) from error
        member = envelope.WhichOneof("cmd")
        if member is None:
            raise RpcError(StatusCode.INVALID_ARGUMENT, f"command {request_id} of the frame is empty or unknown")
        self.add(request_id, MEMBERS[member], getattr(envelope, member))

    def add(self, request_id: int, command: CommandKind, request: Any, part: _RegionPart | None = None) -> None:
        """Take one command; `part` is its region's, if its context was checked."""
        try:
            if part is None:
                if isinstance(command, (LocalCommand, StoreCommand)):
                    self._take_regionless(request_id, command, request)
                    return
                context = request.context.SerializeToString()
                part = self._checked.get(context)
                if part is None:
                    part = self._locate(request.context)
                    if not part.peer.is_leader:
                        part.awaiting.append((request_id, command, request))
                        part.awaiting_bytes += request.ByteSize() + OPERATION_COST
                        return
                    self._checked[context] = part
            self._take(part, request_id, command, request)
        except REFUSALS as error:
            refuse(self._store, self._answers, self._now, request_id, command, error)
        except RpcError as error:
            if not self._answers.is_framed:
                raise
            self._now.add(request_id, command, command.region_error(UnknownRegionError(error.message).to_pb()))

    def _take_regionless(self, request_id: int, command: LocalCommand | StoreCommand, request: Any) -> None:
        """Take a command that needs no region. Raises `REFUSALS`."""
        if isinstance(command, LocalCommand):
            self._now.add(request_id, command, command.answer(request))
        else:
            host = self._services.transactions
            self._start(request_id, command, lambda on_answer: command.start(host, request, on_answer))

    def _take(self, part: _RegionPart, request_id: int, command: CommandKind, request: Any) -> None:
        """Take a command for a region. Raises `REFUSALS`."""
        host = self._services.transactions
        if isinstance(command, (PointRead, RangeRead)):  # first, as most are reads
            if command.read_ts is not None:
                # Before anything is looked at: from now on no transaction commits below this unseen.
                host.note_read(Timestamp(command.read_ts(request)))
            part.reads.append(Read(request_id, command, request))
        elif isinstance(command, PointWrite):
            self._add_operation(part, request_id, command, *command.operation(part.context, request))
        elif isinstance(command, WriteCommand):
            if isinstance(command, BatchWrite) and command.count(request) > self._store.config.entry_operations_max:
                target = (part.peer, part.context, part.version, part.term)
                self._services.long_writes.add(
                    LongWrite(self._answers, *target, request_id, command, request, self._asked_at)
                )
            else:
                self._add_write(part, request_id, command, command.prepare(part.context, request))
        elif isinstance(command, TransactionCommand):
            part.transactions.append((request_id, command, request, command.decode(part.context, request)))
        else:
            assert isinstance(command, RegionCommand)
            peer = part.peer
            self._start(request_id, command, lambda on_answer: command.start(host, peer, request, on_answer))

    def _locate(self, context: kvrpcpb_pb2.Context) -> _RegionPart:
        peer = locate(self._store, self._cluster_id, context)
        part = self._parts.get(peer.region.id)
        if part is None:
            part = self._parts[peer.region.id] = _RegionPart(peer, self._now_s)
        return part

    def _add_operation(
        self, part: _RegionPart, request_id: int, command: PointWrite, operation: Operation, size_bytes: int
    ) -> None:
        writes = part.open
        if writes is None or writes.size_bytes + size_bytes > self._bytes_max:
            writes = self._open_writes(part)
        writes.ids.append(request_id)
        writes.commands.append(command)
        writes.operations.append(operation)
        writes.size_bytes += size_bytes

    def _add_write(self, part: _RegionPart, request_id: int, command: WriteCommand, prepared: PreparedWrite) -> None:
        if not prepared.operations:
            self._now.add(request_id, command, b"")
            return
        writes = part.open
        is_alone = prepared.make_reply is not None
        if writes is None or is_alone or writes.size_bytes + prepared.size_bytes > self._bytes_max:
            writes = self._open_writes(part)
        writes.add(request_id, command, prepared)
        if is_alone:
            part.open = None

    def _open_writes(self, part: _RegionPart) -> RegionWrites:
        writes = part.open = RegionWrites(self._answers, self._store.clock, self._asked_at)
        part.writes.append(writes)
        return writes

    def _start(
        self, request_id: int, command: RegionCommand | StoreCommand, start: Callable[[Callable[[bytes], None]], None]
    ) -> None:
        answers = self._answers

        def on_answer(response: bytes) -> None:
            batch = answers.batch()
            batch.add(request_id, command, response)
            answers.send(batch)
            answers.met()

        answers.expect()
        try:
            start(on_answer)
        except REFUSALS:
            answers.met()
            raise

    def finish(self) -> None:
        """Send off what was gathered."""
        for part in self._parts.values():
            if part.reads:
                self._serve_reads(part)
            if part.awaiting:
                self._await_leadership(part)
        self._answers.send(self._now)
        for part in self._parts.values():
            for writes in part.writes:
                self._answers.expect()
                writes.proposed_at = self._store.clock.monotonic()
                self._store.propose(
                    part.peer, writes.operations, writes.size_bytes, writes, version=part.version, term=part.term
                )

        with self._services.transactions.executor.together():
            for part in self._parts.values():
                for transaction in part.transactions:
                    self._submit(part, *transaction)

    def _submit(
        self,
        part: _RegionPart,
        request_id: int,
        command: TransactionCommand,
        request: Any,
        wanted: transaction.WriteCommand,
    ) -> None:
        answers = self._answers

        def on_answer(error: Exception | None, result: Any) -> None:
            batch = answers.batch()
            if error is None:
                batch.add(request_id, command, command.encode(request, result).SerializeToString())
            elif isinstance(error, REFUSALS):
                refuse(self._store, answers, batch, request_id, command, error)
            else:
                _log.error("a command could not be served; its stream is broken off", exc_info=error)
                answers.fail(RpcError(StatusCode.INTERNAL, f"{command.name} could not be served: {error}"))
            answers.send(batch)
            answers.met()
            answers.budget.stats.observe(command, self._store.clock.monotonic() - self._asked_at)

        answers.expect()
        self._services.transactions.submit(part.peer, part.version, part.term, wanted, on_answer)

    # --- a peer that is about to lead -------------------------------------------------------------------------------

    def _await_leadership(self, part: _RegionPart) -> None:
        self._answers.expect()
        waits = self._store.leadership_waits
        waits.wait(part.peer, part.awaiting_bytes, lambda error: self._on_leadership(part, error))

    def _on_leadership(self, part: _RegionPart, error: RegionError | None) -> None:
        """Serve what waited as if it came now, or refuse it: nothing of it was looked at before."""
        answers = self._answers
        try:
            if answers.is_closed:
                return
            if error is None:
                frame = RequestFrame(self._services, self._cluster_id, answers)
                frame._asked_at = self._asked_at
                for request_id, command, request in part.awaiting:
                    frame.add(request_id, command, request)
                frame.finish()
                return
            batch = answers.batch()
            for request_id, command, _request in part.awaiting:
                refuse(self._store, answers, batch, request_id, command, error)
            answers.send(batch)
        except RpcError as broken:
            answers.fail(broken)
        except Exception as defect:  # noqa: BLE001 - a defect in one command must not take the store with it
            _log.exception("a command could not be served; its stream is broken off")
            answers.fail(RpcError(StatusCode.INTERNAL, f"command could not be served: {defect}"))
        finally:
            answers.met()

    # --- reads --------------------------------------------------------------------------------------------------

    def _serve_reads(self, part: _RegionPart) -> None:
        peer, clock, answers = part.peer, self._store.clock, self._answers
        if answers.budget.is_spent:
            self._refuse_reads(part, busy(self._store), self._now)
            return
        if peer.can_read_now(clock.monotonic()):
            reads = self._reads(part)
            is_done = self._first_slice(reads)
            if peer.can_read_now(clock.monotonic()):
                first, *large = reads.take()
                self._now.extend(first)
                for batch in large:
                    answers.send(batch)
                if is_done:
                    reads.note_done()
                else:
                    answers.expect()
                    self._services.long_reads.add(reads)
                return
            reads.close()
        answers.expect()
        self._store.read(peer, lambda error: self._on_readable(part, error))

    def _on_readable(self, part: _RegionPart, error: RegionError | None) -> None:
        """Serve reads that the lease did not cover, within the store's turn: nothing else can happen to the region."""
        answers = self._answers
        is_done = True
        try:
            if answers.is_closed:
                return
            try:
                if error is not None:
                    raise error
                check_unchanged(part.peer, part.version)
            except RegionError as refusal:
                batch = answers.batch()
                self._refuse_reads(part, refusal, batch)
                answers.send(batch)
                return
            reads = self._reads(part)
            is_done = self._first_slice(reads)
            reads.send()
            if is_done:
                reads.note_done()
            else:
                self._services.long_reads.add(reads)
        except Exception as defect:  # noqa: BLE001 - a defect in one command must not take the store with it
            _log.exception("a read could not be served; its stream is broken off")
            answers.fail(RpcError(StatusCode.INTERNAL, f"read could not be served: {defect}"))
        finally:
            if is_done:
                answers.met()

    def _reads(self, part: _RegionPart) -> RegionReads:
        reads = RegionReads(self._store, self._services.transactions, self._answers, part.context, part.reads)
        reads.asked_at = self._asked_at
        return reads

    def _first_slice(self, reads: RegionReads) -> bool:
        is_done = reads.slice()
        if not is_done:
            reads.hold()
        return is_done

    def _refuse_reads(self, part: _RegionPart, error: RegionError, batch: AnswerBatch) -> None:
        for read in part.reads:
            refuse(self._store, self._answers, batch, read.request_id, read.command, error)


def _broken(request_id: int, error: DecodeError) -> RpcError:
    return RpcError(StatusCode.INVALID_ARGUMENT, f"command {request_id} of the frame is broken: {error}")
