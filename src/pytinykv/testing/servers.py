"""Servers in threads of this process: the real scheduler and store, over a memory engine, behind real gRPC ports.

Each server has an event loop in a thread of its own, so that one can be stopped, paused or lost without the others. It is put
together as `server.host` does it, without a data directory, a status port and signals.

Killed, it ends without a word: nothing leaves any more, its engine loses what was not synced, and its tasks are cancelled
without the stages of a stop. Paused, its thread waits in the middle of the loop, as a process that got SIGSTOP does.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import random
import threading
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING, Final

from pytinykv.client.grpc_connector import GrpcConnector
from pytinykv.lifecycle import InlineWorker, LifecycleError, LoopThread, Scope, SystemClock
from pytinykv.scheduler import Scheduler, SchedulerConfig
from pytinykv.server.host.address_book import AddressBook
from pytinykv.server.host.grpc_binding import bind_service
from pytinykv.server.host.health import HealthService
from pytinykv.server.host.joined_services import JoinedServices
from pytinykv.server.host.raft_transport import StoreTransport, serve_raft_messages, serve_snapshots
from pytinykv.server.host.scheduler_process import PD
from pytinykv.server.host.startup_gate import StartupGate
from pytinykv.server.host.store_process import DEADLOCK, TIKV
from pytinykv.server.host.store_program import StorePorts, StoreProgram
from pytinykv.server.pd.admin import ADMIN
from pytinykv.server.pd.service import ETCD, PdService
from pytinykv.storage.memory import MemoryEngine
from pytinykv.testing.answers import AnsweringService, Orders
from pytinykv.testing.network import CutConnector, Cuts, CutTransport
from pytinykv.transport.rpc import RpcServer
from pytinykv.wire.limits import MESSAGE_BYTES_MAX

if TYPE_CHECKING:
    from pytinykv.client.pd.scheduler_client import SchedulerClient
    from pytinykv.raftstore import RaftStoreConfig
    from pytinykv.wire import Service

START_S: Final = 30.0
STOP_S: Final = 5.0
KILL_S: Final = 1.0
_DISK_BYTES: Final = 1 << 40
_STEP_S: Final = 5.0
"""How long a step in a server's loop may take that does not wait for anything."""


class ServerThread:
    """What both servers have: a loop in a thread, an engine that outlives it, a port that it keeps."""

    def __init__(self, name: str, address: str) -> None:
        self.name: Final = name
        self.address: Final = address
        self._thread: LoopThread | None = None
        """Runs the server; None before the first start and after each end."""
        self._engine = MemoryEngine()
        """Replaced by its successor at each end."""
        self._resumed: threading.Event | None = None
        """Set to let a paused thread go on; None while it is not paused."""
        self._crash_when_resumed: Scope | None = None
        """What a paused thread is to lose first when it goes on: it was killed meanwhile."""

    @property
    def is_running(self) -> bool:
        """Whether it was started and has not ended; a paused one is running."""
        return self._thread is not None

    async def start(self) -> None:
        """Return when it serves. Raises AddressError, ClientError, as the real server does."""
        if self._thread is not None:
            raise LifecycleError(f"{self.name} runs already")
        self._thread = thread = LoopThread(self.name)
        thread.start()
        try:
            await thread.ask(self._boot, START_S, thread.scope)
        except BaseException:
            await self.kill()
            raise

    async def stop(self) -> None:
        """Stop in good order: leaderships are handed over, everything is synced."""
        self.resume()
        thread, self._thread = self._thread, None
        if thread is not None:
            await thread.end(STOP_S)
            self._engine = self._engine.reopen()

    async def kill(self) -> None:
        """End at once, without a word to others. A paused one, too."""
        await self.begin_kill()

    def begin_kill(self) -> Awaitable[object]:
        """Have it end at once; what is returned waits until it has."""
        thread, self._thread = self._thread, None
        if thread is None:
            return asyncio.sleep(0)
        self._die()
        loop = thread.scope.loop
        if self._resumed is not None:
            self._crash_when_resumed = thread.scope
            self.resume()
        elif loop is not None:
            loop.call_soon_threadsafe(self._crash, thread.scope)
        thread.request_stop(KILL_S)
        return thread.end(KILL_S)

    async def pause(self) -> None:
        """Block the server's thread until `resume`. Its connections stay, and take what fits into their buffers."""
        if self._thread is None or self._resumed is not None:
            return
        self._resumed = resumed = threading.Event()
        reached: concurrent.futures.Future[None] = concurrent.futures.Future()
        reached.set_running_or_notify_cancel()

        def block() -> None:
            reached.set_result(None)
            resumed.wait()
            if (scope := self._crash_when_resumed) is not None:
                self._crash_when_resumed = None
                self._crash(scope)

        loop = self._thread.scope.loop
        assert loop is not None
        loop.call_soon_threadsafe(block)
        async with asyncio.timeout(_STEP_S):
            await asyncio.wrap_future(reached)

    def resume(self) -> None:
        """Let a paused thread go on. Nothing if it is not paused."""
        resumed, self._resumed = self._resumed, None
        if resumed is not None:
            resumed.set()

    def _crash(self, scope: Scope) -> None:
        """Lose what was not synced, and let no task go on; in the server's loop, between two of its steps."""
        self._engine = self._engine.crash(random.Random())
        scope.forget_stages()
        for one in scope.subtree():
            for task in list(one.books.tasks):
                task.cancel("the server was killed")

    async def _boot(self, scope: Scope) -> None:
        raise NotImplementedError

    def _die(self) -> None:
        """Let nothing leave any more. Called in another thread."""


