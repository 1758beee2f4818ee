"""A cluster in memory for the client to talk to: real protocol, no Raft, faults on request.

    cluster = FakeCluster(stores=3, splits=[b"g", b"p"])
    connector = cluster.connector(scope)

Stores check epoch and leadership as real ones do. Tests move leaders, split regions, script answers, hold or lose them.

The simulator's cluster does not serve here: its regions don't split, its scheduler is one, an answer of a certain kind comes
only if the cluster happens to be in that state, and each cluster takes an election, where most of these tests take 5 ms.
"""

from __future__ import annotations

import asyncio
import itertools
from collections import deque
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from google.protobuf.message import Message

from pytinykv.client import ClientConfig
from pytinykv.lifecycle import Scope
from pytinykv.wire import MethodSpec, RpcError, Service, StatusCode, encoded, service_methods
from pytinykv.wire import errors as wire_errors
from pytinykv.wire.checksum import checksum_pairs
from pytinykv.wire.pb import errorpb_pb2, kvrpcpb_pb2, metapb_pb2, pdpb_pb2, tikvpb_pb2

CLUSTER_ID = 77
QUICK = ClientConfig(
    timeout_s=5.0,
    read_attempt_timeout_s=0.1,
    connect_timeout_s=0.2,
    stall_timeout_s=0.06,
    backoff_min_s=0.0005,
    backoff_max_s=0.004,
)
"""Settings for tests that wait for something to run out."""
STORE_METHODS = [
    "BatchCommands",
    "RawBatchDelete",
    "RawBatchGet",
    "RawBatchPut",
    "RawChecksum",
    "RawCompareAndSwap",
    "RawDelete",
    "RawDeleteRange",
    "RawGet",
    "RawGetKeyTTL",
    "RawPut",
    "RawScan",
]


@dataclass
class FakeRegion:
    id: int
    start: bytes
    end: bytes
    peers: dict[int, int]
    leader: int
    """Store of the leader; 0 for none."""
    version: int = 1
    conf_ver: int = 1

    def meta(self) -> metapb_pb2.Region:
        return metapb_pb2.Region(
            id=self.id,
            start_key=self.start,
            end_key=self.end,
            region_epoch=metapb_pb2.RegionEpoch(conf_ver=self.conf_ver, version=self.version),
            peers=[metapb_pb2.Peer(id=peer, store_id=store) for store, peer in sorted(self.peers.items())],
        )

    def leader_peer(self) -> metapb_pb2.Peer | None:
        if not self.leader:
            return None
        return metapb_pb2.Peer(id=self.peers[self.leader], store_id=self.leader)

    def contains(self, key: bytes) -> bool:
        return self.start <= key and (not self.end or key < self.end)


