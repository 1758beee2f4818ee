"""A process killed at any moment, of commits, garbage collection, flushes and compaction: nothing acknowledged is lost."""

from __future__ import annotations

import random
import subprocess
import sys
import time
from pathlib import Path

import pytest
from tests.embedded.crash_victim import ACCOUNTS, START, account

import pytinykv

THREADS = 3
VICTIM = Path(__file__).with_name("crash_victim.py")


def run_and_kill(path: Path, after_s: float) -> dict[int, int]:
    """Run the victim, and kill it so long after its first commit; return the last number that each thread has told."""
    told: dict[int, int] = {}
    with subprocess.Popen([sys.executable, VICTIM, path, str(THREADS)], stdout=subprocess.PIPE, text=True) as victim:
        assert victim.stdout is not None
        lines = [victim.stdout.readline()]
        time.sleep(after_s)
        victim.kill()
        lines += victim.stdout.read().splitlines()
    for line in lines:
        thread, _, number = line.partition(" ")
        if number and line.endswith(("\n", number)):
            told[int(thread)] = int(number)
    assert told, "the victim has committed nothing"
    return told


def audit(path: Path, told: dict[int, int], before: dict[int, int] | None = None) -> dict[int, int]:
    """Check what is there against what each thread has told last; return how many transactions of it there are.

    `before`: what the last audit has returned. A thread may not have told of its last transaction, nor have come to write
    the raw value that follows it, nor have told anything since.
    """
    before = before or {}
    found: dict[int, int] = {}
    with pytinykv.open(path) as db:
        snapshot = db.snapshot()
        for thread in range(THREADS):
            done = found[thread] = int(snapshot.get(b"done/%d" % thread) or b"0")
            least = max(told.get(thread, 0), before.get(thread, 0))
            assert least <= done <= least + 1, (thread, told, before, done)
            balances = [int(snapshot.get(account(thread, number)) or START) for number in range(ACCOUNTS)]
            expected = [START] * ACCOUNTS
            for number in range(1, done + 1):
                expected[number % ACCOUNTS] -= 1
                expected[(number * 3 + 1) % ACCOUNTS] += 1
            assert balances == expected, (thread, done)
            raw = int(db.raw.get(b"raw/%d" % thread) or b"0")
            assert told.get(thread, 0) <= raw <= done, (thread, told, raw)
        assert db.timestamp() > snapshot.ts
    return found


def test_a_killed_process_loses_nothing_it_has_acknowledged(tmp_path: Path, more: int) -> None:
    rng = random.Random(1)
    told: dict[int, int] = {}
    found: dict[int, int] = {}
    for _ in range(3 * more):
        told |= run_and_kill(tmp_path / "data", rng.uniform(0.0, 0.25))
        found = audit(tmp_path / "data", told, found)


def test_an_audit_notices_what_is_missing(tmp_path: Path) -> None:
    told = run_and_kill(tmp_path / "data", 0.0)
    thread = min(told)
    with pytest.raises(AssertionError):
        audit(tmp_path / "data", {**told, thread: told[thread] + 1000})
    with pytinykv.open(tmp_path / "data") as db, db.transaction() as txn:
        txn.put(account(thread, 1), b"1")
    with pytest.raises(AssertionError):
        audit(tmp_path / "data", told)
