"""One simulated world: loop, randomness, network, address book, trace; and the frame in which a history runs.

`run_world` builds a world for a seed, runs one coroutine in it, and checks at the end that nothing is left behind: no
task, no timer, no open connection, no unhandled exception.
"""

from __future__ import annotations

import asyncio
import gc
import hashlib
import os
import tempfile
import time
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from pathlib import Path
from random import Random
from typing import Any, TypeVar

import msgspec

from pytinykv.simulation.errors import Violation
from pytinykv.simulation.files import FileSyncs
from pytinykv.simulation.loop import SimLoop
from pytinykv.simulation.network import LinkConditions, Network
from pytinykv.simulation.process import Process
from pytinykv.simulation.rpc_server import Internet
from pytinykv.simulation.trace import Trace

T = TypeVar("T")


class WorldOptions(msgspec.Struct, frozen=True, kw_only=True):
    """Settings of a world that don't come from the seed."""

    shuffle: bool = True
    """Whether steps of different tasks within one turn may change places."""
    keep_lines: bool = False
    """Whether the trace keeps its lines, for reading."""
    time_limit_s: float = 600.0
    """Virtual seconds after which a history counts as one that doesn't end."""
    conditions: LinkConditions = LinkConditions()


class Stops(msgspec.Struct):
    """What the stops of one history came to."""

    count: int = 0
    longest_s: float = 0.0
    """Virtual seconds, of those whose process was not held meanwhile."""
    late: int = 0
    """How many took longer than they may."""

    def add(self, took_s: float, bound_s: float) -> None:
        self.count += 1
        self.longest_s = max(self.longest_s, took_s)
        self.late += took_s > bound_s


class World:
    """Everything the processes of one history share. `rng_for` gives each part its own branch of the seed."""

    def __init__(self, seed: int, options: WorldOptions, directory: Path) -> None:
        self.seed = seed
        self.options = options
        self.directory = directory
        """A directory of the real file system for files that engines export; gone after the history."""
        self.files = FileSyncs(directory)
        shuffle = self.rng_for("shuffle") if options.shuffle else None
        self.loop = SimLoop(shuffle=shuffle, time_limit_s=options.time_limit_s)
        self.trace = Trace(self.loop.time, keep_lines=options.keep_lines)
        self.network = Network(self.loop, self.rng_for("network"), self.trace, options.conditions)
        self.internet = Internet(self.network)
        self._incarnations: dict[str, int] = {}
        """Host -> number of its newest process."""
        self.stops = Stops()

    def rng_for(self, branch: str) -> Random:
        """Return a source of randomness that depends on the seed and the branch's name only."""
        digest = hashlib.blake2b(f"{self.seed}/{branch}".encode(), digest_size=8).digest()
        return Random(int.from_bytes(digest))

    def new_process(self, host: str) -> Process:
        """Start an (empty) process on a host; a later one on the same host is its next incarnation."""
        number = self._incarnations[host] = self._incarnations.get(host, 0) + 1
        self.trace.record("process", host, number)
        return Process(self.loop, host, number)

    def check_nothing_left(self) -> None:
        """Raise `Violation` when tasks, timers, connections, open files or unhandled exceptions are left."""
        self._check_errors()
        this = asyncio.current_task(self.loop)
        if tasks := [task for task in self.loop.pending_tasks() if task is not this]:
            raise Violation("leaks", f"{len(tasks)} tasks are left:\n{self.loop.describe_tasks()}")
        if connections := list(self.network.open_connections):
            raise Violation("leaks", f"{len(connections)} connections are open")
        if timers := self.loop.pending_timers():
            raise Violation("leaks", f"{len(timers)} timers are left, the first: {timers[0]!r}")
        if files := self.files.open_files():
            raise Violation("leaks", f"files are left open: {', '.join(files)}")

    def _check_errors(self) -> None:
        for error in self.loop.errors:
            raise Violation("unhandled exception", f"{error.get('message')}") from error.get("exception")


def run_world(
    seed: int, history: Callable[[World], Coroutine[Any, Any, T]], options: WorldOptions | None = None
) -> tuple[T, World, float]:
    """Run one history to its end and check that nothing is left. Returns its result, its world and its real seconds.

    Raises whatever the history raised, or `Violation`. Must not be called from inside a running event loop.
    """
    memory = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None  # noqa: S108 - a directory made by tempfile inside it
    with tempfile.TemporaryDirectory(prefix="pytinykv-sim-", dir=memory) as directory, _steady_garbage_collection():
        world = World(seed, options or WorldOptions(), Path(directory))
        started = time.perf_counter()
        try:
            with world.files.recording():
                result = world.loop.run_until_complete(_framed(world, history))
        finally:
            _abandon(world.loop)
        return result, world, time.perf_counter() - started


async def _framed(world: World, history: Callable[[World], Coroutine[Any, Any, T]]) -> T:
    result = await history(world)
    await asyncio.sleep(5.0)  # late resets and keepalives run out; what is still held now was forgotten
    world.check_nothing_left()
    return result


def _abandon(loop: SimLoop) -> None:
    """Close a loop. After a failure tasks may be left: cancel them, and let go of those that refuse."""
    for _ in range(20):
        tasks = loop.pending_tasks()
        if not tasks:
            break
        for task in tasks:
            task.cancel()
        loop.run_briefly()
    for task in loop.pending_tasks():
        task._log_destroy_pending = False  # type: ignore[attr-defined] # noqa: SLF001 - its failure is reported already
    loop.close()


@contextmanager
def _steady_garbage_collection() -> Iterator[None]:
    """Collect cycles at the edges of a history only, so that finalizers run at the same point of every replay."""
    gc.collect()
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()