class FakeCluster:
    def __init__(self, *, stores: int = 3, splits: list[bytes] | None = None, schedulers: int = 1) -> None:
        self.data: dict[str, dict[bytes, bytes]] = {"": {}, "lock": {}, "write": {}}
        self.ttls: dict[bytes, int] = {}
        self.next_id = 100
        self.stores = {number: FakeStore(self, number) for number in range(1, stores + 1)}
        self.addresses = {number: f"store-{number}:20160" for number in self.stores}
        self.schedulers = [FakeScheduler(self, f"pd-{number}:2379") for number in range(1, schedulers + 1)]
        self.scheduler_leader = self.schedulers[0].address
        self.down: set[str] = set()
        """Addresses that refuse connections."""
        self.last_timestamp = 1_000_000 << 18
        self.hosted: dict[str, Service] = {}
        """Real services that take the place of the fake ones."""
        self.regions: list[FakeRegion] = []
        self.scheduler_sees: list[FakeRegion] | None = None
        """What the scheduler believes, if it is not the truth."""
        bounds = [b"", *(splits or []), b""]
        for index, (start, end) in enumerate(itertools.pairwise(bounds)):
            self.regions.append(
                FakeRegion(
                    id=self.new_id(),
                    start=start,
                    end=end,
                    peers={store: self.new_id() for store in self.stores},
                    leader=1 + index % stores,
                )
            )

    @property
    def scheduler_address(self) -> str:
        return self.schedulers[0].address

    def new_id(self) -> int:
        self.next_id += 1
        return self.next_id

    def region_of(self, key: bytes) -> FakeRegion:
        return next(region for region in self.regions if region.contains(key))

    def split(self, key: bytes) -> None:
        """Split the region of `key` there; the right part is new."""
        left = self.region_of(key)
        left.version += 1
        right = FakeRegion(
            id=self.new_id(),
            start=key,
            end=left.end,
            peers={store: self.new_id() for store in left.peers},
            leader=left.leader,
            version=left.version,
            conf_ver=left.conf_ver,
        )
        left.end = key
        self.regions.insert(self.regions.index(left) + 1, right)

    def merge(self, key: bytes) -> None:
        """Merge the region of `key` with its right neighbour."""
        left = self.region_of(key)
        right = self.regions.pop(self.regions.index(left) + 1)
        left.version = max(left.version, right.version) + 1
        left.end = right.end

    def connector(self, scope: Scope) -> FakeConnector:
        return FakeConnector(self, scope)

    def service_at(self, address: str) -> Service:
        if address in self.hosted and address not in self.down:
            return self.hosted[address]
        if address not in self.down:
            for number, store_address in self.addresses.items():
                if store_address == address:
                    return self.stores[number]
            for scheduler in self.schedulers:
                if scheduler.address == address:
                    return scheduler
        raise RpcError(StatusCode.UNAVAILABLE, f"connection to {address} refused")

    def commands(self) -> list[str]:
        """All commands that reached a store, in the order of stores."""
        return [name for store in self.stores.values() for name in store.seen]


Script = Callable[[str, Any], "Message | errorpb_pb2.Error | RpcError | None"]


