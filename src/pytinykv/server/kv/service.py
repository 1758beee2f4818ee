"""`tikvpb.Tikv` on a store: checks where a request belongs, reads or proposes, and answers. Knows no gRPC.

Commands come in frames of `BatchCommands` (see `batch_frames`), which is the fast path, or one in a call, with a future for
its outcome.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Mapping
from typing import TYPE_CHECKING, Any, TypeVar

from pytinykv.lifecycle import ScopeStoppedError
from pytinykv.server.kv.batch_frames import Answers, Frame
from pytinykv.server.kv.checks import REFUSALS, check_unchanged, locate, refusal
from pytinykv.server.kv.raw_commands import READS, WRITES, ReadCommand, WriteCommand, checksum_steps
from pytinykv.wire import MethodSpec, RpcError, StatusCode, service_methods
from pytinykv.wire.errors import RegionError
from pytinykv.wire.pb import kvrpcpb_pb2, tikvpb_pb2

if TYPE_CHECKING:
    from google.protobuf.message import Message

    from pytinykv.lifecycle import Scope
    from pytinykv.raftstore import RegionPeer, Store
    from pytinykv.raftstore.pending import Results

_log = logging.getLogger(__name__)

T = TypeVar("T")

BATCH_COMMANDS = "/tikvpb.Tikv/BatchCommands"
_UNARY = [*READS, *WRITES, "RawChecksum"]


class KvService:
    """Serves one store's clients. `cluster_id` is what requests that name a cluster must name."""

    def __init__(self, store: Store, *, cluster_id: int, scope: Scope) -> None:
        self._store = store
        self._cluster_id = cluster_id
        self._scope = scope
        self.methods: Mapping[str, MethodSpec] = service_methods("tikvpb.Tikv", only=[*_UNARY, "BatchCommands"])

    # --- unary --------------------------------------------------------------------------------------------------

    async def unary(self, path: str, request: Message) -> Message:
        """Answer one request. Raises RpcError."""
        name = self.methods[path].method_name
        response_type = self.methods[path].response_type
        try:
            context: kvrpcpb_pb2.Context = request.context  # type: ignore[attr-defined]  # every request here has one
            peer = locate(self._store, self._cluster_id, context)
            if (read := READS.get(name)) is not None:
                return await self._read(peer, read, request)
            if (write := WRITES.get(name)) is not None:
                return await self._write(peer, write, request)
            return await self._checksum(peer, request)
        except REFUSALS as error:
            return refusal(self._store, name, response_type, error)

    async def _read(self, peer: RegionPeer, command: ReadCommand, request: Message) -> Message:
        response = self._read_now(peer, command, request)
        if response is not None:
            return response

        def look() -> Message:
            found: Message = command.run(self._store.engine, peer.region, request, self._now_s())
            return found

        return await self._when_readable(peer, look)

    def _read_now(self, peer: RegionPeer, command: ReadCommand, request: Message) -> Message | None:
        """Return the response if the lease, checked after the data was read, allows it."""
        clock = self._store.clock
        if not peer.can_read_now(clock.monotonic()):
            return None
        response: Message = command.run(self._store.engine, peer.region, request, self._now_s())
        return response if peer.can_read_now(clock.monotonic()) else None

    async def _when_readable(self, peer: RegionPeer, look: Callable[[], T]) -> T:
        """Return what `look` sees once the engine is as new as this call. Raises RegionError.

        `look` runs within the store's turn, before anything else can happen to the region.
        """
        version = peer.region.epoch.version
        future: asyncio.Future[T] = asyncio.get_running_loop().create_future()

        def on_ready(error: RegionError | None) -> None:
            if future.done():
                return
            try:
                if error is not None:
                    raise error
                check_unchanged(peer, version)
                future.set_result(look())
            except Exception as trouble:  # noqa: BLE001 - whatever it is, the caller is told
                future.set_exception(trouble)

        self._store.read(peer, on_ready)
        return await future

    async def _checksum(self, peer: RegionPeer, request: Any) -> Message:
        region = peer.region
        snapshot = await self._when_readable(peer, self._store.engine.snapshot)
        with snapshot:
            total = None
            for total in checksum_steps(snapshot, region, request, self._now_s()):  # noqa: B007 - the last is the result
                await asyncio.sleep(0)
        assert total is not None
        return kvrpcpb_pb2.RawChecksumResponse(
            checksum=total.checksum, total_kvs=total.total_kvs, total_bytes=total.total_bytes
        )

    async def _write(self, peer: RegionPeer, command: WriteCommand, request: Message) -> Message:
        version, term = peer.region.epoch.version, peer.term
        prepared = command.prepare(peer.region, request, self._now_s())
        if not prepared.operations:
            nothing: Message = command.respond(None)
            return nothing
        future: asyncio.Future[Results] = asyncio.get_running_loop().create_future()

        def on_done(error: RegionError | None, results: Results) -> None:
            if future.done():
                return
            if error is None:
                future.set_result(results)
            else:
                future.set_exception(error)

        self._store.propose(peer, prepared.operations, prepared.size_bytes, on_done, version=version, term=term)
        response: Message = command.respond(await future)
        return response

    # --- BatchCommands ------------------------------------------------------------------------------------------

    async def stream(self, path: str, requests: AsyncIterator[Message]) -> AsyncIterator[Message]:
        """Answer a stream of frames. Raises RpcError."""
        if path != BATCH_COMMANDS:
            raise RpcError(StatusCode.UNIMPLEMENTED, f"{path} is not a stream of this service")
        answers = Answers()
        try:
            reader = self._scope.start("batch-reader", self._read_frames, requests, answers)
        except ScopeStoppedError as error:
            raise RpcError(StatusCode.UNAVAILABLE, "the store is stopping") from error
        try:
            async for frame in answers.frames():
                yield frame
        finally:
            reader.cancel()

    async def _read_frames(self, requests: AsyncIterator[Message], answers: Answers) -> None:
        try:
            async for frame in requests:
                self.on_frame(frame, answers)  # type: ignore[arg-type]  # the stream's request type
            answers.end()
        except RpcError as error:
            answers.fail(error)
        except asyncio.CancelledError:
            answers.fail(RpcError(StatusCode.UNAVAILABLE, "the store is stopping"))
            raise
        except Exception as error:  # noqa: BLE001 - a defect in one command must not take the store with it
            _log.exception("a frame could not be served; its stream is broken off")
            answers.fail(RpcError(StatusCode.INTERNAL, f"frame could not be served: {error}"))

    def on_frame(self, frame: tikvpb_pb2.BatchCommandsRequest, answers: Answers) -> None:
        """Serve all commands of a frame; answers arrive in `answers`, now or later."""
        ids = frame.request_ids
        commands = frame.requests
        if len(ids) != len(commands):
            raise RpcError(
                StatusCode.INVALID_ARGUMENT,
                f"frame has {len(commands)} commands and {len(ids)} ids: as many are needed",
            )
        batch = Frame(self._store, self._cluster_id, answers)
        for request_id, command in zip(ids, commands, strict=True):
            name = command.WhichOneof("cmd")
            if name is None:
                raise RpcError(StatusCode.INVALID_ARGUMENT, f"command {request_id} of the frame is empty or unknown")
            batch.add(request_id, name, getattr(command, name))
        batch.finish()

    def _now_s(self) -> int:
        return self._store.clock.wall_ms() // 1000
