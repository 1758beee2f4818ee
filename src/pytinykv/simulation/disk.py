"""The virtual disk: an engine in memory that forgets at a crash, and work on it that takes virtual time.

`SimDisk` is what survives on a host. Each incarnation of the store opens it and gets an engine of its own; a crash hands
what is left (all that was synced, and a random part of the rest) to the next one, and the dead process's engine answers
nothing any more.

Faults (`faults`, `bad_reads`) belong to the disk: they stay over crashes and restarts until `repair`. From the first one on
an incarnation counts as `hurt`: it may fail and stop by itself, in time and with an error, which is otherwise a bug.

`SimWorker` is the store's disk thread on virtual time (`lifecycle.Worker`). A piece of work runs at the moment its
turn comes, and its result is told a while later; a sync in it covers what was written when it *began*, and becomes durable
only when it *ends*, so what is written meanwhile stays at risk, as on a real disk.
"""

from __future__ import annotations

import errno
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from random import Random
from typing import Any, TypeVar

import msgspec

from pytinykv.lifecycle import Leak, Member
from pytinykv.simulation.process import Process
from pytinykv.storage import (
    ColumnFamily,
    CorruptionError,
    DiskFullError,
    EngineClosedError,
    EngineError,
    MemoryEngine,
    Reader,
    WriteBatch,
)
from pytinykv.storage.memory import Faults, MemoryCursor, MemoryWriteBatch

T = TypeVar("T")
_RAFT = ColumnFamily.RAFT
Replaced = tuple[ColumnFamily, bytes, bytes | None]
"""What a write has changed: column family, key, and the value before, None if there was none."""


WORK_MIN_S = 0.0002


class DiskTiming(msgspec.Struct, frozen=True, kw_only=True):
    """How long the disk takes."""

    work_min_s: float = WORK_MIN_S
    work_extra_mean_s: float = 0.0003
    stall: float = 0.0
    """Probability that a piece of work takes up to `stall_max_s` longer."""
    stall_max_s: float = 0.5


class SimEngine(MemoryEngine):
    """A memory engine whose `sync` inside a worker's work ends when the work ends, and whose reads may find damage."""

    _collecting: list[int] | None = None
    disk: SimDisk
    """Where it lies."""
    names: dict[int, ColumnFamily]
    """By the identity of a family's map, which family it is."""
    applied: dict[int, int]
    """Region -> the applied index written last; a checker's notes."""
    tombstones: dict[int, tuple[int, float]] | None
    """Region -> id of the peer whose tombstone lies here, and when it was written; a checker's notes; None at first."""

    def peek(self, key: bytes, cf: ColumnFamily = _RAFT) -> bytes | None:
        """Read whatever is wrong with the disk; for checkers."""
        return super().get(cf, key)

    def peek_range(self, cf: ColumnFamily, start: bytes, end: bytes | None) -> Iterator[tuple[bytes, bytes]]:
        """Scan whatever is wrong with the disk; for checkers."""
        with super().cursor(cf, start, end) as cursor:
            yield from cursor.pairs()

    def _fail(self, error: EngineError) -> EngineError:
        full = isinstance(error, DiskFullError)
        self.disk.refused["full" if full else "sync" if error is self.faults.sync_error else "write"] += 1
        return super()._fail(error)

    def write(self, batch: WriteBatch) -> None:
        super().write(batch)
        assert isinstance(batch, MemoryWriteBatch)
        if self.disk.on_write is not None and batch.changes:
            raft, names = self._families[_RAFT], self.names
            raft_keys = [change[1] for change in batch.changes if change[0] is raft]
            undo = self._journal[-1][1]
            replaced = [(names[id(family)], key, before) for family, key, before in undo if family is not raft]
            self.disk.on_write(self, raft_keys, replaced)
        self.disk.maybe_lose_power()

    def ingest_sst(self, cf: ColumnFamily, path: Path) -> None:
        super().ingest_sst(cf, path)
        self.disk.maybe_lose_power()

    def get(self, cf: ColumnFamily, key: bytes) -> bytes | None:
        if self.disk.bad_reads:
            self.disk.read_badly(f"{cf} {key!r}")
        return super().get(cf, key)

    def cursor(self, cf: ColumnFamily, start: bytes = b"", end: bytes | None = None) -> MemoryCursor:
        if self.disk.bad_reads:
            self.disk.read_badly(f"{cf} from {start!r}")
        return super().cursor(cf, start, end)

    def export_sst(self, cf: ColumnFamily, reader: Reader, start: bytes, end: bytes | None, path: Path) -> int:
        if self.disk.bad_reads:
            self.disk.read_badly(f"{cf} from {start!r}")
        if self.faults.capacity_bytes is not None:
            raise OSError(errno.ENOSPC, "No space left on the simulated disk", str(path))
        return super().export_sst(cf, reader, start, end, path)

    def sync(self) -> None:
        ticket = self.begin_sync()
        if self._collecting is None:
            self.complete_sync(ticket)
            self.disk.maybe_lose_power()
        else:
            self._collecting.append(ticket)

    def run_collecting(self, work: Callable[[], T]) -> tuple[T | BaseException, list[int]]:
        """Run `work`; return its result or exception and the tickets of the syncs it asked for."""
        tickets: list[int] = []
        self._collecting = tickets
        try:
            return work(), tickets
        except Exception as error:  # noqa: BLE001 - handed to the caller that asked for the work
            return error, tickets
        finally:
            self._collecting = None


OnWrite = Callable[[SimEngine, list[bytes], list[Replaced]], None]
"""Gets the engine, the keys of the family `raft` that a batch has changed, and what it has replaced in the others."""