@dataclass
class FakeStore:
    cluster: FakeCluster
    number: int
    script: deque[Any] = field(default_factory=deque)
    """What to answer to the next commands instead of serving them: a region error, "lose", or None to serve normally."""
    seen: list[str] = field(default_factory=list)
    frames: list[int] = field(default_factory=list)
    """Commands per frame, probes apart."""
    open: asyncio.Event = field(default_factory=asyncio.Event)
    silent: bool = False
    """Takes everything, answers nothing."""
    pairs: list[int] = field(default_factory=list)
    """Pairs in each answer to a scan or a batch of reads."""
    refused: int = 0
    """Answers refused as too large."""
    answer_bytes_max: int | None = None
    """Larger answers are refused as too much, in turn as our stores do and as a busy store does."""

    def __post_init__(self) -> None:
        self.open.set()

    methods: Mapping[str, MethodSpec] = field(
        default_factory=lambda: service_methods("tikvpb.Tikv", only=STORE_METHODS)
    )

    async def unary(self, path: str, request: Message) -> Message:
        await self.open.wait()
        name = path.rpartition("/")[2]
        answer = self._answer(name, request)
        if answer is None:
            raise RpcError(StatusCode.UNAVAILABLE, "connection reset")
        return answer

    async def stream(self, path: str, requests: AsyncIterator[Any]) -> AsyncIterator[Any]:
        assert path == "/tikvpb.Tikv/BatchCommands"
        async for each in requests:
            if self.silent:
                continue
            frame = tikvpb_pb2.BatchCommandsRequest.FromString(each.SerializeToString())
            reply = tikvpb_pb2.BatchCommandsResponse()
            commands = 0
            for request_id, request in zip(frame.request_ids, frame.requests, strict=True):
                name = request.WhichOneof("cmd")
                if name == "Empty":
                    reply.request_ids.append(request_id)
                    reply.responses.add().Empty.test_id = request.Empty.test_id
                    continue
                commands += 1
                await self.open.wait()
                answer = self._answer(name, getattr(request, name))
                if answer is not None:
                    reply.request_ids.append(request_id)
                    target = getattr(reply.responses.add(), name)
                    target.SetInParent()
                    target.MergeFrom(answer)
            if commands:
                self.frames.append(commands)
            if reply.responses:
                yield reply

    def _answer(self, name: str, request: Any) -> Any:
        """Return the response; None loses it."""
        self.seen.append(name)
        response = self.methods[f"/tikvpb.Tikv/{name}"].response_type()
        scripted = self.script.popleft() if self.script else None
        if isinstance(scripted, RpcError):
            raise scripted
        if scripted == "lose":
            return None
        if scripted == "execute and lose":
            self._serve(name, request, response)
            return None
        if scripted is not None:
            response.region_error.CopyFrom(scripted if isinstance(scripted, errorpb_pb2.Error) else scripted.to_pb())
            return response
        try:
            self._check(request.context)
            self._serve(name, request, response)
            if name in {"RawScan", "RawBatchGet"}:
                self._count_pairs(response)
        except wire_errors.RegionError as error:
            response.region_error.CopyFrom(error.to_pb())
        return response

    def _count_pairs(self, response: Any) -> None:
        if self.answer_bytes_max is not None and response.ByteSize() > self.answer_bytes_max:
            response.Clear()
            self.refused += 1
            if self.refused % 2:
                raise wire_errors.ServerIsBusy(reason="too much at once", backoff_ms=1)
            pairs = response.kvs if hasattr(response, "kvs") else response.pairs
            pairs.add().error.retryable = "too large for one answer"
            return
        self.pairs.append(len(response.kvs if hasattr(response, "kvs") else response.pairs))

    def _check(self, context: kvrpcpb_pb2.Context) -> None:
        if context.peer.store_id != self.number:
            raise wire_errors.StoreNotMatch(request_store_id=context.peer.store_id, actual_store_id=self.number)
        region = self._region(context)
        if region is None or self.number not in region.peers:
            raise wire_errors.RegionNotFound(region_id=context.region_id)
        if region.leader != self.number:
            raise wire_errors.NotLeader(region_id=region.id, leader=region.leader_peer())
        if context.region_epoch.version != region.version:
            raise wire_errors.EpochNotMatch(current_regions=[each.meta() for each in self.cluster.regions])

    def _region(self, context: kvrpcpb_pb2.Context) -> FakeRegion | None:
        return next((region for region in self.cluster.regions if region.id == context.region_id), None)

    def _serve(self, name: str, request: Any, response: Any) -> None:
        region = self._region(request.context)
        assert region is not None
        cf = getattr(request, "cf", "")
        data = self.cluster.data["" if cf == "default" else cf]
        getattr(self, f"_{name}")(request, response, data, region)

    @staticmethod
    def _inside(region: FakeRegion, key: bytes) -> None:
        if not region.contains(key):
            raise wire_errors.KeyNotInRegion(key=key, region_id=region.id, start_key=region.start, end_key=region.end)

    def _RawGet(self, request: Any, response: Any, data: dict[bytes, bytes], region: FakeRegion) -> None:  # noqa: N802
        self._inside(region, request.key)
        value = data.get(request.key)
        response.not_found = value is None
        response.value = value or b""

    def _RawPut(self, request: Any, response: Any, data: dict[bytes, bytes], region: FakeRegion) -> None:  # noqa: N802
        self._inside(region, request.key)
        data[request.key] = request.value
        self.cluster.ttls[request.key] = request.ttl

    def _RawDelete(self, request: Any, response: Any, data: dict[bytes, bytes], region: FakeRegion) -> None:  # noqa: N802
        self._inside(region, request.key)
        data.pop(request.key, None)

    def _RawBatchGet(self, request: Any, response: Any, data: dict[bytes, bytes], region: FakeRegion) -> None:  # noqa: N802
        for key in request.keys:
            self._inside(region, key)
            if key in data:
                response.pairs.add(key=key, value=data[key])

    def _RawBatchPut(self, request: Any, response: Any, data: dict[bytes, bytes], region: FakeRegion) -> None:  # noqa: N802
        for pair in request.pairs:
            self._inside(region, pair.key)
        for pair in request.pairs:
            data[pair.key] = pair.value
            self.cluster.ttls[pair.key] = request.ttls[0] if request.ttls else 0

    def _RawBatchDelete(self, request: Any, response: Any, data: dict[bytes, bytes], region: FakeRegion) -> None:  # noqa: N802
        for key in request.keys:
            self._inside(region, key)
        for key in request.keys:
            data.pop(key, None)

    def _RawScan(self, request: Any, response: Any, data: dict[bytes, bytes], region: FakeRegion) -> None:  # noqa: N802
        if request.reverse:
            start, end = request.end_key, request.start_key
        else:
            start, end = request.start_key, request.end_key
        keys = sorted(k for k in data if region.contains(k) and start <= k and (not end or k < end))
        for key in (keys[::-1] if request.reverse else keys)[: request.limit]:
            response.kvs.add(key=key, value=b"" if request.key_only else data[key])

    def _RawDeleteRange(self, request: Any, response: Any, data: dict[bytes, bytes], region: FakeRegion) -> None:  # noqa: N802
        for key in [k for k in data if request.start_key <= k and (not request.end_key or k < request.end_key)]:
            self._inside(region, key)
            del data[key]

    def _RawGetKeyTTL(self, request: Any, response: Any, data: dict[bytes, bytes], region: FakeRegion) -> None:  # noqa: N802
        self._inside(region, request.key)
        response.not_found = request.key not in data
        response.ttl = self.cluster.ttls.get(request.key, 0)

    def _RawCompareAndSwap(self, request: Any, response: Any, data: dict[bytes, bytes], region: FakeRegion) -> None:  # noqa: N802
        self._inside(region, request.key)
        before = data.get(request.key)
        expected = None if request.previous_not_exist else request.previous_value
        response.succeed = before == expected
        response.previous_not_exist = before is None
        response.previous_value = before or b""
        if response.succeed:
            data[request.key] = request.value

    def _RawChecksum(self, request: Any, response: Any, data: dict[bytes, bytes], region: FakeRegion) -> None:  # noqa: N802
        (part,) = request.ranges
        pairs = [(k, v) for k, v in data.items() if part.start_key <= k and (not part.end_key or k < part.end_key)]
        for key, _ in pairs:
            self._inside(region, key)
        total = checksum_pairs(pairs)
        response.checksum, response.total_kvs, response.total_bytes = total.checksum, total.total_kvs, total.total_bytes


