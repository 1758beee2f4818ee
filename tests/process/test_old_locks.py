"""A client is killed between its primary and its secondaries: the next reader sees to it, or the stores if none comes by."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.process.cluster import Cluster
from tests.simulation.txn.txn_world import split

import pytinykv.aio
from pytinykv.client.key_space import KeyRange

INJECTED = Path(__file__).parent / "injected"
ROUNDS_S = 60.0
"""Stores report every 10 s, this one every second, and are told then which locks are old."""

DIES_AFTER_THE_PRIMARY = """
import os, sys, asyncio
import pytinykv.aio
from pytinykv.client import ClientConfig
from pytinykv.client.txn.committer import _Commit

_Commit._background_commit = lambda *_, **__: os.kill(os.getpid(), 9)  # the primary is committed when this is called

async def main():
    async with pytinykv.aio.connect(sys.argv[1], config=ClientConfig(async_commit=False, one_phase_commit=False)) as db:
        async with db.transaction() as txn:
            await txn.put(b"a", b"2")
            await txn.put(b"z", b"2")

asyncio.run(main())
"""


async def test_a_lock_that_nobody_meets_is_resolved(
    new_cluster: Callable[..., Cluster], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(INJECTED))
    monkeypatch.setenv("GC_REPORT_S", "1")
    cluster = new_cluster(gc_life_time="2")
    cluster.start(1)
    async with pytinykv.aio.connect(cluster.address) as db:
        inspector = db.inspector

        async def locked() -> list[bytes]:
            return [lock.key async for lock in inspector.locks(KeyRange(b"", b""), await db.timestamp())]

        async with db.transaction() as txn:
            await txn.put(b"a", b"1")
            await txn.put(b"z", b"1")
        await split(db, [b"m"])
        monkeypatch.undo()
        died = await asyncio.to_thread(run_and_die, cluster.address)
        assert died.returncode == -9, died.stderr
        assert await locked() == [b"z"]
        async with asyncio.timeout(ROUNDS_S):
            while await locked():
                await asyncio.sleep(0.1)
        snapshot = await db.snapshot()
        assert await snapshot.get_many([b"a", b"z"]) == {b"a": b"2", b"z": b"2"}


async def test_the_next_reader_finishes_what_a_killed_process_has_committed(
    new_cluster: Callable[..., Cluster],
) -> None:
    cluster = new_cluster()
    cluster.start(1)
    async with pytinykv.aio.connect(cluster.address) as db:
        async with db.transaction() as txn:
            await txn.put(b"a", b"1")
            await txn.put(b"z", b"1")
        await split(db, [b"m"])
        before = await db.snapshot()
        died = await asyncio.to_thread(run_and_die, cluster.address)
        assert died.returncode == -9, died.stderr
        assert [lock.key async for lock in db.inspector.locks(KeyRange(b"", b""), await db.timestamp())] == [b"z"]
        snapshot = await db.snapshot()
        assert await snapshot.get(b"z") == b"2"
        assert await snapshot.get_many([b"a", b"z"]) == {b"a": b"2", b"z": b"2"}
        assert await before.get_many([b"a", b"z"]) == {b"a": b"1", b"z": b"1"}


def run_and_die(address: str) -> subprocess.CompletedProcess[bytes]:
    """Run the client."""
    command = [sys.executable, "-c", DIES_AFTER_THE_PRIMARY, address]
    return subprocess.run(command, check=False, timeout=30, capture_output=True)
