"""The reads of one frame for one region, served in slices on one state of the engine.

    slice ─▶ all answered, as almost always          no snapshot is taken
      └────▶ too much for one slice: snapshot ─▶ the lease is checked ─▶ LongReads ─slice─▶ slice ─▶ …  beside the others

Why the lease is checked once, after the first slice, and holds for all later ones: the snapshot is taken in the same step
as the first slice, so both see the same state. A lease that holds at some moment *after* that says that no other leader has
committed anything before that moment (Raft thesis 6.4.1), so the state holds every write acknowledged before the read
began, and that is all a linearizable read must show, whenever its answer leaves. The same goes for the epoch, which is
compared before the first slice, in the same step: a split that comes later comes after the read. For a read that asks a
quorum, both happen in the turn in which the store has applied enough.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Generator, Iterator
from io import BytesIO
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from pytinykv.lifecycle import ScopeStoppedError
from pytinykv.server.kv.answers import LARGE_BYTES, AnswerBatch, Answers
from pytinykv.server.kv.checks import REFUSALS, AnswerTooLargeError, refusal
from pytinykv.server.kv.encoding import close_answer, close_frame, open_answer
from pytinykv.server.kv.kinds import ROW_COST, CommandContext, CommandKind, PointRead, RangeRead, View
from pytinykv.wire import RpcError, StatusCode
from pytinykv.wire.errors import NotLeader, RegionError, ServerIsBusy
from pytinykv.wire.limits import ANSWER_BYTES_MAX

if TYPE_CHECKING:
    from pytinykv.lifecycle import Scope
    from pytinykv.raftstore import Store
    from pytinykv.server.kv.txn_host import TransactionHost
    from pytinykv.storage import Snapshot

_log = logging.getLogger(__name__)

LONG_READS_MAX: Final = 64
"""Reads that a store serves in slices at the same time; further ones are refused (server_is_busy)."""
LARGE_ROW_PAUSE_S: Final = 0.002
"""Pause after a slice that a single large row made long. What waits takes several turns of the event loop, a get about four:
with one turn between two such slices it would wait for as many of them."""
UNREAD_S_MAX: Final = 10.0
"""How long reads wait, holding their snapshot, for a client that does not take what it was sent."""
BLOCKED_PAUSE_S: Final = 0.01
"""How often it is looked whether such a client has taken something."""
BACKOFF_MS: Final = 100
"""For how long a client is asked to wait that is refused for lack of room."""


class Read(NamedTuple):
    """A command that looks."""

    request_id: int
    command: PointRead | RangeRead
    request: Any


class RegionReads:
    """Reads that see one state. `slice` until it returns True, taking the answers in between, then `close`."""

    def __init__(
        self, store: Store, host: TransactionHost, answers: Answers, context: CommandContext, reads: list[Read]
    ) -> None:
        self._store = store
        self.answers: Final = answers
        self._context = context
        self._reads = reads
        self._began_at = store.clock.monotonic()
        self.asked_at = self._began_at
        """When they came, monotonic; set by the caller that knows better."""
        self.sliced_at = self._began_at
        """When the newest slice began."""
        self._view = View(store.engine, host.concurrency, host.safe_point)
        self._snapshot: Snapshot | None = None
        """What later slices read; None in the first one. Taken by `hold`, closed by `close`."""
        self._position = 0
        """Of the read under way; those before it are answered."""
        self._complete = [answers.batch()]
        """Answers that were not sent yet; the first batch takes more, the others are whole frames of one large answer."""
        self._partial_bytes = 0
        """Of the answer being made; counted in the budget."""
        self._steps = self._serve()
        """All that is to be done; advances by one slice at a time."""

    def slice(self) -> bool:
        """Serve for one slice; return whether all is answered."""
        self._view.left = self._store.config.read_slice_bytes
        self.sliced_at = self._store.clock.monotonic()
        for _ in self._steps:
            return False
        return True

    @property
    def is_overdrawn(self) -> bool:
        """Whether the last slice was more than twice as large as it should be."""
        return -self._view.left > self._store.config.read_slice_bytes

    def hold(self) -> None:
        """Keep the state that the first slice saw for the later ones. To be called in the same step."""
        self._snapshot = self._store.engine.snapshot()
        self._view.hold(self._snapshot)

    def take(self) -> list[AnswerBatch]:
        """Return the answers that are complete; all but the first are large."""
        batches = self._complete
        self._complete = [self.answers.batch()]
        return batches

    def send(self) -> None:
        """Send what is complete."""
        for batch in self.take():
            self.answers.send(batch)

    def note_done(self) -> None:
        """Count all of them: they are answered."""
        kinds = [read.command for read in self._reads]
        self.answers.budget.stats.observe_all(kinds, self._store.clock.monotonic() - self.asked_at)

    def refuse_rest(self, error: Exception) -> None:
        """Answer what is not answered yet with one of `REFUSALS`."""
        self._steps.close()
        for read in self._reads[self._position :]:
            self._refuse(read, error)

    def close(self) -> None:
        """Let go of the engine's state. Idempotent."""
        self._steps.close()
        self._count_partial(0)
        self._view.close()
        if self._snapshot is not None:
            self._snapshot.close()

    def _serve(self) -> Generator[None, None, None]:
        view, context = self._view, self._context
        for position, read in enumerate(self._reads):
            self._position = position
            try:
                if self._snapshot is not None:
                    self._check_room(0)
                if isinstance(read.command, PointRead):
                    response = read.command.look(view, context, read.request)
                    self._complete[0].add(read.request_id, read.command, response)
                    view.left -= ROW_COST + len(response)
                else:
                    yield from self._serve_range(read, read.command)
            except REFUSALS as error:
                self._refuse(read, error)
            if view.left <= 0:
                self._position = position + 1
                yield
        view.close()

    def _serve_range(self, read: Read, command: RangeRead) -> Iterator[None]:
        is_framed = self.answers.is_framed
        out = open_answer(command.tag, read.request_id) if is_framed else BytesIO()
        try:
            for _ in command.steps(self._view, self._context, read.request, out):
                self._check_room(out.tell())
                yield
            _check_size(out.tell())
        finally:
            self._count_partial(0)
        if not is_framed:
            self._complete[0].add_answer(read.request_id, out.getvalue())
        elif out.tell() < LARGE_BYTES:
            self._complete[0].add_answer(read.request_id, close_answer(out, command.tag, read.request_id))
        else:
            frame = close_frame(out, command.tag, read.request_id)
            self._complete.append(AnswerBatch(is_framed=True, parts=[frame]))

    def _check_room(self, size_bytes: int) -> None:
        """Refuse the read under way, `size_bytes` of whose answer are made, if it must not go on."""
        self._count_partial(size_bytes)
        _check_size(size_bytes)
        if self.answers.budget.is_spent:
            raise busy(self._store)
        limit_ms = self._reads[self._position].request.context.max_execution_duration_ms
        if limit_ms and self._store.clock.monotonic() - self._began_at > limit_ms / 1000:
            raise ServerIsBusy(reason=f"deadline is exceeded: the read was to take at most {limit_ms} ms")

    def _count_partial(self, size_bytes: int) -> None:
        self.answers.budget.used_bytes += size_bytes - self._partial_bytes
        self._partial_bytes = size_bytes

    def _refuse(self, read: Read, error: Exception) -> None:
        refuse(self._store, self.answers, self._complete[0], read.request_id, read.command, error)


