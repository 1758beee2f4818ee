"""Messages and snapshots between stores, over real sockets; greetings keep out what went astray."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from pytinykv.client.errors import StoreNotFoundError
from pytinykv.lifecycle import Scope
from pytinykv.model import FormatError, Peer, Region, RegionEpoch, RegionId, StoreId, encode
from pytinykv.raft import Heartbeat, InstallSnapshot, LogIndex, PeerId, SnapshotMeta, Term
from pytinykv.raftstore import RaftEnvelope, SnapshotHeader, SnapshotManifest, SnapshotRefusedError
from pytinykv.raftstore.membership import conf_state
from pytinykv.raftstore.records import decode_envelopes
from pytinykv.raftstore.snapshot_files import make_snapshot
from pytinykv.server.host import raft_transport
from pytinykv.server.host.raft_transport import StoreTransport, serve_raft_messages, serve_snapshots
from pytinykv.storage import ColumnFamily, MemoryEngine
from pytinykv.transport.frames import FrameConnection, connect_frames
from pytinykv.transport.rpc import RpcServer
from pytinykv.wire.pb import metapb_pb2

CLUSTER_ID = 7
HERE, THERE = Peer(PeerId(101), StoreId(1)), Peer(PeerId(102), StoreId(2))
REGION = Region(RegionId(1), b"", b"", RegionEpoch(1, 1), (HERE, THERE))


def heartbeat(number: int) -> RaftEnvelope:
    return RaftEnvelope(
        REGION.id, HERE, THERE, REGION.epoch, Heartbeat(THERE.id, HERE.id, Term(6), LogIndex(0), number, 0.0)
    )


@dataclass
class Address:
    """A scheduler that knows one store, or none."""

    cluster_id: int = CLUSTER_ID
    store: metapb_pb2.Store | None = None
    asked: int = 0

    async def get_store(self, store_id: int, _timeout_s: float | None = None) -> metapb_pb2.Store:
        self.asked += 1
        if self.store is None:
            raise StoreNotFoundError(f"no store {store_id}")
        return self.store


class Sink:
    """Takes a snapshot, or finds it damaged, or not wanted at its end; keeps the contract of `SnapshotReceiver`."""

    def __init__(self, node: Receiver) -> None:
        self._node = node
        self._is_open = True
        self.data = b""

    def write(self, chunk: bytes, on_end: Callable[[BaseException | None], None]) -> None:
        self.data += chunk
        if self._node.finds_damage:
            self.abort()
            on_end(FormatError("checksum does not match"))
        else:
            on_end(None)

    def finish(self, on_end: Callable[[BaseException | None], None]) -> None:
        self._is_open = False
        if self._node.wants_none:
            on_end(SnapshotRefusedError("Raft does not want it"))
        else:
            self._node.snapshots.append(self.data)
            on_end(None)

    def abort(self) -> None:
        if self._is_open:
            self._is_open = False
            self._node.aborted += 1


@dataclass
class Receiver:
    """What the serving side needs of a `StoreProgram` and its `Store`."""

    store_id: int = 2
    cluster_id: int = CLUSTER_ID
    is_running: bool = True
    is_busy: bool = False
    finds_damage: bool = False
    wants_none: bool = False
    received: list[RaftEnvelope] = field(default_factory=list)
    headers: list[SnapshotHeader] = field(default_factory=list)
    snapshots: list[bytes] = field(default_factory=list)
    aborted: int = 0
    changed: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def store(self) -> Receiver:
        return self

    def receive(self, frame: bytes) -> None:
        self.received.extend(decode_envelopes(frame))
        self.changed.set()

    def receive_snapshot(self, header: SnapshotHeader) -> Sink:
        if self.is_busy:
            raise SnapshotRefusedError("already receiving 2 snapshots")
        self.headers.append(header)
        return Sink(self)

    async def until(self, condition: Callable[[], bool]) -> None:
        while not condition():
            self.changed.clear()
            await self.changed.wait()


async def serve(scope: Scope, node: Any) -> str:
    listener = serve_raft_messages(scope, node)
    return f"127.0.0.1:{await listener.start('127.0.0.1:0')}"


def transport(scope: Scope, address: Address) -> StoreTransport:
    return StoreTransport(address, scope)  # type: ignore[arg-type]  # all it asks a scheduler


# --- messages


async def test_messages_arrive_in_order_also_those_sent_before_the_connection_is_there(scope: Scope) -> None:
    node = Receiver()
    sender = transport(
        scope, Address(store=metapb_pb2.Store(peer_address=await serve(scope, node), address="nowhere:1"))
    )
    for number in range(10):
        sender.send(StoreId(2), [heartbeat(2 * number), heartbeat(2 * number + 1)])
    await node.until(lambda: len(node.received) == 20)
    sender.send(StoreId(2), [heartbeat(20)])
    await node.until(lambda: len(node.received) == 21)
    assert node.received == [heartbeat(number) for number in range(21)]


async def test_a_sender_that_comes_before_its_receiver_gets_through_later(scope: Scope) -> None:
    node, address = Receiver(), Address()
    sender = transport(scope, address)
    sender.send(StoreId(2), [heartbeat(1)])
    while not address.asked:
        await asyncio.sleep(0)
    address.store = metapb_pb2.Store(peer_address=await serve(scope, node))
    while not node.received:
        sender.send(StoreId(2), [heartbeat(2)])
        await asyncio.sleep(0.01)


async def test_a_store_that_can_not_be_reached_is_told_once_and_when_it_is_again(
    scope: Scope, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(raft_transport, "RETRY_MIN_S", 0.0)
    caplog.set_level("INFO")
    node, address = Receiver(), Address()
    sender = transport(scope, address)
    while address.asked < 5:
        sender.send(StoreId(2), [heartbeat(1)])
        await asyncio.sleep(0)
    address.store = metapb_pb2.Store(peer_address=await serve(scope, node))
    while not node.received:
        sender.send(StoreId(2), [heartbeat(2)])
        await asyncio.sleep(0.01)
    told = [record.getMessage() for record in caplog.records if record.name.endswith("raft_transport")]
    assert [line.partition(":")[0] for line in told] == ["store 2 can't be reached", "store 2 is reached again"]


async def test_a_link_that_has_nothing_to_send_does_not_go_on_trying(
    scope: Scope, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(raft_transport, "RETRY_MIN_S", 0.0)
    monkeypatch.setattr(raft_transport, "RETRY_MAX_S", 0.0)
    address = Address()
    transport(scope, address).send(StoreId(2), [heartbeat(1)])
    for _ in range(200):
        await asyncio.sleep(0)
    assert address.asked == 1


async def test_a_scope_that_stops_takes_no_message(scope: Scope) -> None:
    inner = scope.child("inner")
    sender = transport(inner, Address())
    await inner.stop()
    sender.send(StoreId(2), [heartbeat(1)])
    told: list[bool] = []
    sender.send_snapshot(heartbeat(1), SnapshotManifest(REGION, meta(), ()), Path(), told.append)
    assert told == [False]


@pytest.mark.parametrize(
    ("greeting", "node"),
    [
        (b"", Receiver()),
        (b"GET / HTTP/1.1\r\n", Receiver()),
        ((8).to_bytes(8, "big") + (2).to_bytes(8, "big"), Receiver()),
        ((7).to_bytes(8, "big") + (3).to_bytes(8, "big"), Receiver()),
        ((7).to_bytes(8, "big") + (2).to_bytes(8, "big"), Receiver(is_running=False)),
    ],
    ids=["empty", "another protocol", "another cluster", "another store", "still starting"],
)
async def test_who_is_not_meant_is_cut_off_before_anything_is_read(
    scope: Scope, greeting: bytes, node: Receiver
) -> None:
    closed = asyncio.Event()
    connection = await raw_connection(await serve(scope, node), closed)
    connection.send_nowait(greeting)
    connection.send_nowait(encode([heartbeat(1)]))
    await closed.wait()
    assert node.received == []


async def test_an_unauthenticated_peer_that_announces_much_is_cut_off_before_it_sends_it(scope: Scope) -> None:
    host, _, port = (await serve(scope, Receiver())).rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write((100_000_000).to_bytes(4, "big"))
    assert await reader.read() == b""
    writer.close()
    await writer.wait_closed()


async def test_garbage_after_the_greeting_cuts_off(scope: Scope) -> None:
    node, closed = Receiver(), asyncio.Event()
    connection = await raw_connection(await serve(scope, node), closed)
    connection.send_nowait((7).to_bytes(8, "big") + (2).to_bytes(8, "big"))
    connection.send_nowait(encode([heartbeat(1)]))
    connection.send_nowait(b"\x01garbage")
    await closed.wait()
    assert node.received == [heartbeat(1)]


async def raw_connection(address: str, closed: asyncio.Event) -> FrameConnection:
    return await connect_frames(address, lambda _c, _f: None, lambda _c: closed.set(), timeout_s=5.0)


# --- snapshots


def meta() -> SnapshotMeta:
    return SnapshotMeta(LogIndex(9), Term(6), conf_state(REGION))


@dataclass
class Delivery:
    """Sends one snapshot and waits for what becomes of it."""

    scope: Scope
    path: Path
    node: Receiver

    async def send(self) -> bool:
        server = RpcServer(self.scope, "grpc")
        serve_snapshots(server, self.node)  # type: ignore[arg-type]  # all that it needs of a node
        port = await server.start("127.0.0.1:0")
        engine = MemoryEngine()
        batch = engine.write_batch()
        for number in range(3):
            batch.put(ColumnFamily.RAW, b"d%d" % number, bytes(300_000))
        engine.write(batch)
        with engine.snapshot() as reader:
            manifest = make_snapshot(engine, reader, REGION, meta(), self.path / "s")
        message = InstallSnapshot(THERE.id, HERE.id, Term(6), meta(), 0.0)
        envelope = RaftEnvelope(REGION.id, HERE, THERE, REGION.epoch, message)
        told: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        sender = transport(self.scope, Address(store=metapb_pb2.Store(address=f"127.0.0.1:{port}")))
        sender.send_snapshot(envelope, manifest, self.path / "s", told.set_result)
        return await told


async def test_a_snapshot_arrives_whole(scope: Scope, tmp_path: Path) -> None:
    node = Receiver()
    assert await Delivery(scope, tmp_path, node).send()
    (header,) = node.headers
    assert header.manifest.meta == meta()
    files = [(tmp_path / "s" / file.name).read_bytes() for file in header.manifest.files]
    assert node.snapshots == [b"".join(files)]
    assert node.aborted == 0


@pytest.mark.parametrize(
    ("node", "aborted"),
    [
        (Receiver(is_busy=True), 0),
        (Receiver(finds_damage=True), 1),
        (Receiver(wants_none=True), 0),
        (Receiver(cluster_id=8), 0),
        (Receiver(store_id=3), 0),
        (Receiver(is_running=False), 0),
    ],
    ids=["busy", "damaged", "not wanted at the end", "another cluster", "another store", "starting"],
)
async def test_a_snapshot_that_is_not_taken_is_told_to_its_sender(
    scope: Scope, tmp_path: Path, node: Receiver, aborted: int
) -> None:
    assert not await Delivery(scope, tmp_path, node).send()
    assert node.snapshots == []
    assert node.aborted == aborted


def test_a_turn_with_much_to_say_is_cut_into_frames() -> None:
    peer = Peer(PeerId(1), StoreId(1))
    message = Heartbeat(PeerId(2), PeerId(1), Term(1), LogIndex(0), 0, 0.0)
    envelopes = [
        RaftEnvelope(RegionId(n), peer, peer, RegionEpoch(), message, start_key=bytes(1000)) for n in range(100)
    ]
    frames = list(raft_transport.frames_of(envelopes, bytes_max=5_000))
    assert len(frames) > 20
    assert all(len(frame) <= 5_000 for frame in frames)
    assert [envelope for frame in frames for envelope in decode_envelopes(frame)] == envelopes
    assert len(list(raft_transport.frames_of(envelopes[:1], bytes_max=10))) == 1, "one message can't be cut"
