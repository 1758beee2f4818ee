"""A store's connection to the scheduler: heartbeats out, orders in.

Region heartbeats go out whenever a leader's region changes and every few seconds; the answers are the scheduler's orders
(add a peer, remove one, transfer leadership). Store heartbeats tell that the store runs and how full its disk is. Nothing is
lost for good: whatever does not arrive is repeated.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING

from pytinykv.client.errors import ClientError, StoreInUseError, StoreNotFoundError, StoreTombstoneError
from pytinykv.model import RegionId, SplitIds, epoch_from_pb, peer_from_pb, peer_to_pb, region_to_pb
from pytinykv.raft import ConfChangeKind, PeerId
from pytinykv.raftstore import MembershipChange, RegionReport
from pytinykv.wire.pb import eraftpb_pb2, pdpb_pb2

if TYPE_CHECKING:
    from pytinykv.client.pd.scheduler_client import SchedulerClient
    from pytinykv.lifecycle import Clock, Scope
    from pytinykv.model import Region
    from pytinykv.raftstore import Store

_log = logging.getLogger(__name__)

_KINDS = {
    eraftpb_pb2.ConfChangeType.AddNode: ConfChangeKind.ADD_VOTER,
    eraftpb_pb2.ConfChangeType.RemoveNode: ConfChangeKind.REMOVE,
    eraftpb_pb2.ConfChangeType.AddLearnerNode: ConfChangeKind.ADD_LEARNER,
}

GOODBYE_S = 0.3
"""How long a stop waits for the scheduler to hear of it."""
ASK_SPLIT_S = 3.0
"""How long the scheduler has to give ids for a split, and to take note of one."""
DiskUsage = Callable[[], tuple[int, int]]
"""Returns (capacity, available) of the store's disk in bytes."""


