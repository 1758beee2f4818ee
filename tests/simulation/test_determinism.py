"""One seed, one history: in every process, whatever the hash seed."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from pytinykv.simulation import run_scenario


def digest_in_new_process(scenario: str, seed: int, hash_seed: str) -> str:
    finished = subprocess.run(
        [sys.executable, "-m", "pytinykv.simulation", "--scenario", scenario, "--seed", str(seed), "--digest"],
        env={**os.environ, "PYTHONHASHSEED": hash_seed},
        capture_output=True,
        text=True,
        timeout=100,
        check=True,
    )
    return finished.stdout.strip()


@pytest.mark.parametrize("scenario", ["one-snapshot", "storm", "snapshot-unreliable-recover-concurrent-partition"])
def test_the_digest_depends_on_the_seed_only(scenario: str) -> None:
    digests = {digest_in_new_process(scenario, 11, hash_seed) for hash_seed in ("1", "2")}
    digests.add(run_scenario(scenario, 11).digest)
    assert len(digests) == 1


def test_another_seed_is_another_history() -> None:
    assert run_scenario("one-partition", 1).digest != run_scenario("one-partition", 2).digest
