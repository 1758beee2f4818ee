"""Clusters of real processes, one per test that asks for `cluster`, and a factory for tests that want another."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tests.process.cluster import Cluster


@pytest.fixture
def new_cluster(tmp_path: Path) -> Iterator[Callable[..., Cluster]]:
    """Make clusters that are not started; after the test each must stop cleanly. Logs are shown if the test fails."""
    made: list[Cluster] = []

    def make(**scheduler_options: str) -> Cluster:
        cluster = Cluster(tmp_path / f"cluster-{len(made)}", **scheduler_options)
        made.append(cluster)
        return cluster

    try:
        yield make
        for cluster in made:
            cluster.stop()
    finally:
        for cluster in made:
            cluster.close()
            print(cluster.tails())  # noqa: T201 - pytest shows it beside a failure


@pytest.fixture
def cluster(new_cluster: Callable[..., Cluster]) -> Cluster:
    """Run a scheduler and three stores, each with a replica of the only region."""
    made = new_cluster()
    made.start()
    return made
