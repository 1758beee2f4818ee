"""Calls to `pdpb.PD`: whatever clients and stores ask the scheduler for, sent to its leader.

    endpoints ──► LeaderFinder ──leader──► call ──► answer
                       ▲                    │
                       └── leader lost ─────┘  a call that found no leader, or lost it, is sent again until the deadline

Used by clients (regions, stores, timestamps) and by stores (ids, heartbeats, splits). Every call here may be repeated:
lookups change nothing, ids and timestamps that get lost are only skipped, registrations say the same again. `bootstrap`
alone can succeed and yet raise `AlreadyBootstrappedError`, when its first answer got lost: compare the store ids.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from random import Random
from typing import Any, NamedTuple, TypeVar, cast

from google.protobuf.message import Message

from pytinykv.client.config import ClientConfig
from pytinykv.client.errors import (
    AlreadyBootstrappedError,
    ClusterMismatchError,
    InvalidArgumentError,
    NotBootstrappedError,
    SchedulerError,
    StoreInUseError,
    StoreNotFoundError,
    StoreTombstoneError,
)
from pytinykv.client.origin import LoopOrigin
from pytinykv.client.pd.heartbeat_stream import HeartbeatStream, OnConnected, OnResponse
from pytinykv.client.pd.leader_finder import LeaderFinder
from pytinykv.client.pd.timestamp_stream import TimestampStream
from pytinykv.lifecycle import Scope
from pytinykv.model import InvalidRegion, Peer, Region, peer_from_pb, region_from_pb
from pytinykv.wire import Connector, RpcError, StatusCode
from pytinykv.wire.pb import adminpb_pb2, metapb_pb2, pdpb_pb2
from pytinykv.wire.timestamp import Timestamp

_PD = "/pdpb.PD/"
_ADMIN = "/pytinykv.adminpb.Admin/"
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
_ABOUT_A_STORE = frozenset({"GetStore", "StoreHeartbeat", "RemoveStore", "RestoreStore"})
"""Methods that answer NOT_FOUND if there is no such store."""
_ERRORS: dict[int, type[SchedulerError]] = {
    pdpb_pb2.NOT_BOOTSTRAPPED: NotBootstrappedError,
    pdpb_pb2.ALREADY_BOOTSTRAPPED: AlreadyBootstrappedError,
    pdpb_pb2.STORE_TOMBSTONE: StoreTombstoneError,
    pdpb_pb2.DUPLICATED_ENTRY: StoreInUseError,
}


class RegionInfo(NamedTuple):
    """A region as the scheduler knows it."""

    region: Region
    leader: Peer | None
    """None while the scheduler knows none."""


class SchedulerClient:
    """One cluster's scheduler, by the addresses of its endpoints. All methods belong to one event loop.

    `timeout_s` of each call bounds it with all its retries; None means the default of the settings. Every call raises
    `SchedulerUnavailableError` past that, `ClusterMismatchError`, and `SchedulerError` for what the scheduler refuses;
    `WrongEventLoopError` or `ClientForkedError` outside of the loop and the process that the client was made in.
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
        self._origin = LoopOrigin()
        self._config = config or ClientConfig()
        self._connector = connector
        self._scope = scope
        self._finder = LeaderFinder(
            addresses, connector=connector, rng=rng, config=self._config, caller_id=caller_id, cluster_id=cluster_id
        )
        self._tso: TimestampStream | None = None
        """Made by the first call for a timestamp."""

    def __repr__(self) -> str:
        return repr(self._finder)

    @property
    def cluster_id(self) -> int:
        """The cluster's id; 0 before the first answer."""
        return self._finder.cluster_id

    @property
    def leader_address(self) -> str | None:
        """The leader's address; None while unknown."""
        return self._finder.leader

    @property
    def endpoints(self) -> tuple[str, ...]:
        """All known endpoints, the given ones first."""
        return self._finder.endpoints

    def close(self) -> None:
        """Refuse further calls. Streams end with the scope."""
        self._finder.close()
        if self._tso is not None:
            self._tso.close()

    async def connect(self, timeout_s: float | None = None) -> None:
        """Find the leader now, so that a wrong address shows at once."""
        deadline = self._deadline(timeout_s)
        await self._finder.wait(deadline, self._finder.backoff(deadline))

    async def call(
        self,
        method: str,
        request: Any,
        reply_type: type[_ReplyT],
        timeout_s: float | None = None,
        *,
        service: str = _PD,
    ) -> _ReplyT:
        """Send `request` to the leader, again if the leader changes, and return the reply once it carries no error."""
        finder = self._finder
        deadline = self._deadline(timeout_s)
        backoff = finder.backoff(deadline)
        while True:
            leader = await finder.wait(deadline, backoff)
            request.header.CopyFrom(finder.header())
            try:
                path = service + method
                reply = await self._connector.unary(leader, path, request, timeout_s=finder.attempt_s(deadline))
            except RpcError as error:
                self._on_rpc_error(method, leader, error)
                finder.last_failure = f"{leader}: {error}"
                finder.refuse_late(deadline)
                await backoff.pause()
                continue
            finder.check_cluster(leader, cast("Any", reply).header.cluster_id)
            self._raise_header_error(method, cast("Any", reply).header)
            return cast("_ReplyT", reply)

    def _on_rpc_error(self, method: str, leader: str, error: RpcError) -> None:
        self._finder.refuse_closed()
        if error.code is StatusCode.FAILED_PRECONDITION and "cluster" in error.message:
            raise ClusterMismatchError(f"{method} at scheduler {leader}: {error.message}") from error
        if error.final or error.code in _REFUSALS:
            is_unknown_store = method in _ABOUT_A_STORE and error.code is StatusCode.NOT_FOUND
            kind = StoreNotFoundError if is_unknown_store else SchedulerError
            raise kind(f"{method} at scheduler {leader}: {error}") from error
        self._finder.lose(leader)

    def _raise_header_error(self, method: str, header: pdpb_pb2.ResponseHeader) -> None:
        kind = header.error.type
        if header.HasField("error") and kind not in (pdpb_pb2.OK, pdpb_pb2.REGION_NOT_FOUND):
            text = header.error.message or pdpb_pb2.ErrorType.Name(kind)
            raise _ERRORS.get(kind, SchedulerError)(f"scheduler refused {method}: {text}")

    def _deadline(self, timeout_s: float | None) -> float:
        self._origin.check()
        return self._origin.loop.time() + (self._config.timeout_s if timeout_s is None else timeout_s)

    # --- regions and stores -------------------------------------------------------------------------------------

    async def get_region(self, key: bytes, timeout_s: float | None = None) -> RegionInfo | None:
        """Return the region that holds `key`; None while the scheduler knows none."""
        request = pdpb_pb2.GetRegionRequest(region_key=key)
        return _region_info(await self.call("GetRegion", request, pdpb_pb2.GetRegionResponse, timeout_s))

    async def get_prev_region(self, key: bytes, timeout_s: float | None = None) -> RegionInfo | None:
        """Return the region before the one that holds `key`; None if that is the first."""
        request = pdpb_pb2.GetRegionRequest(region_key=key)
        return _region_info(await self.call("GetPrevRegion", request, pdpb_pb2.GetRegionResponse, timeout_s))

    async def get_region_by_id(self, region_id: int, timeout_s: float | None = None) -> RegionInfo | None:
        """Return a region by id; None if there is none."""
        request = pdpb_pb2.GetRegionByIDRequest(region_id=region_id)
        return _region_info(await self.call("GetRegionByID", request, pdpb_pb2.GetRegionResponse, timeout_s))

    async def scan_regions(
        self, start: bytes = b"", end: bytes = b"", *, limit: int = 0, timeout_s: float | None = None
    ) -> list[RegionInfo]:
        """Return up to `limit` (0: all) regions from the one that holds `start` on, below `end` (empty: to the last)."""
        request = pdpb_pb2.ScanRegionsRequest(start_key=start, end_key=end, limit=limit)
        reply = await self.call("ScanRegions", request, pdpb_pb2.ScanRegionsResponse, timeout_s)
        if reply.regions:
            return [_info(entry.region, entry.leader) for entry in reply.regions]
        return [_info(region, leader) for region, leader in zip(reply.region_metas, reply.leaders, strict=True)]

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
        """Return all stores, tombstones too unless excluded."""
        request = pdpb_pb2.GetAllStoresRequest(exclude_tombstone_stores=exclude_tombstone)
        return list((await self.call("GetAllStores", request, pdpb_pb2.GetAllStoresResponse, timeout_s)).stores)

    # --- timestamps ---------------------------------------------------------------------------------------------

    async def timestamp(self, timeout_s: float | None = None) -> Timestamp:
        """Return a timestamp greater than every one given out before this call."""
        deadline = self._deadline(timeout_s)
        return (await self._timestamp_stream().get(1, deadline))[0]

    async def timestamp_by(self, deadline: float) -> Timestamp:
        """As `timestamp`, until `deadline` (loop time)."""
        return (await self._timestamp_stream().get(1, deadline))[0]

    async def timestamps(self, count: int, timeout_s: float | None = None) -> list[Timestamp]:
        """Return `count` ascending timestamps. Calls at the same time share one request."""
        deadline = self._deadline(timeout_s)
        if count <= 0:
            raise InvalidArgumentError(f"count of timestamps must be positive, is {count}")
        return await self._timestamp_stream().get(count, deadline)

    def _timestamp_stream(self) -> TimestampStream:
        self._finder.refuse_closed()
        if self._tso is None:
            self._tso = TimestampStream(self._finder, connector=self._connector, scope=self._scope)
        return self._tso

    async def get_gc_safe_point(self, timeout_s: float | None = None) -> int:
        """Return the timestamp before which old versions may be gone."""
        request = pdpb_pb2.GetGCSafePointRequest()
        return (await self.call("GetGCSafePoint", request, pdpb_pb2.GetGCSafePointResponse, timeout_s)).safe_point

    async def update_gc_safe_point(self, safe_point: int, timeout_s: float | None = None) -> int:
        """Raise the GC safe point and return the one in force, which never goes back."""
        request = pdpb_pb2.UpdateGCSafePointRequest(safe_point=safe_point)
        reply = await self.call("UpdateGCSafePoint", request, pdpb_pb2.UpdateGCSafePointResponse, timeout_s)
        return reply.new_safe_point

    async def hold_gc_safe_point(
        self, service: str, safe_point: int, ttl_s: int, timeout_s: float | None = None
    ) -> int:
        """Keep what a snapshot at `safe_point` needs for `ttl_s` seconds, for a service; 0 or less: let go of it.

        Returns the lowest timestamp that any service, or garbage collection itself, holds. If that is above `safe_point`, it
        is not held: its versions may be gone.
        """
        request = pdpb_pb2.UpdateServiceGCSafePointRequest(
            service_id=service.encode(), safe_point=safe_point, TTL=ttl_s
        )
        answer = pdpb_pb2.UpdateServiceGCSafePointResponse
        return (await self.call("UpdateServiceGCSafePoint", request, answer, timeout_s)).min_safe_point

    # --- administration -----------------------------------------------------------------------------------------

    async def remove_store(self, store_id: int, timeout_s: float | None = None) -> adminpb_pb2.RemoveStoreResponse:
        """Take a store out of service, or ask how far that is.

        Raises `StoreNotFoundError`, `SchedulerError` with the reason.
        """
        request = adminpb_pb2.RemoveStoreRequest(store_id=store_id)
        return await self.call("RemoveStore", request, adminpb_pb2.RemoveStoreResponse, timeout_s, service=_ADMIN)

    async def restore_store(self, store_id: int, timeout_s: float | None = None) -> None:
        """Take the removal of a store back. Raises `StoreNotFoundError`, `StoreTombstoneError`: it is too late."""
        request = adminpb_pb2.RestoreStoreRequest(store_id=store_id)
        await self.call("RestoreStore", request, adminpb_pb2.RestoreStoreResponse, timeout_s, service=_ADMIN)

    async def transfer_leader(self, region_id: int, store_id: int, timeout_s: float | None = None) -> bool:
        """Begin to move a region's leader to a store; False if it is there. Raises `SchedulerError` with the reason."""
        request = adminpb_pb2.TransferLeaderRequest(region_id=region_id, store_id=store_id)
        reply = await self.call(
            "TransferLeader", request, adminpb_pb2.TransferLeaderResponse, timeout_s, service=_ADMIN
        )
        _refuse_unknown_region(reply.header)
        return not reply.leads_already

    async def list_operators(self, timeout_s: float | None = None) -> list[adminpb_pb2.Operator]:
        """Return what the scheduler is doing, and then what it has done last."""
        request = adminpb_pb2.ListOperatorsRequest()
        reply = await self.call("ListOperators", request, adminpb_pb2.ListOperatorsResponse, timeout_s, service=_ADMIN)
        return list(reply.operators)

    async def list_region_sizes(self, timeout_s: float | None = None) -> dict[int, int]:
        """Return how many bytes regions hold, roughly, by id: of those that a leader has reported to this scheduler.

        Raises `SchedulerError` where the scheduler is not ours, and has no such call.
        """
        request = adminpb_pb2.ListRegionSizesRequest()
        reply = await self.call(
            "ListRegionSizes", request, adminpb_pb2.ListRegionSizesResponse, timeout_s, service=_ADMIN
        )
        return {one.region_id: one.approximate_bytes for one in reply.regions}

    async def split_regions(
        self, keys: Sequence[bytes], timeout_s: float | None = None
    ) -> pdpb_pb2.SplitRegionsResponse:
        """Split regions at these keys. Waits for a moment and tells how far that is; repeat it until it is done."""
        request = pdpb_pb2.SplitRegionsRequest(split_keys=keys)
        return await self.call("SplitRegions", request, pdpb_pb2.SplitRegionsResponse, timeout_s)

    async def scatter_regions(self, region_ids: Sequence[int], timeout_s: float | None = None) -> list[int]:
        """Begin to spread peers and leaders of regions over all stores; return those that can't take part now."""
        request = pdpb_pb2.ScatterRegionRequest(regions_id=region_ids)
        reply = await self.call("ScatterRegion", request, pdpb_pb2.ScatterRegionResponse, timeout_s)
        _refuse_unknown_region(reply.header)
        return list(reply.failed_regions_id)

    # --- what stores need ---------------------------------------------------------------------------------------

    async def is_bootstrapped(self, timeout_s: float | None = None) -> bool:
        """Tell whether the cluster has its first region."""
        request = pdpb_pb2.IsBootstrappedRequest()
        return (await self.call("IsBootstrapped", request, pdpb_pb2.IsBootstrappedResponse, timeout_s)).bootstrapped

    async def bootstrap(
        self, store: metapb_pb2.Store, region: metapb_pb2.Region, timeout_s: float | None = None
    ) -> None:
        """Register the first store and region. Raises `AlreadyBootstrappedError`, maybe about itself (see module)."""
        request = pdpb_pb2.BootstrapRequest(store=store, region=region)
        await self.call("Bootstrap", request, pdpb_pb2.BootstrapResponse, timeout_s)

    async def alloc_id(self, timeout_s: float | None = None) -> int:
        """Return an id that is given out once in the cluster."""
        return (await self.call("AllocID", pdpb_pb2.AllocIDRequest(count=1), pdpb_pb2.AllocIDResponse, timeout_s)).id

    async def put_store(self, store: metapb_pb2.Store, timeout_s: float | None = None) -> None:
        """Register a store, or its new address. Raises `StoreTombstoneError`, `StoreInUseError`."""
        await self.call("PutStore", pdpb_pb2.PutStoreRequest(store=store), pdpb_pb2.PutStoreResponse, timeout_s)

    async def store_heartbeat(
        self, stats: pdpb_pb2.StoreStats, timeout_s: float | None = None
    ) -> pdpb_pb2.StoreHeartbeatResponse:
        """Report a store's state and return the scheduler's answer.

        Raises `StoreTombstoneError`, `StoreInUseError`, `StoreNotFoundError`.
        """
        request = pdpb_pb2.StoreHeartbeatRequest(stats=stats)
        return await self.call("StoreHeartbeat", request, pdpb_pb2.StoreHeartbeatResponse, timeout_s)

    def region_heartbeats(self, on_response: OnResponse, on_connected: OnConnected | None = None) -> HeartbeatStream:
        """Keep a stream of region heartbeats up until it is closed or the scope stops.

        `on_response` gets every operator the scheduler sends; `on_connected` is called whenever a new stream is up: the
        scheduler at its other end may know nothing, so send a heartbeat for each region led.
        """
        return HeartbeatStream(
            self._finder,
            connector=self._connector,
            scope=self._scope,
            on_response=on_response,
            on_connected=on_connected,
        )

    async def ask_batch_split(
        self, region: metapb_pb2.Region, split_count: int, timeout_s: float | None = None
    ) -> list[pdpb_pb2.SplitID]:
        """Return the ids for `split_count` new regions that are to split off `region`, each with its peers' ids."""
        request = pdpb_pb2.AskBatchSplitRequest(region=region, split_count=split_count)
        return list((await self.call("AskBatchSplit", request, pdpb_pb2.AskBatchSplitResponse, timeout_s)).ids)

    async def ask_split_at(
        self, region: metapb_pb2.Region, keys: Sequence[bytes], timeout_s: float | None = None
    ) -> adminpb_pb2.AskSplitAtResponse:
        """Return the ids for a split of `region` at `keys`, or that regions are split at memcomparable keys only."""
        request = adminpb_pb2.AskSplitAtRequest(region=region, split_keys=keys)
        return await self.call("AskSplitAt", request, adminpb_pb2.AskSplitAtResponse, timeout_s, service=_ADMIN)

    async def allow_transactions(self, timeout_s: float | None = None) -> str:
        """Switch the cluster over to transactions, for good; return why that can't be, "" if it is done."""
        request = adminpb_pb2.AllowTransactionsRequest()
        reply = await self.call(
            "AllowTransactions", request, adminpb_pb2.AllowTransactionsResponse, timeout_s, service=_ADMIN
        )
        return reply.refusal

    async def report_gc(
        self, store_id: int, *, acknowledged_ts: int, oldest_lock_ts: int, timeout_s: float | None = None
    ) -> adminpb_pb2.ReportGcResponse:
        """Say how far a store is with garbage collection; return how far it may go."""
        request = adminpb_pb2.ReportGcRequest(
            store_id=store_id, acknowledged_ts=acknowledged_ts, oldest_lock_ts=oldest_lock_ts
        )
        return await self.call("ReportGc", request, adminpb_pb2.ReportGcResponse, timeout_s, service=_ADMIN)

    async def report_batch_split(self, regions: Sequence[metapb_pb2.Region], timeout_s: float | None = None) -> None:
        """Tell the scheduler what a split made, so that it need not wait for heartbeats."""
        request = pdpb_pb2.ReportBatchSplitRequest(regions=regions)
        await self.call("ReportBatchSplit", request, pdpb_pb2.ReportBatchSplitResponse, timeout_s)


def _refuse_unknown_region(header: pdpb_pb2.ResponseHeader) -> None:
    if header.error.type == pdpb_pb2.REGION_NOT_FOUND:
        raise SchedulerError(header.error.message)


def _region_info(reply: pdpb_pb2.GetRegionResponse) -> RegionInfo | None:
    return _info(reply.region, reply.leader) if reply.HasField("region") and reply.region.id else None


def _info(region: metapb_pb2.Region, leader: metapb_pb2.Peer) -> RegionInfo:
    try:
        return RegionInfo(region_from_pb(region), peer_from_pb(leader) if leader.id else None)
    except InvalidRegion as error:
        raise SchedulerError(f"the scheduler named a region of an unknown kind: {error}") from error
