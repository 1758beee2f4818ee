"""The examples of transactions, run against a cluster: they print what they promise."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from pytinykv import testing

EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.fixture(scope="module")
def scheduler() -> Iterator[str]:
    with testing.cluster(stores=1) as cluster:
        yield cluster.address


def run(name: str, scheduler: str) -> list[str]:
    done = subprocess.run(
        [sys.executable, "-W", "error::ResourceWarning", EXAMPLES / name, scheduler],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    return done.stdout.splitlines()


def test_the_bank_neither_makes_nor_loses_money(scheduler: str) -> None:
    (line,) = run("bank.py", scheduler)
    assert line.startswith("200 transfers tried, ")
    assert line.endswith("the sum of all accounts was always [20000]")


def test_the_job_queue_hands_each_job_out_once(scheduler: str) -> None:
    assert run("job_queue.py", scheduler) == [
        "1 job came back from a worker that died",
        "40 jobs done by 4 workers, 40 of them different, 0 left",
    ]


def test_rows_and_their_index_entries_change_together(scheduler: str) -> None:
    assert run("secondary_index.py", scheduler) == [
        "in London: ['Ada', 'Alan']",
        "after Ada has moved: ['Alan'] ['Ada', 'Grace']",
        "the snapshot from before still says: ['Ada', 'Alan']",
        "refused: by-email:grace@example.org",
    ]
