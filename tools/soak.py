#!/usr/bin/env python3
"""Run simulated histories with ever new seeds, on all cores, until Ctrl-C or for `--seconds`.

Each worker is a process that runs one seed through every scenario (or the chosen one) and starts again with the next
seed. What fails is printed at once, with the command that shows it again, and kept in `build/soak/`. The exit status is
1 if anything failed.
"""

from __future__ import annotations

import argparse
import os
import secrets
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
FAILURES = ROOT / "build" / "soak"
POLL_S = 0.2
SAY_EVERY_S = 10.0
WORKER_DEADLINE_S = 3600.0


@dataclass
class Tally:
    """What came of the soak so far."""

    started_at: float = field(default_factory=time.monotonic)
    seeds: int = 0
    histories: int = 0
    failures: list[Path] = field(default_factory=list)

    def line(self, running: list[Worker]) -> str:
        minutes = (time.monotonic() - self.started_at) / 60
        histories = self.histories + sum(count_histories(worker.output) for worker in running)
        return f"soak: {histories} histories in {minutes:.1f} min, {len(self.failures)} of {self.seeds} seeds failed"


@dataclass
class Worker:
    """One seed under way."""

    seed: int
    process: subprocess.Popen[str]
    output: Path
    started_at: float = field(default_factory=time.monotonic)

    @property
    def overran(self) -> bool:
        return time.monotonic() - self.started_at > WORKER_DEADLINE_S


def main(arguments: list[str]) -> int:
    """Soak; return 1 if a history failed."""
    options = parse(arguments)
    FAILURES.mkdir(parents=True, exist_ok=True)
    tally = Tally()
    workers: list[Worker] = []
    seed = options.seed if options.seed is not None else secrets.randbelow(10**9)
    print(f"soak: {options.jobs} workers, seeds from {seed}; Ctrl-C ends it", flush=True)
    say_at = time.monotonic() + SAY_EVERY_S
    try:
        while options.seconds is None or time.monotonic() - tally.started_at < options.seconds:
            while len(workers) < options.jobs:
                workers.append(start(seed, options.scenario))
                seed += 1
            time.sleep(POLL_S)
            workers = [worker for worker in workers if not finish(worker, tally)]
            if time.monotonic() >= say_at:
                print(tally.line(workers), flush=True)
                say_at += SAY_EVERY_S
    except KeyboardInterrupt:
        print()
    finally:
        for worker in workers:
            worker.process.kill()
            worker.process.wait()
    print(tally.line(workers), flush=True)
    for worker in workers:
        worker.output.unlink(missing_ok=True)
    for path in tally.failures:
        print(f"  {path.relative_to(ROOT)}")
    return 1 if tally.failures else 0


def parse(arguments: list[str]) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(prog="./dev soak", description="Run simulated histories with ever new seeds.")
    parser.add_argument("--scenario", default="all", help="one scenario instead of all")
    parser.add_argument("--seconds", type=float, help="end after so many seconds instead of on Ctrl-C")
    parser.add_argument("--seed", type=int, help="the first seed; drawn if not given")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="workers at the same time")
    return parser.parse_args(arguments)


def start(seed: int, scenario: str) -> Worker:
    """Start one seed in a process of its own, which Ctrl-C in the terminal does not reach."""
    output = FAILURES / f"seed-{seed}.txt"
    command = [sys.executable, "-u", "-m", "pytinykv.simulation", "--scenario", scenario, "--seed", str(seed)]
    with output.open("w", encoding="utf-8") as file:
        process = subprocess.Popen(
            command, cwd=ROOT, stdout=file, stderr=subprocess.STDOUT, text=True, start_new_session=True
        )
    return Worker(seed, process, output)


def finish(worker: Worker, tally: Tally) -> bool:
    """Tell whether a worker is done, and count what it did. One that overran counts as a failure: it hangs."""
    if worker.overran:
        worker.process.kill()
        worker.process.wait()
    status = worker.process.poll()
    if status is None:
        return False
    tally.seeds += 1
    tally.histories += count_histories(worker.output)
    if status == 0:
        worker.output.unlink()
        return True
    tally.failures.append(worker.output)
    if worker.overran:
        print(f"seed {worker.seed} was under way for an hour: it hangs")
    print(worker.output.read_text(encoding="utf-8", errors="replace"), flush=True)
    return True


def count_histories(output: Path) -> int:
    """Return how many histories a worker has finished, by the line it writes about each."""
    lines = output.read_text(encoding="utf-8", errors="replace").splitlines()
    return sum(1 for line in lines if " seed " in line and " digest " in line)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
