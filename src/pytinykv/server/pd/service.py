"""`pdpb.PD` over a `Scheduler`: what stores and TiKV clients call, free of any transport.

Rules that satisfy the known clients at once (tikv-python, tikv-client, client-go):

 1. Every response carries a header with the cluster id; a successful one has no `header.error` at all.
 2. A request with another cluster's id ends with FAILED_PRECONDITION "mismatch cluster id". `GetMembers` and
    `GetClusterInfo` need no id: that is how one learns it.
 3. What can't be answered in full at the moment (no leader known, a gap in the region map, not bootstrapped yet) ends
    with UNAVAILABLE, which all clients take for "ask again". A partial answer would be believed.
 4. `Tso` gives one response per request, in order, with the same count; `logical` is that of the last timestamp.
 5. Conditions that stores tell apart travel in `header.error`: not bootstrapped, already bootstrapped, tombstone, served by
    another process or at an address that another store has (DUPLICATED_ENTRY).
 6. Calls of pytinykv's own (`pytinykv.adminpb.Admin`) are served beside PD's, by the same rules.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from typing import Any, Final

from google.protobuf.message import Message

from pytinykv.lifecycle import Scope
from pytinykv.model import InvalidRegion, region_from_pb
from pytinykv.scheduler.errors import (
    AlreadyBootstrapped,
    CannotRemove,
    CannotTransfer,
    DuplicateAddress,
    InvalidInput,
    NotBootstrapped,
    Refusal,
    StaleRegion,
    StoreInUse,
    StoreNotFound,
    StoreTombstone,
    UnknownRegion,
)
from pytinykv.scheduler.scheduler import Scheduler
from pytinykv.server.pd.admin import ADMIN, AdminCalls
from pytinykv.server.pd.convert import (
    order_to_pb,
    region_info_from_pb,
    stats_from_pb,
    stats_to_pb,
    store_from_pb,
    store_to_pb,
)
from pytinykv.server.pd.heartbeats import Outbox, serve_heartbeats
from pytinykv.server.pd.regions import RegionQueries
from pytinykv.wire import MethodSpec, RpcError, StatusCode, service_methods
from pytinykv.wire.pb import etcdpb_pb2, metapb_pb2, pdpb_pb2

_SERVICE: Final = "pdpb.PD"
ETCD: Final = "etcdserverpb.KV"
SAVED_SAFE_POINT: Final = b"/tidb/store/gcworker/saved_safe_point"
"""Where clients before `GetGCState` look for the safe point."""
_SOFT: Final[Mapping[type[Exception], pdpb_pb2.ErrorType]] = {
    NotBootstrapped: pdpb_pb2.ErrorType.NOT_BOOTSTRAPPED,
    AlreadyBootstrapped: pdpb_pb2.ErrorType.ALREADY_BOOTSTRAPPED,
    StoreTombstone: pdpb_pb2.ErrorType.STORE_TOMBSTONE,
    StoreInUse: pdpb_pb2.ErrorType.DUPLICATED_ENTRY,
    DuplicateAddress: pdpb_pb2.ErrorType.DUPLICATED_ENTRY,
    UnknownRegion: pdpb_pb2.ErrorType.REGION_NOT_FOUND,
}
"""Errors that are told in `header.error` (rule 5)."""
_CODES: Final[Mapping[type[Exception], StatusCode]] = {
    InvalidInput: StatusCode.INVALID_ARGUMENT,
    InvalidRegion: StatusCode.INVALID_ARGUMENT,
    CannotRemove: StatusCode.ABORTED,
    CannotTransfer: StatusCode.ABORTED,
    StoreNotFound: StatusCode.NOT_FOUND,
    StaleRegion: StatusCode.ABORTED,
}
"""Errors that end the call with a status. Others are UNAVAILABLE if retryable, else UNKNOWN."""
_LOOKUPS: Final = frozenset(
    {"GetRegion", "GetPrevRegion", "GetRegionByID", "ScanRegions", "BatchScanRegions", "GetStore", "GetAllStores"}
)
"""Methods of clients, for which "not bootstrapped" can only mean "ask again" (rule 3)."""

Handler = Callable[[Any], Awaitable[Message]]


def status_of(error: Refusal | InvalidRegion) -> RpcError:
    """Return the status with which a call that met this error ends."""
    is_retryable = isinstance(error, Refusal) and error.retryable
    default = StatusCode.UNAVAILABLE if is_retryable else StatusCode.UNKNOWN
    return RpcError(_CODES.get(type(error), default), str(error))


class PdService:
    """Serves one scheduler. `client_url` ("http://host:port") is how clients reach it; tasks belong to `scope`."""

    def __init__(self, scheduler: Scheduler, scope: Scope, *, client_url: str, name: str = "scheduler") -> None:
        self._scheduler = scheduler
        self._scope = scope
        self._member = pdpb_pb2.Member(name=name, member_id=1, peer_urls=[client_url], client_urls=[client_url])
        self._regions = RegionQueries(scheduler, self.header)
        handlers, admin = self._handlers(), AdminCalls(scheduler, self.header).handlers
        self._unary: Final[Mapping[str, Handler]] = {
            **{f"/{_SERVICE}/{name}": handlers[name] for name in handlers},
            **{f"/{ADMIN}/{name}": admin[name] for name in admin},
            f"/{ETCD}/Range": self._range,
        }
        self._streams: Final[Mapping[str, Callable[[AsyncIterator[Message]], AsyncIterator[Message]]]] = {
            f"/{_SERVICE}/Tso": self._tso,
            f"/{_SERVICE}/RegionHeartbeat": self._region_heartbeat,
            f"/{_SERVICE}/QueryRegion": self._query_region,
        }
        self._methods = {
            **service_methods(_SERVICE, only=[*handlers, "Tso", "RegionHeartbeat", "QueryRegion"]),
            **service_methods(ADMIN),
            **service_methods(ETCD),
        }

    def _handlers(self) -> dict[str, Handler]:
        return {
            "GetMembers": self._get_members,
            "GetClusterInfo": self._get_cluster_info,
            "IsBootstrapped": self._is_bootstrapped,
            "Bootstrap": self._bootstrap,
            "AllocID": self._alloc_id,
            "IsSnapshotRecovering": self._is_snapshot_recovering,
            "GetStore": self._get_store,
            "PutStore": self._put_store,
            "GetAllStores": self._get_all_stores,
            "StoreHeartbeat": self._store_heartbeat,
            "GetRegion": self._regions.get_region,
            "GetPrevRegion": self._regions.get_prev_region,
            "GetRegionByID": self._regions.get_region_by_id,
            "ScanRegions": self._regions.scan_regions,
            "BatchScanRegions": self._regions.batch_scan_regions,
            "AskSplit": self._ask_split,
            "AskBatchSplit": self._ask_batch_split,
            "ReportSplit": self._report_split,
            "ReportBatchSplit": self._report_batch_split,
            "GetClusterConfig": self._get_cluster_config,
            "PutClusterConfig": self._put_cluster_config,
            "ScatterRegion": self._scatter_region,
            "SplitRegions": self._split_regions,
            "SplitAndScatterRegions": self._split_and_scatter_regions,
            "GetGCSafePoint": self._get_gc_safe_point,
            "UpdateGCSafePoint": self._update_gc_safe_point,
            "UpdateServiceGCSafePoint": self._update_service_gc_safe_point,
            "GetGCState": self._get_gc_state,
            "GetOperator": self._get_operator,
            "GetMinTS": self._get_min_ts,
        }

    @property
    def methods(self) -> Mapping[str, MethodSpec]:
        """The implemented methods by full path."""
        return self._methods

    def header(self) -> pdpb_pb2.ResponseHeader:
        """Return the header of a successful response."""
        return pdpb_pb2.ResponseHeader(cluster_id=self._scheduler.cluster_id)

    async def unary(self, path: str, request: Message) -> Message:
        """Answer one request. Raises RpcError."""
        handler = self._unary.get(path)
        if handler is None:
            raise RpcError(StatusCode.UNIMPLEMENTED, f"{path} is not implemented")
        name = self._methods[path].method_name
        try:
            self._scheduler.check_running()
            if name not in ("GetMembers", "GetClusterInfo", "Range"):
                self._check_cluster(request)
            if name in _LOOKUPS:
                self._scheduler.check_bootstrapped()
            return await handler(request)
        except (Refusal, InvalidRegion) as error:
            soft = None if name in _LOOKUPS else _SOFT.get(type(error))
            if soft is None:
                raise status_of(error) from error
            return self._methods[path].response_type(header=self._error_header(soft, str(error)))

    async def stream(self, path: str, requests: AsyncIterator[Message]) -> AsyncIterator[Message]:
        """Answer a stream of requests. The iterator raises RpcError."""
        handler = self._streams.get(path)
        if handler is None:
            raise RpcError(StatusCode.UNIMPLEMENTED, f"{path} is not implemented")
        responses = handler(requests)
        try:
            async for response in responses:
                yield response
            self._scheduler.check_running()  # requests also end because the server stops: no end in good order
        except Refusal as error:
            raise status_of(error) from error
        finally:
            # Else a generator that was left half-way would keep its reader task until it is garbage collected.
            await responses.aclose()  # type: ignore[attr-defined]  # all handlers are async generators

    def _check_cluster(self, request: Any) -> None:
        asked = request.header.cluster_id
        if asked != self._scheduler.cluster_id:
            raise RpcError(
                StatusCode.FAILED_PRECONDITION,
                f"mismatch cluster id, need {self._scheduler.cluster_id} but got {asked}",
            )

    def _error_header(self, kind: pdpb_pb2.ErrorType, message: str) -> pdpb_pb2.ResponseHeader:
        header = self.header()
        header.error.type = kind
        header.error.message = message
        return header

    # --- the cluster itself -------------------------------------------------------------------------------------

    async def _get_members(self, request: pdpb_pb2.GetMembersRequest) -> Message:
        return pdpb_pb2.GetMembersResponse(
            header=self.header(), members=[self._member], leader=self._member, etcd_leader=self._member
        )

    async def _get_cluster_info(self, request: pdpb_pb2.GetClusterInfoRequest) -> Message:
        return pdpb_pb2.GetClusterInfoResponse(
            header=self.header(), serviceModes=[pdpb_pb2.ServiceMode.PD_SVC_MODE], tso_urls=[]
        )

    async def _is_bootstrapped(self, request: pdpb_pb2.IsBootstrappedRequest) -> Message:
        return pdpb_pb2.IsBootstrappedResponse(header=self.header(), bootstrapped=self._scheduler.is_bootstrapped)

    async def _bootstrap(self, request: pdpb_pb2.BootstrapRequest) -> Message:
        if not request.HasField("store") or not request.HasField("region"):
            if self._scheduler.is_bootstrapped:
                raise AlreadyBootstrapped
            raise InvalidInput("bootstrap needs a store and a region")
        await self._scheduler.bootstrap(store_from_pb(request.store), region_from_pb(request.region))
        return pdpb_pb2.BootstrapResponse(header=self.header())

    async def _alloc_id(self, request: pdpb_pb2.AllocIDRequest) -> Message:
        count = request.count or 1
        first = await self._scheduler.allocate_ids(count)
        # PD's clients expect the last of the ids: id - count + 1 ... id.
        return pdpb_pb2.AllocIDResponse(header=self.header(), id=first + count - 1, count=count)

    async def _is_snapshot_recovering(self, request: pdpb_pb2.IsSnapshotRecoveringRequest) -> Message:
        return pdpb_pb2.IsSnapshotRecoveringResponse(header=self.header(), marked=False)

    async def _get_cluster_config(self, request: pdpb_pb2.GetClusterConfigRequest) -> Message:
        cluster = metapb_pb2.Cluster(id=self._scheduler.cluster_id, max_peer_count=self._scheduler.max_replicas)
        return pdpb_pb2.GetClusterConfigResponse(header=self.header(), cluster=cluster)

    async def _put_cluster_config(self, request: pdpb_pb2.PutClusterConfigRequest) -> Message:
        if request.cluster.id not in (0, self._scheduler.cluster_id):
            raise InvalidInput(
                f"the cluster's id is {self._scheduler.cluster_id} and can't become {request.cluster.id}"
            )
        await self._scheduler.put_cluster_config(request.cluster.max_peer_count)
        return pdpb_pb2.PutClusterConfigResponse(header=self.header())

    # --- timestamps ---------------------------------------------------------------------------------------------

    async def _tso(self, requests: AsyncIterator[Message]) -> AsyncIterator[Message]:
        async for request in requests:
            assert isinstance(request, pdpb_pb2.TsoRequest)
            self._check_cluster(request)
            issued = await self._scheduler.allocate_timestamps(request.count)
            timestamp = pdpb_pb2.Timestamp(physical=issued.physical_ms, logical=issued.logical)
            yield pdpb_pb2.TsoResponse(header=self.header(), count=request.count, timestamp=timestamp)

    async def _get_min_ts(self, request: pdpb_pb2.GetMinTSRequest) -> Message:
        issued = await self._scheduler.allocate_timestamps()
        timestamp = pdpb_pb2.Timestamp(physical=issued.physical_ms, logical=issued.logical)
        return pdpb_pb2.GetMinTSResponse(header=self.header(), timestamp=timestamp)

    # --- stores -------------------------------------------------------------------------------------------------

    async def _get_store(self, request: pdpb_pb2.GetStoreRequest) -> Message:
        store = self._scheduler.store(request.store_id)
        stats = None if store.stats is None else stats_to_pb(store.stats)
        return pdpb_pb2.GetStoreResponse(header=self.header(), store=store_to_pb(store), stats=stats)

    async def _put_store(self, request: pdpb_pb2.PutStoreRequest) -> Message:
        if not request.HasField("store"):
            raise InvalidInput("no store in the request")
        await self._scheduler.put_store(store_from_pb(request.store))
        return pdpb_pb2.PutStoreResponse(header=self.header())

    async def _get_all_stores(self, request: pdpb_pb2.GetAllStoresRequest) -> Message:
        stores = [
            store_to_pb(store)
            for store in self._scheduler.cluster.stores()
            if not (request.exclude_tombstone_stores and store.meta.is_tombstone)
        ]
        return pdpb_pb2.GetAllStoresResponse(header=self.header(), stores=stores)

    async def _store_heartbeat(self, request: pdpb_pb2.StoreHeartbeatRequest) -> Message:
        self._scheduler.store_heartbeat(stats_from_pb(request.stats))
        if request.stats.is_stopping:
            await self._scheduler.store_stopped(request.stats.store_id, request.stats.start_time)
        return pdpb_pb2.StoreHeartbeatResponse(header=self.header())

    # --- regions ------------------------------------------------------------------------------------------------

    def _region_heartbeat(self, requests: AsyncIterator[Message]) -> AsyncIterator[Message]:
        outbox = Outbox(lambda order: order_to_pb(self.header(), order))
        return serve_heartbeats(
            self._scope,
            requests,
            outbox,
            self._on_region_heartbeat,
            lambda: self._scheduler.unbind(outbox.push_order),
        )

    def _on_region_heartbeat(self, request: Message, outbox: Outbox) -> None:
        assert isinstance(request, pdpb_pb2.RegionHeartbeatRequest)
        self._scheduler.check_running()
        self._check_cluster(request)
        try:
            info = region_info_from_pb(request)
            assert info.leader is not None, "region_info_from_pb refuses reports without a leader"
            self._scheduler.check_bootstrapped()
            if self._scheduler.store(info.leader.store_id).meta.is_tombstone:
                raise StoreTombstone(info.leader.store_id)
            self._scheduler.bind(info.leader.store_id, outbox.push_order)
            order = self._scheduler.region_heartbeat(info)
        except (Refusal, InvalidRegion) as error:
            header = self._error_header(_SOFT.get(type(error), pdpb_pb2.ErrorType.UNKNOWN), str(error))
            outbox.push(pdpb_pb2.RegionHeartbeatResponse(header=header, region_id=request.region.id))
            return
        if order is not None:
            outbox.push_order(order)

    async def _query_region(self, requests: AsyncIterator[Message]) -> AsyncIterator[Message]:
        async for request in requests:
            assert isinstance(request, pdpb_pb2.QueryRegionRequest)
            self._check_cluster(request)
            self._scheduler.check_bootstrapped()
            yield self._regions.query(request)

    async def _ask_split(self, request: pdpb_pb2.AskSplitRequest) -> Message:
        (ids,) = await self._scheduler.ask_split(region_from_pb(request.region), 1)
        return pdpb_pb2.AskSplitResponse(
            header=self.header(), new_region_id=ids.region_id, new_peer_ids=list(ids.peer_ids)
        )

    async def _ask_batch_split(self, request: pdpb_pb2.AskBatchSplitRequest) -> Message:
        splits = await self._scheduler.ask_split(region_from_pb(request.region), request.split_count)
        ids = [pdpb_pb2.SplitID(new_region_id=one.region_id, new_peer_ids=list(one.peer_ids)) for one in splits]
        return pdpb_pb2.AskBatchSplitResponse(header=self.header(), ids=ids)

    async def _report_split(self, request: pdpb_pb2.ReportSplitRequest) -> Message:
        self._scheduler.report_split([region_from_pb(request.left), region_from_pb(request.right)])
        return pdpb_pb2.ReportSplitResponse(header=self.header())

    async def _report_batch_split(self, request: pdpb_pb2.ReportBatchSplitRequest) -> Message:
        self._scheduler.report_split([region_from_pb(region) for region in request.regions])
        return pdpb_pb2.ReportBatchSplitResponse(header=self.header())

    async def _scatter_region(self, request: pdpb_pb2.ScatterRegionRequest) -> Message:
        """Begin to scatter. As in PD the percentage tells for how many regions that has begun; `GetOperator` tells more."""
        asked = list(request.regions_id) or [request.region_id]
        failed = sorted(self._scheduler.scatter(asked))
        share = 100 * (len(asked) - len(failed)) // len(asked)
        return pdpb_pb2.ScatterRegionResponse(header=self.header(), finished_percentage=share, failed_regions_id=failed)

    async def _split_regions(self, request: pdpb_pb2.SplitRegionsRequest) -> Message:
        """Split, and wait for a moment. The percentage tells at how many of the keys a region starts now."""
        left, regions = await self._scheduler.split_regions(request.split_keys)
        share = 100 * len(regions) // (len(regions) + left)
        return pdpb_pb2.SplitRegionsResponse(header=self.header(), finished_percentage=share, regions_id=regions)

    async def _split_and_scatter_regions(self, request: pdpb_pb2.SplitAndScatterRegionsRequest) -> Message:
        left, regions = await self._scheduler.split_regions(request.split_keys)
        failed = self._scheduler.scatter(regions)
        return pdpb_pb2.SplitAndScatterRegionsResponse(
            header=self.header(),
            split_finished_percentage=100 * len(regions) // (len(regions) + left),
            scatter_finished_percentage=100 * (len(regions) - len(failed)) // max(len(regions), 1),
            regions_id=regions,
        )

    async def _get_operator(self, request: pdpb_pb2.GetOperatorRequest) -> Message:
        self._scheduler.check_bootstrapped()
        operator = self._scheduler.operators.last(request.region_id)
        if operator is None:
            raise UnknownRegion(request.region_id)
        return pdpb_pb2.GetOperatorResponse(
            header=self.header(),
            region_id=request.region_id,
            desc=str(operator).encode(),
            kind=operator.kind.encode(),
            status=operator.status.name,
        )

    # --- garbage collection -------------------------------------------------------------------------------------

    async def _get_gc_safe_point(self, request: pdpb_pb2.GetGCSafePointRequest) -> Message:
        safe_point = self._scheduler.state.meta.gc_safe_point
        return pdpb_pb2.GetGCSafePointResponse(header=self.header(), safe_point=safe_point)

    async def _update_gc_safe_point(self, request: pdpb_pb2.UpdateGCSafePointRequest) -> Message:
        safe_point = await self._scheduler.update_gc_safe_point(request.safe_point)
        return pdpb_pb2.UpdateGCSafePointResponse(header=self.header(), new_safe_point=safe_point)

    async def _update_service_gc_safe_point(self, request: pdpb_pb2.UpdateServiceGCSafePointRequest) -> Message:
        service_id = request.service_id.decode(errors="backslashreplace")
        first = await self._scheduler.update_service_safe_point(service_id, request.safe_point, request.TTL)
        return pdpb_pb2.UpdateServiceGCSafePointResponse(
            header=self.header(),
            service_id=first.service_id.encode(),
            TTL=first.expires_at_s - self._scheduler.wall_ms // 1000,
            min_safe_point=first.safe_point,
        )

    async def _range(self, request: etcdpb_pb2.RangeRequest) -> Message:
        """Answer what older clients ask etcd: the safe point. Nothing else is there."""
        response = etcdpb_pb2.RangeResponse(header=etcdpb_pb2.ResponseHeader(cluster_id=self._scheduler.cluster_id))
        if request.key == SAVED_SAFE_POINT and not request.range_end:
            response.kvs.add(key=request.key, value=str(self._scheduler.state.meta.gc_safe_point).encode())
            response.count = 1
        return response

    async def _get_gc_state(self, request: pdpb_pb2.GetGCStateRequest) -> Message:
        meta = self._scheduler.state.meta
        now_s = self._scheduler.wall_ms // 1000
        live = {one.service_id: one for one in meta.services if one.expires_at_s > now_s}
        worker = live.pop("gc_worker", None)
        state = pdpb_pb2.GCState(
            is_keyspace_level_gc=False,
            gc_safe_point=meta.gc_safe_point,
            txn_safe_point=max(meta.gc_safe_point, 0 if worker is None else worker.safe_point),
        )
        if request.HasField("keyspace_scope"):
            state.keyspace_scope.CopyFrom(request.keyspace_scope)
        if not request.exclude_gc_barriers:
            for one in live.values():
                state.gc_barriers.add(
                    barrier_id=one.service_id, barrier_ts=one.safe_point, ttl_seconds=one.expires_at_s - now_s
                )
        return pdpb_pb2.GetGCStateResponse(header=self.header(), gc_state=state)
