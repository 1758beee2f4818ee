from __future__ import annotations

from collections.abc import Iterator

import pytest
from tests.cli.processes import Running, started


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """A playground of one store, for the tests of a module; it has to stop cleanly."""
    directory = tmp_path_factory.mktemp("cluster")
    with started(directory, "playground", "--stores", 1, "--scheduler-addr", "127.0.0.1:0") as playground:
        playground.ready()
        yield playground
        assert playground.stop() == 0, playground.output + playground.errors