@dataclass
class FakeScheduler:
    cluster: FakeCluster
    address: str
    methods: Mapping[str, MethodSpec] = field(default_factory=lambda: service_methods("pdpb.PD"))
    seen: list[str] = field(default_factory=list)
    script: deque[Any] = field(default_factory=deque)
    cluster_id: int = CLUSTER_ID
    tso_counts: list[int] = field(default_factory=list)
    heartbeats: list[pdpb_pb2.RegionHeartbeatRequest] = field(default_factory=list)
    bootstrapped: bool = True
    put_stores: list[metapb_pb2.Store] = field(default_factory=list)
    safe_point: int = 0

    def _header(self) -> pdpb_pb2.ResponseHeader:
        return pdpb_pb2.ResponseHeader(cluster_id=self.cluster_id)

    async def unary(self, path: str, request: Any) -> Message:
        name = path.rpartition("/")[2]
        self.seen.append(name)
        response: Any = self.methods[path].response_type(header=self._header())
        if name != "GetMembers":
            self._refuse_unless_leader()
            scripted = self.script.popleft() if self.script else None
            if isinstance(scripted, RpcError):
                raise scripted
            if scripted is not None:
                response.header.error.CopyFrom(scripted)
                return response
        getattr(self, f"_{name}")(request, response)
        return response

    def _refuse_unless_leader(self) -> None:
        if self.cluster.scheduler_leader != self.address:
            raise RpcError(StatusCode.UNAVAILABLE, f"{self.address} is not leader")

    async def stream(self, path: str, requests: AsyncIterator[Any]) -> AsyncIterator[Any]:
        async for request in requests:
            self._refuse_unless_leader()
            if path == "/pdpb.PD/Tso":
                self.tso_counts.append(request.count)
                self.cluster.last_timestamp += request.count
                last = self.cluster.last_timestamp
                yield pdpb_pb2.TsoResponse(
                    header=self._header(),
                    count=request.count,
                    timestamp=pdpb_pb2.Timestamp(physical=last >> 18, logical=last & ((1 << 18) - 1)),
                )
            else:
                self.heartbeats.append(request)
                yield pdpb_pb2.RegionHeartbeatResponse(header=self._header(), region_id=request.region.id)

    def _GetMembers(self, request: Any, response: Any) -> None:  # noqa: N802
        for scheduler in self.cluster.schedulers:
            member = pdpb_pb2.Member(name=scheduler.address, client_urls=[f"http://{scheduler.address}"])
            response.members.append(member)
            if scheduler.address == self.cluster.scheduler_leader:
                response.leader.CopyFrom(member)
        if not response.HasField("leader"):
            raise RpcError(StatusCode.UNAVAILABLE, "no leader")

    def _regions(self) -> list[FakeRegion]:
        return self.cluster.regions if self.cluster.scheduler_sees is None else self.cluster.scheduler_sees

    def _fill(self, response: Any, region: FakeRegion | None) -> None:
        if region is not None:
            response.region.CopyFrom(region.meta())
            if (leader := region.leader_peer()) is not None:
                response.leader.CopyFrom(leader)

    def _GetRegion(self, request: Any, response: Any) -> None:  # noqa: N802
        self._fill(response, next((r for r in self._regions() if r.contains(request.region_key)), None))

    def _GetPrevRegion(self, request: Any, response: Any) -> None:  # noqa: N802
        region = next(r for r in self._regions() if r.contains(request.region_key))
        self._fill(response, next((r for r in self._regions() if r.end and r.end == region.start), None))

    def _GetRegionByID(self, request: Any, response: Any) -> None:  # noqa: N802
        self._fill(response, next((r for r in self._regions() if r.id == request.region_id), None))

    def _ScanRegions(self, request: Any, response: Any) -> None:  # noqa: N802
        for region in self._regions():
            if region.end and region.end <= request.start_key:
                continue
            if request.end_key and region.start >= request.end_key:
                break
            if request.limit and len(response.regions) >= request.limit:
                break
            self._fill(response.regions.add(), region)

    def _store(self, number: int) -> metapb_pb2.Store:
        return metapb_pb2.Store(id=number, address=self.cluster.addresses[number])

    def _GetStore(self, request: Any, response: Any) -> None:  # noqa: N802
        if request.store_id in self.cluster.addresses:
            response.store.CopyFrom(self._store(request.store_id))
        else:
            response.header.error.type = pdpb_pb2.UNKNOWN
            response.header.error.message = f"invalid store ID {request.store_id}, not found"

    def _GetAllStores(self, request: Any, response: Any) -> None:  # noqa: N802
        response.stores.extend(self._store(number) for number in self.cluster.addresses)

    def _AllocID(self, request: Any, response: Any) -> None:  # noqa: N802
        response.id = self.cluster.new_id()

    def _IsBootstrapped(self, request: Any, response: Any) -> None:  # noqa: N802
        response.bootstrapped = self.bootstrapped

    def _Bootstrap(self, request: Any, response: Any) -> None:  # noqa: N802
        if self.bootstrapped:
            response.header.error.type = pdpb_pb2.ALREADY_BOOTSTRAPPED
        self.bootstrapped = True

    def _PutStore(self, request: Any, response: Any) -> None:  # noqa: N802
        self.put_stores.append(request.store)

    def _StoreHeartbeat(self, request: Any, response: Any) -> None:  # noqa: N802
        """Nothing to answer."""

    def _AskBatchSplit(self, request: Any, response: Any) -> None:  # noqa: N802
        for _ in range(request.split_count):
            response.ids.add(
                new_region_id=self.cluster.new_id(), new_peer_ids=[self.cluster.new_id() for _ in request.region.peers]
            )

    def _ReportBatchSplit(self, request: Any, response: Any) -> None:  # noqa: N802
        """Nothing to answer."""

    def _GetGCSafePoint(self, request: Any, response: Any) -> None:  # noqa: N802
        response.safe_point = self.safe_point

    def _UpdateGCSafePoint(self, request: Any, response: Any) -> None:  # noqa: N802
        self.safe_point = response.new_safe_point = max(self.safe_point, request.safe_point)