class ClientSchedulerLink:
    """Implements `raftstore.SchedulerLink` over a client; `attach` gives it the store, which is made after it."""

    def __init__(
        self,
        client: SchedulerClient,
        *,
        scope: Scope,
        clock: Clock,
        disk_usage: DiskUsage,
        started_s: int,
        register: Callable[[], Awaitable[None]],
        on_end: Callable[[StoreTombstoneError | StoreInUseError], None],
    ) -> None:
        """`register` tells the scheduler of this store again: one whose data is older may not know it. Raises ClientError.

        `on_end` is called once, if the scheduler says that this store was removed or that another process serves it.
        """
        self._client = client
        self._scope = scope
        self._clock = clock
        self._disk_usage = disk_usage
        self._started_s = started_s
        self._register = register
        self._on_end = on_end
        self._store: Store | None = None
        """Set once, by `attach`; nothing is reported before."""
        self._asking: set[int] = set()
        """Regions whose membership the scheduler is being asked for."""
        self._failing_since: float | None = None
        """Since when store heartbeats fail, monotonic; None while they work."""

    def warn_of_stop(self, store: Store) -> None:
        """Let the stop of the store, whose stages follow, begin with word to the scheduler: no more leaderships for it."""
        self._scope.on_stop("take no more leaderships", lambda: self._tell_leaving(store), GOODBYE_S + 0.2)

    def attach(self, store: Store) -> None:
        """Start to report for this store."""
        self._store = store
        self._heartbeats = self._client.region_heartbeats(self._on_order, store.report_all)
        self._scope.start("store-heartbeat", self._report_store, store)
        self._scope.on_stop("tell the scheduler", lambda: self._tell_stopping(store), GOODBYE_S + 0.2)

    # --- raftstore.SchedulerLink --------------------------------------------------------------------------------

    def report_region(self, report: RegionReport) -> None:
        """Send a region heartbeat; lost when no scheduler is connected, and repeated when one is."""
        if self._store is None:
            return
        self._heartbeats.send_nowait(report_to_pb(report))

    def ask_membership(self, region_id: RegionId, on_answer: Callable[[Region], None]) -> None:
        """Ask the scheduler for a region; at most one question per region at a time, and none while the store stops."""
        if region_id not in self._asking and not self._scope.stopping:
            self._asking.add(region_id)
            self._scope.start(f"ask-membership-{region_id}", self._ask_membership, region_id, on_answer)

    async def _ask_membership(self, region_id: RegionId, on_answer: Callable[[Region], None]) -> None:
        try:
            found = await self._client.get_region_by_id(region_id)
        except ClientError as error:
            _log.info("region %d: membership not answered: %s", region_id, error)
        else:
            if found is not None:
                on_answer(found.region)
        finally:
            self._asking.discard(region_id)

    def ask_split(
        self, region: Region, keys: Sequence[bytes], on_answer: Callable[[Sequence[SplitIds] | str], None]
    ) -> None:
        """Ask the scheduler for ids."""
        if self._scope.stopping:
            on_answer("the store is stopping")
        else:
            self._scope.start(f"ask-split-{region.id}", self._ask_split, region, keys, on_answer)

    async def _ask_split(
        self, region: Region, keys: Sequence[bytes], on_answer: Callable[[Sequence[SplitIds] | str], None]
    ) -> None:
        try:
            answer = await self._client.ask_split_at(region_to_pb(region), keys, ASK_SPLIT_S)
        except ClientError as error:
            on_answer(f"the scheduler gives none: {error}")
            return
        if answer.is_transactional and self._store is not None:
            self._store.splits.is_transactional = True
        made = [SplitIds(RegionId(one.new_region_id), tuple(map(PeerId, one.new_peer_ids))) for one in answer.ids]
        if not made and answer.is_transactional:
            on_answer("the cluster holds transactions, and is split at memcomparable keys only")
        elif len(made) != len(keys) or any(len(one.peer_ids) != len(region.peers) for one in made):
            on_answer("the scheduler gave another number of ids")
        else:
            on_answer(made)

    def report_split(self, regions: Sequence[Region]) -> None:
        """Tell the scheduler at once; what gets lost, the regions' reports tell."""
        if not self._scope.stopping:
            self._scope.start(f"report-split-{regions[-1].id}", self._report_split, regions)

    async def _report_split(self, regions: Sequence[Region]) -> None:
        try:
            await self._client.report_batch_split([region_to_pb(region) for region in regions], ASK_SPLIT_S)
        except ClientError as error:
            _log.info("region %d: its split is not reported: %s", regions[-1].id, error)

    # --- orders and store heartbeats ----------------------------------------------------------------------------

    def _on_order(self, order: pdpb_pb2.RegionHeartbeatResponse) -> None:
        assert self._store is not None
        region_id = RegionId(order.region_id)
        if order.HasField("change_peer"):
            change = order.change_peer
            kind = _KINDS.get(change.change_type)
            if kind is not None:
                self._store.change_membership(
                    region_id,
                    MembershipChange(kind, peer_from_pb(change.peer)),
                    conf_ver=order.region_epoch.conf_ver if order.HasField("region_epoch") else None,
                )
        elif order.HasField("transfer_leader"):
            self._store.transfer_leader(region_id, PeerId(order.transfer_leader.peer.id))
        elif order.HasField("split_region"):
            self._split(self._store, region_id, order)

    @staticmethod
    def _split(store: Store, region_id: RegionId, order: pdpb_pb2.RegionHeartbeatResponse) -> None:
        """Split where the scheduler says. It repeats the order until it sees the boundaries, so it may come twice."""
        if order.split_region.policy != pdpb_pb2.CheckPolicy.USEKEY or not order.HasField("region_epoch"):
            return
        epoch = epoch_from_pb(order.region_epoch)

        def on_done(error: Exception | None, regions: Sequence[Region]) -> None:
            if error is None:
                _log.info("region %d: split into %d regions, as ordered", region_id, len(regions))
            else:
                _log.info("region %d: not split, as was ordered: %s", region_id, error)

        peer = store.peers.get(region_id)
        keys = [key for key in order.split_region.keys if peer is None or key != peer.region.start_key]
        if keys and not store.splits.is_splitting(region_id):
            store.splits.split(region_id, keys, on_done, epoch=epoch)

    async def _report_store(self, store: Store) -> None:
        """Report until the scope stops, or the scheduler wants to hear no more."""
        while True:
            try:
                await self._send_store_heartbeat(store)
            except (StoreTombstoneError, StoreInUseError) as error:
                _log.warning("%s", error)
                self._on_end(error)
                return
            except ClientError as error:
                if self._failing_since is None:
                    _log.warning("store heartbeats fail, clients are served all the same: %s", error)
                    self._failing_since = self._clock.monotonic()
            else:
                if self._failing_since is not None:
                    _log.info("store heartbeats work again after %.1f s", self._clock.monotonic() - self._failing_since)
                    self._failing_since = None
            await asyncio.sleep(store.config.store_heartbeat_s)

    async def _send_store_heartbeat(self, store: Store) -> None:
        stats, timeout_s = self._stats(store), store.config.store_heartbeat_s * 3
        try:
            await self._client.store_heartbeat(stats, timeout_s=timeout_s)
        except StoreNotFoundError as error:
            _log.warning("the scheduler has forgotten this store, which registers again: %s", error)
            await self._register()
            await self._client.store_heartbeat(stats, timeout_s=timeout_s)

    async def _tell_leaving(self, store: Store) -> None:
        """Say that the store is busy from now on. If this gets lost, it hands over some leaderships more than once."""
        store.leaving.is_under_way = True
        try:
            await self._client.store_heartbeat(self._stats(store), GOODBYE_S)
        except ClientError as error:
            _log.debug("the scheduler does not know that this store hands over its leaderships: %s", error)

    async def _tell_stopping(self, store: Store) -> None:
        """Let another process serve this store at once, wherever it is. If this gets lost, that one has to wait."""
        stats = self._stats(store)
        stats.is_stopping = True
        try:
            await self._client.store_heartbeat(stats, GOODBYE_S)
        except ClientError as error:
            _log.debug("the scheduler does not know that this store stops: %s", error)

    def _stats(self, store: Store) -> pdpb_pb2.StoreStats:
        capacity, available = self._disk_usage()
        return pdpb_pb2.StoreStats(
            store_id=store.store_id,
            capacity=capacity,
            available=available,
            used_size=max(0, capacity - available),
            region_count=len(store.peers),
            is_busy=store.is_disk_silent or store.leaving.is_under_way,
            start_time=self._started_s,
        )


def report_to_pb(report: RegionReport) -> pdpb_pb2.RegionHeartbeatRequest:
    return pdpb_pb2.RegionHeartbeatRequest(
        region=region_to_pb(report.region),
        leader=peer_to_pb(report.leader),
        term=report.term,
        down_peers=[
            pdpb_pb2.PeerStats(peer=peer_to_pb(peer), down_seconds=int(seconds)) for peer, seconds in report.down_peers
        ],
        pending_peers=[peer_to_pb(peer) for peer in report.pending_peers],
        approximate_size=report.approximate_size_bytes,
    )
