"""What stores send each other: Raft messages over plain TCP frames, snapshots over gRPC.

    peer port    frames (`transport.frames`): a greeting, then a turn's messages for one store in each frame
    client port  `pytinykv.StoreTransport/Snapshot`: one stream per snapshot: greeting, header, the files' bytes; the
                 answer says that its region has taken it

Each other store has one link: a task that keeps a connection up, and a short queue for the time until it is. A full
buffer, a broken connection or an unknown address lose messages, and Raft copes; a sender never waits.

A greeting names cluster and store, so that messages which went astray, to another cluster or to a store that moved, are
refused before anything is read from them. docs/adr tells why messages don't take gRPC.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from pytinykv.client.errors import ClientError
from pytinykv.model import FormatError, StoreId, encode
from pytinykv.raftstore import RaftEnvelope, SnapshotHeader, SnapshotManifest, SnapshotRefusedError
from pytinykv.raftstore.records import decode_snapshot_header
from pytinykv.raftstore.snapshot_files import snapshot_chunks
from pytinykv.transport import RpcError, StatusCode
from pytinykv.transport.address import AddressError
from pytinykv.transport.frames import FrameConnection, FrameListener, connect_frames
from pytinykv.transport.rpc import Method, MethodKind, RpcChannel

if TYPE_CHECKING:
    from pytinykv.lifecycle import Scope
    from pytinykv.server.host.address_book import StoreFinder
    from pytinykv.server.host.store_program import StoreProgram
    from pytinykv.transport.rpc import CallContext, RpcServer

_log = logging.getLogger(__name__)

SERVICE = "pytinykv.StoreTransport"
_SNAPSHOT = f"/{SERVICE}/Snapshot"

FRAMES_QUEUED_MAX = 64
"""Frames that wait for a connection to be made; of more, the oldest are dropped."""
FRAME_BYTES_TARGET = 16 * 1024 * 1024
"""A turn's messages for one store that are larger go in several frames; far below what a receiver refuses."""
GREETING_BYTES = 16
RETRY_MIN_S = 0.05
RETRY_MAX_S = 1.0
SNAPSHOT_TIMEOUT_S = 300.0
CHUNK_TIMEOUT_S = 10.0
"""How long a snapshot's receiver may take no bytes."""
CHUNKS_BUFFERED_MAX = 8


def _same(data: bytes) -> bytes:
    return data


class _Greeting(NamedTuple):
    """The first frame of every stream: the sender's cluster and the store that is meant."""

    cluster_id: int
    to_store: int

    def encode(self) -> bytes:
        return self.cluster_id.to_bytes(8, "big") + self.to_store.to_bytes(8, "big")

    @classmethod
    def decode(cls, frame: bytes) -> _Greeting | None:
        if len(frame) != GREETING_BYTES:
            return None
        return cls(int.from_bytes(frame[:8], "big"), int.from_bytes(frame[8:], "big"))


