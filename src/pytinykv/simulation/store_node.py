"""A store of the simulated cluster: the real `server.host.store_program.StoreProgram` on a virtual disk, clock and network.

Put together, and so also stopped, in the order of `server.host.store_process`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Protocol

from pytinykv.lifecycle import Scope
from pytinykv.raft import ProtocolViolation
from pytinykv.raftstore.config import RaftStoreConfig
from pytinykv.raftstore.records import RaftEnvelope
from pytinykv.server.host.joined_services import JoinedServices
from pytinykv.server.host.startup_gate import StartupGate
from pytinykv.server.host.store_program import StorePorts, StoreProgram
from pytinykv.simulation.disk import SimWorker
from pytinykv.simulation.errors import Violation
from pytinykv.simulation.nodes import SCHEDULER_ADDRESS, Node
from pytinykv.simulation.process import Process
from pytinykv.simulation.rpc_client import SimConnector
from pytinykv.simulation.rpc_server import SimServer
from pytinykv.simulation.transport import Directory, SimTransport
from pytinykv.simulation.world import World

if TYPE_CHECKING:
    from pytinykv.raftstore.store import Store

DISK_BYTES = 1 << 40
FIRST_PORT = 20160


class Registry(Directory, Protocol):
    """Where a store tells who it is."""

    def register_store(self, store_id: int, node: StoreNode) -> None: ...


class StoreNode(Node):
    """One store; `start` is the start sequence of `tinykv store`."""

    quick_stop_s = 3.5
    """The hand-over of what it leads takes most of it, if no follower can take it over."""

    def __init__(self, world: World, host: str, config: RaftStoreConfig, registry: Registry) -> None:
        super().__init__(world, host)
        self.config = replace(config, inline_sync_s=0)  # a virtual disk's syncs take their time in its worker
        self.address = f"{host}:{FIRST_PORT}"
        """Where it serves clients; `move` gives it another port."""
        self._program: StoreProgram | None = None
        """That of the newest incarnation."""
        self._serving = False
        """Whether its start is over, so that messages reach the store."""
        self._registry = registry

    def move(self) -> None:
        """Serve at another address from the next start on."""
        self.address = f"{self.host}:{int(self.address.rpartition(':')[2]) + 1}"

    @property
    def serving(self) -> tuple[Process, Store] | None:
        """The process and the store that take messages now."""
        if self.process is None or not self.process.alive or not self._serving:
            return None
        assert self._program is not None
        return self.process, self._program.store

    @property
    def store_id(self) -> int:
        """Which store this is; only once it has served."""
        assert self._program is not None
        return self._program.store.store_id

    def led(self) -> Iterator[tuple[int, int]]:
        """Yield (term, region) for each region that this store believes to lead."""
        if self.serving is not None:
            for peer in self.serving[1].peers.values():
                if peer.is_leader:
                    yield peer.node.status().term, peer.region.id

    async def _boot(self, process: Process, scope: Scope) -> None:
        self._serving = False
        engine = self.disk.open(process)
        scope.on_stopped("close the engine", engine.close)
        inner = scope.child("store")
        connector = SimConnector(self.world.internet, process)
        disk, background = SimWorker(process, self.disk, engine), SimWorker(process, self.disk, engine)
        for member in (disk, background, connector):
            inner.adopt(member)
        self._program = program = StoreProgram(
            ports=StorePorts(
                engine=engine,
                snapshots_path=self.world.directory / self.host,
                clock=self.clock,
                rng=self.world.rng_for(f"{self.host}/{process.incarnation}"),
                disk=disk,
                background=background,
                transport=lambda _scheduler: SimTransport(self.world.network, self._registry, process),
                connector=connector,
                disk_usage=lambda: (DISK_BYTES, DISK_BYTES),
            ),
            scheduler_addresses=SCHEDULER_ADDRESS,
            config=self.config,
            scope=inner,
            claim=self._claim,
        )
        gate = StartupGate("tikvpb.Tikv", "deadlock.Deadlock")
        SimServer(self.world.internet, process, self.address, [gate]).start(inner)
        service = await program.start(self.address)
        gate.open(JoinedServices(service, service.deadlocks))
        program.store.on_protocol_violation = self._on_protocol_violation
        self._serving = True

    async def _wait_over(self) -> None:
        assert self._program is not None
        await self._program.wait_removed()

    def _on_protocol_violation(self, envelope: RaftEnvelope, error: ProtocolViolation) -> None:
        violation = Violation(
            "protocol", f"{self.host}, region {envelope.region_id}: from peer {envelope.sender.id}: {error}"
        )
        self.world.loop.abort(violation)

    def _claim(self, _cluster_id: int, store_id: int) -> None:
        if store_id:
            self._registry.register_store(store_id, self)
