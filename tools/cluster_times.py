"""Measure how long clusters for tests take to serve, to be put in order, and to end (docs/testing.md).

Usage: .venv/bin/python tools/cluster_times.py [ROUNDS]

Prints the median of some rounds; in parentheses, but for clusters of processes, the processor time. What is loaded at the
first use is not counted.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from pytinykv import testing

ROUNDS = 5


def main(rounds: int) -> None:
    """Measure and print."""
    with testing.cluster(stores=1):
        pass  # loads the code
    for stores, processes in ((1, False), (3, False), (1, True), (3, True)):
        kind = "processes" if processes else "in this process"
        figures: dict[str, list[tuple[float, float]]] = {"serves": [], "is put in order": [], "has ended": []}
        for _ in range(rounds):
            cluster = testing.cluster(stores=stores, processes=processes)
            figures["serves"].append(measured(cluster.start))
            cluster.client().raw.put(b"k", b"v")
            figures["is put in order"].append(measured(cluster.reset))
            figures["has ended"].append(measured(cluster.close))
        for what, times in figures.items():
            wall = statistics.median(one[0] for one in times)
            cpu = "" if processes else f" ({statistics.median(one[1] for one in times):.2f} s)"
            print(f"{stores} store(s), {kind:15}: {what:15} {wall:6.2f} s{cpu}")
    for stores in (1, 3):
        quick = [quick_playground(stores) for _ in range(rounds)]
        took, used = (statistics.median(one[index] for one in quick) for index in (0, 1))
        print(f"tinykv playground --quick --stores {stores}: serves {took:.2f} s ({used:.2f} s)")


def quick_playground(stores: int) -> tuple[float, float]:
    """Return after what time one serves, and how much processor time it has taken until then, in seconds."""
    began = time.perf_counter()
    command = (sys.executable, "-m", "pytinykv", "playground", "--quick", "--stores", str(stores))
    # Its modules are compiled once, as an installed package's are.
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    with subprocess.Popen(command, stdout=subprocess.PIPE, env=environment) as playground:
        assert playground.stdout is not None
        playground.stdout.readline()
        took = time.perf_counter() - began
        times = Path(f"/proc/{playground.pid}/stat").read_text().rpartition(")")[2].split()[11:13]
        playground.kill()
    return took, sum(map(int, times)) / os.sysconf("SC_CLK_TCK")


def measured(function: Callable[[], object]) -> tuple[float, float]:
    """Return for how long a function runs, and how much processor time this process takes meanwhile, in seconds."""
    began, cpu = time.perf_counter(), time.process_time()
    function()
    return time.perf_counter() - began, time.process_time() - cpu


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else ROUNDS)
