"""`tikvpb.Tikv` on a store: checks where a request belongs, reads or proposes, and answers. Knows no gRPC.

A frame of `BatchCommands` is decoded once; its reads are served on the spot where the lease allows, its writes become
one proposal per region, and its answers leave in as few frames as they complete in. There is no task and no future per
command; a unary call has one future.

What a client is told, in the order it is checked: the store (StoreNotMatch), the region (RegionNotFound), the leader
(NotLeader), the epoch's version (EpochNotMatch; `conf_ver` does not matter to data), the keys (KeyNotInRegion).
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from pytinykv.lifecycle.errors import ScopeStoppedError
from pytinykv.raftstore.convert import region_to_pb
from pytinykv.raftstore.errors import FormatError
from pytinykv.server.raw_commands import (
    READS,
    WRITES,
    InvalidRequestError,
    PreparedWrite,
    ReadCommand,
    WriteCommand,
    checksum_steps,
)
from pytinykv.storage import EngineError
from pytinykv.wire import MethodSpec, RpcError, StatusCode, service_methods
from pytinykv.wire.errors import (
    EpochNotMatch,
    MismatchPeerId,
    RegionError,
    RegionNotFound,
    RegionNotInitialized,
    StoreNotMatch,
    UnknownRegionError,
)
from pytinykv.wire.pb import errorpb_pb2, kvrpcpb_pb2, tikvpb_pb2

if TYPE_CHECKING:
    from google.protobuf.message import Message

    from pytinykv.lifecycle import Scope
    from pytinykv.raftstore import Operation, Region, RegionPeer, Store
    from pytinykv.raftstore.pending import Results

_log = logging.getLogger(__name__)

T = TypeVar("T")

BATCH_COMMANDS = "/tikvpb.Tikv/BatchCommands"
FRAMES_WAITING_MAX = 1024
"""Answer frames that a client may leave unread before its stream is broken off."""
FRAME_BYTES_WAITING_MAX = 256 * 1024 * 1024
"""The same in bytes; a single frame may be larger."""

_Response = tikvpb_pb2.BatchCommandsResponse.Response
_UNARY = [*READS, *WRITES, "RawChecksum"]
_RESPONSE_TYPES: dict[str, type[Message]] = {
    field.name: getattr(_Response(), field.name).__class__ for field in _Response.DESCRIPTOR.fields
}


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
            peer = self._locate(request.context)  # type: ignore[attr-defined]  # every request here has one
            if (read := READS.get(name)) is not None:
                return await self._read(peer, read, request)
            if (write := WRITES.get(name)) is not None:
                return await self._write(peer, write, request)
            return await self._checksum(peer, request)
        except RegionError as error:
            return response_type(region_error=error.to_pb())
        except InvalidRequestError as error:
            return _invalid(name, response_type, str(error))
        except EngineError as error:
            return response_type(region_error=self._store.report_damage(error).to_pb())
        except FormatError as error:
            _log.exception("%s failed", name)
            return _invalid(name, response_type, f"store {self._store.store_id} can't read: {error}")

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
                _check_unchanged(peer, version)
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

        self._store.propose(peer, prepared.operations, prepared.size_bytes, on_done)
        response: Message = command.respond(await future)
        return response

    # --- BatchCommands ------------------------------------------------------------------------------------------

    async def stream(self, path: str, requests: AsyncIterator[Message]) -> AsyncIterator[Message]:
        """Answer a stream of frames. Raises RpcError."""
        if path != BATCH_COMMANDS:
            raise RpcError(StatusCode.UNIMPLEMENTED, f"{path} is not a stream of this service")
        answers = _Answers()
        try:
            reader = self._scope.start("batch-reader", self._read_frames, requests, answers)
        except ScopeStoppedError as error:
            raise RpcError(StatusCode.UNAVAILABLE, "the store is stopping") from error
        try:
            async for frame in answers.frames():
                yield frame
        finally:
            reader.cancel()

    async def _read_frames(self, requests: AsyncIterator[Message], answers: _Answers) -> None:
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

    def on_frame(self, frame: tikvpb_pb2.BatchCommandsRequest, answers: _Answers) -> None:
        """Serve all commands of a frame; answers arrive in `answers`, now or later."""
        ids = frame.request_ids
        commands = frame.requests
        if len(ids) != len(commands):
            raise RpcError(
                StatusCode.INVALID_ARGUMENT,
                f"frame has {len(commands)} commands and {len(ids)} ids: as many are needed",
            )
        batch = _Frame(self, answers)
        for request_id, command in zip(ids, commands, strict=True):
            name = command.WhichOneof("cmd")
            if name is None:
                raise RpcError(StatusCode.INVALID_ARGUMENT, f"command {request_id} of the frame is empty or unknown")
            batch.add(request_id, name, getattr(command, name))
        batch.finish()

    # --- checks -------------------------------------------------------------------------------------------------

    def _locate(self, context: kvrpcpb_pb2.Context) -> RegionPeer:
        """Return the peer that has to serve a request. Raises RegionError, RpcError for another cluster."""
        store = self._store
        if context.cluster_id and context.cluster_id != self._cluster_id:
            raise RpcError(
                StatusCode.FAILED_PRECONDITION,
                f"mismatch cluster id: this is cluster {self._cluster_id}, the request is for {context.cluster_id}",
            )
        target = context.peer
        if target.store_id and target.store_id != store.store_id:
            raise StoreNotMatch(request_store_id=target.store_id, actual_store_id=store.store_id)
        region_id = context.region_id
        peer = store.peers.get(region_id)
        if peer is None:
            raise RegionNotFound(region_id=region_id)
        if not peer.is_leader:
            if not peer.is_initialized:
                raise RegionNotInitialized(region_id=region_id)
            raise peer.not_leader()
        if target.id and target.id != peer.peer.id:
            raise MismatchPeerId(request_peer_id=target.id, store_peer_id=peer.peer.id)
        _check_version(peer.region, context.region_epoch.version)
        return peer

    def _now_s(self) -> int:
        return self._store.clock.wall_ms() // 1000


def _check_unchanged(peer: RegionPeer, version: int) -> None:
    """Refuse a read that waited when the region is gone or was split meanwhile."""
    if peer.is_destroyed:
        raise RegionNotFound(region_id=peer.region.id)
    _check_version(peer.region, version)


def _check_version(region: Region, version: int) -> None:
    if version != region.epoch.version:
        raise EpochNotMatch(current_regions=[region_to_pb(region)])


class _Answers:
    """Answer frames on their way to one client."""

    def __init__(self) -> None:
        self._frames: list[tikvpb_pb2.BatchCommandsResponse] = []
        self._bytes = 0
        self._changed = asyncio.Event()
        self._open = 0
        self._ended = False
        self._error: RpcError | None = None

    def expect(self) -> None:
        """Note that an answer frame will come later."""
        self._open += 1

    def add(self, frame: tikvpb_pb2.BatchCommandsResponse, *, expected: bool) -> None:
        if expected:
            self._open -= 1
        self._bytes += frame.ByteSize()
        if self._frames and (len(self._frames) >= FRAMES_WAITING_MAX or self._bytes > FRAME_BYTES_WAITING_MAX):
            self.fail(RpcError(StatusCode.RESOURCE_EXHAUSTED, "the client does not read its answers"))
        if self._error is None:
            self._frames.append(frame)
        self._changed.set()

    def end(self) -> None:
        """Note that no more requests will come."""
        self._ended = True
        self._changed.set()

    def fail(self, error: RpcError) -> None:
        self._error = self._error or error
        self._changed.set()

    async def frames(self) -> AsyncIterator[tikvpb_pb2.BatchCommandsResponse]:
        """Yield frames as they come; those that wait together leave as one."""
        while True:
            await self._changed.wait()
            self._changed.clear()
            waiting, self._frames, self._bytes = self._frames, [], 0
            if waiting:
                first = waiting[0]
                for frame in waiting[1:]:
                    first.MergeFrom(frame)
                yield first
            if self._error is not None:
                raise self._error
            if self._ended and not self._open and not self._frames:
                return


class _Later(NamedTuple):
    """A command of a frame that waits for the log or for a quorum's word."""

    request_id: int
    name: str
    command: Any


