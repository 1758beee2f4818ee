"""Servers that are told to stop, or killed, at bad moments: random ones of their start and stop, and in the middle of
a snapshot, a recovery, a membership change.

Told, they end in time with status 0 and leave nothing behind. Killed, they start again on what they have left, and nothing
that was acknowledged is lost. `MOMENTS_SEED` chooses the moments again; a failure shows the seed. Here each kind of moment is
tried once; `./dev test tests/process/test_moments.py --more 20` is for a longer look.
"""

from __future__ import annotations

import os
import random
import re
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.process.cluster import CLEAN, READY_S, STOP_S, Cluster, Process, wait_until
from tests.process.load import Load

import pytinykv

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGKILL)
CALL_S = 5.0
INJECTED = Path(__file__).parent / "injected"
LONGEST_STOP_S = 0.4
"""Of an idle store; most take half of that."""


@pytest.fixture
def chance() -> random.Random:
    seed = int(os.environ.get("MOMENTS_SEED", random.randrange(1 << 32)))
    print(f"MOMENTS_SEED={seed}")  # noqa: T201 - pytest shows it beside a failure
    return random.Random(seed)


def catches_sigterm(process: Process) -> bool:
    """Whether the process has got so far that it catches SIGTERM. One that is just booting dies of it, as any does."""
    status = Path(f"/proc/{process.pid}/status").read_text()
    caught = re.search(r"^SigCgt:\s*(\w+)$", status, flags=re.MULTILINE)
    return caught is not None and bool(int(caught[1], 16) >> (signal.SIGTERM - 1) & 1)


def interrupt_start(process: Process, moment_s: float, number: signal.Signals) -> str:
    """Start a server and send it a signal so much later; check how it ends, and return that in words."""
    process.start()
    time.sleep(moment_s)
    is_awake = catches_sigterm(process)
    process.send(number)
    status = process.wait_exit(STOP_S)
    told = f"{process.name}: {number.name} after {moment_s:.3f} s, {'awake' if is_awake else 'booting'}: {status}"
    if number is signal.SIGKILL:
        assert status == -number, told
    elif is_awake:
        assert status == 0, f"{told}\n{process.tail()}"
        assert CLEAN in process.log or "scope" not in process.log, f"{told}\n{process.tail()}"
    return told


def start_s(process: Process) -> float:
    """Start a server, and return how long that took."""
    began = time.monotonic()
    process.start()
    process.wait_ready()
    return time.monotonic() - began


def test_at_random_moments_of_the_start(new_cluster: Callable[..., Cluster], chance: random.Random, more: int) -> None:
    """The scheduler's, then a store's, from the first start on, which makes the data directory and bootstraps the cluster."""
    measured = new_cluster()
    measured.stores.append(measured.make_store())
    usual_s = {process.command: start_s(process) for process in measured.processes}
    cluster = new_cluster()
    store = cluster.make_store()
    cluster.stores.append(store)
    for process in (cluster.scheduler, store):
        for number in SIGNALS * more:
            moment_s = chance.uniform(0.15, 1.05) * usual_s[process.command]
            print(interrupt_start(process, moment_s, number))  # noqa: T201 - pytest shows it beside a failure
        process.start()
        process.wait_ready()
    with pytinykv.connect(cluster.address) as db:
        db.raw.put(b"k", b"v")
        assert db.raw.get(b"k") == b"v"


def test_killed_at_random_moments_of_the_stop(
    new_cluster: Callable[..., Cluster], chance: random.Random, more: int
) -> None:
    """A store alone: what it has acknowledged is on its disk or nowhere."""
    cluster = new_cluster()
    cluster.start(stores=1)
    store = cluster.stores[0]
    with Load(cluster.address, theirs=0, timeout_s=CALL_S) as load:
        for victims in ([store], [cluster.scheduler], [store, cluster.scheduler]) * more:
            load.wait_progress(10)
            for process in victims:
                process.send(signal.SIGTERM)
            moment_s = chance.uniform(0.0, LONGEST_STOP_S)
            time.sleep(moment_s)
            for process in victims:
                process.send(signal.SIGKILL)
            told = f"SIGKILL {moment_s:.3f} s after SIGTERM: {[process.wait_exit() for process in victims]}"
            print(told)  # noqa: T201 - pytest shows it beside a failure
            assert {process.exit_status for process in victims} <= {0, -signal.SIGKILL}, told
            for process in victims:
                process.start()
            for process in victims:
                process.wait_ready()
        load.wait_progress(10)
    load.check()


class Phases:
    """Makes a store be in the middle of something for long enough to hit it there; see injected/sitecustomize.py."""

    def __init__(self, store: Process) -> None:
        self._store = store
        self._file = store.data_dir.with_suffix(".phase")
        self._reached = self._file.with_suffix(".reached")

    def start(self) -> None:
        """Start the store."""
        self._store.start(PYTHONPATH=str(INJECTED), PHASE=str(self._file))

    def choose(self, phase: str) -> None:
        self._reached.unlink(missing_ok=True)
        self._file.write_text(phase)

    def wait_reached(self) -> None:
        wait_until(self._reached.exists, within_s=READY_S, what=lambda: f"it comes to that\n{self._store.tail()}")
        self._reached.unlink()


def test_in_the_middle_of_a_snapshot_a_recovery_and_a_membership_change(new_cluster: Callable[..., Cluster]) -> None:
    """A server that is told to stop there ends as ever, and one that is killed there goes on from there."""
    cluster = new_cluster()
    cluster.start(stores=1)
    sender, receiver = cluster.stores[0], cluster.make_store()
    cluster.stores.append(receiver)
    pairs = {b"%03d" % number: random.Random(number).randbytes(50_000) for number in range(80)}
    with pytinykv.connect(cluster.address) as db:
        db.raw.batch_put(pairs)
    phases = Phases(receiver)
    phases.choose("receive")
    phases.start()
    phases.wait_reached()
    receiver.stop()
    phases.start()
    phases.wait_reached()
    sender.stop()
    sender.start()
    phases.choose("install")
    assert receiver.wait_exit(READY_S) == -signal.SIGKILL
    phases.choose("recover")
    phases.start()
    phases.wait_reached()
    receiver.kill()
    phases.start()
    phases.wait_reached()
    receiver.stop()  # what it has begun to recover it finishes first
    phases.choose("nothing")
    phases.start()
    cluster.wait_replicated(2)
    third = cluster.add_store()
    wait_until(lambda: "created by a message" in third.log, within_s=READY_S, what="the third one is a learner")
    leader = cluster.leader()
    leader.stop()
    leader.start()
    cluster.wait_replicated(3)
    with pytinykv.connect(cluster.address) as db:
        assert dict(db.raw.scan()) == pairs
