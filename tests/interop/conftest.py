"""Three stores that the tests of a module share, for foreign clients.

`fresh_cluster` is for tests that break things: it is the test's own.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.process.cluster import Cluster, running_cluster


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with running_cluster(tmp_path_factory.mktemp("cluster")) as made:
        yield made


@pytest.fixture
def fresh_cluster(tmp_path: Path) -> Iterator[Cluster]:
    with running_cluster(tmp_path) as made:
        yield made


@pytest.fixture
def prefix(request: pytest.FixtureRequest) -> bytes:
    """Keep the keys of a test apart from those of the others."""
    return f"{request.node.name}/".encode()