class StoreTransport:
    """The sending side: implements `raftstore.Transport`."""

    def __init__(self, scheduler: StoreFinder, scope: Scope) -> None:
        self._scheduler = scheduler
        self._scope = scope.child("raft-transport")
        self._links: dict[int, _Link] = {}
        """By store, made when it is first sent something; each ends with the scope."""
        self._snapshots = 0
        """How many were sent or begun; numbers their tasks."""

    def send(self, store_id: StoreId, envelopes: list[RaftEnvelope]) -> None:
        """Hand over a turn's messages. Never blocks."""
        if self._scope.stopping:
            return
        link = self._links.get(store_id)
        if link is None:
            link = self._links[store_id] = _Link(store_id, self._scheduler, self._scope)
        for frame in frames_of(envelopes):
            link.send(frame)

    def send_snapshot(
        self, envelope: RaftEnvelope, manifest: SnapshotManifest, directory: Path, on_done: Callable[[bool], None]
    ) -> None:
        """Stream a snapshot in a task of its own."""
        if self._scope.stopping:
            on_done(False)
            return
        self._snapshots += 1
        name = f"snapshot-{self._snapshots}-to-store-{envelope.receiver.store_id}"
        self._scope.start(name, self._send_snapshot, envelope, manifest, directory, on_done)

    async def _send_snapshot(
        self, envelope: RaftEnvelope, manifest: SnapshotManifest, directory: Path, on_done: Callable[[bool], None]
    ) -> None:
        arrived = False
        try:
            async with asyncio.timeout(SNAPSHOT_TIMEOUT_S):
                await self._stream_snapshot(envelope, manifest, directory)
            arrived = True
        except (RpcError, ClientError, OSError, TimeoutError) as error:
            _log.warning("region %d: snapshot not delivered: %s", envelope.region_id, error)
        finally:
            on_done(arrived)

    async def _stream_snapshot(self, envelope: RaftEnvelope, manifest: SnapshotManifest, directory: Path) -> None:
        store = await self._scheduler.get_store(envelope.receiver.store_id)
        channel = RpcChannel(self._scope, store.address)
        try:
            stream = channel.stream_unary(_SNAPSHOT, serialize=_same, deserialize=_same, buffer=CHUNKS_BUFFERED_MAX)
            greeting = _Greeting(self._scheduler.cluster_id, envelope.receiver.store_id)
            await stream.send(greeting.encode(), timeout_s=CHUNK_TIMEOUT_S)
            await stream.send(encode(SnapshotHeader(envelope, manifest)), timeout_s=CHUNK_TIMEOUT_S)
            for chunk in snapshot_chunks(manifest, directory):
                await stream.send(chunk, timeout_s=CHUNK_TIMEOUT_S)
                await asyncio.sleep(0)
            stream.finish_sending()
            await stream.receive()
        finally:
            await channel.close()


class _Link:
    """The connection to one other store, made anew whenever there is something to send."""

    def __init__(self, store_id: StoreId, scheduler: StoreFinder, scope: Scope) -> None:
        self._store_id = store_id
        self._scheduler = scheduler
        self._scope = scope
        self._queue: deque[bytes] = deque(maxlen=FRAMES_QUEUED_MAX)
        """Frames for the time when there is a connection; the oldest are dropped, since Raft repeats the newest."""
        self._wake = asyncio.Event()
        """Set when there is something to send without a connection, and when the connection has closed."""
        self._connection: FrameConnection | None = None
        """The connection in use; None while there is none that was greeted."""
        self._failure = ""
        """Why the last try failed, so that it is told once and not every second; empty from the next connection on."""
        scope.start(f"link-to-store-{store_id}", self._run)

    def send(self, frame: bytes) -> None:
        if self._connection is not None:
            self._connection.send_nowait(frame)
        else:
            self._queue.append(frame)
            self._wake.set()

    async def _run(self) -> None:
        pause_s = RETRY_MIN_S
        while True:
            await self._wake.wait()
            started = asyncio.get_running_loop().time()
            try:
                await self._keep_up()
            except (AddressError, ClientError) as error:
                level = logging.DEBUG if str(error) == self._failure else logging.INFO
                _log.log(level, "store %d can't be reached: %s", self._store_id, error)
                self._failure = str(error)
            self._queue.clear()
            self._wake.clear()  # the next message asks for the next try
            if asyncio.get_running_loop().time() - started > RETRY_MAX_S:
                pause_s = RETRY_MIN_S
            await asyncio.sleep(pause_s)
            pause_s = min(pause_s * 2, RETRY_MAX_S)

    async def _keep_up(self) -> None:
        """Connect and send until the connection breaks. Raises AddressError, ClientError."""
        store = await self._scheduler.get_store(self._store_id, RETRY_MAX_S)
        connection = await connect_frames(
            store.peer_address or store.address, _no_frames, lambda _closed: self._wake.set(), timeout_s=RETRY_MAX_S
        )
        if self._failure:
            _log.info("store %d is reached again", self._store_id)
            self._failure = ""
        try:
            connection.send_nowait(_Greeting(self._scheduler.cluster_id, self._store_id).encode())
            while self._queue:
                connection.send_nowait(self._queue.popleft())
            self._connection = connection
            while not connection.closed:
                self._wake.clear()
                await self._wake.wait()
        finally:
            self._connection = None
            connection.close()


