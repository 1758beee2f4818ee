"""The programs of a simulated cluster: scheduler, store and client, each a real one on virtual parts.

A node is a place (host name, disk, clock) with at most one running process. `start` runs the real start sequence inside a
new process, `stop` the real stop with its report, `crash` neither.
"""

from __future__ import annotations

import asyncio
import math
import shutil
from collections.abc import Coroutine, Sequence
from contextlib import suppress
from contextvars import Context
from typing import Any, TypeVar

from pytinykv.client.async_client import AsyncClient
from pytinykv.client.config import ClientConfig
from pytinykv.client.errors import ClientError, StoreTombstoneError
from pytinykv.lifecycle import PROCESS_STOP_DEADLINE_S, Scope, ScopeStoppedError, StopReport
from pytinykv.model import FormatError
from pytinykv.scheduler.config import SchedulerConfig
from pytinykv.scheduler.scheduler import Scheduler
from pytinykv.server.host.startup_gate import StartupGate
from pytinykv.server.pd.admin import ADMIN
from pytinykv.server.pd.service import PdService
from pytinykv.simulation.checkers import CompareAndSwap
from pytinykv.simulation.clock import SimClock
from pytinykv.simulation.disk import SimDisk, SimWorker
from pytinykv.simulation.errors import SimulationError, Violation
from pytinykv.simulation.process import Process
from pytinykv.simulation.rpc_client import SimConnector
from pytinykv.simulation.rpc_server import SimServer
from pytinykv.simulation.world import World
from pytinykv.storage import EngineError

T = TypeVar("T")


class ProcessDied(SimulationError):
    """A process was killed while a task waited for it to start or stop."""


SCHEDULER_ADDRESS = "scheduler:2379"
START_AGAIN_S = 0.5
CALLERS_GONE_S = 2.0
STOP_BOUND_S = 8.0
"""Virtual seconds within which every program has to stop, whatever hinders it."""


def fail_unless_done(future: asyncio.Future[None], error: Exception) -> None:
    if not future.done():
        future.set_exception(error)


def is_disk_error(error: BaseException | None) -> bool:
    """Say whether an error, or what caused it, came from the disk."""
    while error is not None:
        if isinstance(error, EngineError | OSError):
            return True
        error = error.__cause__
    return False


