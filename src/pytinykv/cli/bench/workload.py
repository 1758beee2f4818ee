"""Closed loops: so many workers, each sending its next operation when the last one is answered."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Protocol

from pytinykv.lifecycle import Scope

ROUND_S_MAX = 60.0
"""No round lasts longer, however slow the target is."""


class Operation(StrEnum):
    """What the workers do."""

    PUT = "put"
    GET = "get"


class Target(Protocol):
    """A key-value store under measurement. Gets are linearizable, puts are synced on a majority."""

    @property
    def name(self) -> str: ...

    async def put(self, key: bytes, value: bytes) -> None: ...

    async def get(self, key: bytes) -> bytes | None: ...


@dataclass(frozen=True)
class Workload:
    """One cell of the table: an operation at a number of operations in flight."""

    operation: Operation
    in_flight: int
    operations: int
    value_bytes: int = 100
    keys: int = 100_000
    """How many different keys there are; a round goes through them in order and starts over."""
    seconds_max: float = ROUND_S_MAX
    """A round that lasts longer ends early."""


@dataclass
class Round:
    """What one round measured."""

    workload: Workload
    target: str
    seconds: float
    operations: int
    latencies_ms: list[float] = field(default_factory=list, repr=False)

    @property
    def rate(self) -> float:
        """Operations per second."""
        return self.operations / self.seconds if self.seconds else 0.0


def percentile(sorted_values: list[float], fraction: float) -> float:
    """Return the value below which `fraction` of the values lie (nearest rank); 0 without values."""
    if not sorted_values:
        return 0.0
    return sorted_values[min(len(sorted_values) - 1, int(fraction * len(sorted_values)))]


def key_of(number: int) -> bytes:
    return b"bench-%010d" % number


async def run_round(
    target: Target, workload: Workload, scope: Scope, on_progress: Callable[[int], None] = lambda _done: None
) -> Round:
    """Run one round and return what it measured; ends early after its `seconds_max`. Raises what an operation raises."""
    latencies_ms: list[float] = []
    numbers = iter(range(workload.operations))
    deadline = time.monotonic() + workload.seconds_max
    call = _caller(target, workload)
    started = time.perf_counter()
    workers = [
        scope.start(f"worker-{index}", _work, numbers, call, workload.keys, latencies_ms, deadline, on_progress)
        for index in range(workload.in_flight)
    ]
    for worker in workers:
        await worker.wait()
    return Round(workload, target.name, time.perf_counter() - started, len(latencies_ms), latencies_ms)


def _caller(target: Target, workload: Workload) -> Callable[[bytes], Awaitable[object]]:
    if workload.operation is Operation.GET:
        return target.get
    value = bytes(index % 251 for index in range(workload.value_bytes))
    return lambda key: target.put(key, value)


async def _work(
    numbers: Iterator[int],
    call: Callable[[bytes], Awaitable[object]],
    keys: int,
    latencies_ms: list[float],
    deadline: float,
    on_progress: Callable[[int], None],
) -> None:
    clock = time.perf_counter
    for number in numbers:
        begun = clock()
        await call(key_of(number % keys))
        ended = clock()
        latencies_ms.append((ended - begun) * 1000)
        if not number & 127:
            on_progress(len(latencies_ms))
            if time.monotonic() > deadline:
                return
            await asyncio.sleep(0)