def frames_of(envelopes: list[RaftEnvelope], bytes_max: int = FRAME_BYTES_TARGET) -> Iterator[bytes]:
    """Yield the messages encoded, in order, in frames of at most `bytes_max` as far as messages can be told apart."""
    frame = encode(envelopes)
    if len(frame) <= bytes_max or len(envelopes) == 1:
        yield frame
        return
    middle = len(envelopes) // 2
    yield from frames_of(envelopes[:middle], bytes_max)
    yield from frames_of(envelopes[middle:], bytes_max)


def _no_frames(connection: FrameConnection, _frame: bytes) -> None:
    raise FormatError(f"{connection.peer} answers on a connection that is for sending only")


def serve_raft_messages(scope: Scope, program: StoreProgram) -> FrameListener:
    """Return a listener, not started yet, that takes other stores' messages for this store."""
    greeted: set[FrameConnection] = set()

    def on_frame(connection: FrameConnection, frame: bytes) -> None:
        if connection in greeted:
            program.store.receive(frame)
            return
        problem = _wrong_greeting(program, frame)
        if problem:
            _log.warning("connection of %s refused: %s", connection.peer, problem)
            connection.close()
        else:
            greeted.add(connection)

    return FrameListener(scope, "peer-port", on_frame, greeted.discard, first_frame_bytes_max=GREETING_BYTES)


def _wrong_greeting(program: StoreProgram, frame: bytes) -> str:
    """Say what is wrong with a stream's first frame; nothing if it is meant for this store."""
    if not program.is_running:
        return "the store is starting"
    greeting = _Greeting.decode(frame)
    store_id = program.store.store_id
    if greeting is None:
        return "it does not begin with a greeting"
    if greeting != _Greeting(program.cluster_id, store_id):
        return (
            f"this is store {store_id} of cluster {program.cluster_id}, "
            f"not store {greeting.to_store} of cluster {greeting.cluster_id}"
        )
    return ""


def serve_snapshots(server: RpcServer, program: StoreProgram) -> None:
    """Let `server` take other stores' snapshots for this store."""

    async def take_snapshot(requests: AsyncIterator[bytes], _context: CallContext) -> bytes:
        requests = aiter(requests)
        problem = _wrong_greeting(program, await anext(requests, b""))
        if problem:
            raise RpcError(StatusCode.FAILED_PRECONDITION, problem)
        try:
            header = decode_snapshot_header(await anext(requests))
            receiver = program.store.receive_snapshot(header)
        except (SnapshotRefusedError, OSError) as error:
            raise RpcError(StatusCode.RESOURCE_EXHAUSTED, str(error)) from error
        except (FormatError, StopAsyncIteration) as error:
            raise RpcError(StatusCode.INVALID_ARGUMENT, f"no snapshot header: {error}") from error
        try:
            async for chunk in requests:
                await _end_of(partial(receiver.write, chunk))
            await _end_of(receiver.finish)
        except FormatError as error:
            raise RpcError(StatusCode.DATA_LOSS, str(error)) from error
        except SnapshotRefusedError as error:
            raise RpcError(StatusCode.FAILED_PRECONDITION, str(error)) from error
        except OSError as error:
            raise RpcError(StatusCode.RESOURCE_EXHAUSTED, f"can't keep the snapshot: {error}") from error
        finally:
            receiver.abort()  # if it has not ended: the sender is gone, or this server stops
        return b""

    server.add_service(SERVICE, [Method("Snapshot", MethodKind.STREAM_UNARY, _same, _same, take_snapshot)])


async def _end_of(begin: Callable[[Callable[[BaseException | None], None]], None]) -> None:
    """Begin something that tells of its end by a callback, and wait for that. Raises what it tells."""
    ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def on_end(error: BaseException | None) -> None:
        if ended.done():
            return
        if error is None:
            ended.set_result(None)
        else:
            ended.set_exception(error)

    begin(on_end)
    await ended