class _RegionWrites:
    """Writes of a frame to one region that are proposed together: one answer frame."""

    __slots__ = ("operations", "parts", "size_bytes")

    def __init__(self) -> None:
        self.operations: list[Operation] = []
        self.parts: list[tuple[int, str]] = []
        """Request id and command of each."""
        self.size_bytes = 0


class _Frame:
    """The commands of one request frame, sorted into what can be answered now and what can't."""

    def __init__(self, service: KvService, answers: _Answers) -> None:
        self._service = service
        self._store = service._store  # noqa: SLF001 - one module
        self._answers = answers
        self._now = tikvpb_pb2.BatchCommandsResponse()
        self._now_s = service._now_s()  # noqa: SLF001 - one module
        self._writes: dict[int, _RegionWrites] = {}
        """By region, the writes that still take more."""
        self._full: list[tuple[int, _RegionWrites]] = []
        """Region and writes that together are as large as a log entry should be."""
        self._reads: dict[int, list[_Later]] = {}

    def add(self, request_id: int, name: str, request: Any) -> None:
        """Take one command."""
        try:
            if name == "Empty":
                self._reply(request_id, "Empty", tikvpb_pb2.BatchCommandsEmptyResponse(test_id=request.test_id))
                return
            if (write := WRITES.get(name)) is not None:
                peer = self._service._locate(request.context)  # noqa: SLF001 - one module
                self._add_write(peer, request_id, name, write.prepare(peer.region, request, self._now_s))
            elif name in READS:
                peer = self._service._locate(request.context)  # noqa: SLF001 - one module
                self._add_read(peer, _Later(request_id, name, request))
            else:
                raise InvalidRequestError(f"{name} is not supported by this version")
        except RegionError as error:
            self._reply(request_id, name, _RESPONSE_TYPES[name](region_error=error.to_pb()))
        except InvalidRequestError as error:
            self._reply(request_id, name, _invalid(name, _RESPONSE_TYPES[name], str(error)))
        except RpcError as error:
            failure = UnknownRegionError(error.message).to_pb()
            self._reply(request_id, name, _RESPONSE_TYPES[name](region_error=failure))

    def _add_write(self, peer: RegionPeer, request_id: int, name: str, prepared: PreparedWrite) -> None:
        if not prepared.operations:
            self._reply(request_id, name, WRITES[name].respond(None))
            return
        region_id = peer.region.id
        writes = self._writes.get(region_id)
        if writes is not None and writes.size_bytes + prepared.size_bytes > self._store.config.append_bytes_max:
            self._full.append((region_id, writes))
            writes = None
        if writes is None:
            writes = self._writes[region_id] = _RegionWrites()
        writes.operations.extend(prepared.operations)
        writes.parts.append((request_id, name))
        writes.size_bytes += prepared.size_bytes

    def _add_read(self, peer: RegionPeer, read: _Later) -> None:
        self._reads.setdefault(peer.region.id, []).append(read)

    def _reply(self, request_id: int, name: str, response: Message) -> None:
        _append(self._now, request_id, name, response)

    def finish(self) -> None:
        """Send off what was gathered."""
        for region_id, reads in self._reads.items():
            self._serve_reads(self._store.peers[region_id], reads)
        if self._now.request_ids:
            self._answers.add(self._now, expected=False)
        for region_id, writes in (*self._full, *self._writes.items()):
            self._answers.expect()
            on_done = _WriteDone(self._answers, writes.parts)
            self._store.propose(self._store.peers[region_id], writes.operations, writes.size_bytes, on_done)

    def _serve_reads(self, peer: RegionPeer, reads: list[_Later]) -> None:
        clock = self._store.clock
        if peer.can_read_now(clock.monotonic()):
            frame = self._run_reads(peer, reads)
            if peer.can_read_now(clock.monotonic()):
                self._now.MergeFrom(frame)
                return
        self._answers.expect()
        version = peer.region.epoch.version

        def on_ready(error: RegionError | None) -> None:
            try:
                if error is None:
                    _check_unchanged(peer, version)
                    self._answers.add(self._run_reads(peer, reads), expected=True)
                    return
            except RegionError as changed:
                error = changed
            frame = tikvpb_pb2.BatchCommandsResponse()
            failure = error.to_pb()
            for read in reads:
                _append(frame, read.request_id, read.name, _RESPONSE_TYPES[read.name](region_error=failure))
            self._answers.add(frame, expected=True)

        self._store.read(peer, on_ready)

    def _run_reads(self, peer: RegionPeer, reads: list[_Later]) -> tikvpb_pb2.BatchCommandsResponse:
        frame = tikvpb_pb2.BatchCommandsResponse()
        engine, region, now_s = self._store.engine, peer.region, self._now_s
        for request_id, name, request in reads:
            try:
                response = READS[name].run(engine, region, request, now_s)
            except RegionError as error:
                response = _RESPONSE_TYPES[name](region_error=error.to_pb())
            except InvalidRequestError as error:
                response = _invalid(name, _RESPONSE_TYPES[name], str(error))
            except EngineError as error:
                response = _RESPONSE_TYPES[name](region_error=self._store.report_damage(error).to_pb())
            except FormatError as error:
                _log.exception("region %d: %s failed", region.id, name)
                response = _invalid(name, _RESPONSE_TYPES[name], f"store {self._store.store_id} can't read: {error}")
            _append(frame, request_id, name, response)
        return frame