def _check_size(size_bytes: int) -> None:
    if size_bytes > ANSWER_BYTES_MAX:
        raise AnswerTooLargeError(
            f"the answer would be larger than {ANSWER_BYTES_MAX} bytes, the most that one may have: ask for fewer keys"
        )


def busy(store: Store) -> ServerIsBusy:
    """Return what reads are told for which there is no room."""
    return ServerIsBusy(
        reason=f"store {store.store_id} holds too much that clients have not taken yet", backoff_ms=BACKOFF_MS
    )


def refuse(
    store: Store, answers: Answers, batch: AnswerBatch, request_id: int, command: CommandKind, error: Exception
) -> None:
    """Answer a command with one of `REFUSALS`, or end its call where that would be taken for an empty page."""
    answers.budget.stats.refused(error)
    if isinstance(error, ServerIsBusy):
        answers.budget.refused += 1
    avoidable = isinstance(error, (ServerIsBusy, AnswerTooLargeError))
    if avoidable and command.may_ignore_region_errors and not answers.is_framed:
        code = StatusCode.RESOURCE_EXHAUSTED if isinstance(error, ServerIsBusy) else StatusCode.INVALID_ARGUMENT
        answers.fail(RpcError(code, str(error)))
    else:
        batch.add(request_id, command, refusal(store, command, error))


