"""`pytinykv.adminpb.Admin`: what administrators ask for and PD's protocol has no call for. `tinykv ctl` sends it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final

from google.protobuf.message import Message

from pytinykv.model import region_from_pb
from pytinykv.scheduler.gc import GcReport
from pytinykv.scheduler.operators import Operator
from pytinykv.scheduler.scheduler import Scheduler
from pytinykv.server.pd.convert import STORE_STATES
from pytinykv.wire.keys import is_plain
from pytinykv.wire.pb import adminpb_pb2, pdpb_pb2

ADMIN: Final = "pytinykv.adminpb.Admin"


class AdminCalls:
    """Answers an administrator's calls. `header` makes the header of a response."""

    def __init__(self, scheduler: Scheduler, header: Callable[[], pdpb_pb2.ResponseHeader]) -> None:
        self._scheduler = scheduler
        self._header = header

    @property
    def handlers(self) -> Mapping[str, Callable[[Any], Awaitable[Message]]]:
        """By name of the method."""
        return {
            "RemoveStore": self._remove_store,
            "RestoreStore": self._restore_store,
            "TransferLeader": self._transfer_leader,
            "ListOperators": self._list_operators,
            "ListRegionSizes": self._list_region_sizes,
            "AllowTransactions": self._allow_transactions,
            "AskSplitAt": self._ask_split_at,
            "ReportGc": self._report_gc,
        }

    async def _remove_store(self, request: adminpb_pb2.RemoveStoreRequest) -> Message:
        removal = await self._scheduler.remove_store(request.store_id)
        return adminpb_pb2.RemoveStoreResponse(
            header=self._header(),
            state=STORE_STATES[removal.state],
            regions_left=removal.regions_left,
            bytes_left=removal.bytes_left,
            obstacle=removal.obstacle,
        )

    async def _restore_store(self, request: adminpb_pb2.RestoreStoreRequest) -> Message:
        await self._scheduler.restore_store(request.store_id)
        return adminpb_pb2.RestoreStoreResponse(header=self._header())

    async def _transfer_leader(self, request: adminpb_pb2.TransferLeaderRequest) -> Message:
        has_begun = self._scheduler.transfer_leader(request.region_id, request.store_id)
        return adminpb_pb2.TransferLeaderResponse(header=self._header(), leads_already=not has_begun)

    async def _list_operators(self, request: adminpb_pb2.ListOperatorsRequest) -> Message:
        self._scheduler.check_bootstrapped()
        operators, now = self._scheduler.operators, self._scheduler.now
        running = [_operator_to_pb(one, now, is_running=True) for one in operators.running()]
        ended = [_operator_to_pb(one, now, is_running=False) for one in operators.ended()]
        return adminpb_pb2.ListOperatorsResponse(header=self._header(), operators=[*running, *ended])

    async def _list_region_sizes(self, request: adminpb_pb2.ListRegionSizesRequest) -> Message:
        self._scheduler.check_bootstrapped()
        sizes = [
            adminpb_pb2.RegionSize(region_id=region.id, approximate_bytes=region.approximate_size)
            for region in self._scheduler.cluster.regions
            if region.leader is not None
        ]
        return adminpb_pb2.ListRegionSizesResponse(header=self._header(), regions=sizes)

    # --- what stores ask ----------------------------------------------------------------------------------------

    async def _allow_transactions(self, request: adminpb_pb2.AllowTransactionsRequest) -> Message:
        refusal = await self._scheduler.allow_transactions()
        return adminpb_pb2.AllowTransactionsResponse(header=self._header(), refusal=refusal)

    async def _ask_split_at(self, request: adminpb_pb2.AskSplitAtRequest) -> Message:
        keys = list(request.split_keys)
        is_transactional = self._scheduler.state.meta.transactional
        response = adminpb_pb2.AskSplitAtResponse(header=self._header(), is_transactional=is_transactional)
        if is_transactional and any(map(is_plain, keys)):
            return response
        for ids in await self._scheduler.ask_split(region_from_pb(request.region), len(keys), keys):
            response.ids.add(new_region_id=ids.region_id, new_peer_ids=list(ids.peer_ids))
        return response

    async def _report_gc(self, request: adminpb_pb2.ReportGcRequest) -> Message:
        report = GcReport(request.store_id, request.acknowledged_ts, request.oldest_lock_ts)
        answer = await self._scheduler.report_gc(report)
        return adminpb_pb2.ReportGcResponse(header=self._header(), **answer._asdict())


def _operator_to_pb(operator: Operator, now: float, *, is_running: bool) -> adminpb_pb2.Operator:
    until = now if is_running else operator.ended_at
    return adminpb_pb2.Operator(
        region_id=operator.region_id,
        kind=operator.kind.value,
        description=operator.description,
        status=operator.status.name,
        reason=operator.reason,
        steps=[str(step) for step in operator.steps],
        done_steps=operator.done_steps,
        duration_ms=max(0, round((until - operator.started_at) * 1000)),
        ended_ago_ms=0 if is_running else max(0, round((now - operator.ended_at) * 1000)),
    )