class _WriteDone:
    """Makes the answer frame of one region's writes."""

    __slots__ = ("_answers", "_parts")

    def __init__(self, answers: _Answers, parts: list[tuple[int, str]]) -> None:
        self._answers = answers
        self._parts = parts

    def __call__(self, error: RegionError | None, results: Results) -> None:
        frame = tikvpb_pb2.BatchCommandsResponse()
        frame.request_ids.extend(part[0] for part in self._parts)
        if error is None:
            frame.responses.extend(_SUCCESS[part[1]] for part in self._parts)
        else:
            failure = error.to_pb()
            for _request_id, name in self._parts:
                getattr(frame.responses.add(), name).region_error.CopyFrom(failure)
        self._answers.add(frame, expected=True)


def _append(frame: tikvpb_pb2.BatchCommandsResponse, request_id: int, name: str, response: Message) -> None:
    frame.request_ids.append(request_id)
    getattr(frame.responses.add(), name).CopyFrom(response)


def _success(name: str) -> _Response:
    response = _Response()
    getattr(response, name).SetInParent()
    return response


_SUCCESS = {name: _success(name) for name in WRITES if name in _RESPONSE_TYPES}
"""The answer to a write that succeeded; those in frames have nothing more to say."""


def _invalid(name: str, response_type: type[Message], message: str) -> Message:
    """Return the response that refuses a request for good, in the field that its clients look at."""
    field = response_type.DESCRIPTOR.fields_by_name.get("error")
    if field is None and "kvs" in response_type.DESCRIPTOR.fields_by_name:
        error = kvrpcpb_pb2.KeyError(abort=message)
        return response_type(kvs=[kvrpcpb_pb2.KvPair(error=error)])
    if field is None and "pairs" in response_type.DESCRIPTOR.fields_by_name:
        error = kvrpcpb_pb2.KeyError(abort=message)
        return response_type(pairs=[kvrpcpb_pb2.KvPair(error=error)])
    if field is not None and field.message_type is None:
        return response_type(error=message)
    if field is not None:
        return response_type(error=kvrpcpb_pb2.KeyError(abort=message))
    if "region_error" in response_type.DESCRIPTOR.fields_by_name:
        return response_type(region_error=errorpb_pb2.Error(message=f"{name}: {message}"))
    return response_type()  # it has no way to say anything