class LongReads:
    """Serves reads that need more than one slice, one slice of each in turn; between two slices the event loop turns."""

    def __init__(self, store: Store, scope: Scope) -> None:
        self._store = store
        self._scope = scope
        self._reads: deque[RegionReads] = deque()
        """Those that are not finished, the next one to be served first."""
        self._is_running = False
        """Whether a task serves them; it ends when none is left."""
        self.slices = 0
        """How many were served since the start."""
        scope.on_stop("refuse long reads", self._refuse_all)

    def __len__(self) -> int:
        return len(self._reads)

    def add(self, reads: RegionReads) -> None:
        """Take reads after their first slice, which expect an answer; they are closed when they are done, or refused."""
        error: RegionError | None = None
        if len(self._reads) >= LONG_READS_MAX:
            error = busy(self._store)
        elif not self._is_running:
            try:
                self._scope.start("long-reads", self._run)
                self._is_running = True
            except ScopeStoppedError:
                error = self._stopping()
        if error is None:
            self._reads.append(reads)
        else:
            self._end(reads, error)

    async def _run(self) -> None:
        blocked = 0
        """How many reads in a row wait for their clients to take what they have got."""
        try:
            while self._reads:
                reads = self._reads.popleft()
                if reads.answers.has_room or reads.answers.is_closed:
                    blocked = 0
                    self._go_on(reads)
                else:
                    blocked += 1
                    self._wait_on(reads)
                pause_s = LARGE_ROW_PAUSE_S if reads.is_overdrawn else 0.0
                if blocked and blocked >= len(self._reads):
                    blocked, pause_s = 0, BLOCKED_PAUSE_S
                await asyncio.sleep(pause_s)
        finally:
            self._is_running = False
            self._refuse_all()

    def _refuse_all(self) -> None:
        while self._reads:
            self._end(self._reads.popleft(), self._stopping())

    def _go_on(self, reads: RegionReads) -> None:
        if reads.answers.is_closed:
            self._end(reads)
            return
        self.slices += 1
        try:
            is_done = reads.slice()
        except Exception as error:  # noqa: BLE001 - a defect in one command must not take the store with it
            _log.exception("a read could not be served; its stream is broken off")
            reads.answers.fail(RpcError(StatusCode.INTERNAL, f"read could not be served: {error}"))
            self._end(reads)
            return
        reads.send()
        if is_done:
            self._end(reads)
        else:
            self._reads.append(reads)

    def _wait_on(self, reads: RegionReads) -> None:
        if self._store.clock.monotonic() - reads.sliced_at > UNREAD_S_MAX:
            self._end(reads, busy(self._store))
        else:
            self._reads.append(reads)

    def _end(self, reads: RegionReads, error: RegionError | None = None) -> None:
        if error is not None:
            reads.refuse_rest(error)
            reads.send()
        reads.note_done()
        reads.close()
        reads.answers.met()

    def _stopping(self) -> RegionError:
        return NotLeader(region_id=0, message=f"store {self._store.store_id} is stopping")
