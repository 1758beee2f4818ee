"""The programs of a simulated cluster: scheduler, store and client, each a real one on virtual parts.

A node is a place (host name, disk, clock) with at most one running process. `start` runs the real start sequence inside a
new process, `stop` the real stop with its report, `crash` neither.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

from pytinykv.client.async_client import AsyncClient
from pytinykv.client.config import ClientConfig
from pytinykv.lifecycle import Scope, StopReport
from pytinykv.scheduler.config import SchedulerConfig
from pytinykv.scheduler.scheduler import Scheduler
from pytinykv.server.pd_service import PdService
from pytinykv.simulation.clock import SimClock
from pytinykv.simulation.disk import SimDisk, SimEngine, SimWorker
from pytinykv.simulation.errors import SimulationError, Violation
from pytinykv.simulation.history import CompareAndSwap
from pytinykv.simulation.process import Process
from pytinykv.simulation.rpc import SimConnector, SimServer
from pytinykv.simulation.world import World

__all__ = ["SCHEDULER_ADDRESS", "ClientNode", "Node", "ProcessDied", "SchedulerNode"]

T = TypeVar("T")


class ProcessDied(SimulationError):
    """A process was killed while somebody waited for it to start or stop."""


SCHEDULER_ADDRESS = "scheduler:2379"
STOP_BOUND_S = 8.0
"""Virtual seconds within which every program has to stop."""


class Node:
    """A host and what runs on it."""

    def __init__(self, world: World, host: str) -> None:
        self.world = world
        self.host = host
        self.disk = SimDisk(world.rng_for(f"{host}/disk"))
        self.clock = SimClock(world.loop)
        self.process: Process | None = None
        self.scope: Scope | None = None
        self.is_up = False
        """Whether the start is over."""

    @property
    def running(self) -> bool:
        """Whether a process lives here; it may still be starting, or stopping."""
        return self.process is not None and self.process.alive

    async def start(self) -> None:
        """Start the program and wait until it serves. Raises what the start raises."""
        assert not self.running, f"{self.host} runs already"
        self.process = process = self.world.new_process(self.host)
        self.is_up = False
        await self._within(process, "start", self._boot(process))
        self.is_up = True

    async def _boot(self, process: Process) -> None:
        raise NotImplementedError

    async def stop(self) -> StopReport:
        """Stop the program as SIGTERM does. Raises `Violation` when it doesn't end in time or leaves something."""
        process, scope = self.process, self.scope
        assert process is not None
        assert scope is not None
        self.world.trace.record("stop", self.host)
        started = self.world.loop.time()
        report = await self._within(process, "stop", self._shut_down(scope))
        took_s = self.world.loop.time() - started
        if took_s > STOP_BOUND_S:
            raise Violation("stop", f"{self.host} took {took_s:.3f} s to stop\n{report.render()}")
        if not report.ok:
            raise Violation("stop", f"{self.host} did not stop cleanly\n{report.render()}")
        if left := [task for task in self.world.loop.pending_tasks(process) if not task.done()]:
            names = ", ".join(task.get_name() for task in left)
            raise Violation("stop", f"{self.host} stopped and left tasks: {names}\n{self.world.loop.describe_tasks()}")
        self.world.trace.record("stopped", self.host)
        process.exit()
        return report

    async def stop_if_running(self) -> None:
        """Stop the program, if it has come so far that there is something to stop."""
        if self.running and self.is_up:
            await self.stop()

    async def _shut_down(self, scope: Scope) -> StopReport:
        return await scope.stop()

    async def crash(self) -> None:
        """Kill the program, and lose what its disk had not synced."""
        if self.process is not None and self.process.alive:
            self.world.trace.record("crash", self.host)
            await self.process.crash()

    async def _within(self, process: Process, name: str, coroutine: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine as the process, and wait for it as nobody; its death ends the wait with `Violation`."""
        task = process.spawn(name, coroutine)
        try:
            await asyncio.wait([task])
        except asyncio.CancelledError:
            task.cancel()
            raise
        if not process.alive or task.cancelled():
            raise ProcessDied(f"{process} died during {name}")
        return task.result()

    def new_scope(self, process: Process) -> Scope:
        """Make the root scope of a process; a task of it that fails ends the history."""
        scope = Scope(self.host)

        def on_failure(name: str, error: BaseException) -> None:
            if process.alive:
                violation = Violation("task failure", f"{name} raised {error!r}")
                violation.__cause__ = error
                self.world.loop.abort(violation)

        scope.on_failure(on_failure)
        return scope


class SchedulerNode(Node):
    """The scheduler behind `pdpb.PD`."""

    def __init__(self, world: World, host: str, config: SchedulerConfig) -> None:
        super().__init__(world, host)
        self._config = config
        self.scheduler: Scheduler | None = None

    async def _boot(self, process: Process) -> None:
        engine: SimEngine = self.disk.open(process)
        self.scope = scope = self.new_scope(process)
        worker = SimWorker(process, self.disk, engine)
        self.scheduler = scheduler = Scheduler.open(
            engine,
            self.clock,
            self._config,
            scope=scope,
            worker=worker,
            rng=self.world.rng_for(f"{self.host}/{process.incarnation}"),
        )
        service = PdService(scheduler, scope, client_url=f"http://{SCHEDULER_ADDRESS}")
        server = SimServer(self.world.internet, process, SCHEDULER_ADDRESS, [service])
        server.start()
        scope.on_stop("scheduler", scheduler.stop)
        scope.on_stop("server", lambda: server.stop(grace_s=0.5), 2.0)
        scope.on_stop("disk worker", worker.stop)
        scope.on_stop("engine", engine.close)


class ClientNode(Node):
    """A client program: the real asynchronous client over the virtual network."""

    def __init__(self, world: World, host: str, config: ClientConfig | None = None) -> None:
        super().__init__(world, host)
        self._config = config or ClientConfig()
        self.client: AsyncClient | None = None
        self.connector: SimConnector | None = None

    async def _boot(self, process: Process) -> None:
        self.scope = scope = self.new_scope(process)
        self.connector = SimConnector(self.world.internet, process)
        self.client = AsyncClient(
            SCHEDULER_ADDRESS,
            connector=self.connector,
            rng=self.world.rng_for(f"{self.host}/{process.incarnation}"),
            scope=scope,
            config=self._config,
        )

    async def _shut_down(self, scope: Scope) -> StopReport:
        assert self.client is not None
        return await self.client.close()

    def spawn(self, name: str, coroutine: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        """Run a workload in the client's process; its starter waits for it."""
        assert self.process is not None
        return self.process.spawn(name, coroutine)

    # the raw operations, as workloads use them

    @property
    def _raw(self) -> Any:
        assert self.client is not None
        return self.client.raw

    async def get(self, key: bytes, *, timeout_s: float) -> bytes | None:
        value: bytes | None = await self._raw.get(key, timeout=timeout_s)
        return value

    async def put(self, key: bytes, value: bytes, *, timeout_s: float) -> None:
        await self._raw.put(key, value, timeout=timeout_s)

    async def delete(self, key: bytes, *, timeout_s: float) -> None:
        await self._raw.delete(key, timeout=timeout_s)

    async def compare_and_swap(
        self, key: bytes, expected: bytes | None, value: bytes, *, timeout_s: float
    ) -> CompareAndSwap:
        answer = await self._raw.compare_and_swap(key, expected, value, timeout=timeout_s)
        return CompareAndSwap(succeeded=answer[0], previous=answer[1])

    async def scan(self, start: bytes, end: bytes, *, timeout_s: float) -> list[tuple[bytes, bytes]]:
        return [(key, value) async for key, value in self._raw.scan(start, end, timeout=timeout_s)]
