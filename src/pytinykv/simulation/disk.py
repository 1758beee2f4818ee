"""The virtual disk: an engine in memory that forgets at a crash, and work on it that takes virtual time.

`SimDisk` is what survives on a host. Each incarnation of the store opens it and gets an engine of its own; a crash hands
what is left (all that was synced, and a random part of the rest) to the next one, and the dead process's engine answers
nothing any more.

`SimWorker` is the store's disk thread on virtual time (`raftstore.ports.Worker`). A piece of work runs at the moment its
turn comes, and its result is told a while later; a sync in it covers what was written when it *began*, and becomes durable
only when it *ends*, so what is written meanwhile stays at risk, as on a real disk.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from random import Random
from typing import Any, TypeVar

import msgspec

from pytinykv.lifecycle.report import Leak
from pytinykv.simulation.process import Process
from pytinykv.storage import EngineError, MemoryEngine

__all__ = ["DiskTiming", "SimDisk", "SimEngine", "SimWorker"]

T = TypeVar("T")


class DiskTiming(msgspec.Struct, frozen=True, kw_only=True):
    """How long the disk takes."""

    work_min_s: float = 0.0002
    work_extra_mean_s: float = 0.0003
    stall: float = 0.0
    """Probability that a piece of work takes up to `stall_max_s` longer."""
    stall_max_s: float = 0.5


class SimEngine(MemoryEngine):
    """A memory engine whose `sync` inside a worker's work ends when the work ends."""

    _collecting: list[int] | None = None

    def sync(self) -> None:
        ticket = self.begin_sync()
        if self._collecting is None:
            self.complete_sync(ticket)
        else:
            self._collecting.append(ticket)

    def run_collecting(self, work: Callable[[], T]) -> tuple[T | BaseException, list[int]]:
        """Run `work`; return its result or exception and the tickets of the syncs it asked for."""
        tickets: list[int] = []
        self._collecting = tickets
        try:
            return work(), tickets
        except Exception as error:  # noqa: BLE001 - handed to whoever asked for the work
            return error, tickets
        finally:
            self._collecting = None


class SimDisk:
    """The disk of one host."""

    def __init__(self, rng: Random, timing: DiskTiming | None = None) -> None:
        self.rng = rng
        self.timing = timing or DiskTiming()
        self._engine: SimEngine | None = None
        self.crashes = 0
        self.batches_lost = 0

    def open(self, process: Process) -> SimEngine:
        """Open the engine for one incarnation of the store. Its death closes it and loses what wasn't synced."""
        if self._engine is None:
            self._engine = SimEngine()
        engine = self._engine
        process.on_death.append(lambda: self._on_death(engine))
        return engine

    def peek(self) -> SimEngine | None:
        """Return the engine as it is now, for checkers; None before the first start."""
        return self._engine

    def _on_death(self, engine: SimEngine) -> None:
        at_risk = engine.unsynced_batches
        try:
            left = engine.crash(self.rng)
        except EngineError:  # closed in good order before
            left = engine.reopen()
        else:
            self.crashes += 1
            self.batches_lost += at_risk
        self._engine = _as_sim_engine(left)


class SimWorker:
    """One thread for blocking work, on virtual time: one piece after the other."""

    def __init__(self, process: Process, disk: SimDisk, engine: SimEngine) -> None:
        self._process = process
        self._disk = disk
        self._engine = engine
        self._waiting: deque[tuple[Callable[[], Any], Callable[[Any], None]]] = deque()
        self._busy = False
        self._stopped = False
        self._timer: Any = None

    def submit(self, work: Callable[[], T], on_done: Callable[[T | BaseException], None]) -> None:
        if self._stopped or not self._process.alive:
            return
        self._waiting.append((work, on_done))
        if not self._busy:
            self._busy = True
            self._begin()

    name = "disk worker"

    async def stop_member(self, deadline_s: float) -> None:
        """Do what a scope wants at its stop."""
        self.stop()

    def leaks(self) -> Sequence[Leak]:
        return ()

    def stop(self) -> None:
        """Drop what waits and tell nobody; what has begun is finished without a word."""
        self._stopped = True
        self._waiting.clear()
        if self._timer is not None:
            self._timer.cancel()

    def _begin(self) -> None:
        work, on_done = self._waiting.popleft()
        result, tickets = self._engine.run_collecting(work)
        timing, rng = self._disk.timing, self._disk.rng
        duration = timing.work_min_s + rng.expovariate(1.0) * timing.work_extra_mean_s
        if timing.stall and rng.random() < timing.stall:
            duration += rng.random() * timing.stall_max_s
        loop = self._process.loop
        self._timer = loop.call_later(duration, self._end, result, tickets, on_done, context=self._process.context)

    def _end(self, result: Any, tickets: list[int], on_done: Callable[[Any], None]) -> None:
        self._timer = None
        if not self._process.alive:
            return
        for ticket in tickets:
            try:
                self._engine.complete_sync(ticket)
            except EngineError as error:
                result = error
        on_done(result)
        if self._waiting and not self._stopped:
            self._begin()
        else:
            self._busy = False


def _as_sim_engine(engine: MemoryEngine) -> SimEngine:
    engine.__class__ = SimEngine
    assert isinstance(engine, SimEngine)
    return engine
