"""What is measured: a playground's cluster through our own client."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Final

from pytinykv.cli.bench.processors import Processes, ProcessRole
from pytinykv.cli.bench.transactions import prepare_transactions

if TYPE_CHECKING:
    from pytinykv.aio import AsyncClient
    from pytinykv.cli.bench.workload import Call, OperationKind
    from pytinykv.cli.playground.cluster import LocalCluster, ServerProcess


class PytinykvTarget:
    """A running cluster; one client, as an application would have."""

    name = "pytinykv"

    def __init__(self, client: AsyncClient, cluster: LocalCluster | None) -> None:
        """Measure through `client`; `cluster` is where the processes are, None for one that was not started here."""
        raw = client.raw
        self.put = raw.put
        self.get = raw.get
        self._client: Final = client
        self._cluster: Final = cluster
        self._prepared: Final[dict[OperationKind, Call]] = {}
        """By kind of transactional operation, the call that runs one; made when it is first asked for."""

    async def prepare(self, operation: OperationKind, keys: int) -> Call | None:
        if operation not in self._prepared:
            self._prepared[operation] = await prepare_transactions(self._client, operation, keys)
        return self._prepared[operation]

    async def processes(self) -> Processes:
        """Return who leads and who follows now."""
        own = [os.getpid()]
        if self._cluster is None:
            return {ProcessRole.CLIENT: own}
        leader = await leader_of(self._cluster, self._client)
        followers = [store.child.pid for store in self._cluster.stores if store is not leader]
        return {ProcessRole.CLIENT: own, ProcessRole.LEADER: [leader.child.pid], ProcessRole.FOLLOWERS: followers}


async def leader_of(cluster: LocalCluster, client: AsyncClient) -> ServerProcess:
    """Return the store that leads the region of the keys that are measured."""
    region = await client.scheduler.get_region(b"bench")
    assert region is not None
    assert region.leader is not None
    store = await client.scheduler.get_store(region.leader.store_id)
    return next(process for process in cluster.stores if process.addr == store.address)
