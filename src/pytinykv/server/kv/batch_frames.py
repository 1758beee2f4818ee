"""Frames of `BatchCommands`: many commands in, their answers out in as few frames as they complete in.

A frame is decoded once; its reads are served on the spot where the lease allows, its writes become one proposal per
region. There is no task and no future per command.

    request frame ──add, for each command──▶ Frame ──finish──▶ answered now ───────────────────▶ Answers ──▶ frames
                                                      ├──▶ a quorum's word ──▶ reads ──────────────▲
                                                      └──▶ proposals, one per region ──▶ log ──────┘
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Any, NamedTuple

from pytinykv.server.kv.checks import REFUSALS, check_unchanged, locate, refusal
from pytinykv.server.kv.raw_commands import READS, WRITES, InvalidRequestError, PreparedWrite
from pytinykv.wire import RpcError, StatusCode
from pytinykv.wire.errors import RegionError, UnknownRegionError
from pytinykv.wire.pb import tikvpb_pb2

if TYPE_CHECKING:
    from google.protobuf.message import Message

    from pytinykv.raftstore import Operation, RegionPeer, Store
    from pytinykv.raftstore.pending import Results

FRAMES_WAITING_MAX = 1024
"""Answer frames that a client may leave unread before its stream is broken off."""
FRAME_BYTES_WAITING_MAX = 256 * 1024 * 1024
"""The same in bytes; a single frame may be larger."""

_Response = tikvpb_pb2.BatchCommandsResponse.Response
_RESPONSE_TYPES: dict[str, type[Message]] = {
    field.name: getattr(_Response(), field.name).__class__ for field in _Response.DESCRIPTOR.fields
}


class Answers:
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

    __slots__ = ("operations", "parts", "peer", "size_bytes", "term", "version")

    def __init__(self, peer: RegionPeer) -> None:
        self.peer = peer
        self.version = peer.region.epoch.version
        self.term = peer.term
        """What the commands were checked against."""
        self.operations: list[Operation] = []
        self.parts: list[tuple[int, str]] = []
        """Request id and command of each."""
        self.size_bytes = 0


class Frame:
    """The commands of one request frame, sorted into what can be answered now and what can't."""

    def __init__(self, store: Store, cluster_id: int, answers: Answers) -> None:
        self._store = store
        self._cluster_id = cluster_id
        self._answers = answers
        self._now = tikvpb_pb2.BatchCommandsResponse()
        self._now_s = store.clock.wall_ms() // 1000
        self._writes: dict[int, _RegionWrites] = {}
        """By region, the writes that still take more."""
        self._full: list[_RegionWrites] = []
        """Writes that together are as large as a log entry should be."""
        self._reads: dict[int, list[_Later]] = {}

    def add(self, request_id: int, name: str, request: Any) -> None:
        """Take one command."""
        try:
            if name == "Empty":
                self._reply(request_id, "Empty", tikvpb_pb2.BatchCommandsEmptyResponse(test_id=request.test_id))
                return
            if (write := WRITES.get(name)) is not None:
                peer = locate(self._store, self._cluster_id, request.context)
                self._add_write(peer, request_id, name, write.prepare(peer.region, request, self._now_s))
            elif name in READS:
                peer = locate(self._store, self._cluster_id, request.context)
                self._add_read(peer, _Later(request_id, name, request))
            else:
                raise InvalidRequestError(f"{name} is not supported by this version")
        except REFUSALS as error:
            self._reply(request_id, name, refusal(self._store, name, _RESPONSE_TYPES[name], error))
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
            self._full.append(writes)
            writes = None
        if writes is None:
            writes = self._writes[region_id] = _RegionWrites(peer)
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
        for writes in (*self._full, *self._writes.values()):
            self._answers.expect()
            self._store.propose(
                writes.peer,
                writes.operations,
                writes.size_bytes,
                _WriteDone(self._answers, writes.parts),
                version=writes.version,
                term=writes.term,
            )

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
                    check_unchanged(peer, version)
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
            except REFUSALS as error:
                response = refusal(self._store, name, _RESPONSE_TYPES[name], error)
            _append(frame, request_id, name, response)
        return frame


class _WriteDone:
    """Makes the answer frame of one region's writes."""

    __slots__ = ("_answers", "_parts")

    def __init__(self, answers: Answers, parts: list[tuple[int, str]]) -> None:
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