class SchedulerThread(ServerThread):
    """A scheduler in a thread."""

    def __init__(self, name: str, address: str, config: SchedulerConfig) -> None:
        super().__init__(name, address)
        self._config = config

    async def _boot(self, scope: Scope) -> None:
        scope.on_stopped("close the engine", self._engine.close)
        inner = scope.child("scheduler")
        port = _Port(inner, PD, ADMIN, ETCD)
        await port.server.start(self.address)
        scheduler = Scheduler.open(self._engine, SystemClock(), self._config, scope=inner, worker=InlineWorker())
        inner.on_stop("decide nothing any more", scheduler.stop)
        port.serve(PdService(scheduler, inner, client_url=f"http://{self.address}"))


class StoreThread(ServerThread):
    """A store in a thread."""

    def __init__(
        self,
        name: str,
        number: int,
        addresses: tuple[str, str],
        *,
        scheduler: str,
        snapshots: Path,
        config: RaftStoreConfig,
        cuts: Cuts,
        orders: Orders,
    ) -> None:
        """`addresses`: for clients, and for other stores. `snapshots`: a directory that exists."""
        super().__init__(name, addresses[0])
        self.number: Final = number
        self.store_id = 0
        """Which store of the cluster this is; 0 before it has served."""
        self._peer_address: Final = addresses[1]
        self._scheduler: Final = scheduler
        self._snapshots: Final = snapshots
        self._config: Final = config
        self._cuts: Final = cuts
        self._orders: Final = orders
        cuts.place(self.address, number)
        self._die_now: Callable[[], None] = lambda: None
        """Lets nothing leave any more of what the last start has made."""

    async def _boot(self, scope: Scope) -> None:
        scope.on_stopped("close the engine", self._engine.close)
        inner = scope.child("store")
        port = _Port(inner, TIKV, DEADLOCK)
        transports: list[CutTransport] = []
        program = StoreProgram(
            ports=self._ports(inner, transports),
            scheduler_addresses=self._scheduler,
            config=self._config,
            scope=inner,
        )
        serve_snapshots(port.server, program)
        await port.server.start(self.address)
        await serve_raft_messages(inner, program).start(self._peer_address)
        service = await program.start(self.address, peer_address=self._peer_address)
        self.store_id = program.store.store_id
        self._cuts.name(self.store_id, self.number)
        answering = AnsweringService(service, self._orders, inner, self.number)

        def die() -> None:
            answering.is_dead = True
            for transport in transports:
                transport.is_dead = True

        self._die_now = die
        port.serve(JoinedServices(answering, service.deadlocks))

    def _ports(self, scope: Scope, transports: list[CutTransport]) -> StorePorts:
        def transport(scheduler: SchedulerClient) -> CutTransport:
            made = CutTransport(StoreTransport(AddressBook(scheduler, scope), scope), self._cuts, self.number)
            transports.append(made)
            return made

        return StorePorts(
            engine=self._engine,
            snapshots_path=self._snapshots,
            clock=SystemClock(),
            rng=random.Random(),
            disk=InlineWorker(),
            background=InlineWorker(),
            transport=transport,
            connector=CutConnector(GrpcConnector(scope), self._cuts, self.number),
            disk_usage=lambda: (_DISK_BYTES, _DISK_BYTES),
        )

    def _die(self) -> None:
        self._die_now()


class _Port:
    """A gRPC port with its health service, which answers UNAVAILABLE until `serve`."""

    def __init__(self, scope: Scope, *services: str) -> None:
        self._health, self._gate = HealthService(services), StartupGate(*services)
        scope.on_stop("tell that it does not serve any more", self._health.begin_stop)
        self.server = RpcServer(scope, "grpc", options=[("grpc.max_receive_message_length", MESSAGE_BYTES_MAX)])
        bind_service(self.server, self._gate)
        bind_service(self.server, self._health)

    def serve(self, service: Service) -> None:
        self._gate.open(service)
        self._health.set_all_serving()
