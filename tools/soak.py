#!/usr/bin/env python3
"""Run simulated histories with ever new seeds, on all cores, until Ctrl-C or for `--minutes`, and say what they came to.

A *lot* is one seed of every scenario but `storm`, or some seeds of `storm`, which has more to draw from than all others
together. Each lot runs in a process of its own (`python -m pytinykv.simulation --json`), with long histories: five stores
and at least fifteen virtual seconds, but for the few scenarios whose story has a fixed course.

What fails is printed at once, with the command that shows it again, shrunk to the faults that it needs; its timeline is
kept in `build/soak/`, as text and as a page. So is the summary that ends the run, as text and as JSON. The exit status is 1
if anything failed.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import secrets
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from pytinykv.simulation import SCENARIOS, Result
from pytinykv.simulation.nemeses import NEMESES
from pytinykv.simulation.tally import DURING, FULL_S, FULL_STORES, Tally

ROOT = Path(__file__).resolve().parent.parent
STORMS = 10
"""Seeds of `storm` for each seed of all others."""
POLL_S = 0.1
SAY_EVERY_S = 10.0
SILENCE_MAX_S = 900.0
"""A history takes seconds; a worker that has printed nothing for so long hangs."""


@dataclass(frozen=True)
class Lot:
    """Some histories for one process."""

    scenarios: list[str]
    seed: int
    count: int

    def __str__(self) -> str:
        return (
            f"{self.scenarios[0]} and others, seed {self.seed}"
            if len(self.scenarios) > 1
            else f"{self.scenarios[0]} from seed {self.seed}"
        )


def lots(first: int, scenario: str) -> Iterator[Lot]:
    """Yield what to run, without an end, in an order that depends on nothing else."""
    others = [name for name in SCENARIOS if name != "storm"]
    for seed in itertools.count(first):
        if scenario != "all":
            yield Lot([scenario], seed, 1)
            continue
        yield Lot(others, seed, 1)
        yield Lot(["storm"], seed * STORMS, STORMS)


class Worker:
    """One lot under way, in a process that Ctrl-C in the terminal does not reach."""

    def __init__(self, lot: Lot, keep: Path) -> None:
        self._lot = lot
        self._rest = b""
        self._at = ""
        """The history it has begun and not ended."""
        self._heard_at = time.monotonic()
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 - closed in `end`
        command = [sys.executable, "-m", "pytinykv.simulation", "--json", "--long", "--shrink", "--keep", str(keep)]
        command += ["--pairs", "--seed", str(lot.seed), "--count", str(lot.count), "--scenario", *lot.scenarios]
        self._process = subprocess.Popen(
            command, bufsize=0, cwd=ROOT, stdout=subprocess.PIPE, stderr=self._errors, start_new_session=True
        )
        assert self._process.stdout is not None
        self._output = self._process.stdout
        os.set_blocking(self._output.fileno(), False)

    def results(self) -> Iterator[Result]:
        """Yield the histories that have ended since the last look."""
        chunk = self._output.read() or b""
        if chunk:
            self._heard_at = time.monotonic()
        *lines, self._rest = (self._rest + chunk).split(b"\n")
        for line in lines:
            if b'"digest"' in line:
                self._at = ""
                yield msgspec.json.decode(line, type=Result)
            else:
                begun = json.loads(line)
                self._at = f"{begun['scenario']} seed {begun['seed']}"

    @property
    def ended(self) -> bool:
        """Whether it is done; look for results once more."""
        return self._process.poll() is not None

    def trouble(self) -> str:
        """Return what is wrong with the process itself; empty if nothing is."""
        where, status = self._at or str(self._lot), self._process.poll()
        if status is None:
            hangs = time.monotonic() - self._heard_at > SILENCE_MAX_S
            return f"{where}: nothing happens for {SILENCE_MAX_S:.0f} s" if hangs else ""
        if status in {0, 1} and not self._at:
            return ""
        self._errors.seek(0)
        return f"{where}: the worker ended with {status}\n{self._errors.read().decode(errors='replace')}"

    def end(self) -> None:
        """Kill what still runs."""
        self._process.kill()
        self._process.wait()
        self._output.close()
        self._errors.close()


class Soak:
    """One run."""

    def __init__(self, options: argparse.Namespace) -> None:
        self._options = options
        self.first = options.seed if options.seed is not None else secrets.randbelow(10**9)
        self.last = self.first
        self._lots = itertools.islice(lots(self.first, options.scenario), options.lots)
        self._workers: list[Worker] = []
        self.tally = Tally()
        self.troubles: list[str] = []
        """Workers that died or hung."""
        self.commands: list[str] = []
        """What shows each failure again."""
        self.started_at = time.monotonic()

    @property
    def elapsed_s(self) -> float:
        return time.monotonic() - self.started_at

    def run(self) -> None:
        """Soak until the time is over, or Ctrl-C."""
        say_at = SAY_EVERY_S
        limit_s = float("inf") if self._options.minutes is None else self._options.minutes * 60
        self._fill_up()
        try:
            while self._workers and self.elapsed_s < limit_s:
                time.sleep(POLL_S)
                self._workers = [worker for worker in self._workers if self._hear(worker)]
                self._fill_up()
                if self.elapsed_s >= say_at:
                    print(self.line(), flush=True)
                    say_at += SAY_EVERY_S
        finally:
            for worker in self._workers:
                self._take(worker)
                worker.end()

    def _fill_up(self) -> None:
        for lot in itertools.islice(self._lots, self._options.jobs - len(self._workers)):
            self._workers.append(Worker(lot, self._options.keep))
            if lot.scenarios != ["storm"] or self._options.scenario == "storm":
                self.last = lot.seed

    def _hear(self, worker: Worker) -> bool:
        """Take in what a worker tells; return whether it goes on."""
        ended = worker.ended
        self._take(worker)
        trouble = worker.trouble()
        if trouble:
            self.troubles.append(trouble)
            print(f"FAILED {trouble}", flush=True)
        if ended or trouble:
            worker.end()
            return False
        return True

    def _take(self, worker: Worker) -> None:
        for result in worker.results():
            self.tally.add(result)
            if not result.ok:
                self.commands.append(result.command)
                title = f"FAILED {result.scenario} seed {result.seed} ({result.checker}), digest {result.digest}"
                print(f"{title}\n{result.failure.rstrip()}\nagain: {result.command}", flush=True)

    @property
    def failures(self) -> int:
        return self.tally.total().failed + len(self.troubles)

    def line(self) -> str:
        """Return the state of things in a line."""
        total = self.tally.total()
        return (
            f"soak: {total.histories:,} histories ({total.full:,} full), {total.virtual_s:,.0f} virtual s "
            f"in {self.elapsed_s / 60:.1f} min, {self.failures} failed"
        )

    def summary(self) -> dict[str, Any]:
        """Return all figures."""
        total, tally = self.tally.total(), self.tally
        return {
            "commit": commit(),
            "seeds": [self.first, self.last],
            "minutes": round(self.elapsed_s / 60, 2),
            "jobs": self._options.jobs,
            "histories": total.histories,
            "full_histories": total.full,
            "virtual_s": round(total.virtual_s),
            "virtual_s_per_real_s_and_job": round(total.virtual_s / self.elapsed_s / self._options.jobs, 2),
            "virtual_s_per_cpu_s": round(total.speed, 2),
            "operations": total.operations,
            "operations_without_known_outcome": total.unknown,
            "violations": total.failed - tally.leaks,
            "found_by": dict(tally.found_by),
            "leaks": tally.leaks,
            "stops": tally.stops.count,
            "longest_stop_virtual_s": round(tally.stops.longest_s, 3),
            "stops_past_the_bound": tally.stops.late,
            "worker_troubles": self.troubles,
            "again": self.commands,
            "faults": tally.faults,
            "pairs_of_nemeses": dict(zip(("all", "met", "rarest"), tally.pairs_of(NEMESES), strict=True)),
            "kinds": {
                kind: {"histories": tally.drawn[kind], **tally.coverage[kind]} for kind in sorted(tally.coverage)
            },
            "scenarios": {name: msgspec.to_builtins(one) for name, one in tally.by_scenario.items()},
        }


def as_text(summary: dict[str, Any]) -> str:
    """Return a summary for reading."""
    figures = [
        ("commit", summary["commit"]),
        ("seeds", "{} to {}".format(*summary["seeds"])),
        ("time", f"{summary['minutes']:.1f} minutes, {summary['jobs']} workers"),
        ("histories", f"{summary['histories']:,}"),
        (f"  of {FULL_STORES} stores and {FULL_S:g} s or more", f"{summary['full_histories']:,}"),
        ("virtual seconds", f"{summary['virtual_s']:,}"),
        ("  per second and worker", f"{summary['virtual_s_per_real_s_and_job']:.1f}"),
        ("  per second of CPU time", f"{summary['virtual_s_per_cpu_s']:.1f}"),
        ("operations checked", f"{summary['operations']:,}"),
        ("violations", f"{summary['violations']:,}"),
        ("leaks", f"{summary['leaks']:,}"),
        ("stops", f"{summary['stops']:,}"),
        ("  the longest", f"{summary['longest_stop_virtual_s']:.2f} virtual s"),
        ("  past the bound", f"{summary['stops_past_the_bound']:,}"),
        ("workers that died or hung", f"{len(summary['worker_troubles']):,}"),
    ]
    lines = [f"{name:<32} {value}" for name, value in figures]
    lines += ["", "faults", *(f"  {word:<40} {count:>12,}" for word, count in summary["faults"].items())]
    titles = ("histories", *DURING)
    lines += ["", f"{'kind of fault':<24}{''.join(f'{title:>11}' for title in titles)}"]
    lines += [
        f"{kind:<24}{''.join(f'{counts.get(title, 0):>11,}' for title in titles)}"
        for kind, counts in summary["kinds"].items()
    ]
    pairs = summary["pairs_of_nemeses"]
    lines += ["", f"pairs of nemeses that have met: {pairs['met']} of {pairs['all']}"]
    return "\n".join([*lines, *(f"again: {command}" for command in summary["again"])]) + "\n"


def commit() -> str:
    """Return which commit this is, with a plus when files have changed since; `unknown` outside of a repository."""
    asked = ["git", "describe", "--always", "--abbrev=12", "--exclude=*", "--dirty=+"]
    answer = subprocess.run(asked, cwd=ROOT, capture_output=True, text=True, check=False)
    return answer.stdout.strip() or "unknown"


def main(arguments: list[str]) -> int:
    """Soak; return 1 if something failed."""
    options = parse(arguments)
    options.keep.mkdir(parents=True, exist_ok=True)
    soak = Soak(options)
    print(f"soak: {options.jobs} workers, seeds from {soak.first}; Ctrl-C ends it", flush=True)
    with suppress(KeyboardInterrupt):
        soak.run()
    summary = soak.summary()
    text = as_text(summary)
    (options.keep / "summary.json").write_text(f"{json.dumps(summary, indent=1)}\n", encoding="utf-8")
    (options.keep / "summary.txt").write_text(text, encoding="utf-8")
    print(f"\n{text}\nkept in {options.keep}")
    return 1 if soak.failures else 0


def parse(arguments: list[str]) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(prog="./dev soak", description="Run simulated histories with ever new seeds.")
    parser.add_argument("--scenario", default="all", choices=["all", *SCENARIOS], metavar="NAME", help="one, not all")
    parser.add_argument("--minutes", type=float, help="end after so many minutes instead of on Ctrl-C")
    parser.add_argument("--lots", type=int, help="end after so many lots")
    parser.add_argument("--keep", type=Path, default=ROOT / "build" / "soak", help="where the summary and failures go")
    parser.add_argument("--seed", type=int, help="the first seed; drawn if not given")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="workers at the same time")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
