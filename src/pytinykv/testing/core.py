"""A cluster under test, asynchronous: its servers, and what is done to them. The faces (`sync`, `aio`) stand on it."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from random import Random
from typing import TYPE_CHECKING, Final, NamedTuple

from pytinykv.client.config import ClientConfig
from pytinykv.client.errors import ClientError, SchedulerError, TransactionRefusedError
from pytinykv.client.executor import Executor
from pytinykv.client.grpc_connector import GrpcConnector
from pytinykv.client.key_space import KeyRange
from pytinykv.client.pd.scheduler_client import SchedulerClient
from pytinykv.client.raw_commands import RawDeleteRange
from pytinykv.client.txn.resolve_commands import DeleteRange
from pytinykv.testing.backend import ClusterError
from pytinykv.wire.cf import RAW_COLUMN_FAMILIES
from pytinykv.wire.keys import encode_bytes
from pytinykv.wire.pb import pdpb_pb2

if TYPE_CHECKING:
    from pytinykv.client.commands import RangeCommand
    from pytinykv.lifecycle import Scope
    from pytinykv.testing.backend import Backend, ClusterConfig

READY_S: Final = 30.0
"""How long a cluster may take to serve, and an order to be carried out. A loaded machine is slow."""
CLOSE_S: Final = 15.0
"""How long the end may take at most."""
_POLL_S: Final = 0.01


class RegionFacts(NamedTuple):
    """A region as the scheduler knows it."""

    id: int
    start: bytes
    """First key, as regions have it: memcomparable once the cluster has had transactions; empty: from the first on."""
    end: bytes
    """Key behind the last one; empty: to the last."""
    leader: int
    """Number of the store that leads it; 0 while none is known to."""
    stores: tuple[int, ...]
    """Numbers of the stores that have a peer that votes and is up to date."""


class ClusterCore:
    """One cluster. All calls in one event loop; `scope` ends it."""

    def __init__(self, config: ClusterConfig, backend: Backend, scope: Scope) -> None:
        self.config: Final = config
        self.backend: Final = backend
        self._scope: Final = scope
        self._scheduler: SchedulerClient | None = None
        """Asks the cluster's scheduler; from the start on."""
        self._connector: GrpcConnector | None = None
        """Reaches scheduler and stores; from the start on."""
        self._executor: Executor | None = None
        """Runs commands of our own; made when the first is."""
        scope.on_stop("end the servers", self._close, CLOSE_S)

    @property
    def scheduler(self) -> SchedulerClient:
        """The client of the cluster's scheduler."""
        assert self._scheduler is not None, "the cluster was not started"
        return self._scheduler

    async def start(self) -> None:
        """Start the servers; return when the first region has all its peers, and a leader. Raises ClusterError."""
        await self.backend.start()
        self._connector = GrpcConnector(self._scope)
        self._scheduler = SchedulerClient(
            self.backend.address, connector=self._connector, rng=Random(), scope=self._scope
        )
        await self.wait_replicated()

    async def _close(self) -> None:
        if self._executor is not None:
            self._executor.close()
        if self._connector is not None:
            await self._connector.close()
        await self.backend.close()

    async def regions(self) -> list[RegionFacts]:
        """Return all regions in the order of their keys."""
        request = pdpb_pb2.ScanRegionsRequest()
        reply = await self.scheduler.call("ScanRegions", request, pdpb_pb2.ScanRegionsResponse)
        numbers = {self.backend.store_id(number): number for number in range(1, self.config.stores + 1)}
        return [_facts(region, numbers) for region in reply.regions]

    async def wait_replicated(self) -> None:
        """Wait until every region has all its peers, up to date, and a leader. Raises ClusterError."""
        peers = self.config.peers

        def problem(regions: list[RegionFacts]) -> str:
            if not regions:
                return "there is no region"
            for region in regions:
                if not region.leader:
                    return f"region {region.id} has no leader"
                if len(region.stores) < peers:
                    return f"region {region.id} has {len(region.stores)} of {peers} peers"
            return ""

        await self._wait_for(problem)

    async def split(self, key: bytes, *, raw: bool = False) -> None:
        """Split the region that has `key` there; return when the scheduler knows both. Nothing if there is a border."""
        if not isinstance(key, bytes):
            raise TypeError(f"key must be bytes, not {key!r}")
        if not key:
            return  # the first region begins with the first key
        bound = key if raw else encode_bytes(key)
        deadline = asyncio.get_running_loop().time() + READY_S
        while (await self.scheduler.split_regions([bound])).finished_percentage < 100:
            if asyncio.get_running_loop().time() > deadline:
                raise ClusterError(f"no region begins at {key!r} after {READY_S:.0f} s\n{self.backend.log()}")
            await asyncio.sleep(_POLL_S)
        await self._wait_for(lambda regions: "" if all(one.leader for one in regions) else "a part has no leader")

    async def transfer_leader(self, region_id: int, number: int) -> None:
        """Have a store lead a region; return when the scheduler knows that it does. Raises ClusterError."""
        store_id = self.backend.store_id(number)
        failure = ""

        def problem(regions: list[RegionFacts]) -> str:
            found = next((one for one in regions if one.id == region_id), None)
            if found is None:
                raise ClusterError(f"there is no region {region_id}; there are {[one.id for one in regions]}")
            return "" if found.leader == number else f"store {found.leader} leads region {region_id}; {failure}"

        deadline = asyncio.get_running_loop().time() + READY_S
        while problem(await self.regions()):
            try:
                await self.scheduler.transfer_leader(region_id, store_id)
            except SchedulerError as error:
                failure = str(error)
            if asyncio.get_running_loop().time() > deadline:
                raise ClusterError(
                    f"region {region_id} was not moved to store {number} in {READY_S:.0f} s: "
                    f"{problem(await self.regions())}"
                )
            await asyncio.sleep(0.05)

    async def clear(self) -> None:
        """Delete all data, raw and transactional. Regions stay, and so do snapshots' timestamps. Raises ClientError."""
        assert self._connector is not None, "the cluster was not started"
        if self._executor is None:
            self._executor = Executor(
                self.scheduler, connector=self._connector, rng=Random(), scope=self._scope, config=ClientConfig()
            )
        everything = KeyRange(b"", b"")
        deadline = self._executor.deadline(READY_S)
        for family in RAW_COLUMN_FAMILIES:
            await self._delete(_raw_deletion(family), everything, deadline)
        with contextlib.suppress(TransactionRefusedError):  # split for raw data alone: there is nothing transactional
            await self._delete(DeleteRange, everything, deadline)

    async def _delete(
        self, make: Callable[[KeyRange], RangeCommand[None]], left: KeyRange | None, deadline: float
    ) -> None:
        assert self._executor is not None
        while left is not None:
            command = make(left)
            await self._executor.execute(command, deadline)
            left = left.behind(command.covered)

    async def reset(self) -> None:
        """Undo what was done to the cluster: it is healed and empty, and all its stores run. Regions stay.

        Raises ClusterError, ClientError.
        """
        backend = self.backend
        backend.orders.clear()
        backend.heal()
        for number in range(1, self.config.stores + 1):
            if backend.is_running(number):
                await backend.resume_store(number)
            else:
                await backend.start_store(number)
        await self.wait_replicated()
        await self.clear()

    async def _wait_for(self, problem: Callable[[list[RegionFacts]], str]) -> None:
        deadline = asyncio.get_running_loop().time() + READY_S
        said = "the scheduler does not answer"
        while asyncio.get_running_loop().time() < deadline:
            try:
                said = problem(await self.regions())
            except ClientError as error:
                said = str(error)
            if not said:
                return
            await asyncio.sleep(_POLL_S)
        raise ClusterError(f"the cluster is not as it should be after {READY_S:.0f} s: {said}\n{self.backend.log()}")


def _raw_deletion(family: str) -> Callable[[KeyRange], RawDeleteRange]:
    return lambda left: RawDeleteRange(left, family)


def _facts(region: pdpb_pb2.Region, numbers: dict[int, int]) -> RegionFacts:
    behind = {peer.id for peer in region.pending_peers} | {down.peer.id for down in region.down_peers}
    return RegionFacts(
        region.region.id,
        region.region.start_key,
        region.region.end_key,
        numbers.get(region.leader.store_id, 0),
        tuple(sorted(numbers.get(p.store_id, 0) for p in region.region.peers if not p.role and p.id not in behind)),
    )
