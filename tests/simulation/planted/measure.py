"""How many seeds does each planted bug need? Prints the table of docs/simulation.md.

python tests/simulation/planted/measure.py [WORDS OF A NAME] [--bases 5]
"""

from __future__ import annotations

import argparse
import logging
import statistics
import sys
import time
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent.parent))

from planted import commit_plants, hibernation_plants, more_plants, move_plants, split_plants, txn_plants
from planted.patching import Patch
from planted.plants import PLANTS, Plant
from pytinykv.simulation import run_scenario

assert more_plants, "its import registers more"
assert split_plants, "and more"
assert move_plants, "and those of moves"
assert hibernation_plants, "and more"
assert txn_plants, "and those of transactions"
assert commit_plants, "and the rest"


def seeds_needed(plant: Plant, first: int, limit: int) -> tuple[int, str]:
    """Return how many seeds from `first` on it takes, and which checker found it; `limit` + 1 if none did."""
    with pytest.MonkeyPatch.context() as context:
        patch = Patch(context)
        plant.plant(patch)
        for number in range(limit):
            result = run_scenario(plant.scenario, first + number)
            if not result.ok:
                patch.check()
                return number + 1, result.checker
    return limit + 1, "none"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("words", nargs="*")
    parser.add_argument("--bases", type=int, default=5)
    parser.add_argument("--limit", type=int, default=100)
    options = parser.parse_args()
    logging.disable()
    for plant in PLANTS:
        if options.words and not any(word in plant.name for word in options.words):
            continue
        started = time.monotonic()
        needed = [seeds_needed(plant, 1 + 1000 * base, options.limit) for base in range(options.bases)]
        counts = [count for count, _ in needed]
        found_by = sorted({checker for _, checker in needed})
        wrong = sorted(set(found_by) - plant.checkers)
        figures = f"{statistics.median(counts):g} | {max(counts)} | {', '.join(found_by)} |"
        remarks = f"{counts}, {time.monotonic() - started:.0f} s{f', NOT EXPECTED: {wrong}' if wrong else ''}"
        sys.stdout.write(f"| {plant.name} | `{plant.scenario}` | {figures}  ({remarks})\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
