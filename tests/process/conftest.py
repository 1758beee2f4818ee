"""Clusters of real processes: one that a module's tests share, `cluster`, and some for tests that want their own."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tests.process.cluster import Cluster
from tests.process.network import Loopback, Network


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
def fresh_cluster(new_cluster: Callable[..., Cluster]) -> Cluster:
    """Run a scheduler and three stores, each with a replica of the only region, for a test that ruins them."""
    made = new_cluster()
    made.start()
    return made


@pytest.fixture(scope="module")
def network() -> Network:
    """Connect the shared cluster; a module that cuts networks has another one."""
    return Loopback()


@pytest.fixture(scope="module")
def store_settings() -> str:
    """Return the configuration file of the shared cluster's stores."""
    return ""


@pytest.fixture(scope="module")
def shared_cluster(
    network: Network,
    store_settings: str,
    tmp_path_factory: pytest.TempPathFactory,
    lasting_children: list[Callable[[], set[int]]],
) -> Iterator[Cluster]:
    made = Cluster(tmp_path_factory.mktemp("shared"), network)
    settings = made.directory / "store.toml"
    settings.write_text(store_settings)
    lasting_children.append(made.pids)
    try:
        made.start(config=str(settings))
        yield made
        made.stop()
    finally:
        made.close()
        lasting_children.remove(made.pids)
        print(made.tails())  # noqa: T201 - pytest shows it beside a failure


@pytest.fixture
def cluster(shared_cluster: Cluster) -> Iterator[Cluster]:
    """Have a scheduler and three stores that are whole: what an earlier test left stopped is started again."""
    for process in shared_cluster.processes:
        if not process.running:
            process.start()
            process.wait_ready()
    shared_cluster.wait_replicated(3)
    yield shared_cluster
    print(shared_cluster.tails())  # noqa: T201 - pytest shows it beside a failure
