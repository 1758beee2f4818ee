#!/usr/bin/env python3
"""What many regions cost stores without requests: processor time and memory; and how soon they are there again.

    tools/many_regions.py --regions 1000                  # idle, a minute after the last write
    tools/many_regions.py --regions 300 --kill            # then SIGKILL for a store: when is every region writable again?
    tools/many_regions.py --regions 1000 --fill-mib 1024 --restart      # then stop one and start it again: when is it ready?

Starts `tinykv playground` with three stores on free ports, splits through `tinykv ctl split`'s call, and writes one key into
each region. Linux only.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pytinykv import aio
from pytinykv.client import ClientError
from pytinykv.lifecycle import Scope

SPLITS_AT_ONCE = 50
READY_S = 30.0
KEYS_AT_ONCE = 1024
VALUE_BYTES = 1024


@contextmanager
def playground(directory: Path) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """Run a scheduler and three stores; give the process and the scheduler's address."""
    command = [sys.executable, "-m", "pytinykv", "playground", "--data-dir", str(directory)]
    command += ["--scheduler-addr", "127.0.0.1:0", "--exit-with-parent"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    assert process.stdout is not None
    try:
        for line in process.stdout:
            if found := re.match(r"ready scheduler=(\S+)", line):
                yield process, found[1]
                break
        else:
            raise SystemExit("the playground did not start")
    finally:
        process.send_signal(signal.SIGINT)
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()


def stores_of(playground_pid: int) -> dict[int, list[str]]:
    """Return the command line of each store of a playground, by process id."""
    found: dict[int, list[str]] = {}
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            arguments = (entry / "cmdline").read_bytes().decode().split("\0")[:-1]
            parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
        except (OSError, ValueError):
            continue
        if "store" in arguments and parent == playground_pid:
            found[int(entry.name)] = arguments
    return dict(sorted(found.items()))


def cpu_seconds(pid: int) -> float:
    """Return the processor time of a process so far."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def resident_mib(pid: int) -> float:
    """Return the resident memory of a process."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / (1 << 20)


def key_of(number: int) -> bytes:
    """Return a key that begins a region."""
    return b"r%08d" % number


async def grow(scope: Scope, client: aio.AsyncClient, regions: int, fill_mib: int) -> None:
    """Split into so many regions, and write to each."""
    wanted = [key_of(number) for number in range(1, regions)]
    for first in range(0, len(wanted), SPLITS_AT_ONCE):
        await client.scheduler.split_regions(wanted[first : first + SPLITS_AT_ONCE], 60.0)
    await put_everywhere(scope, client, regions)
    each = fill_mib * (1 << 20) // VALUE_BYTES // regions
    for number in range(regions if each else 0):
        pairs = {key_of(number) + b"/%06d" % row: os.urandom(VALUE_BYTES) for row in range(each)}
        await client.raw.batch_put(pairs, timeout=60.0)


async def put_everywhere(scope: Scope, client: aio.AsyncClient, regions: int, *, timeout_s: float = 60.0) -> None:
    """Write one key into every region."""
    gate = asyncio.Semaphore(KEYS_AT_ONCE)

    async def put(number: int) -> None:
        deadline = time.monotonic() + timeout_s
        while True:
            try:
                async with gate:
                    await client.raw.put(key_of(number), b"value", timeout=2.5)
            except ClientError:
                if time.monotonic() > deadline:
                    raise
            else:
                return

    tasks = [scope.start(f"put-{number}", put, number) for number in range(regions)]
    for task in tasks:
        await task.wait()


async def measure_idle(pids: list[int], settle_s: float, measure_s: float) -> dict[str, Any]:
    """Return what stores use while no requests come."""
    await asyncio.sleep(settle_s)
    before = [cpu_seconds(pid) for pid in pids]
    await asyncio.sleep(measure_s)
    after = [cpu_seconds(pid) for pid in pids]
    return {
        "cpu_percent": [round((now - then) / measure_s * 100, 2) for then, now in zip(before, after, strict=True)],
        "resident_mib": [round(resident_mib(pid)) for pid in pids],
    }


def status_of(arguments: list[str]) -> dict[str, Any]:
    """Return what a store says of itself on its status port."""
    address = arguments[arguments.index("--status-addr") + 1]
    with urllib.request.urlopen(f"http://{address}/debug/store", timeout=5) as answer:
        found: dict[str, Any] = json.load(answer)
        return found


async def kill_one(scope: Scope, client: aio.AsyncClient, victim: int, regions: int) -> float:
    """Kill a store while half of the regions are awake; return after how many seconds a put to each has succeeded."""
    await put_everywhere(scope, client, regions // 2)
    started = time.monotonic()
    os.kill(victim, signal.SIGKILL)
    await put_everywhere(scope, client, regions)
    return time.monotonic() - started


def restart_one(victim: int, arguments: list[str], scheduler: str) -> dict[str, float]:
    """Stop a store and start it again; return how long it took to be ready, and its memory."""
    os.kill(victim, signal.SIGTERM)
    while Path(f"/proc/{victim}").exists() and "Z" not in Path(f"/proc/{victim}/stat").read_text():
        time.sleep(0.01)
    started = time.monotonic()
    arguments = [scheduler if one == "-" else one for one in arguments]
    process = subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    assert process.stdout is not None
    ready_s = next((time.monotonic() - started for line in process.stdout if line.startswith("ready")), -1.0)
    used_s = cpu_seconds(process.pid)
    found = {"ready_s": round(ready_s, 2), "cpu_s": round(used_s, 2), "resident_mib": round(resident_mib(process.pid))}
    process.terminate()
    process.wait(30)
    return found


async def run(arguments: argparse.Namespace, process: subprocess.Popen[str], scheduler: str) -> dict[str, Any]:
    """Do what was asked for; return what was measured."""
    result: dict[str, Any] = {"regions": arguments.regions}
    scope = Scope("many-regions")
    async with aio.connect(scheduler) as client:
        started = time.monotonic()
        await grow(scope, client, arguments.regions, arguments.fill_mib)
        result["grown_s"] = round(time.monotonic() - started, 1)
        print(json.dumps(result), file=sys.stderr, flush=True)
        stores = stores_of(process.pid)
        print("stores", *stores, file=sys.stderr, flush=True)
        result.update(await measure_idle(list(stores), arguments.settle, arguments.seconds))
        victim, command = next(iter(stores.items()))
        if arguments.kill:
            result["all_writable_s"] = round(await kill_one(scope, client, victim, arguments.regions), 2)
    await scope.stop()
    if arguments.restart:
        result["restart"] = restart_one(victim, command, scheduler)
    return result


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--regions", type=int, default=300)
    parser.add_argument("--fill-mib", type=int, default=0, help="random data to write, over all regions")
    parser.add_argument("--settle", type=float, default=60.0, help="seconds to wait before measuring")
    parser.add_argument("--seconds", type=float, default=20.0, help="seconds to measure for")
    parser.add_argument("--kill", action="store_true", help="then kill a store")
    parser.add_argument("--restart", action="store_true", help="then stop a store and start it again")
    arguments = parser.parse_args()
    with (
        tempfile.TemporaryDirectory(prefix="many-regions-") as directory,
        playground(Path(directory)) as (
            process,
            scheduler,
        ),
    ):
        print(json.dumps(asyncio.run(run(arguments, process, scheduler))))


if __name__ == "__main__":
    main()
