"""Closed loops: so many workers, each sending its next operation when the last one is answered."""

from __future__ import annotations

import asyncio
import math
import time
from bisect import bisect_right
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from enum import StrEnum
from itertools import accumulate
from random import Random
from typing import Final, Protocol

from pytinykv.cli.bench.processors import Processes, ProcessorClock, ProcessRole
from pytinykv.lifecycle import Scope

_STEPS_PER_S: Final = 100_000
ROUND_S_MAX = 60.0
"""No round lasts longer, however slow the target is."""


class OperationKind(StrEnum):
    """What the workers do."""

    PUT = "put"
    GET = "get"
    SNAPSHOT_GET = "get at ts"
    """Of one moment, taken anew every so many gets."""
    MODIFY = "modify"
    """Add one to a counter, atomically; again if another was first."""
    TRANSFER = "transfer"
    """Move something between two counters in different regions, atomically."""


RAW: Final = (OperationKind.PUT, OperationKind.GET)
TRANSACTIONAL: Final = (OperationKind.SNAPSHOT_GET, OperationKind.MODIFY, OperationKind.TRANSFER)
COUNTERS: Final = 10_000
"""How many different keys the transactional operations have."""
Call = Callable[[bytes], Awaitable[object]]


class BenchTarget(Protocol):
    """A key-value store under measurement. Gets are linearizable, puts are synced on a majority."""

    @property
    def name(self) -> str: ...

    async def put(self, key: bytes, value: bytes) -> None: ...

    async def get(self, key: bytes) -> bytes | None: ...

    async def prepare(self, operation: OperationKind, keys: int) -> Call | None:
        """Make ready for a transactional operation, and return what does it once for a key; None if there is none."""
        ...

    async def processes(self) -> Processes:
        """Return which processes work for the target at this moment."""
        ...


@dataclass(frozen=True)
class Workload:
    """One cell of the table: an operation at a number of operations in flight."""

    operation: OperationKind
    in_flight: int
    operations: int
    value_bytes: int = 100
    keys: int = 100_000
    """How many different keys there are; a round goes through them in order and starts over."""
    seconds_max: float = ROUND_S_MAX
    """A round that lasts longer ends early."""


class Latencies:
    """How long operations took, counted in steps of 10 µs, which is what a report shows.

    What percentiles cost does not depend on how many operations there were: a sort of millions would hold up the loop.
    """

    def __init__(self) -> None:
        self._counts: Final = Counter[int]()
        """How many operations took so many steps of the resolution. Only grows."""

    def add(self, seconds: float) -> None:
        self._counts[round(seconds * _STEPS_PER_S)] += 1

    def update(self, other: Latencies) -> None:
        """Count in what `other` has counted."""
        self._counts.update(other._counts)

    @property
    def count(self) -> int:
        """How many operations were counted."""
        return self._counts.total()

    def percentiles_ms(self, *fractions: float) -> list[float]:
        """Return, for each fraction, the latency in ms that so many of the operations did not exceed; 0 without any."""
        steps = sorted(self._counts)
        up_to = list(accumulate(self._counts[step] for step in steps))
        ranks = [rank(fraction, up_to[-1]) for fraction in fractions] if up_to else []
        return [steps[bisect_right(up_to, each)] * 1000 / _STEPS_PER_S for each in ranks] or [0.0] * len(fractions)


@dataclass
class Round:
    """What one round measured."""

    workload: Workload
    target: str
    seconds: float
    latencies: Latencies = field(default_factory=Latencies, repr=False)
    processor_s: dict[ProcessRole, float] = field(default_factory=dict)
    """Processor time that each role used meanwhile, as far as its processes are known."""

    @property
    def operations(self) -> int:
        """How many operations were answered."""
        return self.latencies.count

    @property
    def rate(self) -> float:
        """Operations per second."""
        return self.operations / self.seconds if self.seconds else 0.0

    @property
    def cores_busy(self) -> float:
        """How many cores the known processes used on average."""
        return sum(self.processor_s.values()) / self.seconds if self.seconds else 0.0

    def processor_us(self, role: ProcessRole) -> float:
        """Return the processor time per operation in µs."""
        return self.processor_s.get(role, 0.0) * 1e6 / self.operations if self.operations else 0.0


def rank(fraction: float, count: int) -> int:
    """Return the index of the smallest of `count` values in order that `fraction` of them do not exceed (nearest rank)."""
    return max(0, math.ceil(fraction * count) - 1)


def percentile(sorted_values: list[float], fraction: float) -> float:
    """Return the smallest value that `fraction` of the values do not exceed; 0 without values."""
    return sorted_values[rank(fraction, len(sorted_values))] if sorted_values else 0.0


def key_of(number: int) -> bytes:
    return b"bench-%010d" % number


async def run_round(
    target: BenchTarget, workload: Workload, scope: Scope, on_progress: Callable[[int], None] = lambda _done: None
) -> Round:
    """Run one round and return what it measured; ends early after its `seconds_max`. Raises what an operation raises."""
    latencies = Latencies()
    numbers = _numbers(workload.operations, time.monotonic() + workload.seconds_max)
    call = await _caller(target, workload)
    processors = ProcessorClock(await target.processes())
    started = time.perf_counter()
    work = _work_in_order if workload.operation in RAW else _work_at_random
    workers = [
        scope.start(f"worker-{index}", work, numbers, call, workload.keys, latencies, on_progress)
        for index in range(workload.in_flight)
    ]
    for worker in workers:
        await worker.wait()
    seconds = time.perf_counter() - started
    return Round(workload, target.name, seconds, latencies, processors.elapsed_s())


async def _caller(target: BenchTarget, workload: Workload) -> Call:
    if workload.operation in TRANSACTIONAL:
        call = await target.prepare(workload.operation, workload.keys)
        assert call is not None
        return call
    if workload.operation is OperationKind.GET:
        return target.get
    value = bytes(index % 251 for index in range(workload.value_bytes))
    return lambda key: target.put(key, value)


def _numbers(count: int, deadline: float) -> Iterator[int]:
    """Yield the numbers of the operations, for all workers together, until time is up."""
    for number in range(count):
        if time.monotonic() > deadline:
            return
        yield number


async def _work_in_order(
    numbers: Iterator[int],
    call: Call,
    keys: int,
    latencies: Latencies,
    on_progress: Callable[[int], None],
) -> None:
    await _work(numbers, call, lambda number: number % keys, latencies, on_progress)


async def _work_at_random(
    numbers: Iterator[int],
    call: Call,
    keys: int,
    latencies: Latencies,
    on_progress: Callable[[int], None],
) -> None:
    rng = Random()
    await _work(numbers, call, lambda _: rng.randrange(keys), latencies, on_progress)


async def _work(
    numbers: Iterator[int],
    call: Call,
    choose: Callable[[int], int],
    latencies: Latencies,
    on_progress: Callable[[int], None],
) -> None:
    clock = time.perf_counter
    for number in numbers:
        key = key_of(choose(number))
        begun = clock()
        await call(key)
        latencies.add(clock() - begun)
        if not number & 127:
            on_progress(latencies.count)
            await asyncio.sleep(0)