class SimDisk:
    """The disk of one host."""

    def __init__(
        self,
        rng: Random,
        timing: DiskTiming | None = None,
        now: Callable[[], float] = lambda: 0.0,
        host: str = "the store",
    ) -> None:
        self.rng = rng
        self.host = host
        self._now = now
        self.timing = timing or DiskTiming()
        self.faults = Faults()
        self.bad_reads = 0.0
        """Probability that a read finds damage."""
        self.hurt = False
        """Whether the incarnation that runs now has had a fault to bear."""
        self.on_write: OnWrite | None = None
        """Called after every batch that was written; for checkers."""
        self.power_cut: Callable[[], None] | None = None
        """What kills the process between two of its steps on the disk, and how many it still does before."""
        self.steps_left = 0
        """Steps that are still done before the power cut; counts only while `power_cut` is set."""
        self.cuts_within_turns = False
        """Whether only steps count that follow another one at the same moment: a cut then comes in the middle of a turn."""
        self._last_step_at = -1.0
        """World time of the step on the disk before."""
        self._engine: SimEngine | None = None
        """That of the current or last incarnation; a death replaces it with what survives."""
        self.crashes = 0
        """Deaths with the engine open."""
        self.batches_lost = 0
        """Batches that were not synced at these deaths; a random part of them survived."""
        self.errors = 0
        """Damaged reads so far."""
        self.refused: Counter[str] = Counter()
        """Incarnations that have met a failing `write` or `sync`, or a `full` disk."""

    @property
    def is_quick(self) -> bool:
        """Whether nothing slows it down now, and nothing is wrong with it or was."""
        timing = self.timing
        return not (self.hurt or self.is_faulty or timing.stall or timing.work_min_s > WORK_MIN_S)

    @property
    def is_faulty(self) -> bool:
        """Whether something is wrong with it now."""
        faults = self.faults
        return bool(self.bad_reads or faults.write_error or faults.sync_error or faults.capacity_bytes is not None)

    @property
    def used_bytes(self) -> int:
        return 0 if self._engine is None else self._engine.used_bytes

    @property
    def is_full(self) -> bool:
        return self.faults.capacity_bytes is not None

    def hurt_by(self, *, faults: Faults | None = None, bad_reads: float = 0.0) -> None:
        """Let something be wrong with the disk from now on."""
        self.hurt = True
        self.bad_reads = bad_reads
        if faults is not None:
            for name, value in vars(faults).items():
                setattr(self.faults, name, value)

    def repair(self) -> None:
        """End all faults. A store that has met one is not helped by that."""
        self.bad_reads = 0.0
        for name, value in vars(Faults()).items():
            setattr(self.faults, name, value)

    def maybe_lose_power(self) -> None:
        """Die now, if that was ordered: raises EngineClosedError in code that goes on although its process is dead."""
        if self.power_cut is None:
            return
        last, self._last_step_at = self._last_step_at, self._now()
        if self.cuts_within_turns and last != self._last_step_at:
            return
        self.steps_left -= 1
        if self.steps_left <= 0:
            cut, self.power_cut = self.power_cut, None
            cut()
            raise EngineClosedError("the power is gone")

    def read_badly(self, what: str) -> None:
        """Raise CorruptionError with probability `bad_reads`."""
        if self.rng.random() < self.bad_reads:
            self.errors += 1
            raise CorruptionError(f"checksum mismatch in the simulated file of {what}", file=Path("simulated.sst"))

    def open(self, process: Process) -> SimEngine:
        """Open the engine for one incarnation of the store. Its death closes it and loses what wasn't synced."""
        if self._engine is None:
            self._engine = _as_sim_engine(MemoryEngine(self.faults), self)
        self.hurt = self.is_faulty
        engine = self._engine
        process.on_death.append(lambda: self._on_death(engine))
        return engine

    def replace(self) -> None:
        """Be another disk, an empty one without faults."""
        self._engine = None
        self.hurt = False
        self.repair()

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
        self._engine = _as_sim_engine(left, self)


class SimWorker(Member):
    """One thread for blocking work, on virtual time: one piece after the other."""

    def __init__(self, process: Process, disk: SimDisk, engine: SimEngine) -> None:
        super().__init__("disk worker")
        self._process = process
        self._disk = disk
        self._engine = engine
        self._waiting: deque[tuple[Callable[[], Any], Callable[[Any], None]]] = deque()
        """Work that has not begun."""
        self._busy = False
        """Whether a piece of work is between its begin and its end."""
        self._stopped = False
        """Set by its stop or the process's end: what waits is not done."""
        self._timer: Any = None
        """Fires at the end of the work that has begun."""
        process.on_death.append(self.stop)  # what it would have done may hold files, which a dead process has no more

    def submit(self, work: Callable[[], T], on_done: Callable[[T | BaseException], None]) -> None:
        if self._stopped or not self._process.alive:
            return
        self._waiting.append((work, on_done))
        if not self._busy:
            self._busy = True
            self._begin()

    async def stop_member(self, deadline_s: float) -> None:
        """Do what a scope wants at its stop."""
        self.stop()

    def leaks(self) -> Sequence[Leak]:
        return ()

    def stop(self) -> None:
        """Drop what waits without telling its callers; what has begun is finished silently."""
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


def _as_sim_engine(engine: MemoryEngine, disk: SimDisk) -> SimEngine:
    engine.__class__ = SimEngine
    assert isinstance(engine, SimEngine)
    engine.disk, engine.applied, engine.tombstones = disk, {}, None
    engine.names = {id(family): cf for cf, family in engine._families.items()}  # noqa: SLF001 - its base class's
    return engine
