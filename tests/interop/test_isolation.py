"""Snapshot isolation of real processes: tikv-client and ours on the same keys, while servers are killed and paused.

The histories are judged by the checker of the simulator. Each kind of fault hits once here; `--more N` goes on N times as
long, with faults drawn by `ISOLATION_SEED`, which a failure shows.
"""

from __future__ import annotations

import asyncio
import importlib.util
import json
import os
import random
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from tests.interop.isolation_script import ACCOUNTS, MONEY
from tests.process.cluster import Cluster, Process, wait_until

import pytinykv
from pytinykv.simulation.isolation import Append, ListRead, ListTxn, Outcome, check_isolation
from pytinykv.wire.keys import encode_bytes

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("tikv_client") is None, reason="the last wheels of tikv-client are for CPython 3.11"
)

SCRIPT = Path(__file__).with_name("isolation_script.py")
END_S = 60.0
CALM_S = 0.4
"""Between two faults."""
BOUNDS = (b"iso/acct-3", b"iso/list-")


class Faults:
    """What goes wrong with the servers."""

    def __init__(self, cluster: Cluster, rng: random.Random) -> None:
        self._cluster = cluster
        self._rng = rng
        self.done: Counter[str] = Counter()

    def one(self, kind: str) -> None:
        """Have one of a kind, and be over with it."""
        scheduler = self._cluster.scheduler
        store = self._cluster.leader() if self._rng.random() < 0.5 else self._rng.choice(self._cluster.stores)
        match kind:
            case "a store is killed":
                self._kill(store)
            case "a store is paused":
                self._pause(store, self._rng.uniform(0.3, 3.0))
            case "the scheduler is killed":
                self._kill(scheduler)
            case "the scheduler is paused":
                self._pause(scheduler, self._rng.uniform(0.3, 2.0))
            case _:
                raise AssertionError(kind)
        self.done[kind] += 1
        time.sleep(CALM_S)

    def _kill(self, process: Process) -> None:
        process.kill()
        time.sleep(self._rng.uniform(0, 0.5))
        process.start()
        process.wait_ready()

    def _pause(self, process: Process, duration_s: float) -> None:
        process.pause()
        time.sleep(duration_s)
        process.resume()


KINDS = ("a store is killed", "a store is paused", "the scheduler is killed", "the scheduler is paused")


@contextmanager
def programs(cluster: Cluster, directory: Path, seed: int) -> Iterator[list[tuple[subprocess.Popen[str], Path]]]:
    """Run the workload through two programs of tikv-client and two of ours."""
    made = []
    try:
        for number, kind in enumerate(("tikv-client", "ours", "tikv-client", "ours")):
            output = directory / f"{kind}-{number}.history"
            with output.open("w") as stream:
                argv = [sys.executable, str(SCRIPT), cluster.address, kind, str(number), str(seed)]
                process = subprocess.Popen(
                    argv, stdin=subprocess.PIPE, stdout=stream, stderr=subprocess.STDOUT, text=True
                )
            made.append((process, output))
        yield made
    finally:
        for process, _ in made:
            process.kill()
            process.wait(END_S)
            assert process.stdin is not None
            process.stdin.close()


def history_of(output: Path) -> tuple[list[ListTxn], list[tuple[int, dict[str, int]]], Counter[str]]:
    """Return a program's transactions, its looks at the bank, and a count of what it was told."""
    began: dict[str, list[list[object]]] = {}
    ended: dict[str, str] = {}
    looks, counts = [], Counter[str]()
    for line in output.read_text().splitlines():
        if not line.startswith('["'):
            continue  # what tikv-client logs
        match json.loads(line):
            case ["began", str(name), list(operations)]:
                began[name] = operations
            case ["ended", str(name), str(outcome), str(error)]:
                ended[name] = outcome
                counts[f"{outcome} {error[:60]}".strip()] += 1
            case ["bank", int(total), dict(accounts)]:
                looks.append((total, accounts))
            case [what]:
                counts[what] += 1
    return [list_txn(name, operations, ended.get(name, "unknown")) for name, operations in began.items()], looks, counts


def list_txn(name: str, operations: list[list[object]], outcome: str) -> ListTxn:
    told = [
        ListRead(str(key).encode(), tuple(value)) if kind == "read" else Append(str(key).encode(), value)  # type: ignore[arg-type]
        for kind, key, value in operations
    ]
    return ListTxn(name, tuple(told), Outcome(outcome))


async def open_bank(address: str) -> None:
    async with pytinykv.aio.connect(address) as db:
        async with db.transaction() as txn:
            for account in ACCOUNTS:
                await txn.put(account, b"%d" % MONEY)
        while (await db.scheduler.split_regions([encode_bytes(key) for key in BOUNDS])).finished_percentage < 100:
            await asyncio.sleep(0.1)


async def last_look(address: str) -> tuple[ListTxn, int]:
    """Return all lists, and what is in the bank, when nothing is under way any more."""
    async with pytinykv.aio.connect(address) as db:
        snapshot = await db.snapshot(timeout=END_S)
        lists = [
            ListRead(key, tuple(json.loads(value)))
            async for key, value in snapshot.scan(prefix=b"iso/list-", timeout=END_S)
        ]
        money = [int(value) async for _, value in snapshot.scan(prefix=b"iso/acct-", timeout=END_S)]
    return ListTxn("the last look", tuple(lists), is_final=True), sum(money)


def test_tikv_client_and_ours_are_isolated_while_servers_are_killed_and_paused(
    fresh_cluster: Cluster, tmp_path: Path, more: int
) -> None:
    seed = int(os.environ.get("ISOLATION_SEED", random.randrange(1 << 32)))
    print(f"ISOLATION_SEED={seed}")  # noqa: T201 - pytest shows it beside a failure
    cluster, rng = fresh_cluster, random.Random(seed)
    asyncio.run(open_bank(cluster.address))
    faults = Faults(cluster, rng)
    with programs(cluster, tmp_path, seed) as running:
        for _, output in running:
            wait_until(
                lambda output=output: '["started"]' in output.read_text(), within_s=END_S, what="a program starts"
            )
        kinds = [*KINDS, *(rng.choice(KINDS) for _ in range(len(KINDS) * (more - 1)))]
        for kind in kinds:
            faults.one(kind)
        time.sleep(1.0)
        for process, _ in running:
            assert process.stdin is not None
            process.stdin.write("\n")
            process.stdin.flush()
        for process, output in running:
            assert process.wait(END_S) == 0, output.read_text()[-3000:]
        told = [history_of(output) for _, output in running]
    final, money = asyncio.run(last_look(cluster.address))
    for (_, output), (_, _, counts) in zip(running, told, strict=True):
        print(output.stem, dict(counts))  # noqa: T201 - as above
        assert counts["done"] == 1, output.read_text()[-3000:]
        assert counts["committed"], "each of them has committed something"
    print(dict(faults.done), "isolated transactions:", sum(len(txns) for txns, _, _ in told))  # noqa: T201 - as above
    assert money == MONEY * len(ACCOUNTS)
    for _, looks, _ in told:
        for total, accounts in looks:
            assert total == MONEY * len(ACCOUNTS), accounts
    anomalies = check_isolation([txn for txns, _, _ in told for txn in txns] + [final])
    assert not anomalies, anomalies[:5]