class FakeConnector:
    """Reaches the cluster's services by address, without a transport."""

    def __init__(self, cluster: FakeCluster, scope: Scope) -> None:
        self.cluster = cluster
        self.scope = scope
        self.streams: list[FakeStream] = []
        self.closed = False
        self.closing: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    async def unary(self, address: str, path: str, request: Message, *, timeout_s: float) -> Message:
        if self.closed:
            raise RpcError(StatusCode.CANCELLED, "closed")
        service = self.cluster.service_at(address)
        call = self.scope.start("call", service.unary, path, type(request).FromString(request.SerializeToString()))
        await asyncio.wait((call.task, self.closing), timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
        if call.done:
            return call.task.result()
        call.cancel()
        if self.closed:
            raise RpcError(StatusCode.CANCELLED, "closed")
        raise RpcError(StatusCode.DEADLINE_EXCEEDED, f"{path} took longer than {timeout_s} s")

    def stream(self, address: str, path: str) -> FakeStream:
        stream = FakeStream(self, address, path)
        self.streams.append(stream)
        return stream

    def break_streams(self, address: str) -> None:
        """Cut every open stream to an address."""
        for stream in self.streams:
            if stream.address == address:
                stream.fail(RpcError(StatusCode.UNAVAILABLE, "connection reset"))

    async def close(self) -> None:
        self.closed = True
        if not self.closing.done():
            self.closing.set_result(None)
        for stream in self.streams:
            stream.close()


class FakeStream:
    def __init__(self, connector: FakeConnector, address: str, path: str) -> None:
        self.address = address
        self._requests: asyncio.Queue[Any] = asyncio.Queue()
        self._responses: asyncio.Queue[Any] = asyncio.Queue()
        self.error: RpcError | None = None
        self.sent = 0
        """How many frames it has taken."""
        self.full = False
        self.slow = False
        self.when_drained: Callable[[], object] | None = None
        self._task = connector.scope.start(f"stream:{address}", self._serve, connector, path)

    async def _serve(self, connector: FakeConnector, path: str) -> None:
        try:
            service = connector.cluster.service_at(self.address)
            async for response in service.stream(path, self._incoming(service.methods[path].request_type)):
                self._responses.put_nowait(type(response).FromString(response.SerializeToString()))
        except RpcError as error:
            self.fail(error)

    async def _incoming(self, request_type: Any) -> AsyncIterator[Any]:
        while True:
            yield request_type.FromString(encoded(await self._requests.get()))

    def send_nowait(self, message: Message | bytes) -> None:
        if self.error is not None:
            raise self.error
        if self.full:
            raise RpcError(StatusCode.RESOURCE_EXHAUSTED, "buffer full")
        self.sent += 1
        self._requests.put_nowait(message)

    def is_drained(self, otherwise: Callable[[], object]) -> bool:
        if self.slow:
            self.when_drained = otherwise
        return not self.slow

    async def receive(self) -> Any:
        if self.error is not None:
            raise self.error
        message = await self._responses.get()
        if isinstance(message, RpcError):
            raise message
        return message

    def fail(self, error: RpcError) -> None:
        if self.error is None:
            self.error = error
            self._responses.put_nowait(error)
            self._task.cancel()

    def close(self) -> None:
        self.fail(RpcError(StatusCode.CANCELLED, "closed"))
