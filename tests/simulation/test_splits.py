"""Members that change and regions that split: TinyKV's `kv/test_raftstore` of part 3B as simulated histories, and our own.

At each write of a store, regions on its disk are looked at for keys that two of them share; at the end they cover all keys.
"""

from __future__ import annotations

import pytest

from pytinykv.model import Region, RegionEpoch, RegionId
from pytinykv.simulation import run_scenario
from pytinykv.simulation.observers import gaps


def covers(name: str, scenario: str, seeds: int) -> list[object]:
    return [
        pytest.param(scenario, seed, id=f"{scenario}-{seed}", marks=pytest.mark.tinykv(name))
        for seed in range(1, seeds + 1)
    ]


@pytest.mark.parametrize(
    ("scenario", "seed"),
    [
        *covers("TestConfChangeRecover3B", "members-recover", seeds=1),
        *covers("TestConfChangeRecoverManyClients3B", "members-recover-many-clients", seeds=1),
        *covers("TestConfChangeUnreliable3B", "members-unreliable", seeds=1),
        *covers("TestConfChangeUnreliableRecover3B", "members-unreliable-recover", seeds=1),
        *covers("TestConfChangeSnapshotUnreliableRecover3B", "members-snapshot-unreliable-recover", seeds=1),
        *covers(
            "TestConfChangeSnapshotUnreliableRecoverConcurrentPartition3B",
            "members-snapshot-unreliable-recover-concurrent-partition",
            seeds=2,
        ),
        *covers("TestOneSplit3B", "one-split", seeds=2),
        *covers("TestSplitRecover3B", "split-recover", seeds=1),
        *covers("TestSplitRecoverManyClients3B", "split-recover-many-clients", seeds=1),
        *covers("TestSplitUnreliable3B", "split-unreliable", seeds=2),
        *covers("TestSplitUnreliableRecover3B", "split-unreliable-recover", seeds=2),
        *covers("TestSplitConfChangeSnapshotUnreliableRecover3B", "split-members-snapshot-unreliable-recover", seeds=2),
        *covers(
            "TestSplitConfChangeSnapshotUnreliableRecoverConcurrentPartition3B",
            "split-members-snapshot-unreliable-recover-concurrent-partition",
            seeds=3,
        ),
    ],
)
def test_history_is_right_and_stops(scenario: str, seed: int) -> None:
    run_scenario(scenario, seed).check()


@pytest.mark.parametrize(
    ("scenario", "seed"),
    [
        *(
            (name, seed)
            for name in ("absent-scheduler", "deaf-scheduler", "early-votes", "split-load")
            for seed in (1,)
        ),
        *((name, seed) for name in ("split-churn", "split-storm", "missed-split", "split-cuts") for seed in (1, 2)),
    ],
)
def test_stories_of_splits(scenario: str, seed: int) -> None:
    run_scenario(scenario, seed).check()


@pytest.mark.seeds(20)
def test_a_call_is_repeated_once_at_most_for_a_split(seed: int) -> None:
    run_scenario("split-calls", seed).check()


@pytest.mark.seeds(10)
def test_a_call_is_repeated_once_at_most_when_leadership_is_handed_over(seed: int) -> None:
    run_scenario("hand-over-calls", seed).check()


def region(start: bytes, end: bytes) -> Region:
    return Region(RegionId(1), start, end, RegionEpoch(1, 1))


def test_gaps_are_found() -> None:
    assert gaps([region(b"", b"g"), region(b"g", b"")]) == []
    assert gaps([region(b"", b"g"), region(b"h", b"")])
    assert gaps([region(b"", b"h"), region(b"g", b"")])
    assert gaps([region(b"a", b"")])
    assert gaps([region(b"", b"a")])
    assert gaps([])
