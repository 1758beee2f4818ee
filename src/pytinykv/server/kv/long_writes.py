"""Batches of so many keys that they take several entries of the log: one slice after the other, and one answer.

    check a slice ─▶ check a slice ─▶ …   all of it, before anything is proposed
      └─▶ propose a slice ─applied─▶ propose a slice ─applied─▶ … ─▶ answer          beside them the event loop turns

Such a batch is atomic for each key only (TiKV's raw API promises no more), so others may see a part of it.

Invariants:
1. What a request alone can be refused for (a bad key, a key of another region, its size) is found before a part is executed.
2. A batch of which a part was or may have been executed is answered as done, or as undetermined: any other region error lets
   clients say "not executed", or repeat the batch, which could write over what others have written since.
3. A slice is proposed once the one before is applied: of each batch, one entry is under way.
4. Each batch is answered once, also when the store stops.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from pytinykv.lifecycle import ScopeStoppedError
from pytinykv.server.kv.checks import REFUSALS, refusal
from pytinykv.wire import RpcError, StatusCode
from pytinykv.wire.errors import NotLeader, RaftEntryTooLarge, RegionError, ServerIsBusy, UndeterminedResult

if TYPE_CHECKING:
    from pytinykv.lifecycle import Scope
    from pytinykv.raft import Term
    from pytinykv.raftstore import RegionPeer, Store
    from pytinykv.raftstore.pending import Results
    from pytinykv.server.kv.answers import Answers
    from pytinykv.server.kv.kinds import BatchWrite, CommandContext, PreparedWrite

_log = logging.getLogger(__name__)

LONG_WRITES_MAX: Final = 8
"""Batches that a store executes in slices at the same time; further ones are refused (server_is_busy)."""
BACKOFF_MS: Final = 100
"""For how long a client is asked to wait that is refused for lack of room."""


@dataclass(eq=False, slots=True)
class LongWrite:
    """One such batch, and how far it is."""

    answers: Answers
    """Where its answer goes; `LongWrites.add` expects one, and the end of the batch meets it."""
    peer: RegionPeer
    context: CommandContext
    version: int
    """Version of the region's epoch, and term of its leader, that go with `context`: no slice is executed in others."""
    term: Term
    request_id: int
    command: BatchWrite
    request: Any
    asked_at: float = 0.0
    """When it came, monotonic."""
    is_proposed: bool = False
    """Whether a slice was proposed that is not known to have been left undone."""
    is_ended: bool = False
    """Whether it is answered, for good."""


class LongWrites:
    """Executes such batches, each in a task of its own."""

    def __init__(self, store: Store, scope: Scope) -> None:
        self._store = store
        self._scope = scope
        self._open: dict[LongWrite, None] = {}
        """Those that are not answered, in the order they came."""
        self.slices = 0
        """How many were proposed since the start."""
        scope.on_stop("end long writes", self._end_all)

    def __len__(self) -> int:
        return len(self._open)

    def add(self, write: LongWrite) -> None:
        """Execute a batch, and answer it. Raises RegionError where it is refused, and then does not."""
        if len(self._open) >= LONG_WRITES_MAX:
            raise ServerIsBusy(
                reason=f"store {self._store.store_id} executes {LONG_WRITES_MAX} batches of many keys already",
                backoff_ms=BACKOFF_MS,
            )
        try:
            self._scope.start("long-write", self._run, write)
        except ScopeStoppedError:
            raise self._stopping() from None
        self._open[write] = None
        write.answers.expect()

    async def _run(self, write: LongWrite) -> None:
        try:
            error = await self._check(write) or await self._execute(write)
        except REFUSALS as refused:
            error = refused
        except Exception as defect:  # noqa: BLE001 - a defect in one command must not take the store with it
            _log.exception("a batch could not be executed; its stream is broken off")
            write.answers.fail(RpcError(StatusCode.INTERNAL, f"batch could not be executed: {defect}"))
            error = UndeterminedResult()
        self._end(write, error)

    async def _check(self, write: LongWrite) -> Exception | None:
        """Evaluate all slices for what speaks against them; what they come to is not kept, as it can be large."""
        size_bytes = 0
        for first, end in self._bounds(write):
            size_bytes += write.command.prepare_part(write.context, write.request, first, end).size_bytes
            await asyncio.sleep(0)
            if write.is_ended:
                return None
        if size_bytes > self._store.config.entry_bytes_max:
            return RaftEntryTooLarge(region_id=write.peer.region.id, entry_size=size_bytes)
        return None

    async def _execute(self, write: LongWrite) -> Exception | None:
        for first, end in self._bounds(write):
            if write.is_ended or write.answers.is_closed:
                return UndeterminedResult()  # the caller has gone
            prepared = write.command.prepare_part(write.context, write.request, first, end)
            was_proposed, write.is_proposed = write.is_proposed, True
            error = await self._propose(write, prepared)
            if error is not None:
                write.is_proposed = was_proposed or error.undetermined
                return error
        return None

    def _bounds(self, write: LongWrite) -> Iterator[tuple[int, int]]:
        count, step = write.command.count(write.request), self._store.config.entry_operations_max
        return ((first, min(first + step, count)) for first in range(0, count, step))

    async def _propose(self, write: LongWrite, prepared: PreparedWrite) -> RegionError | None:
        """Return, once a slice is applied, None, or why it is not; the store answers in any case."""
        answered: asyncio.Future[RegionError | None] = asyncio.get_running_loop().create_future()

        def on_done(error: RegionError | None, _results: Results) -> None:
            if not answered.done():
                answered.set_result(error)

        self.slices += 1
        self._store.propose(
            write.peer, prepared.operations, prepared.size_bytes, on_done, version=write.version, term=write.term
        )
        return await answered

    def _end(self, write: LongWrite, error: Exception | None) -> None:
        """Answer a batch, once."""
        if write.is_ended:
            return
        write.is_ended = True
        del self._open[write]
        stats = write.answers.budget.stats
        stats.observe(write.command, self._store.clock.monotonic() - write.asked_at)
        if error is not None:
            stats.refused(error)
        command = write.command
        if error is None:
            response = b""
        else:
            if write.is_proposed and not (isinstance(error, RegionError) and error.undetermined):
                error = UndeterminedResult(message=f"a part of the batch may have been executed, then: {error}")
            response = refusal(self._store, command, error)
        batch = write.answers.batch()
        batch.add(write.request_id, command, response)
        write.answers.send(batch)
        write.answers.met()

    def _end_all(self) -> None:
        for write in list(self._open):
            self._end(write, self._stopping())

    def _stopping(self) -> RegionError:
        return NotLeader(region_id=0, message=f"store {self._store.store_id} is stopping")