class Node:
    """A host and what runs on it."""

    quick_stop_s = STOP_BOUND_S
    """Virtual seconds within which this kind of program stops when nothing hinders it."""

    def __init__(self, world: World, host: str) -> None:
        self.world = world
        self.host = host
        self.disk = SimDisk(world.rng_for(f"{host}/disk"), now=world.loop.time, host=host)
        """Outlives the programs that run here: what is synced is there after a crash."""
        self.clock = SimClock(world.loop)
        """The clocks of this machine; a nemesis lets them run fast, slow, or jump."""
        self.process: Process | None = None
        """The newest incarnation, alive or not; None before the first start."""
        self.scope: Scope | None = None
        """That incarnation's root scope."""
        self._is_up = False
        """Whether the start of the newest incarnation came to its end."""
        self._ending: asyncio.Task[None] | None = None
        """The task that ends a program whose disk has failed, or sweeps one that lost its power."""
        self.disk_failures = 0
        """How often the program has ended by itself, because of its disk."""

    @property
    def is_up(self) -> bool:
        """Whether the program runs and its start is over."""
        return self._is_up and self.running

    @property
    def running(self) -> bool:
        """Whether a process lives here; it may still be starting, or stopping."""
        return self.process is not None and self.process.alive

    async def start(self) -> None:
        """Start the program and wait until it serves. Raises what the start raises, or `ProcessDied`."""
        assert not self.running, f"{self.host} runs already"
        self.process = process = self.world.new_process(self.host)
        self._is_up = False
        ready: asyncio.Future[None] = self.world.loop.create_future()
        process.on_death.append(lambda: fail_unless_done(ready, ProcessDied(f"{process} died during its start")))
        process.call(self._launch, process, ready)
        await ready

    def _launch(self, process: Process, ready: asyncio.Future[None]) -> None:
        self.scope = scope = self.new_scope(process)
        scope.start("main", self._main, process, scope, ready)

    async def _main(self, process: Process, scope: Scope, ready: asyncio.Future[None]) -> None:
        """What the command line runs: bring the program up, then serve until the scope ends it."""
        try:
            await self._boot(process, scope)
        except asyncio.CancelledError:
            fail_unless_done(ready, ProcessDied(f"{process} was stopped during its start"))
            raise
        except Exception as error:  # noqa: BLE001 - the real process prints it and ends
            if isinstance(error, ScopeStoppedError) and scope.stopping:
                # Told to stop just before it made its next part: for `cli.serving.serve` that is a stop in good order, too.
                error = ProcessDied(f"{process} was stopped during its start: {error}")
            fail_unless_done(ready, error)
            return
        if not ready.done():
            self._is_up = True
            ready.set_result(None)
        await self._wait_over()
        self.world.trace.record("is_over", self.host)
        self._ending = self.world.loop.create_task(
            self._stop_by_itself(process), name="stop by itself", context=Context()
        )
        await asyncio.Event().wait()

    async def _wait_over(self) -> None:
        """Wait until the program is not needed any more, so that it ends by itself in good order."""
        await asyncio.Event().wait()

    async def _boot(self, process: Process, scope: Scope) -> None:
        raise NotImplementedError

    async def stop(self) -> StopReport:
        """Stop the program as SIGTERM does. Raises `Violation` when it doesn't end in time or leaves something."""
        process, scope = self.process, self.scope
        assert process is not None
        assert scope is not None
        self.world.trace.record("stop", self.host)
        started, stalls, was_stalled = self.world.loop.time(), process.stalls, process.stalled
        report = await self._within(process, "stop", scope.stop(PROCESS_STOP_DEADLINE_S))
        took_s = self.world.loop.time() - started
        was_held = was_stalled or process.stalls != stalls
        self.world.stops.add(0.0 if was_held else took_s, STOP_BOUND_S)
        if not was_held:
            bound_s = self.quick_stop_s if self.disk.is_quick else STOP_BOUND_S
            if took_s > bound_s:
                raise Violation("stop", f"{self.host} took {took_s:.3f} s to stop, not {bound_s} s\n{report.render()}")
            if not report.ok and not self.disk.hurt:
                raise Violation("stop", f"{self.host} did not stop cleanly\n{report.render()}")
        if report.leaks:  # a process that was held may be late with its stop, but must not leave anything
            raise Violation("stop", f"{self.host} left something\n{report.render()}")
        await self._wait_for_callers(process)
        if left := self.world.loop.pending_tasks(process):
            names = ", ".join(task.get_name() for task in left)
            raise Violation("stop", f"{self.host} stopped and left tasks: {names}\n{self.world.loop.describe_tasks()}")
        if open_connections := self.world.network.connections_held_by(process):
            raise Violation("leaks", f"{self.host} stopped and left {open_connections} connections open")
        self.world.trace.record("stopped", self.host)
        process.exit()
        return report

    async def _wait_for_callers(self, process: Process) -> None:
        """Users of the program inside its process hear of the stop, and get a moment to go."""

    async def crash(self) -> None:
        """Kill the program, and lose what its disk had not synced."""
        if self.process is not None and self.process.alive:
            self.world.trace.record("crash", self.host)
            await self.process.crash()
            self.world.files.tear(self.world.directory / self.host, self.disk.rng)

    def replace_disk(self) -> None:
        """Put in an empty disk. Only while the program is down."""
        assert not self.running, f"{self.host} runs"
        self.world.trace.record("empty_disk", self.host)
        self.disk.replace()
        shutil.rmtree(self.world.directory / self.host, ignore_errors=True)

    def cut_power_after(self, steps: int, *, within_turns: bool = False) -> None:
        """Let the program die in the middle of a turn: after so many more steps on its disk.

        Between two callbacks the disk is in few states only; a real process dies anywhere. `within_turns`: count only steps
        that follow another one at the same moment.
        """
        disk = self.disk
        disk.cuts_within_turns = within_turns

        def cut() -> None:
            process = self.process
            if process is not None and process.alive:
                self.world.trace.record("power cut", self.host)
                Context().run(process.die)  # what the world does about it isn't the dead one's
                self.world.files.tear(self.world.directory / self.host, disk.rng)
                self._ending = self.world.loop.create_task(self._sweep(process), name="sweep", context=Context())

        disk.power_cut, disk.steps_left = cut, steps

    async def _sweep(self, process: Process) -> None:
        try:
            await process.sweep()
        except Violation as violation:
            self.world.loop.abort(violation)

    async def wait_ended(self) -> None:
        """Wait for the end of a program that is ending by itself."""
        if self._ending is not None:
            await asyncio.wait([self._ending])
            self._ending = None

    async def _stop_by_itself(self, process: Process) -> None:
        """What the command line does when something owned has failed, or the program is not needed any more."""
        try:
            await self.stop()
        except ProcessDied:
            pass  # killed meanwhile
        except Violation as violation:
            self.world.loop.abort(violation)

    async def _within(self, process: Process, name: str, coroutine: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine as the process, and wait for it outside of all processes. Raises `ProcessDied`."""
        task = process.spawn(name, coroutine)
        try:
            await asyncio.wait([task])
        except asyncio.CancelledError:
            task.cancel()
            raise
        if not process.alive or task.cancelled():
            raise ProcessDied(f"{process} died during {name}")
        return task.result()

    def _on_disk_failure(self, process: Process, name: str, error: BaseException) -> None:
        self.world.trace.record("fails", self.host, name.replace(" ", "_"), type(error).__name__)
        if self._ending is None or self._ending.done():
            self.disk_failures += 1
            self._ending = self.world.loop.create_task(
                self._stop_by_itself(process), name="stop after failure", context=Context()
            )

    def new_scope(self, process: Process) -> Scope:
        """Make the root scope of a process; a task of it that fails ends the history, unless its disk was hurt."""
        scope = Scope(self.host)

        def on_failure(name: str, error: BaseException) -> None:
            if not process.alive:
                return
            if self.disk.hurt and is_disk_error(error):
                self._on_disk_failure(process, name, error)
            else:
                violation = Violation("task failure", f"{name} raised {error!r}")
                violation.__cause__ = error
                self.world.loop.abort(violation)

        scope.on_failure(on_failure)
        return scope


class SchedulerNode(Node):
    """The scheduler behind `pdpb.PD`, put together as in `server.host.scheduler_process`."""

    quick_stop_s = 1.2

    def __init__(self, world: World, host: str, config: SchedulerConfig) -> None:
        super().__init__(world, host)
        self._config = config
        """The settings of every incarnation."""
        self.scheduler: Scheduler | None = None
        """The one of the newest incarnation."""

    async def _boot(self, process: Process, scope: Scope) -> None:
        engine = self.disk.open(process)
        scope.on_stopped("close the engine", engine.close)
        inner = scope.child("scheduler")
        worker = SimWorker(process, self.disk, engine)
        inner.adopt(worker)
        gate = StartupGate("pdpb.PD", ADMIN)
        server = SimServer(self.world.internet, process, SCHEDULER_ADDRESS, [gate])
        server.start(inner)
        self.scheduler = scheduler = Scheduler.open(
            engine,
            self.clock,
            self._config,
            scope=inner,
            worker=worker,
            rng=self.world.rng_for(f"{self.host}/{process.incarnation}"),
            on_failure=lambda error: scope.fail("scheduler", error),
        )
        inner.on_stop("decide nothing any more", scheduler.stop)
        gate.open(PdService(scheduler, inner, client_url=f"http://{SCHEDULER_ADDRESS}"))


class ClientNode(Node):
    """A client program: the real asynchronous client over the virtual network."""

    quick_stop_s = 0.2

    def __init__(self, world: World, host: str, config: ClientConfig | None = None) -> None:
        super().__init__(world, host)
        self._config = config or ClientConfig()
        """The settings of every incarnation."""
        self.client: AsyncClient | None = None
        """The one of the newest incarnation; None before the first start."""
        self.connector: SimConnector | None = None
        """The one of the newest incarnation, on which `client`'s calls travel."""
        self._work: list[asyncio.Task[Any]] = []
        """Tasks spawned in the process; a stop waits for them."""

    async def _boot(self, process: Process, scope: Scope) -> None:
        self.connector = SimConnector(self.world.internet, process)
        self.client = AsyncClient(
            SCHEDULER_ADDRESS,
            connector=self.connector,
            rng=self.world.rng_for(f"{self.host}/{process.incarnation}"),
            scope=scope.child("client"),
            config=self._config,
        )

    def spawn(self, name: str, coroutine: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        """Run a workload in the client's process; its starter waits for it."""
        assert self.process is not None
        task = self.process.spawn(name, coroutine)
        self._work.append(task)
        return task

    def silence(self) -> None:
        """Keep the client from warning that it was never closed: a killed process gives no warnings."""
        if self.client is not None:
            self.client._closed = True  # noqa: SLF001 - there is no other way to end without a warning

    async def crash(self) -> None:
        self.silence()
        await super().crash()

    async def _wait_for_callers(self, process: Process) -> None:
        """A closed client resolves every pending call, so workloads come to their end."""
        if work := [task for task in self._work if not task.done()]:
            await asyncio.wait(work, timeout=CALLERS_GONE_S)
        self._work.clear()

    # the raw operations, as workloads use them

    @property
    def _raw(self) -> Any:
        assert self.client is not None
        return self.client.raw

    async def get(self, key: bytes, *, timeout_s: float) -> bytes | None:
        value: bytes | None = await self._raw.get(key, timeout=timeout_s)
        return value

    async def put(self, key: bytes, value: bytes, *, timeout_s: float, ttl: int = 0) -> None:
        await self._raw.put(key, value, timeout=timeout_s, ttl=ttl or None)

    async def delete(self, key: bytes, *, timeout_s: float) -> None:
        await self._raw.delete(key, timeout=timeout_s)

    async def compare_and_swap(
        self, key: bytes, expected: bytes | None, value: bytes, *, timeout_s: float, ttl: int = 0
    ) -> CompareAndSwap:
        answer = await self._raw.compare_and_swap(key, expected, value, timeout=timeout_s, ttl=ttl or None)
        return CompareAndSwap(succeeded=answer[0], previous=answer[1])

    async def ttl(self, key: bytes, *, timeout_s: float) -> int | None:
        left: float | None = await self._raw.ttl(key, timeout=timeout_s)
        return None if left is None else 0 if left == math.inf else int(left)

    async def batch_get(self, keys: Sequence[bytes], *, timeout_s: float) -> dict[bytes, bytes]:
        found: dict[bytes, bytes] = await self._raw.batch_get(keys, timeout=timeout_s)
        return found

    async def batch_put(self, pairs: dict[bytes, bytes], *, timeout_s: float) -> None:
        await self._raw.batch_put(pairs, timeout=timeout_s)

    async def batch_delete(self, keys: Sequence[bytes], *, timeout_s: float) -> None:
        await self._raw.batch_delete(keys, timeout=timeout_s)

    async def delete_range(self, start: bytes, end: bytes, *, timeout_s: float) -> None:
        await self._raw.delete_range(start, end, timeout=timeout_s)

    async def checksum(self, start: bytes, end: bytes, *, timeout_s: float) -> tuple[int, int, int]:
        total = await self._raw.checksum(start, end, timeout=timeout_s)
        return total.checksum, total.total_kvs, total.total_bytes

    async def scan(self, start: bytes, end: bytes, *, timeout_s: float) -> list[tuple[bytes, bytes]]:
        return [(key, value) async for key, value in self._raw.scan(start, end, timeout=timeout_s)]


async def start_until_up(node: Node) -> None:
    """Start a program, again and again if need be, as a supervisor does: without a scheduler a store gives up.

    Returns at once when it runs, or when another task is starting it.
    """
    while not node.running:
        try:
            await node.start()
        except ProcessDied:
            await node.crash()
        except StoreTombstoneError:  # it was removed from the cluster: it joins as a new one, with an empty disk
            await give_up_start(node)
            node.replace_disk()
        except ClientError:
            await give_up_start(node)
        except (EngineError, FormatError, OSError):
            if not node.disk.hurt:
                raise
            await give_up_start(node)
        else:
            return
        await asyncio.sleep(START_AGAIN_S)


async def give_up_start(node: Node) -> None:
    """End a program whose start has failed, in good order."""
    with suppress(ProcessDied):  # it was killed meanwhile
        await node.stop()
