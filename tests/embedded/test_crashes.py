"""A process killed at any moment, of commits, garbage collection, flushes and compaction: nothing acknowledged is lost."""

from __future__ import annotations

import os
import random
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path

import pytest
from tests.embedded.crash_victim import ACCOUNTS, MOMENTS, START, account

import pytinykv

THREADS = 3
AIMS = ("garbage", "compaction", None)
"""What a kill is meant for. (In the middle of commits and flushes the victim is nearly all the time.)"""
AIM_S = 1.0
"""How long a kill waits for the moment that it is meant for."""
VICTIM = Path(__file__).with_name("crash_victim.py")


def run_and_kill(path: Path, after_s: float, aim: str | None = None) -> tuple[dict[int, int], set[str]]:
    """Run the victim, and kill it so long after its first commit, or the next time from then on that it is in the middle of
    `aim`; return the last number that each thread has told, and what it was in the middle of.
    """
    told: dict[int, int] = {}
    state = path.with_name("under-way")
    state.write_bytes(bytes(len(MOMENTS)))
    argv = [sys.executable, VICTIM, path, str(THREADS), state]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) as victim, state.open("rb", buffering=0) as file:

        def under_way() -> set[str]:
            return {moment for moment, byte in zip(MOMENTS, os.pread(file.fileno(), 64, 0), strict=True) if byte}

        assert victim.stdout is not None
        lines = [victim.stdout.readline()]
        reading = threading.Thread(target=lambda: lines.extend(victim.stdout))  # or it would stop at a full pipe
        reading.start()
        time.sleep(after_s)
        end = time.monotonic() + AIM_S
        while aim is not None and aim not in under_way() and time.monotonic() < end:
            time.sleep(0.0001)
        victim.kill()
        victim.wait()
        reading.join()
        killed_in = under_way()
    for line in lines:
        thread, _, number = line.partition(" ")
        if number.endswith("\n"):
            told[int(thread)] = int(number)
    assert told, "the victim has committed nothing"
    return told, killed_in


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
    rng = random.Random(more)
    told: dict[int, int] = {}
    found: dict[int, int] = {}
    kills = Counter[str]()
    for aim in AIMS * more:
        now_told, killed_in = run_and_kill(tmp_path / "data", rng.uniform(0.0, 0.25), aim)
        told |= now_told
        found = audit(tmp_path / "data", told, found)
        kills.update(killed_in, rounds=1)
    print(f"killed in the middle of: {dict(kills)}; transactions: {found}")  # noqa: T201 - with `pytest -s`


def test_an_audit_notices_what_is_missing(tmp_path: Path) -> None:
    told, _ = run_and_kill(tmp_path / "data", 0.0)
    thread = min(told)
    with pytest.raises(AssertionError):
        audit(tmp_path / "data", {**told, thread: told[thread] + 1000})
    with pytinykv.open(tmp_path / "data") as db, db.transaction() as txn:
        txn.put(account(thread, 1), b"1")
    with pytest.raises(AssertionError):
        audit(tmp_path / "data", told)
