"""Single figures about our processes: time to serve, failover, memory, idle processor time. Linux only."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from typing import TYPE_CHECKING

from pytinykv import aio
from pytinykv.cli.bench.processors import cpu_seconds
from pytinykv.cli.bench.targets import leader_of
from pytinykv.cli.bench.workload import OperationKind, Workload, run_round
from pytinykv.client import ClientError

if TYPE_CHECKING:
    from collections.abc import Callable

    from pytinykv.cli.bench.targets import PytinykvTarget
    from pytinykv.cli.playground.cluster import LocalCluster
    from pytinykv.lifecycle import Scope

_MIB = 1024 * 1024
_SETTLE_S = 3.0
_GAP_S_MAX = 30.0


def resident_mib(pid: int) -> float:
    """Return the resident memory of a process in MiB."""
    with open(f"/proc/{pid}/statm", encoding="ascii") as stream:  # noqa: PTH123 - not a file worth a path
        return int(stream.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") / _MIB


async def idle_cpu_percent(cluster: LocalCluster, seconds: float) -> float:
    """Return how much of one core the busiest store uses while no client asks anything."""
    before = [cpu_seconds(store.child.pid) for store in cluster.stores]
    await asyncio.sleep(seconds)
    after = [cpu_seconds(store.child.pid) for store in cluster.stores]
    return max(then - now for now, then in zip(before, after, strict=True)) / seconds * 100


async def memory_after_puts(
    cluster: LocalCluster, target: PytinykvTarget, scope: Scope, puts: int, on_progress: Callable[[int], None]
) -> float:
    """Put `puts` new keys of 100 bytes and return the resident memory of the largest store in MiB."""
    workload = Workload(OperationKind.PUT, 256, puts, keys=puts, seconds_max=600.0)
    await run_round(target, workload, scope, on_progress)
    return max(resident_mib(store.child.pid) for store in cluster.stores)


async def failover_seconds(cluster: LocalCluster, tries: int, on_progress: Callable[[int], None]) -> list[float]:
    """Kill the leader's store with SIGKILL, again and again; return the seconds until the next acknowledged put.

    The killed store is started again before the next try.
    """
    seconds: list[float] = []
    async with aio.connect(cluster.scheduler.addr) as client:
        for number in range(tries):
            await client.raw.put(b"failover", b"before")
            victim = await leader_of(cluster, client)
            started = time.monotonic()
            os.kill(victim.child.pid, signal.SIGKILL)
            await _put_until_acknowledged(client, started)
            seconds.append(time.monotonic() - started)
            on_progress(number + 1)
            await cluster.restart(victim)
            await asyncio.sleep(_SETTLE_S)
    return seconds


async def _put_until_acknowledged(client: aio.AsyncClient, started: float) -> None:
    while True:
        try:
            await client.raw.put(b"failover", b"after")
        except ClientError:
            if time.monotonic() - started > _GAP_S_MAX:
                raise
        else:
            return
