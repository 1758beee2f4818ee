"""TinyKV's `kv/test_raftstore` of parts 2B and 2C as simulated histories.

Each ends with all replicas equal, a stop of the whole cluster that leaves nothing, and a search for linearizability.
"""

from __future__ import annotations

import pytest

from pytinykv.simulation import run_scenario


def covers(name: str, scenario: str, seeds: int = 2) -> list[object]:
    return [
        pytest.param(scenario, seed, id=f"{scenario}-{seed}", marks=pytest.mark.tinykv(name))
        for seed in range(1, seeds + 1)
    ]


@pytest.mark.parametrize(
    ("scenario", "seed"),
    [
        *covers("TestManyPartitionsOneClient2B", "many-partitions-one-client", seeds=3),
        *covers("TestManyPartitionsManyClients2B", "many-partitions-many-clients", seeds=2),
        *covers("TestOnePartition2B", "one-partition", seeds=2),
        *covers("TestBasic2B", "basic", seeds=1),
        *covers("TestConcurrent2B", "concurrent", seeds=1),
        *covers("TestUnreliable2B", "unreliable", seeds=2),
        *covers("TestPersistOneClient2B", "persist-one-client", seeds=1),
        *covers("TestPersistConcurrent2B", "persist-concurrent", seeds=2),
        *covers("TestPersistConcurrentUnreliable2B", "persist-concurrent-unreliable"),
        *covers("TestPersistPartition2B", "persist-partition"),
        *covers("TestPersistPartitionUnreliable2B", "persist-partition-unreliable"),
        *covers("TestOneSnapshot2C", "one-snapshot", seeds=2),
        *covers("TestSnapshotRecover2C", "snapshot-recover", seeds=1),
        *covers("TestSnapshotRecoverManyClients2C", "snapshot-recover-many-clients", seeds=1),
        *covers("TestSnapshotUnreliable2C", "snapshot-unreliable", seeds=2),
        *covers("TestSnapshotUnreliableRecover2C", "snapshot-unreliable-recover", seeds=2),
        *covers(
            "TestSnapshotUnreliableRecoverConcurrentPartition2C",
            "snapshot-unreliable-recover-concurrent-partition",
            seeds=2,
        ),
    ],
)
def test_history_is_right_and_stops(scenario: str, seed: int) -> None:
    run_scenario(scenario, seed).check()


def test_a_snapshot_that_takes_long_to_install_keeps_its_peer_from_campaigning() -> None:
    run_scenario("slow-install", 1).check()
