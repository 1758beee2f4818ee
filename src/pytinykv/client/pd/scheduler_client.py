"""The calling end of `pdpb.PD`: finds the scheduler's leader, follows it, asks it.

    endpoints given ──GetMembers──► members' urls, leader ──call──► answer
         ▲                               │
         └── leader lost, refused, or not leading: ask all endpoints again, with pauses, until the deadline

Used by clients (regions, stores, timestamps) and by stores (ids, heartbeats, splits). Every call here may be repeated:
lookups change nothing, ids and timestamps that get lost are only skipped, registrations say the same again. `bootstrap`
alone can succeed and be told so by `AlreadyBootstrappedError` when its first answer got lost; look who did it.

An answer of another cluster is refused for good (`ClusterMismatchError`): addresses recycle, data must not.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Iterable, Sequence
from random import Random
from typing import Any, TypeVar, cast

from google.protobuf.message import Message

from pytinykv.client.addresses import bare_address, parse_addresses
from pytinykv.client.backoff import Backoff
from pytinykv.client.config import ClientConfig
from pytinykv.client.errors import (
    AlreadyBootstrappedError,
    ClientClosedError,
    ClusterMismatchError,
    InvalidArgumentError,
    NotBootstrappedError,
    SchedulerError,
    SchedulerUnavailableError,
    StoreNotFoundError,
    StoreTombstoneError,
    refuse_forked_child,
)
from pytinykv.client.pd.heartbeat_stream import HeartbeatStream, OnConnected, OnResponse
from pytinykv.client.pd.timestamp_stream import TimestampStream
from pytinykv.client.region_cache import Region
from pytinykv.lifecycle import Scope
from pytinykv.wire import Connector, RpcError, StatusCode
from pytinykv.wire.pb import metapb_pb2, pdpb_pb2
from pytinykv.wire.timestamp import Timestamp

_log = logging.getLogger(__name__)

_PD = "/pdpb.PD/"
_ReplyT = TypeVar("_ReplyT", bound=Message)
_REFUSALS = frozenset(
    {
        StatusCode.NOT_FOUND,
        StatusCode.ALREADY_EXISTS,
        StatusCode.FAILED_PRECONDITION,
        StatusCode.OUT_OF_RANGE,
        StatusCode.ABORTED,
    }
)
"""Statuses by which a leading scheduler refuses what was asked; another endpoint would, too."""
_ERRORS: dict[int, type[SchedulerError]] = {
    pdpb_pb2.NOT_BOOTSTRAPPED: NotBootstrappedError,
    pdpb_pb2.ALREADY_BOOTSTRAPPED: AlreadyBootstrappedError,
    pdpb_pb2.STORE_TOMBSTONE: StoreTombstoneError,
}


class SchedulerClient:
    """One cluster's scheduler, by the addresses of its endpoints. All methods belong to the event loop's thread.

    `timeout_s` of each call bounds it with all its retries; None means the default of the settings. Every call raises
    `SchedulerUnavailableError` past that, `ClusterMismatchError`, and `SchedulerError` for what the scheduler refuses.
    """

    def __init__(
        self,
        addresses: str | Iterable[str],
        *,
        connector: Connector,
        rng: Random,
        scope: Scope,
        config: ClientConfig | None = None,
        caller_id: str = "pytinykv",
        cluster_id: int = 0,
    ) -> None:
        """Make a client within a running event loop; nothing is sent before the first call.

        `cluster_id`: the cluster these addresses must lead to; 0 takes the first that answers.
        """
        self._pid = os.getpid()
        self._given = parse_addresses(addresses)
        self._endpoints = list(self._given)
        self._connector = connector
        self._rng = rng
        self._scope = scope
        self._config = config or ClientConfig()
        self._caller_id = caller_id
        self._cluster_id = cluster_id
        self._leader: str | None = None
        self._trouble = "no endpoint has answered"
        """What went wrong last, for the message of who runs out of time."""
        self._discovery = asyncio.Lock()
        self._tso: TimestampStream | None = None
        self._closed = False
        self._closing: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        """Resolved by `close`; ends pauses."""

    def __repr__(self) -> str:
        return f"scheduler at {', '.join(self._given)}"

    @property
    def cluster_id(self) -> int:
        """The cluster's id; 0 before the first answer."""
        return self._cluster_id

    @property
    def leader_address(self) -> str | None:
        """The leader's address; None while unknown."""
        return self._leader

    @property
    def endpoints(self) -> tuple[str, ...]:
        """All known endpoints, the given ones first."""
        return tuple(self._endpoints)

    def header(self) -> pdpb_pb2.RequestHeader:
        """Return the header of a request."""
        return pdpb_pb2.RequestHeader(cluster_id=self._cluster_id, caller_id=self._caller_id)

    def close(self) -> None:
        """Refuse further calls. Streams end with the scope."""
        self._closed = True
        if not self._closing.done():
            self._closing.set_result(None)
        if self._tso is not None:
            self._tso.close()

    # --- finding the leader -------------------------------------------------------------------------------------

    async def connect(self, timeout_s: float | None = None) -> None:
        """Find the leader now, so that a wrong address shows at once."""
        deadline = self._deadline(timeout_s)
        await self.wait_leader(deadline, self._backoff(deadline))

    async def wait_leader(self, deadline: float, backoff: Backoff) -> str:
        """Return the leader's address, asking around until `deadline` (loop time) if need be."""
        while self._leader is None:
            self._refuse_closed()
            await self._discover(deadline)
            if self._leader is None:
                self._refuse_late(deadline)
                await backoff.pause()
        return self._leader

    def lose_leader(self, address: str) -> None:
        """Forget the leader if it is still this one: it did not answer, or does not lead any more."""
        if self._leader == address:
            _log.info("scheduler leader %s lost", address)
            self._leader = None

    async def _discover(self, deadline: float) -> None:
        """Ask every endpoint in turn who leads. One caller asks, the others wait for it."""
        try:
            async with asyncio.timeout_at(deadline), self._discovery:
                for endpoint in list(self._endpoints):
                    if self._leader is not None:
                        break
                    await self._ask_members(endpoint, deadline)
        except TimeoutError:
            _log.debug("no time left to look for the scheduler's leader")

    async def _ask_members(self, endpoint: str, deadline: float) -> None:
        try:
            reply = await self._connector.unary(
                endpoint, f"{_PD}GetMembers", pdpb_pb2.GetMembersRequest(), timeout_s=self._attempt_s(deadline)
            )
        except RpcError as error:
            self._trouble = f"{endpoint}: {error}"
            return
        assert isinstance(reply, pdpb_pb2.GetMembersResponse)
        self._check_cluster(endpoint, reply.header.cluster_id)
        urls = [bare_address(url) for url in reply.leader.client_urls]
        if not urls:
            self._trouble = f"{endpoint}: knows no leader"
            return
        for member in reply.members:
            self._endpoints += [a for url in member.client_urls if (a := bare_address(url)) not in self._endpoints]
        # A single member that answers is the leader at this address too, whatever it advertises (a forwarded port).
        self._leader = endpoint if endpoint in urls or len(reply.members) == 1 else urls[0]
        _log.info("scheduler leader is %s, cluster %d", self._leader, self._cluster_id)

    def _check_cluster(self, endpoint: str, cluster_id: int) -> None:
        if self._cluster_id == 0:
            self._cluster_id = cluster_id
        elif cluster_id != self._cluster_id:
            raise ClusterMismatchError(
                f"the scheduler at {endpoint} is of cluster {cluster_id}, not of cluster {self._cluster_id}; "
                f"check the addresses ({', '.join(self._given)})"
            )

    # --- asking it ----------------------------------------------------------------------------------------------

    async def call(
        self, method: str, request: Any, reply_type: type[_ReplyT], timeout_s: float | None = None
    ) -> _ReplyT:
        """Send `request` to the leader, retrying at whoever leads, and return the reply once it carries no error."""
        deadline = self._deadline(timeout_s)
        backoff = self._backoff(deadline)
        while True:
            leader = await self.wait_leader(deadline, backoff)
            request.header.CopyFrom(self.header())
            try:
                reply = await self._connector.unary(leader, _PD + method, request, timeout_s=self._attempt_s(deadline))
            except RpcError as error:
                self._on_rpc_error(method, leader, error)
                self._trouble = f"{leader}: {error}"
                self._refuse_late(deadline)
                await backoff.pause()
                continue
            self._check_cluster(leader, cast("Any", reply).header.cluster_id)
            self._raise_header_error(method, cast("Any", reply).header)
            return cast("_ReplyT", reply)

    def _on_rpc_error(self, method: str, leader: str, error: RpcError) -> None:
        self._refuse_closed()
        if error.code is StatusCode.FAILED_PRECONDITION and "cluster" in error.message:
            raise ClusterMismatchError(f"{method} at scheduler {leader}: {error.message}") from error
        if error.final or error.code in _REFUSALS:
            kind = StoreNotFoundError if method == "GetStore" and error.code is StatusCode.NOT_FOUND else SchedulerError
            raise kind(f"{method} at scheduler {leader}: {error}") from error
        self.lose_leader(leader)

    def _raise_header_error(self, method: str, header: pdpb_pb2.ResponseHeader) -> None:
        kind = header.error.type
        if header.HasField("error") and kind not in (pdpb_pb2.OK, pdpb_pb2.REGION_NOT_FOUND):
            text = header.error.message or pdpb_pb2.ErrorType.Name(kind)
            raise _ERRORS.get(kind, SchedulerError)(f"scheduler refused {method}: {text}")

    def _refuse_closed(self) -> None:
        if self._closed:
            raise ClientClosedError("the client is closed; make a new one")

    def _refuse_late(self, deadline: float) -> None:
        if asyncio.get_running_loop().time() >= deadline:
            raise SchedulerUnavailableError(
                f"no scheduler answered in time (asked {', '.join(self._endpoints)}; last: {self._trouble}); "
                "check the addresses and that a scheduler runs there"
            )

    def _deadline(self, timeout_s: float | None) -> float:
        refuse_forked_child(self._pid)
        return asyncio.get_running_loop().time() + (self._config.timeout_s if timeout_s is None else timeout_s)

    def _attempt_s(self, deadline: float) -> float:
        left_s = deadline - asyncio.get_running_loop().time()
        return max(0.001, min(left_s, self._config.scheduler_timeout_s))

    def _backoff(self, deadline: float) -> Backoff:
        return Backoff(self._config, deadline=deadline, rng=self._rng, closing=self._closing)

    # --- regions and stores -------------------------------------------------------------------------------------

    async def get_region(self, key: bytes, timeout_s: float | None = None) -> Region | None:
        """Return the region that holds `key`; None while the scheduler knows none."""
        request = pdpb_pb2.GetRegionRequest(region_key=key)
        return _region(await self.call("GetRegion", request, pdpb_pb2.GetRegionResponse, timeout_s))

    async def get_prev_region(self, key: bytes, timeout_s: float | None = None) -> Region | None:
        """Return the region before the one that holds `key`; None if that is the first."""
        request = pdpb_pb2.GetRegionRequest(region_key=key)
        return _region(await self.call("GetPrevRegion", request, pdpb_pb2.GetRegionResponse, timeout_s))

    async def get_region_by_id(self, region_id: int, timeout_s: float | None = None) -> Region | None:
        """Return a region by id; None if there is none."""
        request = pdpb_pb2.GetRegionByIDRequest(region_id=region_id)
        return _region(await self.call("GetRegionByID", request, pdpb_pb2.GetRegionResponse, timeout_s))

    async def scan_regions(
        self, start: bytes = b"", end: bytes = b"", *, limit: int = 0, timeout_s: float | None = None
    ) -> list[Region]:
        """Return up to `limit` (0: all) regions from the one that holds `start` on, below `end` (empty: to the last)."""
        request = pdpb_pb2.ScanRegionsRequest(start_key=start, end_key=end, limit=limit)
        reply = await self.call("ScanRegions", request, pdpb_pb2.ScanRegionsResponse, timeout_s)
        if reply.regions:
            return [Region(entry.region, entry.leader) for entry in reply.regions]
        return [Region(meta, leader) for meta, leader in zip(reply.region_metas, reply.leaders, strict=True)]

    async def get_store(self, store_id: int, timeout_s: float | None = None) -> metapb_pb2.Store:
        """Return a store. Raises `StoreNotFoundError`."""
        request = pdpb_pb2.GetStoreRequest(store_id=store_id)
        try:
            reply = await self.call("GetStore", request, pdpb_pb2.GetStoreResponse, timeout_s)
        except SchedulerError as error:
            if "not found" in str(error):
                raise StoreNotFoundError(f"the scheduler knows no store {store_id}: {error}") from error
            raise
        if not reply.HasField("store"):
            raise StoreNotFoundError(f"the scheduler knows no store {store_id}")
        return reply.store

    async def get_all_stores(
        self, *, exclude_tombstone: bool = False, timeout_s: float | None = None
    ) -> list[metapb_pb2.Store]:
        """Return all stores, the buried ones too unless excluded."""
        request = pdpb_pb2.GetAllStoresRequest(exclude_tombstone_stores=exclude_tombstone)
        return list((await self.call("GetAllStores", request, pdpb_pb2.GetAllStoresResponse, timeout_s)).stores)

    # --- timestamps ---------------------------------------------------------------------------------------------

    async def timestamp(self, timeout_s: float | None = None) -> Timestamp:
        """Return a timestamp greater than every one anybody got before this call."""
        return (await self.timestamps(1, timeout_s))[0]

    async def timestamps(self, count: int, timeout_s: float | None = None) -> list[Timestamp]:
        """Return `count` ascending timestamps. Calls at the same time share one request."""
        self._refuse_closed()
        if count <= 0:
            raise InvalidArgumentError(f"count of timestamps must be positive, is {count}")
        if self._tso is None:
            self._tso = TimestampStream(self, connector=self._connector, scope=self._scope, backoff=self._backoff)
        return await self._tso.get(count, self._deadline(timeout_s))

    async def get_gc_safe_point(self, timeout_s: float | None = None) -> int:
        """Return the timestamp before which old versions may be gone."""
        request = pdpb_pb2.GetGCSafePointRequest()
        return (await self.call("GetGCSafePoint", request, pdpb_pb2.GetGCSafePointResponse, timeout_s)).safe_point

    async def update_gc_safe_point(self, safe_point: int, timeout_s: float | None = None) -> int:
        """Raise the GC safe point and return the one in force, which never goes back."""
        request = pdpb_pb2.UpdateGCSafePointRequest(safe_point=safe_point)
        reply = await self.call("UpdateGCSafePoint", request, pdpb_pb2.UpdateGCSafePointResponse, timeout_s)
        return reply.new_safe_point

    # --- what stores need ---------------------------------------------------------------------------------------

    async def is_bootstrapped(self, timeout_s: float | None = None) -> bool:
        """Tell whether the cluster has its first region."""
        request = pdpb_pb2.IsBootstrappedRequest()
        return (await self.call("IsBootstrapped", request, pdpb_pb2.IsBootstrappedResponse, timeout_s)).bootstrapped

    async def bootstrap(
        self, store: metapb_pb2.Store, region: metapb_pb2.Region, timeout_s: float | None = None
    ) -> None:
        """Register the first store and region. Raises `AlreadyBootstrappedError`, perhaps about ourselves (see module)."""
        request = pdpb_pb2.BootstrapRequest(store=store, region=region)
        await self.call("Bootstrap", request, pdpb_pb2.BootstrapResponse, timeout_s)

    async def alloc_id(self, timeout_s: float | None = None) -> int:
        """Return an id that nobody else in the cluster gets."""
        return (await self.call("AllocID", pdpb_pb2.AllocIDRequest(count=1), pdpb_pb2.AllocIDResponse, timeout_s)).id

    async def put_store(self, store: metapb_pb2.Store, timeout_s: float | None = None) -> None:
        """Register a store, or its new address. Raises `StoreTombstoneError`."""
        await self.call("PutStore", pdpb_pb2.PutStoreRequest(store=store), pdpb_pb2.PutStoreResponse, timeout_s)

    async def store_heartbeat(
        self, stats: pdpb_pb2.StoreStats, timeout_s: float | None = None
    ) -> pdpb_pb2.StoreHeartbeatResponse:
        """Report a store's state and return the scheduler's answer. Raises `StoreTombstoneError`."""
        request = pdpb_pb2.StoreHeartbeatRequest(stats=stats)
        return await self.call("StoreHeartbeat", request, pdpb_pb2.StoreHeartbeatResponse, timeout_s)

    def region_heartbeats(self, on_response: OnResponse, on_connected: OnConnected | None = None) -> HeartbeatStream:
        """Keep a stream of region heartbeats up until it is closed or the scope stops.

        `on_response` gets every operator the scheduler sends; `on_connected` is called whenever a new stream is up: the
        scheduler at its other end may know nothing, so send a heartbeat for each region led.
        """
        return HeartbeatStream(
            self,
            connector=self._connector,
            scope=self._scope,
            backoff=self._backoff,
            on_response=on_response,
            on_connected=on_connected,
        )

    async def ask_batch_split(
        self, region: metapb_pb2.Region, split_count: int, timeout_s: float | None = None
    ) -> list[pdpb_pb2.SplitID]:
        """Return the ids for `split_count` new regions that are to split off `region`, each with its peers' ids."""
        request = pdpb_pb2.AskBatchSplitRequest(region=region, split_count=split_count)
        return list((await self.call("AskBatchSplit", request, pdpb_pb2.AskBatchSplitResponse, timeout_s)).ids)

    async def report_batch_split(self, regions: Sequence[metapb_pb2.Region], timeout_s: float | None = None) -> None:
        """Tell the scheduler what a split made, so that it need not wait for heartbeats."""
        request = pdpb_pb2.ReportBatchSplitRequest(regions=regions)
        await self.call("ReportBatchSplit", request, pdpb_pb2.ReportBatchSplitResponse, timeout_s)


def _region(reply: pdpb_pb2.GetRegionResponse) -> Region | None:
    return Region(reply.region, reply.leader) if reply.HasField("region") else None
