"""`tikvpb.Tikv` on a store: commands in frames of `BatchCommands`, the fast path, or one in a call. Knows no gRPC."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Mapping
from typing import TYPE_CHECKING, Any, Final

from pytinykv.lifecycle import ScopeStoppedError
from pytinykv.server.kv.answers import AnswerBudget, Answers
from pytinykv.server.kv.commands import UNARY
from pytinykv.server.kv.deadlocks import Deadlocks
from pytinykv.server.kv.dispatcher import FrameServices, RequestFrame
from pytinykv.server.kv.garbage import GarbageCollector, Report
from pytinykv.server.kv.kinds import METHODS
from pytinykv.server.kv.long_writes import LongWrites
from pytinykv.server.kv.reads import LongReads
from pytinykv.server.kv.txn_host import TransactionHost
from pytinykv.wire import BATCH_COMMANDS, MethodSpec, RpcError, StatusCode
from pytinykv.wire.cut_streams import stream_cut

if TYPE_CHECKING:
    from google.protobuf.message import Message

    from pytinykv.lifecycle import Scope
    from pytinykv.raftstore import Store
    from pytinykv.server.kv.txn_host import AllowTransactions, ClusterPort, FetchTimestamp

_log = logging.getLogger(__name__)

COMMANDS_MAX: Final = 1024
"""How many commands of a frame are served before others have their turn. Our client sends at most 256 in one."""


class KvService:
    """Serves one store's clients. `cluster_id` is what requests that name a cluster must name."""

    def __init__(
        self,
        store: Store,
        *,
        cluster_id: int,
        scope: Scope,
        fetch_timestamp: FetchTimestamp | None = None,
        allow_transactions: AllowTransactions | None = None,
        deadlocks: Deadlocks | None = None,
        cluster: ClusterPort | None = None,
    ) -> None:
        """See `TransactionHost`; without `deadlocks`, those within this store alone are seen."""
        self._store = store
        self._cluster_id = cluster_id
        self._scope = scope
        self.budget = AnswerBudget()
        self.long_reads = LongReads(store, scope)
        self.long_writes = LongWrites(store, scope)
        self.deadlocks = deadlocks or Deadlocks(store, scope)
        self.transactions = TransactionHost(
            store,
            scope,
            fetch_timestamp=fetch_timestamp,
            allow_transactions=allow_transactions,
            deadlocks=self.deadlocks,
            cluster=cluster,
        )
        self._services = FrameServices(store, self.long_reads, self.long_writes, self.transactions)
        self.methods: Mapping[str, MethodSpec] = {path: METHODS[path] for path in (*UNARY, BATCH_COMMANDS)}

    async def collect_garbage(self, report: Report, patience_s: float) -> None:
        """Take up the cluster's safe point, and collect garbage from now on. Raises what reporting raises."""
        collector = self.transactions.collector = GarbageCollector(self.transactions, self._scope, report)
        await collector.start(patience_s)

    async def unary(self, path: str, request: Message) -> bytes:
        """Answer one request; returns the encoded response. Raises RpcError."""
        answers = Answers(self.budget, is_framed=False)
        frame = self._frame(answers)
        frame.add(0, UNARY[path], request)
        frame.finish()
        return await answers.response()

    async def stream(self, path: str, requests: AsyncIterator[Message]) -> AsyncIterator[bytes]:
        """Answer a stream of frames; yields encoded ones. Raises RpcError."""
        if path != BATCH_COMMANDS:
            raise RpcError(StatusCode.UNIMPLEMENTED, f"{path} is not a stream of this service")
        answers = Answers(self.budget)
        frames = _FrameCount()
        try:
            reader = self._scope.start("batch-reader", self._read_frames, requests, answers, frames)
        except ScopeStoppedError as error:
            raise _stopping(frames) from error
        try:
            async for frame in answers.frames():
                yield frame
            if self._scope.stopping:
                raise _stopping(frames)  # the requests were ended here: not by a client that has got all it wanted
        finally:
            answers.close()
            reader.cancel()

    async def _read_frames(self, requests: AsyncIterator[Any], answers: Answers, frames: _FrameCount) -> None:
        try:
            async for frame in requests:
                frames.read += 1
                for first in range(0, len(frame.requests) or 1, COMMANDS_MAX):
                    if first:
                        await asyncio.sleep(0)  # others have their turn
                    self.on_frame(frame, answers, first)
                await answers.wait_for_room()
            answers.end()
        except RpcError as error:
            answers.fail(error)
        except asyncio.CancelledError:
            answers.fail(_stopping(frames))
            raise
        except Exception as error:  # noqa: BLE001 - a defect in one command must not take the store with it
            _log.exception("a frame could not be served; its stream is broken off")
            answers.fail(RpcError(StatusCode.INTERNAL, f"frame could not be served: {error}"))

    def on_frame(self, frame: Any, answers: Answers, first: int = 0) -> None:
        """Serve the commands of a frame (`wire.frames.EncodedCommands`) from `first` on, at most `COMMANDS_MAX`.

        Answers arrive in `answers`, now or later. Raises RpcError for a broken frame.
        """
        ids, commands = frame.request_ids, frame.requests
        if len(ids) != len(commands):
            raise RpcError(
                StatusCode.INVALID_ARGUMENT,
                f"frame has {len(commands)} commands and {len(ids)} ids: as many are needed",
            )
        if len(ids) > COMMANDS_MAX:
            end = first + COMMANDS_MAX
            ids, commands = ids[first:end], commands[first:end]
        batch = self._frame(answers)
        add = batch.add_encoded
        for request_id, command in zip(ids, commands, strict=True):
            add(request_id, command)
        batch.finish()

    def _frame(self, answers: Answers) -> RequestFrame:
        return RequestFrame(self._services, self._cluster_id, answers)


class _FrameCount:
    """How many frames of a stream were read."""

    def __init__(self) -> None:
        self.read = 0
        """Only grows."""


def _stopping(frames: _FrameCount) -> RpcError:
    return stream_cut("the store is stopping", frames.read)
